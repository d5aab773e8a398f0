"""Agglomerative clustering by the likelihood of Gaussians."""

from typing import SupportsIndex

import numpy as np
from sklearn.cluster import KMeans

from skflowmix.starts.clusterer import split_to
from skflowmix.starts.knn import Landmarks, one_hot

__all__ = ["merging_labels"]


def merging_labels(
    landmarks: Landmarks,
    n_components: int,
    n_groups: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Merge k-means groups, each time the pair that loses the least likelihood.

    Unlike distances, likelihoods depend little on the columns' scales and can find
    groups of very different sizes.

    References
    ----------
    C. Fraley, *Algorithms for model-based Gaussian hierarchical clustering*, SIAM
    Journal on Scientific Computing 20, 1998, the criterion for unequal covariances.
    """
    x, weight = landmarks.x, landmarks.weight
    model = KMeans(n_groups, n_init=1, random_state=random_state)
    labels = model.fit_predict(x, sample_weight=weight)
    labels = np.unique(labels, return_inverse=True)[1]
    typical = _typical_variances(x, n_components)
    hard = one_hot(labels, labels.max() + 1)
    mass = weight @ hard
    means = (hard * weight[:, None]).T @ x / mass[:, None]
    centred = x - means[labels]
    scatter = np.stack(
        [
            (weight[rows, None] * centred[rows]).T @ centred[rows]
            for rows in (labels == k for k in range(len(mass)))
        ]
    )

    def cost(mass: np.ndarray, scatter: np.ndarray) -> np.ndarray:
        covariances = _lean(scatter / mass[:, None, None], mass, typical)
        log_det = np.linalg.slogdet(covariances)[1]
        return mass * (0.5 * log_det - np.log(mass))

    def merged(k: SupportsIndex) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mass, mean and scatter of group k merged with each other group."""
        total = mass + mass[k]
        between = means - means[k]
        spread = np.einsum("gi,gj->gij", between, between)
        factor = (mass * mass[k] / total)[:, None, None]
        mean = (means * mass[:, None] + means[k] * mass[k]) / total[:, None]
        return total, mean, scatter + scatter[k] + factor * spread

    def increase(k: SupportsIndex) -> np.ndarray:
        total, _, joint = merged(k)
        return cost(total, joint) - own - own[k]

    own = cost(mass, scatter)
    increases = np.stack([increase(k) for k in range(len(mass))])
    np.fill_diagonal(increases, np.inf)
    n_left = len(mass)
    while n_left > n_components:
        i, j = np.unravel_index(increases.argmin(), increases.shape)
        labels[labels == j] = i
        total, mean, joint = merged(i)
        mass[i], means[i], scatter[i] = total[j], mean[j], joint[j]
        gone = np.isinf(increases).all(1)
        gone[j] = True
        own[i] = cost(mass[i : i + 1], scatter[i : i + 1])[0]
        increases[i] = increase(i)
        increases[i, i] = np.inf
        increases[i, gone] = np.inf
        increases[:, i] = increases[i]
        increases[j], increases[:, j] = np.inf, np.inf
        n_left -= 1
    labels = np.unique(labels, return_inverse=True)[1]
    return split_to(labels, x, n_components, random_state)


def _typical_variances(x: np.ndarray, n_components: int) -> np.ndarray:
    """Return variances of one of `n_components` equal clusters that fill the space."""
    return np.var(x, axis=0) * n_components ** (-2 / x.shape[1])


def _lean(covariances: np.ndarray, mass: np.ndarray, typical: np.ndarray) -> np.ndarray:
    """Shrink covariances of few rows to a diagonal of own and typical variances."""
    n_features = len(typical)
    shrinkage = ((n_features + 1) / (mass + n_features + 1))[:, None]
    diagonals = np.diagonal(covariances, axis1=1, axis2=2)
    target = shrinkage * (0.5 * diagonals + 0.05 * typical) + 1e-4
    leaning = (1.0 - shrinkage[:, :, None]) * covariances
    leaning[:, *np.diag_indices(n_features)] += target
    return leaning
