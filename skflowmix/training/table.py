"""The rows of one fit, and what training needs to know about them."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skflowmix.row_stream import RowStream
from skflowmix.starts.knn import MAX_SEARCHED_ROWS, nearest, nearest_others
from skflowmix.starts.preprocessing import (
    MIN_HELD_OUT,
    TRAINING_BOUND,
    Standardizer,
    column_space,
    outside_spikes,
    repeat_widths,
    row_counts,
    split_rows,
)
from skflowmix.training.batches import Batch

__all__ = ["N_NEAREST", "TrainingTable"]

# Number of nearest neighbours towards and away from which training noise moves a row.
N_NEAREST = 2

# A row with a larger share of the weight (a heap in a table of one column) is not held
# out: without it flows would be trained on a different distribution.
HEAVIEST_HELD_OUT = 0.05

# If more than this share of the distinct rows is outlying, none counts as outlying.
MOST_FAR = 0.5


class TrainingTable:
    """Distinct rows, standardised, with weights and a split.

    A row is outlying (`far`) if one of its values is outside the limits of the
    standardizer.

    Parameters
    ----------
    rows : ndarray of shape (n_distinct, n_features)
        In data units.
    weights : ndarray of shape (n_distinct,)
        Positive. The attribute is scaled to add up to the rows counted by `row_counts`.
    standardizer : Standardizer
        Location and scale of the columns.
    validation_fraction : float
        Share of the rows to hold out.
    random_state : RandomState
        Source of the split.
    stream : RowStream, optional
        The table that these rows are a sample of; batches are read from it.
    numbers : ndarray of shape (n_sampled,), int, optional
        Numbers of the sampled rows in the stream, increasing.
    inverse : ndarray of shape (n_sampled,), int, optional
        Index into `rows` of each sampled row.

    Attributes
    ----------
    allowed : ndarray of shape (n_distinct, n_components), bool, or None
        False where a known class rules a component out.
    n_counted : float
        Number of original rows that these stand for.
    shard : TrainingTable or None
        The rows this process trains on, if the table is only a sample of all rows.
    path : list of dict
        How clusters were counted, if they were, see `FlowMixture`.
    """

    def __init__(
        self,
        rows: np.ndarray,
        weights: np.ndarray,
        standardizer: Standardizer,
        validation_fraction: float,
        random_state: np.random.RandomState,
        stream: RowStream | None = None,
        numbers: np.ndarray | None = None,
        inverse: np.ndarray | None = None,
    ):
        self.stream, self.numbers, self.inverse = stream, numbers, inverse
        self.standardizer = standardizer
        self.x = standardizer.transform(rows, TRAINING_BOUND)
        self.far: Any = standardizer.far(self.x).any(axis=1)
        if self.far.mean() > MOST_FAR:
            self.far[:] = False  # type: ignore[index]
        self.counts = row_counts(weights)
        n_counted = self.counts.sum() if stream is None else stream.n_counted
        self.n_counted = float(n_counted)
        self.shard: TrainingTable | None = None
        self.weights = weights * (self.counts.sum() / weights.sum())
        self.allowed: np.ndarray | None = None
        self.path: list[dict] = []
        self.repeat_widths: np.ndarray | None = None
        self.column_space: np.ndarray | None = None
        self.train, self.held_out = split_rows(
            len(rows), validation_fraction, random_state
        )
        heavy = self.weights[self.held_out] > HEAVIEST_HELD_OUT * self.weights.sum()
        if heavy.any() and np.count_nonzero(~heavy) >= MIN_HELD_OUT:
            self.train = np.concatenate((self.train, self.held_out[heavy]))
            self.held_out = self.held_out[~heavy]

    @cached_property
    def neighbors_in_training(self) -> np.ndarray:
        """Indices into the training rows of the nearest neighbours of each of them."""
        return nearest_others(self.x[self.train], N_NEAREST)

    @cached_property
    def movable(self) -> np.ndarray:
        """Which values of the rows noise may move."""
        return outside_spikes(self.x, self.weights)

    @property
    def numbers_held_out(self) -> np.ndarray:
        """Numbers of the held-out rows in the stream."""
        assert self.numbers is not None
        is_held_out = np.zeros(len(self.x), dtype=bool)
        is_held_out[self.held_out] = True
        return self.numbers[is_held_out[self.inverse]]

    def repeat_widths_of(self, x: np.ndarray) -> np.ndarray | None:
        """Return the widths of dequantization noise for other rows, or None."""
        if self.repeat_widths is None:
            return None
        widths = np.zeros(x.shape)
        for j, (values, own) in enumerate(self._widths_by_value):
            if len(values):
                places = np.searchsorted(values, x[:, j]).clip(max=len(values) - 1)
                widths[:, j] = np.where(values[places] == x[:, j], own[places], 0.0)
        return widths

    @cached_property
    def _widths_by_value(self) -> list[tuple[np.ndarray, np.ndarray]]:
        assert self.repeat_widths is not None
        by_value = []
        for column, widths in zip(self.x.T, self.repeat_widths.T, strict=True):
            values, first = np.unique(column[widths > 0], return_index=True)
            by_value.append((values, widths[widths > 0][first]))
        return by_value

    @cached_property
    def _nearest_of_shard(self) -> np.ndarray:
        assert self.shard is not None
        return nearest(self.x[:MAX_SEARCHED_ROWS], self.shard.x, 1)[:, 0]

    def spread(self, responsibilities: np.ndarray) -> np.ndarray:
        """Return responsibilities of the shard's rows, each from the nearest row."""
        return responsibilities[self._nearest_of_shard]

    def without_far(self, responsibilities: np.ndarray) -> np.ndarray:
        """Return responsibilities for moments, zero for outlying rows.

        They are kept in components where outlying rows have most of the weight.
        """
        shares = responsibilities * self.weights[:, None]
        theirs = 2 * shares[self.far].sum(axis=0) > shares.sum(axis=0)
        return np.where(self.far[:, None] & ~theirs, 0.0, responsibilities)

    def batch(
        self, responsibilities: np.ndarray, index: np.ndarray, like: Tensor
    ) -> Batch:
        """Return the rows `index` and their responsibilities as tensors like `like`."""
        x, weights, shares = (
            torch.from_numpy(array[index]).to(like)
            for array in (self.x, self.weights, responsibilities)
        )
        allowed = widths = None
        if self.allowed is not None:
            allowed = torch.from_numpy(self.allowed[index]).to(like.device)
        if self.repeat_widths is not None:
            widths = torch.from_numpy(self.repeat_widths[index]).to(like)
        # Weights that underflow in this dtype stay positive.
        weights = weights.clamp(min=torch.finfo(weights.dtype).tiny)
        return Batch(
            x,
            weights,
            shares,
            allowed,
            repeat_widths=widths,
            n_counted=float(self.counts[index].sum()),
        )

    def measure_repeats(self, largest: float) -> None:
        """Set the widths of dequantization noise on repeated values, if any."""
        if largest > 0:
            self.repeat_widths = repeat_widths(self.x, self.weights, largest)
        if self.repeat_widths is not None:
            self.column_space = column_space(self.x, self.weights, self.repeat_widths)
        if self.shard is not None:
            self.shard.measure_repeats(largest)
