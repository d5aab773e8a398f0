"""`Marginals`: kernel estimates of the columns' densities."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import gaussian_kde

from skflowmix.marginals import N_CENTERS, Marginals

RANDOM_STATE = np.random.RandomState(0)
X = RANDOM_STATE.standard_gamma([1, 4, 20], size=(N_CENTERS, 3))


def fitted(rows, sample_weight=None):
    """Marginals of some rows."""
    rows = np.asarray(rows, dtype=float)
    weights = np.ones(len(rows)) if sample_weight is None else sample_weight
    return Marginals.fit(rows, weights)


def test_agrees_with_scipy():
    new = RANDOM_STATE.standard_gamma([1, 4, 20], size=(200, 3))
    expected = np.zeros(200)
    for column, values in zip(X.T, new.T, strict=True):
        spread = min(np.std(column), np.ptp(np.quantile(column, [0.25, 0.75])) / 1.34)
        factor = 0.9 * N_CENTERS**-0.2 * spread / np.std(column, ddof=1)
        expected += gaussian_kde(column, factor).logpdf(values)
    inside = (new < X.max(axis=0)).all(axis=1)
    # Up to the tables and the definition of a quantile.
    assert_allclose(fitted(X).log_prob(new)[inside], expected[inside], atol=0.1)


@pytest.mark.parametrize(
    "column",
    [X[:, 0], X[:40, 1], np.round(X[:, 1]), np.sign(X[:, 0] - 0.1), np.zeros(50)],
    ids=["skewed", "few", "rounded", "binary", "constant"],
)
def test_a_column_integrates_to_one(column):
    marginals = fitted(column[:, None])
    unit = float(marginals.standardizer.scale[0])
    nodes = marginals.nodes[0] * unit + marginals.standardizer.location[0]
    grid = np.linspace(nodes[0], nodes[-1], 100_001)
    density = np.exp(marginals.log_prob(grid[:, None]))
    assert_allclose(np.trapezoid(density, grid), 1, atol=0.01)


def test_columns_add_up():
    of_each = sum(fitted(X[:, [j]]).log_prob(X[:, [j]]) for j in range(3))
    assert_allclose(fitted(X).log_prob(X), of_each, rtol=1e-12)


def test_units_shift_the_log_density():
    units = np.array([1e-6, 1.0, 1e6])
    shifted = fitted(X * units + 3).log_prob(X * units + 3)
    assert_allclose(shifted, fitted(X).log_prob(X) - np.log(units).sum(), atol=1e-6)


def test_weights_equal_repetition():
    weights = RANDOM_STATE.randint(1, 4, len(X))
    weighted = fitted(X, weights.astype(float)).log_prob(X)
    assert_allclose(fitted(np.repeat(X, weights, axis=0)).log_prob(X), weighted)
    assert_allclose(fitted(X, 1e-9 * weights).log_prob(X), weighted)


def test_far_values_cost_no_more_than_the_edge():
    rows = X.copy()
    rows[0, 0] = 1e9
    marginals = fitted(rows)
    far = np.tile(X[1], (4, 1))
    far[:, 0] = [-1e300, 1e6, 1e12, 1e300]
    log_prob = marginals.log_prob(far)
    assert np.isfinite(log_prob).all()
    # One value of hundreds does not make the others a spike.
    assert_allclose(marginals.log_prob(X[1:]), fitted(X[1:]).log_prob(X[1:]), atol=0.1)
    assert (log_prob < marginals.log_prob(X[1:]).min()).all()


def test_order_does_not_matter():
    order = RANDOM_STATE.permutation(len(X))
    assert_array_equal(fitted(X[order]).log_prob(X), fitted(X).log_prob(X))
