"""A candidate: the model of several starts that is best on held-out rows."""

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

# With fewer training rows per component flows cannot learn its shape.
LEAST_ROWS_PER_COMPONENT = 5


def can_train_flows(table: TrainingTable, n_components: int) -> bool:
    """Return whether there are enough rows to train and evaluate flows."""
    enough = len(table.train) >= LEAST_ROWS_PER_COMPONENT * n_components
    return bool(len(table.held_out)) and enough


@dataclass(frozen=True)
class Partition:
    """Responsibilities of the flows, and Gaussians that they may start from.

    Parameters
    ----------
    responsibilities : ndarray of shape (n_distinct, n_flows)
        First responsibilities of the flows.
    groups : Groups
        The component of each flow.
    starts : sequence of Gaussians
        Gaussians that flows may whiten by, fitted to all rows. Of several with equal
        shrinkage only one is used.
    plain : Gaussians
        Gaussians that are likeliest without flows; if a model continues training, the
        Gaussians that it whitens by.
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
    """Train one model from given responsibilities, or continue training one.

    Flows are evaluated on rows that neither they nor the Gaussians they start from have
    seen. The start that is best after the M-step goes on, unless the plain Gaussians
    are clearly ahead by then, or the M-step would not reach them. Unless the result is
    clearly better than the plain Gaussians, training starts again from them. With a
    large table or several flows per component training runs only once, from the plain
    Gaussians if they are ahead at the start. If flows gain nothing, or there are too
    few rows per component, the plain Gaussians are the model; otherwise training ends
    with a few epochs on all rows.

    Parameters
    ----------
    settings : FitSettings
        Settings of the training.
    table : TrainingTable
        The rows.
    partition : Partition
        First responsibilities, and Gaussians to start from.
    runtime : Runtime
        Device, monitor, journal and processes.
    warm : MixtureModule, optional
        A model to continue training, without starts and without an M-step.
    repartition : callable, optional
        Maps responsibilities of flows and their groups to a partition. If given,
        components are divided among several flows after the M-step where held-out rows
        clearly prefer that.

    Returns
    -------
    candidate : Candidate
        The trained model.
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
    # Untrained flows are Gaussians, which mixtures of several always surpass.
    has_m_step = settings.n_transforms > 0 and settings.n_iter_init > 0
    # Several processes would have to agree on the comparisons on held-out rows.
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
    """Return the assignment of streamed rows to flows; None without a stream."""
    if table.stream is None:
        return None
    shares, plain = partition.responsibilities, partition.plain
    return Assignment(table.x, table.weights, shares, plain, runtime.random_state)


class _Attempt:
    """Training from one partition; `prefix` marks its phases."""

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
        # Without held-out rows a column may be constant; reg_covar=0 adds no variance.
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
        """Return the best of the starts after an M-step.

        With a single flow the M-step equals the ELBO: it is run only to choose between
        starts or, if the model `is_compared`, between divisions. If it cannot reach the
        plain Gaussians, training starts from them.
        """
        table, plain = self.table, self.partition.plain
        self.needs_m_step = (
            is_compared or len(self.starts) > 1 or len(plain.weights) > 1
        )
        fit = self._start_from("start 0", self.starts[0])
        is_large = table.x.shape[1] > WIDE or len(table.train) > EPOCH_ROWS
        is_large |= table.shard is not None or table.stream is not None
        # With several Gaussians per component flows have less to gain.
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
        """Train to the end, then from the plain Gaussians if that gained too little.

        If the plain Gaussians are clearly ahead after the M-step, train only from them.
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
        """Return a trained fit, or one from the plain Gaussians if it gained little."""
        if self.runtime.is_stopped():
            return fit
        if fit.keeps_flows and fit.clearly_better_than(other.log_prob_start):
            return fit
        other = self._trained(other)
        # Stopped early, it may be worse than the first fit.
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
