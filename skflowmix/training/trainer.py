"""Mini-batch training of an objective: early stopping, best weights, history."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from skflowmix.cuda_graphs import Replays

__all__ = ["AdamW", "Objective", "Outcome", "TrainingConfig", "train"]

# Of the weights that set a component apart from the others, beside those of their
# common part: factors of the step size and of the decay.
DEVIATION_RATE = 0.5
DEVIATION_DECAY = 3.0

# Progress is a gain of at least so much of the score, which in a phase of flows is what
# it has gained. Negative scores are judged by `tol` alone.
LEAST_GAIN = 0.01


class Objective(Protocol):
    """What `train` needs to know of what it trains."""

    n_rows: int
    generators: Sequence[torch.Generator]  # those that the loss draws from

    def begin_step(self, starts_epoch: bool) -> Hashable:
        """Move on what changes from step to step, before the `loss` of each.

        Losses after equal answers, of as many rows, are the same operations: on a GPU
        they are recorded once and replayed.
        """
        ...

    def loss(self, rows: Tensor, step_share: float) -> Tensor:
        """Mean loss over the given training rows, in nats.

        `step_share` is the step size over the first one.
        """
        ...

    def evaluate(self) -> dict[str, Tensor]:
        """Figures for the history; `score` is what is maximised, in nats."""
        ...


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Parameters
    ----------
    max_epochs : int
        Largest number of epochs.
    batch_size : int
        Rows per step.
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
    """

    max_epochs: int
    batch_size: int
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
    """

    history: list[dict[str, float]]
    converged: bool = False
    stopped: bool = False


class _FlatParameters:
    """Parameters as views of one long vector.

    One kernel then serves all of them: clipping, Adam, snapshots. Weight matrices of
    several components come first, as a matrix with a row for each component; then
    other weight matrices, what else has a gradient, and what has none.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        trained = [p for p in parameters if p.requires_grad]
        self.stacked = [p for p in trained if p.ndim == 3 and len(p) > 1]
        single = [p for p in trained if p.ndim == 3 and len(p) == 1]
        rest = [p for p in trained if p.ndim != 3]
        self.trained = self.stacked + single + rest
        ordered = single + rest + [p for p in parameters if not p.requires_grad]
        self.n_components = len(self.stacked[0]) if self.stacked else 1
        rows = [p.detach().flatten(1) for p in self.stacked]
        matrix = torch.cat(rows, 1) if rows else ordered[0].new_empty(1, 0)
        vectors = [p.detach().flatten() for p in ordered]
        self.values = torch.cat([matrix.flatten(), *vectors])
        self.n_stacked = matrix.numel()
        self.n_decaying = self.n_stacked + sum(p.numel() for p in single)
        self.n_trained = self.n_decaying + sum(p.numel() for p in rest)
        self.trained_values = self.values[: self.n_trained]
        parts = self.of_components(self.values).split([r.shape[1] for r in rows], 1)
        for parameter, part in zip(self.stacked, parts, strict=True):
            parameter.data = part.unflatten(1, parameter.shape[1:])
        views = self.values[self.n_stacked :].split([v.numel() for v in vectors])
        for parameter, view in zip(ordered, views, strict=True):
            parameter.data = view.view_as(parameter)
        self.gradient = torch.empty_like(self.trained_values)
        self.gradients = [
            self.gradient.as_strided(p.shape, p.stride(), p.storage_offset())
            for p in self.trained
        ]

    def of_components(self, vector: Tensor) -> Tensor:
        """Part of a vector that holds the stacked weights: a row per component."""
        return vector[: self.n_stacked].view(self.n_components, -1)

    def differentiate(self, loss: Tensor) -> None:
        """Set `gradient` to that of a loss, in the order of the values."""
        gradients = torch.autograd.grad(
            loss, self.trained, allow_unused=True, materialize_grads=True
        )
        torch._foreach_copy_(self.gradients, gradients)


class _Moments:
    """A vector that Adam trains, its gradient, and the moments of that."""

    def __init__(self, values: Tensor, gradient: Tensor):
        self.values, self.gradient = values, gradient
        self.first = torch.zeros_like(values)
        self.second = torch.zeros_like(values)


class AdamW:
    r"""Adam with decoupled weight decay on one vector, after clipping.

    It may train one objective after another, made ready for each by `prepare`. Unless
    it is reset its moments go on: without them the first steps of the next one would
    undo epochs of training.

    Weight matrices of several components are trained as :math:`W_k = \bar W +
    \Delta_k`, each part by Adam: what all components gain from moves
    :math:`\bar W`, learnt from all rows, and only what sets one apart has to be
    learnt from its share. The common part starts at zero. Deviations learn at
    `DEVIATION_RATE` of the step size and decay `DEVIATION_DECAY` times as fast.

    What training has found is `average`, the running mean of the parameters over
    `window` steps: it lies deeper in the valley whose walls the steps go up and down.

    torch.optim would import the compiler first, which takes seconds.

    Parameters
    ----------
    parameters : sequence of Tensor
        What is trained, and further state (without gradients) that belongs to it.
        Their data are moved to one vector.

    References
    ----------
    B. T. Polyak and A. B. Juditsky, Acceleration of Stochastic Approximation by
    Averaging, SIAM Journal on Control and Optimization 30, 1992.

    I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019,
    algorithm 2.

    A. Gelman and J. Hill, Data Analysis Using Regression and Multilevel/Hierarchical
    Models, 2007, chapter 12, for partial pooling.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        self.flat = flat = _FlatParameters(parameters)
        self.average = flat.trained_values.clone()
        # Counted on the device, where a step may be a replay.
        self.n_steps = torch.zeros((), device=flat.values.device)
        self.n_averaged = flat.values.new_zeros(())
        self.whole = flat.of_components(flat.values)
        of_components = flat.of_components(flat.gradient)
        common = torch.zeros_like(self.whole[0])
        self.common = _Moments(common, torch.zeros_like(common))
        self.deviations = _Moments(torch.empty_like(self.whole), of_components)
        decaying, others = (
            _Moments(flat.values[part], flat.gradient[part])
            for part in (
                slice(flat.n_stacked, flat.n_decaying),
                slice(flat.n_decaying, flat.n_trained),
            )
        )
        # What is trained together, and factors of the step size and of the decay.
        self.groups = [([decaying], 1.0, 1.0), ([others], 1.0, 0.0)]
        if flat.n_stacked:
            own_decay = DEVIATION_DECAY / DEVIATION_RATE
            self.groups[0][0].append(self.common)
            self.groups.append(([self.deviations], DEVIATION_RATE, own_decay))

    def prepare(self, config: TrainingConfig, n_steps: int) -> None:
        """Get ready for epochs of so many steps, from the parameters as they stand."""
        self.max_grad_norm = config.max_grad_norm
        self.weight_decay = config.weight_decay
        self.window = max(config.averaged_epochs * n_steps, 1)
        self.start_over()

    def start_over(self) -> None:
        """Go on from the parameters as they stand."""
        torch.sub(self.whole, self.common.values, out=self.deviations.values)
        self.average.copy_(self.flat.trained_values)
        self.n_averaged.zero_()

    def reset(self) -> None:
        """Forget the common part and the moments of the gradient."""
        self.common.values.zero_()
        for parts, _, _ in self.groups:
            for part in parts:
                part.first.zero_()
                part.second.zero_()
        self.n_steps.zero_()

    def step(self, step_size: float) -> None:
        """Update the parameters by the gradient that they have."""
        norm = torch.linalg.vector_norm(self.flat.gradient)
        excess = norm.div_(self.max_grad_norm).clamp_(min=1.0).float()
        self.n_steps += 1
        torch.sum(self.deviations.gradient, 0, out=self.common.gradient)
        for parts, rate, decay in self.groups:
            torch._fused_adamw_(
                [part.values for part in parts],
                [part.gradient for part in parts],
                [part.first for part in parts],
                [part.second for part in parts],
                [],
                [self.n_steps] * len(parts),
                lr=step_size * rate,
                beta1=0.9,
                beta2=0.999,
                weight_decay=decay * self.weight_decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
                grad_scale=excess,
            )
        torch.add(self.deviations.values, self.common.values, out=self.whole)
        self.n_averaged.add_(1).clamp_(max=self.window)
        self.average.lerp_(self.flat.trained_values, self.n_averaged.reciprocal())


class _Steps:
    """Steps of training, and the loss that they add up to."""

    def __init__(
        self,
        objective: Objective,
        optimizer: AdamW,
        learning_rate: float,
    ):
        self.objective, self.optimizer = objective, optimizer
        self.learning_rate = learning_rate
        device = optimizer.flat.values.device
        self.total_loss = torch.zeros((), device=device)
        self.replays = Replays(device, objective.generators)

    def take(self, rows: Tensor, step_size: float, starts_epoch: bool) -> None:
        """Take a step of that size on rows, by their numbers."""
        kind = self.objective.begin_step(starts_epoch)

        def step(rows):
            share = step_size / self.learning_rate
            loss = self.objective.loss(rows, share)
            self.optimizer.flat.differentiate(loss)
            self.optimizer.step(step_size)
            self.total_loss += loss.detach()

        self.replays((kind, step_size), step, rows)

    def mean_loss(self, n_steps: int) -> float:
        """Mean loss of the steps since it was asked for, in nats."""
        mean = float(self.total_loss) / n_steps
        self.total_loss.zero_()
        return mean

    def evaluate(self) -> dict[str, float]:
        """Figures of the objective, brought to the CPU together."""
        figures = self.replays("evaluate", self.objective.evaluate)
        values = torch.stack([*figures.values()]).tolist()
        return {
            name: value if figures[name].is_floating_point() else int(value)
            for name, value in zip(figures, values, strict=True)
        }


class _Batches:
    """Batches of shuffled rows that go on from epoch to epoch."""

    def __init__(self, n_rows: int, batch_size: int, generator: torch.Generator):
        self.n_rows, self.generator = n_rows, generator
        self.batch_size = min(batch_size, n_rows)
        self.n_batches = max(n_rows // self.batch_size, 1)
        self.queue: list[Tensor] = []

    def next(self) -> Tensor:
        if not self.queue:
            device = self.generator.device
            order = torch.randperm(self.n_rows, generator=self.generator, device=device)
            self.queue = list(order.tensor_split(self.n_batches))
        return self.queue.pop()


def keep_freed_memory() -> None:
    """Let the allocator keep what a step frees, for the next step.

    The GNU allocator returns memory to the system beyond twice the largest block that
    it has seen freed, of 32 MiB at most, and has to fetch it again page by page: a
    fifth of a step of a middling model. The block itself is never touched.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    objective: Objective,
    optimizer: AdamW,
    config: TrainingConfig,
    generator: torch.Generator,
    on_epoch: Callable[[dict[str, float]], bool] = lambda record: False,
) -> Outcome:
    """Minimise an objective; the best parameters are left in place.

    Every epoch's figures save the training loss, and what `on_epoch` sees, are those of
    the parameters' running average. Each step size starts from the best parameters of
    the one before, and is left when it no longer improves: the first one on the start
    as well, the others on themselves only, as noise may have shrunk with them. A loss
    or score that is not finite restores these, with a tenth of the step size.

    Parameters
    ----------
    objective : Objective
        Losses of batches and the score to maximise.
    optimizer : AdamW
        Holds the parameters.
    config : TrainingConfig
        How.
    generator : torch.Generator
        Source of the order of the rows, on the parameters' device.
    on_epoch : callable
        Receives each epoch's record; true ends the training.

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
    outcome = Outcome([])
    flat = optimizer.flat
    batches = _Batches(objective.n_rows, config.batch_size, generator)
    n_steps = min(batches.n_batches, config.max_steps)
    optimizer.prepare(config, n_steps)
    steps = _Steps(objective, optimizer, config.learning_rate)
    best, best_score = flat.values.clone(), steps.evaluate()["score"]
    if not (config.may_keep_start and math.isfinite(best_score)):
        best_score = -math.inf
    # Those of the present step size.
    recent, recent_score = best.clone(), best_score
    goal = best_score + config.tol
    step_size = config.learning_rate
    n_drops = n_failures = n_stale = 0
    patience = config.patience

    def restore():
        flat.values.copy_(recent)
        optimizer.start_over()

    for epoch in range(1, config.max_epochs + 1):
        for i in range(n_steps):
            steps.take(batches.next(), step_size, starts_epoch=i == 0)
        latest = flat.trained_values.clone()
        flat.trained_values.copy_(optimizer.average)
        record = {"epoch": epoch, "learning_rate": step_size}
        record |= {"train_loss": steps.mean_loss(n_steps), **steps.evaluate()}
        score = record["score"]
        if not (math.isfinite(record["train_loss"]) and math.isfinite(score)):
            n_failures += 1
            optimizer.reset()
            restore()
            if n_failures > 3:
                raise FloatingPointError(
                    "Training diverged: the loss is not finite even with a thousandth "
                    f"of learning_rate={config.learning_rate}. Try a smaller "
                    "learning_rate or weight_decay, a larger reg_covar, or rescaled "
                    "columns."
                )
            step_size *= 0.1
            continue
        outcome.history.append(record)
        n_stale += 1
        if score > goal:
            n_stale = 0
            goal = score + max(config.tol, LEAST_GAIN * score)
        if score > recent_score:
            recent_score = score
            recent.copy_(flat.values)
        if score > best_score:
            best_score = score
            best.copy_(flat.values)
        outcome.stopped = on_epoch(record)
        if outcome.stopped:
            break
        flat.trained_values.copy_(latest)
        if n_stale >= patience:
            if n_drops == config.n_drops:
                outcome.converged = True
                break
            n_drops += 1
            n_stale = 0
            patience = -(-config.patience // 2)
            restore()
            recent_score = goal = -math.inf
            step_size *= config.drop
    flat.values.copy_(best)
    return outcome
