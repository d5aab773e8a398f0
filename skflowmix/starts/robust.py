"""Outlying ("far") values of a column: up to a quarter of its weight may be."""

from collections.abc import Sequence

import numpy as np

__all__ = [
    "MIN_ROWS",
    "MIN_SHARE",
    "are_codes",
    "beyond_gaps",
    "lone_heaps",
    "usual_interval",
    "weighted_quantile",
]

# The core of a column holds this share of the weight; the rest may be outlying.
CORE_SHARE = 0.75

# A single value with at least this share of the weight is a heap.
HEAP_SHARE = 0.2

# Least gap between the bulk and outlying values, in widths of the core.
BULK_GAP = 4.0

# Values beyond a gap are outlying if they inflate a column's standard deviation by more
# than CODES_INFLATION, if they are codes (the share of distinct values is at most
# FEW_DISTINCT), else by more than LARGEST_INFLATION.
CODES_INFLATION, LARGEST_INFLATION = 3.0, 1000.0
FEW_DISTINCT = 0.1

# Without such a gap, values beyond this many standard deviations are outlying.
FARTHEST = 30.0

# A group has at least this many rows and this share of all rows.
MIN_ROWS, MIN_SHARE = 5, 0.005

# A group beyond a gap: the gap is wider than the core by the factor GAP_WIDTHS, and the
# group has at most the share MAX_BEYOND of the rows.
GAP_WIDTHS, MAX_BEYOND = 1.5, 0.05

# Each lone heap has at most the share MAX_HEAP of the rows. At least half of the rows
# have other values, at least the share MIN_DISTINCT of them distinct. More heaps than
# MAX_HEAPS in a column are a grid of its values, not codes.
MAX_HEAP, MIN_DISTINCT, MAX_HEAPS = 0.25, 0.95, 3

# The other values run up to a heap at the end of a column if as many of them as the
# heap has rows (at least LEAST_NEAR) lie within the width of their core, and the gap
# beside the heap is at most half as wide as these values.
LEAST_NEAR = 10


def weighted_quantile(
    x: np.ndarray, weights: np.ndarray, levels: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return the smallest values up to which shares `levels` of the weight lie.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        Values.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    levels : sequence of float
        Shares between 0 and 1.

    Returns
    -------
    quantiles : ndarray of shape (n_levels,)
        Values of x.
    """
    order = np.argsort(x, kind="stable")
    shares = np.cumsum(weights[order])
    index = np.searchsorted(shares, np.asarray(levels) * shares[-1] * (1 - 1e-12))
    return x[order[np.minimum(index, len(x) - 1)]]


def _shortest_interval(
    values: np.ndarray, weights: np.ndarray, share: float
) -> tuple[float, float]:
    """Find the shortest interval that holds a share of the weight."""
    total = np.concatenate(([0.0], np.cumsum(weights)))
    needed = share * total[-1] * (1 - 1e-12)
    last = np.searchsorted(total[1:], total[:-1] + needed)
    first = np.flatnonzero(last < len(values))
    widths = values[last[first]] - values[first]
    best = first[widths.argmin()]
    return values[best], values[last[best]]


def _core(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Find the interval of the core of distinct, sorted values.

    A heap at one value would make it too short: then it spans the heap and the core of
    the other values.
    """
    low, high = _shortest_interval(values, weights, CORE_SHARE)
    heaviest = np.argmax(np.where((values >= low) & (values <= high), weights, 0.0))
    if weights[heaviest] < HEAP_SHARE * weights.sum() or len(values) == 1:
        return low, high
    heap, others = values[heaviest], np.arange(len(values)) != heaviest
    low, high = _shortest_interval(values[others], weights[others], CORE_SHARE)
    return min(low, heap), max(high, heap)


def usual_interval(
    column: np.ndarray, weights: np.ndarray
) -> tuple[float, float, float, float]:
    r"""Find the interval outside which the values of a column are outlying.

    The core [a, b] is the shortest interval that holds three quarters of the weight (in
    a column with a heap, it spans the heap and three quarters of the other weight).
    The interval ends in the first gap on either side that is wider than four cores and
    than the distance from the core's opposite end to the gap. Values beyond it are
    outlying if they inflate the standard deviation more than a thousandfold, or
    threefold if they are codes, a few values that repeat; otherwise they are a group or
    a tail. Then, or without such gaps, values beyond 30 standard deviations are.

    Parameters
    ----------
    column : ndarray of shape (n_samples,)
        Finite values.
    weights : ndarray of shape (n_samples,)
        Positive weights.

    Returns
    -------
    low, high : float
        Ends of the interval.
    center, spread : float
        Winsorized mean and standard deviation of the values within. The spread of a
        constant column is zero.
    """
    center, spread = _winsorized_moments(column, weights)
    if spread > 0:
        low, high = _ends_at_gaps(column, weights)
        far = (column < low) | (column > high)
        inner = _winsorized_moments(column[~far], weights[~far])
        largest = CODES_INFLATION if are_codes(column[far]) else LARGEST_INFLATION
        if spread > largest * inner[1] > 0:
            return low, high, *inner
    return center - FARTHEST * spread, center + FARTHEST * spread, center, spread


def are_codes(values: np.ndarray) -> bool:
    """Return whether values repeat as codes do: few of them are distinct."""
    return len(np.unique(values)) <= max(2, FEW_DISTINCT * len(values))


def _ends_at_gaps(column: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Find the midpoints of the first wide gaps on both sides of the core."""
    values, index = np.unique(column, return_inverse=True)
    core_low, core_high = _core(values, np.bincount(index, weights))
    gaps = np.diff(values)
    least = BULK_GAP * (core_high - core_low)
    above = (values[:-1] >= core_high) & (
        gaps > np.maximum(least, values[:-1] - core_low)
    )
    below = (values[1:] <= core_low) & (
        gaps > np.maximum(least, core_high - values[1:])
    )
    low, high = -np.inf, np.inf
    if above.any():
        first = above.argmax()
        high = values[first] + gaps[first] / 2
    if below.any():
        last = np.flatnonzero(below)[-1]
        low = values[last] + gaps[last] / 2
    return low, high


def _winsorized_moments(column: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation after clipping the outermost values.

    Values are clipped to the interval between the 0.5 % and 99.5 % quantiles (with
    fewer than 400 rows 2 / n and 1 - 2 / n, or the extremes if these coincide),
    extended by its width on both sides: 7.7 standard deviations of a Gaussian.
    """
    for tail in (max(0.005, 2 / len(column)), 0.0):
        low, high = weighted_quantile(column, weights, (tail, 1 - tail))
        if high > low:
            break
    margin = high - low
    column = np.clip(column, low - margin, high + margin)
    share = weights / weights.sum()
    center = share @ column
    spread = np.sqrt(share @ (column - center) ** 2)
    # A smaller spread is the rounding error of a nearly constant column.
    if high > low and spread > 4 * np.finfo(float).eps * np.abs(column).max():
        return center, spread
    return low, 0.0


def beyond_gaps(column: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return which values of a column form a small group beyond a gap on either side.

    Parameters
    ----------
    column : ndarray of shape (n_samples,)
        Values.
    counts : ndarray of shape (n_samples,)
        How many rows each value stands for.

    Returns
    -------
    is_beyond : ndarray of shape (n_samples,), bool
        True for at most a twentieth of the rows on each side.
    """
    values, index = np.unique(column, return_inverse=True)
    weights = np.bincount(index, counts)
    found = np.zeros(len(values), dtype=bool)
    low, high = _core(values, weights)
    wide = np.diff(values) > GAP_WIDTHS * (high - low)
    below = np.cumsum(weights)[:-1]
    above = weights.sum() - below
    is_group = [_is_group(size, weights, MAX_BEYOND) for size in (below, above)]
    gaps = np.flatnonzero(wide & (values[1:] <= low) & is_group[0])
    if len(gaps):
        found[: gaps[-1] + 1] = True
    gaps = np.flatnonzero(wide & (values[:-1] >= high) & is_group[1])
    if len(gaps):
        found[gaps[0] + 1 :] = True
    return found[index]


def lone_heaps(column: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Assign numbers to the few values that repeat where all others are distinct.

    A heap at the end of a column that the others run up to is no lone heap, but holds
    the values beyond a limit (of detection, of a scale).

    Parameters
    ----------
    column, counts : ndarray of shape (n_samples,)
        As for `beyond_gaps`.

    Returns
    -------
    heaps : ndarray of shape (n_samples,), int
        Number of the heap, from 0; -1 for other values.
    """
    values, index = np.unique(column, return_inverse=True)
    weights = np.bincount(index, counts)
    heavy = _is_group(weights, weights, MAX_HEAP)
    others = weights[~heavy].sum()
    is_continuous = np.count_nonzero(~heavy) >= MIN_DISTINCT * others
    is_grid = np.count_nonzero(heavy) > MAX_HEAPS
    if is_grid or 2 * others < weights.sum() or not is_continuous:
        heavy[:] = False
    is_limit = [
        bool(heavy[end])
        and _is_limit(values[end], weights[end], values, weights, heavy)
        for end in (0, -1)
    ]
    heavy[[0, -1]] &= ~np.array(is_limit)
    return np.where(heavy, np.cumsum(heavy) - 1, -1)[index]


def _is_limit(
    value: float,
    size: float,
    values: np.ndarray,
    weights: np.ndarray,
    heavy: np.ndarray,
) -> bool:
    """Return whether the values outside heaps run up to a heap at the end."""
    others = values[~heavy]
    low, high = _core(others, weights[~heavy])
    away = np.sort(np.abs(others - value))
    k = max(int(size), LEAST_NEAR)
    return bool(
        len(away) > k and away[k] <= high - low and 2 * away[0] <= away[k] - away[0]
    )


def _is_group(sizes: np.ndarray, weights: np.ndarray, largest: float) -> np.ndarray:
    total = weights.sum()
    return (sizes >= max(MIN_ROWS, MIN_SHARE * total)) & (sizes <= largest * total)
