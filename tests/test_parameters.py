"""Any valid parameters and rows fit; an invalid value's error names its parameter."""

import re

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from joblib import parallel_backend
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans

from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOptions,
    FlowMixtureOutlierDetector,
)
from skflowmix.model.flows import FLOWS
from skflowmix.starts.partitions import INIT_METHODS

# Four times as many as other properties have, in the profile that is loaded.
many_examples = settings(max_examples=4 * settings().max_examples)
some_examples = settings(max_examples=2 * settings().max_examples)
pytestmark = pytest.mark.filterwarnings("ignore")

ESTIMATORS = (FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector)
HUGE = 10**30


# Values that are allowed. What is costly is drawn small.


def counts(least, most=None):
    """Integers, of NumPy's types too; mostly small ones."""
    small = st.integers(least, least + 3 if most is None else most)
    kinds = [small, small.map(np.int64), small.map(np.uint8)]
    if most is None:
        kinds.append(st.sampled_from([100, 2**31, 2**63, HUGE]))
    return st.one_of(kinds)


def reals(least, most, *extremes):
    """Numbers of the usual size, of NumPy's types too, and ends of the range."""
    usual = st.floats(least, most)
    return st.one_of(usual, usual.map(np.float64), st.sampled_from(extremes))


def auto_or(values):
    return st.one_of(st.just("auto"), values)


WIDTHS = st.one_of(
    st.integers(1, 4),
    st.integers(1, 4).map(np.int64),
    st.lists(st.integers(1, 4), max_size=2),
    st.lists(st.integers(1, 4), max_size=2).map(tuple),
    st.lists(st.integers(1, 4), min_size=1, max_size=2).map(np.array),
)

VALID_OPTIONS = {
    "n_common_transforms": auto_or(counts(0, 1)),
    "posterior_units": WIDTHS,
    "temperature": reals(0.1, 10.0, 1, 1e-300, 5e-324, 9.9e29),
    "temperature_decay": reals(0.0, 1.0, 0, 1, 1e-300, 1e300),
    "label_noise": reals(0.01, 1.0, 1, 1e-300, 5e-324),
    "input_noise": auto_or(reals(0.0, 2.0, 0, 1, 1e-300, 1e300)),
    "repeat_noise": auto_or(reals(0.0, 2.0, 0, 1, 1e-300, 1e300)),
    "validation_fraction": reals(0.01, 0.99, 1e-300, 0.3, 1 - 2**-53),
    "batch_size": auto_or(st.one_of(counts(4), st.just(1))),
    "weight_decay": auto_or(reals(0.0, 2.0, 0, 1, 1e-300, 1e300)),
    "dtype": st.sampled_from(["float32", "float64"]),
    "n_threads": st.sampled_from(["auto", None, 1, np.int64(1), 2]),
}

SEEDS = st.integers(0, 2**32 - 1)

VALID = {
    "flow": st.sampled_from([*FLOWS, FLOWS["realnvp"]]),
    "hidden_units": WIDTHS,
    "init_params": st.sampled_from(
        [*INIT_METHODS, KMeans(2), AgglomerativeClustering(2), DBSCAN(0.5)]
    ),
    "reg_covar": reals(0.0, 1.0, 0, 1e-6, 1e-300, 9.9e29),
    "max_iter": counts(0, 2),
    "tol": reals(0.0, 1.0, 0, 1, 1e-300, 1e300),
    "n_iter_no_change": counts(1),
    "learning_rate": reals(1e-5, 0.1, 1, 1e-300, 1e300),
    "device": st.sampled_from(["cpu", "auto"]),
    "verbose": st.sampled_from([0, 1, 2, HUGE, False, True]),
    "verbose_interval": counts(1),
}

OWN_VALID = {
    FlowMixture: {
        "n_flows_per_component": auto_or(counts(1, 3)),
        "n_init": counts(1, 2),
        "n_jobs": st.sampled_from([None, 1, 2, -1]),
        "warm_start": st.sampled_from([False, True, np.True_]),
        "max_components": counts(1),
    },
    FlowMixtureClassifier: {"unlabeled_weight": auto_or(reals(0.0, 1.0, 0, 1, 1e-300))},
    FlowMixtureOutlierDetector: {
        "contamination": auto_or(reals(0.01, 0.5, 1e-300, 5e-324))
    },
}


@st.composite
def tables(draw):
    """6 to 40 rows of columns that are rounded, constant, far away or none of these."""
    n_rows, n_columns = draw(st.integers(6, 40)), draw(st.integers(1, 4))
    X = np.random.default_rng(draw(SEEDS)).normal(size=(n_rows, n_columns))
    for j in range(n_columns):
        kind = draw(st.sampled_from(["normal", "normal", "rounded", "constant", "far"]))
        if kind == "rounded":
            X[:, j] = X[:, j].round(draw(st.integers(0, 2)))
        elif kind == "constant":
            X[:, j] = draw(st.sampled_from([0.0, 7.0, -1e6, 1e30]))
        elif kind == "far":
            X[draw(st.integers(0, n_rows - 1)), j] = draw(
                st.sampled_from([99.0, -999.0, 1e9, -1e30])
            )
    if draw(st.booleans()):
        X = X[np.arange(n_rows) % draw(st.integers(1, n_rows))]
    return X.astype(draw(st.sampled_from([np.float32, np.float64])))


@st.composite
def weights(draw, n_rows):
    """None, or numbers of which some are zero."""
    kind = draw(st.sampled_from(["none", "none", "reals", "integers", "scalar"]))
    if kind == "none":
        return None
    if kind == "scalar":
        return draw(st.sampled_from([1, 0.5, 1e300]))
    rng = np.random.default_rng(draw(SEEDS))
    if kind == "integers":
        return rng.integers(0, 4, size=n_rows)
    scale = draw(st.sampled_from([1.0, 1.0, 1e-300, 1e300]))
    values = scale * rng.uniform(size=n_rows)
    values[rng.uniform(size=n_rows) < draw(st.sampled_from([0.0, 0.3, 0.9]))] = 0
    return values


@st.composite
def labels(draw, n_rows):
    """Up to three classes, of numbers or strings, some of them missing."""
    rng = np.random.default_rng(draw(SEEDS))
    y = rng.integers(0, draw(st.integers(1, 3)), size=n_rows)
    missing = rng.uniform(size=n_rows) < draw(st.sampled_from([0.0, 0.5, 0.9]))
    kind = draw(st.sampled_from(["integer", "float", "string", "none"]))
    if kind == "integer":
        return np.where(missing, -1, y)
    if kind == "float":
        return np.where(missing, np.nan, y)
    y = np.array(["no", "perhaps", "yes"], dtype=object)[y]
    y[missing] = -1 if kind == "string" else None
    return y


def is_named(name, message):
    """Whether a message names a parameter, in its own or in scikit-learn's words."""
    words = {"sample_weight": "sample_weight|Sample weights", "y": "y|label"}
    return re.search(rf"\b({words.get(name, name)})\b", message) is not None


def draw_some(draw, strategies):
    """Values of a few names, so that what fails shrinks to these."""
    names = draw(st.lists(st.sampled_from([*strategies]), max_size=4, unique=True))
    return {name: draw(strategies[name]) for name in names}


@st.composite
def valid_fits(draw):
    """An estimator, and what its `fit` is called with."""
    cls, X = draw(st.sampled_from(ESTIMATORS)), draw(tables())
    n_rows, n_columns = X.shape
    few = st.one_of(counts(1, 2), counts(1, 2), st.integers(1, n_rows + 1))
    options = draw_some(draw, VALID_OPTIONS)
    options["n_iter_init"] = draw(counts(0, 1))
    options.setdefault("posterior_units", 4)
    own = draw_some(draw, {**VALID, **OWN_VALID[cls]})
    n_transforms = draw(st.sampled_from([0, 0, 0, 0, 1]))
    own["n_transforms"] = n_transforms
    options["n_shared_transforms"] = draw(st.integers(0, n_transforms))
    own = {"hidden_units": 4, "max_iter": 1, **own}
    own["random_state"] = draw(st.one_of(SEEDS, SEEDS.map(np.random.RandomState)))
    if cls is FlowMixtureClassifier:
        own["n_components_per_class"] = draw(counts(1, 2))
    else:
        n_components = draw(few)
        own["n_components"] = n_components
    if cls is FlowMixture:
        kind = draw(
            st.sampled_from(["method", "method", "auto", "means", "weights", "shares"])
        )
        rng, k = np.random.default_rng(draw(SEEDS)), int(n_components)
        if kind == "auto":
            own["n_components"] = "auto"
        if kind == "means":
            own["means_init"] = rng.normal(size=(k, n_columns))
        if kind in ("weights", "means"):
            own["weights_init"] = rng.dirichlet(np.ones(k)).tolist()
        if kind == "shares":
            shares = rng.dirichlet(np.full(k, 0.3), size=n_rows)
            own["init_params"] = shares.round() if k == 1 else shares
        if kind != "method" and draw(st.booleans()):
            own["n_components"] = "auto"
    fit_params = {"sample_weight": draw(weights(n_rows))}
    if cls is FlowMixtureClassifier:
        fit_params["y"] = draw(labels(n_rows))
    model = cls(**own, options=FlowMixtureOptions(**options))
    return model, {"X": X, **fit_params}


def excuse(model, X, y=None, sample_weight=None):
    """What an error may name, because the rows do not allow the parameters."""
    kept = np.ones(len(X), dtype=bool)
    if sample_weight is not None:
        kept &= np.asarray(sample_weight) > 0
    names, n_components = [], 1
    if kept.sum() < 2:
        names.append("sample_weight")
    if isinstance(model, FlowMixtureClassifier):
        known = kept & np.array(
            [label in (0, 1, 2) or isinstance(label, str) for label in y]
        )
        n_components = model.n_components_per_class * len({*y[known]})
        if not known.any():
            names.append("y")
    elif model.n_components != "auto":
        n_components = model.n_components
    elif model.means_init is not None or model.weights_init is not None:
        n_components = len(
            model.weights_init if model.means_init is None else model.means_init
        )
    elif not isinstance(model.init_params, str):
        n_components = np.shape(model.init_params)[-1:] or (1,)
        n_components = n_components[0]
    if kept.sum() < n_components:
        names.append("n_components")
    if model.reg_covar < 1e-12:
        names.append("reg_covar")
    if isinstance(model.init_params, (KMeans, AgglomerativeClustering, DBSCAN)):
        names.append("init_params")
    return names


@some_examples
@given(valid_fits())
def test_valid_parameters_fit(fit):
    model, given_rows = fit
    X = given_rows["X"]
    try:
        with parallel_backend("threading"):
            model.fit(**given_rows)
            if getattr(model, "warm_start", False):
                model.fit(**given_rows)
    except ValueError as error:
        names = excuse(model, **given_rows)
        if not any(is_named(name, str(error)) for name in names):
            raise
        event(f"refused by {names}")
        return
    except FloatingPointError as error:
        assert "learning_rate" in str(error)
        is_usual = model.learning_rate < 1 and model.reg_covar >= 1e-12
        assert not is_usual or model.options.weight_decay != "auto"
        return
    assert np.isfinite(model.score_samples(X)).all()
    assert len(model.predict(X)) == len(X)
    if hasattr(model, "predict_proba"):
        assert np.allclose(model.predict_proba(X).sum(axis=1), 1)


# Values that are not allowed.

ANYTHING = [
    None,
    "",
    "no such value",
    b"bytes",
    object(),
    dict,
    {},
    [],
    (1, 2),
    np.ones(3),
    1j,
    np.nan,
    np.inf,
    -np.inf,
]


def anything_but(*allowed):
    """Things of a wrong type."""
    return st.sampled_from([v for v in ANYTHING if not isinstance(v, allowed)])


def not_counts(least):
    return st.one_of(
        anything_but(),
        st.integers(max_value=least - 1),
        st.floats(),
        st.integers(least, 9).map(float),
        st.integers(least, 9).map(str),
        st.integers(least, 9).map(lambda n: [n]),
    )


def not_reals(*ranges):
    """Things of a wrong type, and numbers in one of the ranges."""
    return st.one_of(anything_but(), st.floats(0.1, 0.4).map(str), *ranges)


def below(bound, *, strictly=True):
    return st.floats(max_value=bound, exclude_max=strictly)


def above(bound, *, strictly=True):
    return st.floats(min_value=bound, exclude_min=strictly)


NOT_WIDTHS = st.one_of(
    st.sampled_from([v for v in ANYTHING if not isinstance(v, (list, tuple, dict))]),
    st.integers(max_value=0),
    st.floats(),
    st.lists(st.integers(max_value=0), min_size=1, max_size=3),
    st.lists(st.floats(), min_size=1, max_size=3).map(tuple),
    st.sampled_from([["a"], [None], [[4]], [4, -1], np.ones((2, 2)), [1, "4"]]),
)

INVALID_OPTIONS = {
    "n_common_transforms": not_counts(0),
    "n_shared_transforms": st.one_of(not_counts(0), st.integers(1)),
    "posterior_units": NOT_WIDTHS,
    "n_iter_init": not_counts(0),
    "temperature": not_reals(below(0, strictly=False), above(1e30, strictly=False)),
    "temperature_decay": not_reals(below(0)),
    "label_noise": not_reals(below(0, strictly=False), above(1)),
    "input_noise": not_reals(below(0)),
    "repeat_noise": not_reals(below(0)),
    "validation_fraction": not_reals(
        below(0, strictly=False), above(1, strictly=False)
    ),
    "batch_size": not_counts(1),
    "weight_decay": not_reals(below(0)),
    "dtype": st.one_of(anything_but(), st.sampled_from(["float16", np.float32, "f4"])),
    "n_threads": not_counts(1).filter(lambda value: value is not None),
}

N_ROWS, N_COLUMNS, N_COMPONENTS = 12, 2, 2
NOT_ARRAYS = st.sampled_from(
    [
        "no such value",
        b"bytes",
        object(),
        [1.5],
        np.nan,
        [],
        [[]],
        [["a", "b"]],
        [[1.0], [1.0, 2.0]],
        [[1j, 1j], [1j, 1j]],
        [None, None],
    ]
)


def wrong_shapes(*right):
    """Arrays of ones, of up to three dimensions and another shape."""
    shapes = st.lists(st.integers(0, 13), max_size=3).map(tuple)
    return shapes.filter(lambda shape: shape != right).map(np.ones)


def spoilt(value, *shape):
    """Arrays of which one value is not allowed."""
    array = np.full(shape, 0.5)
    array.flat[1] = value
    return array


NOT_METHODS = st.one_of(
    anything_but(list, tuple, np.ndarray),
    st.sampled_from(["kmean", "Auto", 3, KMeans, object]),
)

INVALID = {
    "flow": st.one_of(anything_but(), st.sampled_from(["NSF", "glow", 3])),
    "n_transforms": not_counts(0),
    "hidden_units": NOT_WIDTHS,
    "init_params": NOT_METHODS,
    "reg_covar": not_reals(below(0), above(1e30, strictly=False)),
    "max_iter": not_counts(0),
    "tol": not_reals(below(0)),
    "n_iter_no_change": not_counts(1),
    "learning_rate": not_reals(below(0, strictly=False)),
    "device": st.one_of(
        anything_but(),
        st.sampled_from(["tpu", "mps", "cuda:99", "cuda:-1", "meta", "CPU", 0]),
    ),
    "random_state": st.one_of(
        anything_but(type(None)),
        st.integers(max_value=-1),
        st.integers(2**32),
        st.floats(),
        st.just(np.random.default_rng(0)),
    ),
    "verbose": not_counts(0),
    "verbose_interval": not_counts(1),
    "options": st.one_of(
        anything_but(type(None)),
        st.sampled_from([FlowMixtureOptions, FlowMixture(), {"dtype": "float64"}]),
    ),
    "sample_weight": st.one_of(
        NOT_ARRAYS,
        wrong_shapes(N_ROWS).filter(lambda array: array.shape != ()),
        st.sampled_from([np.nan, np.inf, -1.0, -5e-324]).map(
            lambda value: spoilt(value, N_ROWS)
        ),
        st.sampled_from([np.zeros(N_ROWS), np.eye(N_ROWS)[0], 0.0, -1.0, np.inf]),
    ),
    "checkpoint": st.sampled_from([3.5, [], {}, object(), b"bytes", np.nan]),
}

OWN_INVALID = {
    FlowMixture: {
        "n_components": not_counts(1),
        "n_flows_per_component": not_counts(1),
        "init_params": st.one_of(
            NOT_METHODS,
            NOT_ARRAYS,
            wrong_shapes(N_ROWS, N_COMPONENTS),
            st.sampled_from([np.nan, np.inf, -0.1, 0.6]).map(
                lambda value: spoilt(value, N_ROWS, N_COMPONENTS)
            ),
        ),
        "n_init": not_counts(1),
        "weights_init": st.one_of(
            NOT_ARRAYS,
            wrong_shapes(N_COMPONENTS),
            st.sampled_from([np.nan, np.inf, -0.5, 0.0, 0.6]).map(
                lambda value: spoilt(value, N_COMPONENTS)
            ),
            st.sampled_from([(0.0, 1.0), (1.5, -0.5), (1.0, 1.0), (0.0, 0.0)]),
        ),
        "means_init": st.one_of(
            NOT_ARRAYS,
            wrong_shapes(N_COMPONENTS, N_COLUMNS),
            st.sampled_from([np.nan, np.inf, -np.inf]).map(
                lambda value: spoilt(value, N_COMPONENTS, N_COLUMNS)
            ),
        ),
        "n_jobs": st.one_of(
            anything_but(type(None)), st.floats(), st.sampled_from(["1", 0])
        ),
        "warm_start": st.one_of(anything_but(), st.integers(2), st.floats()),
        "max_components": not_counts(1),
    },
    FlowMixtureClassifier: {
        "n_components_per_class": not_counts(1),
        "unlabeled_weight": not_reals(below(0), above(1)),
        "y": st.one_of(
            NOT_ARRAYS,
            wrong_shapes(N_ROWS).filter(lambda array: array.shape != (N_ROWS, 1)),
            st.sampled_from(
                [
                    None,
                    np.full(N_ROWS, -1),
                    np.full(N_ROWS, np.nan),
                    np.linspace(0, 1, N_ROWS),
                    np.where(np.arange(N_ROWS) > 3, np.inf, 1.0),
                    np.array(["a", "b", "-1"] * 4),
                ]
            ),
        ),
    },
    FlowMixtureOutlierDetector: {
        "n_components": not_counts(1),
        "contamination": not_reals(below(0, strictly=False), above(0.5)),
    },
}


@st.composite
def invalid_fits(draw):
    """An estimator, what its `fit` is called with, and the one that is not allowed."""
    cls = draw(st.sampled_from(ESTIMATORS))
    own = {**INVALID, **OWN_INVALID[cls]}
    name = draw(st.sampled_from([*own, *INVALID_OPTIONS]))
    value = draw({**own, **INVALID_OPTIONS}[name])
    return cls, name, value


def is_refused_by_scikit_learn(name, value):
    """Whether scikit-learn's own message, which names nothing, comes first."""
    if name not in ("sample_weight", "y"):
        return False
    try:
        array = np.asarray(value)
    except ValueError:
        return True
    if array.ndim > 2 or array.size == 0 or array.dtype.kind == "c":
        return True
    if name == "y":
        return array.ndim > 0 and len(array) != N_ROWS
    return array.dtype.kind not in "biuf"


@many_examples
@given(invalid_fits().filter(lambda fit: not is_refused_by_scikit_learn(*fit[1:])))
def test_an_error_names_the_invalid_parameter(fit):
    cls, name, value = fit
    own = {"n_transforms": 0, "max_iter": 0, "random_state": 0}
    if cls is FlowMixtureClassifier:
        own["n_components_per_class"] = 1
    else:
        own["n_components"] = N_COMPONENTS
    options = {"n_iter_init": 0, "posterior_units": 4}
    rows = {"X": np.random.default_rng(0).normal(size=(N_ROWS, N_COLUMNS))}
    if cls is FlowMixtureClassifier:
        rows["y"] = np.arange(N_ROWS) % 2
    if name in ("y", "sample_weight", "checkpoint"):
        rows[name] = value
    elif name in INVALID_OPTIONS:
        options[name] = value
    else:
        own[name] = value
    own.setdefault("options", FlowMixtureOptions(**options))
    with pytest.raises((ValueError, TypeError)) as caught:
        cls(**own).fit(**rows)
    assert is_named(name, str(caught.value)), str(caught.value)
