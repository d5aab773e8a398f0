"""How many clusters there are: groups that no valley separates are one."""

import warnings

import numpy as np
from sklearn.cluster import KMeans

from skflowmix.starts.knn import Landmarks
from skflowmix.starts.partitions import rescale_columns

__all__ = ["contact", "count_clusters"]

# Two groups are one where the rows between them are no sparser than this: one less the
# mean rank, from 0 to 1, of the distances to their tenth neighbours in their groups.
# So many pairs of neighbours must meet there to tell, a pair in which only one row is
# among the other's neighbours counts this much, and so small a share of an average
# group is no cluster.
MIN_CONTACT = 0.03
MIN_CONTACT_PAIRS = 10
ONE_WAY_WEIGHT = 0.1
MIN_GROUP_SHARE = 0.25

# Groups to start from, unless more clusters are allowed or rows are few.
N_GROUPS = 20
MIN_ROWS_PER_GROUP = 10


def count_clusters(
    x, sample_weight, max_clusters, random_state, column_scales=None
) -> int:
    """Find how many clusters there are, by merging too many groups.

    The groups are those of k-means, which cuts across clusters rather than along their
    borders. Where a cut goes through a cluster, the rows along it lie as densely as
    others; where it goes through a valley, they are the outermost rows of their
    groups. Groups of the first kind are merged, those with the densest contact first.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Standardised rows, identical rows merged.
    sample_weight : ndarray of shape (n,)
        Positive, mean one.
    max_clusters : int
        The most there can be.
    random_state : RandomState
        The only source of randomness.
    column_scales : ndarray of shape (D,), optional
        See `propose_partitions`.

    Returns
    -------
    n_clusters : int
        Between 1 and `max_clusters`; 1 where fewer than twenty rows cannot tell.
    """
    if max_clusters == 1:
        return 1
    x = rescale_columns(x, sample_weight, column_scales)
    landmarks = Landmarks(x, sample_weight, random_state)
    n_groups = min(max(N_GROUPS, max_clusters), landmarks.n // MIN_ROWS_PER_GROUP)
    if n_groups < 2:
        return 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-means', of equal rows
        model = KMeans(n_groups, n_init=3, random_state=random_state)
        labels = model.fit_predict(landmarks.x, sample_weight=landmarks.weight)
    labels = _absorb_fragments(landmarks, labels, n_groups)
    n_clusters = len(np.unique(labels))
    while n_clusters > 1:
        touching = contact(landmarks, labels, n_groups)
        one, other = np.unravel_index(touching.argmax(), touching.shape)
        if touching[one, other] < MIN_CONTACT:
            break
        labels[labels == other] = one
        n_clusters -= 1
    return min(n_clusters, max_clusters)


def _absorb_fragments(landmarks, labels, n_groups):
    """Give the rows of very small groups to the groups of their neighbours."""
    sizes = np.bincount(labels, minlength=n_groups)
    small = np.flatnonzero(sizes < MIN_GROUP_SHARE * landmarks.n / n_groups)
    large_rows = np.flatnonzero(~np.isin(labels, small))
    rows = np.flatnonzero(np.isin(labels, small))
    labels = labels.copy()
    if len(rows):
        owner = landmarks.distances[np.ix_(rows, large_rows)].argmin(axis=1)
        labels[rows] = labels[large_rows[owner]]
    return labels


def contact(landmarks, labels, n_groups, n_pairs=MIN_CONTACT_PAIRS):
    """How densely each two groups touch: (n_groups, n_groups), from 0 to 1.

    Less where fewer than `n_pairs` neighbours meet.

    A far row has neighbours in other clusters, but is none of theirs.
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
