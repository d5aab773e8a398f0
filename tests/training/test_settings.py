"""What follows from an estimator's parameters and the size of a table."""

import pytest
from small_models import make

from skflowmix import FlowMixture
from skflowmix.training.settings import EPOCH_ROWS, MAX_STEPS


@pytest.mark.parametrize("batch_size", ["auto", 1, 100, 10**6])
def test_an_epoch_visits_a_bounded_number_of_rows(batch_size):
    settings = make(FlowMixture, batch_size=batch_size)._settings()
    n_rows = 500_000
    config = settings.training_config(1, 0, n_rows, 1, n_rows)
    assert 1 <= config.max_steps <= MAX_STEPS
    size = settings.batch_size_for(n_rows)
    visited = config.max_steps * size
    assert visited <= max(EPOCH_ROWS, size)
    assert batch_size != "auto" or visited == EPOCH_ROWS


@pytest.mark.parametrize(
    ("n_threads", "n_columns", "expected"),
    [("auto", 10, 1), ("auto", 1000, None), (3, 10, 3), (None, 10, None)],
)
def test_large_steps_alone_use_the_threads_that_torch_has(
    n_threads, n_columns, expected
):
    settings = make(FlowMixture, n_threads=n_threads)._settings()
    assert settings.threads_to_train(10_000, n_columns) == expected


def test_epochs_on_all_rows_follow_those_on_the_elbo_where_steps_were_small():
    settings = make(FlowMixture)._settings()
    assert settings.final_epochs(100, in_small_steps=False) == 8
    assert settings.final_epochs(100, in_small_steps=True) == 25
    assert settings.final_epochs(10, in_small_steps=True) == 8
    most = settings.most_epochs_of("all rows")
    assert settings.final_epochs(1000, in_small_steps=True) == most
    settings = make(FlowMixture, max_iter=3)._settings()
    assert settings.final_epochs(3, in_small_steps=True) == 3
