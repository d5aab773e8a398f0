"""Tables larger than memory, read in chunks."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.random import sample_without_replacement

__all__ = ["RowStream", "is_on_disk", "is_too_large", "sample_size"]

# Preparation uses a random sample of SAMPLE_ROWS rows; in wide tables, of
# SAMPLE_VALUES values, but at least LEAST_SAMPLE rows.
SAMPLE_ROWS, SAMPLE_VALUES, LEAST_SAMPLE = 80_000, 8_000_000, 20_000

# Arrays in memory with more rows or values are read in chunks, like those on disk.
LARGEST_ROWS, LARGEST_VALUES = 500_000, 100_000_000

# Tables other than arrays are sampled in runs of rows: single ones can be slow to read.
RUN = 16


def is_on_disk(X: Any) -> bool:
    """Tell whether a table is to be read in chunks.

    Parameters
    ----------
    X : object
        True for a memory map, and for any other table of numbers with `shape`, a NumPy
        `dtype`, and slices of rows, such as a dataset of h5py or zarr.
    """
    dtype, shape = getattr(X, "dtype", None), getattr(X, "shape", ())
    is_table = isinstance(dtype, np.dtype) and dtype.kind in "fiub" and len(shape) == 2
    if not is_table or issparse(X) or not hasattr(X, "__getitem__"):
        return False
    # Arrays on a GPU are not streams.
    is_other = not isinstance(X, np.ndarray) and not hasattr(X, "__dlpack__")
    return is_other or isinstance(X, np.memmap)


def is_too_large(shape: tuple[int, int]) -> bool:
    """Tell whether an array is to be read in chunks although it is in memory."""
    n_rows, n_columns = shape
    is_large = n_rows > LARGEST_ROWS or n_rows * n_columns > LARGEST_VALUES
    return is_large and n_rows > sample_size(n_columns)


def sample_size(n_columns: int) -> int:
    """Return the number of rows in the sample that preparation uses."""
    by_values = SAMPLE_VALUES // max(n_columns, 1)
    return min(max(by_values, LEAST_SAMPLE), SAMPLE_ROWS)


class RowStream:
    """Rows of a table, read into memory only on request.

    Parameters
    ----------
    X : table of shape (n_samples, n_features)
        With `shape`, `dtype` and slices of rows.
    sample_weight : ndarray of shape (n_samples,), optional
        Non-negative weights.
    check : callable, optional
        Receives rows that may hold non-finite values, and raises a ValueError if they
        do.
    is_on_disk : bool, default=True
        Whether the table may be larger than memory.

    Attributes
    ----------
    n_rows : int
        Number of rows, including those of weight zero.
    n_counted : int
        Number of rows of positive weight.
    mean_weight : float
        Mean weight of the rows of positive weight.
    """

    def __init__(
        self,
        X: Any,
        sample_weight: np.ndarray | None = None,
        check: Callable[[np.ndarray], Any] = lambda rows: None,
        is_on_disk: bool = True,
    ):
        self.X, self.sample_weight, self.check = X, sample_weight, check
        self.is_on_disk = is_on_disk
        self.n_rows, self.n_columns = (int(n) for n in X.shape)
        self.n_counted, self.mean_weight = self.n_rows, 1.0
        if sample_weight is not None:
            self.n_counted = int(np.count_nonzero(sample_weight))
            self.mean_weight = float(sample_weight.sum() / max(self.n_counted, 1))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop - 1`, in float32 or float64."""
        return self._checked(self.X[start:stop], f"{start} to {stop - 1}")

    def weights(self, index: slice | np.ndarray) -> np.ndarray:
        """Return the weights of some rows, by slice or indices."""
        if self.sample_weight is None:
            n = index.stop - index.start if isinstance(index, slice) else len(index)
            return np.ones(n)
        return self.sample_weight[index]

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw the sample of rows for preparation, always the same one.

        Returns
        -------
        numbers : ndarray of shape (n_sampled,), int
            Indices of the rows, increasing.
        rows : ndarray of shape (n_sampled, n_features)
            These rows, in float32 or float64.
        """
        random_state = np.random.RandomState(0)
        size = sample_size(self.n_columns)
        if isinstance(self.X, np.ndarray):
            numbers = _draw(self.n_counted, size, random_state)
            if self.sample_weight is not None:
                numbers = np.flatnonzero(self.sample_weight)[numbers]
            return numbers, self._checked(self.X[numbers], "of a sample")
        starts = np.arange(0, self.n_rows, RUN)
        if self.sample_weight is not None:
            counted = np.add.reduceat(self.sample_weight > 0, starts, dtype=int)
            starts = starts[counted > 0]
        runs = starts[_draw(len(starts), size // RUN, random_state)]
        ends = np.minimum(runs + RUN, self.n_rows)
        parts = list(zip(runs.tolist(), ends.tolist(), strict=True))
        numbers = np.concatenate([np.arange(*part) for part in parts])
        rows = np.concatenate([self.read(*part) for part in parts])
        counts = self.weights(numbers) > 0
        return numbers[counts], rows[counts]

    def _checked(self, rows: Any, which: str) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.dtype not in (np.float32, np.float64):
            rows = rows.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            is_finite = np.isfinite(rows.sum())
        if not is_finite:  # or their sum overflowed
            try:
                self.check(rows)
            except ValueError as error:
                raise ValueError(f"In rows {which}: {error}") from error
        return rows


def _draw(n: int, size: int, random_state: np.random.RandomState) -> np.ndarray:
    """Draw at most `size` different integers below n, in increasing order."""
    if size >= n:
        return np.arange(n)
    return np.sort(sample_without_replacement(n, size, random_state=random_state))
