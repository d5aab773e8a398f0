"""What several processes that train one model agree on; here there is one."""

from typing import Protocol

from torch import Tensor

__all__ = ["LocalReducer", "Reducer"]


class Reducer(Protocol):
    """Agreement between the processes of a fit."""

    rank: int
    n_ranks: int

    def mean_(self, vector: Tensor) -> None:
        """Replace a vector by its mean over all processes."""
        ...

    def max_(self, value: Tensor) -> None:
        """Replace values by the largest ones of all processes."""
        ...

    def broadcast_(self, value: Tensor) -> None:
        """Replace values by those of the first process."""
        ...


class LocalReducer:
    """The only process."""

    rank, n_ranks = 0, 1

    def mean_(self, vector: Tensor) -> None:
        """See `Reducer`."""

    def max_(self, value: Tensor) -> None:
        """See `Reducer`."""

    def broadcast_(self, value: Tensor) -> None:
        """See `Reducer`."""
