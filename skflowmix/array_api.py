"""Settings of the caller: array API dispatch and NumPy's error handling."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn import get_config
from sklearn.utils._array_api import _convert_to_numpy, device, get_namespace, move_to

__all__ = ["Method", "in_kind", "like", "own_errors", "saved_as_numpy", "to_numpy"]

Method = TypeVar("Method", bound=Callable[..., Any])


def _foreign_namespace(array: Any) -> Any:
    """Return a tensor's namespace if dispatch is on; None for what NumPy takes."""
    if not get_config()["array_api_dispatch"] or not _is_foreign(array):
        return None
    return get_namespace(array)[0]


def _is_foreign(array: Any) -> bool:
    if isinstance(array, (np.ndarray, np.generic)):
        return False
    return isinstance(array, torch.Tensor) or hasattr(array, "__array_namespace__")


def own_errors() -> np.errstate:
    """Return a context in which NumPy handles errors as it does by default."""
    return np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")


def to_numpy(array: Any) -> Any:
    """Return a tensor as a NumPy array if dispatch is on, all else unchanged."""
    xp = None if array is None else _foreign_namespace(array)
    return array if xp is None else _convert_to_numpy(array, xp)


def saved_as_numpy(value: Any) -> Any:
    """Return a tensor as a NumPy array, dispatch or not, and all else unchanged."""
    if isinstance(value, torch.Tensor):
        return value.numpy(force=True)
    if not _is_foreign(value):
        return value
    return _convert_to_numpy(value, value.__array_namespace__())


def like(example: Any, array: Any) -> Any:
    """Return a NumPy array in the kind, and on the device, of another array.

    It stays a NumPy array if dispatch is off, or if it does not hold numbers.
    """
    xp = _foreign_namespace(example)
    if xp is None or not isinstance(array, np.ndarray) or array.dtype.kind in "OUSmM":
        return array
    return move_to(array, xp=xp, device=device(example))


def in_kind(method: Method) -> Method:
    """Decorate a method to return arrays of the kind, and on the device, of its X.

    Labels that are not numbers stay NumPy arrays. Underflow of small densities is not
    an error, even under ``numpy.errstate(all="raise")``.
    """

    @functools.wraps(method)
    def wrapper(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        with own_errors():
            answer = method(self, X, *args, **kwargs)
        return like(X, answer)

    return wrapper  # type: ignore[return-value]
