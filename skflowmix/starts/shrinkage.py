"""Shrinkage of covariances towards the pooled one, chosen by cross-validation."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.linalg import lu_factor, lu_solve
from scipy.linalg.lapack import dpotrf, dtrtrs

from skflowmix.starts.preprocessing import row_counts

__all__ = [
    "LOSS_BOUND",
    "ROUNDING",
    "Shrinkage",
    "blended",
    "bounded",
    "bounded_means",
    "choose_shrinkages",
    "cross_validated_log_densities",
    "log_joint_of",
    "moments",
    "priors_of",
    "shrink",
    "weights_of",
]

# Pairs of strength and diagonality to compare.
Grid = Sequence[tuple[float, float]]

# Grid of cross-validation: prior strengths per column, shares by which the prior's
# correlations are reduced, and shares of responsibility that every row gives to all
# components in proportion to their weights.
STRENGTHS = (1e-3, 0.02, 0.2, 1.0, 3.0, 10.0, 100.0)
DIAGONALITIES = (0.0, 0.1, 0.3, 1.0)
BLENDS = (0.0, 0.1, 0.3)
N_FOLDS = 5

# The prior's scale is nearer to the pooled covariance's than to the component's own if
# the component has fewer rows.
ROWS_OF_POOLED_SIZE = 100

# In no direction is the prior's variance more than MAX_RATIO times that of a component
# whose rows outnumber the columns by MIN_FREEDOM; with fewer rows variances may be that
# small by chance. Flows mend smaller ratios.
MAX_RATIO, MIN_FREEDOM = 10_000.0, 4

# Variances below the square of this share of the values are rounding errors.
ROUNDING = 1e-12

# `_log_joints_by_rows` needs a greater `reg_covar`: rounding errors would dominate.
LEAST_REG_COVAR = 1e-9

MAX_ROWS = 2000

# Merged rows with more than this share of the weight are divided among the folds.
HEAVY_SHARE = 0.05

# Responsibilities are blended only with fewer than FEW_ROWS rows per component and
# column, and for a gain of more than BLEND_TOLERANCE nats per row.
FEW_ROWS = 10
BLEND_TOLERANCE = 0.02

# In cross-validation no row counts as more than this below the median, in nats per
# column.
LOSS_BOUND = 10.0


class Shrinkage(NamedTuple):
    """How covariances are shrunk, see `Gaussians.fit`."""

    strength: float
    diagonality: float
    blend: float
    reg_covar: float
    tied: tuple[int, ...] = ()


def log_joint_of(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Return the joint log-densities (n, K) log p(k) + log N(x; k) of rows."""
    log_joint = np.empty((len(x), len(weights)))
    for k, factor in enumerate(np.linalg.cholesky(covariances)):
        # `solve_triangular` spends several times as long on checks where rows are few.
        z, _ = dtrtrs(factor, (x - means[k]).T, lower=1)
        log_det = np.log(factor.diagonal()).sum()
        log_joint[:, k] = -0.5 * np.einsum("ij,ij->j", z, z) - log_det
    log_joint += np.log(weights) - 0.5 * x.shape[1] * np.log(2 * np.pi)
    return log_joint


def weights_of(totals: np.ndarray) -> np.ndarray:
    """Return mixture weights in proportion to `totals`, none of them zero."""
    weights = np.maximum(totals / totals.sum(), 1e-6)
    return weights / weights.sum()


def _shares_of_components(
    sample_weight: np.ndarray, responsibilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each component's total weight and the rows' shares of it (n, K).

    All rows share in an empty component.
    """
    shares = responsibilities * sample_weight[:, None]
    totals = shares.sum(0)
    is_empty = totals <= 1e-10 * sample_weight.sum()
    shares[:, is_empty] = sample_weight[:, None]
    shares /= shares.sum(0)
    return totals, shares


def moments(
    x: np.ndarray,
    sample_weight: np.ndarray,
    responsibilities: np.ndarray,
    tied: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the total weight, mean and covariance of each component.

    Components have the pooled covariance of the columns `tied`, and none between these
    columns and the others.
    """
    totals, shares = _shares_of_components(sample_weight, responsibilities)
    means = shares.T @ x
    covariances = np.empty((len(totals), x.shape[1], x.shape[1]))
    for k, mean in enumerate(means):
        centered = x - mean
        covariances[k] = (shares[:, k, None] * centered).T @ centered
    _tie(totals, covariances, tied)
    return totals, means, covariances


def _tie(totals: np.ndarray, covariances: np.ndarray, tied: Sequence[int]) -> None:
    """Pool the covariances of some columns, without those with other columns."""
    if len(tied):
        pooled = np.tensordot(totals / totals.sum(), covariances, axes=1)
        covariances[:, tied] = covariances[:, :, tied] = 0.0
        rows, columns = np.ix_(tied, tied)
        covariances[:, rows, columns] = pooled[rows, columns]


def shrink(
    totals: np.ndarray,
    covariances: np.ndarray,
    priors: np.ndarray,
    strength: float,
    reg_covar: float,
    tied: Sequence[int] = (),
) -> np.ndarray:
    """Return covariances shrunk towards `priors_of` them, see `Gaussians.fit`."""
    share = (strength / (totals + strength))[:, None, None]
    shrunk = (1 - share) * covariances + share * priors
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    diagonal = np.diagonal(shrunk, axis1=1, axis2=2)
    added = _added(reg_covar, diagonal, variances, totals / totals.sum() @ variances)
    shrunk[:, *np.diag_indices(covariances.shape[1])] += added
    _tie(totals, shrunk, tied)  # priors have the size of their component
    return shrunk


def priors_of(
    totals: np.ndarray, covariances: np.ndarray, diagonality: float
) -> np.ndarray:
    """Return the covariances (K, D, D) that those of components are shrunk towards.

    Each is the pooled covariance scaled to the component, with variances of at most
    `MAX_RATIO` times the component's own in every direction in which its rows vary, if
    they outnumber the columns by `MIN_FREEDOM`.
    """
    pooled = np.tensordot(totals / totals.sum(), covariances, axes=1)
    prior = (1 - diagonality) * pooled + diagonality * np.diag(np.diag(pooled))
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    sizes = _sizes(totals, variances, np.diag(pooled))
    priors = sizes[:, None, None] * prior
    for k in np.flatnonzero(totals >= len(prior) + MIN_FREEDOM):
        # A Cholesky factor takes a small part of the time of eigenvectors.
        _, is_wider = dpotrf(MAX_RATIO * covariances[k] - priors[k])
        if is_wider:
            priors[k] = _bounded(priors[k], covariances[k])
    return priors


def _bounded(prior: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Reduce a prior's variances to `MAX_RATIO` times those of a covariance."""
    scales = np.sqrt(np.maximum(np.diag(prior), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(prior / np.outer(scales, scales))
    varies = values > ROUNDING
    root = scales[:, None] * vectors[:, varies] * np.sqrt(values[varies])
    inverse = vectors[:, varies] / np.sqrt(values[varies]) / scales[:, None]
    own, axes = np.linalg.eigh(inverse.T @ covariance @ inverse)
    known = own > ROUNDING
    directions = root @ axes
    directions[:, known] *= np.sqrt(np.minimum(MAX_RATIO * own[known], 1.0))
    return directions @ directions.T


def _added(
    reg_covar: float, shrunk: np.ndarray, variances: np.ndarray, pooled: np.ndarray
) -> np.ndarray:
    """Return what `reg_covar` adds to shrunk variances.

    Its unit is the shrunk variance, or the pooled one where a component's own is zero,
    or one where both are.
    """
    unit = np.where(variances > ROUNDING * pooled, shrunk, pooled)
    return reg_covar * np.where(unit > ROUNDING**2, unit, 1.0)


def _sizes(totals: np.ndarray, variances: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """Return mean ratios of variances (K, D) to pooled ones, shrunk towards one."""
    varies = pooled > ROUNDING**2
    if not varies.any():
        return np.ones(len(totals))
    ratios = np.mean(variances[:, varies] / pooled[varies], axis=1)
    return np.maximum(ratios, ROUNDING**2) ** (totals / (totals + ROWS_OF_POOLED_SIZE))


def blended(
    responsibilities: np.ndarray, sample_weight: np.ndarray, share: float
) -> np.ndarray:
    """Replace a share of each row's responsibilities by the components' weights."""
    overall = np.average(responsibilities, axis=0, weights=sample_weight)
    return (1 - share) * responsibilities + share * overall


def choose_shrinkages(
    x: np.ndarray,
    sample_weight: np.ndarray,
    responsibilities: np.ndarray,
    reg_covar: float,
    leasts: Sequence[float],
    tied: tuple[int, ...] = (),
) -> list[Shrinkage]:
    """Choose the shrinkage of best cross-validated likelihood for each least strength.

    Rows must be in a random order, as from `merge_identical_rows`. With fewer rows than
    columns, of which `MAX_ROWS` count, no columns are `tied`.
    """
    if min(len(x), MAX_ROWS) < x.shape[1]:
        tied = ()
    n_columns = x.shape[1]
    n_rows = row_counts(sample_weight).sum()
    strengths = [s for s in STRENGTHS if s >= min(leasts)]
    grid = [(s * n_columns, a) for s in strengths for a in DIAGONALITIES]
    if np.count_nonzero(_parts_of_rows(sample_weight)) < 2 * N_FOLDS:
        return [Shrinkage(*grid[-1], 0.0, reg_covar, tied)] * len(leasts)
    few = n_rows < FEW_ROWS * n_columns * responsibilities.shape[1]
    x, sample_weight = x[:MAX_ROWS], sample_weight[:MAX_ROWS]
    responsibilities = responsibilities[:MAX_ROWS]
    blends = BLENDS if few else BLENDS[:1]
    log_probs = [
        _cross_validate(
            x,
            sample_weight,
            blended(responsibilities, sample_weight, blend),
            grid,
            reg_covar,
            _parts_of_rows(sample_weight),
            tied,
        )
        for blend in blends
    ]
    chosen = []
    for least in leasts:
        first = sum(s < least for s in strengths) * len(DIAGONALITIES)
        best = -np.inf
        for blend, log_prob in zip(blends, log_probs, strict=True):
            scores = bounded_means(log_prob[first:], sample_weight, n_columns)
            if scores.max() > best + BLEND_TOLERANCE:
                best = scores.max()
                strength, diagonality = grid[first + int(np.argmax(scores))]
                shrinkage = Shrinkage(strength, diagonality, blend, reg_covar, tied)
        chosen.append(shrinkage)
    return chosen


def cross_validated_log_densities(
    x: np.ndarray,
    sample_weight: np.ndarray,
    responsibilities: np.ndarray,
    grid: Grid,
    reg_covar: float,
) -> np.ndarray:
    """Return log-densities of held-out rows under Gaussians of the other rows.

    Parameters
    ----------
    x, sample_weight, responsibilities, reg_covar
        As for `Gaussians.fit`; rows in a random order.
    grid : sequence of (float, float)
        Strengths and diagonalities to compare.

    Returns
    -------
    log_densities : ndarray of shape (n_settings, n_samples)
        In nats, see `bounded`.
    """
    # Undivided rows: a cluster of one repeated row must not be predicted by itself.
    folds = _whole_rows(len(x))
    log_prob = _cross_validate(
        x, sample_weight, responsibilities, grid, reg_covar, folds
    )
    return bounded(log_prob, x.shape[1])


def bounded(log_prob: np.ndarray, n_columns: int) -> np.ndarray:
    """Bound log-densities so that no single row dominates their mean.

    Parameters
    ----------
    log_prob : ndarray of shape (n_settings, n_samples)
        In nats.
    n_columns : int
        Columns of the rows.

    Returns
    -------
    log_prob : ndarray of shape (n_settings, n_samples)
        No row is more than `LOSS_BOUND` nats per column below the largest median.
    """
    floor = np.median(log_prob, axis=1).max() - LOSS_BOUND * n_columns
    return np.maximum(log_prob, floor)


def bounded_means(
    log_prob: np.ndarray, sample_weight: np.ndarray, n_columns: int
) -> np.ndarray:
    """Return the mean of each setting's `bounded` log-densities, in nats per row."""
    return bounded(log_prob, n_columns) @ sample_weight / sample_weight.sum()


def _whole_rows(n_rows: int) -> np.ndarray:
    """Return the held-out share of each row (N_FOLDS, n): each fold has every fifth."""
    folds = np.arange(N_FOLDS)[:, None]
    return (np.arange(n_rows) % N_FOLDS == folds).astype(float)


def _parts_of_rows(sample_weight: np.ndarray) -> np.ndarray:
    """Return the shares of `_whole_rows`, with heavy merged rows in every fold.

    A row with more than `HEAVY_SHARE` of the weight that stands for at least `N_FOLDS`
    rows has an equal part in each fold, as its copies would without merging.
    """
    shares = _whole_rows(len(sample_weight))
    heavy = sample_weight > HEAVY_SHARE * sample_weight.sum()
    shares[:, heavy & (row_counts(sample_weight) >= N_FOLDS)] = 1 / N_FOLDS
    return shares


def _cross_validate(
    x: np.ndarray,
    sample_weight: np.ndarray,
    responsibilities: np.ndarray,
    grid: Grid,
    reg_covar: float,
    folds: np.ndarray,
    tied: Sequence[int] = (),
) -> np.ndarray:
    """Return held-out log-densities of the mixture (n_settings, n)."""
    log_prob = np.zeros((len(grid), len(x)))
    by_rows = len(x) < x.shape[1] and reg_covar > LEAST_REG_COVAR
    log_joints = _log_joints_by_rows if by_rows else partial(_log_joints, tied=tied)
    for shares in folds:
        held_out, seen = shares > 0, shares < 1
        fold = x[seen], (sample_weight * (1 - shares))[seen], responsibilities[seen]
        for i, log_joint in enumerate(log_joints(*fold, x[held_out], grid, reg_covar)):
            mixture = np.logaddexp.reduce(log_joint, axis=1)
            log_prob[i, held_out] += shares[held_out] * mixture
    return log_prob


def _log_joints(
    x: np.ndarray,
    sample_weight: np.ndarray,
    responsibilities: np.ndarray,
    new: np.ndarray,
    grid: Grid,
    reg_covar: float,
    tied: Sequence[int],
) -> Iterator[np.ndarray]:
    """Yield joint log-densities of new rows (n_new, K) for each setting."""
    totals, means, covariances = moments(x, sample_weight, responsibilities, tied)
    diagonalities = {diagonality for _, diagonality in grid}
    priors = {a: priors_of(totals, covariances, a) for a in diagonalities}
    for strength, diagonality in grid:
        prior = priors[diagonality]
        shrunk = shrink(totals, covariances, prior, strength, reg_covar, tied)
        yield log_joint_of(weights_of(totals), means, shrunk, new)


def _log_joints_by_rows(
    x: np.ndarray,
    sample_weight: np.ndarray,
    responsibilities: np.ndarray,
    new: np.ndarray,
    grid: Grid,
    reg_covar: float,
) -> Iterator[np.ndarray]:
    r"""Yield what `_log_joints` does, faster with fewer rows than columns.

    A covariance is :math:`\Delta + A^T M A`, with :math:`\Delta` diagonal and the rows
    A. By the identities of Woodbury and Sylvester only the n x n matrix
    :math:`I + A \Delta^{-1} A^T M` has to be inverted.
    """
    totals, shares = _shares_of_components(sample_weight, responsibilities)
    center = np.average(x, axis=0, weights=sample_weight)
    rows, new = x - center, new - center
    weights = weights_of(totals)
    scatters = [np.diag(own) - np.outer(own, own) for own in shares.T]
    pooled = np.tensordot(totals / totals.sum(), scatters, axes=1)
    variances = np.stack([np.einsum("ij,ij->j", rows, s @ rows) for s in scatters])
    of_all = totals / totals.sum() @ variances
    sizes = _sizes(totals, variances, of_all)
    both = np.concatenate((rows, new))
    for strength, diagonality in grid:
        log_joint = np.empty((len(new), len(weights)))
        for k, own in enumerate(shares.T):
            share = strength / (totals[k] + strength)
            prior = share * sizes[k]
            middle = (1 - share) * scatters[k] + prior * (1 - diagonality) * pooled
            diagonal = prior * diagonality * of_all
            shrunk = (1 - share) * variances[k] + prior * of_all
            diagonal += _added(reg_covar, shrunk, variances[k], of_all)
            products = (both / diagonal) @ both.T
            among, across = products[: len(x), : len(x)], products[len(x) :, : len(x)]
            inner = lu_factor(np.eye(len(x)) + among @ middle)
            # Products of the new rows' deviations from the component's mean.
            to_rows = across - own @ among
            squares = products.diagonal()[len(x) :] - across @ own - to_rows @ own
            squares -= np.einsum(
                "ij,ji->i", to_rows @ middle, lu_solve(inner, to_rows.T)
            )
            log_det = np.log(np.abs(inner[0].diagonal())).sum()
            log_det += np.log(diagonal).sum()
            log_joint[:, k] = np.log(weights[k]) - 0.5 * (squares + log_det)
        yield log_joint - 0.5 * x.shape[1] * np.log(2 * np.pi)
