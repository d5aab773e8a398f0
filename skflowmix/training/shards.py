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
    """Make this process train on rows that it alone holds.

    Parameters
    ----------
    table : TrainingTable
        A sample of the rows of all processes. Its held-out rows are held out of all
        shards.
    rows : ndarray of shape (n_distinct, n_features)
        This process's rows, in data units.
    weights : ndarray of shape (n_distinct,)
        Their weights, in the same unit in all processes.
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
    """View rows as single values that can be compared."""
    x = np.ascontiguousarray(x)
    return x.view(np.dtype((np.void, x.dtype.itemsize * x.shape[1]))).ravel()


def count_all_shards(batch: Batch, reducer: Reducer) -> None:
    """Set the mean weight and counts of a shard for the rows of all processes.

    On average over batches, the mean of `Batch.batch_mean` over the processes is then
    the weighted mean of all rows, however many each process holds.

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
    """One process's part of the batches of a table that all processes hold.

    All processes draw the same batches and the same noise: the mean of their gradients
    is the gradient of a single process.

    Parameters
    ----------
    table, batch_size, generator, nearest
        As for `TableSource`, the same in all processes.
    reducer : Reducer
        The processes among which batches are divided.
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
        if len(index) < n_ranks:  # every process takes all rows
            return super().rows(index)
        part = slice(rank, None, n_ranks)
        batch = super().rows(index[part])
        batch.part, batch.n_whole = part, len(index)
        batch.mean_weight = batch.mean_weight * (len(index) / (n_ranks * len(batch)))
        return batch


class ShardSource(TableSource):
    """Batches of the rows that this process alone holds.

    Parameters
    ----------
    table : Batch
        This process's rows, after `count_all_shards`.
    batch_size : int
        Rows of a batch, over all processes.
    generator : torch.Generator
        Source of the order of rows, a different one in every process.
    nearest : Tensor of shape (N, k), optional
        Row numbers of the nearest neighbours of each row.
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
        # Equal in all processes, which wait for the slowest one.
        self.size = min(reducer.gather(min(size, len(table))))
        super().__init__(table, self.size, generator, nearest)
        self.n_batches = max(table.n_rows // (self.size * reducer.n_ranks), 1)

    def draw(self) -> tuple[Tensor, ...]:
        """See `RowSource`; rows left over are skipped in this pass."""
        if not self._queue:
            n_own = len(self.table)
            order = torch.randperm(
                n_own, generator=self.generator, device=self.generator.device
            )
            whole = n_own - n_own % self.size
            self._queue = list(order[:whole].split(self.size))
        return (self._queue.pop(),)
