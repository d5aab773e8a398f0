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

__all__ = ["in_likeliest_shape", "propose_for_skewed", "reshaped", "skewed_columns"]

# In fewer rows, or rows per component, quantiles and likelihoods say too little.
MIN_ROWS = 100
ROWS_PER_COMPONENT = 10
# Most rows by which columns are called skewed, and that Gaussians are fitted to.
MAX_SEEN = 20_000
MAX_ROWS = 1500
# A column is skewed if its median is this many times as far from one of its outer
# deciles as from the other.
SKEWED = 1.5
# Columns stay as they are if one value has more than LARGEST_SHARE of the weight, or
# the last value of the shorter tail more than SHARE_AT_END and ROWS_AT_END rows: a heap
# there, as of zeros among amounts, would be likelier by the Jacobian alone.
LARGEST_SHARE = 0.1
SHARE_AT_END = 0.02
ROWS_AT_END = 3
# Roots and logarithms are taken of the distance from the end of the shorter tail, plus
# its quantile of this level, or this share of its median.
LEAST_LEVEL = 0.01
# Nats per row and skewed column by which Gaussians must be likelier.
CLEARLY_LIKELIER = 0.1
# Two partitions leave out a third if they agree by this much more (adjusted Rand index)
# than either does with the third.
CLEAR_AGREEMENT = 0.1

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
) -> tuple[list[Proposal], np.ndarray | None]:
    """Partition the rows as "auto" does, with skewed columns in their likeliest shape.

    Skewed columns are taken as they are, as cube roots (gamma distributions become
    nearly normal) and as logarithms. If a mixture of Gaussians is clearly likelier in
    one of the changed shapes, densities being those of `x`, the partitions of that
    shape are proposed. But if the other two shapes' partitions agree much more with
    each other than with it, those of the likelier of the two are.

    Parameters
    ----------
    x, sample_weight, n_components, random_state, n_init, column_scales
        As for `propose_partitions`.

    Returns
    -------
    proposals : list of Proposal
        As from `propose_partitions`.
    rows : ndarray of shape (n, D) or None
        The rows that they are partitions of; None if no column was changed.
    """

    def propose(rows: np.ndarray, scales: np.ndarray | None) -> list[Proposal]:
        return propose_partitions(
            rows, sample_weight, n_components, "auto", random_state, n_init, scales
        )

    proposals = {UNCHANGED: propose(x, column_scales)}
    columns = skewed_columns(x, sample_weight)
    best, likelihoods = _likeliest(x[:, columns], sample_weight, n_components)
    if best == UNCHANGED:
        return proposals[UNCHANGED], None
    rows = {shape: _with_columns(x, columns, sample_weight, shape) for shape in CHANGED}
    proposals |= {shape: propose(rows[shape], None) for shape in CHANGED}
    labels = {
        shape: found[0].responsibilities.argmax(axis=1)
        for shape, found in proposals.items()
    }
    others = [shape for shape in SHAPES if shape != best]
    agreement = max(adjusted_rand_score(labels[best], labels[o]) for o in others)
    one, other = (labels[o] for o in others)
    if adjusted_rand_score(one, other) > agreement + CLEAR_AGREEMENT:
        best = max(others, key=lambda shape: likelihoods[shape])
    return proposals[best], rows.get(best)


def in_likeliest_shape(
    x: np.ndarray, sample_weight: np.ndarray, n_gaussians: int
) -> np.ndarray | None:
    """Return the rows with skewed columns in their likeliest shape.

    Parameters
    ----------
    x, sample_weight
        As for `propose_partitions`.
    n_gaussians : int
        Number of Gaussians by whose likelihood the shapes are compared.

    Returns
    -------
    rows : ndarray of shape (n, D) or None
        None if no changed shape is clearly likelier.
    """
    columns = skewed_columns(x, sample_weight)
    shape, _ = _likeliest(x[:, columns], sample_weight, n_gaussians)
    if shape == UNCHANGED:
        return None
    return _with_columns(x, columns, sample_weight, shape)


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
    x, sample_weight = x[:MAX_SEEN], sample_weight[:MAX_SEEN]
    total = sample_weight.sum()
    most_at_end = max(SHARE_AT_END * total, ROWS_AT_END)
    for j, column in enumerate(x.T):
        low, middle, high = weighted_quantile(column, sample_weight, [0.1, 0.5, 0.9])
        below, above = middle - low, high - middle
        if max(below, above) > SKEWED * min(below, above):
            value = np.unique(column, return_inverse=True)[1]
            weights = np.bincount(value, sample_weight)
            is_skewed[j] = (
                weights[0 if above > below else -1] <= most_at_end
                and weights.max() <= LARGEST_SHARE * total
            )
    return is_skewed


def reshaped(
    x: np.ndarray, sample_weight: np.ndarray, shape: str
) -> tuple[np.ndarray, float]:
    """Change the shape of skewed columns.

    Functions are taken of the distance from the end of the shorter tail, plus a
    constant that keeps it positive (the larger of its first percentile and a hundredth
    of its median): unit, origin and direction of a column do not matter.

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


def _with_columns(
    x: np.ndarray, columns: np.ndarray, sample_weight: np.ndarray, shape: str
) -> np.ndarray:
    """Return the rows with some columns in another shape."""
    rows = x.copy()
    rows[:, columns] = reshaped(x[:, columns], sample_weight, shape)[0]
    return rows


def _likeliest(
    x: np.ndarray, sample_weight: np.ndarray, n_gaussians: int
) -> tuple[str, dict[str, float]]:
    """Return the shape of skewed columns that is clearly likeliest, or "as they are".

    And the held-out log-likelihood of Gaussians for each shape, in nats per row, of
    densities with respect to x; empty if it is not asked for.
    """
    x, weight = x[:MAX_ROWS], sample_weight[:MAX_ROWS]
    n, n_columns = x.shape
    if not n_columns or not 1 < n_gaussians <= n // ROWS_PER_COMPONENT:
        return UNCHANGED, {}
    random_state = np.random.RandomState(0)
    likelihoods = {}
    for shape in SHAPES:
        rows, log_jacobian = reshaped(x, weight, shape)
        model = KMeans(n_gaussians, n_init=3, random_state=random_state)
        start = one_hot(model.fit_predict(rows, sample_weight=weight), n_gaussians)
        landmarks = Landmarks(rows, weight, random_state)
        shrinkage, _ = choose_shrinkage(landmarks, start)
        soft = expectation_maximisation(rows, weight, start, shrinkage)
        likelihood = held_out_likelihood(landmarks, soft, shrinkage)
        likelihoods[shape] = likelihood + log_jacobian
    best = max(likelihoods, key=lambda shape: likelihoods[shape])
    gain = likelihoods[best] - likelihoods[UNCHANGED]
    return best if gain > CLEARLY_LIKELIER * n_columns else UNCHANGED, likelihoods
