"""First partitions of tables with skewed columns: also of their roots or logarithms."""

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
)
from skflowmix.starts.robust import weighted_quantile
from skflowmix.starts.scores import choose_shrinkage, held_out_likelihood

__all__ = ["propose_for_skewed", "reshaped", "skewed_columns"]

# In fewer rows quantiles and likelihoods say too little.
MIN_ROWS = 100
# A column is skewed if its median is this many times as far from one of its outer
# deciles as from the other.
SKEWED = 1.5
# Columns in which a value has more than this share of the weight, and of more than
# MIN_REPEATS rows, stay as they are: their density has no Jacobian.
LARGEST_SHARE = 0.02
MIN_REPEATS = 3
# Least value that roots and logarithms are taken of: this quantile, or this share of
# the median, both above the smallest value.
LEAST_LEVEL = 0.01
# Nats per row and skewed column by which Gaussians must be likelier.
CLEARLY_LIKELIER = 0.1
# Two partitions leave out a third if they agree by this much more (adjusted Rand index)
# than either does with the third.
CLEAR_AGREEMENT = 0.1
MAX_ROWS = 1500

Function = Callable[[np.ndarray], np.ndarray]


class _Shape(NamedTuple):
    """A function of positive values, and the logarithm of its derivative."""

    function: Function
    log_slope: Function


SHAPES = {
    "as they are": _Shape(np.asarray, np.zeros_like),
    "cube roots": _Shape(np.cbrt, lambda t: -np.log(3.0) - 2 / 3 * np.log(t)),
    "logarithms": _Shape(np.log, lambda t: -np.log(t)),
}
UNCHANGED, *CHANGED = SHAPES


def propose_for_skewed(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
    n_init: int = 1,
    column_scales: np.ndarray | None = None,
) -> list[Proposal]:
    """Partition the rows as "auto" does, with skewed columns in their likeliest shape.

    Skewed columns are taken as they are, as cube roots (a gamma distribution becomes
    nearly normal) and as logarithms, each measured from about their smallest value. If
    a mixture of Gaussians is clearly likelier in one of the changed shapes, its
    partition is proposed. If the partitions of the other two shapes are much more alike
    than either is to that one, the partition of the likelier of these is.

    Parameters
    ----------
    x, sample_weight, n_components, random_state, n_init, column_scales
        As for `propose_partitions`.

    Returns
    -------
    list of Proposal
        As from `propose_partitions`.
    """

    def propose(rows: np.ndarray, scales: np.ndarray | None) -> list[Proposal]:
        return propose_partitions(
            rows, sample_weight, n_components, "auto", random_state, n_init, scales
        )

    proposals = {UNCHANGED: propose(x, column_scales)}
    columns = skewed_columns(x, sample_weight)
    if not columns.any() or n_components == 1:
        return proposals[UNCHANGED]
    likelihoods = _likelihoods(x[:, columns], sample_weight, n_components)
    best = max(likelihoods, key=lambda shape: likelihoods[shape])
    gain = likelihoods[best] - likelihoods[UNCHANGED]
    if gain <= CLEARLY_LIKELIER * np.count_nonzero(columns):
        return proposals[UNCHANGED]
    for shape in CHANGED:
        rows = x.copy()
        rows[:, columns] = reshaped(x[:, columns], sample_weight, shape)[0]
        proposals[shape] = propose(rows, None)
    labels = {
        shape: found[0].responsibilities.argmax(axis=1)
        for shape, found in proposals.items()
    }
    others = [shape for shape in SHAPES if shape != best]
    agreement = max(adjusted_rand_score(labels[best], labels[o]) for o in others)
    one, other = (labels[o] for o in others)
    if adjusted_rand_score(one, other) > agreement + CLEAR_AGREEMENT:
        best = max(others, key=lambda shape: likelihoods[shape])
    return proposals[best]


def skewed_columns(x: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
    """Return the mask of skewed columns whose values hardly repeat.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Standardised rows.
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
    most = max(LARGEST_SHARE * sample_weight.sum(), MIN_REPEATS)
    for j, column in enumerate(x.T):
        low, middle, high = weighted_quantile(column, sample_weight, [0.1, 0.5, 0.9])
        below, above = middle - low, high - middle
        if max(below, above) > SKEWED * min(below, above):
            value = np.unique(column, return_inverse=True)[1]
            is_skewed[j] = np.bincount(value, sample_weight).max() <= most
    return is_skewed


def reshaped(
    x: np.ndarray, sample_weight: np.ndarray, shape: str
) -> tuple[np.ndarray, float]:
    """Change the shape of skewed columns.

    A column is first reflected, if its longer tail is below the median, and shifted so
    that the smallest value is a hundredth of the weight, or of the median, above zero.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Skewed columns.
    sample_weight : ndarray of shape (n,)
        Positive, mean one.
    shape : str
        One of `SHAPES`.

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
        low, middle, high = weighted_quantile(column, sample_weight, [0.1, 0.5, 0.9])
        t = column - column.min() if high + low > 2 * middle else column.max() - column
        least = weighted_quantile(t, sample_weight, [LEAST_LEVEL, 0.5])
        t = t + max(least[0], LEAST_LEVEL * least[1])
        y = SHAPES[shape].function(t)
        mean = np.average(y, weights=sample_weight)
        spread = np.sqrt(np.average((y - mean) ** 2, weights=sample_weight))
        rows[:, j] = (y - mean) / spread
        log_slope = np.average(SHAPES[shape].log_slope(t), weights=sample_weight)
        log_jacobian += log_slope - np.log(spread)
    return rows, log_jacobian


def _likelihoods(
    x: np.ndarray, sample_weight: np.ndarray, n_components: int
) -> dict[str, float]:
    """Return the held-out log-likelihood of Gaussians for each shape of the columns.

    In nats per row, of densities with respect to x.
    """
    # Rows are in a random order.
    x, weight = x[:MAX_ROWS], sample_weight[:MAX_ROWS]
    random_state = np.random.RandomState(0)
    likelihoods = {}
    for shape in SHAPES:
        rows, log_jacobian = reshaped(x, weight, shape)
        model = KMeans(n_components, n_init=3, random_state=random_state)
        start = one_hot(model.fit_predict(rows, sample_weight=weight), n_components)
        landmarks = Landmarks(rows, weight, random_state)
        shrinkage, _ = choose_shrinkage(landmarks, start)
        soft = expectation_maximisation(rows, weight, start, shrinkage)
        likelihood = held_out_likelihood(landmarks, soft, shrinkage)
        likelihoods[shape] = likelihood + log_jacobian
    return likelihoods
