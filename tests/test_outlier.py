"""`FlowMixtureOutlierDetector`: a threshold, and scores outliers cannot bend."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import expon
from sklearn.base import clone, is_outlier_detector
from sklearn.datasets import make_moons
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    parametrize_with_checks,
)
from small_models import make, moons

from skflowmix import FlowMixture, FlowMixtureOutlierDetector
from skflowmix.outlier import (
    ASSUMED_CONTAMINATION,
    FALSE_ALARMS,
    _share_of_outliers,
    _threshold,
)


def small(n_components=1, **kwargs):
    """A detector with small networks that counts as converged after 6 epochs."""
    parameters = {
        "n_transforms": 1,
        "hidden_units": (8,),
        "posterior_units": (8,),
        "init_params": "kmeans",
        "tol": 10.0,
        "n_iter_no_change": 1,
        "max_iter": 6,
        "random_state": 0,
    }
    return make(FlowMixtureOutlierDetector, n_components, **{**parameters, **kwargs})


def run(check, estimator, monkeypatch):
    # One check permutes rows with NumPy's global generator.
    permutation = np.random.RandomState(0).permutation
    monkeypatch.setattr(np.random, "permutation", permutation)
    check(estimator)


@parametrize_with_checks([small(random_state=None)])
def test_sklearn(estimator, check, monkeypatch):
    run(check, estimator, monkeypatch)


@pytest.mark.slow
@parametrize_with_checks([small(3, random_state=None, contamination=0.1)])
def test_sklearn_with_a_share(estimator, check, monkeypatch):
    run(check, estimator, monkeypatch)


def test_a_bad_parameter_is_named():
    check_param_validation("FlowMixtureOutlierDetector", small())


def test_column_names_are_checked():
    check_dataframe_column_names_consistency("FlowMixtureOutlierDetector", small())


# The threshold.


@pytest.mark.parametrize("contamination", [0.02, 0.1, 0.5])
def test_contamination_is_the_share_of_outliers(contamination):
    model = small(2, contamination=contamination)
    marks = model.fit_predict(moons())
    assert np.mean(marks == -1) == pytest.approx(contamination, abs=1 / 150)
    assert_array_equal(marks, model.predict(moons()))


def test_the_decision_is_a_density_above_the_threshold():
    model = small(2).fit(moons())
    X = np.r_[moons(), 10 * moons()]
    scores = model.score_samples(X)
    assert scores.dtype == np.float64
    assert_array_equal(model.decision_function(X), scores - model.offset_)
    assert_array_equal(model.predict(X), np.where(scores < model.offset_, -1, 1))


def test_equal_scores_are_flagged_together_or_not_at_all():
    ones = np.ones(100)
    scores = np.arange(100.0)
    assert _threshold(scores, ones, 0.1) == 9.5
    scores[5:13] = 9.0  # five without, thirteen with them
    assert _threshold(scores, ones, 0.1) == 11.0
    assert _threshold(scores, ones, 0.07) == 6.5
    scores[:13] = 9.0
    assert _threshold(scores, ones, 0.1) == 11.0
    assert _threshold(scores, ones, 0.03) < 9.0
    rounded = scores + 1e-12 * np.arange(100)
    assert _threshold(rounded, ones, 0.1) == pytest.approx(11.0)
    assert _threshold(np.full(100, 2.0), ones, 0.1) == pytest.approx(2.0)
    assert _threshold(np.full(100, 2.0), ones, 0.1) < 2.0


def test_the_threshold_counts_weights():
    scores, weights = np.arange(4.0), np.array([1.0, 3.0, 4.0, 2.0])
    for contamination, threshold in ((0.1, 0.5), (0.4, 1.5), (0.3, 1.5), (0.2, 0.5)):
        assert _threshold(scores, weights, contamination) == threshold


def test_an_exponential_tail_has_no_outliers():
    tail = -expon.ppf((np.arange(10_000) + 0.5) / 10_000)
    ones = np.ones(10_000)
    assert _share_of_outliers(tail, ones) == pytest.approx(FALSE_ALARMS, abs=2e-4)
    assert _share_of_outliers(3 + 1e6 * tail, ones) == pytest.approx(
        FALSE_ALARMS, abs=2e-4
    )


@pytest.mark.parametrize("share", [0.02, 0.05, 0.09])
def test_rows_far_below_the_tail_are_outliers(share):
    tail = -expon.ppf((np.arange(10_000) + 0.5) / 10_000)
    n_outliers = round(share / (1 - share) * 10_000)
    scores = np.r_[tail, np.full(n_outliers, -1e3)]
    found = _share_of_outliers(scores, np.ones(len(scores)))
    assert found == pytest.approx(share + FALSE_ALARMS * (1 - share), abs=1e-3)


def test_no_more_than_a_tenth_are_outliers():
    scores = np.r_[-expon.ppf((np.arange(900) + 0.5) / 900), np.full(150, -1e3)]
    assert _share_of_outliers(scores, np.ones(1050)) == ASSUMED_CONTAMINATION


def test_auto_gives_few_false_alarms_on_gaussian_rows():
    random_state = np.random.RandomState(0)
    X, new = random_state.normal(size=(2, 2000, 3))
    model = small(n_transforms=0).fit(X)
    assert 0.005 < np.mean(model.predict(new) == -1) < 0.08
    assert (model.predict(new + 8) == -1).all()


def test_auto_finds_a_tight_group():
    random_state = np.random.RandomState(0)
    group = 3 + 0.01 * random_state.normal(size=(40, 8))
    X = np.r_[random_state.normal(size=(960, 8)), group]
    model = small(2).fit(X)
    assert (model.predict(group) == -1).all()
    assert np.mean(model.predict(X) == -1) < 0.08


def test_weights_equal_repetition():
    weights = np.random.RandomState(0).randint(0, 3, 150)
    for contamination in ("auto", 0.1):
        model = small(2, contamination=contamination)
        weighted = clone(model).fit(moons(), sample_weight=weights)
        repeated = clone(model).fit(np.repeat(moons(), weights, axis=0))
        # Up to the rounding of sums whose chunks differ.
        assert_allclose(weighted.offset_, repeated.offset_, rtol=1e-10)
        assert_allclose(
            weighted.score_samples(moons()),
            repeated.score_samples(moons()),
            rtol=1e-10,
        )


# Outliers in the training rows.


def with_uniform_rows(n_rows, n_uniform, seed):
    """Moons and uniform rows around them, marked 1."""
    X, _ = make_moons(n_rows, noise=0.05, random_state=seed)
    low, high = [-2, -1.5], [3, 2]
    uniform = np.random.RandomState(seed).uniform(low, high, (n_uniform, 2))
    return np.r_[X, uniform], np.repeat([0, 1], [n_rows, n_uniform])


@pytest.mark.slow
def test_training_on_contaminated_moons_is_as_good_as_on_clean_ones():
    networks = {"n_transforms": 2, "hidden_units": (16,), "random_state": 0}
    X, is_outlier = with_uniform_rows(480, 120, seed=0)
    new_X, new_is_outlier = with_uniform_rows(1000, 250, seed=1)
    clean = FlowMixture(2, **networks).fit(X[is_outlier == 0])
    best = roc_auc_score(new_is_outlier, -clean.score_samples(new_X))
    model = FlowMixtureOutlierDetector(2, contamination=0.2, **networks).fit(X)
    scores = model.score_samples(new_X)
    assert roc_auc_score(new_is_outlier, -scores) >= best - 0.01


def test_a_tight_group_of_outliers_does_not_count():
    random_state = np.random.RandomState(0)
    bulk = random_state.normal(size=(380, 2))
    group = 0.05 * random_state.normal(size=(20, 2)) + [8, 8]
    X = np.r_[bulk, group]
    plain = FlowMixture(2, n_transforms=0, random_state=0).fit(X).score_samples(X)
    assert plain[380:].mean() > plain[:380].mean()
    for contamination in ("auto", 0.06):
        model = small(2, contamination=contamination, n_transforms=0).fit(X)
        assert model.score_samples(group).max() < model.score_samples(bulk).min()
        assert (model.predict(group) == -1).all()


def test_the_score_is_two_log_densities_without_the_excess():
    model = small(2).fit(moons())
    X = np.r_[moons(), 2 * moons()]
    log_prob = model.mixture_.score_samples(X)
    from_afar = model.neighbors_.log_prob(X)
    excess = np.maximum(log_prob - from_afar - model.excess_, 0)
    assert_allclose(model.score_samples(X), log_prob + from_afar - excess)
    assert np.mean(excess[:150] > 0) == pytest.approx(0.1, abs=0.01)


def test_outliers_that_lie_close_together_are_found():
    random_state = np.random.RandomState(0)
    bulk = random_state.normal(size=(540, 8))
    group = 0.5 * random_state.normal(size=(60, 8)) + 3
    X, is_outlier = np.r_[bulk, group], np.repeat([0, 1], [540, 60])
    model = small(2).fit(X)
    assert roc_auc_score(is_outlier, -model.mixture_.score_samples(X)) < 0.5
    assert roc_auc_score(is_outlier, -model.score_samples(X)) > 0.95


# How it is used.


def test_a_search_by_area_under_the_curve():
    def outlier_auc(estimator, X, y):
        return roc_auc_score(y, -estimator.score_samples(X))

    X, is_outlier = with_uniform_rows(200, 20, seed=0)
    search = GridSearchCV(
        small(2),
        {"n_components": [1, 2]},
        scoring=outlier_auc,
        cv=StratifiedKFold(2),
        error_score="raise",
    ).fit(X, is_outlier)
    assert search.best_score_ > 0.8


def test_pickle():
    model = small(2).fit(moons())
    copied = pickle.loads(pickle.dumps(model))
    assert_array_equal(
        copied.decision_function(moons()), model.decision_function(moons())
    )
    assert is_outlier_detector(model)


class Recorder:
    """Keeps the tasks and the outliers of the models it is shown."""

    def __init__(self, stop_at=None):
        self.stop_at, self.tasks, self.n_outliers = stop_at, [], []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        assert isinstance(estimator, FlowMixtureOutlierDetector)

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        self.tasks.append(context.task_name)
        self.n_outliers.append(np.sum(fitted_estimator.predict(X) == -1))
        return context.task_name == self.stop_at


def test_callbacks_see_a_detector_at_every_epoch():
    alone = small(2, contamination=0.1).fit(moons())
    recorder = Recorder()
    watched = small(2, contamination=0.1).set_callbacks(recorder).fit(moons())
    assert_array_equal(watched.score_samples(moons()), alone.score_samples(moons()))
    assert [t for t in recorder.tasks if "epoch" not in t] == [
        "init 0",
        "fit",
    ]
    assert set(recorder.n_outliers) == {15}
    stopped = Recorder(stop_at="elbo epoch")
    small(2, n_iter_init=0).set_callbacks(stopped).fit(moons())
    assert stopped.tasks == ["elbo epoch", "init 0", "fit"]
