"""Settings of the caller: array API dispatch and NumPy's error handling."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn import get_config
from sklearn.utils import _array_api

__all__ = ["Method", "as_numpy", "in_kind", "like", "own_errors", "to_numpy"]

# Floating dtypes of torch that NumPy has, too.
NUMPYS_FLOATS = (torch.float16, torch.float32, torch.float64)

Method = TypeVar("Method", bound=Callable[..., Any])


def _is_foreign(array: Any) -> bool:
    """Tell whether an array is one of another library than NumPy."""
    is_array = _array_api.array_api_compat.is_array_api_obj(array)
    return is_array and not isinstance(array, (np.ndarray, np.generic))


def own_errors() -> np.errstate:
    """Return a context in which NumPy handles errors as it does by default."""
    return np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")


def _of_numpys_dtypes(value: Any) -> Any:
    """Return a tensor of bfloat16 or float8, which NumPy has not, in float32."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value if value.dtype in NUMPYS_FLOATS else value.float()
    return value


def to_numpy(array: Any) -> Any:
    """Return a tensor as a NumPy array if dispatch is on, all else unchanged.

    Tensors of bfloat16 or float8 are converted to float32 in any case.
    """
    array = _of_numpys_dtypes(array)
    return as_numpy(array) if get_config()["array_api_dispatch"] else array


def as_numpy(value: Any) -> Any:
    """Return a tensor as a NumPy array, dispatch or not, all else unchanged."""
    if isinstance(value, torch.Tensor):
        return _of_numpys_dtypes(value).numpy(force=True)
    if not _is_foreign(value):
        return value
    xp = _array_api.array_api_compat.array_namespace(value)
    return _array_api._convert_to_numpy(value, xp)


def like(example: Any, array: Any) -> Any:
    """Return a NumPy array in the kind, and on the device, of another array.

    It stays a NumPy array if dispatch is off, or if it does not hold numbers of at most
    64 bits.
    """
    if (
        not get_config()["array_api_dispatch"]
        or not _is_foreign(example)
        or not isinstance(array, np.ndarray)
        or array.dtype.kind not in "biuf"
        or array.dtype.itemsize > 8
    ):
        return array
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    xp, _ = _array_api.get_namespace(example)
    return _array_api.move_to(native, xp=xp, device=_array_api.device(example))


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
