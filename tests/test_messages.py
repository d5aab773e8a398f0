"""What estimators say of rows: codes, NaN, infinity and masked entries by column."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from small_models import make

from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOutlierDetector,
)
from skflowmix.validation import find_codes

FAST = {
    "n_transforms": 1,
    "hidden_units": (4,),
    "posterior_units": (4,),
    "init_params": "kmeans",
    "max_iter": 1,
    "n_iter_init": 1,
    "tol": 1e9,
    "n_iter_no_change": 1,
    "random_state": 0,
}
each_estimator = pytest.mark.parametrize(
    "cls", [FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector]
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # scikit-learn sums the rows first to see whether they are finite.
    pytest.mark.filterwarnings(
        "ignore:invalid value encountered in reduce:RuntimeWarning"
    ),
]
N = 200


def fit(cls, X, **kwargs):
    model = make(cls, 2, **FAST)
    if cls is FlowMixtureClassifier:
        return model.fit(X, np.arange(len(X)) % 3 // 2, **kwargs)
    return model.fit(X, **kwargs)


def generator(seed=0):
    return np.random.default_rng(seed)


def rows(n_columns=2):
    return generator(5).normal(size=(N, n_columns))


def with_code(values, *codes, share=0.05):
    values = np.array(values, dtype=float)
    size = round(share * len(values))
    order = generator(1).permutation(len(values))
    for i, code in enumerate(codes):
        values[order[i * size : (i + 1) * size]] = code
    return values


def found_in(column, weights=None):
    X = np.c_[column, generator(2).normal(size=len(column))]
    weights = np.ones(len(X)) if weights is None else weights
    codes = find_codes(X, weights)
    assert set(codes) <= {0}
    return [value for value, _ in codes.get(0, [])]


# Codes.

ages = generator(3).uniform(20, 80, N)
weights_of_bodies = generator(4).normal(75, 12, N).clip(40, 120)
normal = generator(5).normal(size=N)
CODES = {
    "-999": (ages, [-999]),
    "-99": (ages, [-99]),
    "9999": (ages, [9999]),
    "-1": (ages, [-1]),
    "0 among weights": (weights_of_bodies, [0]),
    "integers": (np.rint(ages), [-1]),
    "-9999 among normal values": (normal, [-9999]),
    "lognormal": (np.exp(normal), [-99]),
    "scores": (generator(6).integers(1, 6, N), [99]),
    "no usual code": (normal, [-555]),
    "two on one side": (ages, [-999, -998]),
    "one on each side": (ages, [-99, 999]),
    "one on each side of scores": (generator(6).integers(1, 6, N), [-99, 999]),
    "fractions": (ages, [99.99]),
    "large": (normal, [1e30]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [0.05, 0.12])
@pytest.mark.parametrize(("values", "codes"), CODES.values(), ids=CODES)
def test_codes_are_found(values, codes, share, dtype):
    column = with_code(values, *codes, share=share).astype(dtype)
    assert_allclose(found_in(column), sorted(codes))


@pytest.mark.parametrize("code", [-999, -99, 9999, -1, 0])
def test_a_quarter_of_the_rows(code):
    values = weights_of_bodies if code == 0 else ages
    assert found_in(with_code(values, code, share=0.25)) == [code]


exponential = generator(7).exponential(size=N)
HONEST = {
    "normal": normal,
    "uniform": ages,
    "binary": generator(8).integers(0, 2, N),
    "signs": generator(8).choice([-1, 0, 1], N),
    "rare flag": np.arange(N) < 2,
    "small integers": generator(8).integers(1, 6, N),
    "counts": generator(8).poisson(1, N),
    "large counts": generator(8).negative_binomial(1, 0.05, N),
    "zeros and exponential": with_code(exponential, 0, share=0.4),
    "zeros and lognormal": with_code(np.exp(normal), 0, share=0.3),
    "mostly zeros": with_code(ages, 0, share=0.97),
    "lognormal": np.exp(2 * normal),
    "Cauchy": generator(8).standard_cauchy(N),
    "two groups": np.r_[normal[:100], 1e3 + normal[100:]],
    "a small group": np.r_[normal[:195], 1e3 + normal[195:]],
    "one outlier": np.r_[normal[:-1], 1e9],
    "powers of ten": 10.0 ** generator(8).integers(0, 6, N),
    "constant": np.ones(N),
    "rounded": normal.round(1),
    "float limits": np.where(normal > 0, 1, -1) * np.finfo(float).max,
}


@pytest.mark.parametrize("column", HONEST.values(), ids=HONEST)
def test_honest_columns(column):
    assert found_in(np.asarray(column, dtype=float)) == []


def test_one_hot_columns_and_few_rows():
    assert find_codes(np.eye(4)[np.arange(N) % 4], np.ones(N)) == {}
    X = np.c_[with_code(ages, -999)]
    assert find_codes(X[:40], np.ones(40)) == {}


def test_one_outlier_stays_one_when_rows_are_drawn_again():
    X = np.c_[HONEST["one outlier"], normal]
    for draw in (np.arange(2 * N) % N, generator(9).integers(0, N, N), [*range(N), -1]):
        assert find_codes(X[draw], np.ones(len(draw))) == {}


@pytest.mark.parametrize("code", [-999, -555])
def test_a_weight_is_a_repetition(code):
    X = np.c_[with_code(ages, code, share=0.02), normal]
    weights = generator(9).integers(1, 5, N)
    codes = find_codes(X, weights.astype(float))
    assert list(codes) == [0]
    assert find_codes(np.repeat(X, weights, axis=0), np.ones(weights.sum())) == codes
    assert find_codes(X, 4.0 * weights) == codes


def test_rare_codes():
    """The share is that of the weight: 0.2 % is not more than 0.2 %."""
    column = generator(3).uniform(20, 80, 1000)
    column[:2] = -999
    assert found_in(column) == []
    assert found_in(column, np.where(column < 0, 1.1, 1.0)) == [-999]


@each_estimator
def test_warning_names_column_value_and_share(cls):
    frame = pd.DataFrame({"age": with_code(ages, -999), "size": normal})
    for X, name in ((frame, "'age'"), (frame.to_numpy(), "0")):
        with pytest.warns(UserWarning, match="look like codes") as warned:
            fit(cls, X)
        codes = [w for w in warned if "codes" in str(w.message)]
        assert len(codes) == 1
        message = str(codes[0].message)
        assert f"column {name}: -999 in 5 % of the rows" in message
        assert "SimpleImputer" in message
        assert codes[0].filename == __file__


@each_estimator
def test_the_mixture_of_an_estimator_warns_by_itself(cls):
    X = np.c_[with_code(ages, -999), normal]
    with pytest.warns(UserWarning):
        model = fit(cls, X)
    with pytest.warns(UserWarning, match="column 0"):
        getattr(model, "mixture_", model).fit(X)


def test_warning_lists_ten_columns():
    X = np.c_[with_code(ages, -99, 999), np.tile(with_code(ages, -1), (12, 1)).T]
    with pytest.warns(UserWarning, match="look like codes") as warned:
        fit(FlowMixture, X)
    message = str(warned[0].message)
    assert "column 0: -99 in 5 % of the rows, 999 in 5 % of the rows; " in message
    assert "column 9: -1 in 5 % of the rows; and 3 more" in message
    assert "column 10" not in message


def test_a_row_without_weight_holds_no_code():
    X = np.c_[with_code(ages, -999), normal]
    fit(FlowMixture, X, sample_weight=(X[:, 0] > 0).astype(float))


# NaN and infinity.

BAD = {"NaN": np.nan, "inf": np.inf, "-inf": -np.inf}


@each_estimator
@pytest.mark.parametrize("assume_finite", [False, True])
def test_error_names_columns(cls, assume_finite):
    X = rows(3)
    X[:3, 1], X[5, 2] = np.nan, np.nan
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    for given, names in ((X, "1 (3 rows), 2 (1 row)"), (frame, "'b' (3 rows), 'c'")):
        with (
            config_context(assume_finite=assume_finite),
            pytest.raises(ValueError, match="Input X contains NaN") as error,
        ):
            fit(cls, given)
        assert f"NaN is in columns {names}" in str(error.value)
        assert "sklearn.impute.SimpleImputer" in str(error.value)


@each_estimator
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_error_names_infinite_columns(cls, value):
    for dtype in (np.float64, np.float32):
        X = rows().astype(dtype)
        X[7, 1] = value
        for assume_finite in (False, True):
            with (
                config_context(assume_finite=assume_finite),
                pytest.raises(ValueError, match="Input X contains infinity") as error,
            ):
                fit(cls, X)
            assert "Infinity is in column 1 (1 row)." in str(error.value)


def test_error_lists_ten_columns():
    X = rows(13)
    X[0] = np.nan
    with pytest.raises(ValueError, match=r"columns 0 .* 9 \(1 row\), and 3 more\."):
        fit(FlowMixture, X)


@each_estimator
def test_a_failed_fit_is_no_fit(cls):
    model = make(cls, 2, **FAST)
    X = rows()
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN is in column 0"):
        model.fit(X, np.arange(N) % 2)
    with pytest.raises(NotFittedError):
        model.predict(X)


@each_estimator
def test_every_question_needs_a_fit(cls):
    model, X = make(cls, 2, **FAST), rows()
    questions = [
        name
        for name in dir(model)
        if not name.startswith(("_", "fit", "get_", "partial_fit", "set_"))
        and callable(getattr(model, name))
    ]
    assert {"score_samples", "predict", *methods(model)} <= set(questions)
    for name in questions:
        given = () if name == "sample" else (X,)
        if name == "score" and cls is FlowMixtureClassifier:
            given = (X, np.arange(N) % 2)
        with pytest.raises(NotFittedError, match=f"This {cls.__name__} instance is no"):
            getattr(model, name)(*given)


def methods(model):
    names = (
        "score_samples",
        "predict",
        "predict_proba",
        "posterior_proba",
        "component_log_prob",
        "predict_joint_log_proba",
        "predict_log_proba",
        "elbo",
        "decision_function",
    )
    return [name for name in names if hasattr(model, name)]


@each_estimator
def test_scoring(cls):
    """An error by default, and the answer for nothing known under `assume_finite`."""
    X = rows()
    model = fit(cls, X)
    frame = fit(cls, pd.DataFrame(X, columns=["a", "b"]))
    weights = getattr(model, "mixture_", model).weights_
    if cls is FlowMixtureClassifier:
        weights = weights.reshape(2, 2).sum(1)
    for dtype in (np.float64, np.float32):
        new = X.astype(dtype)
        for i, value in enumerate(BAD.values()):
            new[10 * i, i % 2] = value
        new[50] = np.nan
        new[51] = np.inf, -np.inf
        bad = ~np.isfinite(new).all(1)
        filled = np.where(bad[:, None], 0, new).astype(dtype)
        for name in methods(model):
            with pytest.raises(ValueError, match=r"NaN is in columns 0 \(2 rows\), 1"):
                getattr(model, name)(new)
            with pytest.raises(ValueError, match=r"NaN is in columns? 'a'"):
                getattr(frame, name)(pd.DataFrame(new[:9], columns=["a", "b"]))
            with config_context(assume_finite=True):
                answer = getattr(model, name)(new)
                only_bad = getattr(model, name)(new[bad])
            assert_array_equal(answer[bad], only_bad)
            # Products are rounded by the number of rows that flows act on.
            expected = getattr(model, name)(filled)[~bad]
            rtol = 1e-12 if dtype == np.float64 else 1e-4
            assert_allclose(answer[~bad], expected, rtol=rtol, atol=rtol)
            # With labels the shares of the classes are fitted to these.
            prior = np.exp(getattr(model, "class_log_prior_", np.log(weights)))
            if name == "predict":
                expected = prior.argmax()
                if cls is FlowMixtureOutlierDetector:
                    expected = -1
            elif name == "predict_log_proba":
                expected = np.log(prior)
            elif name == "predict_proba":
                expected = prior
            elif name == "posterior_proba":
                expected = weights
            else:
                expected = -np.inf
            expected = np.broadcast_to(expected, answer[bad].shape)
            assert_allclose(answer[bad], expected, rtol=1e-5, err_msg=name)


@pytest.mark.filterwarnings("ignore:.ic counts every weight")
def test_mean_scores():
    model = fit(FlowMixture, rows())
    new = rows()
    new[3, 1] = np.nan
    with config_context(assume_finite=True):
        assert model.score(new) == -np.inf
        assert model.bic(new) == model.aic(new) == np.inf
        without = model.score(new, sample_weight=np.arange(N) != 3)
    assert_allclose(without, model.score(np.delete(new, 3, axis=0)))


def test_answers_for_nothing_known_have_the_number_of_components_that_was_found():
    X = rows()
    X[::2] += 20
    model = make(FlowMixture, "auto", **FAST).fit(X)
    assert model.n_components_ == 2
    with config_context(assume_finite=True):
        nothing = np.full((1, 2), np.nan)
        assert_allclose(model.predict_proba(nothing)[0], model.weights_)
        assert_allclose(model.posterior_proba(nothing)[0], model.weights_)
        log_prob = model.component_log_prob(nothing)
        assert_array_equal(log_prob, np.full((1, 2), -np.inf))


def test_starts_are_checked_whatever_is_assumed():
    with (
        config_context(assume_finite=True),
        pytest.raises(ValueError, match="means_init must hold finite numbers"),
    ):
        make(FlowMixture, 1, means_init=[[0.0, np.nan]], **FAST).fit(rows())


# Masked arrays.


@each_estimator
def test_masked_arrays(cls):
    X = rows()
    mask = np.zeros(X.shape, dtype=bool)
    model = fit(cls, np.ma.array(X, mask=mask))
    expected = fit(cls, X).score_samples(X)
    for unmasked in (
        np.ma.array(X),
        np.ma.array(X, mask=mask),
        np.ma.array(X).tolist(),
    ):
        assert_array_equal(model.score_samples(unmasked), expected)
    mask[:2, 1] = True
    masked = np.ma.array(X, mask=mask)
    refused = [masked, masked.astype(np.float32), masked[:, 1:], list(masked)]
    for given in (*refused, np.ma.array(np.rint(X).astype(int), mask=mask)):
        for assume_finite in (False, True):
            with config_context(assume_finite=assume_finite):
                match = r"masked entries in column [01] \(2 rows\).*SimpleImputer"
                with pytest.raises(ValueError, match=match):
                    fit(cls, given)
                if given is not refused[2]:
                    with pytest.raises(ValueError, match=match):
                        model.score_samples(given)
                    with pytest.raises(ValueError, match=match):
                        model.predict(given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(masked.filled(0.0))
