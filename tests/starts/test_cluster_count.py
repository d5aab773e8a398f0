"""The number of clusters that is found."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs, make_circles, make_moons

from skflowmix.starts.cluster_count import count_clusters


def separated_crescents(n_clusters, n_features, seed, n_per_cluster=100):
    """Bent clusters with a tail each, turned at random, a distance of eight apart."""
    rng = np.random.RandomState(seed)
    centers = np.zeros((0, n_features))
    while len(centers) < n_clusters:
        center = rng.uniform(-14, 14, size=n_features)
        if (np.linalg.norm(centers - center, axis=1) > 8).all():
            centers = np.vstack([centers, center])
    clusters = []
    for center in centers:
        angle = rng.uniform(0, 4, n_per_cluster)
        bent = 0.3 * rng.randn(n_per_cluster, n_features)
        bent[:, 0] += 1.5 * np.cos(angle) + 0.2 * rng.exponential(size=n_per_cluster)
        bent[:, 1] += 1.5 * np.sin(angle)
        turn = np.linalg.qr(rng.randn(n_features, n_features))[0]
        clusters.append(bent @ turn + center)
    x = np.concatenate(clusters)
    return x / x.std(axis=0), np.repeat(np.arange(n_clusters), n_per_cluster)


def count(x, max_clusters, seed=0):
    return count_clusters(x, np.ones(len(x)), max_clusters, np.random.RandomState(seed))


@pytest.mark.parametrize("n_features", [2, 3, 6, 15])
@pytest.mark.parametrize("n_clusters", [3, 8])
def test_separated_clusters_are_counted(n_clusters, n_features):
    found = [
        count(separated_crescents(n_clusters, n_features, seed)[0], 20)
        for seed in range(5)
    ]
    assert np.count_nonzero(np.array(found) == n_clusters) >= 4


@pytest.mark.parametrize("max_clusters", [2, 5, 20])
@pytest.mark.parametrize("shape", ["normal", "uniform", "normal in ten dimensions"])
def test_one_cluster_is_one(shape, max_clusters):
    rng = np.random.RandomState(0)
    x = {
        "normal": rng.randn(500, 2),
        "uniform": rng.rand(500, 2),
        "normal in ten dimensions": rng.randn(500, 10),
    }[shape]
    assert count(x, max_clusters) == 1


@pytest.mark.parametrize("max_clusters", [2, 5, 20])
def test_clusters_that_are_not_round_are_counted(max_clusters):
    moons = make_moons(1000, noise=0.05, random_state=0)[0]
    circles = make_circles(1000, noise=0.05, factor=0.5, random_state=0)[0]
    assert count(moons, max_clusters) == count(circles, max_clusters) == 2


def test_never_more_clusters_than_asked_for():
    x = make_blobs(300, centers=6, center_box=(-30, 30), random_state=0)[0]
    assert count(x, 1) == 1
    assert count(x, 4) <= 4
    assert count(x[:19], 5) == 1  # too few rows to tell
