"""What several processes that train one model agree on; here there is one."""

from typing import Protocol

from torch import Tensor

__all__ = ["LocalReducer", "Reducer"]


class Reducer(Protocol):
    """Agreement between the processes of a fit."""

    def mean_(self, vector: Tensor) -> None:
        """Replace a vector by its mean over all processes."""
        ...


class LocalReducer:
    """The only process."""

    def mean_(self, vector: Tensor) -> None:
        """See `Reducer`."""
