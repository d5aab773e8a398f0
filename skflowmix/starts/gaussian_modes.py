"""Touching clusters: modes of a Gaussian mixture with a shared covariance."""

import warnings
from collections.abc import Iterator, Sequence

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
# The search ends after this many mixtures in a row that BIC does not prefer.
PATIENCE = 2
# In a valley, both the mixture's density and the number of rows along the line through
# both means are below this share of those at the lower mode; the number of rows is
# lower by at least this many standard errors.
MAX_DENSITY = 0.5
MIN_ERRORS = 5.0
# Largest such share in a gap between groups of Gaussians, over all columns: projected
# on a line, a ring has a third to a half in its middle.
MAX_IN_GAP = 0.1
# Rows count within the distance from the line that holds this share of both Gaussians'
# rows.
TUBE_SHARE = 0.9
# Least rows on either side, plus one per column, because directions are fitted to them.
MIN_ROWS = 20
# Most low-kurtosis coordinates that k-means is tried in, besides all columns.
N_FLAT = 3
# Points on a line at which the mixture's density is evaluated, and rows are counted.
N_STEPS = 21
N_PLACES = 65


def gaussian_modes(
    x: np.ndarray,
    weight: np.ndarray,
    max_clusters: int,
    random_state: np.random.RandomState,
) -> tuple[np.ndarray, list[Valley]]:
    """Divide rows into the modes of a Gaussian mixture.

    The Gaussians share one covariance: in whitened coordinates two of them differ only
    along the line through their means, however many columns there are. BIC chooses
    their number, or a few more are used if that leaves fewer clusters. Two Gaussians
    are one cluster where the mixture's density, or the rows themselves, have no valley
    along that line, unless all rows on either side leave a gap between them.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Rows.
    weight : ndarray of shape (n,)
        Positive, mean one.
    max_clusters : int
        Largest number of clusters wanted; at most `PATIENCE` more Gaussians are tried.
    random_state : RandomState
        The only source of randomness.

    Returns
    -------
    labels : ndarray of shape (n,)
        From 0.
    valleys : list of Valley
        Valleys between the groups, which form a tree, then those that were passed over.

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
    """Divide rows into the modes of one mixture, see `gaussian_modes`."""
    sizes = np.bincount(mixture.owner, minlength=len(mixture.means))
    joined, cluster = (np.arange(len(mixture.means)) for _ in "ab")
    between, passed_over = [], []
    for a, b, density in mixture.saddles():
        sides = [joined == joined[a], joined == joined[b]]
        n_rows = int(min(sizes[side].sum() for side in sides))
        share = n_rows / len(mixture.owner)
        joined[sides[1]] = joined[a]
        found, limit = mixture.emptiness(a, b)
        # The model alone has valleys where there are few rows, and the rows alone have
        # them where a cluster bends.
        density = found if density < MAX_DENSITY else max(density, found)
        if n_rows >= MIN_ROWS + n_features and not density < limit:
            found, least = mixture.gap(sides)
            least = min(least, MAX_IN_GAP)
            if found < least:
                density, limit = found, least
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
    """Gaussian mixture with a shared covariance, by which rows and means are whitened.

    Fitted by EM, started from labels of the rows.
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
        """Yield pairs of Gaussians that form a spanning tree, the densest line first.

        Each pair has the density in its valley relative to the lower of both modes.
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
        """Return the log-density of the mixture, up to a constant."""
        squares = np.sum((points[..., None, :] - self.means) ** 2, axis=-1)
        return logsumexp(np.log(self.shares) - 0.5 * squares, axis=-1)

    def emptiness(self, a: int, b: int) -> tuple[float, float]:
        """Count rows along the line through two means.

        Returns the smallest count between the means relative to the count around the
        lower mode, and the limit below which this ratio is significant.
        """
        direction = self.means[b] - self.means[a]
        along = self.rows @ direction
        # Rows near the line count for any Gaussian: on a bent cluster a third one lies
        # between.
        aside = np.sum((self.rows - self.means[a]) ** 2, axis=1)
        aside -= (along - self.means[a] @ direction) ** 2 / (direction @ direction)
        theirs = aside[np.isin(self.owner, (a, b))]
        width = np.quantile(theirs, TUBE_SHARE) if len(theirs) else 0.0
        start = self.means[a] @ direction
        return _emptiest(along[aside <= width], start, direction @ direction)

    def gap(self, sides: Sequence[np.ndarray]) -> tuple[float, float]:
        """Count the rows of two groups of Gaussians along their discriminant direction.

        For elongated groups, of which each Gaussian has few rows. The direction is
        fitted to every other row and applied to those in between, and the reverse:
        fitted to the same rows it would open gaps by chance. Returns what `emptiness`
        does.
        """
        groups = [self.rows[side[self.owner]] for side in sides]
        along = []
        for seen, other in ((0, 1), (1, 0)):
            fitted = [rows[seen::2] for rows in groups]
            means = [rows.mean(axis=0) for rows in fitted]
            centred = np.concatenate(
                [rows - mean for rows, mean in zip(fitted, means, strict=True)]
            )
            within = centred.T @ centred / len(centred)
            within[np.diag_indices(len(within))] += REG_COVAR * np.trace(within)
            direction = np.linalg.solve(within, means[1] - means[0])
            length = (means[1] - means[0]) @ direction
            if not length > 0:  # both have the same mean
                return 1.0, 0.0
            along += [
                (rows[other::2] - means[0]) @ direction / length for rows in groups
            ]
        return _emptiest(np.concatenate(along), 0.0, 1.0)


def _emptiest(along: np.ndarray, start: float, length: float) -> tuple[float, float]:
    """Return the smallest relative count of rows between two places, and its limit.

    Counts are those of windows a quarter of the distance wide, relative to the count
    around the lower mode; a ratio below the limit is significant.
    """
    along = np.sort(along)
    places = start + length * np.linspace(-0.5, 1.5, N_PLACES)
    n_rows = np.searchsorted(along, places + length / 8)
    n_rows -= np.searchsorted(along, places - length / 8)
    first, last = N_PLACES // 4, N_PLACES - N_PLACES // 4
    lowest = first + n_rows[first:last].argmin()
    mode = max(min(n_rows[: lowest + 1].max(), n_rows[lowest:].max()), 1)
    # The square root of a Poisson count has variance 1/4.
    limit = max(np.sqrt(mode) - MIN_ERRORS / np.sqrt(2.0), 0.0) ** 2 / mode
    return float(n_rows[lowest] / mode), float(min(limit, MAX_DENSITY))


def _mixtures(
    x: np.ndarray,
    weight: np.ndarray,
    max_gaussians: int,
    random_state: np.random.RandomState,
) -> list[_Mixture]:
    """Fit the mixture that BIC prefers, and up to `PATIENCE` larger ones.

    Too few Gaussians leave gaps along a bent cluster; larger mixtures close them.
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
                warnings.simplefilter("ignore")  # k-means warns of equal rows
                model = KMeans(n_gaussians, n_init=1, random_state=random_state)
                labels = model.fit_predict(columns, sample_weight=weight)
            tried.append(_Mixture(x, weight, labels, n_gaussians))
        mixtures.append(min(tried, key=lambda mixture: mixture.bic))
        if mixtures[-1].bic < mixtures[best].bic:
            best = len(mixtures) - 1
    return mixtures[best:]


def _flat_coordinates(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return coordinates of whitened rows, in order of rising kurtosis.

    Clusters differ where kurtosis is low, whatever the scales of the columns.

    References
    ----------
    D. Tyler, F. Critchley, L. Dümbgen, H. Oja, *Invariant co-ordinate selection*,
    Journal of the Royal Statistical Society B 71, 2009.
    """
    # Clipped, because a few outlying rows dominate fourth moments.
    squares = np.sum(rows**2, axis=1)
    squares = np.minimum(squares, 4.0 * np.median(squares)) * weight
    return rows @ np.linalg.eigh((rows * squares[:, None]).T @ rows)[1]
