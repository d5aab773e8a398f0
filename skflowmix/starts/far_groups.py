"""Outlying rows, far from the bulk: those that form groups, and stray ones."""

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import cdist, pdist

from skflowmix.starts.knn import draw_rows, nearest
from skflowmix.starts.robust import MIN_ROWS, MIN_SHARE

__all__ = ["far_groups"]

# Least distance of a group from all other rows, over the widest gap within it: rows in
# a tail are not as far from their neighbours.
MIN_SEPARATION = 3.0

# Least rows of a group in a single column: fewer may lie together by chance in a tail.
MIN_ROWS_OF_COLUMN = 10

# Most outlying rows, and most rows of the bulk, that are examined.
MAX_ROWS = 1500


def far_groups(
    x: np.ndarray,
    sample_weight: np.ndarray,
    counts: np.ndarray,
    far: np.ndarray,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Find groups among outlying rows by single linkage.

    First in all columns; the remaining rows then in each column in which they are
    outlying, since few rows are sparse in many columns.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Standardised rows.
    sample_weight : ndarray of shape (n,)
        Positive weights.
    counts : ndarray of shape (n,)
        Number of original rows that each row represents.
    far : ndarray of shape (n, D), bool
        Which values are outlying.
    random_state : RandomState
        Draws the rows that are examined where there are many.

    Returns
    -------
    groups : ndarray of shape (n,), int
        Group of each row, from 0; -1 for stray rows and for the bulk.
    """
    groups = np.full(len(x), -1)
    outlying = far.any(axis=1)
    if not outlying.any():
        return groups
    bulk = np.flatnonzero(~outlying)
    bulk = bulk[draw_rows(sample_weight[bulk], MAX_ROWS, random_state)]
    spaces = [(x, outlying, MIN_ROWS)]
    if x.shape[1] > 1:
        for c in np.flatnonzero(far.any(axis=0)):
            spaces.append((x[:, [c]], far[:, c], MIN_ROWS_OF_COLUMN))
    for space, is_far, least in spaces:
        least = max(least, MIN_SHARE * counts.sum())
        rows = np.flatnonzero(is_far & (groups < 0))
        if counts[rows].sum() < least:
            continue
        seen = rows[draw_rows(sample_weight[rows], MAX_ROWS, random_state)]
        labels = _linked(space[seen], space[bulk])
        size = counts[rows].sum() * np.bincount(labels) / len(seen)
        if len(seen) == len(rows):
            size = np.bincount(labels, counts[rows])
        is_large = size >= least
        number = np.where(is_large, groups.max() + np.cumsum(is_large), -1)
        groups[seen] = number[labels]
        rest = np.setdiff1d(rows, seen)
        if len(rest):
            groups[rest] = groups[seen[nearest(space[seen], space[rest], 1)[:, 0]]]
    return groups


def _linked(rows: np.ndarray, bulk: np.ndarray) -> np.ndarray:
    """Label the groups of outlying rows, single rows among them."""
    if len(rows) == 1:
        return np.zeros(1, dtype=int)
    to_bulk = np.full(len(rows), np.inf)
    if len(bulk):
        to_bulk = cdist(rows, bulk).min(axis=1)
    return _separated(linkage(pdist(rows), "single"), to_bulk)


def _separated(tree: np.ndarray, to_bulk: np.ndarray) -> np.ndarray:
    """Label the largest clusters of a linkage that are far from all other rows."""
    n = len(to_bulk)
    height = np.concatenate((np.zeros(n), tree[:, 2]))
    nearest_bulk = np.concatenate((to_bulk, np.empty(n - 1)))
    for i, (a, b) in enumerate(tree[:, :2].astype(int)):
        nearest_bulk[n + i] = min(nearest_bulk[a], nearest_bulk[b])
    labels = np.empty(n, dtype=int)
    n_found = 0
    open_nodes = [(2 * n - 2, np.inf)]
    while open_nodes:
        node, to_others = open_nodes.pop()
        apart = min(to_others, nearest_bulk[node])
        if node < n or apart >= MIN_SEPARATION * height[node]:
            labels[_leaves(tree, node, n)] = n_found
            n_found += 1
        else:
            a, b = tree[node - n, :2].astype(int)
            open_nodes += [(a, height[node]), (b, height[node])]
    return labels


def _leaves(tree: np.ndarray, node: int, n: int) -> list[int]:
    leaves, stack = [], [node]
    while stack:
        node = stack.pop()
        if node < n:
            leaves.append(node)
        else:
            stack += tree[node - n, :2].astype(int).tolist()
    return leaves
