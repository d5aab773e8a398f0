"""Threads of torch in a fit, and after it."""

import pytest
import torch
from small_models import moons, small

from skflowmix.training.trainer import Trainer


@pytest.fixture
def two_threads():
    """Torch has two threads while a test runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_in_training(monkeypatch):
    seen = set()
    step = Trainer.step

    def count(self, step_size, starts_epoch):
        seen.add(torch.get_num_threads())
        step(self, step_size, starts_epoch)

    monkeypatch.setattr(Trainer, "step", count)
    return seen


@pytest.mark.parametrize(("n_threads", "expected"), [("auto", 1), (None, 2)])
def test_training_has_its_own_threads(monkeypatch, two_threads, n_threads, expected):
    seen = threads_in_training(monkeypatch)
    small(2, n_threads=n_threads).fit(moons())
    assert seen == {expected}
    assert torch.get_num_threads() == 2


def test_threads_are_restored_after_a_fit_that_fails(monkeypatch, two_threads):
    def fail(self, step_size, starts_epoch):
        raise RuntimeError("in the first step")

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(RuntimeError, match="first step"):
        small(2).fit(moons())
    assert torch.get_num_threads() == 2
