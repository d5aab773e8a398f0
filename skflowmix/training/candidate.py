"""A candidate: of several starts, the model that held-out rows prefer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from skflowmix._arrays import own_arithmetic, torch_generator
from skflowmix.model.components import WIDE
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.assignment import Assignment
from skflowmix.starts.gaussians import Gaussians
from skflowmix.training.objectives import robust_gain
from skflowmix.training.phases import Candidate, ModelFit, Runtime
from skflowmix.training.settings import EPOCH_ROWS, FitSettings
from skflowmix.training.table import TrainingTable

__all__ = [
    "LEAST_ROWS_PER_COMPONENT",
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


@own_arithmetic()
@torch.inference_mode(False)
def fit_candidate(
    settings: FitSettings,
    table: TrainingTable,
    responsibilities: np.ndarray,
    starts: Sequence[Gaussians],
    plain: Gaussians,
    runtime: Runtime,
    *,
    warm: MixtureModule | None = None,
) -> Candidate:
    """Train one model from given responsibilities, or go on training one.

    Flows are judged by rows that neither they nor the Gaussians they start from have
    seen. Of several starts the one that is better after the M-step goes on. Unless what
    came of it is clearly better than the plain Gaussians, training starts again from
    these; a large table, which is trained once, starts from them if they are ahead.
    Where no flow gains anything, or rows per component are too few for any, they are
    the model; otherwise training ends with a few epochs on all rows.

    Parameters
    ----------
    settings : FitSettings
        How.
    table : TrainingTable
        On what.
    responsibilities : ndarray of shape (n_distinct, n_components)
        Where the components start.
    starts : sequence of Gaussians
        What components may whiten by, fitted to all rows. Those of equal shrinkage
        are one.
    plain : Gaussians
        Those that are likeliest by themselves, or what `warm` whitens by.
    runtime : Runtime
        Where, and who watches.
    warm : MixtureModule, optional
        A model to go on with: then there are no starts and no M-step.

    Returns
    -------
    candidate : Candidate
        What came of it.
    """
    moments = table.without_far(responsibilities)
    assign = None
    if table.stream is not None:
        assign = Assignment(
            table.x, table.weights, responsibilities, plain, runtime.random_state
        )

    def prepare(name, model, gaussians):
        return ModelFit(
            name, settings, table, responsibilities, model, gaussians, runtime, assign
        )

    def start_from(name, gaussians):
        seen = gaussians.refit(
            table.x[table.train], table.weights[table.train], moments[table.train]
        )
        seen.weights = gaussians.weights
        # Without the others a column may be constant, which reg_covar=0 allows.
        if not seen.are_positive_definite():
            seen = gaussians
        seen.measure_reach(table.x[table.train], moments[table.train])
        model = MixtureModule.of_flows(
            seen,
            flow=settings.flow,
            n_transforms=settings.n_transforms,
            n_common_transforms=settings.n_common_transforms,
            n_shared_transforms=settings.n_shared_transforms,
            hidden_units=settings.hidden_units,
            posterior_units=settings.posterior_units,
            generator=torch_generator(runtime.random_state),
        )
        return prepare(name, model, seen)

    if len(table.train) < LEAST_ROWS_PER_COMPONENT * responsibilities.shape[1]:
        settings = replace(settings, n_transforms=0, n_shared_transforms=0)
        starts = [plain]
    if warm is not None:
        fit = prepare("warm", warm, plain)
        fit.train(warm=True)
        return fit.finish(plain, warm=True)
    starts = list({start.shrinkage: start for start in starts}.values())
    # That of one component is the ELBO, and serves only to choose.
    needs_m_step = len(starts) > 1 or len(plain.weights) > 1

    def m_step(fit):
        if needs_m_step:
            fit.train_by_responsibilities()

    untried = plain.shrinkage not in [start.shrinkage for start in starts]
    fit = start_from("start 0", starts[0])
    is_large = len(table.train) > EPOCH_ROWS or table.stream is not None
    if untried and (table.x.shape[1] > WIDE or is_large):
        other = start_from("plain", plain)
        if other.starts_ahead_of(fit):
            fit = other
        untried = False
    m_step(fit)
    for i, gaussians in enumerate(starts[1:], start=1):
        if runtime.is_stopped():
            break
        other = start_from(f"start {i}", gaussians)
        m_step(other)
        if other.better_than(fit):
            fit, other = other, fit
    fit.train()
    if untried and not runtime.is_stopped():
        other = start_from("plain", plain)
        enough = fit.keeps_flows and fit.clearly_better_than(other.log_prob_start)
        if not enough:
            m_step(other)
            other.train()
            # Stopped early, it may not have got as far as the first.
            if runtime.is_stopped():
                enough = not other.clearly_better_than(fit.held_out_log_prob())
            if not enough:
                fit = other
    return fit.finish(plain, warm=False)


def best_candidate(candidates: list[Candidate]) -> Candidate:
    """Choose the candidate with the largest held-out gain over the first one."""
    first = candidates[0]
    gains = [
        float(robust_gain(first.held_out, c.held_out_log_prob, first.held_out_log_prob))
        for c in candidates
    ]
    return candidates[int(np.argmax(np.nan_to_num(gains, nan=-np.inf)))]
