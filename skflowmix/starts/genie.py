"""Single linkage on a spanning tree that resists outliers."""

from typing import Protocol, SupportsIndex

import numpy as np

__all__ = ["linkage_labels", "spanning_tree"]

GINI_THRESHOLD = 0.3


class _Distances(Protocol):
    """Distances between all rows, read one row at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: SupportsIndex, /) -> np.ndarray: ...


def spanning_tree(distances: _Distances) -> tuple[np.ndarray, np.ndarray]:
    """Find a minimum spanning tree by Prim's algorithm.

    Parameters
    ----------
    distances : ndarray of shape (n, n)
        Symmetric distances between the rows, or an object that returns a row of them
        for an index; each row is read once.

    Returns
    -------
    edges : ndarray of shape (n - 1, 2), int
        Row numbers, the shortest edge first.
    lengths : ndarray of shape (n - 1,)
        Lengths of the edges, increasing.
    """
    n = len(distances)
    edges = np.empty((n - 1, 2), dtype=np.intp)
    lengths = np.empty(n - 1)
    best = distances[0].copy()
    source = np.zeros(n, dtype=np.intp)
    outside = np.ones(n, dtype=bool)
    outside[0] = False
    for step in range(n - 1):
        new = best.argmin()
        edges[step] = source[new], new
        lengths[step] = best[new]
        outside[new] = False
        best[new] = np.inf
        to_others = distances[new]
        closer = outside & (to_others < best)
        best[closer] = to_others[closer]
        source[closer] = new
    order = np.argsort(lengths, kind="stable")
    return edges[order], lengths[order]


class _ClusterSizes:
    """Sizes of clusters that merge, and their Gini index."""

    def __init__(self, n: int):
        self.n = n
        self.n_clusters = n
        self.counts = {1: n}
        self.sum_of_differences = 0

    @property
    def gini(self) -> float:
        return self.sum_of_differences / (max(self.n_clusters - 1, 1) * self.n)

    def merge(self, a: int, b: int) -> None:
        for size in (a, b):
            self.counts[size] -= 1
            if not self.counts[size]:
                del self.counts[size]
            self.sum_of_differences -= self._differences_to(size)
        self.sum_of_differences += self._differences_to(a + b)
        self.counts[a + b] = self.counts.get(a + b, 0) + 1
        self.n_clusters -= 1

    def _differences_to(self, size: int) -> int:
        return sum(count * abs(s - size) for s, count in self.counts.items())


def linkage_labels(distances: np.ndarray, n_components: int) -> np.ndarray:
    """Cluster by single linkage, merging a smallest cluster while sizes are unequal.

    Parameters
    ----------
    distances : ndarray of shape (n, n)
        Symmetric distances between the rows.
    n_components : int
        Number of clusters K.

    Returns
    -------
    labels : ndarray of shape (n,)
        From 0 to K - 1.

    References
    ----------
    M. Gagolewski, M. Bartoszuk, A. Cena, *Genie: a new, fast, and outlier-resistant
    hierarchical clustering algorithm*, Information Sciences 363, 2016.
    """
    n = len(distances)
    edges = spanning_tree(distances)[0].tolist()
    used = [False] * len(edges)
    parent = list(range(n))
    size = [1] * n
    sizes = _ClusterSizes(n)

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first = cursor = cursor_size = 0
    for _ in range(n - n_components):
        while used[first]:
            first += 1
        edge = first
        if sizes.gini > GINI_THRESHOLD:
            smallest = min(sizes.counts)
            # Clusters only grow: edges passed over for this size stay unsuitable.
            edge = max(cursor, first) if smallest == cursor_size else first
            while used[edge] or smallest not in [size[find(i)] for i in edges[edge]]:
                edge += 1
            cursor, cursor_size = edge, smallest
        used[edge] = True
        a, b = (find(i) for i in edges[edge])
        sizes.merge(size[a], size[b])
        parent[b] = a
        size[a] += size[b]
    return np.unique([find(i) for i in range(n)], return_inverse=True)[1]
