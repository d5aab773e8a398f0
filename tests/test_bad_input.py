"""Bad input: a clear error or a working model, never a NaN."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from joblib import parallel_backend
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils._param_validation import InvalidParameterError, make_constraint
from small_models import (
    answers,
    assert_same_answers,
    each_flow_slowly,
    make,
    moons,
    small,
)

from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOptions,
    FlowMixtureOutlierDetector,
)
from skflowmix.model.flows import FLOWS
from skflowmix.parameter_checks import check_model

each_flow = pytest.mark.parametrize("flow", FLOWS)
# scikit-learn sums the rows first to see whether they are finite.
pytestmark = pytest.mark.filterwarnings(
    "ignore:invalid value encountered in reduce:RuntimeWarning"
)
rng = np.random.RandomState(0)
LARGEST = np.finfo(np.float64).max


def assert_works(model, X):
    """Every answer about the training rows and new ones is finite."""
    for name in ("weights_", "means_", "lower_bound_", "elbo_gap_", "lower_bounds_"):
        assert np.isfinite(getattr(model, name)).all(), name
    assert not np.isnan(model.covariances_).any()
    assert_allclose(model.weights_.sum(), 1)
    new, _ = model.sample(20, random_state=0)
    assert np.isfinite(new).all()
    for rows in (X, new):
        for name, answer in answers(model, rows).items():
            assert np.isfinite(answer).all(), name
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(model.score(X))
    assert_array_equal(model.labels_, model.predict(X))


# Rows that no model can be fitted to.


def with_cell(value):
    X = moons().copy()
    X[7, 1] = value
    return X


REFUSED = {
    "NaN": (with_cell(np.nan), ValueError, "Input X contains NaN"),
    "inf": (with_cell(np.inf), ValueError, "Input X contains infinity"),
    "-inf": (with_cell(-np.inf), ValueError, "Input X contains infinity"),
    "None": (with_cell(0).astype(object), ValueError, "NaN"),
    "words": (np.array([["a", "b"]] * 20), ValueError, "Columns 0, 1 of X hold val"),
    "sparse array": (sp.csr_array(moons()), TypeError, r"(?i)sparse.*dense"),
    "sparse matrix": (sp.csr_matrix(moons()), TypeError, r"(?i)sparse.*dense"),
    "complex": (moons() + 1j, ValueError, "Complex data not supported"),
    "0-d": (np.array(1.0), ValueError, "Expected 2D array"),
    "1-d": (moons()[:, 0], ValueError, "Expected 2D array, got 1D array"),
    "3-d": (moons()[None], ValueError, "dim 3"),
    "no rows": (np.empty((0, 2)), ValueError, r"0 sample\(s\)"),
    "no columns": (np.empty((9, 0)), ValueError, r"0 feature\(s\)"),
    "one row": (moons()[:1], ValueError, r"1 sample\(s\).* minimum of 2"),
    "ragged": ([[1.0, 2.0], [3.0]] * 9, ValueError, "inhomogeneous"),
    "nothing": (None, ValueError, "Expected 2D array"),
}
REFUSED["None"][0][3, 1] = None


@pytest.mark.parametrize(("X", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_refused(X, error, match):
    with pytest.raises(error, match=match):
        small(1).fit(X)
    if "minimum" not in match:
        with pytest.raises(error, match=match):
            small(1).fit(moons()).score_samples(X)


@pytest.mark.parametrize("estimator", [FlowMixture, FlowMixtureOutlierDetector])
def test_a_single_row_that_counts(estimator):
    with pytest.raises(ValueError, match="must be positive for at least 2 rows"):
        estimator().fit(moons(), sample_weight=np.arange(150) == 3)


def test_fewer_rows_than_components():
    with pytest.raises(ValueError, match=r"n_samples=3 and n_components=4"):
        small(4).fit(moons()[:3])


# Rows that are hard.

X = moons()
HARD = {
    "constant column": np.c_[X, np.ones(len(X))],
    "large constant column": np.c_[X, np.full(len(X), 1e300)],
    "nearly constant column": np.c_[X, 1 + 1e-15 * X[:, 0]],
    "all columns constant": np.tile([[1.0, -2.0]], (30, 1)),
    "zeros": np.zeros((30, 2)),
    "two distinct rows": np.repeat([[0.0, 1.0], [1.0, 0.0]], 20, axis=0),
    "duplicated columns": np.c_[X, X],
    "linearly dependent columns": np.c_[X, X.sum(axis=1)],
    "integers": rng.randint(0, 5, size=(100, 3)),
    "large integers": rng.randint(0, 2**62, size=(100, 2)),
    "unsigned": rng.randint(0, 255, size=(100, 3)).astype(np.uint8),
    "booleans": rng.uniform(size=(100, 3)) > 0.5,
    "one-hot": np.eye(4)[rng.randint(0, 4, size=100)],
    "counts of zeros": rng.poisson(0.1, size=(100, 2)),
    "tiny": X * 1e-12,
    "huge": X * 1e12,
    "tiny and huge": X * [1e-12, 1e12],
    "far from zero": X + 1e9,
    "near the float limits": rng.uniform(-1, 1, size=(100, 2)) * LARGEST,
    "at the float limits": LARGEST * np.array([[1.0, -1.0], [-1.0, 1.0]] * 20),
    "one at the float limits": np.r_[X, [[LARGEST, -LARGEST]]],
    "at the float limits everywhere": np.where(X > 0, LARGEST, -LARGEST),
    "near the float32 limits": (X / 4 * 3.4e38).astype(np.float32),
    "subnormal": X * 1e-310,
    "float32 subnormal": (X * 1e-40).astype(np.float32),
    "smallest float": np.r_[np.zeros((20, 2)), np.full((20, 2), 5e-324)],
    "one outlier": np.r_[X, [[1e9, 1e9]]],
    "many outliers": np.r_[X, 1e6 * rng.standard_cauchy(size=(20, 2))],
    "more columns than rows": rng.normal(size=(50, 200)),
    "two rows": X[:2],
    "as many rows as components": X[:3],
    "ten rows": X[:10],
    "one column": X[:, :1],
    "float16": X.astype(np.float16),
    "longdouble": X.astype(np.longdouble),
    "objects": X.astype(object),
    "digits in strings": X.astype(str).astype(object),
    "big-endian": X.astype(">f8"),
    "Fortran order": np.asfortranarray(X),
    "strides": np.repeat(X, 2, axis=0)[::-2],
    "read-only": X,
    "list": X.tolist(),
}


@pytest.mark.parametrize("n_components", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("X", HARD.values(), ids=HARD)
def test_hard_rows(X, n_components):
    model = small(n_components, init_params="auto")
    if len(X) < n_components:
        with pytest.raises(ValueError, match="n_components"):
            model.fit(X)
    else:
        assert_works(model.fit(X), X)


@each_flow_slowly
@pytest.mark.parametrize(
    "name",
    [
        "all columns constant",
        "near the float limits",
        "subnormal",
        "one outlier",
        pytest.param("more columns than rows", marks=pytest.mark.slow),
        "as many rows as components",
        "one column",
        "large integers",
    ],
)
def test_hard_rows_and_every_family(name, flow):
    model = small(3, flow=flow, n_transforms=2)
    assert_works(model.fit(HARD[name]), HARD[name])


@pytest.mark.parametrize("init_params", ["gmm", "spectral", "linkage", "k-means++"])
@pytest.mark.parametrize(
    "name",
    [
        "all columns constant",
        "two distinct rows",
        "near the float limits",
        "subnormal",
        "one outlier",
        "as many rows as components",
        "counts of zeros",
    ],
)
def test_hard_rows_and_every_start(name, init_params):
    model = small(3, init_params=init_params)
    assert_works(model.fit(HARD[name]), HARD[name])


@settings(max_examples=20)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(3, 40), st.integers(1, 4)),
        elements=st.one_of(
            st.floats(allow_nan=False, allow_infinity=False),
            st.sampled_from([0.0, 1.0, -1.0, 1e-300, 1e300]),
        ),
    ),
    st.sampled_from(list(FLOWS)),
)
def test_any_finite_rows(X, flow):
    assert_works(small(2, flow=flow).fit(X), X)


@pytest.mark.slow
@settings(max_examples=15)
@given(
    st.lists(st.floats(-250, 250), min_size=2, max_size=2),
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2),
)
def test_units_only_shift_the_scores(exponents, shifts):
    """By the logarithm of the factor: densities are in data units."""
    factors = np.power(10.0, exponents)
    X = moons(600)
    scaled = (X + shifts) * factors
    model = small(1, n_transforms=0).fit(scaled)
    expected = small(1, n_transforms=0).fit(X).score_samples(X)
    shift = np.log(factors).sum()
    # Up to the regularisation, which is cross-validated on other folds.
    assert_allclose(model.score_samples(scaled) + shift, expected, atol=0.05)


def test_one_outlier_changes_little():
    X = moons()
    for far in (1e3, 1e9, 1e30, 1e300):
        model = small(2).fit(np.r_[X, [[far, far]]])
        expected = small(2).fit(X)
        assert abs(model.score(X) - expected.score(X)) < 0.5
        assert model.score_samples([[far, far]]) < model.score_samples(X).min()


def test_the_layout_does_not_matter():
    expected = small(3).fit(moons())
    for name in (
        "longdouble",
        "objects",
        "big-endian",
        "Fortran order",
        "read-only",
        "list",
    ):
        assert_same_answers(small(3).fit(HARD[name]), expected, moons())


def test_memory_map(tmp_path):
    np.save(tmp_path / "X.npy", moons())
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = small(3).fit(mapped)
    assert_same_answers(model, small(3).fit(moons()), mapped)


def test_fit_does_not_change_its_input():
    X = moons().copy()
    weights = np.arange(len(X)) % 3
    start = np.full((len(X), 2), 0.5)
    small(2, init_params=start).fit(X, sample_weight=weights).score_samples(X)
    assert_array_equal(X, moons())
    assert_array_equal(weights, np.arange(len(X)) % 3)
    assert (start == 0.5).all()


def test_a_flat_column_without_a_floor():
    X = np.c_[moons(), np.ones(len(moons()))]
    with pytest.raises(ValueError, match="reg_covar"):
        small(2, reg_covar=0.0).fit(X)
    assert_works(small(2, reg_covar=0.0).fit(moons()), moons())


WIDE = np.c_[moons(), moons()]
FAILURES = {
    "NaN": ({"X": with_cell(np.nan)}, "NaN"),
    "negative weights": ({"X": WIDE, "sample_weight": -np.ones(150)}, "weight"),
    "no weights": ({"X": WIDE, "sample_weight": np.zeros(150)}, "weight"),
    "too few weights": ({"X": WIDE, "sample_weight": np.ones(9)}, "weight"),
    "too few labels": ({"X": WIDE, "y": np.ones(9)}, "inconsistent numbers"),
    "no columns": ({"X": np.empty((150, 0))}, "feature"),
}


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (cls, name)
        for cls in (FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector)
        for name in FAILURES
        if name != "too few labels" or cls is FlowMixtureClassifier
    ],
)
def test_a_failed_fit_leaves_an_estimator_as_it_was(cls, name):
    given, match = FAILURES[name]
    y = np.arange(150) % 2
    model = make(cls, 2, n_transforms=0, posterior_units=8, tol=1e9, random_state=0)
    for is_fitted in (False, True):
        if is_fitted:
            model.fit(moons(), y)
            expected = model.predict(moons())
        before = dict(vars(model))
        with pytest.raises(ValueError, match=match):
            model.fit(**{"y": y, **given})
        assert vars(model).keys() == before.keys()
        assert all(value is before[name] for name, value in vars(model).items())
        assert hasattr(model, "n_features_in_") == is_fitted
    assert_array_equal(model.predict(moons()), expected)


# Parameters.

VALUES = [
    -1,
    0,
    0.5,
    -0.5,
    1.0,
    np.nan,
    np.inf,
    None,
    "",
    "no such value",
    b"bytes",
    object(),
    FlowMixture,
    {},
    [],
    (0,),
    (-3,),
    (2.5,),
    (np.nan,),
    ("a",),
    ((8,),),
    (None,),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (cls, name)
        for cls in (FlowMixture, FlowMixtureOptions)
        for name in cls._parameter_constraints
    ],
)
def test_parameters(owner, name):
    """A bad value's error names the parameter and what is allowed; others work."""
    constraints = owner._parameter_constraints[name]
    constraints = [make_constraint(constraint) for constraint in constraints]
    key = name if owner is FlowMixture else f"options__{name}"
    n_refused = 0
    for value in VALUES:
        model = small(2).set_params(**{key: value})
        if any(constraint.is_satisfied_by(value) for constraint in constraints):
            try:
                with parallel_backend("threading"):
                    model.fit(moons(80))
            except ValueError as error:
                assert name in str(error)
                n_refused += 1
            else:
                assert_works(model, moons(80))
        else:
            message = f"The '{name}' parameter of {owner.__name__} must be .* Got .*"
            with pytest.raises(InvalidParameterError, match=f"{message} instead"):
                model.fit(moons(80))
            n_refused += 1
    assert n_refused >= 10


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("flow", "glow", r"\[.*'nsf-ar'.*\]"),
        ("init_params", "kmean", r"\{.*'kmeans'.*\}"),
        ("n_components", 0, r"\[1, inf\)"),
        ("n_components", "automatic", r"\{'auto'\}"),
        ("max_components", 0, r"\[1, inf\)"),
        ("n_transforms", -1, r"\[0, inf\)"),
        ("n_jobs", 0, r"\(-inf, -1\], .*\[1, inf\) or None"),
        ("reg_covar", 1e308, r"\[0\.0, 1e\+30\)"),
        ("learning_rate", 0.0, r"\(0\.0, inf\)"),
        ("learning_rate", -1.0, r"\(0\.0, inf\)"),
        ("temperature", 1e39, r"\(0\.0, 1e\+30\)"),
        ("validation_fraction", 1.0, r"\(0\.0, 1\.0\)"),
        ("hidden_units", (8, 0), "positive integers.*got \\(8, 0\\)"),
        ("hidden_units", 0, r"array-like or an int in the range \[1, inf\)"),
        ("hidden_units", 8.0, "array-like or an int"),
        ("n_shared_transforms", 2, "at most n_transforms=1, got 2"),
        ("posterior_units", (8.5,), "positive integers"),
        ("dtype", "float16", "'float32'"),
        ("batch_size", 0, "'auto'"),
    ],
)
def test_error_says_what_is_allowed(name, value, match):
    with pytest.raises(ValueError, match=f"{name}.*{match}"):
        small(**{"n_components": 2, name: value}).fit(moons())


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "mps", "", "cuda:-1", "meta"])
def test_no_such_device(device):
    with pytest.raises(ValueError, match=r"(?s)device=.*Allowed are 'cpu', 'cuda'"):
        small(2, device=device).fit(moons())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("validation_fraction", 1e-9),
        ("validation_fraction", 0.999999),
        pytest.param("batch_size", 1, marks=pytest.mark.slow),
        ("batch_size", 10**9),
        ("hidden_units", ()),
        ("posterior_units", ()),
        ("hidden_units", 1),
        ("posterior_units", np.int64(1)),
        ("hidden_units", (1, 1, 1, 1)),
        ("n_transforms", 12),
        ("learning_rate", 1e-12),
        ("temperature", 1e-9),
        ("temperature", 1e9),
        ("temperature_decay", 1e9),
        ("weight_decay", 10.0),
        ("reg_covar", 9.9e29),
        ("tol", 1e300),
        ("n_iter_init", 0),
        ("dtype", "float64"),
        ("device", "auto"),
        ("verbose_interval", 10**9),
    ],
)
def test_extreme_parameters_work(name, value):
    assert_works(small(2, **{name: value}).fit(moons(80)), moons(80))


@pytest.mark.parametrize("learning_rate", [1.0, 1e3, 1e30])
@each_flow
def test_divergence_is_caught(flow, learning_rate):
    model = small(2, flow=flow, learning_rate=learning_rate, max_iter=30)
    try:
        model.fit(moons())
    except FloatingPointError as error:
        assert "learning_rate" in str(error)
    else:
        assert_works(model, moons())


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_components": 10_000, "hidden_units": (100_000,)},
        {"hidden_units": (10**6, 10**6)},
        {"posterior_units": (10**6, 10**6)},
        {"n_transforms": 10**9},
        {"n_components": 5_000, "n_transforms": 1000},
        {"n_components": "auto", "max_components": 5_000, "n_transforms": 1000},
    ],
    ids=str,
)
def test_a_model_that_is_too_large_is_not_tried(parameters, monkeypatch):
    monkeypatch.setattr("skflowmix.training.candidate.MixtureModule", None)
    monkeypatch.setattr("skflowmix.initialization.propose_starts", None)
    X = np.random.RandomState(0).normal(size=(10_000, 3))
    with pytest.raises(MemoryError, match=r"too large.* GiB; the machine has"):
        make(FlowMixture, **parameters).fit(X)


@pytest.mark.slow
def test_too_many_columns_are_not_tried(monkeypatch):
    monkeypatch.setattr("skflowmix.training.candidate.MixtureModule", None)
    with pytest.raises(MemoryError, match="1000000 columns is too large"):
        FlowMixture().fit(np.zeros((2, 10**6)))


def test_the_model_of_the_paper_fits_in_sixteen_gib(monkeypatch):
    monkeypatch.setattr("skflowmix._arrays.os.sysconf", lambda name: 2**17)
    options = FlowMixtureOptions.paper().set_params(
        posterior_units=(512,), batch_size=100
    )
    parameters = {"flow": "maf", "n_transforms": 5, "hidden_units": (200,)}
    model = FlowMixture(5, options=options, **parameters)
    check_model(model, model._settings(), 5, 30_596, 784)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_floor_that_no_float_can_divide_by_is_named(dtype):
    X = np.full((20, 2), 0.5, dtype=dtype)
    with pytest.raises(ValueError, match="Increase reg_covar"):
        FlowMixture(1, reg_covar=1e-300, n_transforms=0).fit(X)
