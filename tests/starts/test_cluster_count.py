"""The number of clusters that is found."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.metrics import adjusted_rand_score

from skflowmix.starts.cluster_count import count_clusters, path_of


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


def counted(x, max_clusters, seed=0):
    return count_clusters(x, np.ones(len(x)), max_clusters, np.random.RandomState(seed))


def count(x, max_clusters, seed=0):
    return counted(x, max_clusters, seed).n_clusters


@pytest.mark.parametrize(
    "n_features", [6, *(pytest.param(d, marks=pytest.mark.slow) for d in (2, 3, 15))]
)
@pytest.mark.parametrize("n_clusters", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_separated_clusters_are_counted(n_clusters, n_features):
    found = [
        count(separated_crescents(n_clusters, n_features, seed)[0], 20)
        for seed in range(5)
    ]
    assert np.count_nonzero(np.array(found) == n_clusters) >= 4


@pytest.mark.parametrize("max_clusters", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "shape",
    ["normal", "uniform", "normal in ten dimensions", "student", "ring", "banana"],
)
def test_one_cluster_is_one(shape, max_clusters):
    rng = np.random.RandomState(0)
    angle = rng.uniform(0, 2 * np.pi if shape == "ring" else 3, 500)
    bent = np.c_[np.cos(angle), np.sin(angle)] + 0.12 * rng.randn(500, 2)
    x = {
        "normal": rng.randn(500, 2),
        "uniform": rng.rand(500, 2),
        "normal in ten dimensions": rng.randn(500, 10),
        "student": rng.randn(500, 3) / np.sqrt(rng.chisquare(3, (500, 1)) / 3),
        "ring": bent,
        "banana": bent,
    }[shape]
    assert count(x, max_clusters) == 1


@pytest.mark.parametrize("max_clusters", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_clusters_that_are_not_round_are_counted(max_clusters):
    moons = make_moons(1000, noise=0.05, random_state=0)[0]
    circles = make_circles(1000, noise=0.05, factor=0.5, random_state=0)[0]
    assert count(moons, max_clusters) == count(circles, max_clusters) == 2


def test_never_more_clusters_than_asked_for():
    x = make_blobs(300, centers=6, center_box=(-30, 30), random_state=0)[0]
    assert count(x, 1) == 1
    assert count(x, 4) <= 4
    assert count(x[:19], 5) == 1  # too few rows to tell


@pytest.mark.parametrize("n_features", [2, 5, 15])
def test_small_clusters_are_counted(n_features):
    """Of 40 to 2 % of 1500 rows."""
    x, y = separated_crescents(6, n_features, 1, n_per_cluster=600)
    sizes = np.array([600, 400, 250, 150, 70, 30])
    first = np.concatenate([600 * k + np.arange(m) for k, m in enumerate(sizes)])
    found = counted(x[first], 20)
    assert found.n_clusters == 6
    assert adjusted_rand_score(y[first], found.labels) > 0.95


@pytest.mark.parametrize("n_features", [2, 5, 15])
def test_gaussians_that_touch_are_counted(n_features):
    rng = np.random.RandomState(0)
    y = np.arange(1500) % 3
    x = rng.randn(1500, n_features)
    x[:, 0] += 4.5 * y
    found = counted(x / x.std(axis=0), 20)
    assert found.n_clusters == 3
    assert adjusted_rand_score(y, found.labels) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("n_features", [3, 12])
def test_a_sparse_long_cluster_beside_a_dense_one_is_counted(n_features):
    """Its rows are farther from each other than the dense one is wide."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(400, n_features))
    dense[:, 0] += rng.uniform(-8, 8, 400)
    sparse = rng.normal(size=(80, n_features))
    sparse[:, 1] += rng.uniform(-8, 8, 80)
    sparse *= 3
    sparse[:, 2] += 20
    x = np.concatenate([dense, sparse])
    assert count(x / x.std(axis=0), 20) == 2


def test_more_rows_show_no_fewer_clusters():
    x, _ = separated_crescents(5, 3, 2, n_per_cluster=1000)
    few = np.concatenate([1000 * k + np.arange(100) for k in range(5)])
    assert count(x[few], 20) == count(x, 20) == 5


def test_noise_makes_no_cluster():
    x, y = separated_crescents(4, 3, 0, n_per_cluster=250)
    rng = np.random.RandomState(0)
    noise = rng.uniform(x.min(axis=0), x.max(axis=0), size=(50, 3))
    found = counted(np.r_[x, noise], 20)
    assert found.n_clusters == 4
    assert adjusted_rand_score(y, found.labels[: len(x)]) > 0.95


def test_valleys_join_clusters_as_a_tree():
    x = make_blobs(400, centers=5, center_box=(-30, 30), random_state=0)[0]
    found = counted(x / x.std(axis=0), 20)
    assert len(found.valleys) == found.n_clusters - 1 == 4
    linked = {0}
    for _ in found.valleys:
        for valley in found.valleys:
            if linked & set(valley.groups):
                linked |= set(valley.groups)
    assert linked == set(range(5))
    path = path_of(found)
    assert [r["n_components"] for r in path] == list(range(len(path) + 1, 1, -1))
    for record in path:
        assert record["counted"] == (record["valley"] < record["limit"])
        assert 0 <= record["valley"] <= 1 and 0 < record["share"] <= 0.5
