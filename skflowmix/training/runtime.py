"""Where and by whose leave a candidate is trained, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from skflowmix._arrays import torch_generator
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.gaussians import Gaussians
from skflowmix.training.batches import Batch
from skflowmix.training.journal import Journal
from skflowmix.training.reducers import Reducer

__all__ = ["Candidate", "Monitor", "Runtime"]


@dataclass(eq=False)
class Candidate:
    """A trained model and how its training went.

    Parameters
    ----------
    model : MixtureModule
        In float64, on the CPU.
    gaussians : Gaussians
        What its components whiten by.
    history : list of dict
        Figures of every epoch.
    held_out : Batch
        The rows that judged it.
    held_out_log_prob : Tensor
        Its log-densities there, in nats.
    converged, stopped : bool
        Whether training converged, and whether a callback ended it.
    optimism : float, default=0.0
        Where rows have classes, what flows gained over their Gaussians on rows that
        they had seen, beyond what they gained on held-out ones, in nats per row.
    """

    model: MixtureModule
    gaussians: Gaussians
    history: list[dict[str, Any]]
    held_out: Batch
    held_out_log_prob: Tensor
    converged: bool
    stopped: bool
    optimism: float = 0.0

    @property
    def weights(self) -> np.ndarray:
        """Weights of all flows."""
        return self.model.log_weights.detach().exp().numpy()

    def sort(self) -> None:
        """Order the groups of flows by decreasing weight, and the flows of each."""
        groups, weights = self.model.groups, self.weights
        of_group = groups.sum(weights[None])[0]
        place = np.argsort(np.argsort(-of_group, kind="stable"))
        self._take(np.lexsort((-weights, place[groups.of_flow])))

    def drop_unused(self, n_rows: float) -> None:
        """Drop groups that expect less than one of so many rows."""
        groups = self.model.groups
        of_group = groups.sum(self.weights[None])[0]
        used = of_group * n_rows >= 1
        used[of_group.argmax()] = True
        self._take(np.flatnonzero(used[groups.of_flow]))

    def drop_unused_flows(self, n_rows: float) -> None:
        """Drop the flows that expect less than one, but the heaviest of each group."""
        weights, groups = self.weights, self.model.groups
        if groups.are_single:
            return
        heaviest = [own.max() for own in groups.parts(weights)]
        used = (weights * n_rows >= 1) | (weights == np.repeat(heaviest, groups.sizes))
        self._take(np.flatnonzero(used))

    def _take(self, index: np.ndarray) -> None:
        self.model.select_(torch.from_numpy(index))
        self.gaussians = self.gaussians[index]


class Monitor(Protocol):
    """Watches a fit: it sees every epoch and can end the fit."""

    stopped: bool

    def epoch(
        self, record: dict[str, Any], make_candidate: Callable[[], Candidate]
    ) -> bool:
        """Receive an epoch's record and a function that copies the model as it stands.

        True, as `stopped` from then on, ends the fit.
        """
        ...


@dataclass(frozen=True)
class Runtime:
    """Where and by whose leave a candidate is trained.

    Parameters
    ----------
    device : torch.device
        Where to train.
    random_state : RandomState
        Source of network weights, batches and noise.
    monitor : Monitor
        Sees every epoch.
    journal : Journal
        Runs the phases.
    reducer : Reducer
        The processes that train it.
    """

    device: torch.device
    random_state: np.random.RandomState
    monitor: Monitor
    journal: Journal
    reducer: Reducer

    def is_stopped(self) -> bool:
        """Tell whether the monitor has ended the fit."""
        return self.monitor.stopped

    def generator(self) -> torch.Generator:
        """Draw a new generator on the device."""
        return torch_generator(self.random_state, self.device)
