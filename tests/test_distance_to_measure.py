"""`NeighborDensity`: densities by the distances to a share of the rows."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist
from scipy.stats import norm

from skflowmix.distance_to_measure import MAX_ROWS, NeighborDensity
from skflowmix.starts.preprocessing import TRAINING_BOUND, Standardizer

RANDOM_STATE = np.random.RandomState(0)
X = RANDOM_STATE.standard_gamma([1, 4, 20], size=(400, 3))


def fitted(rows, sample_weight=None, share=0.15):
    """The estimate by some rows."""
    rows = np.asarray(rows, dtype=float)
    weights = np.ones(len(rows)) if sample_weight is None else sample_weight
    return NeighborDensity.fit(rows, weights, share)


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_is_the_density_of_evenly_spread_rows(n_features):
    rows = RANDOM_STATE.uniform(-2, 2, size=(MAX_ROWS, n_features))
    within = RANDOM_STATE.uniform(-0.5, 0.5, size=(200, n_features))
    for share in (0.02, 0.1):
        log_prob = fitted(rows, share=share).log_prob(within)
        assert_allclose(log_prob.mean(), -n_features * np.log(4), atol=0.2)
    rows = RANDOM_STATE.normal(size=(MAX_ROWS, n_features))
    log_prob = fitted(rows, share=0.02).log_prob(rows[:200])
    assert_allclose(np.median(log_prob - norm.logpdf(rows[:200]).sum(1)), 0, atol=0.2)


def test_follows_the_mean_squared_distance():
    density = fitted(X, share=0.1)
    squares = np.sort(cdist(density.rows, density.rows, "sqeuclidean"), axis=1)
    rms = np.sqrt(squares[:, :40].mean(axis=1))
    unit = density.standardizer.scale
    log_prob = density.log_prob(density.rows * unit + density.standardizer.location)
    assert_allclose(np.ptp(log_prob + 3 * np.log(rms)), 0, atol=1e-8)


def test_a_small_group_is_not_dense_however_tight_it_is():
    group = X[:1] + 20 + 1e-6 * RANDOM_STATE.normal(size=(20, 3))
    density = fitted(np.r_[X, group], share=0.1)
    assert density.log_prob(group).max() < np.quantile(density.log_prob(X), 0.05)


def test_units_shift_the_log_density():
    units = np.array([1e-6, 1.0, 1e6])
    shifted = fitted(X * units + 3).log_prob(X * units + 3)
    assert_allclose(shifted, fitted(X).log_prob(X) - np.log(units).sum(), atol=1e-6)


@pytest.mark.parametrize("share", [0.001, 0.15, 1.0])
def test_weights_equal_repetition(share):
    weights = RANDOM_STATE.randint(1, 4, len(X))
    weighted = fitted(X, weights.astype(float), share)
    unit = weights.mean()  # the weight of a row that counts once
    plain = replace(
        weighted,
        rows=np.repeat(weighted.rows, np.rint(weighted.weights * unit).astype(int), 0),
        weights=np.ones(weights.sum()),
        mass=weighted.mass * unit,
    )
    assert_allclose(plain.log_prob(X), weighted.log_prob(X))
    again = fitted(np.repeat(X, weights, axis=0), share=share)
    assert_allclose(again.log_prob(X), weighted.log_prob(X))
    scaled = fitted(X, 1e-9 * weights, share)
    assert_allclose(scaled.log_prob(X), weighted.log_prob(X))


def test_the_nearest_weight_is_the_neighbourhood():
    rows = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]])
    weights = np.array([1.0, 1.0, 2.0, 4.0, 2.0])
    density = replace(
        fitted(rows),
        standardizer=Standardizer(np.zeros(1), np.ones(1), np.array([[-99.0], [99.0]])),
        rows=rows,
        weights=weights,
        mass=6.0,
    )
    # From the first row, half the weight of the fourth one counts.
    mean_squares = np.array([(0 + 1 + 2 * 9 + 2 * 49) / 6, (4 * 0 + 2 * 16) / 6])
    log_prob = density.log_prob(rows[[0, 3]])
    assert_allclose(np.exp(log_prob), 0.6 / (2 * np.sqrt(3 * mean_squares)))


def test_a_neighbourhood_has_five_rows_at_least():
    least = fitted(X, share=1e-9)
    five = fitted(X, share=5 / len(X))
    assert_array_equal(least.log_prob(X), five.log_prob(X))


@pytest.mark.parametrize("n_rows", [2, 3, 100])
def test_columns_that_say_nothing_new_shift_the_log_density(n_rows):
    log_prob = fitted(X[:n_rows]).log_prob(X)
    constant = np.c_[X, np.full((len(X), 2), 7.0)]
    with_constants = fitted(constant[:n_rows]).log_prob(constant)
    assert np.ptp(with_constants - log_prob) < 1e-9
    copied = np.c_[X[:, :1], X[:, :1]]
    twice = fitted(copied[:100]).log_prob(copied)
    assert np.ptp(twice - fitted(X[:100, :1]).log_prob(X[:, :1])) < 1e-9


def test_the_first_thousandth_of_a_standard_deviation_does_not_count():
    density = fitted(np.r_[X, np.zeros((200, 3))], share=0.1)
    unit = density.standardizer.scale
    nearer, on, further = density.log_prob(unit * [[5e-4], [0.0], [2e-3]])
    assert nearer == on > further


def test_a_row_out_of_all_bounds_counts_as_thirty_standard_deviations_away():
    density = fitted(np.r_[X, [[1e9, 1.0, 1.0]]])
    assert density.rows.max() == TRAINING_BOUND


def test_any_row_has_a_density():
    far = np.array([[1e300, 0, 0], [-1e12, 1e12, 0], [1e6, 1, 1], [50.0, 1, 1]])
    log_prob = fitted(X).log_prob(far)
    assert np.isfinite(log_prob).all()
    assert (np.diff(log_prob) > 0).all()
    for rows in (np.zeros((5, 2)), [[0.0, 1.0], [1.0, 0.0]], X * 1e200):
        density = fitted(rows)
        assert np.isfinite(density.log_prob(np.asarray(rows))).all()


def test_neither_order_nor_company_matters():
    order = RANDOM_STATE.permutation(len(X))
    log_prob = fitted(X).log_prob(X)
    assert_array_equal(fitted(X[order]).log_prob(X), log_prob)
    alone = np.concatenate([fitted(X).log_prob(row[None]) for row in X[:20]])
    assert_allclose(alone, log_prob[:20], rtol=1e-10)


def test_many_rows_are_stood_for_by_some():
    rows = RANDOM_STATE.normal(size=(3 * MAX_ROWS, 2))
    density = fitted(rows)
    assert len(density.rows) == MAX_ROWS
    gap = density.log_prob(rows[:500]) - fitted(rows[:MAX_ROWS]).log_prob(rows[:500])
    assert np.abs(gap).mean() < 0.1
