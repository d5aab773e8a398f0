"""Groups of flows: components and classes that consist of several flows."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

__all__ = ["Groups"]


class Groups:
    """An assignment of K flows to groups of consecutive flows.

    Joint densities, responsibilities and weights of a group are sums over its flows.

    Parameters
    ----------
    sizes : sequence of int
        Number of flows of every group, at least one.

    Examples
    --------
    >>> groups = Groups([2, 1])
    >>> groups.of_flow
    array([0, 0, 1])
    >>> groups.sum(np.array([[0.25, 0.25, 0.5]]))
    array([[0.5, 0.5]])
    """

    def __init__(self, sizes: Sequence[int] | np.ndarray):
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.n_groups, self.n_flows = len(self.sizes), int(self.sizes.sum())
        self.of_flow = np.repeat(np.arange(self.n_groups), self.sizes)
        self._first = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    @classmethod
    def singles(cls, n_flows: int) -> Self:
        """Return groups of one flow each."""
        return cls(np.ones(n_flows, dtype=int))

    @property
    def are_single(self) -> bool:
        """Whether every group is one flow."""
        return self.n_groups == self.n_flows

    def select(self, index: np.ndarray) -> "Groups":
        """Return the groups of the flows in `index`, which keeps groups adjacent."""
        of_flow = self.of_flow[index]
        firsts = np.flatnonzero(np.diff(of_flow, prepend=-1))
        return Groups(np.diff(firsts, append=len(of_flow)))

    def parts(self, values: Any) -> list[Any]:
        """Split the last axis of an array or tensor into one part per group."""
        ends = np.cumsum(self.sizes)
        return [
            values[..., end - size : end]
            for end, size in zip(ends, self.sizes, strict=True)
        ]

    def allowed(self, known: np.ndarray) -> np.ndarray:
        """Tell which flows each row may belong to, given its group if known.

        Parameters
        ----------
        known : ndarray of shape (n_samples,)
            Index of each row's group, -1 if unknown.

        Returns
        -------
        allowed : ndarray of shape (n_samples, n_flows), bool
            True for all flows if the group is unknown.
        """
        return (known < 0)[:, None] | (known[:, None] == self.of_flow)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add up over the flows of each group: (n_samples, K) to (n_samples, G)."""
        return np.add.reduceat(values, self._first, axis=1)

    def logsumexp(self, values: np.ndarray) -> np.ndarray:
        """Return the logarithm of the sum of exponentials over each group's flows."""
        return np.logaddexp.reduceat(values, self._first, axis=1)
