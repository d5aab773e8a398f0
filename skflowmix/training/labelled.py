"""Whether known classes of held-out rows are predicted better with flows or without."""

import numpy as np
import torch
from torch import Tensor

from skflowmix.model.groups import Groups
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.class_probabilities import calibrated_losses
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.scores import in_standard_errors
from skflowmix.training.batches import Batch

__all__ = ["start_predicts_better"]

# Least gain in log-loss, in nats per label. It is below the standard error of a gain:
# where that was asked for, flows stayed that hid all but the rare flags of a table.
LEAST_GAIN = 0.002

# Standard errors that flows must gain where classes share all covariances: labels have
# then preferred fewer parameters already.
CLEAR_GAIN = 1.0

# Fewer labels are too few to compare by.
MIN_LABELS = 20


@torch.no_grad()
def start_predicts_better(
    model: MixtureModule, start: list[Tensor], rows: Batch, gaussians: Gaussians
) -> bool:
    """Return whether a model predicted known classes better before training.

    Log-losses are compared, each at the temperature that fits the labels best.

    Parameters
    ----------
    model : MixtureModule
        The trained model.
    start : list of Tensor
        Its parameters before training.
    rows : Batch
        Rows that it has not seen.
    gaussians : Gaussians
        The Gaussians that it whitens by. If they share one covariance, the start counts
        as better unless the flows' gain is `CLEAR_GAIN`.

    Returns
    -------
    better : bool
        False with fewer than `MIN_LABELS` known classes, repeated rows counted.
    """
    groups = model.groups
    if rows.allowed is None or groups.n_groups == 1:
        return False
    classes = _known_classes(groups, rows.allowed.numpy(force=True))
    known = np.flatnonzero(classes >= 0)
    weights = rows.weights.double().numpy(force=True)
    n_labels = rows.n_counted * weights[known].sum() / weights.sum()
    if n_labels < MIN_LABELS:
        return False
    weights = weights[known]

    def losses() -> np.ndarray:
        log_joint = model.group_log_joint(rows.x).double().numpy(force=True)
        return calibrated_losses(log_joint[known], classes[known], weights)

    parameters: list[Tensor] = list(model.parameters())
    trained, with_flows = [p.clone() for p in parameters], losses()
    try:
        torch._foreach_copy_(parameters, start)
        gains = losses() - with_flows
    finally:
        torch._foreach_copy_(parameters, trained)
    if gaussians.share_covariance():
        return bool(in_standard_errors(gains, weights) < CLEAR_GAIN)
    return bool(np.average(gains, weights=weights) < -LEAST_GAIN)


def _known_classes(groups: Groups, allowed: np.ndarray) -> np.ndarray:
    """Return the only class that a row may have, -1 if it may have several."""
    of_groups = groups.sum(allowed.astype(float)) > 0
    return np.where(of_groups.sum(axis=1) == 1, of_groups.argmax(axis=1), -1)
