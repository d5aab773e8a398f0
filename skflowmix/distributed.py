"""Several processes train one model: the processes, and their shares of the rows."""

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

# Preparation, Gaussians and held-out rows are those of at most so many rows, drawn from
# all processes, and so many values.
SAMPLE_ROWS = EPOCH_ROWS
SAMPLE_VALUES = 2**25

# What `torchrun` tells its processes.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_active: ContextVar[tuple[Reducer, bool]] = ContextVar("active")


@contextmanager
def data_parallel(*, sharded: bool = True, timeout: float = 1800.0) -> Iterator[None]:
    """Let several processes fit one model, each with a part of the work.

    Run the same script in all of them with ``torchrun --nproc-per-node N script.py``:
    fits within this context train one model, with one sum of all gradients a step, and
    all processes end with the same one. In a script that runs by itself, without
    `torchrun` and without a process group, it does nothing.

    Parameters
    ----------
    sharded : bool, default=True
        Whether each process passes rows of its own to `fit`, which no other one has.
        At False all of them pass the same X, and of each batch every process takes a
        part: training then is that of one process, up to rounding.
    timeout : float, default=1800
        Seconds that a process waits for another one before it gives up. Longer than the
        first partition takes, which the first process finds for all.

    Raises
    ------
    ValueError
        If `timeout` is not positive.
    RuntimeError
        If a process group cannot be formed.

    Notes
    -----
    A process group is made of the variables that `torchrun` sets unless there is one:
    gloo for the CPU, NCCL where there are GPUs. ``device="cuda"`` is then the GPU of
    the number that `torchrun` calls ``LOCAL_RANK``.

    With shards `FlowMixture` sees up to 65 536 rows of all processes together as one
    table. Of more, scales, first partition, Gaussians and held-out rows come from a
    sample of so many, in proportion to the shards, and flows are trained on all.
    `labels_` are those of the process's own rows. Classifier and detector need
    ``sharded=False``.

    Callbacks are called, and lines printed, in the first process. Restarts are trained
    in turn, whatever `n_jobs`.

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
    """Let fits be those of several processes, see `data_parallel`."""
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
        # The store of torchrun still holds the addresses of processes that it has
        # ended and started again.
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
    """Return the processes that fit a model together, mostly this one alone."""
    return _active.get((LocalReducer(), False))[0]


def rows_of_one(estimator: object) -> Reducer:
    """Return the processes of a fit that needs all rows in each of them.

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
    """Return the rows of all processes together, or a sample where they are many.

    Parameters
    ----------
    own : Problem
        What this process was given.
    reducer : Reducer
        The processes.

    Returns
    -------
    problem : Problem
        The same in all processes. Without shards it is the process's own.

    Raises
    ------
    ValueError
        If the rows of the processes do not go together.
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
    # Their order is random.
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
