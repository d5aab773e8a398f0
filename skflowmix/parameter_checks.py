"""Checks of parameters that need the data, or more than one parameter."""

from itertools import pairwise

import numpy as np
from sklearn import config_context
from sklearn.utils.validation import _check_sample_weight, check_array

from skflowmix._arrays import require_memory
from skflowmix.model.flows import FLOWS

__all__ = ["check_parameters", "check_start", "check_weights"]


def check_weights(sample_weight, X, n_positive=2):
    """Weights over a power of two, which is exact, so that no sum overflows."""
    sample_weight = _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )
    largest = sample_weight.max()
    if not np.isfinite(largest):  # a scalar is not checked above
        raise ValueError("sample_weight must be finite.")
    sample_weight = np.ldexp(sample_weight, -np.frexp(largest)[1])
    if np.count_nonzero(sample_weight) < n_positive:
        raise ValueError(
            f"sample_weight must be positive for at least {n_positive} rows: others "
            "are left out."
        )
    return sample_weight


def check_parameters(estimator, n_samples, n_features):
    """Check what needs the size of the data, or more than one parameter."""
    n_components = estimator.n_components
    if n_samples < n_components:
        raise ValueError(
            f"Expected n_samples >= n_components, got n_samples={n_samples} and "
            f"n_components={n_components}."
        )
    for name in ("hidden_units", "posterior_units"):
        units = getattr(estimator, name)
        if np.ndim(units) != 1 or not all(
            isinstance(u, (int, np.integer)) and u > 0 for u in units
        ):
            raise ValueError(
                f"{name} must hold positive integers, one per hidden layer, got "
                f"{units!r}."
            )
    if estimator.n_shared_transforms > estimator.n_transforms:
        raise ValueError(
            "n_shared_transforms must be at most n_transforms="
            f"{estimator.n_transforms}, got {estimator.n_shared_transforms}."
        )
    for name, shape in (
        ("weights_init", (n_components,)),
        ("means_init", (n_components, n_features)),
    ):
        value = getattr(estimator, name)
        if value is not None:
            check_start(name, value, shape)
    if isinstance(estimator.init_params, type):
        raise ValueError(
            "init_params must be an instance of a clusterer, got the class "
            f"{estimator.init_params.__name__}."
        )
    if estimator.weights_init is not None:
        weights = np.asarray(estimator.weights_init)
        if (weights <= 0).any() or not np.isclose(weights.sum(), 1):
            raise ValueError("weights_init must be positive and sum to one.")
    if estimator.warm_start and hasattr(estimator, "module_"):
        fitted_components = len(estimator.weights_)
        if fitted_components != n_components:
            raise ValueError(
                f"warm_start needs the fitted n_components={fitted_components}, got "
                f"{n_components}."
            )
        for name, fitted in estimator.module_.architecture.items():
            value = getattr(estimator, name)
            if not np.array_equal(value, fitted):
                raise ValueError(
                    f"warm_start needs the fitted {name}={fitted!r}, got {value!r}."
                )
        if estimator.module_.n_features != n_features:
            raise ValueError(
                f"warm_start needs the {estimator.module_.n_features} columns of the "
                f"fitted model, got {n_features}."
            )
    n_layers = estimator.n_transforms
    if n_layers:
        n_layers += estimator.n_common_transforms
    outputs = FLOWS[estimator.flow].elementwise().n_parameters * n_features
    widths = [n_features, *estimator.hidden_units, outputs]
    posterior_widths = [n_features, *estimator.posterior_units, n_components]
    n_weights = _n_connections(posterior_widths) + n_components * (
        n_layers * _n_connections(widths) + 3 * n_features**2
    )
    batch_size = 1024 if estimator.batch_size == "auto" else estimator.batch_size
    batch = min(batch_size, n_samples)
    n_activations = 3 * n_components * batch * (1 + n_layers) * sum(widths)
    require_memory(
        8 * (8 * n_weights + n_activations),
        f"A model with n_components={n_components}, n_transforms="
        f"{estimator.n_transforms}, n_common_transforms="
        f"{estimator.n_common_transforms}, hidden_units={estimator.hidden_units}, "
        f"posterior_units={estimator.posterior_units} for {n_features} columns is too "
        "large. Reduce these, batch_size, or the number of columns (PCA).",
    )


def _n_connections(widths):
    return sum(a * b for a, b in pairwise(widths))


def check_start(name, value, shape):
    """Return a given start as an array of floats."""
    try:
        with config_context(assume_finite=False):
            array = check_array(
                value, dtype=np.float64, ensure_2d=False, allow_nd=True, input_name=name
            )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold finite numbers, one array of shape {shape}: {error}"
        ) from error
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}.")
    return array
