"""Batches of a table that is read block by block, in random order."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skflowmix.row_stream import RowStream
from skflowmix.training.batches import Batch

__all__ = ["StreamSource"]

# Rows of a block, which are read together, and of the buffer that batches come from.
BLOCK_ROWS, BUFFER_ROWS = 512, 65_536

# Attributes of a `Batch` that the buffer holds, where they are not None.
VALUES = ("x", "weights", "responsibilities", "repeat_widths", "thickness")


class StreamSource:
    """Batches of rows that are read in blocks: every row once in a pass.

    Blocks of consecutive rows are read in random order into a buffer, whose rows are
    shuffled whenever blocks are added, so that a batch mixes rows of many blocks. A
    pass ends before the next one begins, and passes continue across epochs.

    Parameters
    ----------
    stream : RowStream
        The rows.
    prepare : callable
        Maps rows in data units and their weights to a `Batch` on the device. It must be
        deterministic.
    sample : Batch
        Rows for `sample`, in random order.
    batch_size : int
        Rows of a batch; the last one of a pass may be up to twice as large.
    generator : torch.Generator
        Source of the order of blocks and rows.
    left_out : ndarray of int, optional
        Numbers of rows to leave out, increasing.
    block_rows, buffer_rows : int
        Rows of a block, and of the buffer once blocks are added; `BLOCK_ROWS` and
        `BUFFER_ROWS` by default.
    """

    def __init__(
        self,
        stream: RowStream,
        prepare: Callable[[np.ndarray, np.ndarray], Batch],
        sample: Batch,
        batch_size: int,
        generator: torch.Generator,
        left_out: np.ndarray | None = None,
        block_rows: int | None = None,
        buffer_rows: int | None = None,
    ):
        self.stream, self.prepare = stream, prepare
        self._sample, self.generator = sample, generator
        self.left_out = np.empty(0, dtype=np.int64) if left_out is None else left_out
        self.n_rows = stream.n_counted - len(self.left_out)
        self.n_counted = float(self.n_rows)
        self.batch_size = min(batch_size, self.n_rows)
        self.n_batches = self.n_rows // self.batch_size
        self.block_rows = block_rows or BLOCK_ROWS
        self.buffer_rows = max(buffer_rows or BUFFER_ROWS, 2 * self.batch_size)
        self.mean_weight = torch.full(
            (), stream.mean_weight, dtype=sample.x.dtype, device=sample.x.device
        )
        self._blocks: list[int] = []  # to come in this pass
        self._numbers = torch.empty(0, dtype=torch.int64, device=generator.device)
        self._buffer: dict[str, Tensor] = {}

    def draw(self) -> tuple[Tensor, ...]:
        """See `RowSource`: the values of the rows."""
        if not (self._blocks or len(self._numbers)):
            n_blocks = -(-self.stream.n_rows // self.block_rows)
            self._blocks = self._permutation(n_blocks).tolist()
        while self._blocks and len(self._numbers) < 2 * self.batch_size:
            self._fill()
        n_left = len(self._numbers)
        n = n_left if n_left < 2 * self.batch_size else self.batch_size
        self._numbers = self._numbers[n:]
        drawn = tuple(values[:n] for values in self._buffer.values())
        self._buffer = {name: values[n:] for name, values in self._buffer.items()}
        return drawn

    def rows(self, *drawn: Tensor) -> Batch:
        """See `RowSource`."""
        values: dict[str, Any] = dict(zip(self._buffer, drawn, strict=True))
        return Batch(**values, mean_weight=self.mean_weight)

    def sample(self, n_rows: int) -> Batch:
        """See `RowSource`: the first rows of the given sample."""
        return self._sample[:n_rows]

    def state_dict(self) -> dict[str, Any]:
        """See `RowSource`: which rows the buffer holds, not their values."""
        return {
            "blocks": torch.tensor(self._blocks, dtype=torch.int64),
            "numbers": self._numbers.clone(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `RowSource`; reads the blocks whose rows the buffer held."""
        self._blocks = state["blocks"].tolist()
        self._numbers = state["numbers"].to(self._numbers.device, copy=True)
        self.generator.set_state(state["generator"])
        blocks = torch.unique(self._numbers // self.block_rows).tolist()
        self._buffer = {}
        if blocks:
            numbers, self._buffer = self._read(blocks)
            places = torch.searchsorted(numbers, self._numbers)
            self._buffer = {name: v[places] for name, v in self._buffer.items()}

    def _permutation(self, n: int) -> Tensor:
        device = self.generator.device
        return torch.randperm(n, generator=self.generator, device=device)

    def _fill(self) -> None:
        """Add the next blocks to the buffer, and shuffle it."""
        n_more = max((self.buffer_rows - len(self._numbers)) // self.block_rows, 1)
        blocks, self._blocks = self._blocks[:n_more], self._blocks[n_more:]
        numbers, values = self._read(blocks)
        numbers = torch.cat((self._numbers, numbers))
        order = self._permutation(len(numbers))
        self._numbers = numbers[order]
        for name, more in values.items():
            rest = self._buffer.get(name, more[:0])
            self._buffer[name] = torch.cat((rest, more))[order]

    def _read(self, blocks: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return numbers and values of the rows of blocks, without those left out."""
        parts = [self._read_block(block) for block in blocks]
        numbers = np.concatenate([numbers for numbers, _ in parts])
        batches = [batch for _, batch in parts]
        values = {
            name: torch.cat([getattr(batch, name) for batch in batches])
            for name in VALUES
            if getattr(batches[0], name) is not None
        }
        return torch.from_numpy(numbers).to(self._numbers.device), values

    def _read_block(self, block: int) -> tuple[np.ndarray, Batch]:
        # Prepared one by one, blocks are bit-identical when they are read again.
        start = block * self.block_rows
        stop = min(start + self.block_rows, self.stream.n_rows)
        rows = self.stream.read(start, stop)
        weights = self.stream.weights(slice(start, stop))
        counts = weights > 0
        first, last = np.searchsorted(self.left_out, (start, stop))
        counts[self.left_out[first:last] - start] = False
        numbers = np.flatnonzero(counts)
        return numbers + start, self.prepare(rows[numbers], weights[numbers])
