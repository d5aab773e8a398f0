"""Batches where several processes train one model, each on a part of the rows."""

import numpy as np
import torch
from torch import Tensor

from skflowmix.training.batches import Batch, TableSource
from skflowmix.training.reducers import Reducer
from skflowmix.training.table import TrainingTable

__all__ = ["ShardSource", "SharedSource", "count_all_shards", "hold_shard"]


def hold_shard(
    table: TrainingTable, rows: np.ndarray, weights: np.ndarray, reducer: Reducer
) -> None:
    """Let a process train on rows that it alone holds.

    Parameters
    ----------
    table : TrainingTable
        A sample of the rows of all processes. Its held-out rows are held out.
    rows : ndarray of shape (n_distinct, n_features)
        This process's rows, in data units.
    weights : ndarray of shape (n_distinct,)
        Their weights, of the same unit in all processes.
    reducer : Reducer
        The processes.

    Raises
    ------
    ValueError
        If a process has no rows left to train on.
    """
    shard = TrainingTable(
        rows, weights, table.standardizer, 0.0, np.random.RandomState(0)
    )
    of_all = reducer.gather((len(rows), weights.sum(), shard.n_counted))
    n_rows, total, table.n_counted = map(sum, zip(*of_all, strict=True))
    shard.weights = weights * (n_rows / total)
    held_out = np.isin(_as_items(shard.x), _as_items(table.x[table.held_out]))
    is_held_out = held_out[shard.train]
    shard.train, shard.held_out = shard.train[~is_held_out], shard.train[is_held_out]
    least = 2
    n_left = reducer.gather(len(shard.train))
    if min(n_left) < least:
        raise ValueError(
            f"Every process needs at least {least} distinct rows that are not held "
            f"out, got {n_left}. Spread the rows evenly over the processes."
        )
    table.shard = shard


def _as_items(x: np.ndarray) -> np.ndarray:
    """Rows as single values, to compare."""
    x = np.ascontiguousarray(x)
    return x.view(np.dtype((np.void, x.dtype.itemsize * x.shape[1]))).ravel()


def count_all_shards(batch: Batch, reducer: Reducer) -> None:
    """Let the rows that one process holds be a part of those of all.

    The mean over the processes of the `Batch.batch_mean` of theirs is then, over
    batches, the weighted mean of all rows, however many each process holds.

    Parameters
    ----------
    batch : Batch
        This process's rows, whose weights have the same unit in all processes.
    reducer : Reducer
        The processes.
    """
    mine = float(batch.weights.double().sum()), batch.n_counted, len(batch)
    total, n_counted, n_rows = map(sum, zip(*reducer.gather(mine), strict=True))
    share = total / (reducer.n_ranks * len(batch))
    batch.mean_weight = torch.full_like(batch.mean_weight, share)
    batch.n_counted, batch.n_rows = n_counted, n_rows


class SharedSource(TableSource):
    """Every process's part of the batches of one table that all of them hold.

    All draw the same batches, and the same noise on them: the mean of their gradients
    is that of one process.

    Parameters
    ----------
    table, batch_size, generator, nearest
        As for `TableSource`, the same in all processes.
    reducer : Reducer
        Which part is this process's.
    """

    def __init__(
        self,
        table: Batch,
        batch_size: int,
        generator: torch.Generator,
        nearest: Tensor | None,
        reducer: Reducer,
    ):
        super().__init__(table, batch_size, generator, nearest)
        self.reducer = reducer

    def rows(self, *drawn: Tensor) -> Batch:
        """See `skflowmix.training.batches.RowSource`."""
        (index,) = drawn
        rank, n_ranks = self.reducer.rank, self.reducer.n_ranks
        if len(index) < n_ranks:  # all of them take all rows
            return super().rows(index)
        part = slice(rank, None, n_ranks)
        batch = super().rows(index[part])
        batch.part, batch.n_whole = part, len(index)
        batch.mean_weight = batch.mean_weight * (len(index) / (n_ranks * len(batch)))
        return batch


class ShardSource(TableSource):
    """Batches of the rows that this process alone holds, as many as in the others.

    Parameters
    ----------
    table : Batch
        This process's rows; `n_rows` and `mean_weight` count those of the others in.
    batch_size : int
        Rows of a batch, over all processes.
    generator : torch.Generator
        Source of their order, another one in every process.
    nearest : Tensor of shape (N, k), optional
        Numbers of the rows nearest to each.
    reducer : Reducer
        The processes.
    """

    def __init__(
        self,
        table: Batch,
        batch_size: int,
        generator: torch.Generator,
        nearest: Tensor | None,
        reducer: Reducer,
    ):
        size = max(batch_size // reducer.n_ranks, 1)
        # As large in every process: the slowest one sets the pace.
        self.size = min(reducer.gather(min(size, len(table))))
        super().__init__(table, self.size, generator, nearest)
        self.n_batches = max(table.n_rows // (self.size * reducer.n_ranks), 1)

    def draw(self) -> tuple[Tensor, ...]:
        """See `RowSource`; the rows that are left over wait for the next pass."""
        if not self._queue:
            n_own = len(self.table)
            order = torch.randperm(
                n_own, generator=self.generator, device=self.generator.device
            )
            whole = n_own - n_own % self.size
            self._queue = list(order[:whole].split(self.size))
        return (self._queue.pop(),)
