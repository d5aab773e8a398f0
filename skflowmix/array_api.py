"""Settings of the caller: array API dispatch and NumPy's error handling."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from sklearn import get_config
from sklearn.utils._array_api import _convert_to_numpy, device, get_namespace

__all__ = ["Method", "in_kind", "own_errors", "to_numpy"]

Method = TypeVar("Method", bound=Callable[..., Any])


def _foreign_namespace(array: Any) -> Any:
    """Return a tensor's namespace if dispatch is on; None for what NumPy takes."""
    if not get_config()["array_api_dispatch"] or isinstance(array, (np.ndarray, list)):
        return None
    xp, is_array_api = get_namespace(array)
    is_foreign = is_array_api and "numpy" not in xp.__name__
    return xp if is_foreign else None


def own_errors() -> np.errstate:
    """Return a context in which NumPy handles errors as it does by default."""
    return np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")


def to_numpy(array: Any) -> Any:
    """Return a tensor as a NumPy array if dispatch is on, all else unchanged."""
    xp = None if array is None else _foreign_namespace(array)
    return array if xp is None else _convert_to_numpy(array, xp)


def in_kind(method: Method) -> Method:
    """Decorate a method to return arrays of the kind, and on the device, of its X.

    Labels that are not numbers stay NumPy arrays. Underflow of small densities is not
    an error, even under ``numpy.errstate(all="raise")``.
    """

    @functools.wraps(method)
    def wrapper(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        with own_errors():
            answer = method(self, X, *args, **kwargs)
        xp = _foreign_namespace(X)
        if (
            xp is None
            or not isinstance(answer, np.ndarray)
            or answer.dtype.kind in "OUSmM"
        ):
            return answer
        return xp.asarray(answer, device=device(X))

    return wrapper  # type: ignore[return-value]
