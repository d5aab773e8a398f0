"""Awkward sets end in finite densities, no worse than Gaussians."""

import numpy as np
import pytest
from awkward import awkward_rows, continuous_rows, spoilt_rows
from sklearn.mixture import GaussianMixture
from small_models import make

from skflowmix import FlowMixture

NETWORKS = {
    "n_transforms": 2,
    "hidden_units": (16,),
    "posterior_units": (16,),
    "max_iter": 30,
    "n_iter_no_change": 4,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Some values look like codes:UserWarning"),
]

N_SETS = 200


def _seeds(fast_step=44):
    """All seeds, of which only some are in the fast profile and in that of all tests.

    The steps share no factor with the five numbers of components.
    """
    marks = {seed: [pytest.mark.slow, pytest.mark.exhaustive] for seed in range(N_SETS)}
    marks |= {seed: [pytest.mark.slow] for seed in range(0, N_SETS, 3)}
    marks |= {seed: [] for seed in range(0, N_SETS, fast_step)}
    return [pytest.param(seed, marks=own) for seed, own in marks.items()]


def _mean_gain(log_prob, reference, n_columns):
    # No row may decide: each counts for at most this many nats per column.
    bound = 5.0 * n_columns
    return np.clip(log_prob - reference, -bound, bound).mean()


def _check(X, fresh, seed):
    n_components = min(1 + seed % 5, len(X))
    model = make(FlowMixture, n_components, random_state=seed, **NETWORKS).fit(X)
    log_prob = model.score_samples(fresh)
    assert np.isfinite(log_prob).all()
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.sample(20, random_state=0)[0]).all()
    assert np.allclose(model.predict_proba(fresh).sum(axis=1), 1)
    gaussians = model.set_params(n_transforms=0).fit(X)
    gain = _mean_gain(log_prob, gaussians.score_samples(fresh), X.shape[1])
    assert gain > -0.05


@pytest.mark.parametrize("seed", _seeds())
def test_flows_are_no_worse_than_the_gaussians_they_start_from(seed):
    _check(*awkward_rows(seed), seed)


@pytest.mark.parametrize("seed", _seeds(fast_step=150))
def test_the_same_of_rows_with_codes_ties_far_groups_and_absurd_values(seed):
    _check(*spoilt_rows(seed), seed)


@pytest.mark.parametrize("n_sets", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_law_with_a_density_is_fitted_no_worse_than_by_gaussian_mixtures(n_sets):
    missed = {}
    for seed in range(n_sets):
        X, fresh = continuous_rows(seed)
        n_components = min(1 + seed % 5, len(X))
        gaussians = GaussianMixture(n_components, reg_covar=1e-6, random_state=seed)
        try:
            gaussians.fit(X)
        except ValueError:  # a component collapsed: nothing to compare with
            continue
        model = make(FlowMixture, n_components, random_state=seed, **NETWORKS).fit(X)
        log_prob = model.score_samples(fresh)
        gain = _mean_gain(log_prob, gaussians.score_samples(fresh), X.shape[1])
        if not gain >= -0.1:
            missed[seed] = gain
    assert len(missed) <= 0.02 * n_sets, missed
