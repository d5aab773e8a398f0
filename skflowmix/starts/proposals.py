"""First partitions of data with outlying rows, called far in the code."""

from typing import Any

import numpy as np

from skflowmix.starts.cluster_count import count_clusters, path_of
from skflowmix.starts.far_groups import far_groups
from skflowmix.starts.knn import Landmarks, nearest, one_hot
from skflowmix.starts.partitions import (
    of_origins,
    propose_partitions,
    rescale_columns,
    without_repeats,
)
from skflowmix.starts.preprocessing import Standardizer, row_counts
from skflowmix.starts.robust import are_codes, beyond_gaps, lone_heaps
from skflowmix.starts.scores import (
    GAUSSIAN_TOLERANCE,
    choose_shrinkage,
    kernel_score,
)
from skflowmix.starts.separation import contact
from skflowmix.starts.shrinkage import LOSS_BOUND
from skflowmix.starts.skewness import propose_for_skewed, with_likeliest_transform

__all__ = ["count_starts", "propose_starts"]

# Most groups of outlying rows with components of their own.
MAX_GROUPS = 4

# Greatest `contact` between clusters of the bulk; halves of one cluster touch more.
LARGEST_CONTACT = 0.1

# Least share of the distinct rows in the bulk.
MIN_BULK = 0.5

# Gaussians by which skewed columns are judged where clusters are still to be counted.
N_GAUSSIANS = 5

# Nats per row by which Gaussians of more clusters must be likelier.
CLEARLY_LIKELIER = 0.05


def propose_starts(
    x: np.ndarray,
    sample_weight: np.ndarray,
    standardizer: Standardizer,
    n_components: int | Any,
    init: Any,
    random_state: np.random.RandomState,
    n_init: int = 1,
) -> list[np.ndarray]:
    """Propose first responsibilities that do not depend on outlying rows.

    A row is outlying if one of its values is far, beyond a gap or in a lone heap. The
    bulk, all other rows, is partitioned by itself. Groups of outlying rows have
    components of their own, the heaviest first, unless a finer partition of the bulk
    makes better use of them, see `_is_supported`. Other outlying rows, clipped to the
    range of the bulk, join the component of its nearest row. If the bulk is too small,
    or if `init` is a clusterer, all rows are partitioned together.

    Parameters
    ----------
    x, sample_weight, n_components, init, random_state, n_init
        As for `propose_partitions`.
    standardizer : Standardizer
        Standardised the rows; defines which values are outlying.

    Returns
    -------
    starts : list of ndarray of shape (n, K)
        Responsibilities, the best first.
    """

    def propose(
        index: np.ndarray, n_parts: int
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        data = x[index], sample_weight[index]
        return _propose(*data, n_parts, init, random_state, n_init, standardizer.scale)

    counts = row_counts(sample_weight)
    far, unusual, groups = _unusual_rows(
        x, sample_weight, counts, standardizer, random_state
    )
    bulk = np.flatnonzero(~unusual)
    if not (unusual.any() and isinstance(init, str)) or len(bulk) < max(
        n_components, MIN_BULK * len(x)
    ):
        return propose(np.arange(len(x)), n_components)[0]
    n_groups = min(groups.max() + 1, n_components - 1, MAX_GROUPS)
    parts, _ = propose(bulk, n_components - n_groups)
    if n_groups:
        weight = sample_weight[bulk]
        rescaled = rescale_columns(x[bulk], weight, standardizer.scale)
        landmarks = Landmarks(rescaled, weight, random_state)
        losses = _losses(x, counts, groups, far, n_groups)
        for n_own in range(n_groups):
            finer, rows = propose(bulk, n_components - n_own)
            seen = landmarks
            if rows is not None:
                # Gaussians of skewed columns as they are would fit neither partition.
                seen = Landmarks(rescale_columns(rows, weight), weight, random_state)
            if _is_supported(seen, finer[0], parts[0], losses[n_own:].sum()):
                parts, n_groups = finer, n_own
                break
    return _with_far_rows(x, bulk, groups, n_groups, parts)


def count_starts(
    x: np.ndarray,
    sample_weight: np.ndarray,
    standardizer: Standardizer,
    max_components: int,
    init: Any,
    random_state: np.random.RandomState,
    n_init: int = 1,
) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Count the clusters and propose first responsibilities with as many components.

    `count_clusters` counts the clusters of the bulk, with skewed columns transformed if
    Gaussians are then clearly likelier. The heaviest groups of outlying rows,
    `MAX_GROUPS` at most, are further clusters. Other outlying rows join clusters of the
    bulk as in `propose_starts`.

    Parameters
    ----------
    x, sample_weight, standardizer, random_state, n_init
        As for `propose_starts`.
    max_components : int
        Most clusters that may be found.
    init : str
        With ``"auto"`` the first proposal is the counted clusters; any other method
        divides the bulk into as many parts as were counted.

    Returns
    -------
    starts : list of ndarray of shape (n, K)
        Responsibilities, the best first.
    path : list of dict
        Merges of the clusters, counted and passed over, see `FlowMixture`.
    """
    counts = row_counts(sample_weight)
    _, unusual, groups = _unusual_rows(
        x, sample_weight, counts, standardizer, random_state
    )
    if np.count_nonzero(~unusual) < max(2, MIN_BULK * len(x)):
        unusual, groups = np.zeros_like(unusual), np.full_like(groups, -1)
    bulk = np.flatnonzero(~unusual)
    n_groups = min(groups.max() + 1, max_components - 1, MAX_GROUPS)
    data = x[bulk], sample_weight[bulk]
    own, scales = with_likeliest_transform(*data, N_GAUSSIANS, standardizer.scale)
    rows, weight, origin = without_repeats(own, data[1], scales, random_state)
    counted = count_clusters(rows, weight, max_components - n_groups, random_state)
    parts = [of_origins(one_hot(counted.labels, counted.n_clusters), origin)]
    n_more = n_init - 1 if init == "auto" else n_init
    if n_more > 0:
        proposals, _ = _propose(
            *data, counted.n_clusters, init, random_state, n_more, standardizer.scale
        )
        parts = [*parts, *proposals] if init == "auto" else proposals
    shares = [float(np.mean(groups == number)) for number in range(n_groups)]
    path = path_of(counted, shares)
    return _with_far_rows(x, bulk, groups, n_groups, parts), path


def _propose(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    init: Any,
    random_state: np.random.RandomState,
    n_init: int,
    column_scales: np.ndarray,
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Return responsibilities, and the rows that they come from if not x."""
    data, how = (x, sample_weight, n_components), (random_state, n_init, column_scales)
    rows = None
    if isinstance(init, str) and init == "auto":
        proposals, rows = propose_for_skewed(*data, *how)
    else:
        proposals = propose_partitions(*data, init, *how)
    return [proposal.responsibilities for proposal in proposals], rows


def _with_far_rows(
    x: np.ndarray,
    bulk: np.ndarray,
    groups: np.ndarray,
    n_groups: int,
    parts: list[np.ndarray],
) -> list[np.ndarray]:
    """Extend partitions of the bulk to all rows.

    The first `n_groups` groups have components of their own. Other outlying rows,
    clipped to the range of the bulk, join the component of its nearest row.
    """
    unusual = np.ones(len(x), dtype=bool)
    unusual[bulk] = False
    n_components = parts[0].shape[1] + n_groups
    pulled_in = np.clip(x, x[bulk].min(axis=0), x[bulk].max(axis=0))
    strays = np.flatnonzero(unusual & ((groups < 0) | (groups >= n_groups)))
    owner: np.ndarray | list[int] = (
        nearest(pulled_in[bulk], pulled_in[strays], 1)[:, 0] if len(strays) else []
    )
    own = np.flatnonzero((groups >= 0) & (groups < n_groups))
    starts = []
    for part in parts:
        start = np.zeros((len(x), n_components))
        n_parts = part.shape[1]
        start[bulk, :n_parts] = part
        start[strays, :n_parts] = part[owner]
        start[own, n_parts + groups[own]] = 1.0
        starts.append(start)
    return starts


def _unusual_rows(
    x: np.ndarray,
    sample_weight: np.ndarray,
    counts: np.ndarray,
    standardizer: Standardizer,
    random_state: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return masks of far values (n, D) and unusual rows (n,), and groups of the rows.

    A far value is outlying or beyond a gap; unusual rows have such a value, or one in a
    lone heap. Groups have numbers from 0, the heaviest first; rows in no group have -1.
    """
    far = standardizer.far(x)
    far |= np.stack([beyond_gaps(column, counts) for column in x.T], axis=1)
    groups = far_groups(x, sample_weight, counts, far, random_state)
    unusual: Any = far.any(axis=1)
    for column in x.T:
        heaps = np.where(unusual, -1, lone_heaps(column, counts))
        in_heap = heaps >= 0
        groups[in_heap] = groups.max() + 1 + heaps[in_heap]
        unusual |= in_heap
    numbers, index = np.unique(groups[groups >= 0], return_inverse=True)
    sizes = np.bincount(index, counts[groups >= 0], minlength=len(numbers))
    place = np.empty(len(numbers), dtype=int)
    place[np.argsort(-sizes, kind="stable")] = np.arange(len(numbers))
    groups[groups >= 0] = place[index]
    return far, unusual, groups


def _losses(
    x: np.ndarray,
    counts: np.ndarray,
    groups: np.ndarray,
    far: np.ndarray,
    n_groups: int,
) -> np.ndarray:
    """Return the likelihood each group loses without a component of its own.

    In nats per row outside the groups: `LOSS_BOUND` for each of its rows. Groups whose
    far values are codes, which are no cluster, lose nothing.
    """
    losses = np.zeros(n_groups)
    for number in range(n_groups):
        rows = np.flatnonzero(groups == number)
        columns = np.flatnonzero(far[rows].mean(axis=0) > 0.5)
        if not all(are_codes(x[rows, column]) for column in columns):
            losses[number] = counts[rows].sum()
    return LOSS_BOUND * losses / counts[groups < 0].sum()


def _is_supported(
    landmarks: Landmarks, finer: np.ndarray, coarser: np.ndarray, loss: float
) -> bool:
    """Whether the finer of two partitions of the bulk is better.

    If its Gaussians are believed, they must be likelier than the coarser ones by more
    than `CLEARLY_LIKELIER` plus `loss`. Otherwise its densest contact between clusters
    must not exceed both `LARGEST_CONTACT` and that of the coarser partition.
    """
    finer, coarser = finer[landmarks.index], coarser[landmarks.index]
    likelihood = _likelihood(landmarks, finer)
    if likelihood + GAUSSIAN_TOLERANCE > kernel_score(landmarks):
        gain = likelihood - _likelihood(landmarks, coarser)
        return gain > CLEARLY_LIKELIER + loss
    touching = [
        contact(landmarks, part.argmax(axis=1), part.shape[1], n_pairs=1).max()
        for part in (finer, coarser)
    ]
    return touching[0] <= max(LARGEST_CONTACT, touching[1])


def _likelihood(landmarks: Landmarks, responsibilities: np.ndarray) -> float:
    """Return the cross-validated log-likelihood of Gaussians, in nats per row."""
    log_densities = choose_shrinkage(landmarks, responsibilities)[1]
    return float(np.average(log_densities, weights=landmarks.weight))
