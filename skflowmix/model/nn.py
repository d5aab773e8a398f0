"""Networks evaluated for all K components at once: K is the leading axis."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = [
    "PosteriorNet",
    "Recorded",
    "StackedLinear",
    "StackedMLP",
    "autoregressive_masks",
    "units_of_degree",
]

# Maps the gradient of an MLP's output to those of its input, if the last argument is
# True, and of its parameters.
MLPBackward = Callable[[Tensor, bool], tuple[Tensor | None, list[Tensor]]]

_relu_backward = torch.ops.aten.threshold_backward.grad_input


class Recorded(torch.autograd.Function):
    """A function with a hand-written backward, which needs fewer kernels than autograd.

    ``Recorded.apply(record, *inputs)`` calls ``record(*inputs)``, which returns its
    outputs and a backward that maps their gradients to those of the inputs. The
    backward must not modify its arguments, since autograd may call it again.
    """

    @staticmethod
    def forward(
        ctx: Any, record: Callable[..., Any], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """Call `record` and keep its backward."""
        *outputs, ctx.by_hand = record(*inputs)
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs, and None for `record`."""
        return None, *ctx.by_hand(*gradients)


def _uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    # In float32 whatever torch's default dtype, so that a seed determines the model.
    drawn = torch.empty(*shape, dtype=torch.float32, device=generator.device)
    return drawn.uniform_(-bound, bound, generator=generator)


class StackedLinear(nn.Module):
    r"""Parameters of K independent affine maps, which `StackedMLP` evaluates.

    .. math:: y_k = x_k (W_k \odot M)^\top + b_k

    Parameters
    ----------
    n_components : int
        Number K of maps.
    n_inputs, n_outputs : int
        Widths of each map. With ``n_inputs=0`` the map is its bias.
    generator : torch.Generator
        Source of the initial weights, drawn uniformly from
        ``+-1 / sqrt(n_inputs)``.
    mask : Tensor of shape (n_outputs, n_inputs), optional
        Zeros cut connections (the same ones in every component).
    zero : bool, default=False
        Start with all weights and biases at zero.
    """

    weight: nn.Parameter | None
    mask: Tensor | None

    def __init__(
        self,
        n_components: int,
        n_inputs: int,
        n_outputs: int,
        *,
        generator: torch.Generator,
        mask: Tensor | None = None,
        zero: bool = False,
    ):
        super().__init__()
        bound = 0.0 if zero else max(n_inputs, 1) ** -0.5
        self.bias = nn.Parameter(_uniform((n_components, n_outputs), bound, generator))
        if n_inputs:
            shape = (n_components, n_outputs, n_inputs)
            self.weight = nn.Parameter(_uniform(shape, bound, generator))
        else:
            self.register_parameter("weight", None)
        self.register_buffer("mask", mask)

    @property
    def n_parameters(self) -> int:
        """Number of free parameters; masked connections do not count."""
        n_components, n_outputs = self.bias.shape
        if self.weight is None:
            return n_components * n_outputs
        n_weights = (
            self.weight[0].numel() if self.mask is None else int(self.mask.sum())
        )
        return n_components * (n_outputs + n_weights)


class StackedMLP(nn.Module):
    """K independent multilayer perceptrons with ReLU, zero at initialisation.

    Parameters
    ----------
    n_components : int
        Number K of networks.
    n_inputs, n_outputs : int
        Widths. Without inputs the network is a free vector of outputs.
    hidden_units : sequence of int
        Widths of the hidden layers.
    generator : torch.Generator
        Source of the initial weights.
    masks : list of Tensor, optional
        One mask per layer, see `autoregressive_masks`.
    """

    def __init__(
        self,
        n_components: int,
        n_inputs: int,
        n_outputs: int,
        hidden_units: Sequence[int],
        *,
        generator: torch.Generator,
        masks: list[Tensor] | None = None,
    ):
        super().__init__()
        widths = [n_inputs, *(hidden_units if n_inputs else ()), n_outputs]
        last = len(widths) - 2
        self.layers = nn.ModuleList(
            StackedLinear(
                n_components,
                widths[i],
                widths[i + 1],
                generator=generator,
                mask=None if masks is None else masks[i],
                zero=i == last,
            )
            for i in range(last + 1)
        )
        self.masked = masks is not None
        # Bias and weight of every layer, alternating; without inputs one bias. Gathered
        # once, because modules look up their parameters slowly.
        linears = cast(list[StackedLinear], self.layers)
        pairs = ((linear.bias, linear.weight) for linear in linears)
        self.recorded_parameters = [p for pair in pairs for p in pair if p is not None]

    @property
    def weights(self) -> list[nn.Parameter]:
        """Weight matrices of the layers, none without inputs."""
        linears = cast(list[StackedLinear], self.layers)
        return [linear.weight for linear in linears if linear.weight is not None]

    @property
    def biases(self) -> list[nn.Parameter]:
        """Biases of the layers."""
        return [linear.bias for linear in cast(list[StackedLinear], self.layers)]

    def masked_weights(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return the weights of the layers, with masked connections set to zero."""
        if not self.masked:
            return list(weights)
        masks = [cast(Tensor, linear.mask) for linear in self.layers]
        return [w * mask for w, mask in zip(weights, masks, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (K, N, n_inputs) to (K, N, n_outputs)."""
        needs_input = x.requires_grad

        def record(
            x: Tensor, *parameters: Tensor
        ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor | None, ...]]]:
            columns = x.transpose(1, 2).contiguous()  # else the products are slow
            outputs, backward = self.record(columns, parameters)

            def by_hand(grad: Tensor) -> tuple[Tensor | None, ...]:
                on_x, on_parameters = backward(grad.transpose(1, 2), needs_input)
                return None if on_x is None else on_x.transpose(1, 2), *on_parameters

            return outputs.transpose(1, 2), by_hand

        return Recorded.apply(record, x, *self.recorded_parameters)[0]

    def record(
        self, x: Tensor, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, MLPBackward]:
        """Map x of shape (K, n_inputs, N) to (K, n_outputs, N), without autograd.

        The long axis N comes last, so that narrow layers still make wide products.

        Parameters
        ----------
        x : Tensor of shape (K, n_inputs, N)
            Inputs.
        parameters : sequence of Tensor
            The `recorded_parameters`.

        Returns
        -------
        outputs : Tensor of shape (K, n_outputs, N)
            Outputs.
        backward : callable
            Gradients of the input and of `parameters`.
        """
        weights = parameters[1::2]
        if not weights:
            outputs = parameters[0].unsqueeze(2).expand(-1, -1, x.shape[2])
            return outputs, lambda grad, _: (None, [grad.sum(2)])
        weights = self.masked_weights(weights)
        inputs = [x]
        for i, weight in enumerate(weights):
            if i:
                inputs.append(x.relu_())
            x = torch.baddbmm(parameters[2 * i].unsqueeze(2), weight, x)

        def backward(
            grad: Tensor, needs_input: bool
        ) -> tuple[Tensor | None, list[Tensor]]:
            gradients: list[Tensor] = []
            for i in range(len(weights) - 1, -1, -1):
                on_weight = torch.bmm(grad, inputs[i].transpose(1, 2))
                if self.masked:
                    on_weight.mul_(cast(Tensor, self.layers[i].mask))
                gradients[:0] = grad.sum(2), on_weight
                if i == 0 and not needs_input:
                    return None, gradients
                grad = torch.bmm(weights[i].transpose(1, 2), grad)
                if i:
                    _relu_backward(grad, inputs[i], 0, grad_input=grad)
            return grad, gradients

        return x, backward


def units_of_degree(degree: int, n_columns: int) -> slice:
    """Return the hidden units that see columns up to an autoregressive position."""
    return slice(degree, None, n_columns - 1)


def autoregressive_masks(
    order: Tensor, n_parameters: int, hidden_units: Sequence[int]
) -> list[Tensor]:
    """Return masks by which output column i depends only on the columns before it.

    Parameters
    ----------
    order : Tensor of shape (D,)
        Position of each column in the autoregression, a permutation of 0..D-1.
    n_parameters : int
        Outputs per column; the output is laid out as (D, n_parameters).
    hidden_units : sequence of int
        Widths of the hidden layers.

    Returns
    -------
    masks : list of Tensor of shape (n_outputs, n_inputs)
        One mask per layer.

    References
    ----------
    M. Germain, K. Gregor, I. Murray and H. Larochelle, MADE: Masked Autoencoder for
    Distribution Estimation, ICML 2015, equations 8-9.
    """
    degrees = order
    masks = []
    for width in hidden_units:
        hidden = torch.arange(width)
        for degree in range(len(order) - 1):
            hidden[units_of_degree(degree, len(order))] = degree
        masks.append((hidden[:, None] >= degrees[None, :]).float())
        degrees = hidden
    outputs = order.repeat_interleave(n_parameters)
    masks.append((outputs[:, None] > degrees[None, :]).float())
    return masks


class PosteriorNet(nn.Module):
    """The amortised posterior q(z|x): an MLP from x to K logits.

    Parameters
    ----------
    n_features : int
        Width D of x.
    n_components : int
        Number K of components.
    hidden_units : sequence of int
        Widths of the hidden layers.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        hidden_units: Sequence[int],
        *,
        generator: torch.Generator,
    ):
        super().__init__()
        self.hidden_units = tuple(hidden_units)
        self.mlp = StackedMLP(
            1, n_features, n_components, hidden_units, generator=generator
        )

    @property
    def weights(self) -> list[nn.Parameter]:
        """Weight matrices of the layers."""
        return self.mlp.weights

    @property
    def biases(self) -> list[nn.Parameter]:
        """Biases of the layers."""
        return self.mlp.biases

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, K) for x of shape (N, D)."""
        return self.mlp(x.unsqueeze(0)).squeeze(0)

    def permute_(self, index: Tensor) -> None:
        """Reorder the K outputs in place."""
        last = cast(StackedLinear, self.mlp.layers[-1])
        last.bias.data = last.bias.data[:, index]
        if last.weight is not None:
            last.weight.data = last.weight.data[:, index]
