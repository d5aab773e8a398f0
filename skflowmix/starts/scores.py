"""Scores of a partition of the rows, by Gaussians or by nearest neighbours."""

import numpy as np
from sklearn.metrics import adjusted_rand_score

from skflowmix.starts.knn import Landmarks
from skflowmix.starts.shrinkage import (
    Shrinkage,
    bounded_means,
    cross_validated_log_densities,
)

__all__ = [
    "CLEAR_SEPARATION",
    "GAUSSIAN_TOLERANCE",
    "REG_COVAR",
    "believed_or_cut",
    "choose_shrinkage",
    "held_out_log_densities",
    "in_standard_errors",
    "kernel_score",
    "largest_cut",
    "ranking",
]

# Strengths per column and diagonalities among which cross-validation chooses.
PARTITION_STRENGTHS = (0.02, 1.0, 10.0, 100.0)
PARTITION_DIAGONALITIES = (0.0, 1.0)
REG_COVAR = 1e-4
# Nats per row by which Gaussians may lose to a kernel estimate and still be believed.
GAUSSIAN_TOLERANCE = 0.02
# Nearest neighbours of a row that `largest_cut` counts, and the least distance that it
# divides by.
CUT_NEIGHBORS = 5
SHORTEST = 1e-12
# In `largest_cut`, the usual distance is at most this many times that from the
# neighbour to the last of its own neighbours: it may be at a denser cluster's edge.
MOST_USUAL = 1.5
# Clusters of less than this share of an average cluster have few rows.
LEAST_SHARE = 0.1
# A partition is clearly separated if its separation exceeds CLEAR_SEPARATION and either
# its score is positive or its `largest_cut` of unweighted pairs is below MAX_CLEAR_CUT.
CLEAR_SEPARATION = 2.0
MAX_CLEAR_CUT = 0.05
# Clusters overlap if every partition has a larger `largest_cut` by density than this.
MAX_CUT = 0.02
# Where the likeliest Gaussians are ahead of the partition with the smallest cut by
# MUCH_LIKELIER, in nats per row and column, they are taken unless that partition's cut
# is below MAX_CUT_SHARE of theirs.
MUCH_LIKELIER = 0.08
MAX_CUT_SHARE = 1 / 6
# A partition that is not believed comes last if it has a cluster of less than this
# share of an average cluster.
SHARE_OF_OUTLIERS = 0.05
# Gaussians are equally likely if they differ by less than AS_LIKELY, in nats per row.
# One standard error of likelihood, LARGEST_LOSS of them at most, counts as much as a
# difference of AGREEMENT_PER_ERROR in mean agreement.
AS_LIKELY = 0.005
LARGEST_LOSS = 5.0
AGREEMENT_PER_ERROR = 0.02
TINY = 1e-12


def choose_shrinkage(
    landmarks: Landmarks, responsibilities: np.ndarray
) -> tuple[Shrinkage, np.ndarray]:
    """Choose the shrinkage whose Gaussians have the best cross-validated likelihood.

    Parameters
    ----------
    landmarks : Landmarks
        The rows, in a random order.
    responsibilities : ndarray of shape (n, K)
        Their partition.

    Returns
    -------
    shrinkage : Shrinkage
        The best one.
    log_densities : ndarray of shape (n,)
        Cross-validated, in nats.
    """
    n_features = landmarks.x.shape[1]
    grid = [
        (strength * n_features, diagonality)
        for strength in PARTITION_STRENGTHS
        for diagonality in PARTITION_DIAGONALITIES
    ]
    log_densities = cross_validated_log_densities(
        landmarks.x, landmarks.weight, responsibilities, grid, REG_COVAR
    )
    best = (log_densities @ landmarks.weight).argmax()
    strength, diagonality = grid[best]
    return Shrinkage(strength, diagonality, 0.0, REG_COVAR), log_densities[best]


def held_out_log_densities(
    landmarks: Landmarks, responsibilities: np.ndarray, shrinkage: Shrinkage
) -> np.ndarray:
    """Return log-densities of held-out rows under Gaussians of the others.

    Parameters
    ----------
    landmarks, responsibilities
        As for `choose_shrinkage`.
    shrinkage : Shrinkage
        How to shrink the covariances.

    Returns
    -------
    log_densities : ndarray of shape (n,)
        In nats.
    """
    grid = [(shrinkage.strength, shrinkage.diagonality)]
    (log_densities,) = cross_validated_log_densities(
        landmarks.x, landmarks.weight, responsibilities, grid, shrinkage.reg_covar
    )
    return log_densities


def in_standard_errors(gains: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted mean in standard errors.

    Parameters
    ----------
    gains, weights : ndarray of shape (n,)
        Values and their positive weights.

    Returns
    -------
    mean : float
        Divided by its standard error; 0 if all gains are zero.
    """
    mean = np.average(gains, weights=weights)
    error = np.linalg.norm(weights * (gains - mean)) / weights.sum()
    return mean / max(error, TINY)


def kernel_score(landmarks: Landmarks) -> float:
    """Return the leave-one-out log-density of a kernel estimate with local bandwidths.

    Parameters
    ----------
    landmarks : Landmarks
        The rows.

    Returns
    -------
    score : float
        Mean in nats per row for the best of three widths, see `bounded_means`.
    """
    n_features = landmarks.x.shape[1]
    weight = landmarks.weight
    k = min(5, landmarks.neighbors.shape[1])
    scale = np.maximum(landmarks.neighbor_distances[:, k - 1], 1e-9)
    log_kernel_weight = np.log(weight) - n_features * np.log(scale)
    log_others = np.log(np.sum(weight) - weight)
    widths = (0.35, 0.7, 1.4)
    log_density = np.empty((len(widths), landmarks.n))
    # A few rows at a time stay in the processor's cache.
    for rows in np.array_split(np.arange(landmarks.n), landmarks.n // 32 + 1):
        squared = (landmarks.distances[rows] / scale) ** 2
        for i, width in enumerate(widths):
            exponent = squared * (-0.5 / width**2)
            exponent += log_kernel_weight
            largest = exponent.max(axis=1)
            exponent -= largest[:, None]
            # Subnormal numbers are slow: negligible exponents are raised to a floor.
            kernels = np.exp(np.maximum(exponent, -50.0), dtype=np.float32)
            log_density[i, rows] = largest + np.log(kernels.sum(axis=1))
            log_density[i, rows] -= n_features * np.log(width)
    log_density -= log_others + 0.5 * n_features * np.log(2 * np.pi)
    return bounded_means(log_density, weight, n_features).max()


def believed_or_cut(
    landmarks: Landmarks, responsibilities: np.ndarray, gain: float
) -> float:
    """Return how believable a partition is; larger is better.

    A positive score is the gain, in nats per row, of one Gaussian per cluster over a
    kernel density estimate of all rows, plus a tolerance; both are evaluated on rows
    that they were not fitted to. If Gaussians describe the density that well, the
    clusters are taken to be Gaussian, overlapping or not. Any other partition has a
    score in [-1, 0]: minus its `largest_cut`.

    Parameters
    ----------
    landmarks : Landmarks
        The rows.
    responsibilities : ndarray of shape (n, K)
        The partition.
    gain : float
        Gain of its Gaussians over the kernel estimate, in nats per row.

    Returns
    -------
    score : float
        Comparable between partitions of the same rows into the same K.
    """
    gain += GAUSSIAN_TOLERANCE
    return gain if gain > 0 else -largest_cut(landmarks, responsibilities)


def largest_cut(
    landmarks: Landmarks, responsibilities: np.ndarray, *, by_density: bool = True
) -> float:
    """Return the largest share, over clusters, of neighbours in other clusters.

    Parameters
    ----------
    landmarks : Landmarks
        The rows.
    responsibilities : ndarray of shape (n, K)
        The partition.
    by_density : bool, default=True
        Whether to weight a pair of neighbours by (usual distance / distance of the
        pair)^2, at most 1: a density in two columns. The usual distance is the larger
        of both clusters' medians of the distance to the last of `CUT_NEIGHBORS`, but at
        most `MOST_USUAL` times that distance of the neighbour. Rows of noise between
        clusters, with distant neighbours on both sides, then count less than close rows
        that a cut through a cluster separates. A cut between the dense part of a
        cluster and its tail counts: the density there is not below that of the tail.
        Pairs of a row and the edge of a much denser cluster count less. Pairs of rows
        in clusters of few rows, which may be outliers, all have weight 1.

    Returns
    -------
    share : float
        From 0 to 1; 1 where a cluster has no rows.
    """
    labels, n_clusters = responsibilities.argmax(axis=1), responsibilities.shape[1]
    near = min(CUT_NEIGHBORS, landmarks.neighbors.shape[1])
    neighbors = labels[landmarks.neighbors[:, :near]]
    counts = np.repeat(landmarks.weight[:, None], near, axis=1)
    if by_density:
        lengths = np.maximum(landmarks.neighbor_distances[:, :near], SHORTEST)
        usual = np.full(n_clusters, np.inf)
        for cluster in range(n_clusters):
            own = lengths[labels == cluster, -1]
            if len(own):
                usual[cluster] = np.median(own)
        usual_distance = np.minimum(
            np.maximum(usual[labels][:, None], usual[neighbors]),
            MOST_USUAL * lengths[:, -1][landmarks.neighbors[:, :near]],
        )
        closeness = (usual_distance / lengths).clip(max=1) ** 2
        # Outliers are far from all other rows: their pairs would hardly count.
        rows = np.bincount(labels, minlength=n_clusters)
        few = rows < max(2 * CUT_NEIGHBORS, LEAST_SHARE * len(labels) / n_clusters)
        counts *= np.where(few[labels][:, None], 1.0, closeness)
    cut = np.sum(counts, axis=1, where=neighbors != labels[:, None])
    total = np.bincount(labels, counts.sum(axis=1), n_clusters)
    cut = np.bincount(labels, cut, n_clusters)
    share = np.divide(cut, total, out=np.ones(n_clusters), where=total > 0)
    return float(share.max())


def ranking(
    labels: list[np.ndarray],
    log_densities: np.ndarray,
    weights: np.ndarray,
    scores: np.ndarray,
    separations: np.ndarray,
    cuts: np.ndarray,
    n_features: int,
) -> np.ndarray:
    """Rank partitions, the best one first.

    Partitions are sorted by score, then by separation. The score of a clearly separated
    partition is at least zero. A partition without a positive score that is not clearly
    separated comes last if a cluster has less than `SHARE_OF_OUTLIERS` of an average
    cluster's rows: outliers are cut off without cutting neighbours.

    If the best partition has a positive score but is not clearly separated, partitions
    are sorted by their mean agreement with all of them, less `AGREEMENT_PER_ERROR` for
    each standard error by which their Gaussians are less likely than its own; beyond
    `LARGEST_LOSS` they come last. If all partitions cut many neighbours apart, clusters
    overlap, and the same is done with likelihoods in place of scores. So it is if the
    likeliest partition is ahead of the best by `MUCH_LIKELIER`, unless the best cuts
    less than `MAX_CUT_SHARE` of what the likeliest cuts.

    Parameters
    ----------
    labels : list of ndarray of shape (n,)
        The partitions.
    log_densities : ndarray of shape (n_partitions, n)
        Of rows held out from their Gaussians, in nats.
    weights : ndarray of shape (n,)
        Weights of the rows.
    scores : ndarray of shape (n_partitions,)
        Scores by `believed_or_cut`.
    separations : ndarray of shape (n_partitions,)
        See `skflowmix.starts.separation.SeparationTree`.
    cuts : ndarray of shape (n_partitions,)
        Each `largest_cut` of unweighted pairs.
    n_features : int
        Number of columns.

    Returns
    -------
    order : ndarray of shape (n_partitions,)
        Numbers of the partitions.
    """
    is_clear = (scores > 0) | (cuts < MAX_CLEAR_CUT)
    is_clear &= separations > CLEAR_SEPARATION
    scores = np.where(is_clear, np.maximum(scores, 0.0), scores)
    likelihoods = log_densities @ weights / weights.sum()
    n_clusters = 1 + max(own.max() for own in labels)
    smallest = [np.bincount(own, minlength=n_clusters).min() for own in labels]
    last = np.array(smallest) < SHARE_OF_OUTLIERS * len(weights) / n_clusters
    last &= ~is_clear & (scores <= 0)
    if not last.all():
        scores = np.where(last, -np.inf, scores)
        likelihoods = np.where(last, -np.inf, likelihoods)
    order = np.lexsort((-separations, -scores))
    best, likeliest = order[0], likelihoods.argmax()
    most = MAX_CUT
    if likelihoods[likeliest] - likelihoods[best] > MUCH_LIKELIER * n_features:
        most = min(most, -MAX_CUT_SHARE * scores[likeliest])
    overlap = scores[best] < -most
    if not overlap and (scores[best] <= 0 or is_clear[best]):
        return order
    first = likeliest if overlap else best
    value = _agreements(labels, log_densities, weights, first)
    value[~np.isfinite(likelihoods)] = -np.inf
    by = likelihoods if overlap else scores
    return np.lexsort((-separations, -by, -value))


def _agreements(
    labels: list[np.ndarray], log_densities: np.ndarray, weights: np.ndarray, first: int
) -> np.ndarray:
    """Return mean agreements with all partitions, less what `ranking` takes off them.

    Losses of likelihood are those against the partition `first`.
    """
    losses = log_densities[first] - log_densities
    value = np.full(len(labels), -np.inf)
    for i, (own, loss) in enumerate(zip(labels, losses, strict=True)):
        errors = 0.0
        if np.average(loss, weights=weights) > AS_LIKELY:
            errors = in_standard_errors(loss, weights)
        if errors < LARGEST_LOSS:
            agreement = [adjusted_rand_score(own, other) for other in labels]
            value[i] = np.mean(agreement) - AGREEMENT_PER_ERROR * errors
    return value
