"""One fit: prepared rows, a start from responsibilities, a trained candidate."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skflowmix._arrays import own_arithmetic, rows_per_chunk, torch_generator
from skflowmix.model.mixture import MixtureOfFlows
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.knn import nearest_others
from skflowmix.training.objectives import (
    ElboObjective,
    MStepObjective,
    Noise,
    PosteriorObjective,
    Rows,
    Temperature,
    clearly_gains,
    robust_gain,
)
from skflowmix.training.settings import FitSettings
from skflowmix.training.table import N_NEAREST, TrainingRows
from skflowmix.training.trainer import AdamW, Objective, Outcome, TrainingConfig, train

__all__ = [
    "Candidate",
    "best_candidate",
    "fit_candidate",
]

# The phases of training, as the history names them.
M_STEP, ELBO, ALL_ROWS = "m-step", "elbo", "all rows"

# Held-out rows that are looked at after every epoch.
MAX_HELD_OUT = 4096

# Epochs on all rows, once the held-out ones have judged, and their share of the step
# size.
FINAL_EPOCHS = 8
FINAL_RATE = 0.25

# Of fewer rows per component no flow can learn its shape.
LEAST_ROWS_PER_COMPONENT = 5

# Largest number of epochs of the last fit of q(z|x).
POSTERIOR_EPOCHS = 50


@dataclass
class Candidate:
    """A trained model and how its training went.

    Parameters
    ----------
    model : MixtureOfFlows
        In float64, on the CPU.
    gaussians : Gaussians
        What its components whiten by.
    history : list of dict
        Figures of every epoch.
    held_out : Rows
        The rows that judged it.
    held_out_log_prob : Tensor
        Its log-densities there, in nats.
    converged, stopped : bool
        Whether training converged, and whether a callback ended it.
    """

    model: MixtureOfFlows
    gaussians: Gaussians
    history: list[dict[str, Any]]
    held_out: Rows
    held_out_log_prob: Tensor
    converged: bool
    stopped: bool

    def sort(self) -> None:
        """Order the components by decreasing weight."""
        self._take(self.model.log_weights.argsort(descending=True, stable=True))

    def drop_unused(self, n_rows: float) -> None:
        """Drop components that expect less than one of so many rows."""
        log_weights = self.model.log_weights
        used = log_weights.exp() * n_rows >= 1
        used[log_weights.argmax()] = True
        self._take(torch.nonzero(used).flatten())

    def _take(self, index: Tensor) -> None:
        self.model.permute_(index)
        self.gaussians = self.gaussians[index.numpy()]


# Receives each epoch's record and a function that copies the model as it stands;
# true ends the fit.
OnEpoch = Callable[[dict[str, Any], Callable[[], Candidate]], bool]


class _Fit:
    """One model in training, in the training's dtype and on its device."""

    def __init__(
        self,
        settings: FitSettings,
        rows: TrainingRows,
        responsibilities: np.ndarray,
        model: MixtureOfFlows,
        gaussians: Gaussians,
        device: torch.device,
    ):
        self.settings, self.model, self.gaussians = settings, model, gaussians
        self.rows, self.responsibilities = rows, responsibilities
        dtype = "float64" if gaussians.need_float64() else settings.dtype
        self.working = copy.deepcopy(model).to(device, getattr(torch, dtype))
        self.train_rows = self._tensors(rows.train)
        if settings.input_noise > 0 and len(rows.held_out) and len(rows.train) > 1:
            self.let_move(self.train_rows, rows.train, rows.neighbors_in_training)
        judged_by = rows.held_out[:MAX_HELD_OUT] if len(rows.held_out) else rows.train
        self.held_out = self._tensors(judged_by)
        trained = [*self.working.posterior.parameters(), self.working.weight_logits]
        if len(rows.held_out):
            # Without held-out rows nothing would keep flows from fitting the noise.
            for flows in self.working.flows():
                trained += flows.parameters()
        self.optimizer = AdamW([*trained, self.working.temperature])
        self.history: list[dict[str, Any]] = []
        self.outcome, self.pays_off = Outcome([]), False
        with torch.no_grad():
            self.start = [p.clone() for p in self.working.parameters()]
            self.log_prob_start = self.held_out_log_prob()

    def _tensors(self, index) -> Rows:
        rows = self.rows
        x, weights, responsibilities = (
            torch.from_numpy(array[index]).to(self.working.means)
            for array in (rows.x, rows.weights, self.responsibilities)
        )
        allowed = widths = None
        if rows.allowed is not None:
            allowed = torch.from_numpy(rows.allowed[index]).to(x.device)
        if rows.repeat_widths is not None:
            widths = torch.from_numpy(rows.repeat_widths[index]).to(x)
        # A weight that the dtype cannot hold is still a weight.
        weights = weights.clamp(min=torch.finfo(weights.dtype).tiny)
        return Rows(
            x,
            weights,
            responsibilities,
            allowed,
            repeat_widths=widths,
            n_counted=float(rows.counts[index].sum()),
        )

    def let_move(self, rows: Rows, index, neighbors: np.ndarray) -> None:
        """Tell rows, by their numbers, where noise may move them."""
        rows.neighbors = torch.from_numpy(neighbors).to(rows.x.device)
        rows.movable = torch.from_numpy(self.rows.movable[index]).to(rows.x)
        thickness = self.gaussians.thickness()
        if thickness is not None:
            of_rows = self.responsibilities[index] @ thickness
            rows.thickness = torch.from_numpy(of_rows).to(rows.x)

    @torch.no_grad()
    def held_out_log_prob(self) -> Tensor:
        """Log-densities of the held-out rows, joint with the classes known of them."""
        if self.held_out.allowed is None:
            return self.working.log_prob(self.held_out.x)
        log_prob = self.working.component_log_prob(self.held_out.x)
        log_joint = log_prob + self.working.log_weights
        return self.held_out.rule_out(log_joint).logsumexp(1)

    def noise(
        self, random_state: np.random.RandomState, share: float = 1.0
    ) -> Noise | None:
        """Return noise for a phase that starts with that share of it."""
        scale, rows, like = self.settings.input_noise, self.rows, self.working.means
        if scale == 0 and rows.repeat_widths is None:
            return None
        plane = None if rows.plane is None else torch.from_numpy(rows.plane).to(like)
        generator = torch_generator(random_state, like.device)
        return Noise(share * scale, generator, plane)

    def elbo(
        self, rows: Rows, temperature: float, noise: Noise | None
    ) -> ElboObjective:
        """Return the bound on some rows, q starting at that temperature."""
        settings = self.settings
        concentration = settings.weight_concentration_prior
        return ElboObjective(
            self.working,
            rows,
            self.held_out,
            Temperature(temperature, settings.temperature_decay),
            settings.label_noise,
            1.0 if concentration is None else concentration,
            noise,
        )

    def config(self, max_epochs: int, n_drops: int, rows: Rows) -> TrainingConfig:
        """Return how to train one phase on some rows."""
        return self.settings.training_config(
            max_epochs, n_drops, rows.x, rows.n_counted
        )

    def run(
        self,
        phase: str,
        objective: Objective,
        config: TrainingConfig,
        random_state: np.random.RandomState,
        on_epoch: OnEpoch,
    ) -> None:
        """Train one phase; whether it converged counts for the ELBO only."""

        def report(record):
            self.history.append({"phase": phase, **record})
            return on_epoch(
                self.history[-1],
                lambda: self.candidate(self.held_out_log_prob()),
            )

        generator = torch_generator(random_state, self.working.means.device)
        # The ELBO may still surpass Gaussians that the M-step, on much noise, did not.
        config = replace(config, may_keep_start=phase != M_STEP)
        outcome = train(objective, self.optimizer, config, generator, report)
        self.outcome.stopped |= outcome.stopped
        if phase == ELBO:
            self.outcome.converged = outcome.converged

    def fit_posterior(self, random_state: np.random.RandomState) -> None:
        """Fit q(z|x) to the exact responsibilities of the model that was kept.

        The weights that were best on held-out rows may be early ones, when q had
        hardly been trained.
        """
        rows = (
            Rows(rows.x, rows.weights, self._responsibilities(rows.x))
            for rows in (self.train_rows, self.held_out)
        )
        objective = PosteriorObjective(self.working, *rows)
        train(
            objective,
            AdamW(list(self.working.posterior.parameters())),
            self.config(POSTERIOR_EPOCHS, 1, self.train_rows),
            torch_generator(random_state, self.working.means.device),
        )

    @torch.no_grad()
    def _responsibilities(self, x: Tensor) -> Tensor:
        model = self.working
        step = rows_per_chunk(model.floats_per_row, x.device)
        return torch.cat([model.responsibilities(part) for part in x.split(step)])

    def train_by_responsibilities(
        self, random_state: np.random.RandomState, on_epoch: OnEpoch
    ) -> None:
        """M-step at the first responsibilities, watched by the held-out rows."""
        noise = self.noise(random_state)
        self.run(
            M_STEP,
            MStepObjective(self.working, self.train_rows, self.held_out, noise),
            self.config(self.settings.n_iter_init, 0, self.train_rows),
            random_state,
            on_epoch,
        )

    def train(
        self,
        random_state: np.random.RandomState,
        on_epoch: OnEpoch,
        *,
        warm: bool = False,
    ) -> None:
        """ELBO, watched by the held-out rows."""
        settings = self.settings
        hottest = float(self.working.temperature) if warm else settings.temperature
        if not self.outcome.stopped:
            self.run(
                ELBO,
                self.elbo(self.train_rows, hottest, self.noise(random_state)),
                self.config(settings.max_iter, 2, self.train_rows),
                random_state,
                on_epoch,
            )
        self.drop_flows_that_do_not_pay()

    @torch.no_grad()
    def drop_flows_that_do_not_pay(self) -> None:
        """Fall back on the Gaussians where flows are not clearly better."""
        self.pays_off = self.clearly_better_than(self.log_prob_start)
        if not self.pays_off:
            torch._foreach_copy_(list(self.working.parameters()), self.start)

    def finish(
        self,
        plain: Gaussians,
        random_state: np.random.RandomState,
        on_epoch: OnEpoch,
        *,
        warm: bool,
    ) -> Candidate:
        """Let all rows have their say, fit q for the last time, and copy the model."""
        held_out_log_prob = self.held_out_log_prob()
        if len(self.rows.held_out):
            if not (self.pays_off or warm):
                self.replace_by(plain)
            elif self.pays_off and not self.outcome.stopped:
                if not warm:
                    self.whiten_by_all_rows()
                self.train_on_all_rows(random_state, on_epoch)
        if self.working.n_components > 1:
            self.fit_posterior(random_state)
        return self.candidate(held_out_log_prob)

    def whiten_by_all_rows(self) -> None:
        """Let Gaussians of all rows take the place of those without the held-out ones.

        Flows can have a spike where rows repeat, which a shift would miss: the
        held-out rows, that the new Gaussians have seen, must not object.
        """
        rows, former, before = self.rows, self.gaussians, self.held_out_log_prob()
        moments = rows.without_far(self.responsibilities)
        self.whiten_by(former.refit(rows.x, rows.weights, moments))
        gain = robust_gain(self.held_out, self.held_out_log_prob(), before)
        if not gain >= 0:
            self.whiten_by(former)

    @torch.no_grad()
    def replace_by(self, gaussians: Gaussians) -> None:
        """Let other Gaussians take the place of those that flows were dropped for."""
        self.whiten_by(gaussians)
        log_weights = torch.from_numpy(np.log(gaussians.weights))
        self.working.weight_logits.copy_(log_weights)

    def whiten_by(self, gaussians: Gaussians) -> None:
        """Let other Gaussians take the place of those it was trained with."""
        self.gaussians = gaussians
        self.model = self.model.whitened_by(gaussians)
        whitened = self.working.whitened_by(gaussians)
        self.working.load_state_dict(whitened.state_dict())

    def train_on_all_rows(
        self, random_state: np.random.RandomState, on_epoch: OnEpoch
    ) -> None:
        """Go on for a few epochs, from what held-out rows found best.

        Steps and noise start anew, but the noise no greater than it was by then.
        """
        settings = self.settings
        self.optimizer.reset()
        every = np.concatenate((self.rows.train, self.rows.held_out))
        every_row = self._tensors(every)
        if settings.input_noise > 0:
            neighbors = nearest_others(self.rows.x[every], N_NEAREST)
            self.let_move(every_row, every, neighbors)
        config = self.config(min(FINAL_EPOCHS, settings.max_iter), 0, every_row)
        epochs = (record for record in self.history if record["phase"] == ELBO)
        best = max(epochs, key=lambda r: r["score"], default=self.history[-1])
        noise = self.noise(random_state, best["learning_rate"] / settings.learning_rate)
        self.run(
            ALL_ROWS,
            self.elbo(every_row, float(self.working.temperature), noise),
            replace(config, learning_rate=FINAL_RATE * config.learning_rate),
            random_state,
            on_epoch,
        )

    def better_than(self, other: "_Fit") -> bool:
        """Whether held-out rows prefer this model to another as they stand."""
        log_prob, reference = self.held_out_log_prob(), other.held_out_log_prob()
        return bool(robust_gain(self.held_out, log_prob, reference) > 0)

    def clearly_better_than(self, other: Tensor) -> bool:
        """Whether held-out rows clearly prefer this model to one of that density."""
        return clearly_gains(self.held_out, self.held_out_log_prob(), other)

    @torch.no_grad()
    def candidate(self, held_out_log_prob: Tensor) -> Candidate:
        """Copy the model as it stands, as those log-densities judge it."""
        model = copy.deepcopy(self.model)
        for kept, new in zip(
            model.parameters(), self.working.parameters(), strict=True
        ):
            kept.copy_(new)
        model.temperature.copy_(self.working.temperature)
        return Candidate(
            model,
            self.gaussians,
            list(self.history),
            self.held_out,
            held_out_log_prob,
            converged=self.outcome.converged,
            stopped=self.outcome.stopped,
        )


@own_arithmetic()
@torch.inference_mode(False)
def fit_candidate(
    settings: FitSettings,
    rows: TrainingRows,
    responsibilities: np.ndarray,
    starts: Sequence[Gaussians],
    plain: Gaussians,
    *,
    warm: MixtureOfFlows | None,
    random_state: np.random.RandomState,
    device: torch.device,
    on_epoch: OnEpoch,
) -> Candidate:
    """Train one model from given responsibilities, or go on training one.

    Flows are judged by rows that neither they nor the Gaussians they start from have
    seen. Of several starts the one that is better after the M-step goes on. Unless what
    came of it is clearly better than the plain Gaussians, training starts again from
    these. Where no flow pays off, or rows per component are too few for any, they are
    the model; otherwise training ends with a few epochs on all rows.

    Parameters
    ----------
    settings : FitSettings
        How.
    rows : TrainingRows
        On what.
    responsibilities : ndarray of shape (n_distinct, n_components)
        Where the components start.
    starts : sequence of Gaussians
        What components may whiten by, fitted to all rows. Those of equal shrinkage
        are one.
    plain : Gaussians
        Those that are likeliest by themselves, or what `warm` whitens by.
    warm : MixtureOfFlows or None
        A model to go on with: then there are no starts and no M-step.
    random_state : RandomState
        Source of network weights and batches.
    device : torch.device
        Where to train.
    on_epoch : callable
        Receives each epoch's record and a function that copies the model as it
        stands into a `Candidate`; true ends the fit.

    Returns
    -------
    candidate : Candidate
        What came of it.
    """
    moments = rows.without_far(responsibilities)

    def prepare(model, gaussians):
        return _Fit(settings, rows, responsibilities, model, gaussians, device)

    def start_from(gaussians):
        seen = gaussians.refit(
            rows.x[rows.train], rows.weights[rows.train], moments[rows.train]
        )
        seen.weights = gaussians.weights
        # Without the others a column may be constant, which reg_covar=0 allows.
        if np.linalg.eigvalsh(seen.covariances).min() <= 0:
            seen = gaussians
        model = MixtureOfFlows(
            seen,
            flow=settings.flow,
            n_transforms=settings.n_transforms,
            n_common_transforms=settings.n_common_transforms,
            n_shared_transforms=settings.n_shared_transforms,
            hidden_units=settings.hidden_units,
            posterior_units=settings.posterior_units,
            generator=torch_generator(random_state),
        )
        return prepare(model, seen)

    if len(rows.train) < LEAST_ROWS_PER_COMPONENT * responsibilities.shape[1]:
        settings = replace(settings, n_transforms=0, n_shared_transforms=0)
        starts = [plain]
    if warm is not None:
        fit = prepare(warm, plain)
        fit.train(random_state, on_epoch, warm=True)
    else:
        starts = list({start.shrinkage: start for start in starts}.values())
        # That of one component is the ELBO, and serves only to choose.
        needs_m_step = len(starts) > 1 or len(plain.weights) > 1

        def m_step(fit):
            if needs_m_step:
                fit.train_by_responsibilities(random_state, on_epoch)

        fit = start_from(starts[0])
        m_step(fit)
        for gaussians in starts[1:]:
            if fit.outcome.stopped:
                break
            other = start_from(gaussians)
            m_step(other)
            if other.better_than(fit):
                fit, other = other, fit
            fit.outcome.stopped |= other.outcome.stopped
        fit.train(random_state, on_epoch)
        tried = [start.shrinkage for start in starts]
        if not (fit.outcome.stopped or plain.shrinkage in tried):
            other = start_from(plain)
            enough = fit.pays_off and fit.clearly_better_than(other.log_prob_start)
            if not enough:
                m_step(other)
                other.train(random_state, on_epoch)
                # Stopped early, it may not have got as far as the first.
                if other.outcome.stopped:
                    fit.outcome.stopped = True
                    enough = not other.clearly_better_than(fit.held_out_log_prob())
                if not enough:
                    fit = other
    return fit.finish(plain, random_state, on_epoch, warm=warm is not None)


def best_candidate(candidates: list[Candidate]) -> Candidate:
    """Choose the candidate with the largest held-out gain over the first one."""
    first = candidates[0]
    gains = [
        float(robust_gain(first.held_out, c.held_out_log_prob, first.held_out_log_prob))
        for c in candidates
    ]
    return candidates[int(np.argmax(np.nan_to_num(gains, nan=-np.inf)))]
