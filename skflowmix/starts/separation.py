"""Separation of groups: a spanning tree in locally scaled distances, and contacts."""

from typing import Protocol, SupportsIndex

import numpy as np

from skflowmix.starts.genie import spanning_tree

__all__ = ["SeparationTree", "contact"]

# A row's scale is the distance to its neighbour of this rank.
SCALE_NEIGHBORS = 5
# Least share of the weight in a group: the lesser of LEAST_SHARE and, relative to an
# average cluster, LEAST_CLUSTER_SHARE.
LEAST_SHARE = 0.01
LEAST_CLUSTER_SHARE = 0.1
# Weight of a pair in which only one row is among the other's neighbours; else it is 1.
ONE_WAY_WEIGHT = 0.1


class _Landmarks(Protocol):
    """Rows and their neighbours, see `knn.Landmarks`."""

    n: int
    weight: np.ndarray
    distances: np.ndarray
    neighbors: np.ndarray
    neighbor_distances: np.ndarray


class SeparationTree:
    """A minimum spanning tree whose long edges separate groups of any density.

    The length of an edge is the mutual reachability distance of its rows over the
    smaller of their scales, so that gaps are measured in units of the distances within
    the denser group. Only edges between groups that are large enough count: a few
    outliers belong to the group that an edge connects them to.

    Parameters
    ----------
    landmarks : Landmarks
        The rows.
    n_components : int
        Number of clusters K, which affects the least size of a group.

    References
    ----------
    R. Campello, D. Moulavi, J. Sander, *Density-based clustering based on hierarchical
    density estimates*, PAKDD 2013, for mutual reachability and the least size.
    """

    def __init__(self, landmarks: _Landmarks, n_components: int):
        n = landmarks.n
        k = min(SCALE_NEIGHBORS, max(2, n // 10), landmarks.neighbors.shape[1])
        scale = np.maximum(landmarks.neighbor_distances[:, k - 1], 1e-12)
        reachability = _Reachability(landmarks.distances, scale)
        self.edges, self.lengths = spanning_tree(reachability)
        self.weight = landmarks.weight
        share = min(LEAST_SHARE, LEAST_CLUSTER_SHARE / n_components)
        self.least = max(k + 1, share * self.weight.sum())
        self.splits, _ = self._splits(np.arange(n))
        self.branches = self.labels(n)

    def labels(self, n_clusters: int, parts: np.ndarray | None = None) -> np.ndarray:
        """Cut the longest edges between groups that are large enough.

        Parameters
        ----------
        n_clusters : int
            Most clusters to return.
        parts : ndarray of shape (n,), optional
            Labels of rows that are not to be cut apart, from 0.

        Returns
        -------
        labels : ndarray of shape (n,)
            From 0; fewer than `n_clusters` where no more groups are large enough.
        """
        if parts is None:
            parts = np.arange(len(self.weight))
        splits, edges = self._splits(parts)
        cut = splits[max(len(splits) - n_clusters + 1, 0) :]
        groups = _Groups(np.zeros(parts.max() + 1))
        for a, b in np.delete(edges, cut, axis=0).tolist():
            groups.join(a, b)
        roots = [groups.find(part) for part in range(parts.max() + 1)]
        return np.unique(roots, return_inverse=True)[1][parts]

    def separation(self, labels: np.ndarray) -> float:
        """Return how clearly a partition cuts at gaps and nowhere else.

        Parameters
        ----------
        labels : ndarray of shape (n,)
            The partition.

        Returns
        -------
        separation : float
            Length of the shortest edge between two clusters over that of the longest
            edge that joins large groups within a cluster, or 1; larger is better.
        """
        shares = np.zeros((self.branches.max() + 1, labels.max() + 1))
        np.add.at(shares, (self.branches, labels), self.weight)
        # Most of a branch decides, as the tree may connect an outlier of its cluster to
        # another one.
        owner = shares.argmax(axis=1)[self.branches]
        is_cut = labels[self.edges[:, 0]] != labels[self.edges[:, 1]]
        ends = owner[self.edges[self.splits]]
        joined = self.lengths[self.splits][ends[:, 0] == ends[:, 1]]
        return self.lengths[is_cut].min(initial=np.inf) / joined.max(initial=1.0)

    def _splits(self, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which edges join large groups, and all edges between parts.

        The first result is indices into the second; both are sorted by length.
        """
        groups = _Groups(np.bincount(parts, self.weight))
        splits: list[int] = []
        edges: list[tuple[int, int]] = []
        for a, b in parts[self.edges].tolist():
            smaller = groups.join(a, b)
            if smaller is not None:
                if smaller >= self.least:
                    splits.append(len(edges))
                edges.append((a, b))
        return np.array(splits, dtype=int), np.array(edges, dtype=int).reshape(-1, 2)


class _Reachability:
    """Lengths of all edges, computed a row at a time to save memory."""

    def __init__(self, distances: np.ndarray, scale: np.ndarray):
        self.distances, self.scale = distances, scale

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, row: SupportsIndex) -> np.ndarray:
        own = self.scale[row]
        lengths = np.maximum(np.maximum(self.distances[row], self.scale), own)
        return lengths / np.minimum(self.scale, own)


class _Groups:
    """Disjoint sets with their sizes."""

    def __init__(self, sizes: np.ndarray):
        self.sizes = list(sizes)
        self.parent = list(range(len(sizes)))

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, i: int, j: int) -> float | None:
        """Merge the groups of two members and return the size of the smaller one."""
        i, j = self.find(i), self.find(j)
        if i == j:
            return None
        smaller = min(self.sizes[i], self.sizes[j])
        self.parent[j] = i
        self.sizes[i] += self.sizes[j]
        return smaller


def contact(
    landmarks: _Landmarks, labels: np.ndarray, n_groups: int, n_pairs: int
) -> np.ndarray:
    """Return how densely each two groups touch: (n_groups, n_groups), from 0 to 1.

    It is the mean density rank, in their own groups, of neighbours from both groups (1
    for the densest row), reduced in proportion if these are fewer than `n_pairs` pairs.
    Pairs of which only one row is the other's neighbour count less: an outlying row has
    neighbours in other groups, but is not a neighbour of theirs.
    """
    n, neighbors = landmarks.n, landmarks.neighbors
    sparsity = landmarks.neighbor_distances[:, -1]
    rank = np.empty(n)
    for group in range(n_groups):
        rows = np.flatnonzero(labels == group)
        order = rows[np.argsort(sparsity[rows], kind="stable")]
        rank[order] = (np.arange(len(rows)) + 0.5) / max(len(rows), 1)
    row = np.repeat(np.arange(n), neighbors.shape[1])
    neighbor = neighbors.ravel()
    between = labels[row] != labels[neighbor]
    mutual = np.isin(row * n + neighbor, neighbor * n + row)[between]
    row, neighbor = row[between], neighbor[between]
    weight = np.where(mutual, 1.0, ONE_WAY_WEIGHT)
    pairs = np.zeros((n_groups, n_groups))
    ranks = np.zeros((n_groups, n_groups))
    groups = labels[row], labels[neighbor]
    np.add.at(pairs, groups, weight)
    np.add.at(ranks, groups, weight * (rank[row] + rank[neighbor]) / 2)
    pairs, ranks = pairs + pairs.T, ranks + ranks.T
    density = 1.0 - ranks / np.where(pairs > 0, pairs, 1.0)
    return density * np.minimum(pairs / n_pairs, 1.0)
