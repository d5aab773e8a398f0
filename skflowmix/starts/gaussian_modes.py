"""Clusters that touch: modes of a mixture of Gaussians with one covariance."""

import warnings
from collections.abc import Iterator

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from sklearn.cluster import KMeans

from skflowmix.starts.density_modes import MIN_CLUSTER_ROWS, Valley
from skflowmix.starts.knn import one_hot

__all__ = ["gaussian_modes"]

MAX_ITER = 100
TOLERANCE = 1e-4
REG_COVAR = 1e-4
# A mixture of so many more Gaussians that BIC does not prefer ends the search.
PATIENCE = 2
# The mixture's density falls to this share in a valley, and so do the rows along the
# line through both means, by so many standard errors.
MAX_DENSITY = 0.5
MIN_ERRORS = 5.0
# Which hold this share of the rows of both Gaussians.
TUBE_SHARE = 0.9
# Directions are chosen by the rows: so few, and one more a column, tell nothing.
MIN_ROWS = 20
# So many coordinates at most in which clusters are looked for first.
N_FLAT = 3
# Lines are looked at in so many places.
N_STEPS = 21
N_PLACES = 65


def gaussian_modes(
    x: np.ndarray,
    weight: np.ndarray,
    max_clusters: int,
    random_state: np.random.RandomState,
) -> tuple[np.ndarray, list[Valley]]:
    """Divide rows into the modes of a mixture of Gaussians.

    The Gaussians have one covariance, in units of which there is a direction in which
    two of them differ, however many columns there are. BIC says how many they are.
    Those between which the mixture's density has no valley are one cluster, and so are
    those between which the rows themselves have none, in this direction.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Rows.
    weight : ndarray of shape (n,)
        Positive, mean one.
    max_clusters : int
        The most clusters, and Gaussians by a few, there can be.
    random_state : RandomState
        The only source of randomness.

    Returns
    -------
    labels : ndarray of shape (n,)
        From 0.
    valleys : list of Valley
        Those between the groups, a tree; then those that were passed over, in which
        groups may have any number.

    References
    ----------
    S. Ray, B. Lindsay, *The topography of multivariate normal mixtures*, Annals of
    Statistics 33, 2005: with one covariance, ridges are lines.

    C. Hennig, *Methods for merging Gaussian mixture components*, Advances in Data
    Analysis and Classification 4, 2010.
    """
    found = [
        _modes(mixture, x.shape[1])
        for mixture in _mixtures(x, weight, max_clusters + PATIENCE, random_state)
    ]
    return min(found, key=lambda labels_and_valleys: labels_and_valleys[0].max())


def _modes(mixture: "_Mixture", n_features: int) -> tuple[np.ndarray, list[Valley]]:
    """Do what `gaussian_modes` does, by one mixture."""
    sizes = np.bincount(mixture.owner, minlength=len(mixture.means))
    joined, cluster = (np.arange(len(mixture.means)) for _ in "ab")
    between, passed_over = [], []
    for a, b, density in mixture.saddles():
        sides = [joined == joined[a], joined == joined[b]]
        n_rows = int(min(sizes[side].sum() for side in sides))
        share = n_rows / len(mixture.owner)
        joined[sides[1]] = joined[a]
        found, limit = mixture.emptiness(a, b)
        # The model alone sees valleys where there are few rows, and rows alone the
        # bends of a cluster.
        density = found if density < MAX_DENSITY else max(density, found)
        if density < limit and n_rows >= MIN_ROWS + n_features:
            between.append((a, b, density, limit, share))
            continue
        cluster[cluster == cluster[b]] = cluster[a]
        if n_rows >= MIN_CLUSTER_ROWS:
            passed_over.append(Valley((0, 0), density, min(limit, density), share))
    number = np.unique(cluster, return_inverse=True)[1]
    valleys = [Valley((int(number[a]), int(number[b])), *v) for a, b, *v in between]
    return np.unique(number[mixture.owner], return_inverse=True)[
        1
    ], valleys + passed_over


class _Mixture:
    """Gaussians with one covariance, in units of which rows and means are.

    Fitted by EM, from labels of the rows.
    """

    def __init__(
        self, x: np.ndarray, weight: np.ndarray, labels: np.ndarray, n_gaussians: int
    ):
        n, n_features = x.shape
        total = (x * weight[:, None]).T @ x / weight.sum()
        ridge = REG_COVAR * max(np.trace(total) / n_features, 1e-12)
        responsibilities = one_hot(labels, n_gaussians)
        previous = -np.inf
        for _ in range(MAX_ITER):
            weighted = responsibilities * weight[:, None]
            mass = weighted.sum(axis=0) + 1e-9
            means = weighted.T @ x / mass[:, None]
            self.shares = mass / mass.sum()
            within = total - (means * self.shares[:, None]).T @ means
            within[np.diag_indices(n_features)] += ridge
            lower = np.linalg.cholesky(within)
            self.rows = solve_triangular(lower, x.T, lower=True).T
            self.means = solve_triangular(lower, means.T, lower=True).T
            log_joint = self.rows @ self.means.T + np.log(self.shares)
            log_joint -= 0.5 * np.sum(self.means**2, axis=1)
            log_sums = logsumexp(log_joint, axis=1)
            responsibilities = np.exp(log_joint - log_sums[:, None])
            log_prob = log_sums - 0.5 * np.sum(self.rows**2, axis=1)
            likelihood = np.average(log_prob, weights=weight)
            likelihood -= np.log(lower.diagonal()).sum()
            if likelihood - previous < TOLERANCE:
                break
            previous = likelihood
        self.owner = responsibilities.argmax(axis=1)
        n_parameters = n_gaussians * (n_features + 1)
        self.bic = -2.0 * likelihood * n + n_parameters * np.log(n)

    def saddles(self) -> Iterator[tuple[int, int, float]]:
        """Pairs of Gaussians by which all hang together, the densest way first.

        Each with the density in its valley over that of the lower of both modes.
        """
        shape = len(self.means), len(self.means)
        a, b = np.triu_indices(len(self.means), 1)
        steps = np.linspace(0.0, 1.0, N_STEPS)[:, None, None]
        lines = self.means[a] + steps * (self.means[b] - self.means[a])
        heights = self._log_density(lines).min(axis=0)
        peak = self._log_density(self.means)
        group = np.arange(shape[0])
        for i in np.argsort(-heights, kind="stable"):
            one, other = group[a[i]], group[b[i]]
            if one != other:
                lower = min(peak[one], peak[other])
                yield int(a[i]), int(b[i]), float(np.exp(heights[i] - lower))
                peak[one] = max(peak[one], peak[other])
                group[group == other] = one

    def _log_density(self, points: np.ndarray) -> np.ndarray:
        """Up to a constant."""
        squares = np.sum((points[..., None, :] - self.means) ** 2, axis=-1)
        return logsumexp(np.log(self.shares) - 0.5 * squares, axis=-1)

    def emptiness(self, a: int, b: int) -> tuple[float, float]:
        """Count rows along the line through two means.

        Returns the number in the emptiest place between over that around the lower
        mode, and how low it has to be to be no accident.
        """
        direction = self.means[b] - self.means[a]
        along = self.rows @ direction
        # Rows near the line, whichever Gaussian has them: on a bent cluster a third one
        # lies between.
        aside = np.sum((self.rows - self.means[a]) ** 2, axis=1)
        aside -= (along - self.means[a] @ direction) ** 2 / (direction @ direction)
        theirs = aside[np.isin(self.owner, (a, b))]
        width = np.quantile(theirs, TUBE_SHARE) if len(theirs) else 0.0
        along = np.sort(along[aside <= width])
        length = direction @ direction
        places = self.means[a] @ direction + length * np.linspace(-0.5, 1.5, N_PLACES)
        n_rows = np.searchsorted(along, places + length / 8)
        n_rows -= np.searchsorted(along, places - length / 8)
        first, last = N_PLACES // 4, N_PLACES - N_PLACES // 4
        lowest = first + n_rows[first:last].argmin()
        mode = max(min(n_rows[: lowest + 1].max(), n_rows[lowest:].max()), 1)
        # Roots of counts have a variance of a quarter.
        limit = max(np.sqrt(mode) - MIN_ERRORS / np.sqrt(2.0), 0.0) ** 2 / mode
        return float(n_rows[lowest] / mode), float(min(limit, MAX_DENSITY))


def _mixtures(
    x: np.ndarray,
    weight: np.ndarray,
    max_gaussians: int,
    random_state: np.random.RandomState,
) -> list[_Mixture]:
    """Fit the mixture that BIC prefers, and those of a few more Gaussians.

    Too few Gaussians leave gaps along a bent cluster that more of them close.
    """
    x = x - np.average(x, axis=0, weights=weight)
    mixtures = [_Mixture(x, weight, np.zeros(len(x), dtype=int), 1)]
    flat = _flat_coordinates(mixtures[0].rows, weight)
    n_flat = max(min(N_FLAT, x.shape[1] - 1), 1)
    best = 0
    for n_gaussians in range(2, max_gaussians + 1):
        if len(x) < MIN_CLUSTER_ROWS * n_gaussians or len(mixtures) > best + PATIENCE:
            break
        tried = []
        for columns in (x, flat[:, : min(n_gaussians - 1, n_flat)]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # k-means', of equal rows
                model = KMeans(n_gaussians, n_init=1, random_state=random_state)
                labels = model.fit_predict(columns, sample_weight=weight)
            tried.append(_Mixture(x, weight, labels, n_gaussians))
        mixtures.append(min(tried, key=lambda mixture: mixture.bic))
        if mixtures[-1].bic < mixtures[best].bic:
            best = len(mixtures) - 1
    return mixtures[best:]


def _flat_coordinates(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Coordinates of whitened rows, those of the lowest kurtosis first.

    Clusters differ in these, whatever the scales of the columns.

    References
    ----------
    D. Tyler, F. Critchley, L. Dümbgen, H. Oja, *Invariant co-ordinate selection*,
    Journal of the Royal Statistical Society B 71, 2009.
    """
    # Clipped, as a few far rows decide a fourth moment.
    squares = np.sum(rows**2, axis=1)
    squares = np.minimum(squares, 4.0 * np.median(squares)) * weight
    return rows @ np.linalg.eigh((rows * squares[:, None]).T @ rows)[1]
