"""Flows: conditioners times element-wise maps, stacked over K components."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from skflowmix.model.elementwise import Affine, ElementwiseMap, RationalQuadraticSpline
from skflowmix.model.nn import (
    Recorded,
    StackedLinear,
    StackedMLP,
    autoregressive_masks,
    units_of_degree,
)

__all__ = [
    "FLOWS",
    "Autoregressive",
    "Coupling",
    "FlowFamily",
    "FlowStack",
    "family_of",
]

# Inputs of conditioners are clipped to +-this; the maps act on unclipped values.
CONDITIONER_BOUND = 5.0

# Maps gradients of the output (K, D, N) and of the log-determinant (K, 1, N) to those
# of the input, if the last argument is True, and of the conditioners' parameters.
FlowBackward = Callable[[Tensor, Tensor, bool], tuple[Tensor | None, list[Tensor]]]

# The columns (K, D, N) that a layer works on, in one part or in two.
Parts = tuple[Tensor, ...]
LayerBackward = Callable[[Parts, Tensor, bool], tuple[Parts, list[Tensor]]]

_T = TypeVar("_T")

_hardtanh_backward = torch.ops.aten.hardtanh_backward.default


def _clamp(x: Tensor) -> Tensor:
    return x.clamp(-CONDITIONER_BOUND, CONDITIONER_BOUND)


def _clamp_backward(grad: Tensor, clamped: Tensor) -> Tensor:
    bound = CONDITIONER_BOUND
    return _hardtanh_backward(grad, clamped, -bound, bound)


class _Layer(nn.Module, ABC):
    """A conditioner and its element-wise map; arrays inside are (K, D, N)."""

    conditioner: StackedMLP
    elementwise: ElementwiseMap
    split_by: int  # equal in layers that split the columns into the same parts

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (K, N, D) to z (K, N, D) and log-determinants (K, N)."""
        return _evaluate([self], x)

    def inverse(self, z: Tensor) -> Tensor:
        """Return the x that `forward` maps to z."""
        return self.invert(z.transpose(1, 2)).transpose(1, 2)

    @abstractmethod
    def record(
        self, parts: Parts, parameters: Sequence[Tensor]
    ) -> tuple[Parts, Tensor, LayerBackward]:
        """Return z and log-slopes of x, both points in parts, and a backward.

        `parameters` are the conditioner's. The gradient of the parts that the backward
        returns is valid only if its last argument is True.
        """

    @abstractmethod
    def split(self, x: Tensor) -> Parts:
        """Return the parts of x."""

    @abstractmethod
    def join(self, parts: Parts) -> Tensor:
        """Return the columns of all parts in their original order."""

    @abstractmethod
    def invert(self, z: Tensor) -> Tensor:
        """Return the x that `record` maps to z."""

    def _condition(self, bounded: Tensor) -> Tensor:
        """Return the parameters (K, columns, n_parameters, N) of the maps."""
        outputs = self.conditioner(bounded.transpose(1, 2)).transpose(1, 2)
        return self._per_column(outputs)

    def _per_column(self, outputs: Tensor) -> Tensor:
        n_parameters = self.elementwise.n_parameters
        n_components, n_outputs, n_rows = outputs.shape
        shape = (n_components, n_outputs // n_parameters, n_parameters, n_rows)
        return outputs.view(shape)


def _regroup(parts: Parts, former: _Layer | None, layer: _Layer | None) -> Parts:
    """Convert the parts of the `former` layer to those of `layer`.

    Nothing is copied if both layers split the columns in the same way. None stands for
    all columns in one part.
    """
    if former and layer and former.split_by == layer.split_by:
        return parts
    x = former.join(parts) if former else parts[0]
    return layer.split(x) if layer else (x,)


def _record(
    layers: Sequence[_Layer],
    x: Tensor,
    parameters: Sequence[Sequence[Tensor]],
    keeps: bool,
) -> tuple[Tensor, list[Tensor], FlowBackward]:
    """Return images (K, D, N) of x under all layers, log-slopes, and a backward.

    `parameters` are those of the layers' conditioners. The backward keeps the
    activations; without `keeps` it cannot be used.
    """
    log_slopes, backwards = [], []
    parts: Parts = (x,)
    former: _Layer | None = None
    for layer, own in zip(layers, parameters, strict=True):
        parts = _regroup(parts, former, layer)
        parts, log_slope, layer_backward = layer.record(parts, own)
        log_slopes.append(log_slope)
        if keeps:
            backwards.append(layer_backward)
        former = layer
        del layer_backward
    (z,) = _regroup(parts, former, None)

    def backward(
        grad: Tensor, grad_log: Tensor, needs_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        gradients: list[Tensor] = []
        parts: Parts = (grad,)
        later: _Layer | None = None
        for i in reversed(range(len(backwards))):
            parts = _regroup(parts, later, layers[i])
            parts, own = backwards[i](parts, grad_log, needs_input or i > 0)
            gradients = own + gradients
            later = layers[i]
        if not needs_input:
            return None, gradients
        return _regroup(parts, later, None)[0], gradients

    return z, log_slopes, backward


def _evaluate(layers: Sequence[_Layer], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (K, N, D) of x under all layers, and log-determinants (K, N)."""
    needs_input, keeps = x.requires_grad, torch.is_grad_enabled()
    parameters = [layer.conditioner.recorded_parameters for layer in layers]

    def record(
        x: Tensor, *_parameters: Tensor
    ) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], tuple[Tensor | None, ...]]]:
        columns = x.transpose(1, 2).contiguous()
        z, log_slopes, backward = _record(layers, columns, parameters, keeps)

        def by_hand(grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
            on_x, gradients = backward(
                grad_z.transpose(1, 2).contiguous(),
                grad_log_det.unsqueeze(1).contiguous(),
                needs_input,
            )
            return None if on_x is None else on_x.transpose(1, 2), *gradients

        return z.transpose(1, 2), torch.cat(log_slopes, 1).sum(1), by_hand

    return Recorded.apply(record, x, *chain.from_iterable(parameters))


class Coupling(_Layer):
    """Coupling layer: half of the columns parametrise the map of the other half.

    Layer ``position`` splits the columns by one bit of their index, so that any two
    columns are in different halves in one of the first ``2 ceil(log2(D))`` layers. For
    D = 1 the map has free parameters instead of a network.

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
    places: Tensor

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
        self.split_by = position // 2 % n_bits
        bits = torch.arange(n_features) >> self.split_by & 1
        changed = bits == position % 2
        if n_features == 1:
            changed[:] = True
        self.register_buffer("given", torch.nonzero(~changed).flatten())
        self.register_buffer("changed", torch.nonzero(changed).flatten())
        # Halves contiguous in column order are split and joined without indexing.
        self.changed_first = bool(changed[0])
        self.sizes = self._in_order(len(self.changed), len(self.given))
        order = torch.cat(self._in_order(self.changed, self.given))
        self.in_pieces = bool((order.diff() != 1).any())
        self.register_buffer("places", order.argsort(), persistent=False)
        self.elementwise = elementwise
        self.conditioner = StackedMLP(
            n_components,
            len(self.given),
            len(self.changed) * elementwise.n_parameters,
            hidden_units,
            generator=generator,
        )

    def record(
        self, parts: Parts, parameters: Sequence[Tensor]
    ) -> tuple[Parts, Tensor, LayerBackward]:
        """See `_Layer`."""
        changed, given = self._in_order(*parts)
        bounded = _clamp(given)
        outputs, conditioner_backward = self.conditioner.record(bounded, parameters)
        maps = self._per_column(outputs)
        value, log_slope, map_backward = self.elementwise.record(changed, maps)

        def backward(
            on_parts: Parts, grad_log: Tensor, needs_input: bool
        ) -> tuple[Parts, list[Tensor]]:
            on_changed, on_given = self._in_order(*on_parts)
            on_changed, on_maps = map_backward(on_changed, grad_log)
            on_bounded, on_parameters = conditioner_backward(
                on_maps.flatten(1, 2), needs_input
            )
            if not needs_input:
                return (), on_parameters
            if on_bounded is not None:
                on_given = _clamp_backward(on_bounded, bounded).add_(on_given)
            return self._in_order(on_changed, on_given), on_parameters

        return self._in_order(value, given), log_slope, backward

    def invert(self, z: Tensor) -> Tensor:
        """See `_Layer`."""
        changed, given = self._in_order(*self.split(z))
        maps = self._condition(_clamp(given))
        changed = self.elementwise.inverse(changed, maps)
        return self.join(self._in_order(changed, given))

    def split(self, x: Tensor) -> Parts:
        """Return the halves of the columns, the one with the first column first."""
        if self.in_pieces:
            halves = self._in_order(self.changed, self.given)
            return x.index_select(1, halves[0]), x.index_select(1, halves[1])
        return x.split_with_sizes(self.sizes, 1)

    def join(self, parts: Parts) -> Tensor:
        """See `_Layer`."""
        x = torch.cat(parts, 1)
        return x.index_select(1, self.places) if self.in_pieces else x

    def _in_order(self, changed: _T, given: _T) -> tuple[_T, _T]:
        """Convert between (changed, given) and the order of the columns, both ways."""
        return (changed, given) if self.changed_first else (given, changed)


class Autoregressive(_Layer):
    """Autoregressive layer: previous columns parametrise the map of each column.

    Odd layers take the columns in reverse order. The map of the first column, which is
    the only one for D = 1, depends on no column: its parameters are free.

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
        self.split_by = 0
        self.columns = order.argsort().tolist()
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

    def record(
        self, parts: Parts, parameters: Sequence[Tensor]
    ) -> tuple[Parts, Tensor, LayerBackward]:
        """See `_Layer`."""
        (x,) = parts
        bounded = _clamp(x)
        outputs, conditioner_backward = self.conditioner.record(bounded, parameters)
        maps = self._per_column(outputs)
        value, log_slope, map_backward = self.elementwise.record(x, maps)

        def backward(
            on_parts: Parts, grad_log: Tensor, needs_input: bool
        ) -> tuple[Parts, list[Tensor]]:
            on_x, on_maps = map_backward(on_parts[0], grad_log)
            on_bounded, on_parameters = conditioner_backward(
                on_maps.flatten(1, 2), needs_input
            )
            if on_bounded is not None:
                on_x.add_(_clamp_backward(on_bounded, bounded))
            return (on_x,), on_parameters

        return (value,), log_slope, backward

    def split(self, x: Tensor) -> Parts:
        """Return all columns in one part."""
        return (x,)

    def join(self, parts: Parts) -> Tensor:
        """See `_Layer`."""
        return parts[0]

    def invert(self, z: Tensor) -> Tensor:
        """See `_Layer`; goes column by column, computing every hidden unit once."""
        n_components, n_features, n_rows = z.shape
        n_parameters, network = self.elementwise.n_parameters, self.conditioner
        biases = [bias.unsqueeze(2) for bias in network.biases]
        weights = network.masked_weights(network.weights)
        if n_features == 1:
            maps = biases[0].expand(-1, -1, n_rows)
            return self.elementwise.inverse(z, self._per_column(maps))
        x = torch.empty_like(z)
        bounded = torch.zeros_like(z)
        activations = [bounded]
        for bias in biases[:-1]:
            activations.append(z.new_zeros(n_components, bias.shape[1], n_rows))

        def outputs_of(layer: int, units: slice) -> Tensor:
            bias, weight = biases[layer][:, units], weights[layer][:, units]
            return torch.baddbmm(bias, weight, activations[layer])

        for position, column in enumerate(self.columns):
            own = slice(column, column + 1)
            outputs = slice(column * n_parameters, (column + 1) * n_parameters)
            maps = self._per_column(outputs_of(-1, outputs))
            x[:, own] = self.elementwise.inverse(z[:, own], maps)
            bounded[:, own] = _clamp(x[:, own])
            if position == n_features - 1:
                break
            units = units_of_degree(position, n_features)
            for layer in range(len(activations) - 1):
                activations[layer + 1][:, units] = outputs_of(layer, units).relu_()
        return x


class FlowFamily(NamedTuple):
    """A conditioner and the element-wise map that it parametrises.

    Parameters
    ----------
    conditioner : {Coupling, Autoregressive}
        Which columns a map's parameters depend on.
    elementwise : callable
        Makes the map when called without arguments; its class, for example.

    Examples
    --------
    Splines with more bins on a wider interval:

    >>> from functools import partial
    >>> from skflowmix import FlowMixture
    >>> from skflowmix.model.elementwise import RationalQuadraticSpline
    >>> spline = partial(RationalQuadraticSpline, n_bins=16, bound=8.0)
    >>> model = FlowMixture(2, flow=FlowFamily(Autoregressive, spline))
    """

    conditioner: type[Coupling] | type[Autoregressive]
    elementwise: Callable[..., ElementwiseMap]


FLOWS: dict[str, FlowFamily] = {
    "realnvp": FlowFamily(Coupling, Affine),
    "maf": FlowFamily(Autoregressive, Affine),
    "nsf": FlowFamily(Coupling, RationalQuadraticSpline),
    "nsf-ar": FlowFamily(Autoregressive, RationalQuadraticSpline),
}


def family_of(flow: str | FlowFamily) -> FlowFamily:
    """Return the family named in `FLOWS`, or a given family unchanged."""
    return FLOWS[flow] if isinstance(flow, str) else flow


class FlowStack(nn.Module):
    """K independent normalizing flows of one family, evaluated together.

    Every parameter has K as its leading axis; each flow starts as the identity.

    Parameters
    ----------
    flow : str or FlowFamily
        A key of `FLOWS`, or a family.
    n_components, n_features : int
        K and D.
    n_transforms : int
        Number of layers; 0 gives the identity.
    hidden_units : sequence of int
        Widths of the conditioners' hidden layers.
    first_position : int, default=0
        Position of the first layer, which determines the columns that it changes.
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
        flow: str | FlowFamily,
        n_components: int,
        n_features: int,
        n_transforms: int,
        hidden_units: Sequence[int],
        *,
        first_position: int = 0,
        generator: torch.Generator,
    ):
        super().__init__()
        family = family_of(flow)
        self._n_flows = n_components
        # Plain lists besides the modules, since look-ups in modules are slow.
        self._layers: list[_Layer] = [
            family.conditioner(
                n_components,
                n_features,
                family.elementwise(),
                hidden_units,
                position,
                generator=generator,
            )
            for position in range(first_position, first_position + n_transforms)
        ]
        self.layers = nn.ModuleList(self._layers)
        self.recorded_parameters = [
            layer.conditioner.recorded_parameters for layer in self._layers
        ]

    @property
    def is_stacked(self) -> bool:
        """Whether there are several flows."""
        return self._n_flows > 1

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self._layers)

    @property
    def weights(self) -> list[nn.Parameter]:
        """Weight matrices of all conditioners."""
        return [w for layer in self._layers for w in layer.conditioner.weights]

    @property
    def biases(self) -> list[nn.Parameter]:
        """Biases of all conditioners."""
        return [b for layer in self._layers for b in layer.conditioner.biases]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latent space.

        Parameters
        ----------
        x : Tensor of shape (K, N, D)
            N points for each component.

        Returns
        -------
        z : Tensor of shape (K, N, D)
            Their images.
        log_abs_det_jacobian : Tensor of shape (K, N)
            Log-determinants of the Jacobian, in nats.
        """
        layers = self._layers
        return _evaluate(layers, x) if layers else (x, x.new_zeros(x.shape[:2]))

    def record(
        self, x: Tensor, parameters: Sequence[Sequence[Tensor]], keeps: bool = True
    ) -> tuple[Tensor, list[Tensor], FlowBackward]:
        """Map data to latent space without autograd.

        Parameters
        ----------
        x : Tensor of shape (K, D, N)
            Points; rows come last.
        parameters : sequence of sequence of Tensor
            The `recorded_parameters`.
        keeps : bool, default=True
            Whether to keep what the backward needs.

        Returns
        -------
        z : Tensor of shape (K, D, N)
            Their images.
        log_slopes : list of Tensor of shape (K, n_columns, N)
            Their sum over the list and over columns is the log-determinant.
        backward : callable
            Gradients of x and of the parameters.
        """
        return _record(self._layers, x, parameters, keeps)

    def inverse(self, z: Tensor) -> Tensor:
        """Map latent points of shape (K, N, D) back to data."""
        z = z.transpose(1, 2)
        for layer in reversed(self._layers):
            z = layer.invert(z)
        return z.transpose(1, 2)

    @property
    def n_parameters(self) -> int:
        """Number of free parameters; masked connections do not count."""
        layers = (m for m in self.modules() if isinstance(m, StackedLinear))
        return sum(layer.n_parameters for layer in layers)

    def select(self, index: Tensor) -> "FlowStack":
        """Return a new stack with copies of the flows in `index`."""
        selected = copy.deepcopy(self)
        for parameter in selected.parameters():
            parameter.data = parameter.data[index]
        selected._n_flows = len(index)
        return selected
