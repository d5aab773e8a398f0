"""Data-parallel training: processes that fit one model, and their rows."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from skflowmix.fitting import Problem
from skflowmix.training.reducers import LocalReducer, ProcessReducer, Reducer
from skflowmix.training.settings import EPOCH_ROWS

__all__ = [
    "active_reducer",
    "data_parallel",
    "fit_together",
    "rows_of_all",
    "rows_of_one",
]

# Largest numbers of rows and of values in the sample of all processes' rows that
# preparation, Gaussians and held-out rows are based on.
SAMPLE_ROWS = EPOCH_ROWS
SAMPLE_VALUES = 2**25

# Environment variables that `torchrun` sets.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_active: ContextVar[tuple[Reducer, bool]] = ContextVar("active")


@contextmanager
def data_parallel(*, sharded: bool = True, timeout: float = 1800.0) -> Iterator[None]:
    """Let several processes fit one model, each with a part of the work.

    Run the same script in all of them with ``torchrun --nproc-per-node N script.py``:
    fits within this context train one model, averaging gradients over the processes in
    every step, and all processes end with the same model. In a script that runs alone,
    without `torchrun` and without a process group, the context does nothing.

    Parameters
    ----------
    sharded : bool, default=True
        Whether each process passes its own rows to `fit`, which no other process has.
        If False, all processes pass the same X, and each takes a part of every batch:
        training then equals that of one process, up to rounding.
    timeout : float, default=1800
        Seconds that a process waits for another one before it fails. It must exceed the
        time of the first partition, which the first process computes for all.

    Raises
    ------
    ValueError
        If `timeout` is not positive.
    RuntimeError
        If a process group cannot be formed.

    Notes
    -----
    Unless a process group exists, one is created from the variables that `torchrun`
    sets: gloo for the CPU, NCCL if there are GPUs. ``device="cuda"`` is then the GPU
    numbered ``LOCAL_RANK``.

    With shards, `FlowMixture` treats up to 65 536 rows of all processes as one table
    (fewer with more than 512 columns). If there are more, scales, first partition,
    Gaussians and held-out rows come from a sample of that size, in proportion to the
    shards, and flows are trained on all rows. `labels_` are those of the process's own
    rows. Classifier and detector need ``sharded=False``.

    Callbacks are called, and lines printed, in the first process. Restarts are trained
    one after another, whatever `n_jobs`.

    Examples
    --------
    >>> from skflowmix import FlowMixture, data_parallel
    >>> X = [[0.0], [1.0], [2.0]]
    >>> with data_parallel():  # here there is one process
    ...     model = FlowMixture(n_transforms=0).fit(X)
    """
    if not timeout > 0:
        raise ValueError(f"timeout must be a positive number, got {timeout!r}.")
    with ExitStack() as stack:
        if dist.is_available() and not dist.is_initialized():
            if all(name in os.environ for name in VARIABLES):
                stack.enter_context(_process_group(timedelta(seconds=timeout)))
        reducer: Reducer = LocalReducer()
        if dist.is_available() and dist.is_initialized():
            host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
            stack.callback(dist.destroy_process_group, host)
            reducer = ProcessReducer(host)
        with fit_together(reducer, sharded=sharded):
            yield


@contextmanager
def fit_together(reducer: Reducer, *, sharded: bool) -> Iterator[None]:
    """Make fits in this context use the processes of `reducer`, see `data_parallel`."""
    token = _active.set((reducer, sharded and reducer.n_ranks > 1))
    try:
        yield
    finally:
        _active.reset(token)


@contextmanager
def _process_group(timeout: timedelta) -> Iterator[None]:
    has_gpu = torch.cuda.is_available() and dist.is_nccl_available()
    with ExitStack() as stack:
        if has_gpu and "LOCAL_RANK" in os.environ:
            stack.enter_context(torch.cuda.device(int(os.environ["LOCAL_RANK"])))
        backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
        store, rank, n_ranks = next(dist.rendezvous("env://", timeout=timeout))
        # After torchrun restarts processes, its store still holds the addresses of the
        # former ones.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"attempt {attempt}", store),
            rank=rank,
            world_size=n_ranks,
            timeout=timeout,
        )
        stack.callback(dist.destroy_process_group)
        yield


def active_reducer() -> Reducer:
    """Return the processes that fit a model together; by default, this one alone."""
    return _active.get((LocalReducer(), False))[0]


def rows_of_one(estimator: object) -> Reducer:
    """Return the active processes for a fit that needs all rows in each of them.

    Raises
    ------
    ValueError
        If rows are sharded.
    """
    reducer, sharded = _active.get((LocalReducer(), False))
    if sharded:
        raise ValueError(
            f"{type(estimator).__name__} cannot be fitted to shards of the rows. Give "
            "all processes all rows, within data_parallel(sharded=False)."
        )
    return reducer


def rows_of_all(own: Problem, reducer: Reducer) -> Problem:
    """Return the rows of all processes together, or a sample if they are many.

    Parameters
    ----------
    own : Problem
        The data of this process.
    reducer : Reducer
        The processes.

    Returns
    -------
    problem : Problem
        The same in all processes. Without shards it is the process's own.

    Raises
    ------
    ValueError
        If the rows of the processes are inconsistent.
    """
    if not _active.get((reducer, False))[1]:
        if reducer.n_ranks > 1 and len(set(reducer.gather(_digest(own)))) > 1:
            raise ValueError(
                "X, y and sample_weight must be the same in every process within "
                "data_parallel(sharded=False)."
            )
        return own
    n_columns = reducer.gather(own.rows.shape[1])
    if len(set(n_columns)) > 1:
        raise ValueError(
            f"X must have as many columns in every process, got {n_columns}."
        )
    n_rows = reducer.gather(len(own.rows))
    most = min(SAMPLE_ROWS, max(SAMPLE_VALUES // n_columns[0], 1))
    share = min(most / sum(n_rows), 1.0)
    # Rows are in random order: the first ones are a sample.
    n_own = round(share * len(own.rows))
    parts = reducer.gather((own.rows[:n_own], own.totals()[:n_own]))
    rows, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    problem = Problem(rows, weights)
    problem.shard, problem.is_sample = own, share < 1.0
    return problem


def _digest(problem: Problem) -> str:
    digest = hashlib.sha256()
    for array in (problem.X, problem.sample_weight, problem.classes):
        if array is not None:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
