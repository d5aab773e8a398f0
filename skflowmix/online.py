"""Online learning: a fitted mixture continues training on new rows."""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from skflowmix._arrays import evaluate_in_chunks, own_arithmetic, torch_generator
from skflowmix.fitting import Problem
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.preprocessing import Standardizer
from skflowmix.training.batches import Batch, Noise, TableSource
from skflowmix.training.objectives import DENSE_EVERY, ElboObjective, Temperature
from skflowmix.training.optimizer import AdamW, FlatParameters
from skflowmix.training.phases import FINAL_RATE
from skflowmix.training.settings import EPOCH_ROWS, FitSettings
from skflowmix.training.table import TrainingTable
from skflowmix.training.trainer import Trainer

__all__ = ["OnlineState", "learn"]


@dataclass
class OnlineState:
    """State carried from one call to the next, besides the model.

    Parameters
    ----------
    n_counted : float
        Number of rows that the model has been trained on.
    n_steps : int
        Number of steps so far.
    optimizer : dict of ndarray
        Current parameters, their running mean, and Adam's moments; empty before the
        first step.
    """

    n_counted: float
    n_steps: int = 0
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)


@own_arithmetic()
@torch.inference_mode(False)
def learn(
    module: MixtureModule,
    gaussians: Gaussians,
    standardizer: Standardizer,
    problem: Problem,
    settings: FitSettings,
    state: OnlineState,
    device: torch.device,
    random_state: np.random.RandomState,
) -> tuple[MixtureModule, OnlineState]:
    """Train on the ELBO for one pass over some rows.

    The step size is constant, that of the last phase of a fit. The returned model is
    the running mean of the parameters. The rows' responsibilities under the given model
    serve as noisy labels.

    Parameters
    ----------
    module : MixtureModule
        The model, in float64 on the CPU; it is not changed.
    gaussians : Gaussians
        The Gaussians that its components whiten by.
    standardizer : Standardizer
        Location and scale of the columns.
    problem : Problem
        The rows, and weights relative to their mean.
    settings : FitSettings
        How to train.
    state : OnlineState
        The state to continue from; it is not changed.
    device : torch.device
        Where to train.
    random_state : RandomState
        Source of batches and noise.

    Returns
    -------
    module : MixtureModule
        The updated model.
    state : OnlineState
        The updated state.

    Raises
    ------
    FloatingPointError
        If the parameters are no longer finite.
    """
    table = TrainingTable(
        problem.rows, problem.weights, standardizer, 0.0, random_state
    )
    table.measure_repeats(settings.repeat_noise)
    dtype = getattr(torch, "float64" if gaussians.need_float64() else settings.dtype)
    working = copy.deepcopy(module).to(device, dtype)
    like = working.weight_logits
    labels = evaluate_in_chunks(
        module.responsibilities,
        np.asarray,
        table.x,
        floats_per_row=module.floats_per_row,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    thickness = gaussians.thickness() if settings.input_noise > 0 else None

    def tensor(array: np.ndarray | None) -> Any:
        return None if array is None else torch.from_numpy(array).to(like)

    rows = Batch(
        tensor(table.x),
        tensor(table.weights),
        # Within its component, a row may belong to any flow.
        tensor(module.groups.sum(labels)[:, module.groups.of_flow]),
        repeat_widths=tensor(table.repeat_widths),
        thickness=tensor(None if thickness is None else labels @ thickness),
    )
    n_counted = state.n_counted + table.n_counted
    batch_size = settings.batch_size_for(int(n_counted))
    config = settings.training_config(
        1, 0, int(n_counted), module.n_features, n_counted
    )
    source = TableSource(rows, batch_size, torch_generator(random_state, device))
    config = replace(
        config,
        learning_rate=FINAL_RATE * config.learning_rate,
        max_steps=source.n_batches,
    )
    noise = Noise(
        settings.input_noise,
        torch_generator(random_state, device),
        tensor(table.column_space),
    )
    # Continue the schedules of dense steps and of the temperature.
    first, decay = state.n_steps % DENSE_EVERY, settings.temperature_decay
    since_hottest = first - (state.n_steps > 0)
    hottest = float(working.temperature) * math.exp(decay * since_hottest)
    objective = ElboObjective(
        working,
        source,
        source.sample(1),
        Temperature(hottest, decay),
        settings.label_noise,
        noise,
    )
    objective.n_steps = first
    flat = FlatParameters(working.parameter_groups(), [working.temperature])
    optimizer = AdamW(flat)
    window = config.averaged_epochs * max(EPOCH_ROWS // batch_size, 1)
    optimizer.prepare(config.max_grad_norm, config.weight_decay, window)
    if state.optimizer:
        former = {k: torch.from_numpy(array) for k, array in state.optimizer.items()}
        optimizer.load_state_dict(former)
    trainer = Trainer(objective, source, optimizer, config)
    for i in range(trainer.n_steps):
        trainer.step(config.learning_rate, starts_epoch=i == 0)
    if not torch.isfinite(flat.values).all():
        raise FloatingPointError(
            "Training diverged: parameters are no longer finite. The model is the one "
            "before these rows; look at them, or try a smaller learning_rate."
        )
    present = {k: v.numpy(force=True) for k, v in optimizer.state_dict().items()}
    flat.trained_values.copy_(optimizer.average)
    state = OnlineState(n_counted, state.n_steps + trainer.n_steps, present)
    return module.with_parameters_of(working), state
