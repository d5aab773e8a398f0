"""Laws and results of the first partitions."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.datasets import load_iris, make_blobs, make_circles, make_moons
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline

from skflowmix.starts import knn as graphs
from skflowmix.starts import partitions as initialization
from skflowmix.starts.knn import Landmarks
from skflowmix.starts.partitions import (
    INIT_METHODS,
    nearest_mean_responsibilities,
    propose_partitions,
    rescale_columns,
)
from skflowmix.starts.scores import (
    believed_or_cut,
    choose_shrinkage,
    kernel_score,
    largest_cut,
    ranking,
)
from skflowmix.starts.separation import SeparationTree
from skflowmix.starts.spectral import spectral_labels


def propose(x, n_components, init, *, seed=0, sample_weight=None, **options):
    weight = np.ones(len(x)) if sample_weight is None else sample_weight
    return propose_partitions(
        x, weight, n_components, init, np.random.RandomState(seed), **options
    )


def ari(labels, proposal):
    return adjusted_rand_score(labels, proposal.responsibilities.argmax(axis=1))


def awkward_data():
    rng = np.random.RandomState(0)
    grid = np.array([(i, j) for i in range(6) for j in range(6)], dtype=float)
    far = rng.randn(60, 2)
    far[0] = 30.0
    constant = rng.randn(40, 3)
    constant[:, 1] = 0.0
    return {
        "one column": rng.randn(50, 1),
        "constant column": constant,
        "all columns constant": np.zeros((20, 2)),
        "ties": grid,
        "duplicates": np.repeat(rng.randn(8, 2), 5, axis=0),
        "far row": far,
        "slightly more rows than components": rng.randn(5, 2),
        "as many rows as components": rng.randn(4, 2),
        "fewer rows than components": rng.randn(2, 3),
        "one row": rng.randn(1, 2),
        "more columns than rows": rng.randn(50, 200),
    }


def linked_rings(n, random_state):
    angle = random_state.uniform(0, 2 * np.pi, size=n)
    flat = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(n)])
    flat[n // 2 :] = flat[n // 2 :][:, [0, 2, 1]] + [1.0, 0.0, 0.0]
    return flat + 0.08 * random_state.randn(n, 3), np.arange(n) >= n // 2


def crossed_gaussians(n, random_state):
    x = random_state.randn(n, 2) * [3.0, 0.3]
    x[n // 2 :] = x[n // 2 :, ::-1]
    return x, np.arange(n) >= n // 2


SHAPES = {
    "circles": make_circles(600, noise=0.04, factor=0.5, random_state=0),
    "moons": make_moons(600, noise=0.06, random_state=0),
    "linked rings": linked_rings(600, np.random.RandomState(0)),
}


@pytest.mark.parametrize("init", INIT_METHODS)
@pytest.mark.parametrize("name", awkward_data())
def test_responsibilities_are_probabilities_on_awkward_data(name, init):
    x = awkward_data()[name]
    weight = np.random.RandomState(1).uniform(0.5, 2.0, size=len(x))
    for sample_weight in (np.ones(len(x)), weight / weight.mean()):
        proposals = propose(x, 4, init, sample_weight=sample_weight)
        assert proposals
        for proposal in proposals:
            r = proposal.responsibilities
            assert r.shape == (len(x), 4)
            assert r.dtype == np.float64
            assert np.all(r >= 0)
            np.testing.assert_allclose(r.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("init", INIT_METHODS)
def test_same_seed_gives_same_proposals(init):
    x, _ = SHAPES["moons"]
    first, second = propose(x, 3, init, seed=5), propose(x, 3, init, seed=5)
    assert [p.name for p in first] == [p.name for p in second]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.responsibilities, b.responsibilities)


@pytest.mark.parametrize("init", [*INIT_METHODS, KMeans(2)])
def test_inputs_stay_as_they_were(init):
    x = SHAPES["moons"][0].copy()
    weight = np.ones(len(x))
    x.flags.writeable = weight.flags.writeable = False
    propose(x, 2, init, sample_weight=weight)


@pytest.mark.parametrize("init", INIT_METHODS)
def test_one_component_takes_all(init):
    (proposal,) = propose(np.zeros((3, 2)), 1, init)
    np.testing.assert_array_equal(proposal.responsibilities, np.ones((3, 1)))


@pytest.mark.parametrize(
    "name", ["kmeans", "k-means++", "gmm", "spectral", "random", "random_from_data"]
)
def test_random_methods_give_n_init_proposals(name):
    proposals = propose(np.random.RandomState(0).randn(80, 2), 3, name, n_init=3)
    assert [p.name for p in proposals] == [name] * 3
    if name in ("k-means++", "random", "random_from_data"):
        assert not np.array_equal(
            proposals[0].responsibilities, proposals[1].responsibilities
        )


def test_random_rows_are_the_means_of_their_nearest():
    """Those of large weight are drawn, and distinct ones."""
    x = np.random.RandomState(0).randn(80, 2)
    weight = np.where(np.arange(80) % 20 == 0, 1.0, 1e-9)
    (proposal,) = propose(
        x, 4, "random_from_data", sample_weight=weight / weight.mean()
    )
    x = rescale_columns(x, weight / weight.mean())
    nearest = ((x[:, None] - x[::20]) ** 2).sum(axis=2).argmin(axis=1)
    assert set(proposal.responsibilities.flat) == {0.0, 1.0}
    assert adjusted_rand_score(nearest, proposal.responsibilities.argmax(axis=1)) == 1


@pytest.mark.parametrize("init", ["auto", "spectral", "linkage"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_are_not_gaussian_are_found(shape, init):
    x, labels = SHAPES[shape]
    assert ari(labels, propose(x, 2, init)[0]) > 0.98


def test_auto_believes_overlapping_gaussians_where_they_describe_the_density():
    x, labels = crossed_gaussians(1000, np.random.RandomState(0))
    best = propose(x, 2, "auto")[0]
    assert best.name.startswith("gmm")
    assert best.score > 0
    assert ari(labels, best) > 0.6


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.2, 1.0), (1.0, 0.2)])
def test_auto_finds_gaussians_of_very_different_sizes(scales):
    """However the columns are scaled, which moves all distances."""
    rng = np.random.RandomState(0)
    y = np.repeat(np.arange(6), [600, 600, 40, 40, 40, 40])
    centres = np.array([[0, 0], [4, 0], [14, 2], [14, -2], [18, 2], [18, -2.0]])
    widths = np.where(y < 2, 1.0, 0.4)[:, None]
    x = (centres[y] + widths * rng.normal(size=(len(y), 2))) * scales
    assert ari(y, propose(x, 6, "auto", column_scales=np.ones(2))[0]) > 0.85


def test_auto_proposes_different_partitions_best_first():
    x, _ = SHAPES["circles"]
    proposals = propose(x, 2, "auto", n_init=6)
    assert len(proposals) > 1
    scores = [p.score for p in proposals]
    assert scores == sorted(scores, reverse=True)
    labels = [p.responsibilities.argmax(axis=1) for p in proposals]
    for i, a in enumerate(labels):
        for b in labels[:i]:
            assert adjusted_rand_score(a, b) <= initialization.SAME_PARTITION_ARI


def separated_arcs(shares, n, random_state):
    """Bent groups of different sizes, three in a row, far apart."""
    y = random_state.choice(len(shares), n, p=shares)
    t = random_state.uniform(0, 1.3 * np.pi, n)
    x = np.column_stack([np.cos(t) + 4 * (y % 3), np.sin(t) + 4 * (y // 3)])
    return x + 0.07 * random_state.randn(n, 2), y


UNEQUAL_SHARES = [0.4, 0.2, 0.15, 0.1, 0.08, 0.07]


@pytest.mark.parametrize("init", ["auto", "spectral"])
def test_groups_without_contact_are_found_from_every_seed(init):
    for seed in range(3):
        rng = np.random.RandomState(seed)
        x, labels = separated_arcs(UNEQUAL_SHARES, 800, rng)
        for start in range(2):
            assert ari(labels, propose(x, 6, init, seed=start)[0]) == 1.0


def test_equal_distances_within_pairs_divide_some_of_them():
    """No cut of Ward's tree has six clusters: all pairs are joined at one height."""
    x = np.array([[0.0, 0.0], [0.0, 1.0]]) + 10 * np.arange(4)[:, None, None]
    found = propose(x.reshape(8, 2), 6, "auto")[0].responsibilities
    assert (found.sum(axis=0) > 0.5).all()


@pytest.mark.parametrize("widths", [(1.0, 1.0, 1.0), (0.1, 1.0, 0.3)])
def test_groups_of_two_per_cent_are_found_among_others(widths):
    rng = np.random.RandomState(0)
    labels = np.repeat([0, 1, 2], [760, 20, 220])
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    x = centres[labels] + np.array(widths)[labels, None] * rng.uniform(
        -1, 1, size=(1000, 2)
    )
    for init in ("auto", "spectral"):
        assert ari(labels, propose(x, 3, init)[0]) == 1.0


def test_spectral_divides_parts_where_there_are_fewer_than_clusters():
    """A bridge makes two of four groups one part."""
    rng = np.random.RandomState(0)
    labels = np.repeat([0, 1, 2, 3], [100, 200, 300, 250])
    centres = np.array([[0.0, 9.0], [9.0, 9.0], [0.0, 0.0], [4.0, 0.0]])
    bridge = np.column_stack([np.linspace(1, 3, 15), 0.05 * rng.randn(15)])
    groups = centres[labels] + rng.uniform(-1, 1, size=(850, 2))
    x = np.concatenate([groups, bridge])
    for seed in range(5):
        found = propose(x, 4, "spectral", seed=seed)[0].responsibilities[:850]
        assert adjusted_rand_score(labels, found.argmax(axis=1)) > 0.99


@pytest.mark.parametrize("n_far", [1, 6, 12])
def test_a_few_far_rows_are_no_part_of_their_own(n_far):
    rng = np.random.RandomState(0)
    labels = np.repeat([0, 1], [800, 700])
    x = rng.uniform(-1, 1, size=(1500, 2)) + 6.0 * labels[:, None]
    x = np.concatenate([x, 20.0 + rng.uniform(-1, 1, size=(n_far, 2))])
    landmarks = Landmarks(x, np.ones(len(x)), None)
    tree = SeparationTree(landmarks, 2)
    by_gaps = tree.labels(2)
    by_parts = spectral_labels(landmarks, tree, 2, np.random.RandomState(0))
    for found in (by_gaps, by_parts):
        assert adjusted_rand_score(labels, found[:1500]) == 1.0
        assert np.all(found[1500:] == found[800])


def test_separation_prefers_gaps_to_cuts_through_a_group():
    """Whatever the scales of the groups, and with outliers between them."""
    rng = np.random.RandomState(0)
    labels = np.repeat([0, 1, 2], [100, 200, 300])
    widths = np.array([0.05, 0.05, 1.0])[labels, None]
    centres = np.array([[0.0, 0.0], [0.3, 0.0], [4.0, 0.0]])
    x = centres[labels] + widths * rng.uniform(-1, 1, size=(600, 2))
    x = np.concatenate([x, [[2.0, 0.0], [2.0, 9.0], [0.15, 0.0]]])
    truth = np.append(labels, [1, 1, 1])
    tree = SeparationTree(Landmarks(x, np.ones(len(x)), None), 3)
    wrong = np.where(x[:, 0] > 4.0, 2, np.where(x[:, 0] > 1.5, 1, 0))
    assert adjusted_rand_score(labels, tree.labels(3)[:600]) == 1.0
    assert tree.separation(truth) > 1.0 > tree.separation(wrong)


def test_auto_breaks_ties_by_separation():
    """Likelihood would have a long arc divided and two far ones joined."""
    x, labels = separated_arcs(UNEQUAL_SHARES, 1500, np.random.RandomState(5))
    best = propose(x, 6, "auto", n_init=9)[0]
    assert best.score == 0.0
    assert ari(labels, best) == 1.0


def test_auto_finds_separated_groups_among_outliers():
    """Every partition cuts neighbours of the outliers off."""
    for seed in range(3):
        rng = np.random.RandomState(seed)
        x, labels = separated_arcs(UNEQUAL_SHARES, 1000, rng)
        far = rng.uniform(-8, 16, size=(8, 2))
        found = propose(np.concatenate([x, far]), 6, "auto")[0]
        found = found.responsibilities[:1000].argmax(axis=1)
        assert adjusted_rand_score(labels, found) > 0.99


def test_score_prefers_the_truth_and_punishes_empty_clusters():
    x, labels = SHAPES["circles"]
    landmarks = Landmarks(x, np.ones(len(x)), None)
    halves, everything = x[:, 0] > 0, np.zeros(len(x), dtype=int)
    truth, cut, empty = (
        believed_or_cut(landmarks, np.eye(2)[np.asarray(y, dtype=int)], -1.0)
        for y in (labels, halves, everything)
    )
    assert truth > cut > empty


@pytest.mark.parametrize("kind", ["noise", "outliers"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_no_cluster_do_not_decide(kind, seed):
    """Noise between a ring and a blob, or outliers around them."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 500)
    radius = 2 + 0.1 * rng.normal(size=500)
    ring = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    blob = 0.35 * rng.normal(size=(500, 2))
    others = {
        "noise": rng.uniform(-2.3, 2.3, size=(60, 2)),
        "outliers": 6 * rng.normal(size=(30, 2)),
    }
    x, labels = np.concatenate([ring, blob, others[kind]]), np.repeat([0, 1], 500)
    found = propose(x, 2, "auto")[0].responsibilities[:1000].argmax(axis=1)
    assert adjusted_rand_score(labels, found) > 0.95


def test_pairs_of_neighbours_count_by_the_density_about_them():
    """A group of 40 rows at distances of 1, and one of 40 at distances of 10."""
    x = np.concatenate([np.arange(40.0), 60 + 10 * np.arange(40.0)])[:, None]
    landmarks = Landmarks(x, np.ones(80), None)

    def cut_before(row):
        return largest_cut(landmarks, np.eye(2)[(np.arange(80) >= row).astype(int)])

    # The first two wide rows have four neighbours in the dense group, 21 away and more.
    assert 10 * cut_before(40) < min(cut_before(60), cut_before(20))
    assert largest_cut(landmarks, np.eye(3)[np.arange(80) // 40]) == 1.0


def _on_background(rng, y):
    x = np.array([[-2.5, 0.0], [2.5, 0.0], [0.0, 0.0]])[y] + 0.5 * rng.randn(len(y), 2)
    x[y == 2] = rng.uniform(-6, 6, (np.sum(y == 2), 2))
    return x


def _exponential(rng, y):
    return rng.exponential(np.array([[1, 1, 1], [20, 1, 1], [0.05, 20, 1]])[y])


def _heavy_tailed(rng, y):
    x = 3 * rng.randn(3, 8)[y]
    return x + rng.randn(len(y), 8) / np.sqrt(rng.chisquare(2, len(y)) / 2)[:, None]


@pytest.mark.parametrize(
    ("draw", "shares", "least"),
    [
        (_on_background, [0.35, 0.35, 0.3], 0.75),
        (_exponential, [0.5, 0.3, 0.2], 0.55),
        (_heavy_tailed, None, 0.8),
    ],
)
def test_sparse_parts_of_groups_are_not_cut_off(draw, shares, least):
    """Gaussians are right where cuts are through tails, wrong where tails are heavy."""
    found = []
    for seed in range(5):
        rng = np.random.RandomState(seed)
        y = rng.choice(3, 600, p=shares)
        x = draw(rng, y)
        best = propose((x - x.mean(axis=0)) / x.std(axis=0), 3, "auto", seed=seed)[0]
        found.append(ari(y, best))
    assert np.mean(found) > least


def test_a_few_far_rows_are_no_cluster_that_is_cut_off_cheaply():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(200, 2)), 20 + 10 * rng.normal(size=(4, 2))])
    landmarks = Landmarks(x, np.ones(204), None)
    few = np.eye(2)[(np.arange(204) >= 200).astype(int)]
    halves = np.eye(2)[(x[:, 0] > 0).astype(int)]
    assert largest_cut(landmarks, few) > 0.2 > largest_cut(landmarks, halves)


HALVES = np.repeat([0, 1], 50)
OTHERS = np.tile([0, 1], 50)
SHIFTED = np.roll(HALVES, 3)


def ranked(labels, likelihoods, scores, n_features=3, noise=0.0):
    """Rank partitions; differences of log-densities vary by noise only."""
    n, rng = len(labels[0]), np.random.default_rng(0)
    signs = rng.permuted(np.tile([-1, 1], (len(labels), n // 2)), axis=1)
    log_densities = np.array(likelihoods)[:, None] + noise * signs
    ones = np.ones(len(labels))
    return ranking(
        labels, log_densities, np.ones(n), np.array(scores), ones, ones, n_features
    ).tolist()


def test_ranking_of_overlapping_clusters():
    labels = [OTHERS, HALVES, SHIFTED]
    gains = np.array([-0.5, -0.9, -0.7])
    assert ranked(labels, gains, [-0.3, -0.03, -0.2])[0] == 0
    assert ranked(labels, gains, [-0.3, -0.01, -0.2])[0] == 1
    gains = np.array([-0.5, -0.8, -0.7])
    assert ranked(labels, gains, [-0.1, -0.018, -0.2])[0] == 0
    assert ranked(labels, gains, [-0.1, -0.015, -0.2])[0] == 1
    # Not much likelier per column: the smaller cut stays.
    for closer, n_columns in ((gains, 4), (gains / 2, 3)):
        assert ranked(labels, closer, [-0.1, -0.018, -0.2], n_columns)[0] == 1


def test_ranking_of_likely_gaussians_follows_agreement():
    """Two of the three partitions are nearly the same; agreements .3, .6 and .6."""
    labels = [OTHERS, HALVES, SHIFTED]
    gains = np.array([0.302, 0.3, 0.28])
    assert ranked(labels, gains, gains + 0.02) == [1, 0, 2]
    gains = np.array([0.31, 0.3, 0.28])
    assert ranked(labels, gains, gains + 0.02) == [0, 1, 2]
    gains = np.array([0.5, 0.3, 0.2])
    # The standard error of a difference is the noise / 7.
    for noise, first in ((0.0, 0), (0.05, 0), (0.5, 1)):
        assert ranked(labels, gains, gains + 0.02, noise=noise)[0] == first
        # The same where clusters overlap.
        assert ranked(labels, gains - 1, [-0.3, -0.3, -0.3], noise=noise)[0] == first


def test_ranking_puts_outliers_that_are_cut_off_last():
    outliers = (np.arange(100) >= 98).astype(int)
    labels = [outliers, HALVES, OTHERS]
    assert ranked(labels, [-0.9, -1, -1.1], [0.0, -0.01, -0.2]) == [1, 2, 0]
    # Nor do they decide whether clusters overlap.
    assert ranked(labels, [-0.1, -1, -1.1], [0.0, -0.01, -0.2]) == [1, 2, 0]
    # Except where Gaussians are believed, or where all partitions cut off outliers.
    assert ranked(labels, [0.2, -0.1, -0.1], [0.22, -0.01, -0.2])[0] == 0
    assert ranked([outliers, outliers[::-1]], [-0.9, -1], [0.0, -0.01]) == [0, 1]


def test_gaussians_are_not_believed_by_the_rows_that_they_were_fitted_to():
    """Twenty of ten rows each come nearer to these than any kernel estimate."""
    rng = np.random.RandomState(0)
    x = rng.standard_t(2, size=(200, 5))
    labels = KMeans(20, n_init=1, random_state=0).fit_predict(x)
    landmarks = Landmarks(x / x.std(axis=0), np.ones(200), None)
    for y in (labels, rng.randint(20, size=200)):
        _, log_densities = choose_shrinkage(landmarks, np.eye(20)[y])
        gain = log_densities.mean() - kernel_score(landmarks)
        assert believed_or_cut(landmarks, np.eye(20)[y], gain) <= 0


def test_auto_divides_collinear_columns_as_a_gaussian_mixture_does():
    """Shrunk towards uncorrelated columns, Gaussians would miss both groups."""
    rng = np.random.RandomState(0)
    y = np.arange(300) % 2
    common = rng.randn(300, 1) * np.where(y, 1.0, 3.0)[:, None]
    x = common + 0.05 * rng.randn(300, 12) * np.where(y, 3.0, 1.0)[:, None]
    assert ari(y, propose(x / x.std(axis=0), 2, "auto")[0]) > 0.9


@pytest.mark.parametrize("init", ["auto", "kmeans", "linkage", "spectral"])
def test_a_far_row_does_not_take_a_component(init):
    rng = np.random.RandomState(0)
    x = np.concatenate([rng.randn(100, 2) - 4, rng.randn(100, 2) + 4, [[30.0, 30.0]]])
    labels = np.repeat([0, 1], 100)
    r = propose(x, 2, init)[0].responsibilities
    assert adjusted_rand_score(labels, r[:-1].argmax(axis=1)) > 0.98


@pytest.mark.parametrize("init", ["auto", "spectral", "linkage", "gmm", "kmeans"])
def test_many_rows_follow_their_landmarks(init, monkeypatch):
    monkeypatch.setattr(graphs, "MAX_GRAPH_ROWS", 300)
    monkeypatch.setattr(initialization, "MAX_MODEL_ROWS", 300)
    rng = np.random.RandomState(0)
    labels = np.arange(2000) % 3
    x = 6.0 * np.eye(3)[labels] + rng.randn(2000, 3)
    best = propose(x, 3, init)[0]
    assert best.responsibilities.shape == (2000, 3)
    assert ari(labels, best) > 0.95


def test_nearest_others(monkeypatch):
    x = np.random.RandomState(0).randn(50, 3)
    squares = ((x[:, None] - x) ** 2).sum(axis=2) + np.diag(np.full(50, np.inf))
    expected = squares.argsort(axis=1)[:, :2]
    np.testing.assert_array_equal(graphs.nearest_others(x, 2), expected)
    monkeypatch.setattr(graphs, "MAX_SEARCHED_ROWS", 10)
    in_parts = graphs.nearest_others(x, 2)
    assert in_parts.shape == (50, 2)
    assert (in_parts // 10 == np.arange(50)[:, None] // 10).all()
    assert (in_parts != np.arange(50)[:, None]).all()


@pytest.mark.parametrize("init", ["kmeans", "gmm", AgglomerativeClustering(2)])
def test_weights_move_the_partition(init):
    rng = np.random.RandomState(0)
    x = np.concatenate([c + rng.randn(50, 1) for c in (0.0, 20.0, 28.0)])
    light = np.r_[np.full(50, 1e-6), np.ones(100)]
    even = propose(x, 2, init)[0]
    assert ari(np.repeat([0, 1, 1], 50), even) == 1.0
    weighted = propose(x, 2, init, sample_weight=light / light.mean())[0]
    heavy = weighted.responsibilities[50:].argmax(axis=1)
    assert adjusted_rand_score(np.repeat([0, 1], 50), heavy) == 1.0


def test_column_scales_restore_data_units_only_where_plausible():
    x, _ = SHAPES["moons"]
    stretched = x / [1.0, 0.2]
    back = propose(stretched, 2, "kmeans", column_scales=np.array([1.0, 0.2]))[0]
    units = propose(x, 2, "kmeans", column_scales=np.ones(2))[0]
    np.testing.assert_array_equal(back.responsibilities, units.responsibilities)
    wild = propose(x, 2, "kmeans", column_scales=np.array([1.0, 1e6]))[0]
    default = propose(x, 2, "kmeans")[0]
    np.testing.assert_array_equal(wild.responsibilities, default.responsibilities)


class Returns(BaseEstimator):
    """A clusterer that returns the same, whatever it gets."""

    def __init__(self, labels):
        self.labels = labels

    def fit_predict(self, X):
        return self.labels


class TestClusterer:
    x = np.concatenate([np.random.RandomState(0).randn(40, 2) + 9 * i for i in (0, 1)])
    labels = np.repeat([0, 1], 40)

    def test_is_cloned_and_seeded(self):
        clusterer = KMeans(2, n_init=1)
        first, second = (propose(self.x, 2, clusterer)[0] for _ in range(2))
        assert first.name == "KMeans"
        assert not hasattr(clusterer, "labels_")
        assert clusterer.random_state is None
        np.testing.assert_array_equal(first.responsibilities, second.responsibilities)
        assert ari(self.labels, first) == 1.0

    def test_noise_goes_to_its_nearest_cluster(self):
        x = np.concatenate([self.x, [[-6.0, -6.0]]])
        clusterer = DBSCAN(eps=0.6, min_samples=3)
        assert clusterer.fit(x).labels_[-1] == -1
        best = propose(x, 2, clusterer)[0].responsibilities
        assert best[-1] @ best[:40].mean(axis=0) > 0.9

    def test_nothing_but_noise_is_split(self):
        best = propose(self.x, 2, DBSCAN(eps=1e-6))[0]
        assert ari(self.labels, best) == 1.0

    def test_too_few_clusters_are_split(self):
        finds_two = AgglomerativeClustering(None, distance_threshold=5.0)
        assert propose(self.x, None, finds_two)[0].responsibilities.shape == (80, 2)
        best = propose(self.x, 4, finds_two)[0].responsibilities
        assert best.shape == (80, 4)
        assert np.all(best.sum(axis=0) > 0)
        assert not np.any(best[:40].any(axis=0) & best[40:].any(axis=0))

    def test_too_many_clusters_name_the_parameter(self):
        finds_eighty = AgglomerativeClustering(None, distance_threshold=0.0)
        with pytest.raises(ValueError, match="init_params found 80 clusters"):
            propose(self.x, 2, finds_eighty)

    @pytest.mark.parametrize(
        "clusterer",
        [
            KMeans(),
            AgglomerativeClustering(7),
            GaussianMixture(7),
            make_pipeline(PCA(1), KMeans(7)),
        ],
        ids=["KMeans", "agglomerative", "GaussianMixture", "pipeline"],
    )
    def test_its_number_of_clusters_is_set(self, clusterer):
        before = repr(clusterer)
        best = propose(self.x, 2, clusterer)[0]
        assert best.responsibilities.shape == (80, 2)
        assert ari(self.labels, best) == 1.0
        assert repr(clusterer) == before
        # Nor is it set to the number of a mixture that leaves it to the clusterer.
        n_found = 8 if clusterer.get_params().get("n_clusters") == 8 else 7
        assert propose(self.x, None, clusterer)[0].responsibilities.shape[1] == n_found

    @pytest.mark.parametrize(
        "labels",
        [
            np.arange(80) >= 40,
            np.repeat([3.0, -0.0], 40),
            np.repeat([2, 7], 40).tolist(),
        ],
        ids=["booleans", "whole floats", "list"],
    )
    def test_labels_may_be_any_integers(self, labels):
        for n_components in (2, None):
            best = propose(self.x, n_components, Returns(labels))[0]
            assert best.responsibilities.shape == (80, 2)
            assert ari(self.labels, best) == 1.0

    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            (np.full(80, np.nan), "NaN, infinity or fractions"),
            (np.full(80, np.inf), "NaN, infinity or fractions"),
            (np.arange(80) / 2, "NaN, infinity or fractions"),
            (np.arange(79), r"an array of shape \(79,\) for 80 rows"),
            (np.zeros((80, 1)), r"an array of shape \(80, 1\) for 80 rows"),
            (np.zeros(80, dtype=object), "labels of dtype object"),
        ],
        ids=["NaN", "infinity", "fractions", "too few", "a column", "objects"],
    )
    def test_anything_else_is_an_error(self, labels, match):
        with pytest.raises(ValueError, match=f"init_params must return .*{match}"):
            propose(self.x, 2, Returns(labels))


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="linkage"):
        propose(np.zeros((3, 2)), 2, "kmean")


def test_nearest_mean():
    x = np.array([[0.0, 0.0], [5.0, 4.0], [0.9, 0.1]])
    means = np.array([[5.0, 5.0], [0.0, 0.0], [1.0, 0.0]])
    expected = [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(nearest_mean_responsibilities(x, means), expected)


def grid_of_gaussians(n_sides, n_rows, spread, random_state):
    sides = np.arange(n_sides)
    centres = np.stack(np.meshgrid(sides, sides), axis=-1).reshape(-1, 2)
    labels = np.repeat(np.arange(len(centres)), n_rows)
    order = random_state.permutation(len(labels))
    x = centres[labels] + spread * random_state.randn(len(labels), 2)
    return x[order], labels[order]


def test_auto_finds_dozens_of_small_clusters():
    x, labels = make_blobs(1800, centers=60, cluster_std=0.15, random_state=1)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    assert ari(labels, propose(x, 60, "auto")[0]) > 0.9


def test_auto_finds_many_gaussians_of_few_landmarks_each(monkeypatch):
    """By the rows they were fitted to, the narrowest ones would look likeliest."""
    monkeypatch.setattr(graphs, "MAX_GRAPH_ROWS", 1000)
    x, labels = grid_of_gaussians(7, 200, 0.22, np.random.RandomState(0))
    best = propose(x, 49, "auto")[0]
    assert best.name.startswith("gmm")
    assert ari(labels, best) > 0.87


def test_auto_gives_its_n_init_best():
    x, _ = crossed_gaussians(300, np.random.RandomState(0))
    all_of_them = propose(x, 3, "auto", n_init=9)
    assert len(all_of_them) > 2
    names = [p.name for p in propose(x, 3, "auto", n_init=2)]
    assert names == [p.name for p in all_of_them[:2]]


def with_discrete_columns(x, kind, random_state):
    """Columns that know nothing of the clusters, but repeat values."""
    shape = len(x), 2
    columns = {
        "binary": random_state.uniform(size=shape) < 0.5,
        "zero-inflated": random_state.gamma(2.0, size=shape)
        * (random_state.uniform(size=shape) < 0.1),
    }[kind].astype(float)
    return np.column_stack([x, (columns - columns.mean(0)) / columns.std(0)])


@pytest.mark.parametrize("kind", ["binary", "zero-inflated"])
def test_auto_is_not_taken_in_by_columns_that_repeat_values(kind):
    random_state = np.random.RandomState(0)
    x, labels = make_blobs(600, 3, centers=3, cluster_std=1.5, random_state=3)
    x = with_discrete_columns(x / x.std(axis=0), kind, random_state)
    assert ari(labels, propose(x, 3, "auto")[0]) > 0.9


def test_other_methods_see_the_rows_as_they_are():
    x = np.round(np.random.RandomState(0).randn(200, 2))
    seen = []

    class Recorder(KMeans):
        def fit(self, X, y=None, sample_weight=None):
            seen.append(X)
            return super().fit(X, sample_weight=sample_weight)

    propose(x, 2, Recorder(2, n_init=1))
    assert len(np.unique(seen[0][:, 0])) == len(np.unique(x[:, 0]))


def test_auto_leaves_finely_rounded_values_alone(monkeypatch):
    seen = []
    linkage_labels = initialization.linkage_labels

    def record(distances, n_components):
        seen.append(distances)
        return linkage_labels(distances, n_components)

    monkeypatch.setattr(initialization, "linkage_labels", record)
    x = np.unique(np.round(SHAPES["moons"][0], 2), axis=0)
    for seed in (0, 1):
        propose(x, 2, "auto", seed=seed)
    np.testing.assert_array_equal(*seen)


def test_cells_of_a_table_are_as_many_rows_as_they_weigh():
    """Four groups of integers two apart: 32 distinct rows, of up to 200."""
    rng = np.random.RandomState(0)
    y = rng.randint(4, size=1000)
    rows = 2.0 * np.column_stack([y % 2, y // 2]) + rng.randint(2, size=(1000, 2)) * 0.5
    cells, inverse, counts = np.unique(
        rows, axis=0, return_inverse=True, return_counts=True
    )
    order = rng.permutation(len(cells))
    x = (cells - rows.mean(axis=0)) / rows.std(axis=0)
    for seed in range(3):
        weight = counts[order] / counts.mean()
        best = propose(x[order], 4, "auto", seed=seed, sample_weight=weight)[0]
        assert best.responsibilities.shape == (len(cells), 4)
        labels = best.responsibilities.argmax(axis=1)[np.argsort(order)]
        assert adjusted_rand_score(y, labels[inverse]) == 1


@pytest.mark.parametrize("column", ["constant", "copy", "sum"])
def test_auto_does_not_care_for_columns_that_say_nothing_new(column):
    x, labels = SHAPES["moons"]
    new = {"constant": np.zeros(len(x)), "copy": x[:, 1], "sum": x.sum(axis=1)}
    x = np.column_stack([x, new[column]])
    assert ari(labels, propose(x, 2, "auto")[0]) > 0.98


def test_a_far_row_does_not_make_gaussians_believable():
    x, labels = SHAPES["moons"]
    x = np.r_[x, [[30.0, 30.0]]]
    best = propose(x, 2, "auto")[0]
    found = best.responsibilities.argmax(axis=1)[:-1]
    assert adjusted_rand_score(labels, found) > 0.98


def test_noise_on_indicators_makes_no_new_direction():
    """Noise of its own for each column would be all that the last one has to tell."""
    found = []
    for seed in range(3):
        x, labels = make_moons(500, noise=0.06, random_state=seed)
        level = np.random.RandomState(seed).randint(3, size=500)
        x = np.column_stack([x, np.eye(3)[level]])
        scales = x.std(axis=0)
        x = (x - x.mean(axis=0)) / scales
        best = propose(x, 2, "auto", seed=seed, column_scales=scales)[0]
        found.append(ari(labels, best))
    assert np.median(found) > 0.9


def test_rounding_leaves_iris_as_it_is():
    x, y = load_iris(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    for seed in range(4):
        order = np.random.RandomState(seed).permutation(len(x))
        assert ari(y[order], propose(x[order], 3, "auto", seed=seed)[0]) > 0.85


def test_the_partition_that_most_proposals_agree_on_among_likely_gaussians():
    """Tails in other columns make shapes that are likelier by chance."""
    found = []
    for seed in range(6):
        rng, y = np.random.default_rng(seed), np.arange(250) % 2
        x = rng.normal(size=(250, 12))
        x[:, :3] += 1.6 * y[:, None]
        x[:, 6:] = rng.standard_t(4, size=(250, 6))
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        order = np.random.default_rng(seed).permutation(250)
        best = propose(x[order], 2, "auto", seed=seed)[0]
        found.append(ari(y[order], best))
    assert np.mean(found) > 0.55
