"""The other models of the quality benchmark, each set up as a user would do it.

``DENSITY`` and ``ANOMALY`` map a name to ``make(seed)``, an object with ``fit(X)`` and
``score_samples(X)``; ``CLUSTERING`` maps a name to ``cluster(X, K, seed) -> labels``.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.cluster import HDBSCAN, KMeans, SpectralClustering
from sklearn.ensemble import IsolationForest
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.neighbors import (
    KernelDensity,
    KNeighborsClassifier,
    LocalOutlierFactor,
    NearestNeighbors,
)

MAX_ROWS = 6000
"""KernelDensity and SpectralClustering see at most this many rows, drawn at random."""

COMPONENTS = (*range(1, 11), 12, 14, 16, 18, 20, 25, 30, 35, 40)
"""The sizes of GaussianMixture tried, 1 to 40; every one up to 10."""

BANDWIDTHS = np.geomspace(0.02, 3, 25)
"""The bandwidths of KernelDensity tried, in standard deviations of a column."""


def subsample(X, seed, limit=MAX_ROWS):
    """At most `limit` rows of X."""
    if len(X) <= limit:
        return X
    return X[np.random.default_rng(seed).choice(len(X), limit, replace=False)]


class BestGaussianMixture:
    """GaussianMixture with the settings that an inner 80/20 split prefers.

    They are K and `reg_covar`; all rows are then fitted again.
    """

    def __init__(self, seed, floors=(1e-6,)):
        self.seed, self.floors = seed, floors

    def fit(self, X):
        part, held_out = train_test_split(X, test_size=0.2, random_state=self.seed)
        sizes = [k for k in COMPONENTS if k <= len(part) // 2]
        tried = [(k, floor) for k in sizes for floor in self.floors]
        scores = [self._fit(*settings, part).score(held_out) for settings in tried]
        best = tried[int(np.argmax(scores))]
        self.chosen = dict(zip(("n_components", "reg_covar"), best, strict=True))
        self.model = self._fit(*best, X)
        return self

    def _fit(self, k, floor, X):
        return GaussianMixture(k, reg_covar=floor, random_state=self.seed).fit(X)

    def score_samples(self, X):
        return self.model.score_samples(X)


class VariationalGaussianMixture:
    """BayesianGaussianMixture with 20 components (fewer where rows are few)."""

    def __init__(self, seed):
        self.seed = seed

    def fit(self, X):
        k = min(20, len(X) // 2)
        self.model = BayesianGaussianMixture(
            n_components=k, max_iter=300, random_state=self.seed
        ).fit(X)
        return self

    def score_samples(self, X):
        return self.model.score_samples(X)


class BestKernelDensity:
    """Gaussian KernelDensity with the bandwidth that an inner 80/20 split prefers.

    The split is of distinct rows: a repeated row in both parts would ask for a
    bandwidth of zero.
    """

    def __init__(self, seed):
        self.seed = seed

    def fit(self, X):
        X = subsample(X, self.seed)
        distinct = np.unique(X, axis=0)
        part, held_out = train_test_split(
            distinct, test_size=0.2, random_state=self.seed
        )
        squared = cdist(held_out, part, "sqeuclidean")
        scores = [_kernel_score(squared, h, X.shape[1]) for h in BANDWIDTHS]
        self.chosen = {"bandwidth": float(BANDWIDTHS[int(np.argmax(scores))])}
        self.model = KernelDensity(**self.chosen).fit(X)
        return self

    def score_samples(self, X):
        return self.model.score_samples(X)


def _kernel_score(squared, bandwidth, d):
    """Mean log-density of a Gaussian kernel estimate, in nats."""
    exponent = logsumexp(-squared / (2 * bandwidth**2), axis=1).mean()
    norm = np.log(squared.shape[1]) + d * np.log(bandwidth * np.sqrt(2 * np.pi))
    return exponent - norm


class ZukoNSF:
    """One neural spline flow of zuko, with early stopping; the best weights stay."""

    def __init__(self, seed, max_epochs=200, patience=20, batch_size=256):
        self.seed = seed
        self.max_epochs = max_epochs
        self.patience = patience
        self.batch_size = batch_size

    def fit(self, X):
        import zuko

        part, held_out = train_test_split(
            torch.as_tensor(X, dtype=torch.float32),
            test_size=0.15,
            random_state=self.seed,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.flow = zuko.flows.NSF(
                X.shape[1], transforms=3, hidden_features=(64, 64)
            )
            self._train(part, held_out)
        return self

    def _train(self, part, held_out):
        optimizer = torch.optim.Adam(self.flow.parameters(), lr=1e-3)
        best, best_score, best_epoch = None, -np.inf, 0
        for epoch in range(self.max_epochs):
            for batch in torch.randperm(len(part)).split(self.batch_size):
                loss = -self.flow().log_prob(part[batch]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            score = self._log_prob(held_out).mean().item()
            if score > best_score:
                best, best_score, best_epoch = self._weights(), score, epoch
            if epoch - best_epoch >= self.patience or not np.isfinite(score):
                break
        if best is not None:
            self.flow.load_state_dict(best)
        self.chosen = {"epochs": best_epoch + 1}

    def _weights(self):
        return copy.deepcopy(self.flow.state_dict())

    @torch.no_grad()
    def _log_prob(self, X):
        return torch.cat([self.flow().log_prob(part) for part in X.split(4096)])

    def score_samples(self, X):
        return self._log_prob(torch.as_tensor(X, dtype=torch.float32)).double().numpy()


class VineCopula:
    """A vine copula of pyvinecopulib: kernel margins, nonparametric pairs, five trees.

    Where a row is outside all margins' grids its density is the smallest number.
    """

    def __init__(self, seed):
        self.seed = seed

    def fit(self, X):
        import pyvinecopulib as pv

        controls = pv.FitControlsVinecop(
            family_set=[pv.tll, pv.indep], trunc_lvl=5, num_threads=1
        )
        self.model = pv.Vinedist.from_data(np.asfortranarray(X), controls=controls)
        return self

    def score_samples(self, X):
        density = self.model.pdf(np.asfortranarray(X))
        return np.log(np.maximum(density, np.finfo(float).tiny))


def gmm_labels(X, k, seed):
    return GaussianMixture(k, n_init=10, random_state=seed).fit_predict(X)


def bayesian_labels(X, k, seed):
    return BayesianGaussianMixture(
        n_components=k, n_init=10, random_state=seed
    ).fit_predict(X)


def kmeans_labels(X, k, seed):
    return KMeans(k, n_init=10, random_state=seed).fit_predict(X)


def spectral_labels(X, k, seed):
    """On the 10-nearest-neighbour graph; rows left out take the nearest row's label."""
    part = subsample(X, seed)
    labels = SpectralClustering(
        k, affinity="nearest_neighbors", random_state=seed
    ).fit_predict(part)
    return labels if len(part) == len(X) else _nearest(part, labels, X)


def hdbscan_labels(X, k, seed):
    """Knows no K: groups of at least 2 % of the rows; noise joins the nearest group."""
    labels = HDBSCAN(min_cluster_size=max(5, len(X) // 50), copy=True).fit_predict(X)
    kept = labels >= 0
    return _nearest(X[kept], labels[kept], X) if kept.any() else labels


def _nearest(part, labels, X):
    return KNeighborsClassifier(1).fit(part, labels).predict(X)


DENSITY = {
    "gmm": BestGaussianMixture,
    "bgmm": VariationalGaussianMixture,
    "kde": BestKernelDensity,
    "zuko_nsf": ZukoNSF,
    "gmm_floor": lambda seed: BestGaussianMixture(seed, floors=(1e-3, 1e-4, 1e-6)),
    "vine": VineCopula,
}
CLUSTERING = {
    "gmm": gmm_labels,
    "bgmm": bayesian_labels,
    "kmeans": kmeans_labels,
    "spectral": spectral_labels,
    "hdbscan": hdbscan_labels,
}


class NearestNeighborDistance:
    """Mean distance to the five nearest training rows, negated."""

    def __init__(self, seed):
        self.index = NearestNeighbors(n_neighbors=5)

    def fit(self, X):
        self.index.fit(X)
        return self

    def score_samples(self, X):
        return -self.index.kneighbors(X)[0].mean(axis=1)


ANOMALY = {
    "gmm": lambda seed: GaussianMixture(5, random_state=seed),
    "bgmm": lambda seed: BayesianGaussianMixture(n_components=5, random_state=seed),
    "kde": BestKernelDensity,
    "iforest": lambda seed: IsolationForest(random_state=seed),
    "lof": lambda seed: LocalOutlierFactor(novelty=True),
    "knn": NearestNeighborDistance,
}
