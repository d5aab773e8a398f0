"""The parameters of a fit as one vector, and AdamW on it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["AdamW", "FlatParameters"]

# Factors of the step size and of the weight decay for the deviations of components from
# their common weights.
DEVIATION_RATE = 0.5
DEVIATION_DECAY = 3.0


class FlatParameters:
    """Owner of all parameters of a fit: one vector, of which they become views.

    Clipping, Adam and snapshots then take one kernel each. "pooled" weights come first,
    as a matrix with a row for each component; then "decayed" weights, "plain"
    parameters, and state without a gradient. Build it once: a second one of the same
    parameters would move them to another vector.

    Parameters
    ----------
    groups : mapping of str to sequence of Tensor
        Trained parameters by group, see `skflowmix.model.components.Components`.
    state : sequence of Tensor, default=()
        Tensors that are not trained, but kept and restored with the parameters.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[Tensor]],
        state: Iterable[Tensor] = (),
    ):
        pooled, decayed, plain = (
            list(groups.get(name, ())) for name in ("pooled", "decayed", "plain")
        )
        self.trained = pooled + decayed + plain
        ordered = decayed + plain + list(state)
        self.n_components = len(pooled[0]) if pooled else 1
        rows = [p.detach().flatten(1) for p in pooled]
        matrix = torch.cat(rows, 1) if rows else ordered[0].new_empty(1, 0)
        vectors = [p.detach().flatten() for p in ordered]
        self.values = torch.cat([matrix.flatten(), *vectors])
        self.n_pooled = matrix.numel()
        self.n_decaying = self.n_pooled + sum(p.numel() for p in decayed)
        self.n_trained = self.n_decaying + sum(p.numel() for p in plain)
        self.trained_values = self.values[: self.n_trained]
        parts = self.of_components(self.values).split([r.shape[1] for r in rows], 1)
        for parameter, part in zip(pooled, parts, strict=True):
            parameter.data = part.unflatten(1, parameter.shape[1:])
        views = self.values[self.n_pooled :].split([v.numel() for v in vectors])
        for parameter, view in zip(ordered, views, strict=True):
            parameter.data = view.view_as(parameter)
        self.gradient = torch.empty_like(self.trained_values)
        self.gradients = [
            self.gradient.as_strided(p.shape, p.stride(), p.storage_offset())
            for p in self.trained
        ]

    def of_components(self, vector: Tensor) -> Tensor:
        """Return the pooled weights' part of a vector, as a row per component."""
        return vector[: self.n_pooled].view(self.n_components, -1)

    def differentiate(self, loss: Tensor) -> None:
        """Set `gradient` to the gradient of a loss, in the order of `values`."""
        gradients = torch.autograd.grad(
            loss, self.trained, allow_unused=True, materialize_grads=True
        )
        torch._foreach_copy_(self.gradients, gradients)


class _Moments:
    """A vector that Adam trains, its gradient, and the gradient's moments."""

    def __init__(self, values: Tensor, gradient: Tensor):
        self.values, self.gradient = values, gradient
        self.first = torch.zeros_like(values)
        self.second = torch.zeros_like(values)


class AdamW:
    r"""Adam with decoupled weight decay on one vector, with gradient clipping.

    It may train one objective after another, after a call of `prepare` for each. Its
    moments are kept unless it is reset: without them the first steps on the next
    objective would undo epochs of training.

    Pooled weights are trained as :math:`W_k = \bar W + \Delta_k`, each part by Adam:
    :math:`\bar W` is learnt from all rows, and only the deviation :math:`\Delta_k` has
    to be learnt from the rows of component k. The common part starts at zero.
    Deviations learn at `DEVIATION_RATE` of the step size and decay `DEVIATION_DECAY`
    times as fast.

    The result of training is `average`, the running mean of the parameters over a
    window of steps, which averages out the noise of single steps.

    torch.optim is not used because it imports the compiler, which takes seconds.

    Parameters
    ----------
    flat : FlatParameters
        The parameters to train.

    References
    ----------
    B. T. Polyak and A. B. Juditsky, Acceleration of Stochastic Approximation by
    Averaging, SIAM Journal on Control and Optimization 30, 1992.

    I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019,
    algorithm 2.

    A. Gelman and J. Hill, Data Analysis Using Regression and Multilevel/Hierarchical
    Models, 2007, chapter 12, for partial pooling.
    """

    def __init__(self, flat: FlatParameters):
        self.flat = flat
        self.average = flat.trained_values.clone()
        # Counted on the device, where a step may be a replay.
        self.n_steps = torch.zeros((), dtype=torch.float32, device=flat.values.device)
        self.n_averaged = flat.values.new_zeros(())
        self.whole = flat.of_components(flat.values)
        of_components = flat.of_components(flat.gradient)
        common = torch.zeros_like(self.whole[0])
        self.common = _Moments(common, torch.zeros_like(common))
        self.deviations = _Moments(torch.empty_like(self.whole), of_components)
        decaying, others = (
            _Moments(flat.values[part], flat.gradient[part])
            for part in (
                slice(flat.n_pooled, flat.n_decaying),
                slice(flat.n_decaying, flat.n_trained),
            )
        )
        # Vectors trained together, and factors of the step size and of the decay.
        self.groups = [([decaying], 1.0, 1.0), ([others], 1.0, 0.0)]
        if flat.n_pooled:
            own_decay = DEVIATION_DECAY / DEVIATION_RATE
            self.groups[0][0].append(self.common)
            self.groups.append(([self.deviations], DEVIATION_RATE, own_decay))

    def prepare(self, max_grad_norm: float, weight_decay: float, window: int) -> None:
        """Prepare for a phase that starts from the current parameters.

        Parameters
        ----------
        max_grad_norm : float
            Gradients are clipped to this norm.
        weight_decay : float
            Decoupled weight decay.
        window : int
            Number of steps in the running mean of the parameters.
        """
        self.max_grad_norm, self.weight_decay = max_grad_norm, weight_decay
        self.window = window
        self.start_over()

    def start_over(self) -> None:
        """Restart deviations and running mean from the current parameters."""
        torch.sub(self.whole, self.common.values, out=self.deviations.values)
        self.average.copy_(self.flat.trained_values)
        self.n_averaged.zero_()

    def reset(self) -> None:
        """Set the common part, the moments of the gradient and their count to zero."""
        self.common.values.zero_()
        for parts, _, _ in self.groups:
            for part in parts:
                part.first.zero_()
                part.second.zero_()
        self.n_steps.zero_()

    def step(self, step_size: float) -> None:
        """Update the parameters by the current gradient."""
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

    def _state(self) -> dict[str, Tensor]:
        """Return all tensors that change, by name."""
        state = {
            "values": self.flat.values,
            "average": self.average,
            "n_steps": self.n_steps,
            "n_averaged": self.n_averaged,
            "common": self.common.values,
            "deviations": self.deviations.values,
        }
        for i, (parts, _, _) in enumerate(self.groups):
            for j, part in enumerate(parts):
                state[f"first {i} {j}"] = part.first
                state[f"second {i} {j}"] = part.second
        return state

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the parameters and of the optimizer's state."""
        return {name: tensor.clone() for name, tensor in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, tensor in self._state().items():
            tensor.copy_(state[name])
