"""One fit: prepared rows, a start from responsibilities, a trained candidate."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skflowmix._arrays import torch_generator
from skflowmix.data import TRAINING_BOUND, Standardizer, split_rows
from skflowmix.gaussians import Gaussians
from skflowmix.mixture import MixtureOfFlows
from skflowmix.objectives import (
    ElboObjective,
    MStepObjective,
    PosteriorObjective,
    Rows,
    Temperature,
    robust_gain,
)
from skflowmix.training import Objective, Outcome, TrainingConfig, train

__all__ = [
    "Candidate",
    "FitSettings",
    "TrainingRows",
    "best_candidate",
    "fit_candidate",
]

# Held-out rows that are looked at after every epoch.
MAX_HELD_OUT = 4096

# Largest number of epochs of the last fit of q(z|x).
POSTERIOR_EPOCHS = 50


@dataclass(frozen=True)
class FitSettings:
    """The estimator's parameters that shape and train a model.

    Named and documented as in `skflowmix.FlowMixture`.
    """

    flow: str
    n_transforms: int
    n_common_transforms: int
    n_shared_transforms: int
    hidden_units: tuple[int, ...]
    posterior_units: tuple[int, ...]
    temperature: float
    temperature_decay: float
    label_noise: float
    weight_concentration_prior: float | None
    max_iter: int
    n_iter_init: int
    tol: float
    n_iter_no_change: int
    batch_size: int | str
    learning_rate: float
    weight_decay: float
    dtype: str

    @classmethod
    def of(cls, estimator) -> "FitSettings":
        """Take the settings among an estimator's parameters."""
        values = {field.name: getattr(estimator, field.name) for field in fields(cls)}
        for name in ("hidden_units", "posterior_units"):
            values[name] = tuple(int(width) for width in values[name])
        return cls(**values)

    def training_config(
        self, max_epochs: int, n_drops: int, n_rows: int
    ) -> TrainingConfig:
        """Return the settings of one training phase on `n_rows` rows."""
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = int(2 ** np.clip(np.round(np.log2(n_rows / 16)), 7, 10))
        return TrainingConfig(
            max_epochs=max_epochs,
            batch_size=int(batch_size),
            learning_rate=self.learning_rate,
            patience=self.n_iter_no_change,
            tol=self.tol,
            weight_decay=self.weight_decay,
            n_drops=n_drops,
        )


class TrainingRows:
    """Distinct rows, standardised and pulled in, with weights and a split.

    Parameters
    ----------
    rows : ndarray of shape (n_distinct, n_features)
        In data units.
    weights : ndarray of shape (n_distinct,)
        Positive, of mean one.
    standardizer : Standardizer
        Location and scale of the columns.
    validation_fraction : float
        Share of the rows that is held out.
    random_state : RandomState
        Source of the split.
    allowed : ndarray of shape (n_distinct, n_components), bool, optional
        False where a known class rules a component out.
    """

    def __init__(
        self,
        rows: np.ndarray,
        weights: np.ndarray,
        standardizer: Standardizer,
        validation_fraction: float,
        random_state: np.random.RandomState,
        allowed: np.ndarray | None = None,
    ):
        self.standardizer = standardizer
        self.x = standardizer.transform(rows, TRAINING_BOUND)
        self.weights = weights
        self.allowed = allowed
        self.train, self.held_out = split_rows(
            len(rows), validation_fraction, random_state
        )


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

    def drop_unused(self, n_rows: int) -> None:
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
        self.working = copy.deepcopy(model).to(device, getattr(torch, settings.dtype))
        self.train_rows = self._tensors(rows, rows.train, responsibilities)
        judged_by = rows.held_out[:MAX_HELD_OUT] if len(rows.held_out) else rows.train
        self.held_out = self._tensors(rows, judged_by, responsibilities)
        self.trained = list(self.working.posterior.parameters())
        if len(rows.held_out):
            # Without held-out rows nothing would keep flows from fitting the noise.
            for flows in self.working.flows():
                self.trained += flows.parameters()
        self.history: list[dict[str, Any]] = []
        with torch.no_grad():
            self.start = [p.clone() for p in self.working.parameters()]
            self.log_prob_start = self.held_out_log_prob()

    def _tensors(self, rows, index, responsibilities) -> Rows:
        x, weights, responsibilities = (
            torch.from_numpy(array[index]).to(self.working.means)
            for array in (rows.x, rows.weights, responsibilities)
        )
        allowed = None
        if rows.allowed is not None:
            allowed = torch.from_numpy(rows.allowed[index]).to(x.device)
        return Rows(x, weights, responsibilities, allowed)

    def held_out_log_prob(self) -> Tensor:
        """Log-densities of the held-out rows, joint with the classes known of them."""
        if self.held_out.allowed is None:
            return self.working.log_prob(self.held_out.x)
        log_prob = self.working.component_log_prob(self.held_out.x)
        log_joint = log_prob + self.working.log_weights
        return self.held_out.rule_out(log_joint).logsumexp(1)

    def run(
        self,
        phase: str,
        objective: Objective,
        parameters: Sequence[Tensor],
        max_epochs: int,
        n_drops: int,
        random_state: np.random.RandomState,
        on_epoch: OnEpoch,
    ) -> Outcome:
        """Train one phase."""

        def report(record):
            self.history.append({"phase": phase, **record})
            return on_epoch(self.history[-1], self.candidate)

        config = self.settings.training_config(max_epochs, n_drops, objective.n_rows)
        generator = torch_generator(random_state, self.working.means.device)
        return train(objective, parameters, config, generator, report)

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
            list(self.working.posterior.parameters()),
            self.settings.training_config(POSTERIOR_EPOCHS, 1, objective.n_rows),
            torch_generator(random_state, self.working.means.device),
        )

    @torch.no_grad()
    def _responsibilities(self, x: Tensor) -> Tensor:
        model = self.working
        return torch.cat(
            [
                (model.component_log_prob(part) + model.log_weights).softmax(1)
                for part in x.split(1024)
            ]
        )

    @torch.no_grad()
    def keep_start_if_better(self) -> None:
        """Fall back on the Gaussians where the flows have not paid off."""
        log_prob = self.held_out_log_prob()
        if robust_gain(self.held_out, log_prob, self.log_prob_start) < 0:
            torch._foreach_copy_(list(self.working.parameters()), self.start)

    def starts_better_than(self, candidate: Candidate) -> bool:
        """Whether held-out rows prefer this start to another model as it came out."""
        gain = robust_gain(
            self.held_out, self.log_prob_start, candidate.held_out_log_prob
        )
        return bool(gain > 0)

    @torch.no_grad()
    def candidate(self, outcome: Outcome | None = None) -> Candidate:
        """Copy the model as it stands."""
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
            self.held_out_log_prob(),
            converged=outcome is not None and outcome.converged,
            stopped=outcome is not None and outcome.stopped,
        )


def fit_candidate(
    settings: FitSettings,
    rows: TrainingRows,
    responsibilities: np.ndarray,
    starts: Sequence[Gaussians],
    *,
    warm: MixtureOfFlows | None,
    random_state: np.random.RandomState,
    device: torch.device,
    on_epoch: OnEpoch,
) -> Candidate:
    """Train one model from given responsibilities, or go on training one.

    Of several starts the first is trained; the next one only if its Gaussians by
    themselves do better on held-out rows than what came of the one before.

    Parameters
    ----------
    settings : FitSettings
        How.
    rows : TrainingRows
        On what.
    responsibilities : ndarray of shape (n_distinct, n_components)
        Where the components start.
    starts : sequence of Gaussians
        What the components may whiten by, the preferred ones first.
    warm : MixtureOfFlows or None
        A model to go on with: then there is no M-step.
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
        The best weights found.
    """

    def prepare(gaussians):
        model = warm or MixtureOfFlows(
            gaussians,
            flow=settings.flow,
            n_transforms=settings.n_transforms,
            n_common_transforms=settings.n_common_transforms,
            n_shared_transforms=settings.n_shared_transforms,
            hidden_units=settings.hidden_units,
            posterior_units=settings.posterior_units,
            generator=torch_generator(random_state),
        )
        return _Fit(settings, rows, responsibilities, model, gaussians, device)

    first, *others = starts
    candidate = _train_phases(prepare(first), warm, random_state, on_epoch)
    for gaussians in others:
        fit = prepare(gaussians)
        if candidate.stopped or not fit.starts_better_than(candidate):
            break
        candidate = _train_phases(fit, warm, random_state, on_epoch)
    return candidate


def _train_phases(
    fit: _Fit,
    warm: MixtureOfFlows | None,
    random_state: np.random.RandomState,
    on_epoch: OnEpoch,
) -> Candidate:
    """M-step, unless the model is warm, ELBO, and a last fit of q."""
    settings, working, outcome = fit.settings, fit.working, Outcome([])
    if warm is None and working.n_components > 1:
        outcome = fit.run(
            "m-step",
            MStepObjective(working, fit.train_rows, fit.held_out),
            fit.trained,
            settings.n_iter_init,
            0,
            random_state,
            on_epoch,
        )
    if not outcome.stopped:
        hottest = float(warm.temperature) if warm else settings.temperature
        temperature = Temperature(hottest, settings.temperature_decay)
        outcome = fit.run(
            "elbo",
            ElboObjective(
                working,
                fit.train_rows,
                fit.held_out,
                temperature,
                settings.label_noise,
                1.0
                if settings.weight_concentration_prior is None
                else settings.weight_concentration_prior,
            ),
            [*fit.trained, working.weight_logits, working.temperature],
            settings.max_iter,
            2,
            random_state,
            on_epoch,
        )
    fit.keep_start_if_better()
    if working.n_components > 1:
        fit.fit_posterior(random_state)
    return fit.candidate(outcome)


def best_candidate(candidates: list[Candidate]) -> Candidate:
    """Choose the candidate with the largest held-out gain over the first one."""
    first = candidates[0]
    gains = [
        float(robust_gain(first.held_out, c.held_out_log_prob, first.held_out_log_prob))
        for c in candidates
    ]
    return candidates[int(np.argmax(gains))]
