"""Questions to a trained module about rows in data units, chunk by chunk."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skflowmix._arrays import evaluate_in_chunks
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.preprocessing import SCORING_BOUND, Standardizer

__all__ = ["evaluate", "module_on"]


def module_on(
    module: MixtureModule, device: torch.device, dtype: torch.dtype
) -> MixtureModule:
    """Return a module, which is in float64 on the CPU, or a copy of it elsewhere."""
    if dtype == torch.float64 and device.type == "cpu":
        return module
    return copy.deepcopy(module).to(device, dtype)


def evaluate(
    module: MixtureModule,
    standardizer: Standardizer,
    X: np.ndarray,
    question: Callable[[MixtureModule, Tensor], Tensor],
    device: torch.device,
) -> np.ndarray:
    """Ask a module about rows, standardised, in the dtype of X.

    Parameters
    ----------
    module : MixtureModule
        In float64, on the CPU.
    standardizer : Standardizer
        Location and scale of the columns.
    X : ndarray of shape (n_samples, n_features)
        Rows, float32 or float64.
    question : callable
        A method of the module, unbound: maps module and standardised rows to answers.
    device : torch.device
        Where to compute.

    Returns
    -------
    answers : ndarray with n_samples rows
        In the dtype of X.
    """
    dtype, bound = getattr(torch, X.dtype.name), SCORING_BOUND[X.dtype]
    module = module_on(module, device, dtype)
    return evaluate_in_chunks(
        lambda x: question(module, x),
        lambda rows: standardizer.transform(rows, bound),
        X,
        floats_per_row=module.floats_per_row,
        dtype=dtype,
        device=device,
    )
