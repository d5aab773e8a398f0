"""Awkward sets end in finite densities, no worse than the Gaussians they start from."""

import numpy as np
import pytest
from awkward import awkward_rows

from small_models import make

from skflowmix import FlowMixture

NETWORKS = {
    "n_transforms": 2,
    "hidden_units": (16,),
    "posterior_units": (16,),
    "max_iter": 30,
    "n_iter_no_change": 4,
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("seed", range(200))
def test_flows_are_no_worse_than_the_gaussians_they_start_from(seed):
    X, fresh = awkward_rows(seed)
    n_components = min(1 + seed % 5, len(X))
    model = make(FlowMixture, n_components, random_state=seed, **NETWORKS).fit(X)
    log_prob = model.score_samples(fresh)
    assert np.isfinite(log_prob).all()
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.sample(20, random_state=0)[0]).all()
    assert np.allclose(model.predict_proba(fresh).sum(axis=1), 1)
    gaussians = model.set_params(n_transforms=0).fit(X)
    # No row may decide: each counts for at most this many nats per column.
    bound = 5.0 * X.shape[1]
    gain = np.clip(log_prob - gaussians.score_samples(fresh), -bound, bound)
    assert gain.mean() > -0.05
