"""Flows: conditioners times element-wise maps, stacked over K components."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from skflowmix.nn import StackedLinear, StackedMLP, autoregressive_masks
from skflowmix.transforms import (
    Affine,
    ElementwiseMap,
    RationalQuadraticSpline,
    Recorded,
)

__all__ = ["FLOWS", "Autoregressive", "Coupling", "FlowFamily", "FlowStack"]

# Conditioners see no further than this; a map acts on everything.
CONDITIONER_BOUND = 5.0


def _clamp_backward(grad: Tensor, x: Tensor) -> Tensor:
    bound = CONDITIONER_BOUND
    return torch.ops.aten.hardtanh_backward(grad, x, -bound, bound)


def _slices(index: list[int]) -> list[tuple[slice, slice]]:
    """Slices that together copy column j to column index[j], with increasing index."""
    slices = []
    start = 0
    while start < len(index):
        step = index[start + 1] - index[start] if start + 1 < len(index) else 1
        end = start + 1
        while end < len(index) and index[end] - index[end - 1] == step:
            end += 1
        there = slice(index[start], index[end - 1] + 1, step)
        slices.append((there, slice(start, end)))
        start = end
    return slices


class Coupling(nn.Module):
    """Half of the columns parametrise the map of the other half.

    Layer ``position`` splits the columns by one bit of their index, so that any two
    columns fall apart in one of the first ``2 log2(D)`` layers. For D = 1 the map has
    free parameters instead of a network.

    Parameters
    ----------
    n_components, n_features : int
        K and D.
    elementwise : ElementwiseMap
        The map applied to the transformed columns.
    hidden_units : sequence of int
        Widths of the conditioner's hidden layers.
    position : int
        Index of the layer in its stack.
    generator : torch.Generator
        Source of the initial weights.

    References
    ----------
    L. Dinh, J. Sohl-Dickstein and S. Bengio, Density estimation using Real NVP,
    ICLR 2017, equations 7-8.
    """

    given: Tensor
    changed: Tensor

    def __init__(
        self,
        n_components: int,
        n_features: int,
        elementwise: ElementwiseMap,
        hidden_units: Sequence[int],
        position: int,
        *,
        generator: torch.Generator,
    ):
        super().__init__()
        n_bits = max((n_features - 1).bit_length(), 1)
        bits = torch.arange(n_features) >> (position // 2 % n_bits) & 1
        changed = bits == position % 2
        if n_features == 1:
            changed[:] = True
        self.register_buffer("given", torch.nonzero(~changed).flatten())
        self.register_buffer("changed", torch.nonzero(changed).flatten())
        self._given_slices = _slices(self.given.tolist())
        self._changed_slices = _slices(self.changed.tolist())
        self.elementwise = elementwise
        self.conditioner = StackedMLP(
            n_components,
            len(self.given),
            len(self.changed) * elementwise.n_parameters,
            hidden_units,
            generator=generator,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (K, N, D) to z (K, N, D) and log-determinants (K, N)."""
        needs_input = x.requires_grad

        def record(x, *_parameters):
            changed, given = self._split(x)
            bounded = given.clamp(-CONDITIONER_BOUND, CONDITIONER_BOUND)
            outputs, conditioner_backward = self.conditioner.record(bounded)
            value, log_slope, map_backward = self.elementwise.record(
                changed, outputs.unflatten(2, (len(self.changed), -1))
            )

            def backward(grad_z, grad_log_det):
                on_changed, on_outputs = map_backward(
                    grad_z.index_select(2, self.changed), grad_log_det.unsqueeze(2)
                )
                on_given, on_parameters = conditioner_backward(
                    on_outputs.flatten(2), needs_input
                )
                if not needs_input:
                    return None, *on_parameters
                on_x = self._replace(grad_z, on_changed)
                if on_given is not None:
                    on_given = _clamp_backward(on_given, given)
                    for there, here in self._given_slices:
                        on_x[:, :, there] += on_given[:, :, here]
                return on_x, *on_parameters

            return self._replace(x, value), log_slope.sum(2), backward

        return Recorded.apply(record, x, *self.conditioner.trained())

    def inverse(self, z: Tensor) -> Tensor:
        """Return the x that `forward` maps to z."""
        changed, given = self._split(z)
        bounded = given.clamp(-CONDITIONER_BOUND, CONDITIONER_BOUND)
        parameters = self.conditioner(bounded).unflatten(2, (len(self.changed), -1))
        return self._replace(z, self.elementwise.inverse(changed, parameters))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(2, self.changed), x.index_select(2, self.given)

    def _replace(self, x: Tensor, changed: Tensor) -> Tensor:
        """`index_copy`, which is slow, in slices."""
        x = x.clone(memory_format=torch.contiguous_format)
        for there, here in self._changed_slices:
            x[:, :, there] = changed[:, :, here]
        return x


class Autoregressive(nn.Module):
    """Each column's map is parametrised by the columns before it.

    Odd layers run through the columns backwards. For D = 1 (and for the first column
    always) there is nothing to see and the map has free parameters.

    Parameters
    ----------
    n_components, n_features, elementwise, hidden_units, position, generator
        As for `Coupling`.

    References
    ----------
    G. Papamakarios, T. Pavlakou and I. Murray, Masked Autoregressive Flow for Density
    Estimation, NeurIPS 2017, equations 3-4.
    """

    def __init__(
        self,
        n_components: int,
        n_features: int,
        elementwise: ElementwiseMap,
        hidden_units: Sequence[int],
        position: int,
        *,
        generator: torch.Generator,
    ):
        super().__init__()
        order = torch.arange(n_features)
        if position % 2:
            order = order.flip(0)
        n_parameters = elementwise.n_parameters
        self.n_features = n_features
        self.elementwise = elementwise
        self.conditioner = StackedMLP(
            n_components,
            n_features if n_features > 1 else 0,
            n_features * n_parameters,
            hidden_units,
            masks=autoregressive_masks(order, n_parameters, hidden_units)
            if n_features > 1
            else None,
            generator=generator,
        )

    def _condition(self, x: Tensor) -> Tensor:
        bounded = x.clamp(-CONDITIONER_BOUND, CONDITIONER_BOUND)
        return self.conditioner(bounded).unflatten(2, (self.n_features, -1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (K, N, D) to z (K, N, D) and log-determinants (K, N)."""
        needs_input = x.requires_grad

        def record(x, *_parameters):
            bounded = x.clamp(-CONDITIONER_BOUND, CONDITIONER_BOUND)
            outputs, conditioner_backward = self.conditioner.record(bounded)
            value, log_slope, map_backward = self.elementwise.record(
                x, outputs.unflatten(2, (self.n_features, -1))
            )

            def backward(grad_z, grad_log_det):
                on_x, on_outputs = map_backward(grad_z, grad_log_det.unsqueeze(2))
                on_bounded, on_parameters = conditioner_backward(
                    on_outputs.flatten(2), needs_input
                )
                if on_bounded is not None:
                    on_x.add_(_clamp_backward(on_bounded, x))
                return on_x, *on_parameters

            return value, log_slope.sum(2), backward

        return Recorded.apply(record, x, *self.conditioner.trained())

    def inverse(self, z: Tensor) -> Tensor:
        """Return the x that `forward` maps to z, column after column: D passes."""
        x = torch.zeros_like(z)
        for _ in range(self.n_features):
            x = self.elementwise.inverse(z, self._condition(x))
        return x


class FlowFamily(NamedTuple):
    """A conditioner and the element-wise map that it parametrises."""

    conditioner: type[Coupling] | type[Autoregressive]
    elementwise: Callable[..., ElementwiseMap]


FLOWS: dict[str, FlowFamily] = {
    "realnvp": FlowFamily(Coupling, Affine),
    "maf": FlowFamily(Autoregressive, Affine),
    "nsf": FlowFamily(Coupling, RationalQuadraticSpline),
    "nsf-ar": FlowFamily(Autoregressive, RationalQuadraticSpline),
}


class FlowStack(nn.Module):
    """K independent normalizing flows of one family, evaluated together.

    Every parameter has K as its leading axis; each flow starts as the identity.

    Parameters
    ----------
    flow : str
        A key of `FLOWS`.
    n_components, n_features : int
        K and D.
    n_transforms : int
        Number of layers; 0 gives the identity.
    hidden_units : sequence of int
        Widths of the conditioners' hidden layers.
    first_position : int, default=0
        Position of the first layer, which decides the columns that it changes.
    generator : torch.Generator
        Source of the initial weights.

    Examples
    --------
    >>> import torch
    >>> flows = FlowStack("nsf", 3, 2, 4, (16,), generator=torch.Generator())
    >>> z, log_det = flows(torch.randn(3, 100, 2))
    >>> z.shape, log_det.shape
    (torch.Size([3, 100, 2]), torch.Size([3, 100]))
    """

    def __init__(
        self,
        flow: str,
        n_components: int,
        n_features: int,
        n_transforms: int,
        hidden_units: Sequence[int],
        *,
        first_position: int = 0,
        generator: torch.Generator,
    ):
        super().__init__()
        family = FLOWS[flow]
        self.layers = nn.ModuleList(
            family.conditioner(
                n_components,
                n_features,
                family.elementwise(),
                hidden_units,
                position,
                generator=generator,
            )
            for position in range(first_position, first_position + n_transforms)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latent space.

        Parameters
        ----------
        x : Tensor of shape (K, N, D)
            Points, a set of N for each component.

        Returns
        -------
        z : Tensor of shape (K, N, D)
            Their images.
        log_abs_det_jacobian : Tensor of shape (K, N)
            Log-determinants of the Jacobian, in nats.
        """
        log_dets = []
        for layer in self.layers:
            x, log_det = layer(x)
            log_dets.append(log_det)
        if not log_dets:
            return x, x.new_zeros(x.shape[:2])
        return x, torch.stack(log_dets).sum(0)

    def inverse(self, z: Tensor) -> Tensor:
        """Map latent points of shape (K, N, D) back to data."""
        for layer in reversed(list(self.layers)):
            z = cast(Coupling | Autoregressive, layer).inverse(z)
        return z

    @property
    def n_parameters(self) -> int:
        """Number of free parameters; connections that a mask cuts do not count."""
        layers = (m for m in self.modules() if isinstance(m, StackedLinear))
        return sum(layer.n_parameters for layer in layers)

    def select(self, index: Tensor) -> "FlowStack":
        """Take the flows of the components in `index`, as a stack of their own."""
        selected = copy.deepcopy(self)
        for parameter in selected.parameters():
            parameter.data = parameter.data[index]
        return selected
