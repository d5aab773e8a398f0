"""First responsibilities: the mixture's components before training.

Most methods partition the rows with an ordinary clusterer. ``"auto"`` runs several that
fail on different data, and ranks their partitions.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.special import logsumexp, softmax
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from skflowmix.starts.clusterer import (
    MAX_MODEL_ROWS,
    from_clusterer,
    split_to,
    weighted_rows,
)
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.genie import linkage_labels
from skflowmix.starts.knn import (
    MAX_GRAPH_ROWS,
    Landmarks,
    draw_rows,
    nearest,
    nearest_others,
    one_hot,
)
from skflowmix.starts.merging import merging_labels
from skflowmix.starts.preprocessing import (
    column_space,
    repeat_widths,
    row_counts,
    rows_of_shared_values,
    stand_for_several,
)
from skflowmix.starts.scores import (
    CLEAR_SEPARATION,
    REG_COVAR,
    believed_or_cut,
    choose_shrinkage,
    held_out_log_densities,
    kernel_score,
    largest_cut,
    ranking,
)
from skflowmix.starts.separation import SeparationTree
from skflowmix.starts.shrinkage import Shrinkage
from skflowmix.starts.spectral import spectral_labels

INIT_METHODS = (
    "auto",
    "kmeans",
    "k-means++",
    "gmm",
    "spectral",
    "linkage",
    "random",
    "random_from_data",
)

SAME_PARTITION_ARI = 0.98
# Columns are taken to share one unit if their spreads in data units differ by at most
# this factor, except for the quarter of the columns that varies least.
COMMENSURATE_RATIO = 8.0
# Merging starts from at least MIN_GROUPS groups, fewer where these would have less than
# GROUP_ROWS rows on average.
MIN_GROUPS = 40
GROUP_ROWS = 8
# Most iterations of expectation maximisation on the landmarks, and afterwards on more
# rows.
MAX_ITER = 100
MAX_MORE_ITER = 20
# Dequantization noise: its size in units of `repeat_widths`, and the range of widths in
# standard deviations of a column. Values with smaller widths get no noise, as values so
# close to each other make no clusters.
REPEAT_NOISE = 0.8
SMALLEST_REPEAT_WIDTH, LARGEST_REPEAT_WIDTH = 0.15, 1.0
# Repeated rows with more than this share of the weight could be a cluster, however near
# others are: they get noise even of smaller widths.
HEAVY_ROW = 0.02
# If rounded rows that repeat have more than this share of the weight, all rounded rows
# get noise of any width and are split into copies: otherwise neighbour graphs would
# count the lightest row as much as the heaviest.
ROUNDED_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Proposal:
    """A first partition of the rows.

    Attributes
    ----------
    name : str
        The method that found it.
    responsibilities : ndarray of shape (n, K)
        Non-negative, rows sum to one.
    score : float
        Its score by `believed_or_cut`, larger is better; NaN if it was not compared
        with others.
    """

    name: str
    responsibilities: np.ndarray
    score: float = np.nan


def propose_partitions(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int | None,
    init: Any,
    random_state: np.random.RandomState,
    n_init: int = 1,
    column_scales: np.ndarray | None = None,
) -> list[Proposal]:
    """Partition the rows into `n_components` groups, in one or several ways.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Standardised rows, float64, identical rows merged, in a random order.
    sample_weight : ndarray of shape (n,)
        Positive, mean one.
    n_components : int or None
        K; with None, a clusterer finds the number.
    init : str or scikit-learn clusterer
        Method, one of `INIT_METHODS`. A clusterer is cloned, never changed; an
        `n_clusters` of it is set to K. ``"auto"`` adds dequantization noise to values
        that repeat in a column, then ranks spectral clustering, tree linkage, clear
        separations, and Gaussian mixtures started from spectral clustering, linkage,
        k-means and merged groups, by `skflowmix.starts.scores.ranking`.
    random_state : RandomState
        The only source of randomness.
    n_init : int, default=1
        Most proposals to make. A random method makes them with different seeds,
        ``"auto"`` returns its best; ``"linkage"`` and clusterers make only one.
    column_scales : ndarray of shape (D,), optional
        What each column of `x` was divided by. If given, and if all columns seem to
        share one unit, distances are taken in data units; otherwise every column is
        scaled to unit variance.

    Returns
    -------
    list of Proposal
        Never empty; the proposals of ``"auto"`` differ, the best one first.

    Raises
    ------
    ValueError
        If a clusterer finds more than `n_components` clusters, or the name is unknown.
    """
    n = len(x)
    name = init if isinstance(init, str) else type(init).__name__
    if isinstance(init, str) and init not in INIT_METHODS:
        raise ValueError(f"init_params must be one of {INIT_METHODS}, got {init!r}.")
    if n_components == 1:
        return [Proposal(name, np.ones((n, 1)))]
    if n_components is not None and n <= n_components:
        return [Proposal(name, np.eye(n, n_components))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not isinstance(init, str):
            x = rescale_columns(x, sample_weight, column_scales)
            responsibilities = from_clusterer(
                x, sample_weight, n_components, init, random_state
            )
            return [Proposal(name, responsibilities)]
        assert n_components is not None  # only a clusterer finds it
        if name == "auto":
            x, sample_weight, origin = without_repeats(
                x, sample_weight, column_scales, random_state
            )
            proposals = _ranked_candidates(
                x, sample_weight, n_components, random_state, n_init
            )
            return [
                replace(p, responsibilities=of_origins(p.responsibilities, origin))
                for p in proposals
            ]
        x = rescale_columns(x, sample_weight, column_scales)
        return [
            Proposal(name, _METHODS[name](x, sample_weight, n_components, random_state))
            for _ in range(1 if name == "linkage" else n_init)
        ]


def nearest_mean_responsibilities(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Assign each row to its nearest mean.

    Parameters
    ----------
    x : ndarray of shape (n, D)
    means : ndarray of shape (K, D)

    Returns
    -------
    ndarray of shape (n, K)
        One-hot rows.
    """
    return one_hot(nearest(means, x, 1)[:, 0], len(means))


def rescale_columns(
    x: np.ndarray,
    sample_weight: np.ndarray,
    column_scales: np.ndarray | None = None,
    left_out: np.ndarray | None = None,
) -> np.ndarray:
    """Bring columns to a common scale: data units if plausible, else unit variance.

    Rows in the mask `left_out`, of shape (n,), do not count.
    """
    # Variances, because quartiles jump with the shares of rows in a column's modes;
    # clipped, so that a few outlying rows do not set the scale.
    middle, weight = np.clip(x, -5.0, 5.0), sample_weight
    if left_out is not None and not left_out.all():
        middle, weight = middle[~left_out], weight[~left_out]
    mean = np.average(middle, axis=0, weights=weight)
    spread = np.sqrt(np.average((middle - mean) ** 2, axis=0, weights=weight))
    varies = spread > 1e-9
    scale = np.where(varies, spread, 1.0)
    if column_scales is not None and varies.any():
        # Relative to the largest, because extreme units and their squares overflow.
        column_scales = column_scales / column_scales.max()
        in_units = spread[varies] * column_scales[varies]
        # A quarter of the columns may hardly vary, as pixels at an image's edge.
        low = np.quantile(in_units, 0.25, method="lower")
        if in_units.max() / COMMENSURATE_RATIO <= low:
            largest = in_units.max()
            common = np.sqrt(np.mean((in_units / largest) ** 2))
            scale[varies] = common * (largest / column_scales[varies])
    return x / scale


def without_repeats(
    x: np.ndarray,
    sample_weight: np.ndarray,
    column_scales: np.ndarray | None,
    random_state: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transform rows so that their distances and densities show clusters.

    Values that repeat in a column get dequantization noise, columns a common scale, and
    directions in which rows do not differ are dropped.

    Parameters
    ----------
    x, sample_weight, column_scales, random_state
        As for `propose_partitions`.

    Returns
    -------
    x : ndarray of shape (m, d)
        Rows, one or several for each given row.
    sample_weight : ndarray of shape (m,)
        Their weights, mean one.
    origin : ndarray of shape (m,), int
        Number of the given row that each comes from.
    """
    x, sample_weight, origin = spread_repeats(x, sample_weight, random_state)
    x = rescale_columns(x, sample_weight, column_scales)
    return _drop_flat_directions(x, sample_weight), sample_weight, origin


def spread_repeats(
    x: np.ndarray, sample_weight: np.ndarray, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add noise to values that repeat: a cluster must not be one value of a column.

    A row in which all columns that vary have such values is split into copies according
    to its weight.

    Parameters
    ----------
    x, sample_weight, random_state
        As for `propose_partitions`.

    Returns
    -------
    x : ndarray of shape (m, D)
        Rows, one or several for each given row.
    sample_weight : ndarray of shape (m,)
        Their weights.
    origin : ndarray of shape (m,), int
        Number of the given row that each comes from.
    """
    origin = np.arange(len(x))
    widths = repeat_widths(x, sample_weight, LARGEST_REPEAT_WIDTH)
    if widths is None:
        return x, sample_weight, origin
    total = sample_weight.sum()
    spread = (sample_weight > HEAVY_ROW * total) & (row_counts(sample_weight) > 1)
    rounded = rows_of_shared_values(x)
    repeated = rounded & stand_for_several(sample_weight)
    if sample_weight[repeated].sum() > ROUNDED_SHARE * total:
        spread |= rounded
    widths[(widths < SMALLEST_REPEAT_WIDTH) & ~spread[:, None]] = 0.0
    is_discrete = np.all((widths > 0) | (np.ptp(x, axis=0) == 0), axis=1)
    unit = max(sample_weight.min(), sample_weight.sum() / MAX_GRAPH_ROWS)
    copies = np.maximum(np.round(sample_weight / unit), 1).astype(int)
    copies[~is_discrete] = 1
    if copies.max() > 1:
        origin = random_state.permutation(np.repeat(origin, copies))
        sample_weight = (sample_weight / copies)[origin]
        sample_weight /= sample_weight.mean()
    x, widths = x[origin], widths[origin]
    noise = REPEAT_NOISE * widths * random_state.standard_normal(x.shape)
    plane = column_space(x, sample_weight, widths)
    if plane is not None:
        noise = noise @ plane
    return x + noise, sample_weight, origin


def of_origins(responsibilities: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return mean responsibilities of the copies of each row, see `without_repeats`."""
    if len(origin) == origin.max() + 1:
        return responsibilities
    totals = np.zeros((origin.max() + 1, responsibilities.shape[1]))
    np.add.at(totals, origin, responsibilities)
    return totals / np.bincount(origin)[:, None]


def _drop_flat_directions(x: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
    """Drop directions in which rows do not differ: a density there means nothing.

    Columns that are constant, copies or sums of others would dominate the likelihoods
    of Gaussians. A direction is kept if nearest rows differ in it: groups much smaller
    than the distances between them are flat only at the scale of all rows.
    """
    covariance = np.atleast_2d(np.cov(x.T, aweights=sample_weight, ddof=0))
    variances, axes = np.linalg.eigh(covariance)
    differ = variances > REG_COVAR
    if differ.all() or not differ.any():
        return x
    steps = (x - x[nearest_others(x, 1)[:, 0]]) @ axes
    lengths = np.sum(steps**2, axis=1)
    lengths[lengths == 0] = 1.0
    differ |= np.mean(steps**2 / lengths[:, None], axis=0) > REG_COVAR
    return x @ axes[:, differ]


def _kmeans(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    rows = draw_rows(sample_weight, MAX_MODEL_ROWS, random_state)
    weight = np.ones(len(rows)) if len(rows) < len(x) else sample_weight
    model = KMeans(n_components, n_init=3, random_state=random_state)
    model.fit(x[rows], sample_weight=weight)
    return nearest_mean_responsibilities(x, model.cluster_centers_)


def _random_rows(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    share = sample_weight / sample_weight.sum()
    means = x[random_state.choice(len(x), n_components, replace=False, p=share)]
    return nearest_mean_responsibilities(x, means)


def _kmeans_seeding(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    rows = draw_rows(sample_weight, MAX_MODEL_ROWS, random_state)
    weight = np.ones(len(rows)) if len(rows) < len(x) else sample_weight
    centers, _ = kmeans_plusplus(
        x[rows], n_components, sample_weight=weight, random_state=random_state
    )
    return nearest_mean_responsibilities(x, centers)


def _gmm(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    rows = weighted_rows(x, sample_weight, MAX_MODEL_ROWS, random_state)
    model = GaussianMixture(n_components, reg_covar=1e-6, random_state=random_state)
    return model.fit(rows).predict_proba(x)


def _random(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    responsibilities = random_state.uniform(size=(len(x), n_components))
    return responsibilities / responsibilities.sum(axis=1, keepdims=True)


def _spectral(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    landmarks = Landmarks(x, sample_weight, random_state)
    tree = SeparationTree(landmarks, n_components)
    labels = spectral_labels(landmarks, tree, n_components, random_state)
    labels = split_to(labels, landmarks.x, n_components, random_state)
    return landmarks.spread(labels, n_components)


def _linkage(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    landmarks = Landmarks(x, sample_weight, random_state)
    return landmarks.spread(
        linkage_labels(landmarks.distances, n_components), n_components
    )


_METHODS = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_seeding,
    "gmm": _gmm,
    "spectral": _spectral,
    "linkage": _linkage,
    "random": _random,
    "random_from_data": _random_rows,
}


class _Candidate(NamedTuple):
    """A partition of the landmarks, and how Gaussians describe it."""

    name: str
    responsibilities: np.ndarray
    shrinkage: Shrinkage
    log_densities: np.ndarray


def _ranked_candidates(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
    n_best: int,
) -> list[Proposal]:
    landmarks = Landmarks(x, sample_weight, random_state)
    tree = SeparationTree(landmarks, n_components)
    labels: Any = spectral_labels(landmarks, tree, n_components, random_state)
    starts = {
        "spectral": split_to(labels, landmarks.x, n_components, random_state),
        "linkage": linkage_labels(landmarks.distances, n_components),
        "kmeans": _kmeans_labels(landmarks, n_components, random_state),
    }
    # A group needs more rows than columns to show its shape.
    most = landmarks.n // max(GROUP_ROWS, x.shape[1] + 1)
    n_groups = min(max(4 * n_components, MIN_GROUPS), most)
    if n_groups > n_components:
        starts["merging"] = merging_labels(
            landmarks, n_components, n_groups, random_state
        )
    labels = tree.labels(n_components)
    if tree.separation(labels) > CLEAR_SEPARATION and labels.max() == n_components - 1:
        starts["separation"] = labels
    starts = {name: one_hot(labels, n_components) for name, labels in starts.items()}
    candidates = []
    for name, start in starts.items():
        shrinkage, own = choose_shrinkage(landmarks, start)
        if name in ("spectral", "linkage", "separation"):
            candidates.append(_Candidate(name, start, shrinkage, own))
        if name == "separation":
            continue
        data = landmarks.x, landmarks.weight
        soft = expectation_maximisation(*data, start, shrinkage)
        own = held_out_log_densities(landmarks, soft, shrinkage)
        candidates.append(_Candidate(f"gmm from {name}", soft, shrinkage, own))
    weight = landmarks.weight
    log_densities = np.stack([candidate.log_densities for candidate in candidates])
    gains = log_densities @ weight / weight.sum() - kernel_score(landmarks)
    shares = [candidate.responsibilities for candidate in candidates]
    scores = np.array(
        [believed_or_cut(landmarks, *pair) for pair in zip(shares, gains, strict=True)]
    )
    labels = [own.argmax(axis=1) for own in shares]
    separations = np.array([tree.separation(own) for own in labels])
    cuts = np.array([largest_cut(landmarks, own, by_density=False) for own in shares])
    judged = log_densities, weight, scores, separations, cuts
    kept: list[np.ndarray] = []
    proposals: list[Proposal] = []
    for i in ranking(labels, *judged, x.shape[1]):
        name, found = candidates[i].name, candidates[i].responsibilities
        if any(adjusted_rand_score(labels[i], k) > SAME_PARTITION_ARI for k in kept):
            continue
        kept.append(labels[i])
        if name in starts:
            responsibilities = landmarks.spread(labels[i], n_components)
        else:
            shrinkage = candidates[i].shrinkage
            responsibilities = _posterior(landmarks, found, shrinkage, random_state)
        proposals.append(Proposal(name, responsibilities, float(scores[i])))
        if len(proposals) == n_best:
            break
    return proposals


def _kmeans_labels(
    landmarks: Landmarks, n_components: int, random_state: np.random.RandomState
) -> np.ndarray:
    """Run k-means from k-means++ and from Ward's clusters; the lower inertia wins."""
    x, weight = landmarks.x, landmarks.weight
    pairs = squareform(landmarks.distances, checks=False)
    labels = fcluster(linkage(pairs, "ward"), n_components, "maxclust") - 1
    models = [KMeans(n_components, n_init=3, random_state=random_state)]
    if labels.max() == n_components - 1:  # fewer where heights are equal
        means = one_hot(labels, n_components).T @ x
        means /= np.bincount(labels)[:, None]
        models.append(KMeans(n_components, init=means, n_init=1))
    for model in models:
        model.fit(x, sample_weight=weight)
    return min(models, key=lambda model: model.inertia_).labels_


def expectation_maximisation(
    x: np.ndarray,
    weight: np.ndarray,
    responsibilities: np.ndarray,
    shrinkage: Shrinkage,
    max_iter: int = MAX_ITER,
) -> np.ndarray:
    """Fit a Gaussian mixture from a partition and return its responsibilities."""
    previous = -np.inf
    for _ in range(max_iter):
        gaussians = Gaussians.shrunk(x, weight, responsibilities, shrinkage)
        log_joint = gaussians.log_joint(x)
        log_likelihood = np.average(logsumexp(log_joint, axis=1), weights=weight)
        responsibilities = softmax(log_joint, axis=1)
        if log_likelihood - previous < 1e-3:
            break
        previous = log_likelihood
    return responsibilities


def _posterior(
    landmarks: Landmarks,
    responsibilities: np.ndarray,
    shrinkage: Shrinkage,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Return responsibilities of all rows by Gaussians started from the landmarks."""
    x, weight = landmarks.all_rows, landmarks.all_weights
    data = landmarks.x, landmarks.weight
    gaussians = Gaussians.shrunk(*data, responsibilities, shrinkage)
    if landmarks.n < len(x):
        rows = draw_rows(weight, MAX_MODEL_ROWS, random_state)
        weight = weight if len(rows) == len(x) else np.ones(len(rows))
        shares = softmax(gaussians.log_joint(x[rows]), axis=1)
        data = x[rows], weight
        shares = expectation_maximisation(*data, shares, shrinkage, MAX_MORE_ITER)
        gaussians = Gaussians.shrunk(*data, shares, shrinkage)
    chunks = np.array_split(x, len(x) // 50_000 + 1)
    return np.concatenate(
        [softmax(gaussians.log_joint(chunk), axis=1) for chunk in chunks]
    )
