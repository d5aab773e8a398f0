"""Parts of batches and shards of rows add up to what one process sees."""

import numpy as np
import pytest
import torch
from processes import in_processes, outcomes_in_processes
from small_modules import seeded

from skflowmix.starts.preprocessing import Standardizer
from skflowmix.training.batches import Batch, Noise, TableSource
from skflowmix.training.shards import (
    ShardSource,
    SharedSource,
    count_all_shards,
    hold_shard,
)
from skflowmix.training.table import TrainingTable


def table(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(n_rows, 2)))
    weights = torch.from_numpy(rng.uniform(0.5, 2, n_rows))
    widths = torch.from_numpy(rng.uniform(0, 1, (n_rows, 2)))
    shares = torch.full((n_rows, 1), 1.0, dtype=torch.float64)
    return Batch(x, weights, shares, repeat_widths=widths)


@pytest.mark.parametrize("n_ranks", [2, 3, 20])
def test_parts_of_a_batch_make_the_whole(n_ranks):
    """Sizes do not matter, nor does noise, nor that there are more processes."""
    nearest = (torch.arange(50).unsqueeze(1) + torch.tensor([1, 2])) % 50

    def means(source):
        noise = Noise(0.5, seeded(1))
        batches = [source.rows(*source.draw()) for _ in range(source.n_batches + 1)]
        for batch in batches:
            noise.move(batch, 1.0)
        return torch.stack([b.batch_mean(b.x.sin().sum(1)) for b in batches])

    whole = means(TableSource(table(50), 13, seeded(), nearest))

    def part(reducer):
        return means(SharedSource(table(50), 13, seeded(), nearest, reducer))

    parts = torch.stack(in_processes(n_ranks, part))
    torch.testing.assert_close(parts.mean(0), whole, rtol=1e-12, atol=1e-12)
    assert n_ranks == 20 or not torch.allclose(parts[0], parts[1])


def test_shards_count_by_their_weights():
    """Batches are as large in all, and on average those of all rows together."""
    sizes, whole = (24, 60, 36), table(120)

    def function(reducer):
        start = sum(sizes[: reducer.rank])
        own = whole[start : start + sizes[reducer.rank]]
        own = Batch(own.x, own.weights, own.responsibilities)
        count_all_shards(own, reducer)
        source = ShardSource(own, 36, seeded(reducer.rank), None, reducer)
        batches = [source.rows(*source.draw()) for _ in range(30)]
        assert {len(batch) for batch in batches} == {12}
        assert source.n_batches == 120 // 36 and own.n_counted == 120
        return sum(batch.batch_mean(batch.x[:, 0]) for batch in batches) / 30

    # 30 batches of 12 rows are whole passes over each shard.
    mean = sum(in_processes(3, function)) / 3
    torch.testing.assert_close(mean, whole.mean(whole.x[:, 0]))


def test_held_out_rows_are_held_out_of_every_shard():
    rows = np.random.default_rng(0).normal(size=(200, 2))
    standardizer = Standardizer.fit(rows, np.ones(200))

    def function(reducer):
        sample = TrainingTable(
            rows[::2], np.ones(100), standardizer, 0.2, np.random.RandomState(0)
        )
        own = rows[reducer.rank * 120 :][:120]
        hold_shard(sample, own, np.full(len(own), 3.0), reducer)
        shard, held_out = sample.shard, sample.x[sample.held_out]
        is_held_out = (shard.x[:, None] == held_out).all(2).any(1)
        assert not is_held_out[shard.train].any() and is_held_out[shard.held_out].all()
        assert len(shard.train) + len(shard.held_out) == len(own)
        np.testing.assert_allclose(shard.weights, 1.0)
        assert sample.n_counted == 200
        labels = np.eye(2)[(sample.x[:, 0] > 0).astype(int)]
        spread = sample.spread(labels)[:, 1] > 0.5
        assert (spread == (shard.x[:, 0] > 0)).mean() > 0.9
        return len(shard.held_out)

    assert sum(in_processes(2, function)) == 20


def test_a_shard_without_rows_to_train_on_is_refused():
    rows = np.arange(40.0).reshape(20, 2)
    standardizer = Standardizer.fit(rows, np.ones(20))

    def function(reducer):
        sample = TrainingTable(
            rows, np.ones(20), standardizer, 0.5, np.random.RandomState(0)
        )
        own = rows if reducer.rank == 0 else rows[sample.held_out[:3]]
        hold_shard(sample, own, np.ones(len(own)), reducer)

    for outcome in outcomes_in_processes(2, function):
        with pytest.raises(ValueError, match=r"got \[10, 0\]\. Spread the rows"):
            raise outcome
