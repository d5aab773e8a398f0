"""Rows are assigned to a partition of other rows."""

import numpy as np
import pytest
from sklearn.datasets import make_moons

from skflowmix.starts.assignment import Assignment
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.knn import one_hot


def assignment(x, shares):
    weights = np.ones(len(x))
    gaussians = Gaussians.fit(x, weights, shares, 1e-6)
    return Assignment(x, weights, shares, gaussians, np.random.RandomState(0))


def test_a_partition_of_gaussians_is_told_by_them():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=4000)
    x = rng.normal(size=(4000, 2)) * np.where(labels, 0.3, 2.0)[:, None]
    assign = assignment(x[:3000], one_hot(labels[:3000], 2))
    shares = assign(x[3000:])
    assert assign.by_gaussians
    np.testing.assert_allclose(shares.sum(1), 1)
    assert (shares.argmax(1) == labels[3000:]).mean() > 0.9


def test_any_other_by_the_nearest_of_its_rows():
    x, labels = make_moons(5000, noise=0.05, random_state=0)
    assign = assignment(x[:4000], one_hot(labels[:4000], 2))
    shares = assign(x[4000:])
    assert not assign.by_gaussians
    assert (shares.argmax(1) == labels[4000:]).mean() > 0.99
    assert assign(x[:0]).shape == (0, 2)


@pytest.mark.parametrize("n_rows", [1, 30])
def test_one_component_has_all_rows(n_rows):
    x = np.random.default_rng(0).normal(size=(50, 3))
    shares = assignment(x, np.ones((50, 1)))(x[:n_rows])
    np.testing.assert_array_equal(shares, np.ones((n_rows, 1)))
