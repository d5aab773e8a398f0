"""`Marginals`: the densities of the columns, one by one."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from skflowmix.data import (
    SCORING_BOUND,
    TRAINING_BOUND,
    Standardizer,
    merge_identical_rows,
    weighted_quantile,
)

__all__ = ["Marginals"]

# So many quantiles of a column stand for its values.
N_CENTERS = 512

# A spread below this share of the standard deviation is a spike, not the bulk.
SMALLEST_SPREAD = 0.2

# Nodes of the tables, in bandwidths: how far apart they are, and how far from a center
# the furthest is.
STEP, REACH = 0.25, 5.0


@dataclass(frozen=True)
class Marginals:
    """Gaussian kernel estimates of the columns' densities, kept as tables.

    Beyond five bandwidths from all values a density stays what it is there.

    Parameters
    ----------
    standardizer : Standardizer
        Location and scale of the columns.
    nodes : list of ndarray of shape (n_nodes,)
        For each column, increasing values, in standard deviations.
    log_density : list of ndarray of shape (n_nodes,)
        The estimates there, in nats.
    """

    standardizer: Standardizer
    nodes: list[np.ndarray]
    log_density: list[np.ndarray]

    @classmethod
    def fit(cls, X, sample_weight):
        """Estimate the density of every column.

        The bandwidth is Silverman's (Density Estimation for Statistics and Data
        Analysis, 1986, equation 3.31), of at most 512 rows.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), float64
            Finite rows.
        sample_weight : ndarray of shape (n_samples,)
            Positive weights; a common factor changes nothing, and an integer weight
            equals repeating the row.

        Returns
        -------
        marginals : Marginals
            The tables.
        """
        rows, weights, _ = merge_identical_rows(X, sample_weight)
        standardizer = Standardizer.fit(rows, weights)
        levels = (np.arange(N_CENTERS) + 0.5) / N_CENTERS
        nodes, log_density = [], []
        for column in standardizer.transform(rows, TRAINING_BOUND).T:
            centers = weighted_quantile(column, weights, levels)
            low, high = weighted_quantile(column, weights, [0.25, 0.75])
            spread = np.clip((high - low) / 1.34, SMALLEST_SPREAD, 1.0)
            bandwidth = 0.9 * spread * min(len(rows), N_CENTERS) ** -0.2
            lattice = np.unique(np.rint(centers / (STEP * bandwidth)))
            reach = np.arange(-REACH / STEP, REACH / STEP + 1)
            nodes.append(np.unique(lattice[:, None] + reach) * STEP * bandwidth)
            exponents = -(((nodes[-1][:, None] - centers) / bandwidth) ** 2) / 2
            norm = np.log(N_CENTERS * bandwidth * np.sqrt(2 * np.pi))
            log_density.append(logsumexp(exponents, axis=1) - norm)
        return cls(standardizer, nodes, log_density)

    def log_prob(self, X):
        """Sum over the columns of their log-densities.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Finite rows.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,), float64
            In nats, for densities in data units.
        """
        x = self.standardizer.transform(X, SCORING_BOUND[np.dtype(np.float64)])
        total = np.full(len(x), -self.standardizer.log_scale)
        for column, nodes, log_density in zip(
            x.T, self.nodes, self.log_density, strict=True
        ):
            total += np.interp(column, nodes, log_density)
        return total
