"""Nearest-neighbour graphs for clustering and label propagation."""

import math

import numpy as np
from joblib import parallel_config
from scipy.sparse import csr_array, dia_array, diags_array
from scipy.spatial.distance import pdist, squareform
from sklearn.neighbors import NearestNeighbors

__all__ = [
    "MAX_GRAPH_ROWS",
    "N_NEIGHBORS",
    "Landmarks",
    "draw_rows",
    "nearest",
    "nearest_others",
    "normalized_graph",
    "one_hot",
    "searched_rows",
]

# Most rows in graphs and linkages, drawn by weight; other rows take the labels of
# their nearest neighbours among these.
MAX_GRAPH_ROWS = 3000
N_NEIGHBORS = 10

# Rows whose distances to all landmarks are partitioned at a time.
ROWS_PARTITIONED = 256

# Most rows of one neighbour search; larger tables are searched in separate parts.
MAX_SEARCHED_ROWS = 10_000


def draw_rows(
    sample_weight: np.ndarray, size: int, random_state: np.random.RandomState
) -> np.ndarray:
    """Draw the indices of at most `size` different rows, heavy ones more likely."""
    n = len(sample_weight)
    if n <= size:
        return np.arange(n)
    # Exponential races are equivalent to successive draws without replacement.
    races = random_state.exponential(size=n) / sample_weight
    return np.sort(np.argpartition(races, size)[:size])


def nearest(x: np.ndarray, queries: np.ndarray | None, k: int) -> np.ndarray:
    """Find the rows of `x` nearest to each query: indices (m, k).

    Without queries, the rows nearest to each row, itself left out.
    """
    algorithm = "kd_tree" if x.shape[1] <= 5 else "brute"
    index = NearestNeighbors(n_neighbors=min(k, len(x)), algorithm=algorithm)
    # A joblib backend set around a fit, such as dask's, is not meant for this search.
    with parallel_config("sequential"):
        return index.fit(x).kneighbors(queries, return_distance=False)


def _n_parts(n: int) -> int:
    return math.ceil(n / MAX_SEARCHED_ROWS)


def searched_rows(n: int) -> float:
    """Return the mean size of the parts in which `nearest_others` searches n rows.

    Parameters
    ----------
    n : int
        Number of all rows.

    Returns
    -------
    n_searched : float
    """
    return n / _n_parts(n)


def nearest_others(x: np.ndarray, k: int) -> np.ndarray:
    """Find every row's nearest other rows.

    Parameters
    ----------
    x : ndarray of shape (n, n_features)
        At least two rows, in random order: large tables are searched in consecutive
        parts, so that neighbours come from the same part.
    k : int
        Number of neighbours; all other rows if there are fewer.

    Returns
    -------
    neighbors : ndarray of shape (n, min(k, n - 1)), int
        Row numbers.
    """
    k = min(k, len(x) - 1)
    neighbors = np.empty((len(x), k), dtype=np.int64)
    parts = np.array_split(np.arange(len(x)), _n_parts(len(x)))
    for part in parts:
        neighbors[part] = part[nearest(x[part], None, k)]
    return neighbors


def one_hot(labels: np.ndarray, n_components: int) -> np.ndarray:
    """Turn labels into responsibilities (n, K)."""
    responsibilities = np.zeros((len(labels), n_components))
    responsibilities[np.arange(len(labels)), labels] = 1.0
    return responsibilities


class Landmarks:
    """Sample of rows for graphs and linkages, whose labels can spread to all rows."""

    def __init__(
        self,
        x: np.ndarray,
        sample_weight: np.ndarray,
        random_state: np.random.RandomState,
    ):
        self.all_rows, self.all_weights = x, sample_weight
        self.index = draw_rows(sample_weight, MAX_GRAPH_ROWS, random_state)
        self.n = len(self.index)
        self.x = x[self.index]
        # Rows drawn in proportion to their weights have weight one.
        drawn = self.n < len(x)
        self.weight = np.ones(self.n) if drawn else sample_weight
        self.distances = squareform(pdist(self.x))
        np.fill_diagonal(self.distances, np.inf)
        k = min(N_NEIGHBORS, self.n - 1)
        # In parts, because indices of all pairs take as much memory as the distances.
        parts = np.array_split(self.distances, -(-self.n // ROWS_PARTITIONED))
        near = np.concatenate(
            [np.argpartition(part, k - 1, axis=1)[:, :k] for part in parts]
        )
        lengths = np.take_along_axis(self.distances, near, axis=1)
        order = np.argsort(lengths, axis=1, kind="stable")
        self.neighbors = np.take_along_axis(near, order, axis=1)
        self.neighbor_distances = np.take_along_axis(lengths, order, axis=1)
        self._voters: np.ndarray | None = None

    def spread(self, labels: np.ndarray, n_components: int) -> np.ndarray:
        """Give all rows labels by votes of the nearest landmarks: one-hot (n, K)."""
        if self.n == len(self.all_rows):
            return one_hot(labels, n_components)
        if self._voters is None:
            self._voters = nearest(self.x, self.all_rows, 3)
        votes = np.zeros((len(self.all_rows), n_components), dtype=np.float32)
        rows = np.arange(len(votes))
        for column, worth in enumerate((1.5, 1.0, 1.0)):
            votes[rows, labels[self._voters[:, column]]] += worth
        spread = votes.argmax(axis=1)
        spread[self.index] = labels
        return one_hot(spread, n_components)


def normalized_graph(
    distances: np.ndarray, neighbors: np.ndarray
) -> tuple[csr_array, dia_array]:
    """Build the symmetrically normalised nearest-neighbour graph with local scales.

    Parameters
    ----------
    distances : ndarray of shape (n, k)
        Distances to the k nearest neighbours, increasing.
    neighbors : ndarray of shape (n, k)
        Their row numbers.

    Returns
    -------
    graph : sparse array of shape (n, n)
        Affinities divided by the square roots of both rows' degrees.
    root : sparse array of shape (n, n)
        Diagonal matrix of the degrees to the power of -1/2.

    References
    ----------
    L. Zelnik-Manor, P. Perona, *Self-tuning spectral clustering*, NIPS 2004.
    """
    n, k = neighbors.shape
    scale = np.maximum(distances[:, min(6, k - 1)], 1e-12)
    affinity = np.exp(-(distances**2) / (scale[:, None] * scale[neighbors]))
    # No row may lose its last edge to underflow.
    affinity = np.maximum(affinity, 1e-10)
    indptr = np.arange(0, n * k + 1, k)
    graph = csr_array((affinity.ravel(), neighbors.ravel(), indptr), shape=(n, n))
    graph = graph.maximum(graph.T)
    root = diags_array(1.0 / np.sqrt(graph.sum(axis=1)))
    return (root @ graph @ root).tocsr(), root
