"""The input of `fit` as a `Problem`: rows in memory, or read piece by piece."""

from functools import partial
from typing import Any

import numpy as np

from skflowmix.array_api import to_numpy
from skflowmix.fitting import Problem
from skflowmix.parameter_checks import check_weights
from skflowmix.row_stream import RowStream, is_on_disk, is_too_large, sample_size
from skflowmix.validation import check_rows

__all__ = ["n_rows_given", "state_problem"]


def state_problem(
    estimator: Any, X: Any, sample_weight: Any, *, has_shares: bool, n_processes: int
) -> Problem:
    """Return the problem of a fit; for a large table, that of a sample with a stream.

    Parameters
    ----------
    estimator : estimator
        The estimator that is fitted.
    X : array-like or table of shape (n_samples, n_features)
        The rows.
    sample_weight : array-like of shape (n_samples,) or None
        Non-negative weights.
    has_shares : bool
        Whether first responsibilities are given for every row.
    n_processes : int
        Number of processes in the fit. Several processes hold their rows in memory.

    Returns
    -------
    problem : Problem
        The checked rows of the table, or of a sample.

    Raises
    ------
    ValueError
        If rows or weights are invalid, or if first responsibilities or several
        processes are combined with a table that is not in memory.
    """
    check = partial(check_rows, estimator, dtype=[np.float64, np.float32], fitted=False)
    X = to_numpy(X)
    on_disk = is_on_disk(X)
    if on_disk and X.shape[0] <= sample_size(X.shape[1]):
        X, on_disk = np.asarray(X[:]), False
    if not on_disk:
        X = check(X)
        if has_shares or n_processes > 1 or not is_too_large(X.shape):
            return Problem(X, check_weights(sample_weight, X))
    elif n_processes > 1:
        raise ValueError(
            "X is read piece by piece, which is not supported where several processes "
            "fit one model. Within data_parallel, load the rows of each process into "
            "memory: X = np.asarray(X[rank::n_processes])."
        )
    elif has_shares:
        raise ValueError(
            "init_params must not be an array of responsibilities where X is "
            "larger than memory may hold, and is read piece by piece."
        )
    if sample_weight is not None:
        sample_weight = check_weights(sample_weight, X)
    stream = RowStream(X, sample_weight, check, on_disk)
    numbers, rows = stream.sample()
    rows = check(rows)
    return Problem(rows, stream.weights(numbers), stream=stream, numbers=numbers)


def n_rows_given(problem: Problem) -> int:
    """Return the number of rows in memory: of a table on disk, that of the sample."""
    stream = problem.stream
    if stream is None or stream.is_on_disk:
        return len(problem.X)
    return stream.n_rows
