"""Label propagation: labels spread from some rows to all others."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from skflowmix.starts.knn import N_NEIGHBORS, normalized_graph

__all__ = ["LabelGraph", "likeliest"]

# Most rows in the graph; other rows average their nearest neighbours in it.
MAX_SPREAD_ROWS = 20_000

# Share alpha of a row's label that comes from its neighbours, and number of iterations,
# each of which leaves less than 0.8 of the error.
SPREADING = 0.97
N_ROUNDS = 120

# A row has no likeliest class unless its largest share exceeds this multiple of the
# uniform share.
NEAR_UNIFORM = 1.001


class LabelGraph:
    r"""Nearest-neighbour graph for label propagation.

    .. math::

        F = \alpha D^{-1/2} W D^{-1/2} F + (1 - \alpha) Y

    with one-hot labels Y and locally scaled weights W of row sums D; then every row of
    F is normalised. Rows outside a sample take the mean of their three nearest
    neighbours in it.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Rows, scaled so that distances are meaningful.
    classes : ndarray of shape (n_samples,)
        Number of each row's class, -1 where it is unknown. Labelled rows are sampled
        first, up to half of the largest sample.
    random_state : RandomState
        Draws the sample.

    References
    ----------
    D. Zhou, O. Bousquet, T. Lal, J. Weston and B. Schoelkopf, Learning with Local and
    Global Consistency, NIPS 2003.

    L. Zelnik-Manor and P. Perona, Self-Tuning Spectral Clustering, NIPS 2004.

    G. H. Golub and R. S. Varga, Chebyshev Semi-Iterative Methods, Numerische Mathematik
    3, 1961, for the iterations.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.r_[np.linspace(0, 1, 20), np.linspace(5, 6, 20)].reshape(-1, 1)
    >>> classes = np.full(40, -1)
    >>> classes[[0, 39]] = 0, 1
    >>> graph = LabelGraph(x, classes, np.random.RandomState(0))
    >>> graph.spread(classes, 2).argmax(1)[[19, 20]]
    array([0, 1])
    """

    def __init__(
        self, x: np.ndarray, classes: np.ndarray, random_state: np.random.RandomState
    ):
        known, unknown = np.flatnonzero(classes >= 0), np.flatnonzero(classes < 0)
        self.sample = np.concatenate(
            [
                random_state.permutation(known)[: MAX_SPREAD_ROWS // 2],
                random_state.permutation(unknown),
            ]
        )[:MAX_SPREAD_ROWS]
        self.rest = np.setdiff1d(np.arange(len(x)), self.sample)
        n_neighbors = min(N_NEIGHBORS, len(self.sample) - 1)
        index = NearestNeighbors(n_neighbors=n_neighbors).fit(x[self.sample])
        graph, _ = normalized_graph(*index.kneighbors())
        self._transition = SPREADING * graph
        if len(self.rest):
            self._nearest = index.kneighbors(x[self.rest], 3, return_distance=False)

    def spread(self, classes: np.ndarray, n_classes: int) -> np.ndarray:
        """Propagate labels to all rows.

        Parameters
        ----------
        classes : ndarray of shape (n_samples,)
            Number of each row's class, -1 where it is unknown.
        n_classes : int
            Number of classes.

        Returns
        -------
        shares : ndarray of shape (n_samples, n_classes)
            Rows sum to one; those of labelled rows are one-hot.
        """
        shares = np.full((len(classes), n_classes), 1 / n_classes)
        start = np.zeros((len(self.sample), n_classes))
        is_known = classes[self.sample] >= 0
        start[is_known, classes[self.sample[is_known]]] = 1 - SPREADING
        former, spread, factor = np.zeros_like(start), start, 2.0
        for _ in range(N_ROUNDS):
            factor = 1 / (1 - SPREADING**2 * factor / 4)
            stepped = factor * (self._transition @ spread + start - former) + former
            former, spread = spread, stepped
        spread = np.maximum(spread, 0.0)  # rounding
        total = spread.sum(1, keepdims=True)
        reached = total[:, 0] > 1e-12
        shares[self.sample[reached]] = spread[reached] / total[reached]
        if len(self.rest):
            shares[self.rest] = shares[self.sample][self._nearest].mean(1)
        known = np.flatnonzero(classes >= 0)
        shares[known] = np.eye(n_classes)[classes[known]]
        return shares


def likeliest(shares: np.ndarray) -> np.ndarray:
    """Assign rows to their likeliest class: propagated shares say little beyond it.

    Parameters
    ----------
    shares : ndarray of shape (n_samples, n_classes)
        From `LabelGraph.spread`.

    Returns
    -------
    shares : ndarray of shape (n_samples, n_classes)
        Rows sum to one; near-uniform rows are unchanged.
    """
    best = shares.max(1, keepdims=True)
    shares = np.where(best > NEAR_UNIFORM / shares.shape[1], shares == best, shares)
    return shares / shares.sum(1, keepdims=True)
