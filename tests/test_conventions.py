"""Details that users of scikit-learn expect: labels, tensors, messages, scorers."""

import copy
import pickle
import re
import warnings
from functools import cache

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_blobs
from sklearn.impute import SimpleImputer
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from small_models import make, moons, small

import skflowmix
from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOptions,
    FlowMixtureOutlierDetector,
    adjusted_rand_scorer,
    log_likelihood_scorer,
    outlier_auc_scorer,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NETWORKS = {
    "hidden_units": 4,
    "posterior_units": 4,
    "n_transforms": 1,
    "max_iter": 2,
    "n_iter_init": 1,
    "init_params": "kmeans",
    "random_state": 0,
}
TRUE = (moons()[:, 0] > 0.5).astype(int)
GONE = np.arange(len(TRUE)) % 3 == 0
MARKED = np.where(GONE, -1, TRUE)


def classifier(**parameters):
    return make(FlowMixtureClassifier, **{**NETWORKS, **parameters})


def each_estimator():
    return [
        make(FlowMixture, 2, **NETWORKS),
        classifier(),
        make(FlowMixtureOutlierDetector, **NETWORKS),
    ]


# Labels.


def missing_labels():
    pandas = pytest.importorskip("pandas")
    words = np.array(["no", "yes"], dtype=object)[TRUE]
    masked = np.ma.array(TRUE, mask=GONE)
    days = np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]")[TRUE]
    with_nat = np.where(GONE, np.datetime64("NaT"), days)
    return {
        "NaN": np.where(GONE, np.nan, TRUE),
        "None": np.where(GONE, None, TRUE.astype(object)),
        "Int64": pandas.Series(TRUE, dtype="Int64").mask(GONE),
        "masked": masked,
        "list": [None if gone else int(y) for gone, y in zip(GONE, TRUE, strict=True)],
        "words": pandas.Series(words).mask(GONE),
        "categories": pandas.Series(pandas.Categorical(words)).mask(GONE),
        "string dtype": pandas.Series(words, dtype="string").mask(GONE),
        "booleans": np.where(GONE, None, TRUE.astype(bool)),
        "marked booleans": np.where(GONE, -1, TRUE.astype(bool).astype(object)),
        "masked booleans": np.ma.array(TRUE.astype(bool), mask=GONE),
        "boolean": pandas.Series(TRUE.astype(bool), dtype="boolean").mask(GONE),
        "NaT": with_nat,
        "masked dates": np.ma.array(days, mask=GONE),
        "durations": with_nat - days[0],
        "pandas dates": pandas.Series(with_nat),
    }


FORMS = (
    "NaN",
    "None",
    "Int64",
    "masked",
    "list",
    "words",
    "categories",
    "string dtype",
    "booleans",
    "marked booleans",
    "masked booleans",
    "boolean",
    "NaT",
    "masked dates",
    "durations",
    "pandas dates",
)


@cache
def fitted_to_marked_labels():
    return classifier().fit(moons(), MARKED)


@pytest.mark.parametrize("form", FORMS)
def test_labels_may_be_missing_in_any_form(form):
    y = missing_labels()[form]
    model, expected = classifier().fit(moons(), y), fitted_to_marked_labels()
    assert_array_equal(model.predict_proba(moons()), expected.predict_proba(moons()))
    assert len(model.classes_) == 2
    assert model.score(moons(), y) == expected.score(moons(), MARKED)


def test_boolean_labels_are_boolean_classes():
    pandas = pytest.importorskip("pandas")
    booleans = TRUE.astype(bool)
    for y in (
        booleans,
        booleans.astype(object),
        pandas.Series(booleans, dtype="boolean"),
        *(missing_labels()[form] for form in FORMS if "boolean" in form),
    ):
        model = classifier().fit(moons(), y)
        assert model.classes_.tolist() == [False, True]
        assert model.classes_.dtype == model.predict(moons()).dtype == bool
        _, drawn = model.sample(5, y=True, random_state=0)
        assert drawn.all()


def test_labels_of_polars_may_be_missing():
    polars = pytest.importorskip("polars")
    for form in ("booleans", "NaT"):
        y = missing_labels()[form]
        model = classifier().fit(moons(), polars.Series(y.tolist()))
        expected = classifier().fit(moons(), y)
        assert_array_equal(model.classes_, expected.classes_)
        assert model.classes_.dtype == expected.classes_.dtype
        proba = model.predict_proba(moons())
        assert_array_equal(proba, expected.predict_proba(moons()))


def test_dates_that_are_all_missing_are_no_labels():
    with pytest.raises(ValueError, match="No row has a label"):
        classifier().fit(moons(), np.full(len(TRUE), np.datetime64("NaT")))


def test_score_leaves_out_rows_without_a_label():
    words = np.array(["no", "yes"], dtype=object)[TRUE]
    words[GONE] = -1
    for y in (MARKED, words):
        model = classifier().fit(moons(), y)
        right = model.predict(moons())[~GONE] == y[~GONE]
        assert model.score(moons(), y) == pytest.approx(right.mean())
        scores = cross_val_score(classifier(), moons(), y, cv=3, error_score="raise")
        assert (scores > 0.5).all()
    with pytest.raises(ValueError, match="No row"):
        model.score(moons(), np.full(len(TRUE), -1, dtype=object))


def test_rows_of_one_class_are_drawn():
    words = np.array(["no", "yes"])[TRUE]
    model = classifier(n_components_per_class=2).fit(moons(), words)
    X, y = model.sample(20, y="yes", random_state=0)
    assert X.shape == (20, 2) and set(y) == {"yes"}
    _, both = model.sample(50, random_state=0)
    assert set(both) == {"no", "yes"}
    with pytest.raises(ValueError, match=r"\['no', 'yes'\]"):
        model.sample(3, y="maybe")


# Tensors.


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)],
    ids=str,
)
def test_tensors_give_tensors_under_dispatch(dtype):
    X, y = torch.as_tensor(moons().copy(), dtype=dtype), torch.as_tensor(MARKED)
    for model in each_estimator():
        expected = model.fit(X.numpy(), MARKED)
        answers = {
            name: getattr(expected, name)(X.numpy())
            for name in ("predict", "score_samples", "predict_proba")
            if hasattr(expected, name)
        }
        with config_context(array_api_dispatch=True):
            model.fit(X, y)
            for name, answer in answers.items():
                tensor = getattr(model, name)(X)
                assert isinstance(tensor, torch.Tensor)
                assert_array_equal(tensor.numpy(), answer)
            if hasattr(model, "fit_predict"):
                tensor = model.fit_predict(X)
                assert isinstance(tensor, torch.Tensor)
                assert_array_equal(tensor.numpy(), answers["predict"])


@pytest.mark.parametrize(
    ("dtype", "dispatch"),
    [
        (torch.bfloat16, False),
        (torch.float16, True),
        pytest.param(torch.bfloat16, True, marks=pytest.mark.slow),
        pytest.param(torch.float16, False, marks=pytest.mark.slow),
    ],
)
def test_tensors_of_half_precision(dtype, dispatch):
    X = torch.as_tensor(moons().copy(), dtype=dtype)
    y, weights = torch.as_tensor(TRUE), torch.ones(len(X), dtype=dtype)
    # Without dispatch scikit-learn converts tensors to float64.
    is_single = dispatch and dtype == torch.bfloat16
    wide = X.to(torch.float32 if is_single else torch.float64).numpy()
    for model in each_estimator():
        expected = model.fit(wide, TRUE).score_samples(wide)
        with config_context(array_api_dispatch=dispatch):
            scores = model.fit(X, y, sample_weight=weights).score_samples(X)
        assert isinstance(scores, torch.Tensor) == dispatch
        assert_array_equal(np.asarray(scores), expected)
        assert np.asarray(scores).dtype == expected.dtype


ARRAYS = (
    *("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
    *("flow_weights_", "flow_means_", "flow_covariances_", "flow_components_"),
)


def test_fitted_attributes_and_samples_are_tensors_after_a_fit_on_tensors(tmp_path):
    X = torch.as_tensor(moons().copy(), dtype=torch.float32)
    expected = make(FlowMixture, 2, **NETWORKS).fit(X.numpy())
    rows, labels = expected.sample(5, random_state=0)
    with config_context(array_api_dispatch=True):
        model = clone(expected).fit(X)
        found = model.sample(5, random_state=0)
        arrays = {name: getattr(model, name) for name in ARRAYS}
        of_one = model.sample(3, component=1, random_state=0)[1]
        copies = pickle.loads(pickle.dumps(model)), copy.deepcopy(model)
    wanted = {name: getattr(expected, name) for name in ARRAYS}
    wanted |= {"labels_": expected.labels_, "rows": rows, "labels": labels}
    arrays |= {"labels_": model.labels_, "rows": found[0], "labels": found[1]}
    for name, value in arrays.items():
        assert isinstance(value, torch.Tensor), name
        assert_array_equal(value.numpy(), wanted[name])
        assert value.numpy().dtype == wanted[name].dtype
    assert of_one.tolist() == [1, 1, 1]
    skflowmix.save(model, tmp_path / "model")
    loaded = skflowmix.load(tmp_path / "model")
    # Copies can be loaded where the tensors' device is missing.
    for other in (*copies, loaded):
        assert type(other.means_) is type(other.labels_) is np.ndarray
        assert_array_equal(other.means_, expected.means_)
        assert_array_equal(other.sample(5, random_state=0)[0], rows)
        assert_array_equal(other.predict(X), expected.labels_)
        assert joblib.hash(other) == joblib.hash(model) == joblib.hash(expected)


def test_fitted_tensors_are_copies():
    X = torch.as_tensor(moons().copy())
    with config_context(array_api_dispatch=True):
        model = make(FlowMixture, 2, **NETWORKS).fit(X.requires_grad_())
        model.flow_components_.zero_()
        assert set(model.sample(50, random_state=0)[1].tolist()) == {0, 1}


def test_the_kind_of_the_attributes_follows_the_last_rows():
    X = torch.as_tensor(moons().copy())
    model = make(FlowMixture, 2, **NETWORKS)
    with config_context(array_api_dispatch=True):
        model.partial_fit(X).partial_fit(X)
        assert isinstance(model.means_, torch.Tensor)
        model.partial_fit(X.numpy())
        assert type(model.means_) is np.ndarray
        assert type(model.sample(2)[0]) is np.ndarray
        model.fit(pd.DataFrame(X.numpy(), columns=["a", "b"]))
        assert type(model.means_) is np.ndarray
    # Without dispatch tensors are taken for NumPy arrays.
    assert type(model.fit(X).means_) is np.ndarray


def test_classes_are_drawn_as_tensors_after_a_fit_on_tensors():
    X, y = torch.as_tensor(moons().copy()), torch.as_tensor(MARKED)
    with config_context(array_api_dispatch=True):
        model = classifier().fit(X, y)
        rows, labels = model.sample(4, y=1)
        assert isinstance(model.mixture_.means_, torch.Tensor)
        words = classifier().fit(X, np.array(["no", "yes", "?"])[MARKED])
        assert type(words.sample(4)[1]) is np.ndarray
        swapped = classifier().fit(X, MARKED.astype(">i4"))
        assert isinstance(swapped.sample(4)[1], torch.Tensor)
        wide = classifier().fit(X, MARKED.astype(np.longdouble))
        assert type(wide.sample(4)[1]) is np.ndarray
    assert isinstance(rows, torch.Tensor)
    assert labels.tolist() == [1] * 4
    assert type(model.sample(4)[0]) is np.ndarray


# Messages.


def test_parameters_that_moved_or_mean_nothing_say_so():
    with pytest.raises(TypeError, match=r"options=FlowMixtureOptions\(batch_size=64\)"):
        FlowMixture(2, batch_size=64)
    for cls in (FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector):
        with pytest.raises(TypeError, match="covariance_type: components are flows"):
            cls(covariance_type="full")
    with pytest.raises(TypeError, match="precisions_init"):
        FlowMixture(precisions_init=np.eye(2))
    with pytest.raises(TypeError, match="unexpected keyword"):
        FlowMixture(nonsense=1)


def test_columns_without_numbers_are_named():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(moons(), columns=["left", "right"])
    table["color"] = "red"
    table["day"] = pandas.Timestamp("2020-01-01")
    for model in each_estimator():
        with pytest.raises((TypeError, ValueError), match=r"Columns 'color', 'day'"):
            model.fit(table, TRUE)
    rows = moons().astype(object)
    rows[3, 1] = "unknown"
    with pytest.raises(ValueError, match="Column 1 of X holds values that are not"):
        FlowMixture().fit(rows)


@pytest.mark.parametrize(
    "cls", [FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector]
)
def test_setting_what_is_no_parameter_says_why(cls):
    with pytest.raises(ValueError, match="has no covariance_type: components are"):
        cls().set_params(covariance_type="full")
    with pytest.raises(ValueError, match="has no precisions_init: components start"):
        cls().set_params(precisions_init=np.eye(2))
    where = r"options=FlowMixtureOptions\(batch_size=64\), or set options__batch_size"
    with pytest.raises(ValueError, match=where):
        cls().set_params(batch_size=64)
    with pytest.raises(ValueError, match="Invalid parameter 'nonsense'"):
        cls().set_params(nonsense=1)
    search = GridSearchCV(cls(), {"covariance_type": ["full"]}, scoring=len)
    with pytest.raises(ValueError, match="has no covariance_type"):
        search.fit(moons(), TRUE)
    changed = cls(options=FlowMixtureOptions()).set_params(options__batch_size=64)
    assert changed.options.batch_size == 64


@pytest.mark.parametrize("checkpoint", [5, True, b"x", ["a"], {}])
def test_a_checkpoint_is_a_path(checkpoint):
    for model in each_estimator():
        with pytest.raises(TypeError, match="checkpoint must be the path of a folder"):
            model.fit(moons(), TRUE, checkpoint=checkpoint)


@pytest.mark.parametrize(
    "sample_weight", ["x", b"x", ["a"] * len(TRUE), np.full(len(TRUE), "a"), {}]
)
def test_weights_are_named_where_they_are_no_numbers(sample_weight):
    for model in each_estimator():
        with pytest.raises(ValueError, match="sample_weight must hold a number"):
            model.fit(moons(), TRUE, sample_weight=sample_weight)


@pytest.mark.parametrize("seed", ["x", -1, 2**32, 0.5, [1]])
def test_the_seed_of_samples_is_named(seed):
    for model in (FlowMixture(n_transforms=0), classifier(n_transforms=0)):
        model.fit(moons(), TRUE)
        with pytest.raises(ValueError, match="random_state must be an int from 0"):
            model.sample(2, random_state=seed)


def test_the_class_of_samples_is_one_label():
    pandas = pytest.importorskip("pandas")
    for y in (TRUE, TRUE.astype(bool), np.array(["no", "yes"])[TRUE]):
        model = classifier(n_transforms=0).fit(moons(), y)
        many = [y[:3], y[:2], y[:1], y[:2].tolist(), pandas.Series(y[:2]), [[], [1]]]
        for label in (*many, pandas.NA, np.nan, "maybe", {}):
            with pytest.raises(ValueError, match="y must be one of the classes"):
                model.sample(2, y=label)


def dates_in_rows():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    left = moons()[:, 0]
    days = np.datetime64("2020-01-01", "us") + np.arange(len(left))
    spans = days - days[0]
    mixed = np.c_[left.astype(object), left.astype(object)]
    mixed[:, 1] = list(spans)
    in_a_zone = pandas.DatetimeIndex(days, tz="UTC")
    two_days = {"day": days, "night": days}
    return [
        (polars.DataFrame({"left": left, "day": days}), "Column 'day'"),
        (polars.DataFrame({"left": left, "day": days.astype("M8[D]")}), "Column 'day'"),
        (polars.DataFrame({"left": left, "span": spans}), "Column 'span'"),
        (polars.DataFrame(two_days), "Columns 'day', 'night'"),
        (pandas.DataFrame(two_days), "Columns 'day', 'night'"),
        (pandas.DataFrame({"span": spans, "other": spans}), "Columns 'span', 'other'"),
        (pandas.DataFrame({"day": days}).astype("category"), "Column 'day'"),
        (pandas.DataFrame({"day": in_a_zone}), "Column 'day'"),
        (np.c_[days, days], "Columns 0, 1"),
        (np.c_[spans, spans], "Columns 0, 1"),
        (np.ma.array(np.c_[days, days]), "Columns 0, 1"),
        (mixed, "Column 1"),
        (mixed.tolist(), "Column 1"),
        (np.c_[days, days].astype("M8[ns]"), "Columns 0, 1"),
    ]


def test_dates_are_no_numbers():
    fitted = FlowMixture(n_transforms=0).fit(moons())
    for X, where in dates_in_rows():
        for model in each_estimator():
            with pytest.raises(ValueError, match=f"{where} of X holds? values"):
                model.fit(X, TRUE)
        with pytest.raises(ValueError, match=f"{where} of X holds? values"):
            fitted.score_samples(X)
    with pytest.raises(ValueError, match="Expected 2D array"):
        fitted.fit(np.arange(20).astype("M8[s]"))


def test_lazy_tables_are_refused():
    polars = pytest.importorskip("polars")
    table = polars.DataFrame(moons(), schema=["left", "right"])
    fitted = FlowMixture(n_transforms=0).fit(table)
    for model in each_estimator():
        with pytest.raises(TypeError, match=r"LazyFrame.*X\.collect\(\)"):
            model.fit(table.lazy(), TRUE)
    with pytest.raises(TypeError, match=r"LazyFrame.*X\.collect\(\)"):
        fitted.score_samples(table.lazy())


def test_a_warning_where_flows_are_not_trained():
    with pytest.warns(UserWarning, match="Flows are not trained on 40 distinct rows"):
        small(2).fit(moons()[:40])
    y = np.where(np.arange(len(TRUE)) < 40, TRUE, -1)
    model = FlowMixtureClassifier(unlabeled_weight=0, random_state=0)
    left_out = rf"on 40 distinct rows .* {len(TRUE) - 40} rows without a label are left"
    with pytest.warns(UserWarning, match=left_out):
        model.fit(moons(), y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_warm_starts_say_whether_there_are_flows():
    flows = small(2, warm_start=True).fit(moons())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Flows are not trained")
        flows.fit(moons()[:10])
    assert flows.module_.components.n_flow_parameters
    with pytest.warns(UserWarning, match="on 6 distinct rows"):
        gaussians = small(2, warm_start=True).fit(moons()[:6])
    with pytest.warns(UserWarning, match="to continue is a mixture of Gaussians"):
        gaussians.fit(moons())


def test_verbose_lines_say_when_and_in_which_units(capsys):
    model = small(2, verbose=2, n_init=2).fit(moons())
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("[FlowMixture] 0:") for line in lines)
    assert "150 distinct rows, 2 columns" in lines[0]
    epochs = [line for line in lines if " epoch " in line]
    assert len(epochs) >= len(model.history_)
    record, log_scale = model.history_[0], model._log_scale
    score = record["validation_log_likelihood"] - log_scale
    assert any(f"log-likelihood {score:.4f} nats" in line for line in epochs)
    small(2, verbose=1).fit(moons())
    assert 2 <= len(capsys.readouterr().out.splitlines()) < len(epochs)
    small(2).fit(moons())
    assert not capsys.readouterr().out


# Starts.


@pytest.mark.slow
def test_a_clusterer_in_a_grid_follows_the_number_of_components():
    grid = {"n_components": [2, 3, 9], "init_params": [KMeans(), GaussianMixture()]}
    model = make(FlowMixture, **{**NETWORKS, "n_transforms": 0})
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(moons())
    best = search.best_params_
    assert search.best_estimator_.n_components_ == best["n_components"]
    assert grid["init_params"][0].n_clusters == 8


def test_weights_are_where_a_fit_starts():
    X, _ = make_blobs(200, centers=[[0, 0], [20, 0]], random_state=0)
    model = small(2, weights_init=[0.9, 0.1]).fit(X)
    assert_allclose(model.weights_, 0.5, atol=0.05)


# Scorers.


@pytest.mark.parametrize("marks", [(1, -1), (0, 1), (False, True)], ids=str)
def test_outlier_auc_is_scikit_learns(marks):
    model = small(2).fit(moons())
    is_outlier = np.arange(len(TRUE)) % 7 == 0
    y = np.where(is_outlier, marks[1], marks[0])
    expected = roc_auc_score(is_outlier, -model.score_samples(moons()))
    assert outlier_auc_scorer(model, moons(), y) == expected
    with pytest.raises(ValueError, match=r"got \[.*\]\. StratifiedKFold"):
        outlier_auc_scorer(model, moons(), np.full(len(y), marks[0]))
    with pytest.raises(ValueError, match=r"-1 for outliers.*got \[.*\]\.$"):
        outlier_auc_scorer(model, moons(), TRUE + 5)


def test_log_likelihood_is_of_dequantized_rows():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.poisson(4, 300), rng.normal(size=300)]).astype(float)
    model = small(2, n_transforms=0).fit(X)
    score = log_likelihood_scorer(model, X)
    noisy = X + np.column_stack([rng.uniform(-0.5, 0.5, 300), np.zeros(300)])
    assert score == pytest.approx(model.score(noisy), abs=0.1)
    assert score == log_likelihood_scorer(model, X.copy())
    continuous = X[:, 1:] * 3.0
    model = small(2, n_transforms=0).fit(continuous)
    assert log_likelihood_scorer(model, continuous) == model.score(continuous)


def test_adjusted_rand_index_is_of_a_clone():
    model = small(2, n_transforms=0)
    expected = adjusted_rand_score(TRUE, small(2, n_transforms=0).fit_predict(moons()))
    assert adjusted_rand_scorer(model, moons(), TRUE) == expected
    assert not hasattr(model, "module_")


def test_precisions_are_inverses():
    model = small(3).fit(moons())
    expected = np.linalg.inv(model.covariances_)
    assert_allclose(model.precisions_, expected, rtol=1e-9)
    factors = model.precisions_cholesky_
    assert_allclose(factors @ factors.transpose(0, 2, 1), expected, rtol=1e-9)
    assert not np.tril(factors, -1).any()


def test_precisions_of_columns_in_far_units():
    units = np.array([1e-300, 1e300, 1.0])
    X = np.c_[moons(), moons()[:, :1] ** 2]
    model = small(2, n_transforms=0).fit(X * units)
    found, factors = model.precisions_, model.precisions_cholesky_ * units[:, None]
    expected = factors @ factors.transpose(0, 2, 1)
    assert_allclose(found[:, 0, 1], expected[:, 0, 1], rtol=1e-9)
    assert (found == found.transpose(0, 2, 1)).all()


@pytest.mark.parametrize("scale", [1e-160, 1e300])
def test_precisions_beyond_the_largest_float_are_infinite(scale):
    X = np.c_[moons(), moons()[:, :1] ** 2]
    model = small(2, n_transforms=0).fit(X * scale)
    with np.errstate(all="raise"):
        precisions, factors = model.precisions_, model.precisions_cholesky_
    assert not np.isnan(precisions).any() and np.isfinite(factors).all()
    assert not np.isnan(model.covariances_).any()
    too_large = precisions if scale < 1 else model.covariances_
    assert np.isinf(too_large).all()


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_error_handling_of_numpy_does_not_count(scale):
    X = moons() * scale
    for model in each_estimator():
        with np.errstate(all="raise"):
            model.fit(X, MARKED)
            scores = model.score_samples(X)
            model.predict(X)
            if hasattr(model, "predict_proba"):
                model.predict_proba(X)
        assert np.isfinite(scores).all()


def test_torchs_default_dtype_does_not_count():
    expected = small(2).fit(moons()).score_samples(moons())
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            scores = small(2).fit(moons()).score_samples(moons())
        finally:
            torch.set_default_dtype(torch.float32)
        assert_array_equal(scores, expected)


def test_score_takes_labels_as_fit_does():
    model = classifier().fit(moons(), TRUE)
    expected = model.score(moons(), TRUE)
    with pytest.warns(UserWarning, match="column-vector"):
        assert model.score(moons(), TRUE[:, None]) == expected
    with pytest.raises(ValueError, match="inconsistent numbers"):
        model.score(moons(), TRUE[:5])


def test_weight_is_repetition_for_given_responsibilities():
    shares = np.eye(2)[TRUE] * 0.8 + 0.1
    other = shares[:1, ::-1]
    rows, both = np.r_[moons(), moons()[:1]], np.r_[shares, other]
    weights = np.ones(len(rows))
    weights[0] = 3
    weighted = small(2, init_params=both, n_transforms=0)
    weighted.fit(rows, sample_weight=weights)
    repeated = small(2, init_params=np.r_[both, both[[0, 0]]], n_transforms=0).fit(
        np.r_[rows, rows[[0, 0]]]
    )
    assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)


def test_setting_an_option_leaves_a_shared_object_alone():
    options = FlowMixtureOptions(n_iter_init=1)
    one, other = (FlowMixture(2, options=options) for _ in range(2))
    one.set_params(options__n_iter_init=3)
    assert options.n_iter_init == other.options.n_iter_init == 1
    assert one.options.n_iter_init == 3


def test_log_likelihood_of_tables_with_missing_values_and_words():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.poisson(4, 300), rng.normal(size=300)]).astype(float)
    model = make_pipeline(SimpleImputer(), small(2, n_transforms=0)).fit(X)
    holed = X.copy()
    holed[5, 0] = np.nan
    score = log_likelihood_scorer(model, X)
    assert log_likelihood_scorer(model, holed) == pytest.approx(score, abs=0.05)
    words = pd.DataFrame(X, columns=["a", "b"])
    words["c"] = np.where(X[:, 1] > 0, "u", "v")
    encoder = make_column_transformer((OneHotEncoder(), ["c"]), remainder="passthrough")
    model = make_pipeline(encoder, small(2, n_transforms=0))
    assert np.isfinite(log_likelihood_scorer(model.fit(words), words))


def test_names_to_choose_from_are_told_in_one_order():
    with pytest.raises(ValueError, match="'auto', 'gmm', 'k-means") as told:
        small(init_params="foo").fit(moons())
    names = re.findall("'([^']*)'", str(told.value).split("among")[1].split("}")[0])
    assert names == sorted(names)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["multiprocessing", "threading", "loky"])
def test_restarts_are_the_same_on_all_backends(backend):
    model = small(2, n_init=2, n_jobs=2, n_transforms=0)
    alone = clone(model).set_params(n_jobs=1).fit(moons())
    with parallel_config(backend):
        model.fit(moons())
    assert_array_equal(model.score_samples(moons()), alone.score_samples(moons()))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint64])
@pytest.mark.parametrize(
    "cls", [FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector]
)
def test_integers_of_numpy_neither_overflow_nor_become_floats(cls, kind):
    options = FlowMixtureOptions(
        n_iter_init=kind(1),
        posterior_units=(kind(8),),
        batch_size=kind(100),
        n_common_transforms=kind(1),
    )
    parameters = {
        "max_iter": 1,
        "n_transforms": 1,
        "random_state": 0,
        "n_components": 2,
        "n_components_per_class": 1,
        "max_components": 3,
    }
    known = cls().get_params()
    chosen = {name: kind(v) for name, v in parameters.items() if name in known}
    y = np.arange(len(moons())) % 2
    model = cls(hidden_units=(kind(8),), options=options, **chosen).fit(moons(), y)
    assert len(model.predict(moons())) == len(moons())
    if cls is FlowMixture:
        assert model.set_params(n_components="auto").fit(moons()).n_components_ <= 3
