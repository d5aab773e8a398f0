"""Evaluation of a trained module at rows in data units, chunk by chunk."""

import copy
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from skflowmix._arrays import evaluate_in_chunks
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.preprocessing import SCORING_BOUND, Standardizer

__all__ = ["evaluate", "module_on"]


# Copies of modules on another device or in another dtype, with the state copied.
_copies: WeakKeyDictionary[MixtureModule, tuple] = WeakKeyDictionary()


def module_on(
    module: MixtureModule, device: torch.device, dtype: torch.dtype
) -> MixtureModule:
    """Return a module in float64 on the CPU, or its copy on `device` in `dtype`.

    The last copy is cached while the module lives and none of its tensors change:
    copying takes longer than evaluating a row.
    """
    if dtype == torch.float64 and device.type == "cpu":
        return module
    tensors = (*module.parameters(), *module.buffers())
    # Inference tensors have no version, and cannot change outside inference mode.
    versions = [(id(t), t.is_inference() or t._version) for t in tensors]
    state = device, dtype, versions
    known, own = _copies.get(module, (None, module))
    if known != state:
        own = copy.deepcopy(module).to(device, dtype)
        _copies[module] = state, own
    return own


def evaluate(
    module: MixtureModule,
    standardizer: Standardizer,
    X: np.ndarray,
    question: Callable[[MixtureModule, Tensor], Tensor],
    device: torch.device,
) -> np.ndarray:
    """Evaluate a method of a module at standardised rows, in the dtype of X.

    Parameters
    ----------
    module : MixtureModule
        In float64, on the CPU.
    standardizer : Standardizer
        Location and scale of the columns.
    X : ndarray of shape (n_samples, n_features)
        Rows, float32 or float64.
    question : callable
        Unbound method of the module: maps module and standardised rows to answers.
    device : torch.device
        Where to compute.

    Returns
    -------
    answers : ndarray with n_samples rows
        Floats have the dtype of X.
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
