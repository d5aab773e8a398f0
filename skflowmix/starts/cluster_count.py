"""Number of clusters: groups of rows that valleys of the density separate."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from skflowmix.starts.density_modes import MIN_CLUSTER_ROWS, Valley, graph_modes
from skflowmix.starts.gaussian_modes import gaussian_modes
from skflowmix.starts.knn import Landmarks

__all__ = ["CountedClusters", "count_clusters", "path_of"]

# Numbers of neighbours for the density estimates: few reveal small and thin clusters,
# many reveal shallow valleys.
SCALES = (6, 12, 24, 48)
# Least rows of a group, per neighbour, for it to be divided.
MIN_ROWS_PER_NEIGHBOR = 3
MIN_ROWS = 20
# Most passed-over valleys that are reported.
N_SHOWN = 10


class CountedClusters(NamedTuple):
    """What `count_clusters` finds.

    Attributes
    ----------
    labels : ndarray of shape (n,)
        Cluster of every row, from 0.
    valleys : list of Valley
        The `n_clusters - 1` valleys between clusters, which form a tree.
    passed_over : list of Valley
        At most ten valleys that came closest to being counted, the closest first.
    """

    labels: np.ndarray
    valleys: list[Valley]
    passed_over: list[Valley]

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return int(self.labels.max()) + 1


def count_clusters(
    x: np.ndarray,
    sample_weight: np.ndarray,
    max_clusters: int,
    random_state: np.random.RandomState,
) -> CountedClusters:
    """Find the clusters and their number.

    Rows are divided top down at valleys of their density: first of nearest-neighbour
    densities at several scales, for clusters of any shape and size, then of Gaussian
    mixtures, for touching clusters, along directions fitted to the rows. A valley
    counts if it is deeper than chance would make it.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Standardised rows, identical rows merged.
    sample_weight : ndarray of shape (n,)
        Positive, mean one.
    max_clusters : int
        Largest number of clusters; more are joined at the shallowest valleys.
    random_state : RandomState
        The only source of randomness.

    Returns
    -------
    counted : CountedClusters
        A single cluster if there are fewer than twenty rows. No row counts as noise:
        each belongs to the cluster of its nearest rows.
    """
    if max_clusters == 1 or len(x) < MIN_ROWS:
        return CountedClusters(np.zeros(len(x), dtype=int), [], [])
    landmarks = Landmarks(x, sample_weight, random_state)
    state = _Division(landmarks.n)
    for k in SCALES:
        state.divide(
            MIN_ROWS_PER_NEIGHBOR * k,
            lambda rows, k=k: graph_modes(  # type: ignore[misc]
                landmarks.distances[np.ix_(rows, rows)], k
            ),
        )
    state.divide(
        2 * MIN_CLUSTER_ROWS,
        lambda rows: gaussian_modes(
            landmarks.x[rows], landmarks.weight[rows], max_clusters, random_state
        ),
    )
    labels, valleys = _limited(state.labels, state.valleys, max_clusters)
    spread = landmarks.spread(labels, labels.max() + 1).argmax(axis=1)
    nearly = sorted(state.passed_over, key=lambda v: v.density / max(v.limit, 1e-9))
    return CountedClusters(spread, valleys, nearly[:N_SHOWN])


class _Division:
    """Groups of rows that are divided repeatedly."""

    def __init__(self, n: int):
        self.n = n
        self.labels = np.zeros(n, dtype=int)
        self.valleys: list[Valley] = []
        self.passed_over: list[Valley] = []

    def divide(
        self,
        min_rows: int,
        find: Callable[[np.ndarray], tuple[np.ndarray, list[Valley]]],
    ) -> None:
        """Divide groups of at least `min_rows`; `find` returns labels and valleys."""
        for group in range(self.labels.max() + 1):
            rows = np.flatnonzero(self.labels == group)
            if len(rows) < min_rows:
                continue
            found, valleys = find(rows)
            names = np.arange(found.max() + 1) + self.labels.max()
            names[0] = group
            self.labels[rows] = names[found]
            for valley in valleys:
                valley = replace(valley, share=valley.share * len(rows) / self.n)
                if not valley.is_counted:
                    self.passed_over.append(valley)
                    continue
                a, b = (int(names[number]) for number in valley.groups)
                self.valleys.append(replace(valley, groups=(a, b)))


def _limited(
    labels: np.ndarray, valleys: list[Valley], max_clusters: int
) -> tuple[np.ndarray, list[Valley]]:
    """Join groups at the shallowest valleys until at most `max_clusters` remain."""
    valleys = sorted(valleys, key=lambda v: (-v.density, v.share))
    n_joined = max(len(valleys) + 1 - max_clusters, 0)
    owner = np.arange(labels.max() + 1)
    for valley in valleys[:n_joined]:
        a, b = owner[list(valley.groups)]
        owner[owner == b] = a
    number = np.unique(owner, return_inverse=True)[1]
    kept = [
        replace(
            valley,
            groups=tuple(  # type: ignore[arg-type]
                int(number[g]) for g in valley.groups
            ),
        )
        for valley in valleys[n_joined:]
    ]
    return number[labels], kept


def path_of(
    counted: CountedClusters, far_shares: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Record the merges by which all rows become one cluster, shallow valleys first.

    Parameters
    ----------
    counted : CountedClusters
        Result of `count_clusters`.
    far_shares : sequence of float
        Share in all rows of each group of outlying rows that is a cluster of its own.

    Returns
    -------
    path : list of dict
        See `FlowMixture`.
    """
    passed_over = counted.passed_over[::-1]
    valleys = [
        (valley.density, valley.limit, valley.share * (1 - sum(far_shares)))
        for valley in (*passed_over, *counted.valleys)
    ]
    valleys += [(0.0, 1.0, share) for share in far_shares]
    return [
        {
            "n_components": len(valleys) + 1 - i,
            "valley": float(density),
            "limit": float(limit),
            "share": float(share),
            "counted": i >= len(passed_over),
        }
        for i, (density, limit, share) in enumerate(valleys)
    ]
