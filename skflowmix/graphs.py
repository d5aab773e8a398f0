"""Graphs of nearest neighbours, which spread labels and cut clusters."""

import numpy as np
from scipy.sparse import csr_array, diags_array

__all__ = ["normalized_graph"]


def normalized_graph(distances, neighbors):
    """Symmetrically normalised graph of nearest neighbours with local scales.

    Parameters
    ----------
    distances : ndarray of shape (n, k)
        Distances to the k nearest neighbours, increasing.
    neighbors : ndarray of shape (n, k)
        Their row numbers.

    Returns
    -------
    graph : sparse array of shape (n, n)
        Affinities over the square roots of both rows' sums.
    root : sparse array of shape (n, n)
        The diagonal of one over these square roots.

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
