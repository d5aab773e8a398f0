"""The training loop: steps, early stopping, best weights, history."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from skflowmix.cuda_graphs import Replays
from skflowmix.training.batches import Batch, RowSource
from skflowmix.training.optimizer import AdamW
from skflowmix.training.reducers import LocalReducer, Reducer

__all__ = ["Objective", "Outcome", "Trainer", "TrainingConfig"]

# Progress is a gain of at least so much of the score, which in a phase of flows is what
# it has gained. Negative scores are judged by `tol` alone.
LEAST_GAIN = 0.01

# After so many epochs training ends if at the pace of the last one its score would not
# reach that of a rival.
RACE_EPOCHS = 5

# Losses or scores that are not finite, each answered by a tenth of the step size.
MAX_FAILURES = 3


class Objective(Protocol):
    """What a `Trainer` needs to know of what it trains."""

    generators: Sequence[torch.Generator]  # those that the loss draws from

    def begin_step(self, starts_epoch: bool) -> Hashable:
        """Move on what changes from step to step, before the `loss` of each.

        Losses after equal answers, of as many rows, are the same operations: on a GPU
        they are recorded once and replayed.
        """
        ...

    def loss(self, batch: Batch, step_share: float) -> Tensor:
        """Mean loss over the given training rows, in nats.

        `step_share` is the step size over the first one.
        """
        ...

    def evaluate(self) -> dict[str, Tensor]:
        """Figures for the history; `score` is what is maximised, in nats."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what changes besides the parameters."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Parameters
    ----------
    max_epochs : int
        Largest number of epochs.
    learning_rate : float
        First step size of Adam.
    patience : int
        Epochs without progress before the step size drops, from the best weights so
        far; half as many after the first drop.
    tol : float
        Progress is an improvement of the score by so many nats per row, since there
        last was any, and by `LEAST_GAIN` of it.
    n_drops : int
        The step size drops that many times, then training has converged.
    drop : float
        Factor of a drop.
    max_grad_norm : float
        Gradients are clipped to this norm.
    weight_decay : float
        Decoupled weight decay (AdamW) of the weight matrices.
    max_steps : int
        Steps that make an epoch where the data would make more.
    averaged_epochs : int
        Parameters are judged, and kept, as their running mean over so many epochs; at
        0 as they are.
    may_keep_start : bool
        Whether the parameters at the start may be the best ones.
    rival_score : float
        Training ends after `RACE_EPOCHS` epochs where at the pace of the last one the
        score would not reach this one.
    """

    max_epochs: int
    learning_rate: float
    patience: int
    tol: float
    n_drops: int = 2
    drop: float = 0.25
    max_grad_norm: float = 5.0
    weight_decay: float = 0.0
    max_steps: int = 256
    averaged_epochs: int = 4
    may_keep_start: bool = True
    rival_score: float = -math.inf


@dataclass
class Outcome:
    """What came of a training run.

    Parameters
    ----------
    history : list of dict
        Figures of every epoch.
    converged : bool
        False when the epochs ran out first.
    stopped : bool
        True when `on_epoch` asked to stop.
    outrun : bool
        True when a rival's score was out of reach.
    """

    history: list[dict[str, float]]
    converged: bool = False
    stopped: bool = False
    outrun: bool = False


def keep_freed_memory() -> None:
    """Let the allocator keep what a step frees, for the next step.

    The GNU allocator returns memory to the system beyond twice the largest block that
    it has seen freed, of 32 MiB at most, and has to fetch it again page by page: a
    fifth of a step of a middling model. The block itself is never touched.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


@dataclass
class _Progress:
    """Where a run stands, between two epochs."""

    step_size: float
    patience: int
    best_score: float
    recent_score: float
    goal: float
    epoch: int = 0
    n_drops: int = 0
    n_failures: int = 0
    n_stale: int = 0
    is_done: bool = False


class Trainer:
    """Minimises an objective; the best parameters are left in place.

    It owns all that changes in a run: between two epochs `state_dict` is all of it.

    Every epoch's figures save the training loss, and what `on_epoch` sees, are those of
    the parameters' running average. Each step size starts from the best parameters of
    the one before, and is left when it no longer improves: the first one on the start
    as well, the others on themselves only, as noise may have shrunk with them. A loss
    or score that is not finite restores these, with a tenth of the step size.

    Parameters
    ----------
    objective : Objective
        Losses of batches and the score to maximise.
    source : RowSource
        Where batches come from.
    optimizer : AdamW
        Holds the parameters.
    config : TrainingConfig
        How.
    reducer : Reducer, optional
        Agrees on gradients and figures with other processes.

    Attributes
    ----------
    outcome : Outcome
        History, and how training ended.
    """

    def __init__(
        self,
        objective: Objective,
        source: RowSource,
        optimizer: AdamW,
        config: TrainingConfig,
        reducer: Reducer | None = None,
    ):
        self.objective, self.source, self.optimizer = objective, source, optimizer
        self.config = config
        self.reducer = LocalReducer() if reducer is None else reducer
        self.flat = flat = optimizer.flat
        self.n_steps = min(source.n_batches, config.max_steps)
        device = flat.values.device
        self._total_loss = torch.zeros((), dtype=torch.float32, device=device)
        self._replays = Replays(device, objective.generators)
        self._best, self._recent = flat.values.clone(), flat.values.clone()
        self.outcome = Outcome([])
        self.progress: _Progress | None = None

    @torch.inference_mode(False)
    @torch.enable_grad()
    def run(
        self,
        on_epoch: Callable[[dict[str, float]], bool] = lambda record: False,
        after_epoch: Callable[["Trainer"], None] = lambda trainer: None,
    ) -> Outcome:
        """Train until there is no more progress, or go on from a loaded state.

        Parameters
        ----------
        on_epoch : callable
            Receives each epoch's record while the parameters are those that it judges;
            true ends the training.
        after_epoch : callable
            Called between two epochs, where `state_dict` is complete.

        Returns
        -------
        outcome : Outcome
            History and how training ended.

        Raises
        ------
        FloatingPointError
            If the loss stays non-finite with a step size a thousand times smaller.
        """
        keep_freed_memory()
        progress = self.progress
        if progress is None:
            progress = self._start()
        while not progress.is_done:
            self.epoch(on_epoch)
            after_epoch(self)
        self.flat.values.copy_(self._best)
        return self.outcome

    def _start(self) -> _Progress:
        config = self.config
        self._prepare()
        score = self._evaluate()["score"]
        if not (config.may_keep_start and math.isfinite(score)):
            score = -math.inf
        self.progress = _Progress(
            config.learning_rate,
            config.patience,
            score,
            score,
            goal=score + config.tol,
            is_done=config.max_epochs == 0,
        )
        return self.progress

    def _prepare(self) -> None:
        config = self.config
        window = max(config.averaged_epochs * self.n_steps, 1)
        self.optimizer.prepare(config.max_grad_norm, config.weight_decay, window)

    def step(self, step_size: float, starts_epoch: bool) -> None:
        """Take a step on the next batch."""
        drawn = self.source.draw()
        kind = self.objective.begin_step(starts_epoch)

        def differentiate(*drawn: Tensor) -> None:
            share = step_size / self.config.learning_rate
            loss = self.objective.loss(self.source.rows(*drawn), share)
            self.flat.differentiate(loss)
            self._total_loss += loss.detach()

        def step(*drawn: Tensor) -> None:
            differentiate(*drawn)
            self.optimizer.step(step_size)

        if self.reducer.n_ranks == 1:
            self._replays((kind, step_size), step, *drawn)
            return
        # Processes record different graphs at different times, and would wait for each
        # other if these held what they do together.
        self._replays((kind, step_size), differentiate, *drawn)
        self.reducer.mean_(self.flat.gradient)
        self._replays(step_size, lambda: self.optimizer.step(step_size))

    def epoch(
        self, on_epoch: Callable[[dict[str, float]], bool] = lambda record: False
    ) -> None:
        """Train for one epoch, judge it, and decide how to go on."""
        progress, config, flat = self.progress, self.config, self.flat
        assert progress is not None
        progress.epoch += 1
        for i in range(self.n_steps):
            self.step(progress.step_size, starts_epoch=i == 0)
        progress.is_done = progress.epoch == config.max_epochs
        latest = flat.trained_values.clone()
        flat.trained_values.copy_(self.optimizer.average)
        record = {"epoch": progress.epoch, "learning_rate": progress.step_size}
        record |= {"train_loss": self._mean_loss(), **self._evaluate()}
        if not all(math.isfinite(record[name]) for name in ("train_loss", "score")):
            self._recover()
            return
        self._keep_if_better(record["score"])
        self.outcome.history.append(record)
        self.outcome.stopped = on_epoch(record)
        if self.outcome.stopped:
            progress.is_done = True
            return
        if self._is_outrun():
            self.outcome.outrun = progress.is_done = True
            return
        flat.trained_values.copy_(latest)
        if progress.n_stale >= progress.patience:
            self._drop()

    def _is_outrun(self) -> bool:
        config, scores = self.config, [r["score"] for r in self.outcome.history]
        n_left = config.max_epochs - RACE_EPOCHS
        if len(scores) != RACE_EPOCHS or n_left <= 0:
            return False
        pace = max(scores[-1] - scores[-2], 0.0)
        return scores[-1] + pace * n_left < config.rival_score

    def _keep_if_better(self, score: float) -> None:
        progress, flat = self.progress, self.flat
        assert progress is not None
        progress.n_stale += 1
        if score > progress.goal:
            progress.n_stale = 0
            progress.goal = score + max(self.config.tol, LEAST_GAIN * score)
        if score > progress.recent_score:
            progress.recent_score = score
            self._recent.copy_(flat.values)
        if score > progress.best_score:
            progress.best_score = score
            self._best.copy_(flat.values)

    def _drop(self) -> None:
        """Go on with a smaller step size, or end after the last one."""
        progress, config = self.progress, self.config
        assert progress is not None
        if progress.n_drops == config.n_drops:
            self.outcome.converged = progress.is_done = True
            return
        progress.n_drops += 1
        progress.n_stale = 0
        progress.patience = -(-config.patience // 2)
        self._restore()
        progress.recent_score = progress.goal = -math.inf
        progress.step_size *= config.drop

    def _recover(self) -> None:
        """Go on from the best parameters with much smaller steps."""
        progress, config = self.progress, self.config
        assert progress is not None
        progress.n_failures += 1
        self.optimizer.reset()
        self._restore()
        if progress.n_failures > MAX_FAILURES:
            raise FloatingPointError(
                "Training diverged: the loss is not finite even with a thousandth "
                f"of learning_rate={config.learning_rate}. Try a smaller "
                "learning_rate or weight_decay, a larger reg_covar, or rescaled "
                "columns."
            )
        progress.step_size *= 0.1

    def _restore(self) -> None:
        self.flat.values.copy_(self._recent)
        self.optimizer.start_over()

    def _mean_loss(self) -> float:
        """Mean loss of the epoch's steps, in nats."""
        self.reducer.mean_(self._total_loss)
        mean = float(self._total_loss) / self.n_steps
        self._total_loss.zero_()
        return mean

    def _evaluate(self) -> dict[str, float]:
        """Figures of the objective, brought to the CPU together."""
        figures = self._replays("evaluate", self.objective.evaluate)
        values = torch.stack([*figures.values()])
        # Those of one process decide how all of them go on.
        self.reducer.broadcast_(values)
        return {
            name: value if figures[name].is_floating_point() else int(value)
            for name, value in zip(figures, values.tolist(), strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that changes in a run, complete between two epochs."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "source": self.source.state_dict(),
            "objective": self.objective.state_dict(),
            "best": self._best.clone(),
            "recent": self._recent.clone(),
            "progress": None if self.progress is None else asdict(self.progress),
            "history": [dict(record) for record in self.outcome.history],
            "converged": self.outcome.converged,
            "stopped": self.outcome.stopped,
            "outrun": self.outcome.outrun,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, here or in another process."""
        self._prepare()
        self.optimizer.load_state_dict(state["optimizer"])
        self.source.load_state_dict(state["source"])
        self.objective.load_state_dict(state["objective"])
        self._best.copy_(state["best"])
        self._recent.copy_(state["recent"])
        progress = state["progress"]
        self.progress = None if progress is None else _Progress(**progress)
        self.outcome.history[:] = [dict(record) for record in state["history"]]
        self.outcome.converged = state["converged"]
        self.outcome.stopped = state["stopped"]
        self.outcome.outrun = state["outrun"]
