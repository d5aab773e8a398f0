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
        First responsibilities.
    allowed : Tensor of shape (N, K), bool, optional
        False where a known class rules a component out.
    mean_weight : Tensor of shape (), optional
        Mean weight of all rows that the batch is drawn from; by default of the batch.
    n_counted : float, optional
        Number of original rows that the batch stands for; N by default.
    n_rows : int, optional
        Number of rows in all processes together; N by default.
    repeat_widths : Tensor of shape (N, D), optional
        Standard deviations of the dequantization noise.
    neighbors : Tensor of shape (N, k, D), optional
        Nearest neighbours of each row.
    movable : Tensor of shape (N, D), optional
        1 for values that noise may move towards the neighbours, 0 for others.
    thickness : Tensor of shape (N, D), optional
        Standard deviations of noise that does not shrink: where components have no
        variance of their own, flows would reduce the variance that `reg_covar` adds.
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
        # If this is a part of a batch: its slice of the batch, and the batch's size.
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
        """Return rows by number; like indexing, but faster."""
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
        """Return values (N, K), with `low` for components that are not allowed."""
        if self.allowed is None:
            return values
        return values.masked_fill(~self.allowed, low)

    def mean(self, values: Tensor) -> Tensor:
        """Return the weighted mean of one value per row."""
        return torch.dot(values, self.weights) / self.weights.sum()

    def batch_weights(self) -> Tensor:
        """Return weights whose sum is one on average over batches.

        Divided by the sum of its own weights, a batch with a heavy row would count no
        more than any other.
        """
        return self.weights / (len(self) * self.mean_weight)

    def batch_mean(self, values: Tensor) -> Tensor:
        """Return an estimate of the weighted mean over all rows, not only the batch."""
        return torch.dot(values, self.batch_weights())


class RowSource(Protocol):
    """Where the batches of a training run come from."""

    n_rows: int  # of one pass, over all processes
    n_counted: float  # original rows that these stand for
    n_batches: int  # of one pass

    def draw(self) -> tuple[Tensor, ...]:
        """Draw the tensors that define the next batch: arguments of a recorded step."""
        ...

    def rows(self, *drawn: Tensor) -> Batch:
        """Return the batch that drawn tensors define, on the device."""
        ...

    def sample(self, n_rows: int) -> Batch:
        """Return a fixed sample of at most `n_rows` rows."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


class TableSource:
    """Batches of the shuffled rows of a table; passes continue across epochs.

    Parameters
    ----------
    table : Batch
        All rows.
    batch_size : int
        Smallest number of rows per batch; leftover rows are spread over the batches.
    generator : torch.Generator
        Source of the order of rows, on the table's device.
    nearest : Tensor of shape (N, k), optional
        Row numbers of the nearest neighbours of each row.
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
    """Gaussian noise that keeps flows from overfitting single rows and values.

    It moves rows along the lines to their nearest neighbours, in proportion to the
    distances, so that it follows the local spacing and directions of the data. Values
    in a spike of their column stay. It shrinks with the step size. Values that repeat
    may get dequantization noise as well, which is as wide as their spacing suggests and
    does not shrink: otherwise their density is a spike of arbitrary height.

    Parameters
    ----------
    scale : float
        Standard deviation at the first step size, as a share of these distances.
    generator : torch.Generator
        Source of the noise, on the model's device.
    column_space : Tensor of shape (D, D), optional
        Projector of dequantization noise onto the space that rank-deficient rows span,
        see `skflowmix.starts.preprocessing.column_space`.

    References
    ----------
    C. M. Bishop, Training with Noise is Equivalent to Tikhonov Regularization, Neural
    Computation 7, 1995.

    P. Vincent and Y. Bengio, Manifold Parzen Windows, NIPS 2002, for kernels shaped by
    the nearest neighbours.

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
        """Add noise to a batch; noise towards neighbours is scaled by `step_share`."""
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
        """Draw n values per row of the whole batch; return those of this part."""
        shape, x = (batch.n_whole, n), batch.x
        values = torch.randn(
            shape, generator=self.generator, dtype=x.dtype, device=x.device
        )
        return values[batch.part]
