"""Labels spread over a graph, and whether rows without one help."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_circles

from skflowmix.starts.labels import LabelGraph, likeliest
from skflowmix.starts.unlabelled import label_folds, spreading_helps


def spread(x, classes):
    return LabelGraph(x, classes, np.random.RandomState(0)).spread(classes, 2)


def helps(x, classes):
    weights = np.ones(len(x))
    return spreading_helps(x, x, weights, classes, 2, np.random.RandomState(0))


def with_some_labels(y, n_labels):
    return np.where(np.arange(len(y)) < n_labels, y, -1)


def test_labels_spread_along_the_rings():
    X, y = make_circles(4000, noise=0.02, factor=0.5, random_state=0)
    some = with_some_labels(y, 20)
    shares = spread(X, some)
    assert_allclose(shares.sum(1), 1)
    assert np.mean(shares.argmax(1) == y) > 0.99
    assert_array_equal(shares[some >= 0], np.eye(2)[some[some >= 0]])


def test_rows_beyond_the_graph_ask_those_nearest(monkeypatch):
    monkeypatch.setattr("skflowmix.starts.labels.MAX_SPREAD_ROWS", 400)
    X, y = make_circles(1000, noise=0.02, factor=0.5, random_state=0)
    shares = spread(X, with_some_labels(y, 10))
    assert_allclose(shares.sum(1), 1)
    assert np.mean(shares.argmax(1) == y) > 0.99


def test_what_no_label_reaches_is_undecided():
    x = np.r_[np.zeros((30, 1)), np.ones((30, 1))] + np.linspace(0, 0.1, 60)[:, None]
    classes = np.full(60, -1)
    classes[:2] = 0, 1
    assert_allclose(spread(x, classes)[30:], 0.5)


def test_rows_take_their_likeliest_class_if_there_is_one():
    shares = np.array([[0.51, 0.49], [0.5, 0.5], [0.0, 1.0]])
    assert_array_equal(likeliest(shares), [[1, 0], [0.5, 0.5], [0, 1]])


def test_folds_of_labels_hold_every_class_in_turn():
    classes = np.repeat([0, -1, 1, 2], [50, 40, 20, 1])
    folds = label_folds(classes)
    rows = np.concatenate(folds)
    assert_array_equal(np.sort(rows), np.r_[:50, 90:110])
    for own in folds:
        assert_array_equal(np.bincount(classes[own]), [5, 2])


def test_single_labels_cannot_be_judged():
    x, classes = np.arange(10.0)[:, None], np.full(10, -1)
    classes[:2] = 0, 1
    assert label_folds(classes) == []
    assert helps(x, classes)
    classes[2] = 0
    assert helps(x, classes)  # those of one class tell nothing


def overlapping(n, seed):
    """Two classes that overlap in a bend, of which the smaller has 35 % of the rows."""
    rng = np.random.RandomState(seed)
    y = (rng.rand(n) < 0.35).astype(int)
    along = rng.uniform(-1.5, 1.5, n)
    x = rng.normal(size=(n, 3))
    x[:, 0] += y * along
    x[:, 1] += np.where(y, along**2 - 0.5, 0.6)
    return x, y


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_labels", [30, 100])
def test_rows_without_a_label_help_where_classes_are_clusters(n_labels, seed):
    rings = make_circles(600, noise=0.05, factor=0.5, random_state=seed)
    assert helps(rings[0], with_some_labels(rings[1], n_labels))
    x, y = overlapping(600, seed)
    assert not helps(x, with_some_labels(y, n_labels))
