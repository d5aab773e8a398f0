"""The estimators among the tools that people combine them with."""

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import DecisionBoundaryDisplay, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    PrecisionRecallDisplay,
    RocCurveDisplay,
    average_precision_score,
    roc_auc_score,
)
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from small_models import make

from skflowmix import FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def tiny(cls, *args, **kwargs):
    """An estimator that is trained for two epochs; without flows by default."""
    parameters = {
        "n_transforms": 0,
        "hidden_units": (4,),
        "posterior_units": (4,),
        "init_params": "kmeans",
        "n_iter_init": 1,
        "max_iter": 2,
        "random_state": 0,
    }
    return make(cls, *args, **{**parameters, **kwargs})


def mixture(n_components=1, **kwargs):
    return tiny(FlowMixture, n_components, **kwargs)


def classifier(**kwargs):
    return tiny(FlowMixtureClassifier, **kwargs)


def detector(**kwargs):
    return tiny(FlowMixtureOutlierDetector, **kwargs)


def two_blobs(n_samples=80, seed=0):
    """Rows of two blobs that nearly touch, and which one each is from."""
    return make_blobs(
        n_samples, centers=[[0, 0], [4, 0]], cluster_std=1.0, random_state=seed
    )


@pytest.fixture(scope="module")
def blobs():
    return two_blobs()


@pytest.fixture(scope="module")
def fitted_mixture(blobs):
    return mixture(2, n_transforms=1).fit(blobs[0])


@pytest.fixture(scope="module")
def fitted_classifier(blobs):
    return classifier(n_transforms=1).fit(*blobs)


@pytest.fixture(scope="module")
def marked():
    """Rows of which every tenth is an outlier, marked 1."""
    X = two_blobs()[0]
    X[::10] = np.random.default_rng(0).uniform(10, 30, (8, 2))
    return X, np.arange(len(X)) % 10 == 0


@pytest.fixture(scope="module")
def fitted_detector(marked):
    return detector(n_transforms=1, contamination=0.1).fit(marked[0])


# Columns and tables.


def table_of_customers(blobs):
    """A table with two columns of numbers and one of words."""
    X, y = blobs
    return {"age": X[:, 0], "income": X[:, 1], "town": np.where(y, "Rome", "Oslo")}


def preparation(output):
    """Scale the numbers, spread the words over columns."""
    return ColumnTransformer(
        [
            ("number", StandardScaler(), ["age", "income"]),
            ("word", OneHotEncoder(sparse_output=False), ["town"]),
        ]
    ).set_output(transform=output)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_column_transformer_with_named_columns(library, blobs):
    frames = pytest.importorskip(library)
    X = frames.DataFrame(table_of_customers(blobs))
    pipeline = make_pipeline(preparation(library), mixture(2)).fit(X)
    names = ["number__age", "number__income", "word__town_Oslo", "word__town_Rome"]
    assert_array_equal(pipeline[-1].feature_names_in_, names)
    # The same numbers without names.
    table = np.asarray(pipeline[0].transform(X))
    plain = clone(pipeline[-1]).fit(table)
    assert_array_equal(pipeline.predict(X), plain.predict(table))
    assert_array_equal(pipeline.score_samples(X), plain.score_samples(table))
    assert isinstance(pipeline.predict_proba(X), np.ndarray)


def test_columns_in_another_order_reach_the_right_place(blobs):
    X = pd.DataFrame(table_of_customers(blobs))
    pipeline = make_pipeline(preparation("pandas"), mixture()).fit(X)
    other = X[["town", "income", "age"]]
    assert_array_equal(pipeline.score_samples(other), pipeline.score_samples(X))


@pytest.mark.parametrize("make_model", [classifier, detector])
def test_labels_and_marks_after_a_column_transformer(make_model, blobs):
    X = pd.DataFrame(table_of_customers(blobs))
    y = pd.Series(np.where(blobs[1], "yes", "no"))
    pipeline = make_pipeline(preparation("pandas"), make_model()).fit(X, y)
    answers = pipeline.predict(X)
    assert set(answers) <= ({"yes", "no"} if make_model is classifier else {-1, 1})
    assert pipeline[-1].feature_names_in_[0] == "number__age"


def test_sparse_columns_are_refused(blobs):
    words = table_of_customers(blobs)["town"][:, None]
    pipeline = make_pipeline(OneHotEncoder(), mixture())
    with pytest.raises(TypeError, match="dense data is required"):
        pipeline.fit(words)


def test_output_in_pandas_goes_through_a_pipeline(blobs):
    X = pd.DataFrame(blobs[0], columns=["east", "north"])
    pipeline = make_pipeline(StandardScaler(), PCA(2), mixture())
    pipeline.set_output(transform="pandas").fit(X)
    assert_array_equal(pipeline[-1].feature_names_in_, ["pca0", "pca1"])
    scaled = pipeline[:-1].transform(X)
    assert_array_equal(pipeline.score_samples(X), pipeline[-1].score_samples(scaled))
    new, _ = pipeline[-1].sample(3)
    assert pipeline[:-1].inverse_transform(new).shape == (3, 2)


# Weights that are routed.


@pytest.mark.parametrize("make_model", [mixture, classifier, detector])
def test_weights_are_routed_through_a_pipeline(make_model, blobs):
    X, y = blobs
    weights = np.random.default_rng(0).integers(0, 3, len(X))
    scaled = StandardScaler().fit_transform(X)
    with config_context(enable_metadata_routing=True):
        model = make_model().set_fit_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, model).fit(X, y, sample_weight=weights)
    direct = make_model().fit(scaled, y, sample_weight=weights)
    assert_array_equal(pipeline.score_samples(X), direct.score_samples(scaled))


def test_weights_are_routed_through_a_search(blobs):
    X, _ = blobs
    weights = np.r_[np.zeros(20, int), np.ones(60, int)]
    with config_context(enable_metadata_routing=True):
        model = mixture().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        pipeline = Pipeline([("model", model)])
        search = GridSearchCV(
            pipeline, {"model__reg_covar": [1e-3]}, cv=2, error_score="raise"
        ).fit(X, sample_weight=weights)
    direct = mixture(reg_covar=1e-3).fit(X[20:])  # no weight, no row
    assert_allclose(search.score_samples(X), direct.score_samples(X), rtol=1e-9)


def test_weights_that_nobody_asked_for_are_refused(blobs):
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(mixture(), {"n_components": [1]}, cv=2)
        with pytest.raises(ValueError, match=r"sample_weight.*not explicitly set"):
            search.fit(blobs[0], sample_weight=np.ones(len(blobs[0])))


# Searches and folds.


SEARCHES = {
    "grid": lambda model, grid: GridSearchCV(model, grid, cv=2, error_score="raise"),
    "randomized": lambda model, grid: RandomizedSearchCV(
        model, grid, n_iter=2, cv=2, random_state=0, error_score="raise"
    ),
    "halving": lambda model, grid: HalvingGridSearchCV(
        model, grid, cv=2, min_resources=40, random_state=0, error_score="raise"
    ),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_searches_choose_by_held_out_density(search):
    X = np.random.default_rng(0).normal(size=(80, 2))
    X[:, 1] = X[:, 0] + 0.01 * X[:, 1]  # lost where the variances are doubled
    found = search(mixture(), {"reg_covar": [1e-6, 1.0]}).fit(X)
    assert found.best_params_ == {"reg_covar": 1e-6}
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()
    best = found.best_estimator_
    assert found.score(X) == pytest.approx(best.score_samples(X).mean())


def test_epochs_as_the_resource_of_a_halving_search(blobs):
    search = HalvingGridSearchCV(
        mixture(),
        {"reg_covar": [1e-6, 1e-3]},
        cv=2,
        resource="max_iter",
        min_resources=1,
        max_resources=2,
        factor=2,
        error_score="raise",
    ).fit(blobs[0])
    assert_array_equal(search.cv_results_["n_resources"], [1, 1, 2])
    assert search.best_estimator_.max_iter == 2


def test_options_in_a_search(blobs):
    grid = {"model__options__label_noise": [1.0]}
    pipeline = Pipeline([("scale", StandardScaler()), ("model", mixture())])
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(blobs[0])
    assert search.best_estimator_["model"].options.label_noise == 1.0
    assert pipeline["model"].options.label_noise == 0.05  # the one that was given


@pytest.mark.parametrize("method", ["predict", "predict_log_proba"])
def test_predictions_of_folds(method, blobs):
    X, y = blobs
    answers = cross_val_predict(classifier(), X, y, cv=2, method=method)
    if method != "predict":
        assert answers.shape == (len(X), 2)
        answers = answers.argmax(1)
    assert (answers == y).mean() > 0.9


def test_marks_of_folds(marked):
    X, is_outlier = marked
    model = detector(contamination=0.1)
    marks = cross_val_predict(model, X, is_outlier, cv=2)
    assert ((marks == -1) == is_outlier).mean() > 0.9


def test_clusters_are_scored_by_labels_in_folds(blobs):
    X, y = blobs
    scores = cross_val_score(mixture(2), X, y, cv=2, scoring="adjusted_rand_score")
    assert (scores > 0.7).all()


def test_marks_of_a_detector_are_scored_by_roc_auc_where_inliers_are_1(marked):
    X, is_outlier = marked
    y = np.where(is_outlier, -1, 1)
    scores = cross_val_score(detector(), X, y, cv=2, scoring="roc_auc")
    assert (scores > 0.9).all()


# Estimators around a classifier.


def test_calibrated_once_more(blobs):
    X, y = blobs
    model = CalibratedClassifierCV(classifier(), cv=2, ensemble=False)
    model.fit(X, np.where(y, "b", "a"))
    proba = model.predict_proba(X)
    assert_allclose(proba.sum(1), 1)
    assert (model.predict(X) == np.where(y, "b", "a")).mean() > 0.9


def test_weights_reach_a_calibrated_classifier(blobs):
    X, y = blobs
    one_class = (y == 0) | (np.arange(len(X)) < 40)
    model = CalibratedClassifierCV(classifier(), method="isotonic", cv=2)
    model.fit(X, y, sample_weight=one_class)
    shares = [
        fold.estimator.mixture_.weights_[1] for fold in model.calibrated_classifiers_
    ]
    # Rows without weight are all of class 1, which is rarer for it.
    assert (np.mean(shares) < 0.45) and model.score(X, y) > 0.9


def test_stacked_with_another_classifier(blobs):
    X, y = blobs
    model = StackingClassifier(
        [("flows", classifier()), ("linear", LogisticRegression())], cv=2
    ).fit(X, y)
    assert model.score(X, y) > 0.9
    assert model.transform(X).shape == (len(X), 2)


# Importances.


def test_importance_of_the_column_that_tells_classes_apart(blobs, fitted_classifier):
    X, y = blobs
    found = permutation_importance(fitted_classifier, X, y, n_repeats=3, random_state=0)
    assert found.importances_mean[0] > found.importances_mean[1] + 0.2


def test_importance_of_columns_to_a_density_needs_no_labels():
    # Columns that depend on each other, and one that does not.
    X = np.random.default_rng(0).normal(size=(80, 3))
    X[:, 1] = X[:, 0] + 0.1 * X[:, 1]
    model = mixture(1).fit(X)
    found = permutation_importance(model, X, None, n_repeats=3, random_state=0)
    assert (found.importances_mean[:2] > 10).all()
    assert abs(found.importances_mean[2]) < 1


# Figures.


@pytest.fixture
def axes():
    """Axes of a figure that is closed afterwards."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def drawn(model, X, axes, **kwargs):
    """What a display of the decision boundary shows, on 6 x 6 points, and these."""
    display = DecisionBoundaryDisplay.from_estimator(
        model, X, grid_resolution=6, ax=axes, **kwargs
    )
    points = np.c_[display.xx0.ravel(), display.xx1.ravel()]
    return display.response, points


@pytest.mark.parametrize("name", ["mixture", "classifier", "detector"])
def test_densities_are_drawn(name, request, blobs, axes):
    model = request.getfixturevalue(f"fitted_{name}")
    shown, points = drawn(model, blobs[0], axes, response_method="score_samples")
    assert_allclose(shown.ravel(), model.score_samples(points))


@pytest.mark.parametrize("name", ["mixture", "classifier", "detector"])
def test_regions_are_drawn(name, request, blobs, axes):
    model = request.getfixturevalue(f"fitted_{name}")
    shown, points = drawn(model, blobs[0], axes, response_method="predict")
    assert_array_equal(shown.ravel(), model.predict(points))


@pytest.mark.parametrize("response_method", ["auto", "predict_proba"])
def test_probabilities_of_classes_are_drawn(
    response_method, blobs, fitted_classifier, axes
):
    shown, points = drawn(
        fitted_classifier, blobs[0], axes, response_method=response_method
    )
    assert_allclose(shown.ravel(), fitted_classifier.predict_proba(points)[:, 1])


def test_responsibilities_are_drawn_by_hand(blobs, fitted_mixture, axes):
    """The display has a predict_proba of classifiers only, as of `GaussianMixture`."""
    with pytest.raises((ValueError, AttributeError)):
        drawn(fitted_mixture, blobs[0], axes, response_method="predict_proba")
    x, y = np.meshgrid(np.linspace(-3, 7, 6), np.linspace(-3, 3, 6))
    proba = fitted_mixture.predict_proba(np.c_[x.ravel(), y.ravel()])[:, 0]
    display = DecisionBoundaryDisplay(
        xx0=x, xx1=y, n_classes=2, response=proba.reshape(x.shape)
    ).plot(ax=axes)
    assert display.ax_ is axes


def test_the_threshold_of_a_detector_is_drawn(marked, fitted_detector, axes):
    shown, points = drawn(fitted_detector, marked[0], axes)
    assert_allclose(shown.ravel(), fitted_detector.decision_function(points))


@pytest.mark.parametrize("name", ["mixture", "detector"])
def test_curves_of_anomaly_scores(name, request, marked, axes):
    X, is_outlier = marked
    scores = -request.getfixturevalue(f"fitted_{name}").score_samples(X)
    roc = RocCurveDisplay.from_predictions(is_outlier, scores, ax=axes)
    assert roc.roc_auc == pytest.approx(roc_auc_score(is_outlier, scores))
    curve = PrecisionRecallDisplay.from_predictions(is_outlier, scores, ax=axes)
    expected = average_precision_score(is_outlier, scores)
    assert curve.average_precision == pytest.approx(expected)
    assert min(roc.roc_auc, expected) > 0.9


def test_curves_of_a_classifier(blobs, fitted_classifier, axes):
    display = RocCurveDisplay.from_estimator(fitted_classifier, *blobs, ax=axes)
    assert display.roc_auc > 0.9


# Memory.


def test_a_cached_pipeline_is_the_same(blobs, tmp_path):
    X, _ = blobs
    memory = joblib.Memory(tmp_path, verbose=0)
    cached = make_pipeline(StandardScaler(), PCA(2), mixture(), memory=memory)
    plain = make_pipeline(StandardScaler(), PCA(2), mixture()).fit(X)
    for _ in range(2):  # the second time from the cache
        assert_array_equal(cached.fit(X).score_samples(X), plain.score_samples(X))


def test_a_cached_fit_is_not_repeated(blobs, tmp_path):
    X, _ = blobs
    calls = []

    def fitted(model, rows):
        calls.append(1)
        return model.fit(rows)

    fit = joblib.Memory(tmp_path, verbose=0).cache(fitted)
    first = fit(mixture(), X)
    again = fit(mixture(), X)
    assert len(calls) == 1
    assert_array_equal(again.score_samples(X), first.score_samples(X))
    assert_array_equal(again.sample(5)[0], first.sample(5)[0])
    fit(mixture(reg_covar=1e-3), X)
    assert len(calls) == 2


# Copies.


@pytest.mark.parametrize("name", ["mixture", "classifier", "detector"])
def test_clones_within_a_pipeline_are_unfitted_and_fit_alike(name, request, blobs):
    model = request.getfixturevalue(f"fitted_{name}")
    copied = clone(make_pipeline(StandardScaler(), model))
    assert not hasattr(copied[-1], "n_features_in_")
    ours = model.get_params()
    theirs = copied[-1].get_params()
    assert repr(ours) == repr(theirs)
    assert theirs["options"] is not ours["options"]
