"""Batches of a table that is read block by block."""

import numpy as np
import pytest
import torch

from skflowmix.row_stream import RowStream
from skflowmix.training.batches import Batch
from skflowmix.training.stream import StreamSource


def prepared(rows, weights):
    """Rows as they are; their responsibilities are their first values."""
    x = torch.from_numpy(rows)
    return Batch(x, torch.from_numpy(weights), x[:, :1], thickness=2 * x)


def source(n_rows=103, batch_size=8, seed=0, weights=None, **kwargs):
    X = np.arange(2.0 * n_rows).reshape(n_rows, 2)
    generator = torch.Generator().manual_seed(seed)
    sizes = {"block_rows": 10, "buffer_rows": 40} | kwargs
    stream = RowStream(X, weights)
    sample = prepared(X[:20], np.ones(20))
    return StreamSource(stream, prepared, sample, batch_size, generator, **sizes)


def numbers_of(*batches):
    return [n for batch in batches for n in (batch.x[:, 0] / 2).long().tolist()]


@pytest.mark.parametrize("n_rows", [7, 8, 15, 16, 100, 103])
@pytest.mark.parametrize("left_out", [[], [0, 3, 4, 6]])
def test_every_row_is_visited_once_in_a_pass(n_rows, left_out):
    own = source(n_rows, left_out=np.array(left_out, dtype=int))
    expected = sorted(set(range(n_rows)) - set(left_out))
    assert own.n_rows == own.n_counted == len(expected)
    orders = []
    for _ in range(3):
        batches = [own.rows(*own.draw()) for _ in range(own.n_batches)]
        visited = numbers_of(*batches)
        assert sorted(visited) == expected
        sizes = [len(batch) for batch in batches]
        assert set(sizes[:-1]) <= {8} and (len(expected) < 8 or 8 <= sizes[-1] < 16)
        orders.append(visited)
    assert n_rows < 10 or (orders[0] != orders[1] and orders[1] != orders[2])


def test_batches_hold_all_values_of_their_rows():
    own = source()
    for _ in range(15):
        batch = own.rows(*own.draw())
        torch.testing.assert_close(batch.thickness, 2 * batch.x)
        torch.testing.assert_close(batch.responsibilities, batch.x[:, :1])
        assert batch.neighbors is None and batch.repeat_widths is None
        assert float(batch.mean_weight) == 1.0


def test_a_batch_holds_rows_of_many_blocks():
    own = source(1000, batch_size=20, buffer_rows=200)
    blocks = [{n // 10 for n in numbers_of(own.rows(*own.draw()))} for _ in range(40)]
    assert np.mean([len(own) for own in blocks]) > 10


def test_rows_of_weight_zero_are_left_out():
    weights = np.arange(103.0) % 3
    own = source(weights=weights, left_out=np.array([1, 50]))
    batches = [own.rows(*own.draw()) for _ in range(own.n_batches)]
    visited = np.array(numbers_of(*batches))
    expected = np.setdiff1d(np.flatnonzero(weights), [1, 50])
    np.testing.assert_array_equal(np.sort(visited), expected)
    drawn = torch.cat([batch.weights for batch in batches])
    np.testing.assert_array_equal(drawn, weights[visited])
    mean = weights.sum() / np.count_nonzero(weights)
    assert float(batches[0].mean_weight) == mean


@pytest.mark.parametrize("n_drawn", [0, 1, 5, 12, 13])
def test_a_loaded_state_goes_on_bit_for_bit(n_drawn):
    own, other = source(), source(seed=1)
    for _ in range(n_drawn):
        own.draw()
    other.load_state_dict(own.state_dict())
    for _ in range(30):
        for mine, theirs in zip(own.draw(), other.draw(), strict=True):
            assert torch.equal(mine, theirs)


def test_a_state_does_not_change_afterwards():
    own, other = source(), source()
    own.draw()
    state = own.state_dict()
    following = [own.draw()[0] for _ in range(20)]
    other.load_state_dict(state)
    assert all(torch.equal(x, other.draw()[0]) for x in following)
