"""First partitions do not depend on whether columns are given as logarithms."""

import numpy as np
import pytest
from scipy.stats import skew
from sklearn.metrics import adjusted_rand_score as ari

from skflowmix import FlowMixture
from skflowmix.starts.partitions import propose_partitions
from skflowmix.starts.preprocessing import Standardizer
from skflowmix.starts.proposals import count_starts, propose_starts
from skflowmix.starts.skewness import (
    TRANSFORMS,
    preferred,
    propose_for_skewed,
    skewed_columns,
    transformed,
)


def standardized(X):
    return (X - X.mean(axis=0)) / X.std(axis=0)


def groups(seed, n=600, n_columns=4):
    """Three overlapping normal groups, and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    centres = 2.5 * rng.normal(size=(3, n_columns))
    return centres[y] + rng.normal(size=(n, n_columns)), y


def proposed(X, seed=0, n_components=3):
    proposals, _ = propose_for_skewed(
        standardized(X), np.ones(len(X)), n_components, np.random.RandomState(seed)
    )
    return proposals[0].responsibilities.argmax(axis=1)


def test_which_columns_are_skewed():
    rng = np.random.default_rng(0)
    amounts = rng.lognormal(size=400)
    X = np.column_stack(
        [
            amounts,
            -amounts,
            np.round(10 * rng.lognormal(size=400)),
            rng.normal(size=400),
            rng.uniform(size=400),
            rng.standard_t(2, size=400),
            np.where(rng.random(400) < 0.05, 0.0, amounts),
            np.where(rng.random(400) < 0.15, 2.0, amounts),
            np.ones(400),
        ]
    )
    expected = np.array([True] * 3 + [False] * 6)
    assert (skewed_columns(X, np.ones(400)) == expected).all()
    assert not skewed_columns(X[:99], np.ones(99)).any()
    weights = rng.integers(1, 4, size=400)
    repeated = np.repeat(X[:, :6], weights, axis=0)
    by_weight = skewed_columns(X[:, :6], weights / weights.mean())
    assert (by_weight == skewed_columns(repeated, np.ones(len(repeated)))).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transformed_columns_and_their_jacobian(name):
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, size=(500, 2)) * [1, -1]
    weight = rng.uniform(0.5, 1.5, size=500)
    weight /= weight.mean()
    rows, log_jacobian = transformed(x, weight, name)
    np.testing.assert_allclose(np.average(rows, axis=0, weights=weight), 0, atol=1e-9)
    spread = np.average(rows**2, axis=0, weights=weight)
    np.testing.assert_allclose(spread, 1)
    total = 0.0
    for j in range(2):
        order = np.argsort(x[:, j])
        values, y = x[order, j], rows[order, j] * (1 if j == 0 else -1)
        assert (np.diff(y) > 0).all()
        slopes = np.gradient(y, values, edge_order=2)[5:-5]
        total += np.average(np.log(slopes), weights=weight[order][5:-5])
    # Slopes are differences between neighbours, which random gaps make inexact.
    assert log_jacobian == pytest.approx(total, abs=0.15)
    # Neither unit nor origin nor direction of a column matter.
    moved, of_moved = transformed(x * [3, -0.1] + [-7, 100], weight, name)
    np.testing.assert_allclose(moved, rows, atol=1e-8)
    assert of_moved == pytest.approx(log_jacobian - np.log(0.3))


def test_transforms_make_columns_symmetric():
    rng = np.random.default_rng(0)
    weight = np.ones(5000)
    for x, name in (
        (rng.gamma(2.0, size=(5000, 1)), "cube root"),
        (rng.lognormal(size=(5000, 1)), "logarithm"),
    ):
        assert skew(x)[0] > 1.2
        assert abs(skew(transformed(x, weight, name)[0])[0]) < 0.5


@pytest.mark.parametrize("to_skewed", [np.exp, lambda x: -np.exp(-x)])
def test_groups_are_found_whatever_the_shape_of_their_columns(to_skewed):
    found, plain = [], []
    for seed in range(4):
        X, y = groups(seed)
        X = to_skewed(X)
        found.append(ari(y, proposed(X)))
        known = propose_partitions(
            standardized(X), np.ones(len(X)), 3, "auto", np.random.RandomState(0)
        )[0]
        plain.append(ari(y, known.responsibilities.argmax(axis=1)))
    assert np.mean(found) > 0.95
    assert np.mean(found) > np.mean(plain) + 0.05


def test_skewed_columns_do_not_hide_groups_in_other_columns():
    for seed in range(3):
        X, _ = groups(seed)
        noise = np.random.default_rng(seed).lognormal(size=(len(X), 2))
        assert ari(proposed(np.c_[X, noise]), proposed(X)) > 0.9


def test_columns_stay_as_they_are_where_gaussians_are_likely():
    """Groups of unequal size make skewed columns, too."""
    rng = np.random.default_rng(0)
    y = rng.choice(3, 600, p=[0.7, 0.2, 0.1])
    X = np.array([[0, 0], [4, 1], [8, 7]])[y] + rng.normal(size=(600, 2))
    x, weight = standardized(X), np.ones(600)
    assert skewed_columns(x, weight).all()
    ours, rows = propose_for_skewed(x, weight, 3, np.random.RandomState(0))
    assert rows is None
    theirs = propose_partitions(x, weight, 3, "auto", np.random.RandomState(0))
    np.testing.assert_array_equal(ours[0].responsibilities, theirs[0].responsibilities)


def counted(X):
    x, weight = standardized(X), np.ones(len(X))
    standardizer = Standardizer.fit(x, weight)
    starts, _ = count_starts(
        x, weight, standardizer, 8, "auto", np.random.RandomState(0)
    )
    return starts[0].shape[1]


def test_groups_in_skewed_columns_are_counted():
    numbers = []
    for seed in range(4):
        X = groups(seed, n=200)[0]
        numbers.append((counted(X), counted(np.exp(X))))
    assert all(a == b for a, b in numbers)
    assert numbers.count((3, 3)) >= 3


def test_the_likeliest_transform_is_not_taken_if_it_is_the_odd_one_out():
    halves = np.repeat([0, 1], 50)
    others, near = np.tile([0, 1], 50), np.roll(halves, 5)
    likelihoods = {"identity": -3.0, "cube root": -2.5, "logarithm": -2.0}
    for labels, expected in (
        ((halves, near, others), "cube root"),
        ((halves, others, near), "logarithm"),
        ((others, halves, near), "logarithm"),
        ((others, np.roll(others, 1), np.repeat([0, 1, 0, 1], 25)), "cube root"),
    ):
        labels = dict(zip(TRANSFORMS, labels, strict=True))
        assert preferred("logarithm", labels, likelihoods) == expected


def test_a_column_of_few_values_causes_no_warning():
    """With fewer values than clusters; warnings are errors."""
    rng = np.random.default_rng(0)
    values = np.array([0, 1, 1.3, 1.7, 2.2, 2.8, 3.6, 5, 7, 9, 12, 16, 22])
    y = rng.integers(15, size=900)
    column = values[np.minimum((1 + rng.geometric(0.08, size=900)) % 13, 12)]
    X = np.c_[column, 4 * rng.normal(size=(15, 2))[y] + 0.4 * rng.normal(size=(900, 2))]
    assert len(np.unique(proposed(X, n_components=15))) == 15


def test_groups_beside_zeros_are_judged_in_the_same_columns():
    """Rows with zeros are groups, unless a finer partition of the others is better."""
    rng = np.random.default_rng([2, *b"zi9"])
    y = rng.integers(3, size=900)
    centres = 1.5 * rng.normal(size=(3, 3))
    X = np.exp(centres[y] + 0.5 * rng.normal(size=(900, 3)))
    X[rng.random((900, 3)) < 0.09] = 0
    x, weight = standardized(X), np.ones(900)
    standardizer = Standardizer.fit(x, weight)
    starts = propose_starts(
        x, weight, standardizer, 3, "auto", np.random.RandomState(3)
    )
    assert ari(y, starts[0].argmax(axis=1)) > 0.65


def test_a_mixture_of_nested_lognormal_groups():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=400)
    X = np.exp(np.array([0.3, 1.2])[y, None] * rng.normal(size=(400, 4)))
    labels = FlowMixture(2, random_state=0).fit_predict(X)
    assert ari(y, labels) > 0.6
