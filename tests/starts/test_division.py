"""Rows of a component divided into parts."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from skflowmix.starts.division import best_parts, divide_rows, fit_parts


def coil(n, rng, turns=2.0):
    t = np.sqrt(rng.uniform(0.03, 1, n))
    angle = 2 * np.pi * turns * t
    curve = t[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return (curve + 0.02 * rng.normal(size=(n, 2))) / 0.4


def parts_of(x, new, reference):
    random_state = np.random.RandomState(0)
    return best_parts(
        x, np.ones(len(x)), new, np.ones(len(new)), reference, random_state
    )


def gaussian_log_prob(x, new):
    return multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(new)


def test_a_coil_is_divided_unless_a_flow_follows_it():
    rng = np.random.default_rng(0)
    x, new = coil(400, rng), coil(80, rng)
    reference = gaussian_log_prob(x, new)
    parts = parts_of(x, new, reference)
    assert len(parts.weights) >= 4
    assert parts_of(x, new, reference + 5.0) is None


@pytest.mark.parametrize("n_columns", [1, 2, 8])
def test_a_gaussian_stays_whole(n_columns):
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, new = rng.normal(size=(400, n_columns)), rng.normal(size=(60, n_columns))
        reference = np.reshape(gaussian_log_prob(x, new), -1)
        assert parts_of(x, new, reference) is None


def test_values_that_repeat_are_no_parts():
    rng = np.random.default_rng(0)
    x, new = (
        np.column_stack([rng.normal(size=n), rng.integers(3, size=n)])
        for n in (400, 80)
    )
    parts = parts_of(x, new, np.full(80, -100.0))
    assert parts is None or parts.covariances[:, 1, 1].min() > 0.01


def test_few_rows_are_not_divided():
    rng = np.random.default_rng(0)
    x = coil(400, rng)
    low = np.full(400, -100.0)
    assert parts_of(x[:15], x, low) is None
    assert parts_of(x, x[:4], low[:4]) is None


def test_shares_of_parts_add_up():
    rng = np.random.default_rng(0)
    x = coil(300, rng)
    shares = rng.dirichlet(np.ones(3), size=300)
    random_state = np.random.RandomState(0)
    parts = [
        fit_parts(x, shares[:, 0], 4, random_state),
        None,
        fit_parts(x[:2], np.ones(2), 4, random_state),
    ]
    divided, sizes = divide_rows(x, shares, parts)
    assert_array_equal(sizes, [4, 1, 2])
    assert_allclose(np.add.reduceat(divided, [0, 4, 5], axis=1), shares)
