"""Which values of a column are far from the rest: a quarter of them may be."""

import numpy as np

__all__ = [
    "MIN_ROWS",
    "MIN_SHARE",
    "beyond_gaps",
    "lone_heaps",
    "usual_interval",
    "weighted_quantile",
]

# Up to a quarter of the weight can be far values.
CORE_SHARE = 0.75

# A value that holds as much of the weight is a heap.
HEAP_SHARE = 0.2

# The core with so many of its widths on either side holds the bulk of a column: of a
# Gaussian ten standard deviations.
BULK_WIDTHS = 4.0

# Values beyond the bulk are far if they make a column's standard deviation more than
# so many times as large, and in any case beyond so many standard deviations.
LARGEST_INFLATION = 3.0
FARTHEST = 30.0

# Fewer rows, or a smaller share of them, make no group.
MIN_ROWS, MIN_SHARE = 5, 0.005

# A group is beyond a gap that is wider than the core by this factor, if it is no larger
# than this share.
GAP_WIDTHS, MAX_BEYOND = 1.5, 0.05

# Heaps have no more than this share of the rows each; half of the rows have other
# values, so many of which are distinct.
MAX_HEAP, MIN_DISTINCT = 0.25, 0.95


def weighted_quantile(x, weights, levels):
    """Smallest value below which at least a share `levels` of the weight lies.

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


def _shortest_interval(values, weights, share):
    """Find the shortest interval that holds that share of the weight."""
    total = np.concatenate(([0.0], np.cumsum(weights)))
    needed = share * total[-1] * (1 - 1e-12)
    last = np.searchsorted(total[1:], total[:-1] + needed)
    first = np.flatnonzero(last < len(values))
    widths = values[last[first]] - values[first]
    best = first[widths.argmin()]
    return values[best], values[last[best]]


def _core(values, weights):
    """Find the interval that holds the core, of distinct values in their order.

    A heap at one value would make it too short: there it is the heap and the core of
    the other values.
    """
    low, high = _shortest_interval(values, weights, CORE_SHARE)
    heaviest = np.argmax(np.where((values >= low) & (values <= high), weights, 0.0))
    if weights[heaviest] < HEAP_SHARE * weights.sum() or len(values) == 1:
        return low, high
    heap, others = values[heaviest], np.arange(len(values)) != heaviest
    low, high = _shortest_interval(values[others], weights[others], CORE_SHARE)
    return min(low, heap), max(high, heap)


def usual_interval(column, weights):
    r"""Interval outside which the values of a column are far.

    With the core [a, b], the shortest interval that holds three quarters of the weight
    (of a column with a heap, the heap and three quarters of the others), the bulk is
    :math:`[a - 4 (b - a), b + 4 (b - a)]`. Values beyond are far if the
    standard deviation of all, those beyond the 0.5 % and 99.5 % quantiles pulled in, is
    more than three times that of the bulk; otherwise they are tails, and far from 30
    standard deviations on.

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
        Mean and standard deviation of the values within, tails pulled in. The spread
        of a constant column is zero.
    """
    center, spread = _winsorized_moments(column, weights)
    if spread > 0:
        values, index = np.unique(column, return_inverse=True)
        low, high = _core(values, np.bincount(index, weights))
        margin = BULK_WIDTHS * (high - low)
        low, high = low - margin, high + margin
        bulk = (column >= low) & (column <= high)
        inner = _moments(column[bulk], weights[bulk])
        if spread > LARGEST_INFLATION * inner[1]:
            return low, high, *inner
    return center - FARTHEST * spread, center + FARTHEST * spread, center, spread


def _moments(column, weights):
    center = np.average(column, weights=weights)
    return center, np.sqrt(np.average((column - center) ** 2, weights=weights))


def _winsorized_moments(column, weights):
    """Mean and standard deviation after pulling the outermost values in.

    Values further from the 0.5 % and 99.5 % quantiles (of few rows, the second smallest
    and largest value) than the distance between these count as if they lay there: 7.7
    standard deviations of a Gaussian.
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
    # Below this the spread of a nearly constant column is rounding.
    if high > low and spread > 4 * np.finfo(float).eps * np.abs(column).max():
        return center, spread
    return low, 0.0


def beyond_gaps(column, counts):
    """Tell which values of a column form a small group beyond a gap, on either side.

    Parameters
    ----------
    column : ndarray of shape (n_samples,)
        Values.
    counts : ndarray of shape (n_samples,)
        How many rows each of them stands for.

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


def lone_heaps(column, counts):
    """Give numbers to values that repeat where nearly all others are distinct.

    Parameters
    ----------
    column : ndarray of shape (n_samples,)
        Values.
    counts : ndarray of shape (n_samples,)
        How many rows each of them stands for.

    Returns
    -------
    heaps : ndarray of shape (n_samples,), int
        From 0; -1 for other values.
    """
    index = np.unique(column, return_inverse=True)[1]
    weights = np.bincount(index, counts)
    heavy = _is_group(weights, weights, MAX_HEAP)
    others = weights[~heavy].sum()
    is_continuous = np.count_nonzero(~heavy) >= MIN_DISTINCT * others
    if 2 * others < weights.sum() or not is_continuous:
        heavy[:] = False
    return np.where(heavy, np.cumsum(heavy) - 1, -1)[index]


def _is_group(sizes, weights, largest):
    total = weights.sum()
    return (sizes >= max(MIN_ROWS, MIN_SHARE * total)) & (sizes <= largest * total)
