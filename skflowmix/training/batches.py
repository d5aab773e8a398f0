"""Batches of rows, where they come from, and the noise that training adds to them."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Batch", "Noise", "RowSource", "TableSource"]


class Batch:
    """Standardised rows, their weights and first responsibilities.

    Parameters
    ----------
    x : Tensor of shape (N, D)
        The rows.
    weights : Tensor of shape (N,)
        Positive weights.
    responsibilities : Tensor of shape (N, K)
        Shares of the components.
    allowed : Tensor of shape (N, K), bool, optional
        False where a known class rules a component out.
    mean_weight : Tensor of shape (), optional
        Mean weight of all rows that these are a batch of.
    n_counted : float, optional
        How many rows they stand for; N by default.
    n_rows : int, optional
        Rows of all processes that these are a part of; N by default.
    repeat_widths : Tensor of shape (N, D), optional
        Standard deviations of noise on values that repeat.
    neighbors : Tensor of shape (N, k, D), optional
        The rows nearest to each.
    movable : Tensor of shape (N, D), optional
        1 for values that noise may move towards those, 0 for others.
    thickness : Tensor of shape (N, D), optional
        Standard deviations of noise in all directions, which stays: where components
        have no variance of their own, flows would make what `reg_covar` adds thinner.
    """

    def __init__(
        self,
        x: Tensor,
        weights: Tensor,
        responsibilities: Tensor,
        allowed: Tensor | None = None,
        mean_weight: Tensor | None = None,
        repeat_widths: Tensor | None = None,
        neighbors: Tensor | None = None,
        movable: Tensor | None = None,
        thickness: Tensor | None = None,
        n_counted: float | None = None,
        n_rows: int | None = None,
    ):
        self.x, self.weights, self.responsibilities = x, weights, responsibilities
        self.allowed, self.repeat_widths = allowed, repeat_widths
        self.neighbors, self.movable, self.thickness = neighbors, movable, thickness
        self.mean_weight = weights.mean() if mean_weight is None else mean_weight
        self.n_counted = len(x) if n_counted is None else n_counted
        self.n_rows = len(x) if n_rows is None else n_rows
        # Where these are a part of a batch: their places there, and its size.
        self.part, self.n_whole = slice(None), len(x)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | slice) -> "Batch":
        optional = (
            None if values is None else values[index] for values in self._optional
        )
        return self._of(
            self.x[index], self.weights[index], self.responsibilities[index], *optional
        )

    def take(self, index: Tensor) -> "Batch":
        """Rows by number; like indexing, but faster."""
        optional = (
            None if values is None else values.index_select(0, index)
            for values in self._optional
        )
        return self._of(
            self.x.index_select(0, index),
            self.weights.index_select(0, index),
            self.responsibilities.index_select(0, index),
            *optional,
        )

    @property
    def _optional(self) -> tuple[Tensor | None, ...]:
        return (
            self.allowed,
            self.repeat_widths,
            self.neighbors,
            self.movable,
            self.thickness,
        )

    def _of(
        self,
        x: Tensor,
        weights: Tensor,
        responsibilities: Tensor,
        allowed: Tensor | None,
        *others: Any,
    ) -> "Batch":
        return Batch(x, weights, responsibilities, allowed, self.mean_weight, *others)

    def mask(self, values: Tensor, low: float = -math.inf) -> Tensor:
        """Values (N, K), with `low` for components that are not allowed."""
        if self.allowed is None:
            return values
        return values.masked_fill(~self.allowed, low)

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean of one value per row."""
        return torch.dot(values, self.weights) / self.weights.sum()

    def batch_weights(self) -> Tensor:
        """Weights whose sum is one on average over batches.

        Divided by its own weights, a batch with a heavy row would count no more than
        any other.
        """
        return self.weights / (len(self) * self.mean_weight)

    def batch_mean(self, values: Tensor) -> Tensor:
        """Mean of one value per row, over batches the weighted mean of all rows."""
        return torch.dot(values, self.batch_weights())


class RowSource(Protocol):
    """Where the batches of a training run come from."""

    n_rows: int  # of one pass, over all processes
    n_counted: float  # rows that they stand for
    n_batches: int  # of one pass

    def draw(self) -> tuple[Tensor, ...]:
        """Draw what the next batch is made of: the arguments of a recorded step."""
        ...

    def rows(self, *drawn: Tensor) -> Batch:
        """Return that batch, on the device."""
        ...

    def sample(self, n_rows: int) -> Batch:
        """Return a fixed sample of at most so many rows."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` goes on from."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        ...


class TableSource:
    """Batches of the shuffled rows of a table, which go on from epoch to epoch.

    Parameters
    ----------
    table : Batch
        All rows.
    batch_size : int
        Rows of a batch; the last ones are no smaller.
    generator : torch.Generator
        Source of their order, on the table's device.
    nearest : Tensor of shape (N, k), optional
        Numbers of the rows nearest to each.
    """

    def __init__(
        self,
        table: Batch,
        batch_size: int,
        generator: torch.Generator,
        nearest: Tensor | None = None,
    ):
        self.table, self.generator, self.nearest = table, generator, nearest
        self.n_rows, self.n_counted = table.n_rows, table.n_counted
        self.n_batches = max(len(table) // min(batch_size, len(table)), 1)
        self._queue: list[Tensor] = []

    def draw(self) -> tuple[Tensor, ...]:
        """See `RowSource`: the numbers of the rows."""
        if not self._queue:
            order = torch.randperm(
                len(self.table), generator=self.generator, device=self.generator.device
            )
            self._queue = list(order.tensor_split(self.n_batches))
        return (self._queue.pop(),)

    def rows(self, *drawn: Tensor) -> Batch:
        """See `RowSource`."""
        (index,) = drawn
        batch = self.table.take(index)
        if self.nearest is not None:
            nearest = self.nearest.index_select(0, index)
            values = self.table.x.index_select(0, nearest.flatten())
            batch.neighbors = values.view(*nearest.shape, -1)
        return batch

    def sample(self, n_rows: int) -> Batch:
        """See `RowSource`: the first rows, whose order is random."""
        return self.table[:n_rows]

    def state_dict(self) -> dict[str, Any]:
        """See `RowSource`."""
        return {
            "queue": [index.clone() for index in self._queue],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `RowSource`."""
        self._queue = [index.clone() for index in state["queue"]]
        self.generator.set_state(state["generator"])


class Noise:
    """Gaussian noise that keeps flows from following single rows and values.

    It moves rows along the lines to their nearest rows, in proportion to these
    distances: as far as the data leave room and in the directions in which they lie.
    Values in a spike of their column stay. It shrinks with the step size. On values
    that repeat there may be more noise, which is as wide as these ask and does not
    shrink: otherwise their density is a spike whose height means nothing.

    Parameters
    ----------
    scale : float
        Standard deviation, in distances to the nearest rows, at the first step size.
    generator : torch.Generator
        Its source, on the model's device.
    column_space : Tensor of shape (D, D), optional
        Projects noise on values that repeat on the space that rank-deficient rows
        span, see `skflowmix.starts.preprocessing.column_space`.

    References
    ----------
    C. M. Bishop, Training with Noise is Equivalent to Tikhonov Regularization, Neural
    Computation 7, 1995.

    P. Vincent and Y. Bengio, Manifold Parzen Windows, NIPS 2002, for kernels as wide
    as the rows near by ask.

    B. Uria, I. Murray and H. Larochelle, RNADE: The Real-Valued Neural Autoregressive
    Density-Estimator, NIPS 2013, for noise on discrete values.
    """

    def __init__(
        self,
        scale: float,
        generator: torch.Generator,
        column_space: Tensor | None = None,
    ):
        self.scale, self.generator = scale, generator
        self.column_space = column_space

    def move(self, batch: Batch, step_share: float) -> None:
        """Add noise to rows that has shrunk as the step size has."""
        moved, n_columns = batch.x, batch.x.shape[1]
        scale = self.scale * step_share
        if batch.neighbors is not None and scale > 0:
            n_nearest = batch.neighbors.shape[1]
            ways = batch.neighbors - batch.x.unsqueeze(1)
            shares = self._normal(batch, n_nearest)
            shares *= scale / math.sqrt(n_nearest)
            step = torch.bmm(shares.unsqueeze(1), ways).squeeze(1)
            moved = moved + (step if batch.movable is None else step * batch.movable)
        if batch.thickness is not None and scale > 0:
            moved = moved + batch.thickness * self._normal(batch, n_columns)
        if batch.repeat_widths is not None:
            shift = batch.repeat_widths * self._normal(batch, n_columns)
            moved = moved + (
                shift if self.column_space is None else shift @ self.column_space
            )
        batch.x = moved

    def _normal(self, batch: Batch, n: int) -> Tensor:
        """So many values a row; of the whole batch, where these are part of one."""
        shape, x = (batch.n_whole, n), batch.x
        values = torch.randn(
            shape, generator=self.generator, dtype=x.dtype, device=x.device
        )
        return values[batch.part]
