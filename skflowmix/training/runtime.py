"""The environment in which a candidate is trained, and the trained candidate."""

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
        The Gaussians that its components whiten by.
    history : list of dict
        Figures of every epoch.
    held_out : Batch
        The rows it was evaluated on.
    held_out_log_prob : Tensor
        Its log-densities at these rows, in nats.
    converged, stopped : bool
        Whether training converged, and whether a callback ended it.
    optimism : float, default=0.0
        With known classes, the gain of flows over their Gaussians on training rows
        minus that on held-out rows, in nats per row, at least zero.
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
        """Mixture weights of all flows."""
        return self.model.log_weights.detach().exp().numpy()

    def sort(self) -> None:
        """Order the groups of flows by decreasing weight, and the flows of each."""
        groups, weights = self.model.groups, self.weights
        of_group = groups.sum(weights[None])[0]
        place = np.argsort(np.argsort(-of_group, kind="stable"))
        self._take(np.lexsort((-weights, place[groups.of_flow])))

    def drop_unused(self, n_rows: float) -> None:
        """Drop groups that expect less than one of `n_rows` rows, but the heaviest."""
        groups = self.model.groups
        of_group = groups.sum(self.weights[None])[0]
        used = of_group * n_rows >= 1
        used[of_group.argmax()] = True
        self._take(np.flatnonzero(used[groups.of_flow]))

    def drop_unused_flows(self, n_rows: float) -> None:
        """Drop flows that expect less than one row, but the heaviest of each group."""
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

        Returning true ends the fit, and `stopped` is true from then on.
        """
        ...


@dataclass(frozen=True)
class Runtime:
    """Environment in which a candidate is trained.

    Parameters
    ----------
    device : torch.device
        The device to train on.
    random_state : RandomState
        Source of network weights, batches and noise.
    monitor : Monitor
        Sees every epoch and can end the fit.
    journal : Journal
        Runs the phases.
    reducer : Reducer
        The processes that train the candidate.
    """

    device: torch.device
    random_state: np.random.RandomState
    monitor: Monitor
    journal: Journal
    reducer: Reducer

    def is_stopped(self) -> bool:
        """Return whether the monitor has ended the fit."""
        return self.monitor.stopped

    def generator(self) -> torch.Generator:
        """Return a new generator on the device, with a random seed."""
        return torch_generator(self.random_state, self.device)
