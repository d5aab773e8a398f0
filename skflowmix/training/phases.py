"""Training of one model, phase by phase."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.assignment import Assignment
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.knn import nearest_others, searched_rows
from skflowmix.starts.preprocessing import TRAINING_BOUND
from skflowmix.training.batches import Batch, Noise, RowSource, TableSource
from skflowmix.training.labelled import start_predicts_better
from skflowmix.training.objectives import (
    ElboObjective,
    MStepObjective,
    PosteriorObjective,
    Temperature,
    clearly_gains,
    robust_gain,
    truncated_responsibilities,
)
from skflowmix.training.optimizer import AdamW, FlatParameters
from skflowmix.training.runtime import Candidate, Runtime
from skflowmix.training.settings import (
    ALL_ROWS,
    ELBO,
    M_STEP,
    FitSettings,
)
from skflowmix.training.shards import ShardSource, SharedSource, count_all_shards
from skflowmix.training.stream import StreamSource
from skflowmix.training.table import N_NEAREST, TrainingTable
from skflowmix.training.trainer import Objective, Trainer, TrainingConfig

__all__ = ["FINAL_RATE", "ModelFit"]

# Largest number of held-out rows that are evaluated after every epoch.
MAX_HELD_OUT = 4096

# Largest step size of the last phase, on all rows, as a share of `learning_rate`.
FINAL_RATE = 0.25

# Largest number of epochs of the last fit of q(z|x).
POSTERIOR_EPOCHS = 50


class ModelFit:
    """One model in training, in the training's dtype and on its device.

    `name` distinguishes it from other models of the same candidate. `assign` maps rows
    of a stream, of which `table` is a sample, to their first responsibilities.
    """

    def __init__(
        self,
        name: str,
        settings: FitSettings,
        table: TrainingTable,
        responsibilities: np.ndarray,
        model: MixtureModule,
        gaussians: Gaussians,
        runtime: Runtime,
        assign: Assignment | None = None,
    ):
        self.name, self.settings, self.runtime = name, settings, runtime
        self.assign = assign
        self.model, self.gaussians = model, gaussians
        self.table, self.responsibilities = table, responsibilities
        # The rows this process trains on: all rows, or its own shard.
        self.own, self.own_responsibilities = table, responsibilities
        if table.shard is not None:
            self.own = table.shard
            self.own_responsibilities = table.spread(responsibilities)
        dtype = "float64" if gaussians.need_float64() else settings.dtype
        self.working = copy.deepcopy(model).to(runtime.device, getattr(torch, dtype))
        self.train_rows, self.nearest = self._own_rows(self.own.train), None
        can_move = len(table.held_out) and len(table.train) > 1
        if settings.input_noise > 0 and can_move and table.stream is None:
            self.nearest = self.own.neighbors_in_training
            self.allow_noise(self.train_rows, self.own.train)
        judged_by = table.held_out[:MAX_HELD_OUT]
        if not len(judged_by):
            judged_by = table.train
        like = self.working.weight_logits
        self.held_out = table.batch(responsibilities, judged_by, like)
        groups = self.working.parameter_groups()
        if not len(table.held_out):
            # Nothing would keep flows from overfitting: they are not trained.
            posterior = self.working.posterior
            plain = [*posterior.biases, self.working.weight_logits]
            groups = {"decayed": posterior.weights, "plain": plain}
        self.flat = FlatParameters(groups, [self.working.temperature])
        self.optimizer = AdamW(self.flat)
        self.history: list[dict[str, Any]] = []
        self.converged = self.keeps_flows = self.is_outrun = False
        self.optimism: float | None = None
        with torch.no_grad():
            self.start = [p.clone() for p in self.working.parameters()]
            self.log_prob_start = self.held_out_log_prob()

    def _own_rows(self, index: np.ndarray) -> Batch:
        """Return rows to train on, their counts including other processes' rows."""
        like = self.working.weight_logits
        batch = self.own.batch(self.own_responsibilities, index, like)
        if self.table.shard is not None:
            count_all_shards(batch, self.runtime.reducer)
        return batch

    def allow_noise(self, batch: Batch, index: np.ndarray) -> None:
        """Set which values of the rows `index` noise may move, and their thickness."""
        batch.movable = torch.from_numpy(self.own.movable[index]).to(batch.x)
        thickness = self.gaussians.thickness()
        if thickness is not None:
            of_rows = self.own_responsibilities[index] @ thickness
            batch.thickness = torch.from_numpy(of_rows).to(batch.x)

    def held_out_log_prob(self) -> Tensor:
        """Return log-densities of the held-out rows, joint with any known classes."""
        return self._log_prob(self.held_out)

    @torch.no_grad()
    def _log_prob(self, rows: Batch) -> Tensor:
        if rows.allowed is None:
            return self.working.log_prob(rows.x)
        log_prob = self.working.component_log_prob(rows.x)
        log_joint = log_prob + self.working.log_weights
        return rows.mask(log_joint).logsumexp(1)

    @torch.no_grad()
    def held_out_component_log_prob(self) -> np.ndarray:
        """Return log-densities (n, K) of the held-out rows under each flow, in nats."""
        log_prob = self.working.component_log_prob(self.held_out.x)
        return log_prob.double().numpy(force=True)

    def noise(self, share: float = 1.0) -> Noise | None:
        """Return noise for a phase, at first `share` times `input_noise`."""
        scale, table = self.settings.input_noise, self.own
        if scale == 0 and self.table.repeat_widths is None:
            return None
        if self.table.shard is not None:
            # One process searches among more rows, of which the nearest are closer.
            n = len(table.train)
            n_all = round(n * self.table.n_counted / table.n_counted)
            searched = searched_rows(n) / searched_rows(n_all)
            scale *= searched ** (1 / table.x.shape[1])
        span = None
        if table.column_space is not None:
            span = torch.from_numpy(table.column_space).to(self.working.weight_logits)
        return Noise(share * scale, self._generator(), span)

    def with_labels(self, batch: Batch) -> Batch:
        """Return a copy in which each flow has the responsibility of its group."""
        groups = self.working.groups
        if groups.are_single:
            return batch
        labelled = copy.copy(batch)
        of_groups = self.working.group_sums(batch.responsibilities)
        flows = torch.from_numpy(groups.of_flow).to(of_groups.device)
        labelled.responsibilities = of_groups.index_select(1, flows)
        return labelled

    def source(self, batch: Batch, nearest: np.ndarray | None = None) -> TableSource:
        """Return a source of batches of these rows, or of this process's part."""
        arguments = (
            batch,
            self.settings.batch_size_for(batch.n_rows),
            self._generator(),
            None if nearest is None else torch.from_numpy(nearest).to(batch.x.device),
        )
        reducer = self.runtime.reducer
        if self.table.shard is not None:
            return ShardSource(*arguments, reducer)
        if reducer.n_ranks > 1:
            return SharedSource(*arguments, reducer)
        return TableSource(*arguments)

    def _generator(self) -> torch.Generator:
        """Return a new generator: the same in all processes if they share the rows."""
        generator = self.runtime.generator()
        if self.table.shard is None:
            return generator
        return generator.manual_seed(
            generator.initial_seed() + self.runtime.reducer.rank
        )

    def training_source(self, *, of_flows: bool) -> RowSource:
        """Return a source of all rows except the held-out ones.

        Responsibilities are those of flows or of groups, see `with_labels`.
        """
        if self.table.stream is not None:
            return self._stream(self.table.numbers_held_out, of_flows=of_flows)
        rows = self.train_rows if of_flows else self.with_labels(self.train_rows)
        return self.source(rows, self.nearest)

    def _stream(
        self, left_out: np.ndarray | None = None, *, of_flows: bool
    ) -> StreamSource:
        """Return a source of the streamed rows, of which the table is a sample.

        Their nearest neighbours are unknown, but noise towards them is not needed: rows
        that training sees for the first time cannot have been memorised.
        """
        table, settings = self.table, self.settings
        stream, assign = table.stream, self.assign
        assert stream is not None and assign is not None
        like = self.working.weight_logits
        thickness = self.gaussians.thickness() if settings.input_noise > 0 else None

        def tensor(array: np.ndarray | None) -> Any:
            return None if array is None else torch.from_numpy(array).to(like)

        def prepare(rows: np.ndarray, weights: np.ndarray) -> Batch:
            x = table.standardizer.transform(rows, TRAINING_BOUND)
            shares = assign(x)
            batch = Batch(
                tensor(x),
                tensor(weights).clamp(min=torch.finfo(like.dtype).tiny),
                tensor(shares),
                repeat_widths=tensor(table.repeat_widths_of(x)),
                thickness=tensor(None if thickness is None else shares @ thickness),
            )
            return batch if of_flows else self.with_labels(batch)

        return StreamSource(
            stream,
            prepare,
            self.train_rows,
            settings.batch_size_for(stream.n_counted),
            self.runtime.generator(),
            left_out,
        )

    def elbo(
        self, source: RowSource, temperature: float, noise: Noise | None
    ) -> ElboObjective:
        """Return the ELBO of a source's rows, with the first temperature of q."""
        settings = self.settings
        return ElboObjective(
            self.working,
            source,
            self.held_out,
            Temperature(temperature, settings.temperature_decay),
            settings.label_noise,
            noise,
        )

    def config(
        self, max_epochs: int, n_drops: int, source: RowSource
    ) -> TrainingConfig:
        """Return the settings of one phase on the rows of a source."""
        return self.settings.training_config(
            max_epochs,
            n_drops,
            source.n_rows,
            self.table.x.shape[1],
            source.n_counted,
        )

    def run(
        self,
        phase: str,
        objective: Objective,
        source: RowSource,
        config: TrainingConfig,
    ) -> None:
        """Train one phase, unless the fit was stopped."""
        monitor, former = self.runtime.monitor, self.history
        if monitor.stopped:
            return
        # The M-step has much noise: flows that end it below their Gaussians may still
        # surpass them on the ELBO.
        config = replace(config, may_keep_start=phase != M_STEP)
        reducer = self.runtime.reducer
        trainer = Trainer(objective, source, self.optimizer, config, reducer)

        def on_epoch(record: dict[str, Any]) -> bool:
            self.history = self._history(former, phase, trainer)
            return monitor.epoch(
                self.history[-1], lambda: self.candidate(self.held_out_log_prob())
            )

        journal = self.runtime.journal
        outcome = journal.phase(f"{self.name} {phase}", trainer, on_epoch)
        self.history = self._history(former, phase, trainer)
        self.is_outrun = outcome.outrun
        if phase == ELBO:
            self.converged = outcome.converged

    def _history(
        self, former: list[dict[str, Any]], phase: str, trainer: Trainer
    ) -> list[dict[str, Any]]:
        records = trainer.outcome.history
        return [*former, *({"phase": phase, **record} for record in records)]

    def fit_posterior(self) -> None:
        """Fit q(z|x) to the responsibilities of the model that was kept.

        The parameters that were best on held-out rows may be from an early epoch, when
        q had hardly been trained.
        """
        train, held_out = (
            Batch(
                batch.x,
                batch.weights,
                truncated_responsibilities(self.working, batch),
                mean_weight=batch.mean_weight,
                n_counted=batch.n_counted,
                n_rows=batch.n_rows,
            )
            for batch in (self.train_rows, self.held_out)
        )
        posterior, source = self.working.posterior, self.source(train)
        objective = PosteriorObjective(self.working, source, held_out)
        # Nothing else is trained from here on, so these may leave the common vector.
        groups = {"decayed": posterior.weights, "plain": posterior.biases}
        optimizer = AdamW(FlatParameters(groups))
        config = self.config(POSTERIOR_EPOCHS, 1, source)
        trainer = Trainer(objective, source, optimizer, config, self.runtime.reducer)
        key = f"{self.name} posterior"
        self.runtime.journal.phase(key, trainer, lambda record: False)

    def train_by_responsibilities(self, rival: Gaussians | None = None) -> None:
        """Run the M-step at the first responsibilities, evaluated on held-out rows.

        It ends early, with `is_outrun`, if it cannot reach the score of a rival.
        """
        noise = self.noise()
        source = self.training_source(of_flows=True)
        config = self.config(self.settings.n_iter_init, 0, source)
        if rival is not None:
            score = self.runtime.reducer.broadcast(self._gain_of(rival))
            config = replace(config, rival_score=score)
        self.run(
            M_STEP,
            MStepObjective(self.working, source, self.held_out, noise),
            source,
            config,
        )

    def _gain_of(self, gaussians: Gaussians) -> float:
        """Return the held-out gain of Gaussians over its own, in nats per row."""
        log_prob = self._log_prob_under(gaussians, self.held_out)
        return float(robust_gain(self.held_out, log_prob, self.log_prob_start))

    def _log_prob_under(self, gaussians: Gaussians, rows: Batch) -> Tensor:
        """Return log-densities of rows under Gaussians, joint with known classes."""
        log_joint = gaussians.log_joint(rows.x.double().numpy(force=True))
        return rows.mask(torch.from_numpy(log_joint).to(rows.x)).logsumexp(1)

    def train(self, *, warm: bool = False) -> None:
        """Train on the ELBO, evaluated on the held-out rows.

        Flows that the M-step has left clearly worse than their Gaussians get one step
        size instead of three.
        """
        settings = self.settings
        hottest = float(self.working.temperature) if warm else settings.temperature
        noise = self.noise()
        source = self.training_source(of_flows=False)
        has_lost = clearly_gains(
            self.held_out, self.log_prob_start, self.held_out_log_prob()
        )
        n_drops = 0 if self._agreed(has_lost) else 2
        self.run(
            ELBO,
            self.elbo(source, hottest, noise),
            source,
            self.config(settings.max_iter, n_drops, source),
        )
        self.drop_flows_without_gain()

    @torch.no_grad()
    def drop_flows_without_gain(self) -> None:
        """Restore the initial Gaussians unless the flows are clearly better.

        They are also restored where they predict known classes better.
        """
        self.keeps_flows = self.clearly_better_than(self.log_prob_start)
        if self.keeps_flows and len(self.table.held_out):
            judged = self.working, self.start, self.held_out, self.gaussians
            self.keeps_flows = not self._agreed(start_predicts_better(*judged))
        if not self.keeps_flows:
            torch._foreach_copy_(list(self.working.parameters()), self.start)

    def finish(self, plain: Gaussians, *, warm: bool) -> Candidate:
        """Train on all rows, fit q for the last time, and copy the model."""
        held_out_log_prob = self.held_out_log_prob()
        self.optimism = self._optimism() if self.keeps_flows else 0.0
        if len(self.table.held_out):
            if not (self.keeps_flows or warm):
                self.replace_by(plain)
            elif self.keeps_flows and not self.runtime.is_stopped():
                if not warm:
                    self.set_gaussians_of_all_rows()
                self.train_on_all_rows()
        if self.working.n_components > 1:
            self.fit_posterior()
        return self.candidate(held_out_log_prob)

    def _optimism(self) -> float:
        """Return by how much flows gain more on training rows than on held-out rows.

        Zero without known classes. Valid only until flows are trained on all rows.
        """
        table = self.table
        if table.allowed is None or not len(table.held_out):
            return 0.0
        index, like = table.train[:MAX_HELD_OUT], self.working.weight_logits
        seen = table.batch(self.responsibilities, index, like)
        of_seen, of_held_out = (self._gain_of_flows(r) for r in (seen, self.held_out))
        return max(of_seen - of_held_out, 0.0)

    def _gain_of_flows(self, rows: Batch) -> float:
        under_gaussians = self._log_prob_under(self.gaussians, rows)
        return float(robust_gain(rows, self._log_prob(rows), under_gaussians))

    def set_gaussians_of_all_rows(self) -> None:
        """Replace the Gaussians by Gaussians of all rows, held-out rows included.

        Flows can have a spike where rows repeat, which a shift would misplace: the new
        Gaussians are discarded if they lower the density of the held-out rows.
        """
        table, former, before = self.table, self.gaussians, self.held_out_log_prob()
        moments = table.without_far(self.responsibilities)

        def of_all_rows() -> Gaussians:
            gaussians = former.refit(table.x, table.weights, moments)
            gaussians.measure_reach(table.x, moments)
            return gaussians

        self.set_gaussians(self.runtime.reducer.from_first(of_all_rows))
        gain = robust_gain(self.held_out, self.held_out_log_prob(), before)
        if not self._agreed(gain >= 0):
            self.set_gaussians(former)

    @torch.no_grad()
    def replace_by(self, gaussians: Gaussians) -> None:
        """Use other Gaussians and their weights, once flows have been dropped."""
        self.set_gaussians(gaussians)
        log_weights = torch.from_numpy(np.log(gaussians.weights))
        self.working.weight_logits.copy_(log_weights)

    def set_gaussians(self, gaussians: Gaussians) -> None:
        """Replace the Gaussians that the components whiten by."""
        self.gaussians = gaussians
        self.model = self.model.with_gaussians(gaussians)
        self.working.components.whiten_like_(self.model.components)

    def train_on_all_rows(self) -> None:
        """Train on all rows for a few epochs, from the best held-out parameters.

        Noise and step size are no larger than at the best epoch. If the step size was
        small by then, as in tables with repeated values, Adam's moments are kept: with
        new ones the first steps, equally large in all parameters, would undo what small
        steps have found. On a stream the epochs together make at least one pass.
        """
        settings = self.settings
        epochs = [record for record in self.history if record["phase"] == ELBO]
        best = max(epochs, key=lambda r: r["score"], default=self.history[-1])
        share = best["learning_rate"] / settings.learning_rate
        in_small_steps = share < FINAL_RATE and best["score"] > 0
        n_epochs = settings.final_epochs(len(epochs), in_small_steps=in_small_steps)
        if n_epochs == 0:
            return
        if not in_small_steps:
            self.optimizer.reset()
        noise = self.noise(share)
        source = self._source_of_all_rows()
        config = self.config(n_epochs, 0, source)
        if self.table.stream is not None:
            steps = max(config.max_steps, -(-source.n_batches // n_epochs))
            config = replace(config, max_steps=steps, patience=n_epochs)
        rate = min(FINAL_RATE, share) * config.learning_rate
        self.run(
            ALL_ROWS,
            self.elbo(source, float(self.working.temperature), noise),
            source,
            replace(config, learning_rate=rate),
        )

    def _source_of_all_rows(self) -> RowSource:
        """Return a source of all rows, held-out rows included."""
        if self.table.stream is not None:
            return self._stream(of_flows=False)
        nearest = None
        every = np.concatenate((self.own.train, self.own.held_out))
        every_row = self._own_rows(every)
        if self.settings.input_noise > 0:
            nearest = nearest_others(self.own.x[every], N_NEAREST)
            self.allow_noise(every_row, every)
        return self.source(self.with_labels(every_row), nearest)

    def better_than(self, other: "ModelFit") -> bool:
        """Return whether this model is better than another on held-out rows."""
        log_prob, reference = self.held_out_log_prob(), other.held_out_log_prob()
        return self._agreed(robust_gain(self.held_out, log_prob, reference) > 0)

    def starts_ahead_of(self, other: "ModelFit") -> bool:
        """Return whether its initial Gaussians have a held-out gain of over `tol`."""
        start, reference = self.log_prob_start, other.log_prob_start
        gain = robust_gain(self.held_out, start, reference)
        return self._agreed(gain > self.settings.tol)

    def clearly_better_than(self, other: Tensor) -> bool:
        """Return whether the held-out gain over the log-densities `other` is clear."""
        gains = clearly_gains(self.held_out, self.held_out_log_prob(), other)
        return self._agreed(gains)

    def _agreed(self, answer: Any) -> bool:
        """Return the first process's answer: rounding may differ in the others."""
        return self.runtime.reducer.broadcast(bool(answer))

    def candidate(self, held_out_log_prob: Tensor) -> Candidate:
        """Copy the model as it stands, with the given held-out log-densities."""
        optimism = self._optimism() if self.optimism is None else self.optimism
        return Candidate(
            self.model.with_parameters_of(self.working),
            self.gaussians,
            list(self.history),
            self.held_out,
            held_out_log_prob,
            converged=self.converged,
            stopped=self.runtime.is_stopped(),
            optimism=optimism,
        )
