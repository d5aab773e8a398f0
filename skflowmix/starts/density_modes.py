"""Modes of the density on a nearest-neighbour graph, and the valleys between them."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

__all__ = ["MIN_CLUSTER_ROWS", "Valley", "graph_modes"]

# A valley is significant where the log-density falls by this many standard errors,
# 1 / sqrt(k - 2) for k neighbours: along thin clusters the deepest chance valleys of a
# hundred tables reach six.
DEPTH_IN_ERRORS = 6.5
# The same between groups that no edge of the graph joins: of d dimensions 8 / d, but at
# least 12 / d within these limits. Chance breaks curves apart, but hardly volumes.
OPEN_DEPTH_OF_CURVES = 8.0
OPEN_DEPTH = 12.0
OPEN_DEPTH_LIMITS = (1.5, 4.0)
# Two rows are joined up to this multiple of the smaller of their distances to the k-th
# neighbour, so that a row of a sparse group does not join a dense group nearby.
REACH = 2.0
# Fewer rows are no cluster.
MIN_CLUSTER_ROWS = 10


@dataclass(frozen=True)
class Valley:
    """The sparsest point on the densest path between two groups of rows.

    Attributes
    ----------
    groups : tuple of int
        The groups at both ends of the path; (0, 0) for a valley that is not counted.
    density : float
        Density in the valley relative to the lower of both sides' modes, from 0 to 1.
    limit : float
        The valley is counted where its density is below this.
    share : float
        Share of the rows that lie on the smaller side.
    """

    groups: tuple[int, int]
    density: float
    limit: float
    share: float

    @property
    def is_counted(self) -> bool:
        """Whether it separates two clusters."""
        return self.density < self.limit


def graph_modes(distances: np.ndarray, k: int) -> tuple[np.ndarray, list[Valley]]:
    """Divide rows into the modes of a density that significant valleys separate.

    The density is estimated from the distance to the k-th nearest neighbour, with an
    intrinsic dimension estimated from all distances to neighbours. In order of falling
    density, rows join the groups of denser neighbours. Groups that meet are merged
    unless the valley between them is deep.

    Parameters
    ----------
    distances : ndarray of shape (n, n)
        Distances between rows, infinite on the diagonal.
    k : int
        Number of neighbours, less than n.

    Returns
    -------
    labels : ndarray of shape (n,)
        From 0; the densest group first.
    valleys : list of Valley
        Valleys between the groups, which form a tree, then those that were passed over.

    References
    ----------
    F. Chazal, L. Guibas, S. Oudot, P. Skraba, *Persistence-based clustering in
    Riemannian manifolds*, Journal of the ACM 60, 2013.

    E. Levina, P. Bickel, *Maximum likelihood estimation of intrinsic dimension*,
    NIPS 2004.
    """
    n = len(distances)
    near = np.argpartition(distances, k - 1, axis=1)[:, :k]
    lengths = np.take_along_axis(distances, near, axis=1)
    radius = np.maximum(lengths.max(axis=1), 1e-12)
    log_ratios = np.log(radius[:, None] / np.maximum(lengths, 1e-12))
    dimension = 1.0 / max(np.median(log_ratios.sum(axis=1)) / (k - 1), 1e-3)
    sparsity = dimension * np.log(radius)
    depth = DEPTH_IN_ERRORS / np.sqrt(k - 2)
    open_depth = np.clip(OPEN_DEPTH / dimension, *OPEN_DEPTH_LIMITS)
    open_depth = max(OPEN_DEPTH_OF_CURVES / dimension, open_depth) / np.sqrt(k - 2)
    order_of_rows = np.argsort(sparsity, kind="stable")
    place = np.empty(n, dtype=np.intp)
    place[order_of_rows] = np.arange(n)
    row, other = np.repeat(np.arange(n), k), near.ravel()
    joined = lengths.ravel() <= REACH * np.minimum(radius[row], radius[other])
    row, other = row[joined], other[joined]
    # From here on rows are numbered by density, the densest as 0.
    later = np.maximum(place[row], place[other])
    sooner = np.minimum(place[row], place[other])
    order = np.lexsort((sooner, later))
    height = np.sort(sparsity).tolist()
    parent, size = list(range(n)), [1] * n
    least = max(MIN_CLUSTER_ROWS, k // 2)
    saddles: dict[tuple[int, int], float] = {}
    passed_over = []
    for saddle, start in zip(
        later[order].tolist(), sooner[order].tolist(), strict=True
    ):
        a, b = sorted((_find(parent, saddle), _find(parent, start)))
        if a == b:
            continue
        valley = height[saddle] - height[b]
        n_rows = min(size[a], size[b])
        if n_rows >= least:
            if valley > depth:
                saddles.setdefault((a, b), height[saddle])
                continue
            density, limit = float(np.exp(-valley)), float(np.exp(-depth))
            passed_over.append(Valley((0, 0), density, limit, n_rows / n))
        parent[b] = a
        size[a] += size[b]
    root = np.array([_find(parent, i) for i in range(n)])
    modes = [m for m in np.unique(root).tolist() if size[m] >= least] or [root[0]]
    labels = np.full(n, -1)
    for number, mode in enumerate(modes):
        labels[root == mode] = number
    labels = labels[place]
    strays, others = np.flatnonzero(labels < 0), np.flatnonzero(labels >= 0)
    if len(strays):
        nearest = distances[np.ix_(strays, others)].argmin(axis=1)
        labels[strays] = labels[others[nearest]]
    numbers = {mode: number for number, mode in enumerate(modes)}
    heights: dict[tuple[int, int], float] = {}
    for pair, saddle in saddles.items():
        a, b = sorted(numbers.get(_find(parent, i), -1) for i in pair)
        if 0 <= a < b:
            heights[a, b] = min(saddle, heights.get((a, b), np.inf))
    ways = [(saddle, a, b) for (a, b), saddle in heights.items()]
    for a, b in combinations(range(len(modes)), 2):
        if (a, b) not in heights:
            rows, others = np.flatnonzero(labels == a), np.flatnonzero(labels == b)
            gaps = distances[np.ix_(rows, others)]
            i, j = np.unravel_index(gaps.argmin(), gaps.shape)
            # In many dimensions any midpoint is near to rows: compare with the mode's.
            mode = order_of_rows[modes[b]]
            valley = dimension * np.log(
                _radius_halfway(distances, rows[i], others[j], k)
                / _radius_halfway(distances, mode, distances[mode].argmin(), k)
            )
            ways.append((height[modes[b]] + valley, a, b))
    shares = np.bincount(labels, minlength=len(modes)) / n
    joined, cluster = np.arange(len(modes)), np.arange(len(modes))
    between = []
    for saddle, a, b in sorted(ways):
        sides = [joined == joined[a], joined == joined[b]]
        if joined[a] == joined[b]:
            continue
        # Modes are sorted by density: the first of a side is its densest.
        valley = saddle - max(height[modes[side.argmax()]] for side in sides)
        share = float(min(shares[side].sum() for side in sides))
        least_depth = depth if (a, b) in heights else open_depth
        density, limit = (float(min(np.exp(-v), 1.0)) for v in (valley, least_depth))
        if valley > least_depth:
            between.append((a, b, density, limit, share))
        else:
            cluster[cluster == cluster[b]] = cluster[a]
            passed_over.append(Valley((0, 0), density, limit, share))
        joined[sides[1]] = joined[a]
    places = np.unique(cluster, return_inverse=True)[1]
    valleys = [Valley((int(places[a]), int(places[b])), *v) for a, b, *v in between]
    return places[labels], valleys + passed_over


def _radius_halfway(distances: np.ndarray, i: int, j: int, k: int) -> float:
    """Return the distance from the midpoint of two rows to its k-th nearest row."""
    ends = distances[[i, j]]
    ends[0, i] = ends[1, j] = 0.0
    # By the theorem of Apollonius.
    squares = 0.5 * (ends**2).sum(axis=0) - 0.25 * distances[i, j] ** 2
    return np.sqrt(max(np.partition(squares, k - 1)[k - 1], 1e-24))


def _find(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
