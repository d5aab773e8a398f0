"""Pairs of rows and components, and tables of their values."""

import torch
from torch import Tensor

__all__ = ["SPARSE_SHARE", "AllPairs", "Support"]

# A `Support` is worthwhile up to this share of all pairs.
SPARSE_SHARE = 0.8


class Support:
    """Pairs (row, component) to evaluate, packed into a (K, C) table.

    Parameters
    ----------
    chosen : Tensor of shape (N, K), bool
        The pairs.
    capacity : int, optional
        Largest number C of rows per component; further rows are left out. By default,
        all pairs fit, which on a GPU requires a synchronisation.

    Attributes
    ----------
    kept : Tensor of shape (N, K), bool
        The pairs in the table.
    rows : Tensor of shape (K, C)
        Row indices, padded with zeros.
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
        # Slot 0 collects rows that do not enter the table.
        slots = by_component.cumsum(1, dtype=torch.int64)
        fits = by_component & (slots <= capacity)
        self.kept = fits.T
        numbers = torch.arange(len(chosen), device=counts.device)
        table = slots.new_zeros(len(counts), capacity + 1)
        table.scatter_(1, slots.mul_(fits), numbers.expand_as(slots))
        self.rows = table[:, 1:].contiguous()

    def gather(self, table: Tensor) -> Tensor:
        """Return entries (K, C) of a table (K, N), zero on the padding."""
        return table.gather(1, self.rows).mul_(self.valid)

    def scatter(self, entries: Tensor, n_rows: int) -> Tensor:
        """Return a table (K, N) with the entries (K, C), zero elsewhere."""
        table = entries.new_zeros(len(entries), n_rows)
        return table.scatter_add_(1, self.rows, entries * self.valid)

    def spread(self, columns: Tensor) -> Tensor:
        """Copy the rows of each component, from columns (D, N) to (K, D, C)."""
        rows = self.rows.unsqueeze(1).expand(-1, len(columns), -1)
        return columns.expand(len(rows), -1, -1).gather(2, rows)

    def collect(self, parts: Tensor, n_rows: int) -> Tensor:
        """Sum over components, the adjoint of `spread`: (K, D, C) to (D, N)."""
        n_columns = parts.shape[1]
        flat = parts.transpose(0, 1).flatten(1)
        rows = self.rows.flatten().expand(n_columns, -1)
        return parts.new_zeros(n_columns, n_rows).scatter_add_(1, rows, flat)


class AllPairs:
    """All pairs of rows and components, with the methods of `Support`.

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
