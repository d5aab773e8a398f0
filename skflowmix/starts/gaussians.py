"""The Gaussians that components start from: moments with shrunk covariances."""

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from skflowmix.starts.shrinkage import (
    ROUNDING,
    Shrinkage,
    blended,
    choose_shrinkages,
    log_joint_of,
    moments,
    priors_of,
    shrink,
    weights_of,
)

__all__ = ["Gaussians", "component_weights", "least_strengths"]

# Least strengths of the shrinkage, in rows per column, before flows are trained. Flows
# restore a component's own shape, and do so better from scales that are not too narrow
# for other rows. The greater strength is also tried in tables of fewer than SMALL_TABLE
# values and fewer than FEW_ROWS_TO_START rows per component and column.
LEAST_STRENGTH = 1.0
GREATER_STRENGTH = 10.0
FEW_ROWS_TO_START = 20
SMALL_TABLE = 25_000

# A component is flat if its variance in some direction is below FLAT in units of its
# columns' variances, and small if a standard deviation is below SMALL in units of that
# of all rows.
FLAT = 3e-4
SMALL = 0.01

# float64 is needed if a mean exceeds this many standard deviations of its component.
FARTHEST_MEAN = 1e4

# Rows are clipped to this many standard deviations for the skewness.
SKEW_BOUND = 4.0


class _Groups(Protocol):
    """Which group each component belongs to, see `model.groups.Groups`."""

    of_flow: np.ndarray

    @property
    def are_single(self) -> bool: ...

    def sum(self, values: np.ndarray, /) -> np.ndarray: ...


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
        Principal axes as rows, the longest first, oriented so that the skewness along
        each is not negative. If given, `whitening` rotates the components to them.
    shrinkage : Shrinkage, optional
        How the covariances were shrunk.
    sample_variances : ndarray of shape (n_components, n_features), optional
        Variances of the columns before shrinkage.
    reach : ndarray of shape (n_components,), optional
        Largest Mahalanobis distance of a component's rows; infinite by default.
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
        """Return one Gaussian per group, with the moments of the group's mixture.

        Parameters
        ----------
        groups : Groups
            The group of every component.
        weights : ndarray of shape (n_components,)
            Weights of the components in the mixtures.

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
        r"""Fit the weighted moments of each component's rows, with shrunk covariances.

        .. math::

            \Sigma_k = C_k + \text{reg\_covar}\, \mathrm{diag}(C_k), \quad
            C_k = \frac{n_k S_k + \nu \lambda_k P}{n_k + \nu}, \quad
            P = (1 - a) \bar S + a\, \mathrm{diag}(\bar S),
            \quad \bar S = \sum_k \pi_k S_k,

        the posterior mean under an inverse Wishart prior around the pooled covariance,
        scaled to the component: :math:`\lambda_k` is the mean ratio of its variances
        to the pooled ones, to the power :math:`n_k / (n_k + 100)`, and in no direction
        is the variance of :math:`\lambda_k P` more than 10 000 times that of
        :math:`S_k`, if this is not zero. The strength
        :math:`\nu` and :math:`a` are those with the largest cross-validated likelihood
        of the mixture. Where rows are few and it increases this likelihood, a share of
        every row goes to all components in proportion to their weights, which also
        shrinks the means. A component without rows takes the moments of all rows.

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_features)
            Standardised rows.
        sample_weight : ndarray of shape (n_samples,)
            Positive weights; a single row has weight one.
        responsibilities : ndarray of shape (n_samples, n_components)
            Share of each row that belongs to each component.
        reg_covar : float
            Added to the diagonals, in units of their entries, see `_added`.
        least_strength : float, default=0.0
            Least strength of the shrinkage, in rows per column.
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
        tied: tuple[int, ...] = (),
    ) -> list[Self]:
        """Fit Gaussians for each of several least strengths by one cross-validation.

        Parameters
        ----------
        x, sample_weight, responsibilities, reg_covar, turned
            As for `fit`.
        least_strengths : sequence of float
            Least strengths as for `fit`, one for each result.
        tied : tuple of int
            Columns of which all components have the pooled covariance, and none with
            other columns, if rows are no fewer than columns.

        Returns
        -------
        fits : list of Gaussians
            The fitted moments.
        """
        fits = []
        for shrinkage in choose_shrinkages(
            x, sample_weight, responsibilities, reg_covar, least_strengths, tied
        ):
            gaussians = cls.shrunk(x, sample_weight, responsibilities, shrinkage)
            if turned:
                shares = blended(responsibilities, sample_weight, shrinkage.blend)
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
        """Fit Gaussians with a given shrinkage.

        Parameters
        ----------
        x, sample_weight, responsibilities : ndarray
            As for `fit`.
        shrinkage : Shrinkage
            How to shrink the covariances.

        Returns
        -------
        gaussians : Gaussians
            The fitted moments.
        """
        shares = blended(responsibilities, sample_weight, shrinkage.blend)
        totals, means, scatter = moments(x, sample_weight, shares, shrinkage.tied)
        covariances = shrink(
            totals,
            scatter,
            priors_of(totals, scatter, shrinkage.diagonality),
            shrinkage.strength,
            shrinkage.reg_covar,
            shrinkage.tied,
        )
        variances = np.diagonal(scatter, axis1=1, axis2=2)
        rounding = (ROUNDING * np.maximum(1, np.abs(means))) ** 2
        return cls(
            weights_of(totals),
            means,
            covariances,
            shrinkage=shrinkage,
            sample_variances=np.where(variances > rounding, variances, 0.0),
        )

    def refit(
        self, x: np.ndarray, sample_weight: np.ndarray, responsibilities: np.ndarray
    ) -> Self:
        """Fit Gaussians to other rows with the same shrinkage and axes.

        The axes need not be principal axes of these rows: then whitening normalises
        only the variances along them.

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
        """Set `reach` to the largest whitened distance of each component's rows.

        Parameters
        ----------
        x, responsibilities : ndarray
            As for `fit`. A row belongs to the component of its largest responsibility;
            a row without responsibilities belongs to none.
        """
        owner = np.where(responsibilities.any(axis=1), responsibilities.argmax(1), -1)
        scales, whitening = self.scales(), self.whitening()
        self.reach = np.zeros(len(self.weights))
        for k in np.unique(owner[owner >= 0]):
            white = (x[owner == k] - self.means[k]) / scales[k] @ whitening[k].T
            self.reach[k] = np.linalg.norm(white, axis=1).max()

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """Return the joint log-densities log p(k) + log N(x; k) of rows.

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_joint : ndarray of shape (n_samples, n_components)
            In nats.
        """
        return log_joint_of(self.weights, self.means, self.covariances, x)

    def share_covariance(self) -> bool:
        """Whether several components have one covariance, see `fit_each`."""
        n_components, n_columns = self.means.shape
        tied = () if self.shrinkage is None else self.shrinkage.tied
        return n_components > 1 and len(tied) == n_columns

    def are_flat(self) -> bool:
        """Whether a component is flat in some direction, apart from `reg_covar`."""
        if self._are_flat is None:  # cached: every phase of a fit calls this
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
        """Whether a component is small; all rows together have unit variances."""
        return self.scales().min() < SMALL

    def need_float64(self) -> bool:
        """Whether float32 is too coarse to tell a component's rows apart."""
        far = np.abs(self.means) > FARTHEST_MEAN * np.sqrt(self.sample_variances)
        return bool((far & (self.sample_variances > 0)).any())

    def thickness(self) -> np.ndarray | None:
        """Return the standard deviations (K, D) of what `reg_covar` has added.

        None if all components vary in every direction and do not need it.
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
        """Return the matrices W that whiten rows divided by `scales`.

        They rotate the components to their principal axes where these are known;
        otherwise they are lower triangular with positive diagonals.

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
    """Return least strengths of the shrinkage for Gaussians that flows start from.

    Parameters
    ----------
    n_rows, n_columns, n_components : int
        Of the rows that flows are trained on.

    Returns
    -------
    strengths : list of float
        For `Gaussians.fit_each`; the caller chooses among several by held-out rows.
    """
    few = n_rows < FEW_ROWS_TO_START * n_columns * n_components
    if few and n_rows * n_columns < SMALL_TABLE:
        return [LEAST_STRENGTH, GREATER_STRENGTH]
    return [LEAST_STRENGTH]


def _are_positive_definite(matrices: np.ndarray) -> bool:
    """Test by Cholesky factors, in a tenth of the time that eigenvalues take."""
    try:
        np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return False
    return True


def _principal_axes(
    gaussians: Gaussians, x: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Return eigenvectors, the longest first, with non-negative skewness along each."""
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
    """Return the mixture weights: weighted means of responsibilities (n, K)."""
    return weights_of(sample_weight @ responsibilities)
