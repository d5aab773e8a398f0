"""Pairs of rows and components, and tables of their values."""

import torch
from torch import Tensor

__all__ = ["SPARSE_SHARE", "AllPairs", "Support"]

# A support pays when it holds at most this share of all pairs.
SPARSE_SHARE = 0.8


class Support:
    """Pairs (row, component) to evaluate, packed into a (K, C) table.

    Parameters
    ----------
    chosen : Tensor of shape (N, K), bool
        The pairs.
    capacity : int, optional
        Largest number C of rows of a component; those beyond are left out. By default
        all have room, which a GPU would have to be asked for and waited for.

    Attributes
    ----------
    kept : Tensor of shape (N, K), bool
        The pairs that found room.
    rows : Tensor of shape (K, C)
        Row numbers, padded with zeros.
    valid : Tensor of shape (K, C), bool
        False on the padding.
    """

    def __init__(self, chosen: Tensor, capacity: int | None = None):
        by_component = chosen.T
        counts = by_component.sum(1)
        if capacity is None:
            capacity = int(counts.max())
        slots = torch.arange(capacity, device=counts.device)
        self.valid = slots < counts.unsqueeze(1)
        # Slot 0 takes what is not in the table.
        slots = by_component.cumsum(1, dtype=torch.int64)
        fits = by_component & (slots <= capacity)
        self.kept = fits.T
        numbers = torch.arange(len(chosen), device=counts.device)
        table = slots.new_zeros(len(counts), capacity + 1)
        table.scatter_(1, slots.mul_(fits), numbers.expand_as(slots))
        self.rows = table[:, 1:].contiguous()

    def gather(self, table: Tensor) -> Tensor:
        """Entries (K, C) of a table (K, N), zero on the padding."""
        return table.gather(1, self.rows).mul_(self.valid)

    def scatter(self, entries: Tensor, n_rows: int) -> Tensor:
        """Table (K, N) of entries (K, C), zero elsewhere."""
        table = entries.new_zeros(len(entries), n_rows)
        return table.scatter_add_(1, self.rows, entries * self.valid)

    def spread(self, columns: Tensor) -> Tensor:
        """Copy columns (D, N) to the components whose pairs they are in: (K, D, C)."""
        rows = self.rows.unsqueeze(1).expand(-1, len(columns), -1)
        return columns.expand(len(rows), -1, -1).gather(2, rows)

    def collect(self, parts: Tensor, n_rows: int) -> Tensor:
        """Add up over components what `spread` copied: (K, D, C) to (D, N)."""
        n_columns = parts.shape[1]
        flat = parts.transpose(0, 1).flatten(1)
        rows = self.rows.flatten().expand(n_columns, -1)
        return parts.new_zeros(n_columns, n_rows).scatter_add_(1, rows, flat)


class AllPairs:
    """Every row with every component: a `Support` that leaves out nothing.

    Parameters
    ----------
    n_components : int
        Number K of components.
    """

    def __init__(self, n_components: int):
        self.n_components = n_components

    def gather(self, table: Tensor) -> Tensor:
        """See `Support`."""
        return table

    def scatter(self, entries: Tensor, n_rows: int) -> Tensor:
        """See `Support`."""
        return entries

    def spread(self, columns: Tensor) -> Tensor:
        """See `Support`."""
        return columns.expand(self.n_components, -1, -1)

    def collect(self, parts: Tensor, n_rows: int) -> Tensor:
        """See `Support`."""
        return parts.sum(0)
