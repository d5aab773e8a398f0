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

# Least relative growth of the score that counts as progress; where flows are trained
# the score is the gain of the phase. For negative scores only `tol` counts.
LEAST_GAIN = 0.01

# Epochs after which training ends if, at the pace of the last one, its score would not
# reach that of a rival.
RACE_EPOCHS = 5

# Non-finite losses or scores that are tolerated; each divides the step size by ten.
MAX_FAILURES = 3


class Objective(Protocol):
    """Interface of what a `Trainer` optimises."""

    generators: Sequence[torch.Generator]  # that the loss draws from

    def begin_step(self, starts_epoch: bool) -> Hashable:
        """Update what changes from step to step; called before each `loss`.

        After equal return values, losses of equally large batches are the same
        operations: on a GPU they are recorded once and replayed.
        """
        ...

    def loss(self, batch: Batch, step_share: float) -> Tensor:
        """Return the mean loss over the given training rows, in nats.

        `step_share` is the step size divided by the first one.
        """
        ...

    def evaluate(self) -> dict[str, Tensor]:
        """Return figures for the history; `score`, in nats, is maximised."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state besides the parameters."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run.

    Parameters
    ----------
    max_epochs : int
        Largest number of epochs.
    learning_rate : float
        First step size of Adam.
    patience : int
        Epochs without progress before the step size drops and training continues from
        the best parameters at the old one; half as many after the first drop.
    tol : float
        Progress is a growth of the score, since there last was progress, by more than
        `tol` nats per row and by more than `LEAST_GAIN` of the score.
    n_drops : int
        Number of drops of the step size after which training converges.
    drop : float
        Factor of the step size at a drop.
    max_grad_norm : float
        Gradients are clipped to this norm.
    weight_decay : float
        Decoupled weight decay (AdamW) of the weight matrices.
    max_steps : int
        Largest number of steps per epoch.
    averaged_epochs : int
        Epochs in the running mean of the parameters, which is evaluated and kept; at 0
        the parameters themselves are.
    may_keep_start : bool
        Whether the initial parameters may be the best ones.
    rival_score : float
        Training ends after `RACE_EPOCHS` epochs if, at the pace of the last one, the
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
    """Result of a training run.

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
    """Make the allocator keep the memory that a step frees for the next step.

    The GNU allocator returns free memory beyond twice the largest block freed so far
    (32 MiB at most) to the system, and getting it back page by page takes a fifth of a
    step of a medium-sized model. The block allocated here is never touched.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


@dataclass
class _Progress:
    """State of a run between two epochs."""

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

    It owns all state of a run: between two epochs `state_dict` returns all of it.

    Every epoch's figures, except the training loss, are those of the running average of
    the parameters, which is in place when `on_epoch` is called. Each step size starts
    from the best parameters at the previous one, and drops when the score no longer
    improves. Only at the first step size is the score compared with that of the start;
    later ones are compared only with themselves, as training noise may have shrunk with
    them. A non-finite loss or score restores the best parameters at the current step
    size and divides the step size by ten.

    Parameters
    ----------
    objective : Objective
        Losses of batches and the score to maximise.
    source : RowSource
        Source of the batches.
    optimizer : AdamW
        Holds the parameters.
    config : TrainingConfig
        Settings of the run.
    reducer : Reducer, optional
        Makes gradients and figures the same in all processes.

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
        """Train until there is no more progress, from the start or a loaded state.

        Parameters
        ----------
        on_epoch : callable
            Receives each epoch's record while the evaluated parameters are in place;
            true ends the training.
        after_epoch : callable
            Called between two epochs, when `state_dict` is complete.

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
        # Processes record graphs at different times, and would deadlock if these
        # contained collective operations.
        self._replays((kind, step_size), differentiate, *drawn)
        self.reducer.mean_(self.flat.gradient)
        self._replays(step_size, lambda: self.optimizer.step(step_size))

    def epoch(
        self, on_epoch: Callable[[dict[str, float]], bool] = lambda record: False
    ) -> None:
        """Train for one epoch, evaluate it, and decide how to continue."""
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
        """Continue with a smaller step size, or end after the last one."""
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
        """Continue from the best parameters at this step size with a tenth of it."""
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
        """Return the mean loss of the epoch's steps, in nats."""
        self.reducer.mean_(self._total_loss)
        mean = float(self._total_loss) / self.n_steps
        self._total_loss.zero_()
        return mean

    def _evaluate(self) -> dict[str, float]:
        """Return the figures of the objective, in a single transfer to the CPU."""
        figures = self._replays("evaluate", self.objective.evaluate)
        values = torch.stack([*figures.values()])
        # All processes decide how to continue by the figures of the first one.
        self.reducer.broadcast_(values)
        return {
            name: value if figures[name].is_floating_point() else int(value)
            for name, value in zip(figures, values.tolist(), strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state of a run, complete between two epochs."""
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
        """Restore what `state_dict` returned, here or in another process."""
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
