"""Spectral clustering of a graph that may be disconnected."""

from typing import Protocol

import numpy as np
from scipy.sparse import csr_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, eigsh
from sklearn.cluster import KMeans

from skflowmix.starts.knn import Landmarks, normalized_graph

__all__ = ["spectral_labels"]


class _Tree(Protocol):
    """Cuts rows at gaps, see `SeparationTree`."""

    def labels(self, n_clusters: int, parts: np.ndarray, /) -> np.ndarray: ...


def spectral_labels(
    landmarks: Landmarks,
    tree: _Tree,
    n_components: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Cluster by normalised cuts of the k-NN graph with locally scaled weights.

    Cuts between connected parts of the graph cost nothing. Small parts are joined with
    others; if more large parts remain than clusters, those nearest to each other are
    joined as well. If fewer remain, they are divided by the cheapest cuts, those of the
    smallest eigenvalues. These are computed part by part, because a solver for the
    whole graph may miss copies of the eigenvalue zero.

    Parameters
    ----------
    landmarks : Landmarks
        The rows.
    tree : SeparationTree
        Separation tree of the landmarks.
    n_components : int
        Number of clusters K.
    random_state : RandomState
        The only source of randomness.

    Returns
    -------
    labels : ndarray of shape (n,)
        From 0 to K - 1 at most.

    References
    ----------
    L. Zelnik-Manor, P. Perona, *Self-tuning spectral clustering*, NIPS 2004.
    """
    k = min(landmarks.neighbors.shape[1], max(2, landmarks.n // 10))
    graph, root = normalized_graph(
        landmarks.neighbor_distances[:, :k], landmarks.neighbors[:, :k]
    )
    _, parts = connected_components(graph, directed=False)
    labels = tree.labels(n_components, parts)
    n_more = n_components - labels.max() - 1
    if n_more == 0:
        return labels
    weight = landmarks.weight
    groups, values = [], []
    for group in range(labels.max() + 1):
        rows = np.flatnonzero(labels == group)
        heaviest = np.bincount(parts[rows], weight[rows]).argmax()
        inside = rows[parts[rows] == heaviest]
        spectrum = _smallest(graph[inside][:, inside], n_more + 1, random_state)
        groups.append((rows, inside, spectrum[1]))
        values.append(spectrum[0][1:])
    owner = np.repeat(np.arange(len(groups)), [len(v) for v in values])
    cheapest = np.argsort(np.concatenate(values), kind="stable")[:n_more]
    n_cuts = np.bincount(owner[cheapest], minlength=len(groups))
    for (rows, inside, vectors), n_own in zip(groups, n_cuts, strict=True):
        if n_own == 0:
            continue
        embedding = root.diagonal()[inside, None] * vectors[:, : n_own + 1]
        embedding /= np.abs(embedding).max(axis=0)
        model = KMeans(n_own + 1, n_init=5, random_state=random_state)
        found = model.fit_predict(embedding, sample_weight=weight[inside])
        owners = landmarks.distances[np.ix_(rows, inside)]
        owners[np.searchsorted(rows, inside), np.arange(len(inside))] = 0.0
        found = found[owners.argmin(axis=1)]
        labels[rows[found > 0]] = labels.max() + found[found > 0]
    return labels


def _smallest(
    graph: csr_array, n_vectors: int, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest eigenvalues and vectors of a connected graph's Laplacian."""
    n = graph.shape[0]
    laplacian = eye_array(n) - graph
    if n > max(200, 3 * n_vectors):
        start = random_state.uniform(-1.0, 1.0, n)
        try:
            # A shift just below zero keeps the factorised matrix positive definite.
            values, vectors = eigsh(
                laplacian.tocsc(), k=n_vectors, sigma=-1e-4, v0=start
            )
        except ArpackError:
            pass
        else:
            order = values.argsort()
            return values[order], vectors[:, order]
    values, vectors = np.linalg.eigh(laplacian.toarray())
    return values[:n_vectors], vectors[:, :n_vectors]
