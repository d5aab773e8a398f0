"""A candidate: of several starts, the model that held-out rows prefer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from skflowmix._arrays import own_arithmetic, torch_generator
from skflowmix.model.components import WIDE
from skflowmix.model.groups import Groups
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.assignment import Assignment
from skflowmix.starts.division import LEAST_GAIN
from skflowmix.starts.gaussians import Gaussians
from skflowmix.training.division import divide_where_it_gains
from skflowmix.training.objectives import robust_gain
from skflowmix.training.phases import ModelFit
from skflowmix.training.runtime import Candidate, Runtime
from skflowmix.training.settings import EPOCH_ROWS, FitSettings
from skflowmix.training.table import TrainingTable

__all__ = [
    "LEAST_ROWS_PER_COMPONENT",
    "Partition",
    "best_candidate",
    "can_train_flows",
    "fit_candidate",
]

# Of fewer rows per component no flow can learn its shape.
LEAST_ROWS_PER_COMPONENT = 5


def can_train_flows(table: TrainingTable, n_components: int) -> bool:
    """Tell whether rows suffice to train the flows of components, and to judge them."""
    enough = len(table.train) >= LEAST_ROWS_PER_COMPONENT * n_components
    return bool(len(table.held_out)) and enough


@dataclass(frozen=True)
class Partition:
    """How flows share the rows, and where they may start.

    Parameters
    ----------
    responsibilities : ndarray of shape (n_distinct, n_flows)
        Shares of the flows.
    groups : Groups
        The component of each flow.
    starts : sequence of Gaussians
        What flows may whiten by, fitted to all rows. Those of equal shrinkage are one.
    plain : Gaussians
        Those that are likeliest by themselves, or what a model to go on with whitens
        by.
    """

    responsibilities: np.ndarray
    groups: Groups
    starts: Sequence[Gaussians]
    plain: Gaussians


@own_arithmetic()
@torch.inference_mode(False)
def fit_candidate(
    settings: FitSettings,
    table: TrainingTable,
    partition: Partition,
    runtime: Runtime,
    *,
    warm: MixtureModule | None = None,
    repartition: Callable[[np.ndarray, Groups], Partition] | None = None,
) -> Candidate:
    """Train one model from given responsibilities, or go on training one.

    Flows are judged by rows that neither they nor the Gaussians they start from have
    seen. Of several starts the one that is better after the M-step goes on, unless the
    plain Gaussians are clearly ahead by then, or out of its reach before. Unless what
    came of it is clearly better than these, training starts again from them; a large
    table, which is trained once, starts from them if they are ahead. Where no flow
    gains anything, or rows per component are too few for any, they are the model;
    otherwise training ends with a few epochs on all rows.

    Parameters
    ----------
    settings : FitSettings
        How to train.
    table : TrainingTable
        The rows.
    partition : Partition
        First responsibilities, and Gaussians to start from.
    runtime : Runtime
        Where, and who watches.
    warm : MixtureModule, optional
        A model to go on with: then there are no starts and no M-step.
    repartition : callable, optional
        Makes a partition of the shares of flows and their groups. Where it is given,
        components are divided among several flows after the M-step if held-out rows
        clearly prefer that.

    Returns
    -------
    candidate : Candidate
        What came of it.
    """
    if len(table.train) < LEAST_ROWS_PER_COMPONENT * partition.groups.n_flows:
        settings = replace(settings, n_transforms=0, n_shared_transforms=0)
        partition = replace(partition, starts=[partition.plain])
    if warm is not None:
        shares, plain = partition.responsibilities, partition.plain
        assign = _assignment(table, partition, runtime)
        fit = ModelFit("warm", settings, table, shares, warm, plain, runtime, assign)
        fit.train(warm=True)
        return fit.finish(plain, warm=True)
    first = _Attempt(settings, table, partition, runtime)
    # Flows that have not been trained are Gaussians, which parts always surpass.
    has_m_step = settings.n_transforms > 0 and settings.n_iter_init > 0
    # Several processes would have to agree on what held-out rows say.
    is_alone = table.shard is None and runtime.reducer.n_ranks == 1
    if not (has_m_step and is_alone and len(table.held_out)):
        repartition = None
    fit = first.after_m_step(is_compared=repartition is not None)
    if repartition is not None and not runtime.is_stopped():
        divided = divide_where_it_gains(fit, runtime.random_state)
        if divided is not None:
            finer = _Attempt(
                settings, table, repartition(*divided), runtime, "divided "
            )
            other = finer.after_m_step(is_compared=True)
            if other.clearly_better_than(fit.held_out_log_prob() + LEAST_GAIN):
                return finer.finish(other)
    return first.finish(fit)


def _assignment(
    table: TrainingTable, partition: Partition, runtime: Runtime
) -> Assignment | None:
    """Return what gives rows that are not in memory their shares of the flows."""
    if table.stream is None:
        return None
    shares, plain = partition.responsibilities, partition.plain
    return Assignment(table.x, table.weights, shares, plain, runtime.random_state)


class _Attempt:
    """Training by one partition; `prefix` tells its phases from those of others."""

    def __init__(
        self,
        settings: FitSettings,
        table: TrainingTable,
        partition: Partition,
        runtime: Runtime,
        prefix: str = "",
    ):
        self.settings, self.table, self.runtime = settings, table, runtime
        self.partition, self.prefix = partition, prefix
        self.moments = table.without_far(partition.responsibilities)
        self.assign = _assignment(table, partition, runtime)
        starts = {start.shrinkage: start for start in partition.starts}
        self.starts = list(starts.values())
        self.tries_plain = partition.plain.shrinkage not in starts

    def _without_held_out(self, gaussians: Gaussians) -> Gaussians:
        table, moments = self.table, self.moments
        seen = gaussians.refit(
            table.x[table.train], table.weights[table.train], moments[table.train]
        )
        seen.weights = gaussians.weights
        # Without the others a column may be constant, which reg_covar=0 allows.
        if not seen.are_positive_definite():
            seen = gaussians
        seen.measure_reach(table.x[table.train], moments[table.train])
        return seen

    def _start_from(self, name: str, gaussians: Gaussians) -> ModelFit:
        settings, table, reducer = self.settings, self.table, self.runtime.reducer
        seen = reducer.from_first(lambda: self._without_held_out(gaussians))
        model = MixtureModule.of_flows(
            seen,
            flow=settings.flow,
            n_transforms=settings.n_transforms,
            n_common_transforms=settings.n_common_transforms,
            n_shared_transforms=settings.n_shared_transforms,
            hidden_units=settings.hidden_units,
            posterior_units=settings.posterior_units,
            groups=self.partition.groups,
            generator=torch_generator(self.runtime.random_state),
        )
        return ModelFit(
            self.prefix + name,
            settings,
            table,
            self.partition.responsibilities,
            model,
            seen,
            self.runtime,
            self.assign,
        )

    def after_m_step(self, *, is_compared: bool) -> ModelFit:
        """Return the better one of the starts, after an M-step.

        That of one flow is the ELBO, and serves only to choose, here or, if the model
        `is_compared`, later. Where it cannot reach the plain Gaussians, these start.
        """
        table, plain = self.table, self.partition.plain
        self.needs_m_step = (
            is_compared or len(self.starts) > 1 or len(plain.weights) > 1
        )
        fit = self._start_from("start 0", self.starts[0])
        is_large = table.x.shape[1] > WIDE or len(table.train) > EPOCH_ROWS
        is_large |= table.shard is not None or table.stream is not None
        # Several Gaussians to a component leave flows less to gain.
        if self.tries_plain and (is_large or not self.partition.groups.are_single):
            other = self._start_from("plain", plain)
            if other.starts_ahead_of(fit):
                fit = other
            self.tries_plain = False
        self._m_step(fit, plain if self.tries_plain else None)
        if fit.is_outrun and not self.runtime.is_stopped():
            self.tries_plain = False
            fit = self._start_from("plain", plain)
            self._m_step(fit)
            return fit
        for i, gaussians in enumerate(self.starts[1:], start=1):
            if self.runtime.is_stopped():
                break
            other = self._start_from(f"start {i}", gaussians)
            self._m_step(other)
            if other.better_than(fit):
                fit = other
        return fit

    def _m_step(self, fit: ModelFit, rival: Gaussians | None = None) -> None:
        if self.needs_m_step:
            seen = None
            if rival is not None:
                reducer = self.runtime.reducer
                seen = reducer.from_first(lambda: self._without_held_out(rival))
            fit.train_by_responsibilities(seen)

    def finish(self, fit: ModelFit) -> Candidate:
        """Train to the end, and from the plain Gaussians if that gained too little.

        Where these are clearly ahead of what came of the M-step, from them alone.
        """
        plain = self.partition.plain
        if not self.tries_plain or self.runtime.is_stopped():
            fit.train()
            return fit.finish(plain, warm=False)
        other = self._start_from("plain", plain)
        had_m_step = self.needs_m_step and self.settings.n_iter_init > 0
        if had_m_step and other.clearly_better_than(fit.held_out_log_prob()):
            return self._trained(other).finish(plain, warm=False)
        fit.train()
        return self._better_of(fit, other).finish(plain, warm=False)

    def _trained(self, fit: ModelFit) -> ModelFit:
        self._m_step(fit)
        fit.train()
        return fit

    def _better_of(self, fit: ModelFit, other: ModelFit) -> ModelFit:
        """Return what was trained, or what comes of the plain Gaussians after all."""
        if self.runtime.is_stopped():
            return fit
        if fit.keeps_flows and fit.clearly_better_than(other.log_prob_start):
            return fit
        other = self._trained(other)
        # Stopped early, it may not have got as far as the first.
        if self.runtime.is_stopped():
            own_log_prob = fit.held_out_log_prob()
            return other if other.clearly_better_than(own_log_prob) else fit
        return other


def best_candidate(candidates: list[Candidate]) -> Candidate:
    """Choose the candidate with the largest held-out gain over the first one."""
    first = candidates[0]
    gains = [
        float(robust_gain(first.held_out, c.held_out_log_prob, first.held_out_log_prob))
        for c in candidates
    ]
    return candidates[int(np.argmax(np.nan_to_num(gains, nan=-np.inf)))]
