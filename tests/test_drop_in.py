"""What scikit-learn's tests ask of `GaussianMixture`, asked of `FlowMixture`.

Left out of ``sklearn/mixture/tests/test_gaussian_mixture.py``, and why:

- covariance types, `precisions_init` and the sufficient statistics of each type
  (``test_suffstat_sk_*``, ``test_check_precisions``, ``test_bic_1d_1component``,
  ``test_gaussian_mixture_precisions_init*``): components are not restricted to a type;
- ``test_compute_log_det_cholesky``, ``test_gaussian_mixture_log_probabilities``,
  ``..._estimate_log_prob_resp``, ``..._all_init_does_not_estimate_*``: private helpers;
- ``test_monotonic_likelihood``: training is stochastic, single epochs may lose. What
  holds is that flows end no worse than the Gaussians that they began as;
- the first half of ``test_warm_start`` (one fit of two iterations is two of one): the
  optimizer begins anew, and every fit ends with a phase on all rows;
- ``means_`` equal to `means_init` after no iteration (``test_max_iter_zero``): these
  only say which component a row starts in;
- convergence that is detected however few epochs a warm start has
  (``test_convergence_detected_with_warm_start``): patience counts anew in every fit;
- a fit with restarts that contains the fit without (``test_init``,
  ``test_gaussian_mixture_fit_best_params``): its first restart has another seed;
- dtypes of fitted attributes: they are float64 whatever the rows are, answers are not;
- array API input (``test_gaussian_mixture_array_api_*``): left to the estimator checks
  of test_common.py.

Differences that a user may meet are in docs/from_gaussian_mixture.md.
"""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import linalg
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from small_models import moons, small, trained

from skflowmix import FlowMixture

MEANS = np.array([[0.0, 0.0], [20.0, 5.0], [-5.0, 25.0]])
WEIGHTS = np.array([0.5, 0.3, 0.2])
COVARIANCES = np.array([[[1, 0.5], [0.5, 1]], [[2, 0], [0, 0.5]], [[1, -1], [-1, 3]]])
# The parameters of `GaussianMixture` that are called the same.
INIT_PARAMS = ["kmeans", "k-means++", "random", "random_from_data"]
ignore_convergence = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning"
)


def gaussian_rows(n_samples=300, seed=0):
    """Rows of three Gaussians far apart, and which one each is from."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(3), np.round(n_samples * WEIGHTS).astype(int))
    noise = np.einsum(
        "nij,nj->ni", np.linalg.cholesky(COVARIANCES)[y], rng.normal(size=(len(y), 2))
    )
    return MEANS[y] + noise, y


def sorted_components(*arrays, by):
    """Put components in the order of the first column of their means."""
    order = np.argsort(by[:, 0])
    return [array[order] for array in arrays]


@pytest.fixture(scope="module")
def rows():
    return gaussian_rows()


@pytest.fixture(scope="module")
def model(rows):
    """Three flows on three Gaussians; not to be changed."""
    return trained(3).fit(rows[0])


@pytest.fixture(scope="module")
def reference(rows):
    """What `GaussianMixture` makes of the same rows."""
    return GaussianMixture(3, random_state=0).fit(rows[0])


@pytest.fixture(scope="module")
def plain():
    """Two Gaussians without flows on rows of five columns."""
    X = np.random.default_rng(0).normal(size=(50, 5))
    return small(2, n_transforms=0).fit(X), X


@pytest.fixture(scope="module")
def bent():
    """Two flows on moons, which are no Gaussians."""
    return trained(2).fit(moons(300))


@pytest.fixture(scope="module")
def quick():
    """A model that others are compared with."""
    return small(2).fit(moons())


# Known results.


def test_gaussians_are_recovered(model):
    means, weights, covariances = sorted_components(
        model.means_, model.weights_, model.covariances_, by=model.means_
    )
    truth = sorted_components(MEANS, WEIGHTS, COVARIANCES, by=MEANS)
    assert_allclose(means, truth[0], atol=0.6)
    assert_allclose(weights, truth[1], atol=0.01)
    assert_allclose(covariances, truth[2], atol=1)


def test_clusters_are_those_of_a_gaussian_mixture(model, reference, rows):
    X, y = rows
    new_X, new_y = gaussian_rows(seed=1)
    assert adjusted_rand_score(model.predict(X), y) == 1
    assert adjusted_rand_score(model.predict(new_X), new_y) == 1
    assert adjusted_rand_score(model.predict(new_X), reference.predict(new_X)) == 1
    ours = sorted_components(model.means_, model.weights_, by=model.means_)
    theirs = sorted_components(
        reference.means_, reference.weights_, by=reference.means_
    )
    assert_allclose(ours[0], theirs[0], atol=1e-6)
    assert_allclose(ours[1], theirs[1], atol=5e-3)


def test_density_is_that_of_a_gaussian_mixture_where_rows_are_gaussian(
    model, reference
):
    new_X, _ = gaussian_rows(600, seed=1)
    assert model.score(new_X) == pytest.approx(reference.score(new_X), abs=0.1)


def test_density_is_better_where_rows_are_not_gaussian(bent):
    new_X = moons(300, seed=1)
    reference = GaussianMixture(2, random_state=0).fit(moons(300))
    assert bent.score(new_X) > reference.score(new_X) + 0.1


def test_flows_are_no_worse_than_the_gaussians_they_begin_as(bent, model, rows):
    for flows, X in ((bent, moons(300)), (model, rows[0])):
        start = clone(flows).set_params(n_transforms=0).fit(X)
        assert flows.score(X) >= start.score(X) - 1e-3


def test_one_gaussian_is_mean_and_covariance():
    X = gaussian_rows()[0]
    model = small(1, n_transforms=0).fit(X)
    assert_allclose(model.weights_, [1.0])
    assert_allclose(model.means_[0], X.mean(0), atol=1e-9)
    assert_allclose(np.diag(model.covariances_[0]), X.var(0), rtol=1e-5)


# Labels.


@ignore_convergence
@pytest.mark.parametrize(
    "parameters",
    [
        {"max_iter": 2, "tol": 1e-7},
        {"max_iter": 200, "tol": 0.1},
        {"n_init": 2, "init_params": "k-means++", "n_transforms": 0},
    ],
    ids=str,
)
def test_fit_predict_is_predict(parameters, rows):
    X, y = rows
    model = small(3, **parameters)
    labels = model.fit_predict(X)
    assert_array_equal(labels, model.predict(X))
    assert_array_equal(labels, model.labels_)
    assert adjusted_rand_score(y, labels) > 0.95


@pytest.mark.parametrize("name", ["model", "bent"])
def test_predict_is_the_largest_probability(name, request):
    model = request.getfixturevalue(name)
    X = np.random.default_rng(0).uniform(-30, 30, (200, 2))
    proba = model.predict_proba(X)
    assert proba.shape == (200, model.n_components)
    assert_array_equal(model.predict(X), proba.argmax(1))
    assert (proba >= 0).all()
    assert_allclose(proba.sum(1), 1)


# Restarts, warm starts, convergence.


@ignore_convergence
def test_restarts_are_no_worse_on_new_rows():
    X, new_X = gaussian_rows(100)[0], gaussian_rows(seed=1)[0]
    parameters = {"init_params": "random_from_data", "n_transforms": 0, "max_iter": 1}
    gains = []
    for seed in (2, 5):
        once, often = (
            small(3, n_init=n, random_state=seed, **parameters).fit(X).score(new_X)
            for n in (1, 3)
        )
        gains.append(often - once)
    assert min(gains) > -0.05
    assert max(gains) > 1  # one of the first starts was a bad one


def test_warning_where_epochs_run_out(bent):
    X = moons(300)
    with pytest.warns(ConvergenceWarning, match=r"max_iter=1 .*Increase max_iter"):
        short = trained(2, max_iter=1, n_iter_init=1).fit(X)
    assert not short.converged_ and short.n_iter_ == 1
    assert bent.converged_ and 1 < bent.n_iter_ < bent.max_iter
    assert bent.score(X) > short.score(X)


@ignore_convergence
def test_no_epochs_leave_a_whole_model(rows):
    model = small(3, max_iter=0, n_iter_init=0).fit(rows[0])
    assert not model.converged_
    assert model.n_iter_ == 0 and model.lower_bounds_ == []
    assert np.isfinite(model.lower_bound_) and np.isfinite(model.score(rows[0]))
    assert model.covariances_.shape == model.precisions_cholesky_.shape == (3, 2, 2)


def test_warm_starts_lose_nothing_and_converge():
    X = moons(300)
    model = trained(2, max_iter=2, warm_start=True)
    with pytest.warns(ConvergenceWarning):
        before = model.fit(X).score(X)
    assert model.n_iter_ == 2 and not model.converged_
    model.set_params(max_iter=100).fit(X)
    assert model.converged_ and model.n_iter_ > 2
    assert model.score(X) > before - 0.05


def test_bounds_are_one_per_epoch_and_below_the_score(bent):
    X = moons(300)
    assert len(bent.lower_bounds_) == bent.n_iter_
    assert bent.lower_bound_ <= bent.score(X) + 1e-6
    assert bent.lower_bound_ + bent.elbo_gap_ == pytest.approx(bent.score(X), abs=1e-3)


# Scores and criteria.


def test_score_is_the_mean_of_score_samples(model, rows):
    scores = model.score_samples(rows[0])
    assert scores.shape == (len(rows[0]),)
    assert model.score(rows[0]) == pytest.approx(scores.mean())


def test_numbers_of_parameters(plain):
    model, X = plain
    # Two means of 5, two covariances of 15, one free weight.
    n_parameters = 41
    log_likelihood = model.score_samples(X).sum()
    assert model.aic(X) == pytest.approx(-2 * log_likelihood + 2 * n_parameters)
    assert model.bic(X) == pytest.approx(
        -2 * log_likelihood + np.log(len(X)) * n_parameters
    )


@pytest.mark.parametrize("n_rows", [10, 150])
@pytest.mark.filterwarnings("ignore:.ic counts every weight")
def test_criteria_differ_by_their_penalties(bent, n_rows):
    X = moons()[:n_rows]
    log_likelihood = bent.score(X) * n_rows
    n_parameters = (bent.aic(X) + 2 * log_likelihood) / 2
    assert n_parameters == pytest.approx(round(n_parameters))
    assert n_parameters > 11  # those of two Gaussians
    assert bent.bic(X) + 2 * log_likelihood == pytest.approx(
        np.log(n_rows) * n_parameters
    )


def test_criteria_of_one_gaussian_are_near_its_entropy():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    entropy = 0.5 * (
        np.linalg.slogdet(np.cov(X.T, bias=True))[1] + 3 * (1 + np.log(2 * np.pi))
    )
    model = small(1, n_transforms=0).fit(X)
    assert model.aic(X) == pytest.approx(2 * 100 * entropy + 2 * 9, abs=1)
    assert model.bic(X) == pytest.approx(2 * 100 * entropy + np.log(100) * 9, abs=1)


# Precisions.


@pytest.mark.parametrize("name", ["model", "bent"])
def test_precisions_are_inverses_as_in_gaussian_mixture(name, request):
    model = request.getfixturevalue(name)
    for covariance, precision, factor in zip(
        model.covariances_, model.precisions_, model.precisions_cholesky_, strict=True
    ):
        assert_allclose(linalg.inv(covariance), precision, rtol=1e-9, atol=1e-12)
        lower = linalg.cholesky(covariance, lower=True)
        expected = linalg.solve_triangular(lower, np.eye(2), lower=True).T
        assert_allclose(factor, expected, rtol=1e-9, atol=1e-12)
        assert_array_equal(factor, np.triu(factor))
        assert_allclose(factor @ factor.T, precision, rtol=1e-9, atol=1e-12)


def test_a_gaussian_mixture_of_the_same_attributes_has_the_same_density(plain):
    """scikit-learn computes densities from the factors of the precisions alone."""
    model, X = plain
    same = GaussianMixture(2)
    same.weights_, same.means_ = model.weights_, model.means_
    same.covariances_ = model.covariances_
    same.precisions_cholesky_ = model.precisions_cholesky_
    assert_allclose(same.score_samples(X), model.score_samples(X), rtol=1e-9)
    assert_allclose(same.predict_proba(X), model.predict_proba(X), atol=1e-9)
    assert_array_equal(same.predict(X), model.predict(X))


# Samples.


@pytest.mark.parametrize("n_samples", [1, 2, 99, np.int64(7)])
def test_samples_have_the_shape_that_was_asked_for(model, n_samples):
    X, labels = model.sample(n_samples)
    assert X.shape == (n_samples, 2) and labels.shape == (n_samples,)
    assert set(labels) <= {0, 1, 2}
    assert (np.diff(labels) >= 0).all()  # one component after the other


def test_samples_are_distributed_as_the_rows(model, rows):
    X, labels = model.sample(10_000, random_state=0)
    assert_allclose(np.bincount(labels) / len(X), model.weights_, atol=0.02)
    assert_allclose(X.mean(0), rows[0].mean(0), atol=0.5)
    for k in range(3):
        own = rows[0][model.labels_ == k]
        assert_allclose(X[labels == k].mean(0), own.mean(0), atol=0.3)
        assert_allclose(np.cov(X[labels == k].T), np.cov(own.T), atol=0.8)
    assert adjusted_rand_score(labels, model.predict(X)) > 0.99


def test_samples_of_gaussians_have_their_moments(plain):
    model, _ = plain
    X, labels = model.sample(20_000, random_state=0)
    for k in range(2):
        own = X[labels == k]
        assert_allclose(own.mean(0), model.means_[k], atol=0.1)
        assert_allclose(np.cov(own.T), model.covariances_[k], atol=0.1)


@pytest.mark.parametrize("n_samples", [0, -1])
def test_no_samples_are_an_error(model, n_samples):
    with pytest.raises(ValueError, match="n_samples must be a positive integer"):
        model.sample(n_samples)


# What is printed.


def test_nothing_is_printed_unless_asked_for(capsys):
    small(1, n_init=2, n_transforms=0).fit(moons()).sample()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [1, 2])
def test_verbose_prints_to_the_standard_output(verbose, capsys):
    parameters = {"verbose": verbose, "verbose_interval": 1}
    small(1, n_transforms=0, **parameters).fit(moons())
    out, err = capsys.readouterr()
    assert out and not err


# Parameters and rows that are refused.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_components", 0),
        ("tol", -1.0),
        ("reg_covar", -1.0),
        ("max_iter", -1),
        ("n_init", 0),
        ("init_params", "bad_method"),
        ("warm_start", "yes"),
        ("verbose_interval", 0),
        ("random_state", "seed"),
    ],
)
def test_bad_parameters_are_refused_by_both(name, value):
    for estimator in (FlowMixture(), GaussianMixture()):
        message = f"The '{name}' parameter of {type(estimator).__name__} must be"
        with pytest.raises(ValueError, match=message):
            estimator.set_params(**{name: value}).fit(moons())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights_init", [0.2, 0.3, 0.5]),
        ("weights_init", [[0.5, 0.5]]),
        ("weights_init", [-0.5, 1.5]),
        ("weights_init", [0.5, 0.6]),
        ("means_init", [[0.0, 1.0]]),
        ("means_init", [[0.0, 1.0, 2.0]] * 2),
        ("means_init", [0.0, 1.0]),
        ("means_init", [[np.nan, 0.0], [1.0, 1.0]]),
    ],
)
def test_bad_starts_are_refused_by_both(name, value):
    for estimator in (small(2), GaussianMixture(2)):
        with pytest.raises(ValueError):
            estimator.set_params(**{name: value}).fit(moons())
    with pytest.raises(ValueError, match=f"{name} must"):
        small(2, **{name: value}).fit(moons())


@pytest.mark.parametrize(
    "X",
    [
        np.zeros(4),
        np.zeros((2, 2, 2)),
        np.zeros((0, 2)),
        np.zeros((4, 0)),
        np.zeros((1, 2)),
        np.array([[0.0, np.nan], [1.0, 2.0], [3.0, 4.0]]),
        np.array([[0.0, np.inf], [1.0, 2.0], [3.0, 4.0]]),
        [["a", "b"], ["c", "d"]],
        np.array([[1j, 2], [3, 4]]),
    ],
    ids=lambda X: f"{np.shape(X)}-{np.asarray(X).dtype.kind}",
)
def test_bad_rows_are_refused_by_both(X):
    for estimator in (small(1), GaussianMixture(1)):
        with pytest.raises(ValueError):
            estimator.fit(X)


def test_fewer_rows_than_components_are_refused_by_both():
    for estimator in (small(5), GaussianMixture(5)):
        with pytest.raises(ValueError, match="n_samples >= n_components"):
            estimator.fit(moons()[:4])


def test_flat_clusters_need_reg_covar():
    X = np.repeat([[1.0] * 5, [0.0] * 5], 5, axis=0)
    with pytest.raises(ValueError, match=r"Increase reg_covar"):
        small(2, reg_covar=0.0).fit(X)
    model = small(2).fit(X)
    assert_array_equal(np.unique(model.labels_[:5]), 1 - np.unique(model.labels_[5:]))


def test_one_component_is_stable_on_few_rows():
    X = np.random.default_rng(0).normal(size=(3, 2))
    model = small(1).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.sample()[0]).all()


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "score_samples", "score", "bic", "aic"]
)
@pytest.mark.filterwarnings("ignore:.ic counts every weight")
def test_answers_need_a_fit(method):
    message = "This FlowMixture instance is not fitted yet. Call 'fit'"
    with pytest.raises(NotFittedError, match=message):
        getattr(FlowMixture(2), method)(moons())


def test_samples_need_a_fit():
    with pytest.raises(NotFittedError, match="This FlowMixture instance is not fitted"):
        FlowMixture(2).sample(0)


def test_fitted_attributes_have_the_names_and_shapes_of_gaussian_mixture(
    model, reference
):
    names = [name for name in vars(reference) if name.endswith("_")]
    assert "precisions_cholesky_" in names
    for name in names:
        assert not hasattr(FlowMixture(3), name)
        if name != "lower_bounds_":  # one per epoch
            assert np.shape(getattr(model, name)) == np.shape(getattr(reference, name))


# Starts.


@ignore_convergence
@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_starting_means_lie_among_the_rows_and_apart(init_params, rows):
    X, _ = rows
    model = small(3, init_params=init_params, max_iter=0, n_transforms=0).fit(X)
    assert model.means_.shape == (3, 2)
    assert (X.min(0) <= model.means_).all() and (model.means_ <= X.max(0)).all()
    for a, b in itertools.combinations(model.means_, 2):
        assert not np.allclose(a, b)


@ignore_convergence
def test_means_and_weights_to_start_with(rows):
    X, y = rows
    order = [2, 0, 1]
    model = small(
        3,
        means_init=MEANS[order],
        weights_init=WEIGHTS[order],
        max_iter=0,
        n_transforms=0,
    ).fit(X)
    assert_array_equal(np.take(order, model.labels_), y)
    assert_allclose(model.weights_, WEIGHTS[order], rtol=1e-6)
    assert_allclose(model.means_, MEANS[order], atol=0.6)


# Seeds, dtypes, names.


@pytest.mark.parametrize("kind", [int, np.random.RandomState])
def test_a_seed_repeats_the_fit(kind, quick):
    again = small(2, random_state=kind(0)).fit(moons())
    assert_array_equal(again.score_samples(moons()), quick.score_samples(moons()))
    for name in ("weights_", "means_", "covariances_", "lower_bound_", "labels_"):
        assert_array_equal(getattr(again, name), getattr(quick, name))
    assert_array_equal(again.sample(5)[0], copy.deepcopy(quick).sample(5)[0])


def test_answers_have_the_dtype_of_the_rows(model, rows):
    X = rows[0].astype(np.float32)
    single = small(3).fit(X)
    for fitted, own in ((single, X), (model, rows[0]), (model, X)):
        assert fitted.score_samples(own).dtype == own.dtype
        assert fitted.predict_proba(own).dtype == own.dtype
        assert_allclose(fitted.predict_proba(own).sum(1), 1, rtol=1e-6)
        assert fitted.predict(own).dtype.kind == "i"
    assert single.score(X) == pytest.approx(single.score_samples(X).mean(), rel=1e-5)
    for name in ("weights_", "means_", "covariances_", "precisions_"):
        assert getattr(single, name).dtype == np.float64


def test_column_names_are_kept_and_checked():
    X = pd.DataFrame(moons(), columns=["east", "north"])
    ours, theirs = small(2).fit(X), GaussianMixture(2, random_state=0).fit(X)
    for model in (ours, theirs):
        assert_array_equal(model.feature_names_in_, ["east", "north"])
        assert model.n_features_in_ == 2
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(X.rename(columns={"east": "west"}))
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            model.predict(moons())
    assert isinstance(ours.predict_proba(X), np.ndarray)
    assert not hasattr(clone(ours), "feature_names_in_")


def test_y_is_ignored(quick):
    y = np.arange(len(moons()))
    assert_array_equal(small(2).fit_predict(moons(), y), quick.labels_)
    assert quick.score(moons(), y) == quick.score(moons())
