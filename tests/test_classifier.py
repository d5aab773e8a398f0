"""`FlowMixtureClassifier`: labels for some rows or all, and calibrated answers."""

import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from sklearn.base import clone, is_classifier
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.datasets import load_digits, load_wine, make_circles, make_moons
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.semi_supervised import LabelSpreading
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    parametrize_with_checks,
)
from small_models import make, moons
from small_modules import seeded

from skflowmix import FlowMixture, FlowMixtureClassifier
from skflowmix.calibration import Calibration
from skflowmix.model.groups import Groups
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.class_covariances import shared_columns, tied_columns
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.unlabelled import weights_without_each
from skflowmix.training import labelled
from skflowmix.training.batches import Batch
from skflowmix.training.labelled import start_predicts_better


def small(**kwargs):
    """A classifier with small networks that counts as converged after 6 epochs."""
    parameters = {
        "n_transforms": 1,
        "hidden_units": (8,),
        "posterior_units": (8,),
        "tol": 10.0,
        "n_iter_no_change": 1,
        "max_iter": 6,
        "random_state": 0,
    }
    return make(FlowMixtureClassifier, **{**parameters, **kwargs})


def sides():
    """Number the halves of the moons' rows, a class each."""
    return (moons()[:, 0] > 0.5).astype(int)


def with_few_labels(y, n_labels, seed=0):
    """Keep `n_labels` labels of each class; the others become -1."""
    random_state = np.random.RandomState(seed)
    some = np.full(len(y), -1)
    for label in np.unique(y):
        some[random_state.permutation(np.flatnonzero(y == label))[:n_labels]] = label
    return some


# Its own semi-supervised classifiers scikit-learn exempts by name: the check takes
# -1 for a class. Its other half, with strings, is a test below.
EXPECTED = {"check_classifiers_classes": "-1 marks unlabelled rows"}


def run(check, estimator, monkeypatch):
    # One check permutes rows with NumPy's global generator.
    permutation = np.random.RandomState(0).permutation
    monkeypatch.setattr(np.random, "permutation", permutation)
    check(estimator)


@parametrize_with_checks(
    [small(random_state=None)], expected_failed_checks=lambda estimator: EXPECTED
)
def test_sklearn(estimator, check, monkeypatch):
    run(check, estimator, monkeypatch)


@pytest.mark.slow
@parametrize_with_checks(
    [small(n_components_per_class=2, random_state=None)],
    expected_failed_checks=lambda estimator: EXPECTED,
)
def test_sklearn_with_several_components(estimator, check, monkeypatch):
    run(check, estimator, monkeypatch)


def test_a_bad_parameter_is_named():
    check_param_validation("FlowMixtureClassifier", small())


def test_column_names_are_checked():
    check_dataframe_column_names_consistency("FlowMixtureClassifier", small())


# Labels.


@pytest.mark.parametrize("dtype", [object, str])
def test_string_labels(dtype):
    names = np.array(["right", "left"], dtype=dtype)
    y = names[sides()]
    model = small().fit(moons(), y)
    assert_array_equal(model.classes_, ["left", "right"])
    assert np.mean(model.predict(moons()) == y) > 0.9
    assert set(model.sample(20, random_state=0)[1]) <= set(names)


def test_unlabelled_rows_among_strings():
    y = np.array(["left", "right"], dtype=object)[sides()]
    y[20:] = -1
    model = small().fit(moons(), y)
    assert_array_equal(model.classes_, ["left", "right"])
    numbers = np.where(np.arange(len(y)) < 20, sides(), -1)
    same = small().fit(moons(), numbers)
    assert_array_equal(model.predict_proba(moons()), same.predict_proba(moons()))


@pytest.mark.parametrize("kind", ["array", "object", "list"])
def test_the_mark_as_a_string_is_refused(kind):
    y = np.array(["left", "right"])[sides()]
    y[20:] = "-1"
    y = {"array": y, "object": y.astype(object), "list": y.tolist()}[kind]
    with pytest.raises(ValueError, match="y holds the string '-1'"):
        small().fit(moons(), y)


def test_the_mark_of_unlabelled_rows_is_no_class():
    model = small().fit(moons(), with_few_labels(sides(), 5))
    assert_array_equal(model.classes_, [0, 1])
    assert model.predict_proba(moons()).shape == (150, 2)
    assert set(model.predict(moons())) == {0, 1}


def test_a_fit_without_any_label_is_refused():
    with pytest.raises(ValueError, match="No row has a label"):
        small().fit(moons(), np.full(150, -1))
    y = np.where(np.arange(150) < 3, 1, -1)
    with pytest.raises(ValueError, match="No row has a label"):
        small().fit(moons(), y, sample_weight=y < 0)


def test_a_single_row_that_counts_is_refused():
    with pytest.raises(ValueError, match="sample_weight must be positive for at least"):
        small().fit(moons(), sides(), sample_weight=np.arange(150) == 3)


def test_classes_of_several_components_start_from_any_clusterer():
    for clusterer in (KMeans(2), AgglomerativeClustering(2), GaussianMixture(2)):
        model = small(n_components_per_class=2, init_params=clusterer)
        assert model.fit(moons(), sides()).score(moons(), sides()) > 0.8


def test_one_label_each_is_enough():
    model = small().fit(moons(), with_few_labels(sides(), 1))
    assert model.score(moons(), sides()) > 0.8


def test_few_labels_of_many_classes_are_no_regression_problem():
    y = np.full(150, -1)
    y[:24] = np.arange(24) % 16
    assert len(small(n_transforms=0).fit(moons(), y).classes_) == 16
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        small().fit(moons(), np.where(y < 0, -1, moons()[:, 0]))


def test_a_class_of_the_smallest_weights_is_a_class():
    for least, largest in ((5e-324, 1.0), (1e-300, 1e300)):
        weights = np.where(sides() == 1, least, largest)
        model = small(n_transforms=0).fit(moons(), sides(), sample_weight=weights)
        assert_array_equal(model.classes_, [0, 1])
        assert np.isfinite(model.predict_log_proba(moons())).all()


def test_rows_and_labels_from_pandas():
    frame = pd.DataFrame(moons(), columns=["a", "b"])
    model = small().fit(frame, pd.Series(sides()))
    assert_array_equal(model.feature_names_in_, ["a", "b"])
    assert_array_equal(
        model.predict(frame), small().fit(moons(), sides()).predict(moons())
    )


def test_identical_rows_with_different_labels_keep_both():
    X, y = np.tile(moons(), (4, 1)), np.repeat([0, 0, 0, 1], 150)
    model = small(n_transforms=0).fit(X, y)
    assert_allclose(model.predict_proba(moons())[:, 1], 0.25, atol=0.02)


def test_weights_equal_repetition():
    y = with_few_labels(sides(), 20)
    weights = np.random.RandomState(0).randint(0, 3, len(y))
    weighted = small().fit(moons(), y, sample_weight=weights)
    repeated = small().fit(np.repeat(moons(), weights, 0), np.repeat(y, weights))
    assert_array_equal(weighted.predict_proba(moons()), repeated.predict_proba(moons()))


# Answers.


@pytest.fixture(scope="module", params=[1, 2])
def model(request):
    """One or two flows per class, fitted to some labels; not to be changed."""
    y = with_few_labels(sides(), 20)
    return small(n_components_per_class=request.param).fit(moons(), y)


def test_answers_fit_together(model):
    X = np.r_[moons(), 1e3 * moons(seed=1)]
    log_joint = model.predict_joint_log_proba(X)
    log_prob = logsumexp(log_joint, axis=1)
    assert_allclose(model.score_samples(X), log_prob, rtol=1e-9)
    shares = model.mixture_.weights_.reshape(2, -1).sum(1)
    tempered = (log_joint - np.log(shares)) / model.calibration_temperature_
    logits = tempered + model.class_log_prior_
    without_noise = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    expected = 0.999 * without_noise + 0.001 / 2
    assert_allclose(model.predict_proba(X), expected, rtol=1e-6, atol=1e-300)
    assert_allclose(model.predict_proba(X).sum(1), 1, rtol=1e-12)
    assert_allclose(np.exp(model.predict_log_proba(X)), expected, rtol=1e-6)
    assert_array_equal(model.predict(X), model.classes_[logits.argmax(1)])
    assert_allclose(logsumexp(model.class_log_prior_), 0, atol=1e-12)
    assert_allclose(model.posterior_proba(X).sum(1), 1, rtol=1e-12)


def test_components_belong_to_classes(model):
    n_per_class = model.n_components_per_class
    responsibilities = model.mixture_.predict_proba(moons())
    by_class = responsibilities.reshape(150, 2, n_per_class).sum(2)
    log_joint = model.predict_joint_log_proba(moons())
    exact = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    assert_allclose(exact, by_class, rtol=1e-9, atol=1e-12)
    assert type(model.mixture_) is FlowMixture


def test_samples_have_their_class(model):
    X, y = model.sample(500, random_state=0)
    assert X.shape == (500, 2)
    assert np.mean(model.predict(X) == y) > 0.8
    assert_array_equal(model.sample(500, random_state=0)[0], X)


def test_far_rows_belong_to_no_class(model):
    far = model.score_samples([[50.0, 50.0], [-30.0, 5.0]])
    assert (far < model.score_samples(moons()).min()).all()


def test_float32_rows_have_float32_answers(model):
    X = moons().astype(np.float32)
    assert model.predict_proba(X).dtype == np.float32
    assert model.score_samples(X).dtype == np.float32


def test_pickle_and_clone(model):
    copied = pickle.loads(pickle.dumps(model))
    assert_array_equal(copied.predict_proba(moons()), model.predict_proba(moons()))
    assert repr(clone(model)) == repr(model)
    assert clone(model).options is not model.options
    assert is_classifier(model)


class Recorder:
    """Keeps the tasks and the accuracy of the models it is shown."""

    def __init__(self, stop_at=None):
        self.stop_at, self.tasks, self.accuracies = stop_at, [], []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        assert isinstance(estimator, FlowMixtureClassifier)

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.tasks.append(context.task_name)
        self.accuracies.append(fitted_estimator.score(X, y))
        return context.task_name == self.stop_at


def test_callbacks_see_a_classifier_at_every_epoch():
    alone = small().fit(moons(), sides())
    recorder = Recorder()
    watched = small().set_callbacks(recorder).fit(moons(), sides())
    assert_array_equal(watched.predict_proba(moons()), alone.predict_proba(moons()))
    assert recorder.tasks.count("elbo epoch") == watched.n_iter_
    assert recorder.tasks[-1] == "fit"
    assert min(recorder.accuracies) > 0.5
    stopped = Recorder(stop_at="m-step epoch")
    model = small().set_callbacks(stopped).fit(moons(), sides())
    assert stopped.tasks == ["m-step epoch", "init 0", "fit"]
    assert model.n_iter_ == 0


# Spreading of labels.


# Rows without a label.


def overlapping(n, seed):
    """Two classes that overlap in a bend, of which the smaller has 35 % of the rows."""
    rng = np.random.RandomState(seed)
    y = (rng.rand(n) < 0.35).astype(int)
    along = rng.uniform(-1.5, 1.5, n)
    x = rng.normal(size=(n, 4))
    x[:, 0] += y * along
    x[:, 1] += np.where(y, along**2 - 0.5, 0.6)
    return x, y


def test_rows_without_a_label_are_left_out_where_classes_overlap():
    X, y = overlapping(800, 0)
    some = np.where(np.arange(800) < 80, y, -1)
    model = small().fit(X, some)
    assert model.unlabeled_weight_ == 0
    alone = small().fit(X[:80], y[:80])
    assert_array_equal(model.predict_proba(X), alone.predict_proba(X))
    given = small(unlabeled_weight=0).fit(X, some)
    assert_array_equal(given.predict_proba(X), alone.predict_proba(X))


def test_rows_without_a_label_count_where_classes_are_clusters():
    X, y = make_circles(400, noise=0.05, factor=0.5, random_state=0)
    some = with_few_labels(y, 12)
    model = small().fit(X, some)
    assert model.unlabeled_weight_ == 1
    given = small(unlabeled_weight=1.0).fit(X, some)
    assert_array_equal(model.predict_proba(X), given.predict_proba(X))


def test_rows_without_a_label_can_count_in_part():
    y = with_few_labels(sides(), 20)
    model = small(unlabeled_weight=0.25).fit(moons(), y)
    assert model.unlabeled_weight_ == 0.25
    weights = np.where(y < 0, 0.25, 1.0)
    weighted = small(unlabeled_weight=1).fit(moons(), y, sample_weight=weights)
    assert_array_equal(model.predict_proba(moons()), weighted.predict_proba(moons()))


def test_without_unlabelled_rows_their_weight_does_not_matter():
    fits = [small(unlabeled_weight=w).fit(moons(), sides()) for w in ("auto", 0)]
    answers = [model.predict_proba(moons()) for model in fits]
    assert_array_equal(answers[0], answers[1])
    assert fits[1].unlabeled_weight_ == 1


def test_more_components_than_labelled_rows_need_the_others():
    y = np.full(150, -1)
    y[[0, 1, -2, -1]] = 0, 0, 1, 1
    model = small(n_components_per_class=3).fit(moons(), y)
    assert model.unlabeled_weight_ == 1


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_mean_probabilities_are_the_shares_of_the_labels(share):
    X, y = overlapping(1000, 1)
    some = np.where(np.arange(1000) < share * 1000, y, -1)
    model = small(n_transforms=0).fit(X, some)
    assert abs(model.predict_proba(X)[:, 1].mean() - y[some >= 0].mean()) < 0.02


# What it is for.


@pytest.mark.slow
def test_calibrated_and_better_than_gaussians_on_wine():
    X, y = load_wine(return_X_y=True)
    losses = {}
    for seed in range(3):
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, test_size=0.4, random_state=seed, stratify=y
        )
        for model in (
            FlowMixtureClassifier(random_state=seed),
            GaussianNB(),
            QuadraticDiscriminantAnalysis(),
        ):
            proba = model.fit(X_train, y_train).predict_proba(X_test)
            name = type(model).__name__
            losses[name] = losses.get(name, 0.0) + log_loss(y_test, proba) / 3
    ours = losses.pop("FlowMixtureClassifier")
    assert ours < min(losses.values())


def test_many_columns_are_calibrated():
    """Gaussians of 64 pixels are far too sure of themselves."""
    X, y = load_digits(return_X_y=True)
    model = FlowMixtureClassifier(n_transforms=0, max_iter=1, tol=10.0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X[::2], y[::2])
    log_joint = model.predict_joint_log_proba(X[1::2])
    as_they_are = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    as_they_are /= as_they_are.sum(1, keepdims=True)
    calibrated = model.predict_proba(X[1::2])
    assert model.calibration_temperature_ > 2
    assert log_loss(y[1::2], calibrated) < 0.8 * log_loss(y[1::2], as_they_are)
    assert np.mean(calibrated.argmax(1) == as_they_are.argmax(1)) > 0.98


def test_labels_that_say_nothing_are_not_believed():
    """Flows have seen the rows: each is likelier in its class than it deserves."""
    random_state = np.random.RandomState(2)
    X = random_state.exponential(size=(1150, 4))
    y = random_state.randint(2, size=1150)
    model = FlowMixtureClassifier(n_transforms=2, hidden_units=(32,), random_state=2)
    model.fit(X[:150], y[:150])
    assert log_loss(y[150:], model.predict_proba(X[150:])) < np.log(2) + 0.02


def flags_beside_two_useful_columns(n, n_flags, random_state):
    """Rare flags that say nothing of the class, and two columns that do."""
    y = random_state.randint(2, size=n)
    flags = random_state.uniform(size=(n, n_flags)) < np.linspace(0.01, 0.05, n_flags)
    return np.c_[flags, random_state.normal(size=(n, 2)) + 0.7 * y[:, None]], y


@pytest.mark.parametrize(
    "parameters",
    [{"n_transforms": 0}, {"n_transforms": 2, "hidden_units": (32,)}],
    ids=["gaussians", "flows"],
)
def test_rare_flags_do_not_hide_what_other_columns_say(parameters):
    random_state = np.random.RandomState(0)
    X, y = flags_beside_two_useful_columns(3000, 8, random_state)
    model = FlowMixtureClassifier(random_state=0, **parameters).fit(X[:800], y[:800])
    bayes = 1 / (1 + np.exp(0.7 * (0.7 - X[800:, -2:].sum(axis=1))))
    loss = log_loss(y[800:], model.predict_proba(X[800:]))
    assert loss < log_loss(y[800:], bayes) + 0.03


def test_flags_are_tied_that_are_rare_in_every_class():
    random_state = np.random.RandomState(0)
    y = random_state.randint(2, size=1000)
    rare = random_state.uniform(size=1000) < 0.05
    constant_in_most = np.where(y == 1, random_state.normal(size=1000), 0.0)
    common = random_state.uniform(size=1000) < 0.4
    x = np.c_[rare, constant_in_most, common, random_state.normal(size=1000)]
    ones = np.ones(1000)
    assert tied_columns(x, ones, y) == (0,)
    few = np.where(y == 1, 9.0, 1.0)
    assert tied_columns(x, 1 / few, y) == (0,)
    assert tied_columns(x, ones, None) == tied_columns(x, ones, 0 * y) == ()


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [9.0, 1.0, 9.0, 1.0]])
def test_few_labels_tie_no_continuous_columns(weights):
    x = np.random.RandomState(0).normal(size=(4, 3))
    assert tied_columns(x, np.array(weights), np.array([0, 0, 1, 1])) == ()


def two_classes(n_rows, spread, seed=0):
    """Classes of other means; the second is `spread` times as wide along one axis."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) % 2
    x = rng.normal(size=(n_rows, 6)) * np.where(y[:, None] == 1, spread, 1.0)
    x[:, 0] += 2.0 * y
    return x, y


def shared(x, y, classes=None, weights=None, groups=None):
    groups = groups or Groups([1, 1])
    weights = np.ones(len(x)) if weights is None else weights
    shares = np.eye(2)[y][:, groups.of_flow] / groups.sizes[y][:, None]
    classes = y if classes is None else classes
    return shared_columns(x, weights, shares, classes, groups.logsumexp, 1e-6)


def test_classes_share_a_covariance_where_labels_prefer_it():
    every = tuple(range(6))
    few_labels = np.where(np.arange(300) < 40, np.arange(300) % 2, -1)
    rng = np.random.default_rng(1)
    for groups in (Groups([1, 1]), Groups([2, 1])):
        # A wide row in twenty, as many in each class: each class's own covariance would
        # follow from these.
        x, y = two_classes(300, 1.0)
        x[rng.uniform(size=300) < 0.05] *= 12
        assert shared(x, y, groups=groups) == every
        x, y = two_classes(300, 3.0)
        assert shared(x, y, groups=groups) == ()
        assert shared(x, y, few_labels, groups=groups) == ()
    assert shared(x, y, np.full(300, -1)) == shared(x, y, 0 * y) == ()
    constant = np.column_stack([x, np.zeros(300)])
    assert shared(constant, y) == (6,)


def test_covariances_are_not_shared_where_labels_cannot_tell():
    x, y = two_classes(300, 1.0)
    assert shared(x[:19], y[:19]) == ()
    wide = np.column_stack([x[:20]] * 4)
    assert shared(wide, y[:20]) == ()
    singles = Groups([1] * 20)  # one label each: none can be predicted from others
    data = x[:20], np.ones(20), np.eye(20), np.arange(20), singles.logsumexp, 1e-6
    assert shared_columns(*data) == ()
    # A column that is constant among the labelled rows, without `reg_covar`.
    labels = np.where(np.arange(300) < 40, y, -1)
    x[:40, 1] = 0
    data = x, np.ones(300), np.eye(2)[y], labels, Groups([1, 1]).logsumexp
    assert shared_columns(*data, 0.0) == ()
    # All labelled rows are outlying, and belong to no moments.
    shares = np.where(labels[:, None] < 0, np.eye(2)[y], 0.0)
    assert shared_columns(x, np.ones(300), shares, *data[3:], 1e-6) == ()


def test_shared_covariances_do_not_depend_on_the_scale_of_the_weights():
    x, y = two_classes(60, 1.0)
    x[:6] *= 6
    counts = np.random.default_rng(0).integers(1, 4, size=60)
    whole = [shared(x, y, weights=3.0 * w / w.mean()) for w in (counts, 1.0 * counts)]
    assert whole[0] == whole[1]


def without(x, weights, own, n_folds):
    others = [np.array([], dtype=int)] * (n_folds - 1)
    return weights_without_each(x, weights, [own, *others])[0]


@pytest.mark.parametrize("n_folds", [5, 10])
def test_equal_rows_stay_where_a_fold_is_left_out_as_if_they_were_not_merged(n_folds):
    """Mean weights over random folds of the rows they stand for, one of them judged."""
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    counts, own = np.array([1.0, 2.0, 10.0, 3.0]), np.array([0, 2, 3])
    kept = without(x, counts, own, n_folds)
    others = np.random.default_rng(0).integers(n_folds, size=(100_000, 9)) > 0
    for row in own:
        expected = others[:, : int(counts[row]) - 1].sum(axis=1).mean()
        assert_allclose(kept[row], expected, rtol=0.01)
    assert kept[1] == 2
    assert_allclose(without(x, np.pi * counts, own, n_folds), np.pi * kept)
    # Copies of rows of real numbers would predict themselves.
    real = x + np.random.default_rng(0).uniform(size=x.shape)
    assert_array_equal(without(real, counts, own, n_folds), [0, 2, 0, 0])
    once = np.full(4, 0.3)
    assert_array_equal(without(x, once, own, n_folds), [0, 0.3, 0, 0])


def test_probabilities_of_a_table_of_few_distinct_rows_are_calibrated():
    """Eight rows of flags: without one of them, others do not tell its class."""
    rng = np.random.default_rng(0)
    X = rng.integers(2, size=(800, 3)).astype(float)
    share = 1 / (1 + np.exp(-(3 * X[:, 0] - 2 * X[:, 1] - 0.5)))
    y = (rng.uniform(size=800) < share).astype(int)
    model = FlowMixtureClassifier(random_state=0).fit(X[:400], y[:400])
    truth = log_loss(y[400:], share[400:])
    assert log_loss(y[400:], model.predict_proba(X[400:])) < truth + 0.03


def losing_flows(n_rows):
    """Flows that tell classes apart worse than the Gaussians they start from."""
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % 2
    x = rng.normal(size=(n_rows, 2))
    x[:, 0] += 2.0 * y
    gaussians = Gaussians.fit(x, np.ones(n_rows), np.eye(2)[y], 1e-6)
    model = MixtureModule.of_flows(
        gaussians,
        flow="nsf",
        n_transforms=2,
        hidden_units=(8,),
        posterior_units=(8,),
        generator=seeded(),
    )
    start = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for stack in model.components.flows():
            for bias in stack.biases:
                bias += torch.randn(bias.shape, generator=seeded(1))
    allowed = torch.from_numpy(np.eye(2, dtype=bool)[y])
    tensors = torch.from_numpy(x), torch.ones(n_rows).double(), allowed.double()
    return model, start, Batch(*tensors, allowed)


def better(model, start, rows, *, shares_covariance=False):
    gaussians = SimpleNamespace(share_covariance=lambda: shares_covariance)
    return start_predicts_better(model, start, rows, gaussians)


def test_flows_must_gain_clearly_where_classes_share_a_covariance():
    model, start, rows = losing_flows(200)
    trained = [p.detach().clone() for p in model.parameters()]
    assert better(model, trained, rows, shares_covariance=True)  # the same loss
    with torch.no_grad():
        torch._foreach_copy_(list(model.parameters()), start)
    assert not better(model, trained, rows, shares_covariance=True)
    few = losing_flows(labelled.MIN_LABELS - 1)
    assert not better(*few, shares_covariance=True)


def test_labels_of_repeated_rows_count_as_often():
    model, start, rows = losing_flows(10)
    rows.n_counted = 200
    assert better(model, start, rows)


def test_labels_tell_flows_from_the_gaussians_they_start_from():
    model, start, rows = losing_flows(200)
    trained = [p.detach().clone() for p in model.parameters()]
    assert better(model, start, rows)
    for parameter, before in zip(model.parameters(), trained, strict=True):
        assert torch.equal(parameter, before)
    assert not better(model, trained, rows)
    with torch.no_grad():
        torch._foreach_copy_(list(model.parameters()), start)
    assert not better(model, trained, rows)


def test_without_labels_flows_stay():
    model, start, rows = losing_flows(200)
    rows.allowed[10:] = True
    assert not better(model, start, rows)
    rows.allowed = None
    assert not better(model, start, rows)


def test_a_fit_that_is_stopped_is_calibrated_as_if_it_were_not(monkeypatch):
    # The labels say nothing and would drop the flows, which are to be calibrated.
    monkeypatch.setattr(labelled, "LEAST_GAIN", np.inf)

    class StopsLate(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            if context.task_name == "elbo epoch":
                self.temperatures.append(fitted_estimator.calibration_temperature_)
            return len(self.temperatures) == 12

    random_state = np.random.RandomState(2)
    X, y = random_state.exponential(size=(150, 4)), random_state.randint(2, size=150)
    model = FlowMixtureClassifier(n_transforms=2, hidden_units=(32,), random_state=2)
    stop = StopsLate()
    stop.temperatures = []
    model.set_callbacks(stop).fit(X, y)
    assert len(stop.temperatures) == 12
    assert min(model.calibration_temperature_, *stop.temperatures[6:]) > 3


def test_folds_that_cannot_be_refitted_do_not_calibrate():
    """Without its one other value a column has no variance, and none is added."""
    X = np.random.RandomState(0).normal(size=(8, 2))
    X[:, 1] = np.arange(8) == 3
    model = FlowMixtureClassifier(reg_covar=0.0, n_transforms=0, random_state=0)
    model.fit(X, np.arange(8) % 2)
    assert 0.5 < model.calibration_temperature_ < 10
    assert np.isfinite(model.predict_proba(X)).all()


def test_every_start_has_its_own_folds():
    """A fit may start twice, from Gaussians that are shrunk by different amounts."""
    x, classes = moons(), sides()
    shares, weights = np.eye(2)[classes], np.ones(len(x))
    rows = SimpleNamespace(x=x, weights=weights, without_far=lambda shares: shares)
    start = SimpleNamespace(without_labels=lambda classes, rows: shares)
    calibration = Calibration(Groups([1, 1]), start)
    for least in (1.0, 0.0):
        gaussians = Gaussians.fit(x, weights, shares, 1e-6, least_strength=least)
        fitted = SimpleNamespace(
            candidate=SimpleNamespace(gaussians=gaussians),
            table=rows,
            problem=SimpleNamespace(classes=classes),
        )
        folds = calibration._folds_of(fitted)
        assert len(folds) == 5
        assert all(fold.shrinkage == gaussians.shrinkage for _, fold in folds)
        assert calibration._folds_of(fitted) is folds


def test_labels_of_one_class_need_no_calibration():
    match = "All labels are 3: -1 marks rows without"
    with pytest.warns(UserWarning, match=match) as warned:
        model = small().fit(moons(), np.where(np.arange(150) < 10, 3, -1))
    assert warned[0].filename == __file__
    assert model.calibration_temperature_ == model.unlabeled_weight_ == 1
    assert_allclose(model.predict_proba(moons()), 1)


def test_a_column_given_twice_costs_little():
    """Noise on its values is the same for both."""
    X, y = make_moons(600, noise=0.2, random_state=0)
    level = np.random.RandomState(0).randint(3, size=600)
    losses = []
    for new in ([level], [level, level]):
        rows = np.column_stack([X, *new])
        model = FlowMixtureClassifier(
            n_transforms=2, hidden_units=(16,), tol=0.01, random_state=0
        ).fit(rows[:300], y[:300])
        losses.append(log_loss(y[300:], model.predict_proba(rows[300:])))
    assert losses[1] < losses[0] + 0.05


@pytest.mark.slow
def test_two_circles_with_few_labels():
    X, y = make_circles(1088, factor=0.5, random_state=0)
    X = 0.8 * X + np.random.RandomState(0).normal(0, 0.02, X.shape)
    some = with_few_labels(y, 32)
    model = FlowMixtureClassifier(n_transforms=2, hidden_units=(32,), random_state=0)
    model.fit(X, some)
    assert np.mean(model.predict(X)[some < 0] == y[some < 0]) >= 0.99


@pytest.mark.slow
def test_digits_with_five_labels_each():
    X, y = load_digits(return_X_y=True)
    some = with_few_labels(y, 5)
    hidden = some < 0
    rows = PCA(16, random_state=0).fit_transform(X)
    model = FlowMixtureClassifier(
        n_transforms=1, hidden_units=(16,), max_iter=30, tol=0.1, random_state=0
    ).fit(rows, some)
    accuracy = np.mean(model.predict(rows)[hidden] == y[hidden])
    spreading = LabelSpreading(kernel="knn").fit(X, some)
    assert accuracy > np.mean(spreading.transduction_[hidden] == y[hidden])


def test_cross_validation_of_log_loss():
    scores = cross_val_score(
        small(), moons(), sides(), scoring="neg_log_loss", cv=3, error_score="raise"
    )
    assert (scores > -0.7).all()


def answers_on_a_scale(seed, n=1000):
    """Integers from 1 to 5 that a linear rule of Gaussians explains."""
    rng = np.random.RandomState(seed)
    y = rng.randint(2, size=n)
    mix = np.eye(6) + 0.3 * rng.normal(size=(6, 6))
    z = rng.normal(size=(n, 6)) @ mix + 0.8 * y[:, None] * rng.normal(size=6)
    return np.clip(np.round(z + 3), 1, 5), y


@pytest.mark.slow
def test_flows_on_integers_are_no_worse_classifiers_than_gaussians():
    """The heights of spikes would say nothing of the classes."""
    X, y = answers_on_a_scale(1)
    flows = FlowMixtureClassifier(random_state=0).fit(X[:500], y[:500])
    gaussians = FlowMixtureClassifier(n_transforms=0, random_state=0)
    gaussians.fit(X[:500], y[:500])
    assert flows.score(X[500:], y[500:]) > gaussians.score(X[500:], y[500:]) - 0.04
    assert 0.5 < flows.calibration_temperature_ < 2
