"""`NeighborDensity`: a density by the distance to a measure."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import gammaln
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import gen_batches

from skflowmix.starts.preprocessing import (
    SCORING_BOUND,
    TRAINING_BOUND,
    Standardizer,
    count_directions,
    merge_identical_rows,
)

__all__ = ["NeighborDensity"]

# Largest number of rows that are kept.
MAX_ROWS = 2000

# Least number of neighbours, in rows of mean weight.
MIN_NEIGHBORS = 5

# Lower bound of the distance, in standard deviations: keeps density finite at spikes.
MIN_DISTANCE = 1e-3

# Number of distances in memory at a time.
CHUNK_SIZE = 2_000_000


@dataclass(frozen=True)
class NeighborDensity:
    r"""Density estimate from the distances to the nearest share of all rows.

    A ball in D dimensions in which the share m of the rows is evenly distributed has
    the density :math:`m / (V_D r^D)` and the mean squared distance
    :math:`\delta^2 = r^2 D / (D + 2)` to its centre. With :math:`\delta` the distance
    to measure [1]_, the root mean squared distance to the nearest share m of the rows,
    this gives a density estimate that changes little when few rows change: a group of
    much less than the share m does not create a region of high density. It is not
    normalised: its tail decays like :math:`r^{-D}`. D is the number of directions in
    which rows differ (with few rows, of columns that are not constant).

    Parameters
    ----------
    standardizer : Standardizer
        Location and scale of the columns.
    rows : ndarray of shape (n_rows, n_features), float64
        The rows whose distances count, standardised.
    weights : ndarray of shape (n_rows,)
        Their weights.
    mass : float
        Total weight of the neighbours.
    n_directions : int
        The dimension D.

    References
    ----------
    .. [1] F. Chazal, D. Cohen-Steiner and Q. Merigot, Geometric Inference for
       Probability Measures, Foundations of Computational Mathematics 11, 2011.
    """

    standardizer: Standardizer
    rows: np.ndarray
    weights: np.ndarray
    mass: float
    n_directions: int

    @classmethod
    def fit(cls, X: np.ndarray, sample_weight: np.ndarray, share: float) -> Self:
        """Fit the estimate to the distinct rows, or to 2000 of them.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), float64
            Finite rows.
        sample_weight : ndarray of shape (n_samples,)
            Positive weights; a common factor changes nothing, and an integer weight
            equals repeating the row.
        share : float
            Share of the weight that forms a row's neighbourhood, at most one; at least
            five rows of mean weight are used.

        Returns
        -------
        density : NeighborDensity
            The estimate.
        """
        rows, weights, _ = merge_identical_rows(X, sample_weight)
        standardizer = Standardizer.fit(rows, weights)
        # Merged rows are in a random order, the same for the same rows.
        weights = weights[:MAX_ROWS]
        rows = standardizer.transform(rows[:MAX_ROWS], TRAINING_BOUND)
        least = min(MIN_NEIGHBORS, len(rows)) * weights.mean()
        mass = float(max(share * weights.sum(), least))
        n_directions = max(1, count_directions(rows, weights))
        return cls(standardizer, rows, weights, mass, n_directions)

    def log_prob(self, X: np.ndarray) -> np.ndarray:
        """Return the log-density at every row.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Finite rows.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,), float64
            In nats, for densities in data units.
        """
        bound = SCORING_BOUND[np.dtype(np.float64)]
        # Enough neighbours even where they are the lightest.
        enough = int(np.searchsorted(np.cumsum(np.sort(self.weights)), self.mass)) + 1
        enough = min(enough, len(self.rows))
        index = NearestNeighbors(n_neighbors=enough, algorithm="brute")
        index.fit(self.rows)
        distance = np.empty(len(X))
        for chunk in gen_batches(len(X), max(1, CHUNK_SIZE // len(self.rows))):
            distances, neighbors = index.kneighbors(
                self.standardizer.transform(X[chunk], bound)
            )
            before = np.cumsum(self.weights[neighbors], axis=1)
            before -= self.weights[neighbors]
            counted = np.clip(self.mass - before, 0, self.weights[neighbors])
            squares = np.average(distances**2, axis=1, weights=counted)
            distance[chunk] = np.sqrt(squares)
        d = self.n_directions
        radius = np.sqrt((d + 2) / d) * np.maximum(distance, MIN_DISTANCE)
        log_volume = d / 2 * np.log(np.pi) - gammaln(d / 2 + 1) + d * np.log(radius)
        log_share = np.log(self.mass / self.weights.sum())
        return log_share - log_volume - self.standardizer.log_scale
