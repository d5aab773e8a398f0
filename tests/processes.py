"""Processes that fit a model together, as threads: without sockets, and fast."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from skflowmix.distributed import fit_together
from skflowmix.training.reducers import Reducer

# Seconds after which a process that waits in vain gives up.
PATIENCE = 30


class ThreadReducer(Reducer):
    """One of several threads, each of which stands for a process."""

    def __init__(self, rank, n_ranks, barrier, places):
        self.rank, self.n_ranks = rank, n_ranks
        self.barrier, self.places = barrier, places

    def gather(self, value):
        self.places[self.rank] = pickle.dumps(value)
        self.barrier.wait(PATIENCE)
        values = [pickle.loads(place) for place in self.places]
        self.barrier.wait(PATIENCE)
        return values

    def broadcast(self, value):
        first = self.gather(value if self.rank == 0 else None)[0]
        return value if self.rank == 0 else first

    def mean_(self, vector):
        vector.copy_(torch.stack(self.gather(vector.clone())).mean(0))

    def broadcast_(self, vector):
        vector.copy_(self.gather(vector.clone())[0])


def in_processes(n, function, *, sharded=False):
    """Return what a function of a `Reducer` returns in each of n processes."""
    outcomes = outcomes_in_processes(n, function, sharded=sharded)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


def outcomes_in_processes(n, function, *, sharded=False):
    """Return what a function returns or raises in each of n processes."""
    barrier, places = threading.Barrier(n), [None] * n

    def call(rank):
        reducer = ThreadReducer(rank, n, barrier, places)
        try:
            with fit_together(reducer, sharded=sharded):
                return function(reducer)
        except Exception as error:
            return error

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(call, range(n)))
