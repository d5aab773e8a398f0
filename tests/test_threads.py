"""Threads of torch and of BLAS in a fit, and after it."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from small_models import moons, small
from threadpoolctl import threadpool_info, threadpool_limits

from skflowmix import _arrays
from skflowmix._arrays import limited_threads
from skflowmix.training.trainer import Trainer


@pytest.fixture
def two_threads():
    """Torch has two threads while a test runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
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


def test_threads_of_all_libraries_are_limited_and_restored(two_threads):
    before = threadpool_info()
    with limited_threads(1):
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    assert threadpool_info() == before
    with limited_threads(None):
        assert threadpool_info() == before


class Pool:
    """A pool of threads that all threads of the process share."""

    def __init__(self):
        self.n_threads = 2

    def limit(self, limits):
        before, self.n_threads = self.n_threads, limits

        def restore():
            self.n_threads = before

        return SimpleNamespace(restore_original_limits=restore)


def test_the_last_of_several_threads_restores_what_they_have_in_common(monkeypatch):
    """Whatever the order in which their fits begin and end."""
    pool, actual = Pool(), _arrays._pools
    monkeypatch.setattr(
        _arrays, "_pools", lambda of: pool if of == "blas" else actual(of)
    )
    entered, leave = threading.Event(), threading.Event()

    def other():
        with limited_threads(1):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with limited_threads(1):
        thread.start()
        assert entered.wait(10)
    assert pool.n_threads == 1
    leave.set()
    thread.join()
    assert pool.n_threads == 2


FORK = """
import os, signal, sys
import numpy as np, torch
from skflowmix import FlowMixture
torch.set_num_threads(2)
X = np.random.default_rng(0).normal(size=(20_000, 6))
model = FlowMixture(2, max_iter=1, random_state=0).fit(X[:300])
expected = model.score_samples(X)
child = os.fork()
if child == 0:
    signal.alarm(60)
    equal = np.array_equal(model.score_samples(X[:50]), expected[:50])
    model.sample(5)
    os._exit(0 if equal and torch.get_num_threads() == 1 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="systems with fork")
def test_a_forked_child_answers():
    """OpenMP would have it wait for threads that it does not have."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], env=environment, timeout=300
    )
    assert done.returncode == 0
