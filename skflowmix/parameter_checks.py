"""Checks of parameters that need the data, or more than one parameter."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.utils.validation import _check_sample_weight, check_array

from skflowmix._arrays import require_memory
from skflowmix.array_api import to_numpy
from skflowmix.model.flows import FLOWS, family_of

__all__ = [
    "check_clusterer_and_checkpoint",
    "check_model",
    "check_responsibilities",
    "check_start",
    "check_warm_start",
    "check_weights",
]

# Least positive weight, in units of about the largest: the smallest normal number.
LEAST_WEIGHT = np.finfo(np.float64).tiny


def check_clusterer_and_checkpoint(init_params: Any, checkpoint: Any) -> None:
    """Check that a clusterer is an instance, and a checkpoint is a path or None."""
    if isinstance(init_params, type):
        raise ValueError(
            "init_params must be an instance of a clusterer, got the class "
            f"{init_params.__name__}."
        )
    if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(
            "checkpoint must be the path of a folder, a str or path-like, or None, got "
            f"{checkpoint!r}."
        )


def check_weights(sample_weight: Any, X: Any, n_positive: int = 2) -> np.ndarray:
    """Return checked weights over a power of two (exact), so that no sum overflows.

    Positive weights stay positive.
    """
    try:
        sample_weight = _check_sample_weight(
            to_numpy(sample_weight), X, dtype=np.float64, ensure_non_negative=True
        )
    except (TypeError, ValueError) as error:
        if re.search("sample.weight", str(error), re.IGNORECASE):
            raise
        raise ValueError(
            f"sample_weight must hold a number for every row: {error}"
        ) from error
    largest = sample_weight.max()
    if not np.isfinite(largest):  # a scalar is not checked above
        raise ValueError("sample_weight must be finite.")
    is_positive = sample_weight > 0
    sample_weight = np.ldexp(sample_weight, -np.frexp(largest)[1])
    sample_weight[is_positive] = np.maximum(sample_weight[is_positive], LEAST_WEIGHT)
    if np.count_nonzero(sample_weight) < n_positive:
        raise ValueError(
            f"sample_weight must be positive for at least {n_positive} rows: others "
            "are left out."
        )
    return sample_weight


def check_model(
    estimator: Any,
    settings: Any,
    n_components: int,
    n_samples: int,
    n_features: int,
    largest: int | None = None,
) -> None:
    """Check an estimator's parameters against the size of the data.

    Parameters
    ----------
    estimator : estimator
        Its `flow` may name a family that was added at run time.
    settings : FitSettings
        Its settings.
    n_components : int
        Number of components.
    n_samples, n_features : int
        Size of the data.
    largest : int, optional
        The largest number of components, where the number is still to be found.
    """
    if isinstance(estimator.flow, str) and estimator.flow not in FLOWS:
        raise ValueError(
            f"flow must be one of {sorted(FLOWS)}, got {estimator.flow!r}."
        )
    if n_samples < n_components:
        raise ValueError(
            f"Expected n_samples >= n_components, got n_samples={n_samples} and "
            f"n_components={n_components}."
        )
    n_flows = settings.n_flows_per_component
    n_flows = (largest or n_components) * (1 if n_flows == "auto" else n_flows)
    _check_memory(settings, n_flows, n_samples, n_features)


def check_warm_start(
    module: Any, settings: Any, n_components: int | None, n_features: int
) -> None:
    """Check that a fitted module can be trained further with these settings."""
    groups = module.groups
    if n_components not in (None, groups.n_groups):
        raise ValueError(
            f"warm_start needs the fitted n_components={groups.n_groups}, got "
            f"{n_components}."
        )
    n_flows, most = settings.n_flows_per_component, int(groups.sizes.max())
    if n_flows != "auto" and n_flows < most:
        raise ValueError(
            'warm_start needs n_flows_per_component="auto" or at least the fitted '
            f"{most}, got {n_flows}."
        )
    for name, fitted in module.architecture.items():
        # A model fitted to too few rows has no flows to train further.
        if name.endswith("_transforms") and not module.architecture["n_transforms"]:
            continue
        value = getattr(settings, name)
        if value != fitted:
            raise ValueError(
                f"warm_start needs the fitted {name}={fitted!r}, got {value!r}."
            )
    if module.n_features != n_features:
        raise ValueError(
            f"warm_start needs the {module.n_features} columns of the fitted model, "
            f"got {n_features}."
        )


def _check_memory(settings: Any, n_flows: int, n_samples: int, n_features: int) -> None:
    """Refuse a model that cannot fit in memory, before it is built."""
    n_layers = settings.n_transforms
    if n_layers:
        n_layers += settings.n_common_transforms
    outputs = family_of(settings.flow).elementwise().n_parameters * n_features
    widths = [n_features, *settings.hidden_units, outputs]
    posterior_widths = [n_features, *settings.posterior_units, n_flows]
    n_weights = _n_connections(posterior_widths) + n_flows * (
        n_layers * _n_connections(widths) + 3 * n_features**2
    )
    batch = min(settings.batch_size_for(n_samples), n_samples)
    n_activations = 3 * n_flows * batch * (1 + n_layers) * sum(widths)
    require_memory(
        8 * (8 * n_weights + n_activations),
        f"A model with {n_flows} flows (n_components times n_flows_per_component), "
        f"n_transforms="
        f"{settings.n_transforms}, n_common_transforms="
        f"{settings.n_common_transforms}, hidden_units={settings.hidden_units}, "
        f"posterior_units={settings.posterior_units} for {n_features} columns is too "
        "large. Reduce these, batch_size, or the number of columns (PCA).",
    )


def _n_connections(widths: Sequence[int]) -> int:
    return sum(a * b for a, b in pairwise(widths))


def check_start(name: str, value: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return a given start as an array of floats; None in `shape` allows any length."""
    described = str(tuple("n_components" if n is None else n for n in shape))
    described = described.replace("'", "")
    try:
        with config_context(assume_finite=False):
            array = check_array(
                to_numpy(value),
                dtype=np.float64,
                ensure_2d=False,
                allow_nd=True,
                input_name=name,
            )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold finite numbers, one array of shape {described}: {error}"
        ) from error
    if len(array.shape) != len(shape) or any(
        n not in (None, own) for n, own in zip(shape, array.shape, strict=True)
    ):
        raise ValueError(f"{name} must have shape {described}, got {array.shape}.")
    return array


def check_responsibilities(value: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return given responsibilities as an array of floats."""
    shares = check_start("init_params", value, shape)
    if (shares < 0).any() or not np.allclose(shares.sum(1), 1, atol=1e-4):
        raise ValueError(
            "init_params must hold non-negative responsibilities whose rows sum to one."
        )
    return shares
