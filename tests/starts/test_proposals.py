"""Far rows, and values that stand for missing ones, do not decide a fit."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.datasets import make_circles, make_moons
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from small_models import trained

from skflowmix import FlowMixture, FlowMixtureOutlierDetector
from skflowmix.starts.far_groups import far_groups
from skflowmix.starts.preprocessing import Standardizer, merge_identical_rows
from skflowmix.starts.proposals import propose_starts
from skflowmix.starts.robust import beyond_gaps, lone_heaps

CODES = (-999.0, -20.0, 99.0, 1e9)

# Tables with codes are what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:Some values look like codes")


def blobs(rng, n=800):
    y = rng.integers(0, 2, n)
    return np.c_[rng.normal(size=n), 6.0 * y + rng.normal(size=n)], y


def moons(rng, n=800):
    return make_moons(n, noise=0.07, random_state=int(rng.integers(1000)))


def coded(draw, share, code, n_columns, seed=0):
    """Rows, groups with one more for each coded column, and which rows hold a code."""
    rng = np.random.default_rng(seed)
    X, y = draw(rng)
    is_coded = np.zeros(len(X), dtype=bool)
    for j in range(n_columns):
        # Rows with two codes would be a kind of their own.
        rows = (rng.random(len(X)) < share) & ~is_coded
        X[rows, -1 - j], y[rows] = code, 2 + j
        is_coded |= rows
    return X, y, is_coded


def labels_of_start(X, n_components, sample_weight=None):
    if sample_weight is None:
        sample_weight = np.ones(len(X))
    rows, weights, inverse = merge_identical_rows(X, sample_weight)
    standardizer = Standardizer.fit(rows, weights)
    start = propose_starts(
        standardizer.transform(rows, 1e8),
        weights,
        standardizer,
        n_components,
        "auto",
        np.random.RandomState(0),
    )[0]
    assert start.shape == (len(rows), n_components)
    np.testing.assert_allclose(start.sum(axis=1), 1)
    return start.argmax(axis=1)[inverse]


@pytest.mark.parametrize(
    "n_rows", [5_000, pytest.param(50_000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("step", [pytest.param(0.1, marks=pytest.mark.slow), 0.2])
@pytest.mark.parametrize(
    "draw", [make_moons, pytest.param(make_circles, marks=pytest.mark.slow)]
)
def test_rounded_tables_of_many_rows_keep_their_clusters(draw, step, n_rows):
    # With many rows, cells between the clusters hold some, too.
    shape = {"noise": 0.08} if draw is make_moons else {"noise": 0.06, "factor": 0.4}
    X, y = draw(n_rows, random_state=0, **shape)
    X = np.round(X / X.std() / step) * step
    assert adjusted_rand_score(y, labels_of_start(X, 2)) > 0.97
    # Also where weights have no common unit.
    real = np.random.default_rng(0).uniform(0.9, 1.1, n_rows)
    assert adjusted_rand_score(y, labels_of_start(X, 2, real)) > 0.97


@pytest.mark.parametrize("n_columns", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_copies_of_some_rows_make_no_clusters(seed, n_columns):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=500)
    X = rng.normal(size=(500, n_columns)) + 6.0 * y[:, None]
    copied = rng.integers(500, size=1500)
    assert adjusted_rand_score(y[copied], labels_of_start(X[copied], 3)) > 0.9


@pytest.mark.parametrize("n_columns", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "share",
    [
        pytest.param(0.02, marks=pytest.mark.slow),
        0.05,
        pytest.param(0.15, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("draw", [blobs, moons])
def test_codes_have_components_where_there_is_room(draw, code, share, n_columns):
    X, y, _ = coded(draw, share, code, n_columns)
    assert adjusted_rand_score(y, labels_of_start(X, 2 + n_columns)) > 0.95


@pytest.mark.parametrize("n_columns", [1, 2])
@pytest.mark.parametrize("share", [pytest.param(0.01, marks=pytest.mark.slow), 0.04])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("draw", [blobs, moons])
def test_codes_without_room_leave_the_others_their_clusters(
    draw, code, share, n_columns
):
    X, y, is_coded = coded(draw, share, code, n_columns)
    labels = labels_of_start(X, 2)
    assert adjusted_rand_score(y[~is_coded], labels[~is_coded]) > 0.95


@pytest.mark.parametrize(
    "code", [CODES[0], *(pytest.param(c, marks=pytest.mark.slow) for c in CODES[1:])]
)
def test_other_rows_are_as_likely_as_without_a_code(code):
    X, _, is_coded = coded(blobs, 0.03, code, 1)
    model = trained(3, init_params="auto").fit(X)
    gaussians = GaussianMixture(3, n_init=3, random_state=0).fit(X)
    others = X[~is_coded]
    assert model.score(others) > gaussians.score(others) - 0.1


@pytest.mark.parametrize("n_columns", [1, 2])
@pytest.mark.parametrize("n_far", [1, 5, 20])
def test_no_density_where_no_row_lies(n_far, n_columns):
    """Between the bulk and absurd values; those between are outliers."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, n_columns))
    X[:n_far, 0] = 1e6 if n_far == 1 else 10 ** rng.uniform(3, 6, n_far)
    between = np.zeros((100, n_columns))
    between[:, 0] = np.linspace(15, 60, 100)
    model = trained(1, init_params="auto").fit(X)
    usual = np.quantile(model.score_samples(X[n_far:]), 0.05)
    assert model.score_samples(between).max() < usual - 5
    detector = FlowMixtureOutlierDetector(
        1, contamination=0.05, max_iter=20, tol=0.1, n_transforms=1, random_state=0
    ).fit(X)
    assert (detector.predict(between) == -1).mean() > 0.95


@pytest.mark.parametrize("distance", [1e2, 1e4, 1e6])
def test_tight_groups_far_apart(distance):
    rng = np.random.default_rng(0)
    centres = distance * np.array([[0, 0], [1, 0.3], [0.2, 1]])
    X, new = (
        centres[rng.integers(0, 3, 600)] + rng.normal(size=(600, 2)) for _ in "ab"
    )
    model = trained(3, init_params="auto").fit(X)
    gaussians = GaussianMixture(3, random_state=0).fit(X)
    assert model.score(new) > gaussians.score(new) - 0.05
    samples, _ = model.sample(500, random_state=0)
    to_centre = np.linalg.norm(samples[:, None] - centres, axis=2).min(axis=1)
    # The tails of the base distribution hold three rows in a thousand.
    assert (to_centre > 6).mean() < 0.01


def test_groups_within_a_far_group_are_told_apart():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 900)
    near = np.array([[0, 0], [1, 0], [0, 1.0]])
    far = 1e5 * np.array([[1, 0.3], [0.2, 1]])
    X = np.r_[near, far][y] + np.where(y < 3, 0.02, 1.0)[:, None] * rng.normal(
        size=(900, 2)
    )
    model = trained(5, init_params="auto").fit(X)
    assert adjusted_rand_score(y, model.labels_) == 1
    assert model.elbo_gap_ < 0.1


@pytest.mark.parametrize("n_components", [2, 3])
def test_a_far_group_outweighs_a_small_gain_among_the_others(n_components):
    rng = np.random.default_rng(0)
    y = rng.choice(3, size=600, p=[0.5, 0.45, 0.05])
    X = np.array([[0, 0], [4, 0], [3e4, 1e4]])[y] + rng.normal(size=(600, 2))
    labels = labels_of_start(X, n_components)
    expected = y if n_components == 3 else y == 2
    assert adjusted_rand_score(expected, labels) > 0.85


@pytest.mark.parametrize("law", ["normal", "uniform"])
@pytest.mark.parametrize("n_columns", [6, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("distance", [8, pytest.param(16, marks=pytest.mark.slow), 50])
@pytest.mark.parametrize(
    "n_near,n_far", [(500, 15), pytest.param(2000, 60, marks=pytest.mark.slow)]
)
def test_a_small_group_of_many_columns_is_found(
    n_near, n_far, distance, n_columns, law
):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_near + n_far, n_columns))
    if law == "uniform":
        X = 3.4 * norm.cdf(X)
    X[n_near:, 0] += distance
    labels = labels_of_start(X, 2)
    assert adjusted_rand_score(np.arange(len(X)) < n_near, labels) > 0.95


def test_a_start_does_not_depend_on_the_codes_value():
    labels = [labels_of_start(coded(moons, 0.03, c, 1)[0], 2) for c in (-999.0, 1e7)]
    assert adjusted_rand_score(*labels) > 0.9


# What is far, and what of it forms a group.


def test_far_groups_are_found_and_tails_are_none():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    x[:30] += (300, 0)
    x[30:50] += (0, 5000)
    x[50:52] = (1e6, 0), (-1e7, 0)
    x[52:80, 0] = 40 * np.exp(rng.exponential(size=28))
    far = np.abs(x) > 30
    weights = np.ones(1000)
    groups = far_groups(x, weights, weights, far, np.random.RandomState(0))
    assert len(set(groups[:30])) == len(set(groups[30:50])) == 1
    assert groups[0] != groups[30] and min(groups[0], groups[30]) >= 0
    assert (groups[50:] == -1).all()


def test_a_heavy_row_alone_is_a_group():
    x = np.r_[np.random.default_rng(0).normal(size=50), 1e3][:, None]
    counts = np.r_[np.ones(50), 20]
    far = x > 100
    groups = far_groups(x, counts, counts, far, np.random.RandomState(0))
    assert groups[50] == 0 and (groups[:50] == -1).all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_groups_beyond_a_gap(sign):
    rng = np.random.default_rng(0)
    x = sign * np.r_[rng.normal(size=500), 14 + rng.normal(size=20)]
    ones = np.ones(520)
    assert (beyond_gaps(x, ones) == (np.arange(520) >= 500)).all()
    assert not beyond_gaps(x, ones)[:500].any()
    for usual in (rng.normal(size=500), rng.exponential(size=500), x > 0):
        assert not beyond_gaps(np.asarray(usual, float), np.ones(len(usual))).any()


def clipped(rng, n, low=-np.inf, high=np.inf):
    """Two overlapping groups of scores, with the values beyond a limit at the limit."""
    y = rng.integers(0, 2, n)
    X = np.array([[60, 65], [88, 92]])[y]
    X = X + np.array([[12, 12], [8, 7]])[y] * rng.normal(size=(n, 2))
    return np.clip(X, low, high), y


@pytest.mark.parametrize("limits", [(-np.inf, 100), (50, np.inf), (50, 100)], ids=str)
@pytest.mark.parametrize("n", [400, 1500])
def test_values_at_a_limit_are_no_group(limits, n):
    X, y = clipped(np.random.default_rng(3), n, *limits)
    reference = GaussianMixture(2, n_init=5, random_state=0).fit_predict(X)
    least = adjusted_rand_score(y, reference) - 0.1
    assert adjusted_rand_score(y, labels_of_start(X, 2)) > max(least, 0.7)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_heap_at_a_limit_is_told_from_a_code(share, sign):
    rng = np.random.default_rng(0)
    for x in (rng.normal(size=1000), rng.random(1000), rng.exponential(size=1000)):
        at_limit = np.minimum(x, np.quantile(x, 1 - share))
        assert (lone_heaps(sign * at_limit, np.ones(1000)) == -1).all()
        coded = np.where(rng.random(1000) < share, x.max() + x.std(), x)
        assert (lone_heaps(sign * coded, np.ones(1000)) >= 0).mean() > share / 2


def test_lone_heaps():
    rng = np.random.default_rng(0)
    x = rng.normal(size=500)
    x[:10], x[10:30] = 0.5, -1.5
    heaps = lone_heaps(x, np.ones(500))
    assert (heaps[:10] == heaps[0]).all() and (heaps[10:30] == heaps[10]).all()
    assert (heaps[30:] == -1).all() and heaps[0] != heaps[10]
    assert (lone_heaps(np.round(x, 1), np.ones(500)) == -1).all()
    assert (lone_heaps((x > 1).astype(float), np.ones(500)) == -1).all()


@pytest.mark.parametrize("init_params", ["auto", "kmeans", "gmm", "spectral"])
def test_one_absurd_row_changes_no_partition(init_params):
    X, y = blobs(np.random.default_rng(0), 300)
    X[0] = 1e8
    model = FlowMixture(2, init_params=init_params, n_transforms=0, random_state=0)
    labels = model.fit_predict(X)
    assert adjusted_rand_score(y[1:], labels[1:]) > 0.95
