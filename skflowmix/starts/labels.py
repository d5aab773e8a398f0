"""Labels spread from some rows to all others."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from skflowmix.starts.knn import N_NEIGHBORS, normalized_graph

__all__ = ["spread_labels"]

# Labels spread over at most this many rows: with few labels, neighbours decide.
MAX_SPREAD_ROWS = 20_000

# Share of a row's label that comes from its neighbours, and rounds of spreading.
SPREADING = 0.97
N_ROUNDS = 500


def spread_labels(x, classes, n_classes, random_state):
    r"""Spread labels over a graph of nearest neighbours.

    .. math::

        F \leftarrow \alpha D^{-1/2} W D^{-1/2} F + (1 - \alpha) Y

    with locally scaled weights W, then every row of F is normalised. Rows beyond a
    sample take the mean of their three nearest neighbours in it.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Rows in units in which distances mean something.
    classes : ndarray of shape (n_samples,)
        Number of each row's class, -1 where it is unknown.
    n_classes : int
        Number of classes.
    random_state : RandomState
        Draws the sample.

    Returns
    -------
    shares : ndarray of shape (n_samples, n_classes)
        Rows sum to one; those of labelled rows are one-hot.

    References
    ----------
    D. Zhou, O. Bousquet, T. Lal, J. Weston and B. Schoelkopf, Learning with Local and
    Global Consistency, NIPS 2003.

    L. Zelnik-Manor and P. Perona, Self-Tuning Spectral Clustering, NIPS 2004.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.r_[np.linspace(0, 1, 20), np.linspace(5, 6, 20)].reshape(-1, 1)
    >>> classes = np.full(40, -1)
    >>> classes[[0, 39]] = 0, 1
    >>> shares = spread_labels(x, classes, 2, np.random.RandomState(0))
    >>> shares.argmax(1)[[19, 20]]
    array([0, 1])
    """
    known = np.flatnonzero(classes >= 0)
    shares = np.full((len(x), n_classes), 1 / n_classes)
    unknown = np.flatnonzero(classes < 0)
    if len(unknown):
        sample = np.concatenate(
            [
                random_state.permutation(known)[: MAX_SPREAD_ROWS // 2],
                random_state.permutation(unknown),
            ]
        )[:MAX_SPREAD_ROWS]
        start = np.zeros((len(sample), n_classes))
        is_known = classes[sample] >= 0
        start[is_known, classes[sample[is_known]]] = 1.0
        spread = start
        n_neighbors = min(N_NEIGHBORS, len(sample) - 1)
        index = NearestNeighbors(n_neighbors=n_neighbors).fit(x[sample])
        graph, _ = normalized_graph(*index.kneighbors())
        transition = SPREADING * graph
        for _ in range(N_ROUNDS):
            spread = transition @ spread + (1 - SPREADING) * start
        total = spread.sum(1, keepdims=True)
        reached = total[:, 0] > 1e-12
        shares[sample[reached]] = spread[reached] / total[reached]
        rest = np.setdiff1d(unknown, sample)
        if len(rest):
            index = NearestNeighbors(n_neighbors=3).fit(x[sample])
            nearest = index.kneighbors(x[rest], return_distance=False)
            shares[rest] = shares[sample][nearest].mean(1)
    shares[known] = np.eye(n_classes)[classes[known]]
    return shares
