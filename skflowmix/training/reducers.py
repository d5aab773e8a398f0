"""Communication between the processes that train one model; usually there is one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

__all__ = ["LocalReducer", "ProcessReducer", "Reducer"]

T = TypeVar("T")

# Types of errors that all processes raise unchanged; others become a RuntimeError.
SHARED_ERRORS = (ValueError, TypeError, FloatingPointError, MemoryError)


class Reducer(ABC):
    """Collective operations of the processes of a fit.

    All processes call its methods in the same order.

    Attributes
    ----------
    rank : int
        Number of this process; process 0 decides where one has to.
    n_ranks : int
        Number of processes.
    """

    rank: int = 0
    n_ranks: int = 1

    @abstractmethod
    def mean_(self, vector: Tensor) -> None:
        """Replace a vector by its mean over all processes."""

    @abstractmethod
    def broadcast_(self, vector: Tensor) -> None:
        """Replace a vector by that of the first process."""

    @abstractmethod
    def broadcast(self, value: T) -> T:
        """Return the value of the first process, which is pickled."""

    @abstractmethod
    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in order, in every process."""

    def from_first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process; return its value or raise its error."""
        outcome: tuple[Any, Any] = (None, None)
        error = None
        if self.rank == 0:
            try:
                outcome = function(), None
            except Exception as raised:
                error, outcome = raised, (None, _portable(raised))
        result, failure = self.broadcast(outcome)
        if failure is not None:
            kind, message = failure
            raise kind(message) from error
        return result

    @contextmanager
    def together(self) -> Iterator[None]:
        """After a block of code, raise in all processes the error of any of them."""
        failure = error = None
        try:
            yield
        except Exception as raised:
            error, failure = raised, _portable(raised)
        for rank, found in enumerate(self.gather(failure)):
            if found is not None:
                kind, message = found
                raise kind(f"In process {rank}: {message}") from error


def _portable(error: Exception) -> tuple[type[Exception], str]:
    """Return type and message of an error, which any process can unpickle."""
    for kind in SHARED_ERRORS:
        if isinstance(error, kind):
            return kind, str(error)
    return RuntimeError, f"{type(error).__name__}: {error}"


class LocalReducer(Reducer):
    """Reducer of a single process."""

    def mean_(self, vector: Tensor) -> None:
        """See `Reducer`."""

    def broadcast_(self, vector: Tensor) -> None:
        """See `Reducer`."""

    def broadcast(self, value: T) -> T:
        """See `Reducer`."""
        return value

    def gather(self, value: T) -> list[T]:
        """See `Reducer`."""
        return [value]

    def from_first(self, function: Callable[[], T]) -> T:
        """See `Reducer`."""
        return function()

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `Reducer`."""
        yield


class ProcessReducer(Reducer):
    """Reducer of the processes of the default group of `torch.distributed`.

    Parameters
    ----------
    host : ProcessGroup
        A gloo group of all processes, for data in CPU memory. Tensors on a GPU go
        through the default group.
    """

    def __init__(self, host: "dist.ProcessGroup"):
        self.host = host
        self.rank, self.n_ranks = dist.get_rank(), dist.get_world_size()

    def _group(self, vector: Tensor) -> "dist.ProcessGroup | None":
        return None if vector.is_cuda else self.host

    def mean_(self, vector: Tensor) -> None:
        """See `Reducer`."""
        dist.all_reduce(vector, group=self._group(vector))
        vector /= self.n_ranks

    def broadcast_(self, vector: Tensor) -> None:
        """See `Reducer`."""
        dist.broadcast(vector, 0, group=self._group(vector))

    def broadcast(self, value: T) -> T:
        """See `Reducer`."""
        values: list[Any] = [value]
        dist.broadcast_object_list(values, 0, group=self.host)
        return value if self.rank == 0 else values[0]

    def gather(self, value: T) -> list[T]:
        """See `Reducer`."""
        values: list[Any] = [None] * self.n_ranks
        dist.all_gather_object(values, value, group=self.host)
        return values
