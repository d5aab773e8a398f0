"""First partitions of tables with skewed columns: also of their roots or logarithms."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from skflowmix.starts.knn import Landmarks, one_hot
from skflowmix.starts.partitions import (
    Proposal,
    expectation_maximisation,
    propose_partitions,
    spread_repeats,
)
from skflowmix.starts.preprocessing import row_counts
from skflowmix.starts.robust import weighted_quantile
from skflowmix.starts.scores import choose_shrinkage, held_out_log_densities

__all__ = [
    "preferred",
    "propose_for_skewed",
    "skewed_columns",
    "transformed",
    "with_likeliest_transform",
]

# In fewer rows, or rows per Gaussian, quantiles and likelihoods say too little.
MIN_ROWS = 100
ROWS_PER_GAUSSIAN = 10
# Most rows by which columns are called skewed, to which Gaussians are fitted, and whose
# partitions are compared.
ROWS_FOR_QUANTILES = 20_000
ROWS_FOR_LIKELIHOOD = 1500
ROWS_FOR_COMPARISON = 3000
# A column is skewed if its median is this many times as far from one of its outer
# deciles as from the other.
SKEWED = 1.5
# Columns stay as they are if one value has more than LARGEST_SHARE of the rows, or the
# last value of the shorter tail more than SHARE_AT_END and ROWS_AT_END rows: a heap
# there, as of zeros among amounts, would be likelier by the Jacobian alone.
LARGEST_SHARE = 0.1
SHARE_AT_END = 0.02
ROWS_AT_END = 3
# Roots and logarithms are taken of the distance from the end of the shorter tail, plus
# its quantile of this level, or this share of its median.
LEAST_LEVEL = 0.01
# Nats per row and skewed column by which transformed Gaussians must be likelier.
GAIN_PER_COLUMN = 0.1
# Two partitions leave out a third if they agree by this much more (adjusted Rand index)
# than either does with the third.
CLEAR_AGREEMENT = 0.1

Function = Callable[[np.ndarray], np.ndarray]


class _Transform(NamedTuple):
    """A function of positive values, and the logarithm of its derivative."""

    function: Function
    log_slope: Function


TRANSFORMS = {
    "identity": _Transform(np.asarray, np.zeros_like),
    "cube root": _Transform(np.cbrt, lambda t: -np.log(3.0) - 2 / 3 * np.log(t)),
    "logarithm": _Transform(np.log, lambda t: -np.log(t)),
}


def propose_for_skewed(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
    n_init: int = 1,
    column_scales: np.ndarray | None = None,
) -> tuple[list[Proposal], np.ndarray | None]:
    """Partition the rows as "auto" does, with skewed columns transformed if that helps.

    Skewed columns are taken as they are, as cube roots (gamma distributions become
    nearly normal) and as logarithms. If a mixture of Gaussians is clearly likelier
    after a transform, densities being those of `x`, the partitions of the rows so
    transformed are proposed; see `preferred` for an exception.

    Parameters
    ----------
    x, sample_weight, n_components, random_state, n_init, column_scales
        As for `propose_partitions`. Once columns are transformed they share no unit:
        `column_scales` are then ignored.

    Returns
    -------
    proposals : list of Proposal
        As from `propose_partitions`.
    rows : ndarray of shape (n, D) or None
        The rows that they are partitions of; None if no column was transformed.
    """

    def propose(rows: np.ndarray, scales: np.ndarray | None) -> list[Proposal]:
        weight = sample_weight[: len(rows)]
        return propose_partitions(
            rows, weight, n_components, "auto", random_state, n_init, scales
        )

    columns = skewed_columns(x, sample_weight)
    best, likelihoods = _likeliest(x[:, columns], sample_weight, n_components)
    if best == "identity":
        return propose(x, column_scales), None
    proposals = {}
    for name in TRANSFORMS:
        rows = _with_columns(x, columns, sample_weight, name)[:ROWS_FOR_COMPARISON]
        scales = column_scales if name == "identity" else None
        proposals[name] = propose(rows, scales)
    labels = {
        name: found[0].responsibilities.argmax(axis=1)
        for name, found in proposals.items()
    }
    best = preferred(best, labels, likelihoods)
    rows = _with_columns(x, columns, sample_weight, best)
    found = proposals[best]
    if len(x) > ROWS_FOR_COMPARISON:
        found = propose(rows, column_scales if best == "identity" else None)
    return found, None if best == "identity" else rows


def preferred(
    best: str, labels: dict[str, np.ndarray], likelihoods: dict[str, float]
) -> str:
    """Return the likeliest transform, unless its partition is the odd one out.

    If the partitions by the two others agree much more with each other than with it,
    the likelier of these is returned.

    Parameters
    ----------
    best : str
        The likeliest transform.
    labels : dict of str to ndarray of shape (n,)
        Partitions by transform.
    likelihoods : dict of str to float
        Log-likelihoods by transform.

    Returns
    -------
    name : str
        A transform.
    """
    one, other = (name for name in labels if name != best)
    agreement = adjusted_rand_score(labels[one], labels[other])
    with_best = max(
        adjusted_rand_score(labels[best], labels[name]) for name in (one, other)
    )
    if agreement > with_best + CLEAR_AGREEMENT:
        return max(one, other, key=lambda name: likelihoods[name])
    return best


def with_likeliest_transform(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_gaussians: int,
    column_scales: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Transform skewed columns if that is clearly likelier.

    Parameters
    ----------
    x, sample_weight, column_scales
        As for `propose_partitions`.
    n_gaussians : int
        Number of Gaussians by whose likelihood transforms are compared.

    Returns
    -------
    rows : ndarray of shape (n, D)
        `x` itself if no transform is clearly likelier.
    column_scales : ndarray of shape (D,) or None
        None for transformed rows.
    """
    columns = skewed_columns(x, sample_weight)
    name, _ = _likeliest(x[:, columns], sample_weight, n_gaussians)
    if name == "identity":
        return x, column_scales
    return _with_columns(x, columns, sample_weight, name), None


def skewed_columns(x: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
    """Return the mask of skewed columns without heaps of one value.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Standardised rows, in a random order.
    sample_weight : ndarray of shape (n,)
        Positive, mean one.

    Returns
    -------
    is_skewed : ndarray of shape (D,), bool
        False for all columns of fewer than 100 rows.
    """
    is_skewed = np.zeros(x.shape[1], dtype=bool)
    if len(x) < MIN_ROWS:
        return is_skewed
    counts = row_counts(sample_weight)[:ROWS_FOR_QUANTILES]
    x, sample_weight = x[:ROWS_FOR_QUANTILES], sample_weight[:ROWS_FOR_QUANTILES]
    total = counts.sum()
    for j, column in enumerate(x.T):
        below, above = _spans(column, sample_weight)
        if max(below, above) > SKEWED * min(below, above):
            value = np.unique(column, return_inverse=True)[1]
            heaps = np.bincount(value, counts)
            at_end = heaps[0 if above > below else -1]
            is_skewed[j] = (
                at_end <= max(SHARE_AT_END * total, ROWS_AT_END)
                and heaps.max() <= LARGEST_SHARE * total
            )
    return is_skewed


def _spans(column: np.ndarray, sample_weight: np.ndarray) -> tuple[float, float]:
    """Return the distances of the median from the first and the last decile."""
    low, middle, high = weighted_quantile(column, sample_weight, [0.1, 0.5, 0.9])
    return middle - low, high - middle


def transformed(
    x: np.ndarray, sample_weight: np.ndarray, name: str
) -> tuple[np.ndarray, float]:
    """Transform skewed columns.

    Functions are taken of the distance from the end of the shorter tail, plus a
    constant that keeps it positive (the larger of its first percentile and a hundredth
    of its median): unit, origin and direction of a column do not matter.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Skewed columns.
    sample_weight : ndarray of shape (n,)
        Positive, mean one.
    name : str
        One of `TRANSFORMS`.

    Returns
    -------
    rows : ndarray of shape (n, D)
        The values of its function, with mean zero and standard deviation one.
    log_jacobian : float
        Mean over the rows of the sum over the columns of the log-derivatives, in nats.
    """
    rows = np.empty_like(x)
    log_jacobian = 0.0
    for j, column in enumerate(x.T):
        below, above = _spans(column, sample_weight)
        t = column - column.min() if above > below else column.max() - column
        first, middle = weighted_quantile(t, sample_weight, [LEAST_LEVEL, 0.5])
        t = t + max(first, LEAST_LEVEL * middle)
        y = TRANSFORMS[name].function(t)
        mean = np.average(y, weights=sample_weight)
        spread = np.sqrt(np.average((y - mean) ** 2, weights=sample_weight))
        rows[:, j] = (y - mean) / spread
        log_slope = np.average(TRANSFORMS[name].log_slope(t), weights=sample_weight)
        log_jacobian += log_slope - np.log(spread)
    return rows, log_jacobian


def _with_columns(
    x: np.ndarray, columns: np.ndarray, sample_weight: np.ndarray, name: str
) -> np.ndarray:
    """Return the rows with some columns transformed; x itself by the identity."""
    if name == "identity":
        return x
    rows = x.copy()
    rows[:, columns] = transformed(x[:, columns], sample_weight, name)[0]
    return rows


def _likeliest(
    x: np.ndarray, sample_weight: np.ndarray, n_gaussians: int
) -> tuple[str, dict[str, float]]:
    """Return the transform of skewed columns that is clearly likeliest, or "identity".

    And the held-out log-likelihood of Gaussians by transform, in nats per row, of
    densities with respect to x up to a constant; empty if there are no columns, or too
    few rows. Values that repeat are spread by noise, as they have no density.
    """
    x, weight = x[:ROWS_FOR_LIKELIHOOD], sample_weight[:ROWS_FOR_LIKELIHOOD]
    n, n_columns = x.shape
    if not n_columns or not 1 < n_gaussians <= n // ROWS_PER_GAUSSIAN:
        return "identity", {}
    random_state = np.random.RandomState(0)
    x, weight, _ = spread_repeats(x, weight, random_state)
    likelihoods = {}
    for name in TRANSFORMS:
        rows, log_jacobian = transformed(x, weight, name)
        model = KMeans(n_gaussians, n_init=3, random_state=random_state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fewer distinct rows than clusters
            labels = model.fit_predict(rows, sample_weight=weight)
        landmarks = Landmarks(rows, weight, random_state)
        start = one_hot(labels, n_gaussians)
        shrinkage, _ = choose_shrinkage(landmarks, start[landmarks.index])
        soft = expectation_maximisation(
            landmarks.x, landmarks.weight, start[landmarks.index], shrinkage
        )
        own = held_out_log_densities(landmarks, soft, shrinkage)
        likelihoods[name] = np.average(own, weights=landmarks.weight) + log_jacobian
    best = max(likelihoods, key=lambda name: likelihoods[name])
    gain = likelihoods[best] - likelihoods["identity"]
    return best if gain > GAIN_PER_COLUMN * n_columns else "identity", likelihoods
