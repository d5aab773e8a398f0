"""Preparation of rows for the model: merging, weights, standardisation, splits."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from skflowmix.starts.robust import usual_interval, weighted_quantile

__all__ = [
    "Standardizer",
    "column_space",
    "count_directions",
    "different_rows",
    "merge_identical_rows",
    "outside_spikes",
    "repeat_widths",
    "row_counts",
    "rows_of_shared_values",
    "split_rows",
    "stand_for_several",
]

# Fewer held-out rows are too few to compare models by.
MIN_HELD_OUT = 8

# Weights count rows if each is at most MAX_COUNT times a common unit, up to a relative
# error of COUNT_TOLERANCE; otherwise they are real numbers without a common unit.
MAX_COUNT = 2**23
COUNT_TOLERANCE = 1e-9

# Least width of a repeated value, in standard deviations: denser values of float32
# collide by chance.
MIN_WIDTH = 1e-3

# Rows do not differ in a direction with at most this variance, for columns of unit
# variance; rounding to float32 adds less.
FLAT_DIRECTION = 1e-8

# A column depends linearly on others if its diagonal entry in the projector onto the
# column space differs from both 0 and 1 by more than this.
DEPENDENT = 1e-6

# A value is in a spike if at least SPIKE_SHARE of the weight lies within +-SPIKE_WIDTH
# standard deviations of it; for a Gaussian the share is at most 0.04.
SPIKE_SHARE, SPIKE_WIDTH = 0.15, 0.05

# Bound on a column's values, in units of 2 to 4 times the 75 % quantile of their
# magnitudes.
LARGEST_VALUE = 1e100

# Rows are clipped to this many standard deviations in training, so that the squares of
# the flows' outputs do not overflow float32.
TRAINING_BOUND = 1e8

# Rows are clipped to this many standard deviations for scoring, so that scores stay
# finite for any finite row.
SCORING_BOUND = {np.dtype(np.float32): 1e13, np.dtype(np.float64): 1e120}


def merge_identical_rows(
    X: np.ndarray, sample_weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge identical rows into one row with the sum of their weights.

    The result depends neither on the order of the rows nor on whether a row is
    repeated or weighted.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Finite data.
    sample_weight : ndarray of shape (n_samples,)
        Positive weights.

    Returns
    -------
    rows : ndarray of shape (n_distinct, n_features)
        The distinct rows as float64, in a fixed pseudo-random order.
    weights : ndarray of shape (n_distinct,)
        Their weights, rounded to 40 bits and scaled to mean one.
    inverse : ndarray of shape (n_samples,)
        Index into `rows` of every row of X.
    """
    rows = np.array(X, dtype=np.float64, order="C")
    rows += 0.0  # -0.0 equals 0.0, but its bits differ
    bits = rows.view(np.uint64)
    random_state = np.random.RandomState(0)
    factors = random_state.randint(2**62, size=(rows.shape[1],)).astype(np.uint64)
    hashes = np.zeros(len(rows), dtype=np.uint64)
    for column, factor in zip(bits.T, factors, strict=True):
        mixed = (column ^ (column >> np.uint64(29))) * (factor | np.uint64(1))
        hashes = (hashes ^ (hashes >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
        hashes += mixed ^ (mixed >> np.uint64(32))
    # Rows are sorted by hash: mix it until the order is random for integers, too.
    for shift in (33, 29):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(0xFF51AFD7ED558CCD)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    if not np.array_equal(rows[first[inverse]], rows):  # two rows share a hash
        _, first, inverse = np.unique(
            rows, axis=0, return_index=True, return_inverse=True
        )
    totals = np.bincount(inverse.ravel(), weights=sample_weight)
    # After rounding, a common factor of the weights leaves no trace and breaks no ties.
    mantissas, exponents = np.frexp(totals / totals.max())
    weights = np.ldexp(np.rint(np.ldexp(mantissas, 40)), exponents - 40)
    return rows[first], weights / weights.mean(), inverse.ravel()


def different_rows(
    X: np.ndarray, kept: np.ndarray, inverse: np.ndarray
) -> tuple[np.ndarray, np.ndarray | slice]:
    """Return the different rows of X, to evaluate each once, and where they belong.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    kept : ndarray of shape (n_samples,), bool
        Mask of the rows given to `merge_identical_rows`; all others count as different.
    inverse : ndarray of shape (n_kept,), int
        Number of the distinct row of each kept row, from `merge_identical_rows`.

    Returns
    -------
    rows : ndarray of shape (n_different, n_features)
        X itself if all of its rows were kept and differ.
    places : ndarray of shape (n_samples,), int, or slice
        ``rows[places]`` is X.
    """
    n_distinct = inverse.max() + 1
    if n_distinct == len(X):
        return X, slice(None)
    places = np.empty(len(X), dtype=np.intp)
    places[kept] = inverse
    places[~kept] = n_distinct + np.arange(np.count_nonzero(~kept))
    return X[np.unique(places, return_index=True)[1]], places


def row_counts(weights: np.ndarray) -> np.ndarray:
    """Return how many rows each distinct row stands for.

    The unit is the greatest common divisor of the weights, so that neither a common
    factor of the weights nor a second copy of the table changes the counts. Weights
    that are real numbers have no common divisor: then every row counts once.

    Parameters
    ----------
    weights : ndarray of shape (n_distinct,)
        Positive weights from `merge_identical_rows`.

    Returns
    -------
    counts : ndarray of shape (n_distinct,)
        Whole numbers, at least one, as floats.
    """
    distinct = np.unique(weights)
    unit = distinct[0]
    while distinct[-1] <= MAX_COUNT * unit:
        multiples = distinct / unit
        errors = np.abs(multiples - np.rint(multiples)) / multiples
        worst = errors.argmax()
        if errors[worst] <= COUNT_TOLERANCE:
            return np.rint(weights / unit)
        unit /= _denominator(multiples[worst])
    return np.ones(len(weights))


def _denominator(ratio: float) -> int:
    """Return the denominator of the first convergent within `COUNT_TOLERANCE`."""
    before, denominator, rest = 0, 1, ratio
    while (
        abs(ratio * denominator - round(ratio * denominator))
        > COUNT_TOLERANCE * ratio * denominator
    ):
        rest = 1 / (rest - math.floor(rest))
        before, denominator = denominator, math.floor(rest) * denominator + before
    return denominator


def stand_for_several(weights: np.ndarray) -> np.ndarray:
    """Return which merged rows have at least twice the least weight."""
    return weights >= 2 * weights.min() * (1 - 1e-9)


def rows_of_shared_values(x: np.ndarray) -> np.ndarray:
    """Return which rows share the value of every column with another distinct row.

    Rounded rows do, copies of rows of real numbers do not. No row does if only one
    column varies.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    shared : ndarray of shape (n_samples,), bool
    """
    shared = np.ones(len(x), dtype=bool)
    for column in x.T:
        _, index, counts = np.unique(column, return_inverse=True, return_counts=True)
        shared &= counts[index] > 1
    return shared


def repeat_widths(
    x: np.ndarray, weights: np.ndarray, largest: float
) -> np.ndarray | None:
    """Return how wide dequantization noise on the repeated values of a column may be.

    Without noise the density at a repeated value would be a spike. Such a value is
    taken as rounded. Its width is half the distance within which the other values on
    one side hold half of its own weight: the smaller of both sides, at most `largest`.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Standardised rows.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    largest : float
        The largest width, in standard deviations.

    Returns
    -------
    widths : ndarray of shape (n_samples, n_features) or None
        Standard deviations; zero for values that do not repeat, for widths up to
        `MIN_WIDTH`, and in constant columns. None if all are zero.
    """
    widths = np.zeros(x.shape)
    repeated = stand_for_several(weights).astype(float)
    for j, column in enumerate(x.T):
        values, index, counts = np.unique(
            column, return_inverse=True, return_counts=True
        )
        repeats = (counts > 1) | (np.bincount(index, repeated) > 0)
        if len(values) == 1 or not repeats.any():
            continue
        below = np.concatenate(([0.0], np.cumsum(np.bincount(index, weights))))
        # Sums of weights are rounded: exactly half must count as half.
        half = np.diff(below) / 2 - 1e-9 * below[-1]
        last = len(values) - 1
        # The first value on either side up to which, itself included, half the weight
        # lies; never the value itself, even if the others' weights vanish in rounding.
        own = np.arange(last + 1)
        up = np.maximum(np.searchsorted(below, below[1:] + half) - 1, own + 1)
        down = np.searchsorted(below, below[:-1] - half, side="right") - 1
        down = np.minimum(down, own - 1)
        above = np.where(up <= last, values[np.minimum(up, last)] - values, np.inf)
        under = np.where(down >= 0, values - values[np.maximum(down, 0)], np.inf)
        width = np.minimum(np.minimum(above, under) / 2, largest)
        widths[:, j] = np.where(repeats & (width > MIN_WIDTH), width, 0.0)[index]
    return widths if widths.any() else None


def outside_spikes(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return which values noise may move without smearing a spike of their column.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Standardised rows.
    weights : ndarray of shape (n_samples,)
        Positive weights.

    Returns
    -------
    movable : ndarray of shape (n_samples, n_features), bool
        False for values in spikes. If only some of a row's linearly dependent values
        moved, the row would leave the column space: if one may not move, none may.
    """
    movable = np.empty(x.shape, dtype=bool)
    for j, column in enumerate(x.T):
        order = np.argsort(column)
        below = np.concatenate(([0.0], np.cumsum(weights[order])))
        low = np.searchsorted(column[order], column - SPIKE_WIDTH, side="left")
        high = np.searchsorted(column[order], column + SPIKE_WIDTH, side="right")
        movable[:, j] = below[high] - below[low] < SPIKE_SHARE * below[-1]
    projector, _ = _projector_of(x, weights)
    share = projector.diagonal()
    dependent = (share > DEPENDENT) & (share < 1 - DEPENDENT)
    movable[:, dependent] &= movable[:, dependent].all(axis=1, keepdims=True)
    return movable


def column_space(
    x: np.ndarray, weights: np.ndarray, widths: np.ndarray
) -> np.ndarray | None:
    """Return a matrix that keeps noise within the column space of rank-deficient rows.

    Noise that left this subspace would thicken it. Constant columns, copies, sums of
    others and a full set of indicators each reduce the rank. Noise on a column then
    also moves the columns that depend on it.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Rows.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    widths : ndarray of shape (n_samples, n_features)
        Standard deviations of the noise.

    Returns
    -------
    plane : ndarray of shape (n_features, n_features) or None
        ``noise @ plane`` lies in the column space and has the same total variance, in
        units of the columns' variances. None if the rank is full or zero, or if there
        are no more rows than columns.
    """
    n_rows, n_columns = x.shape
    projector, deviations = _projector_of(x, weights)
    rank = round(projector.trace())
    if n_rows <= n_columns or rank in (0, n_columns):
        return None
    asked = np.mean((widths / deviations) ** 2, axis=0)
    kept = asked @ projector.diagonal()
    projector *= np.sqrt(asked.sum() / kept) if kept > 0 else 1.0
    return projector / deviations[:, None] * deviations


def count_directions(x: np.ndarray, weights: np.ndarray) -> int:
    """Return the rank of the centred rows.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Rows.
    weights : ndarray of shape (n_samples,)
        Positive weights.

    Returns
    -------
    n_directions : int
        Constant columns, copies and sums of others add nothing. With no more rows than
        columns, the number of columns that are not constant.
    """
    if len(x) <= x.shape[1]:
        return int(np.count_nonzero(np.ptp(x, axis=0)))
    return round(_projector_of(x, weights)[0].trace())


def _projector_of(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the projector onto the directions in which standardised rows differ.

    Also return the standard deviations of the columns, one for constant columns.
    """
    mean = np.average(x, axis=0, weights=weights)
    deviations = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
    deviations[deviations < 1e-9] = 1.0
    scaled = (x - mean) / deviations
    covariance = (scaled * weights[:, None]).T @ scaled / weights.sum()
    spread, axes = np.linalg.eigh(covariance)
    differ = axes[:, spread > FLAT_DIRECTION]
    return differ @ differ.T, deviations


@dataclass(frozen=True)
class Standardizer:
    """Robust location and scale of the columns, always applied in float64.

    Parameters
    ----------
    location, scale : ndarray of shape (n_features,)
        In data units.
    limits : ndarray of shape (2, n_features)
        Standardised values outside these are outlying ("far"), see `usual_interval`.
    """

    location: np.ndarray
    scale: np.ndarray
    limits: np.ndarray

    @classmethod
    def fit(cls, X: np.ndarray, weights: np.ndarray) -> Self:
        """Fit the mean and standard deviation of the values that are not outlying.

        The outermost of these are clipped, see `usual_interval`. A constant column
        has scale one.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Finite float64 data.
        weights : ndarray of shape (n_samples,)
            Positive weights.

        Returns
        -------
        standardizer : Standardizer
            The fitted location, scale and limits.
        """
        location = np.zeros(X.shape[1])
        scale = np.ones(X.shape[1])
        limits = np.full((2, X.shape[1]), [[-np.inf], [np.inf]])
        for j, column in enumerate(X.T):
            # A power of two: no rounding, and no overflow near the float limits.
            (size,) = weighted_quantile(np.abs(column), weights, [0.75])
            unit = 2.0 ** np.clip(np.frexp(size)[1] + 1, -1021, 1022)
            with np.errstate(over="ignore"):
                column = np.clip(column / unit, -LARGEST_VALUE, LARGEST_VALUE)
            low, high, center, spread = usual_interval(column, weights)
            location[j] = center * unit
            if spread > 0:
                scale[j] = max(spread * unit, np.finfo(float).tiny)
                limits[:, j] = (low - center) / spread, (high - center) / spread
        return cls(location, scale, limits)

    def far(self, x: np.ndarray) -> np.ndarray:
        """Return the mask (n, n_features) of outlying values of standardised rows."""
        return (x < self.limits[0]) | (x > self.limits[1])

    @property
    def log_scale(self) -> float:
        """Sum of the log-scales: the log-Jacobian to subtract from log-densities."""
        return float(np.log(self.scale).sum())

    def transform(self, X: np.ndarray, bound: float) -> np.ndarray:
        """Standardise rows and clip them to +-bound.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Data of any float dtype.
        bound : float
            Largest magnitude of a standardised value.

        Returns
        -------
        x : ndarray of shape (n_samples, n_features), float64
            Standardised rows. NaN becomes zero: callers that allow NaN replace the
            result for its row.
        """
        # The difference of two halved finite numbers cannot overflow.
        halved = np.multiply(X, 0.5, dtype=np.float64)
        halved -= 0.5 * self.location
        with np.errstate(over="ignore"):
            halved /= self.scale
            halved *= 2.0
        halved[np.isnan(halved)] = 0.0
        return np.clip(halved, -bound, bound, out=halved)

    def inverse_transform(self, x: np.ndarray) -> np.ndarray:
        """Return rows in data units, the inverse of `transform` within its bound.

        Values that overflow become the largest float.
        """
        with np.errstate(over="ignore"):
            rows = x * self.scale + self.location
            if not np.isfinite(rows).all():
                largest = np.finfo(float).max / 2
                halved = x * 0.5 * self.scale + 0.5 * self.location
                rows = np.clip(halved, -largest, largest) * 2
        return rows


def split_rows(
    n_rows: int, validation_fraction: float, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draw random indices for training and validation.

    No row is held out if fewer than `MIN_HELD_OUT` would be.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    validation_fraction : float
        Share held out.
    random_state : RandomState
        Source of the permutation.

    Returns
    -------
    train, validation : ndarray of int
        Disjoint indices; `validation` may be empty.
    """
    n_validation = int(validation_fraction * n_rows)
    order = random_state.permutation(n_rows)
    if n_validation < MIN_HELD_OUT:
        return order, order[:0]
    return order[n_validation:], order[:n_validation]
