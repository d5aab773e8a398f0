"""The Gaussians that components start from: moments, shrunk as the data asks."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
from scipy.linalg import lu_factor, lu_solve
from scipy.linalg.lapack import dtrtrs

from skflowmix.starts.preprocessing import row_counts

__all__ = [
    "LOSS_BOUND",
    "Gaussians",
    "Shrinkage",
    "bounded_means",
    "component_weights",
    "cross_validated_scores",
    "least_strengths",
]

# Prior strengths per column, shares of the prior's correlations given up, and shares
# of responsibility given to all components alike, among which cross-validation chooses.
STRENGTHS = (1e-3, 0.02, 0.2, 1.0, 3.0, 10.0, 100.0)
DIAGONALITIES = (0.0, 0.1, 0.3, 1.0)
BLENDS = (0.0, 0.1, 0.3)
N_FOLDS = 5

# The least strengths where flows follow: they bend a component back to its own shape,
# and do it better from scales that are not too narrow for other rows. The greater one
# is tried as well where there are few rows per component and column, in a small table.
LEAST_STRENGTH = 1.0
GREATER_STRENGTH = 10.0
FEW_ROWS_TO_START = 20
SMALL_TABLE = 25_000

# A component is flat with less variance in some direction, once its columns have unit
# variance, and small with standard deviations of such a share of those of all rows.
FLAT = 3e-4
SMALL = 0.01

# Components of fewer rows have a prior whose size is nearer to the pooled covariance's
# than to their own.
ROWS_OF_POOLED_SIZE = 100

# Means of so many of their component's standard deviations ask for float64.
FARTHEST_MEAN = 1e4

# Variances are due to rounding below the square of such a share of the values.
ROUNDING = 1e-12

# With less than this nothing is inverted by matrices of rows: it would be rounding.
LEAST_REG_COVAR = 1e-9

MAX_ROWS = 2000

# Rows that repeat and weigh more than this are divided among the folds.
HEAVY_SHARE = 0.05

# Components are blended only where there are fewer rows per component and column, and
# for a gain of so many nats per row.
FEW_ROWS = 10
BLEND_TOLERANCE = 0.02

# In cross-validation no row counts for more than this below the median, in nats per
# column.
LOSS_BOUND = 10.0

# No row counts for more than this in a skewness, in standard deviations.
SKEW_BOUND = 4.0


class _Groups(Protocol):
    """Which group each component belongs to, see `model.groups.Groups`."""

    of_flow: np.ndarray

    @property
    def are_single(self) -> bool: ...

    def sum(self, values: np.ndarray, /) -> np.ndarray: ...


class Shrinkage(NamedTuple):
    """How covariances are shrunk, see `Gaussians.fit`."""

    strength: float
    diagonality: float
    blend: float
    reg_covar: float


class Gaussians:
    """K Gaussians with weights, in standardised units.

    Parameters
    ----------
    weights : ndarray of shape (n_components,)
        Mixture weights, summing to one.
    means : ndarray of shape (n_components, n_features)
        Means.
    covariances : ndarray of shape (n_components, n_features, n_features)
        Positive definite covariances.
    axes : ndarray of shape (n_components, n_features, n_features), optional
        Principal axes as rows, the longest first, each pointing where the rows are
        skewed to. Where they are known, `whitening` turns the components to them.
    shrinkage : Shrinkage, optional
        How the covariances were shrunk.
    sample_variances : ndarray of shape (n_components, n_features), optional
        Variances of the columns before that.
    reach : ndarray of shape (n_components,), optional
        Largest Mahalanobis distance of a component's rows; without bound by default.
    """

    def __init__(
        self,
        weights: np.ndarray,
        means: np.ndarray,
        covariances: np.ndarray,
        axes: np.ndarray | None = None,
        shrinkage: Shrinkage | None = None,
        sample_variances: np.ndarray | None = None,
        reach: np.ndarray | None = None,
    ):
        self.weights = weights
        self.means = means
        self.covariances = covariances
        self.axes = axes
        self.shrinkage = shrinkage
        if sample_variances is None:
            sample_variances = np.diagonal(covariances, axis1=1, axis2=2)
        self.sample_variances = sample_variances
        self.reach = np.full(len(weights), np.inf) if reach is None else reach
        self._are_flat: bool | None = None

    def __getitem__(self, index: np.ndarray | slice) -> "Gaussians":
        """Return the Gaussians of some components."""
        return Gaussians(
            self.weights[index],
            self.means[index],
            self.covariances[index],
            None if self.axes is None else self.axes[index],
            self.shrinkage,
            self.sample_variances[index],
            self.reach[index],
        )

    def of_groups(self, groups: _Groups, weights: np.ndarray) -> "Gaussians":
        """Return the Gaussians with the moments of mixtures of these.

        Parameters
        ----------
        groups : Groups
            The group of every one.
        weights : ndarray of shape (n_components,)
            Their weights in these mixtures.

        Returns
        -------
        gaussians : Gaussians
            One for each group.
        """
        if groups.are_single:
            return self
        of_groups = groups.sum(weights[None])[0]
        shares = weights / of_groups[groups.of_flow]
        means = groups.sum((shares[:, None] * self.means).T).T
        apart = self.means - means[groups.of_flow]
        spread = self.covariances + apart[:, :, None] * apart[:, None, :]
        n_columns = means.shape[1]
        flat = (shares[:, None, None] * spread).reshape(-1, n_columns**2)
        covariances = groups.sum(flat.T).T.reshape(-1, n_columns, n_columns)
        return Gaussians(of_groups, means, covariances)

    @classmethod
    def fit(
        cls,
        x: np.ndarray,
        sample_weight: np.ndarray,
        responsibilities: np.ndarray,
        reg_covar: float,
        *,
        least_strength: float = 0.0,
        turned: bool = False,
    ) -> Self:
        r"""Weighted moments of each component's rows, covariances shrunk.

        .. math::

            \Sigma_k = C_k + \text{reg\_covar}\, \mathrm{diag}(C_k), \quad
            C_k = \frac{n_k S_k + \nu \lambda_k P}{n_k + \nu}, \quad
            P = (1 - a) \bar S + a\, \mathrm{diag}(\bar S),
            \quad \bar S = \sum_k \pi_k S_k,

        the posterior mean under an inverse Wishart prior around the pooled
        covariance, as large as the component is: :math:`\lambda_k` is the mean ratio
        of its variances to the pooled ones, to the power :math:`n_k / (n_k + 100)`. The
        strength :math:`\nu` and :math:`a` are those with the largest
        cross-validated likelihood of the mixture. Where rows are few, means come
        nearer to each other as well if that is likelier: then a share of every row
        goes to all components by their weights. A component without rows takes the
        moments of all rows.

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_features)
            Standardised rows.
        sample_weight : ndarray of shape (n_samples,)
            Positive weights, that of a row being one.
        responsibilities : ndarray of shape (n_samples, n_components)
            Share of each row that belongs to each component.
        reg_covar : float
            Added to the diagonals, in units of these, see `_added`.
        least_strength : float, default=0.0
            Covariances lean to the pooled one at least as much as if this had been
            seen on so many rows per column.
        turned : bool, default=False
            Whether to find the principal axes.

        Returns
        -------
        gaussians : Gaussians
            The fitted moments.
        """
        (gaussians,) = cls.fit_each(
            x,
            sample_weight,
            responsibilities,
            reg_covar,
            [least_strength],
            turned=turned,
        )
        return gaussians

    @classmethod
    def fit_each(
        cls,
        x: np.ndarray,
        sample_weight: np.ndarray,
        responsibilities: np.ndarray,
        reg_covar: float,
        least_strengths: Sequence[float],
        *,
        turned: bool = False,
    ) -> list[Self]:
        """`fit` for each of several least strengths, by one cross-validation.

        Parameters
        ----------
        x, sample_weight, responsibilities, reg_covar, turned
            As for `fit`.
        least_strengths : sequence of float
            One for each of the Gaussians.

        Returns
        -------
        fits : list of Gaussians
            The fitted moments.
        """
        fits = []
        for shrinkage in _choose_shrinkages(
            x, sample_weight, responsibilities, reg_covar, least_strengths
        ):
            gaussians = cls.shrunk(x, sample_weight, responsibilities, shrinkage)
            if turned:
                shares = _blend(responsibilities, sample_weight, shrinkage.blend)
                gaussians.axes = _principal_axes(
                    gaussians, x, shares * sample_weight[:, None]
                )
            fits.append(gaussians)
        return fits

    @classmethod
    def shrunk(
        cls,
        x: np.ndarray,
        sample_weight: np.ndarray,
        responsibilities: np.ndarray,
        shrinkage: Shrinkage,
    ) -> Self:
        """`fit` with a given shrinkage.

        Parameters
        ----------
        x, sample_weight, responsibilities : ndarray
            As for `fit`.
        shrinkage : Shrinkage
            How much.

        Returns
        -------
        gaussians : Gaussians
            The fitted moments.
        """
        shares = _blend(responsibilities, sample_weight, shrinkage.blend)
        totals, means, scatter = _moments(x, sample_weight, shares)
        covariances = _shrink(
            totals,
            scatter,
            shrinkage.strength,
            shrinkage.diagonality,
            shrinkage.reg_covar,
        )
        variances = np.diagonal(scatter, axis1=1, axis2=2)
        rounding = (ROUNDING * np.maximum(1, np.abs(means))) ** 2
        return cls(
            _weights(totals),
            means,
            covariances,
            shrinkage=shrinkage,
            sample_variances=np.where(variances > rounding, variances, 0.0),
        )

    def refit(
        self, x: np.ndarray, sample_weight: np.ndarray, responsibilities: np.ndarray
    ) -> Self:
        """Return the Gaussians of other rows, shrunk as much, with the same axes.

        Axes that these rows did not choose whiten the variances along them only.

        Parameters
        ----------
        x, sample_weight, responsibilities : ndarray
            As for `fit`.

        Returns
        -------
        gaussians : Gaussians
            The fitted moments.
        """
        assert self.shrinkage is not None
        other = self.shrunk(x, sample_weight, responsibilities, self.shrinkage)
        other.axes = self.axes
        return other

    def measure_reach(self, x: np.ndarray, responsibilities: np.ndarray) -> None:
        """Find how far from their mean the rows of each component lie, as whitened.

        Parameters
        ----------
        x, responsibilities : ndarray
            As for `fit`. A row belongs to the component that has most of it; one
            without responsibilities to none.
        """
        owner = np.where(responsibilities.any(axis=1), responsibilities.argmax(1), -1)
        scales, whitening = self.scales(), self.whitening()
        self.reach = np.zeros(len(self.weights))
        for k in np.unique(owner[owner >= 0]):
            white = (x[owner == k] - self.means[k]) / scales[k] @ whitening[k].T
            self.reach[k] = np.linalg.norm(white, axis=1).max()

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """Log-densities of rows with each component, log p(k) + log N(x; k).

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_joint : ndarray of shape (n_samples, n_components)
            In nats.
        """
        log_joint = np.empty((len(x), len(self.weights)))
        for k, factor in enumerate(np.linalg.cholesky(self.covariances)):
            # SciPy's checks take several times as long where rows are few.
            z, _ = dtrtrs(factor, (x - self.means[k]).T, lower=1)
            log_det = np.log(factor.diagonal()).sum()
            log_joint[:, k] = -0.5 * np.einsum("ij,ij->j", z, z) - log_det
        log_joint += np.log(self.weights) - 0.5 * x.shape[1] * np.log(2 * np.pi)
        return log_joint

    def are_flat(self) -> bool:
        """Whether one has next to no variance in some direction, save `reg_covar`."""
        if self._are_flat is None:  # asked in every phase of a fit
            scales = self.scales()
            correlations = self.covariances / (scales[:, :, None] * scales[:, None, :])
            least = FLAT + self._reg_covar
            rest = correlations - least * np.eye(correlations.shape[1])
            self._are_flat = not _are_positive_definite(rest)
        return self._are_flat

    def are_positive_definite(self) -> bool:
        """Whether all covariances can be inverted."""
        return _are_positive_definite(self.covariances)

    def are_small(self) -> bool:
        """Whether one is small beside the rows, whose columns have unit variance."""
        return self.scales().min() < SMALL

    def need_float64(self) -> bool:
        """Whether float32 cannot tell the rows of one from each other."""
        far = np.abs(self.means) > FARTHEST_MEAN * np.sqrt(self.sample_variances)
        return bool((far & (self.sample_variances > 0)).any())

    def thickness(self) -> np.ndarray | None:
        """Return the standard deviations (K, D) that `reg_covar` has added.

        None where no component needs them: all vary in every direction.
        """
        if not (self.are_flat() or (self.sample_variances == 0).any()):
            return None
        return np.sqrt(self._reg_covar) * self.scales()

    @property
    def _reg_covar(self) -> float:
        return 0.0 if self.shrinkage is None else self.shrinkage.reg_covar

    def scales(self) -> np.ndarray:
        """Return the columns' standard deviations (n_components, n_features)."""
        return np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))

    def whitening(self) -> np.ndarray:
        """Matrices W that whiten rows which `scales` has divided.

        They turn the components to their principal axes where these are known;
        otherwise they are triangular and leave each column as near to itself as can
        be.

        Returns
        -------
        whitening : ndarray of shape (n_components, n_features, n_features)
            ``W @ correlation @ W.T`` is the identity.
        """
        scales = self.scales()
        if self.axes is not None:
            spread = np.sqrt(
                np.einsum("kij,kjl,kil->ki", self.axes, self.covariances, self.axes)
            )
            return self.axes * scales[:, None, :] / spread[:, :, None]
        correlations = self.covariances / (scales[:, :, None] * scales[:, None, :])
        return np.linalg.inv(np.linalg.cholesky(correlations))


def least_strengths(n_rows: int, n_columns: int, n_components: int) -> list[float]:
    """Least strengths of the shrinkage of Gaussians that flows may start from.

    Parameters
    ----------
    n_rows, n_columns, n_components : int
        Of the rows that flows are trained on.

    Returns
    -------
    strengths : list of float
        For `Gaussians.fit_each`; where there are several, held-out rows have to choose.
    """
    few = n_rows < FEW_ROWS_TO_START * n_columns * n_components
    if few and n_rows * n_columns < SMALL_TABLE:
        return [LEAST_STRENGTH, GREATER_STRENGTH]
    return [LEAST_STRENGTH]


def _are_positive_definite(matrices: np.ndarray) -> bool:
    """Tell by their factors, in a tenth of the time that eigenvalues take."""
    try:
        np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return False
    return True


def _principal_axes(
    gaussians: Gaussians, x: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Eigenvectors, the longest axis first, pointing where the rows are skewed to."""
    variances, vectors = np.linalg.eigh(gaussians.covariances)
    axes = vectors.transpose(0, 2, 1)[:, ::-1].copy()
    spreads = np.sqrt(variances[:, ::-1])
    for k, mean in enumerate(gaussians.means):
        along = (x - mean) @ axes[k].T / spreads[k]
        skewness = shares[:, k] @ np.clip(along, -SKEW_BOUND, SKEW_BOUND) ** 3
        axes[k, skewness < 0] *= -1
    return axes


def component_weights(
    responsibilities: np.ndarray, sample_weight: np.ndarray
) -> np.ndarray:
    """Mixture weights of responsibilities (n, K): their weighted means."""
    return _weights(sample_weight @ responsibilities)


def _weights(totals: np.ndarray) -> np.ndarray:
    weights = np.maximum(totals / totals.sum(), 1e-6)
    return weights / weights.sum()


def _shares_of_components(
    sample_weight: np.ndarray, responsibilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Total weight of each component, and the rows' shares of it (n, K)."""
    shares = responsibilities * sample_weight[:, None]
    totals = shares.sum(0)
    is_empty = totals <= 1e-10 * sample_weight.sum()
    shares[:, is_empty] = sample_weight[:, None]
    shares /= shares.sum(0)
    return totals, shares


def _moments(
    x: np.ndarray, sample_weight: np.ndarray, responsibilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    totals, shares = _shares_of_components(sample_weight, responsibilities)
    means = shares.T @ x
    covariances = np.empty((len(totals), x.shape[1], x.shape[1]))
    for k, mean in enumerate(means):
        centered = x - mean
        covariances[k] = (shares[:, k, None] * centered).T @ centered
    return totals, means, covariances


def _shrink(totals, covariances, strength, diagonality, reg_covar):
    pooled = np.tensordot(totals / totals.sum(), covariances, axes=1)
    prior = (1 - diagonality) * pooled + diagonality * np.diag(np.diag(pooled))
    share = (strength / (totals + strength))[:, None, None]
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    sizes = _sizes(totals, variances, np.diag(pooled))[:, None, None]
    shrunk = (1 - share) * covariances + share * sizes * prior
    diagonal = np.diagonal(shrunk, axis1=1, axis2=2)
    added = _added(reg_covar, diagonal, variances, np.diag(pooled))
    shrunk[:, *np.diag_indices(len(pooled))] += added
    return shrunk


def _added(
    reg_covar: float, shrunk: np.ndarray, variances: np.ndarray, pooled: np.ndarray
) -> np.ndarray:
    """Return what `reg_covar` adds to shrunk variances.

    In units of these; where a component's own variance is none, of the pooled one.
    """
    unit = np.where(variances > ROUNDING * pooled, shrunk, pooled)
    return reg_covar * np.where(unit > ROUNDING**2, unit, 1.0)


def _sizes(totals: np.ndarray, variances: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """Mean ratios of variances (K, D) to pooled ones, as if some rows had ratio 1."""
    varies = pooled > ROUNDING**2
    if not varies.any():
        return np.ones(len(totals))
    ratios = np.mean(variances[:, varies] / pooled[varies], axis=1)
    return np.maximum(ratios, ROUNDING**2) ** (totals / (totals + ROWS_OF_POOLED_SIZE))


def _blend(
    responsibilities: np.ndarray, sample_weight: np.ndarray, share: float
) -> np.ndarray:
    """Give every row that share of all components, by their weights."""
    overall = np.average(responsibilities, axis=0, weights=sample_weight)
    return (1 - share) * responsibilities + share * overall


def _choose_shrinkages(x, sample_weight, responsibilities, reg_covar, leasts):
    """For each least strength the shrinkage with the best cross-validated likelihood.

    Rows come in a random order already (`merge_identical_rows`).
    """
    n_columns = x.shape[1]
    n_rows = row_counts(sample_weight).sum()
    strengths = [s for s in STRENGTHS if s >= min(leasts)]
    grid = [(s * n_columns, a) for s in strengths for a in DIAGONALITIES]
    if np.count_nonzero(_parts_of_rows(sample_weight)) < 2 * N_FOLDS:
        return [Shrinkage(*grid[-1], 0.0, reg_covar)] * len(leasts)
    few = n_rows < FEW_ROWS * n_columns * responsibilities.shape[1]
    x, sample_weight = x[:MAX_ROWS], sample_weight[:MAX_ROWS]
    responsibilities = responsibilities[:MAX_ROWS]
    blends = BLENDS if few else BLENDS[:1]
    log_probs = [
        _cross_validate(
            x,
            sample_weight,
            _blend(responsibilities, sample_weight, blend),
            grid,
            reg_covar,
            _parts_of_rows(sample_weight),
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
                shrinkage = Shrinkage(strength, diagonality, blend, reg_covar)
        chosen.append(shrinkage)
    return chosen


def cross_validated_scores(
    x: np.ndarray,
    sample_weight: np.ndarray,
    responsibilities: np.ndarray,
    grid: Sequence[tuple[float, float]],
    reg_covar: float,
) -> np.ndarray:
    """Mean log-densities of rows under Gaussians with moments of the others.

    Parameters
    ----------
    x, sample_weight, responsibilities, reg_covar
        As for `Gaussians.fit`; rows in a random order.
    grid : sequence of (float, float)
        Strengths and diagonalities to compare.

    Returns
    -------
    scores : ndarray of shape (n_settings,)
        In nats per row, see `bounded_means`.
    """
    # A cluster that is one value must not be foretold by that value.
    folds = _whole_rows(len(x))
    log_prob = _cross_validate(
        x, sample_weight, responsibilities, grid, reg_covar, folds
    )
    return bounded_means(log_prob, sample_weight, x.shape[1])


def bounded_means(
    log_prob: np.ndarray, sample_weight: np.ndarray, n_columns: int
) -> np.ndarray:
    """Mean log-densities, of which no row decides.

    Parameters
    ----------
    log_prob : ndarray of shape (n_settings, n_samples)
        In nats.
    sample_weight : ndarray of shape (n_samples,)
        Positive weights.
    n_columns : int
        Columns of the rows.

    Returns
    -------
    means : ndarray of shape (n_settings,)
        No row counts for more than `LOSS_BOUND` nats per column below the largest
        median.
    """
    floor = np.median(log_prob, axis=1).max() - LOSS_BOUND * n_columns
    return np.maximum(log_prob, floor) @ sample_weight / sample_weight.sum()


def _whole_rows(n_rows: int) -> np.ndarray:
    """Share of each row that each fold holds out (N_FOLDS, n): every fifth row."""
    folds = np.arange(N_FOLDS)[:, None]
    return (np.arange(n_rows) % N_FOLDS == folds).astype(float)


def _parts_of_rows(sample_weight: np.ndarray) -> np.ndarray:
    """Shares as `_whole_rows` gives them, save for rows that stand for many others.

    Where the table would be another one without such a row, it has a part in each fold,
    as it would have if it were not merged.
    """
    shares = _whole_rows(len(sample_weight))
    heavy = sample_weight > HEAVY_SHARE * sample_weight.sum()
    shares[:, heavy & (row_counts(sample_weight) >= N_FOLDS)] = 1 / N_FOLDS
    return shares


def _cross_validate(x, sample_weight, responsibilities, grid, reg_covar, folds):
    """Log-densities of the mixture, one row for each setting, one column for each x."""
    log_prob = np.zeros((len(grid), len(x)))
    by_rows = len(x) < x.shape[1] and reg_covar > LEAST_REG_COVAR
    log_joints = _log_joints_by_rows if by_rows else _log_joints
    for shares in folds:
        held_out, seen = shares > 0, shares < 1
        fold = x[seen], (sample_weight * (1 - shares))[seen], responsibilities[seen]
        for i, log_joint in enumerate(log_joints(*fold, x[held_out], grid, reg_covar)):
            mixture = np.logaddexp.reduce(log_joint, axis=1)
            log_prob[i, held_out] += shares[held_out] * mixture
    return log_prob


def _log_joints(x, sample_weight, responsibilities, new, grid, reg_covar):
    """Log-densities of new rows with each component (n_new, K), for each setting."""
    totals, means, covariances = _moments(x, sample_weight, responsibilities)
    for strength, diagonality in grid:
        shrunk = _shrink(totals, covariances, strength, diagonality, reg_covar)
        yield Gaussians(_weights(totals), means, shrunk).log_joint(new)


def _log_joints_by_rows(x, sample_weight, responsibilities, new, grid, reg_covar):
    r"""`_log_joints` where rows are fewer than columns, by matrices of rows.

    A covariance is :math:`\Delta + A^T M A` then, with :math:`\Delta` diagonal and the
    rows A, so that by the identities of Woodbury and Sylvester only
    :math:`I + A \Delta^{-1} A^T M` has to be inverted.
    """
    totals, shares = _shares_of_components(sample_weight, responsibilities)
    center = np.average(x, axis=0, weights=sample_weight)
    rows, new = x - center, new - center
    weights = _weights(totals)
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
            # Products of what lies between the new rows and the mean.
            to_rows = across - own @ among
            squares = products.diagonal()[len(x) :] - across @ own - to_rows @ own
            squares -= np.einsum(
                "ij,ji->i", to_rows @ middle, lu_solve(inner, to_rows.T)
            )
            log_det = np.log(np.abs(inner[0].diagonal())).sum()
            log_det += np.log(diagonal).sum()
            log_joint[:, k] = np.log(weights[k]) - 0.5 * (squares + log_det)
        yield log_joint - 0.5 * x.shape[1] * np.log(2 * np.pi)
