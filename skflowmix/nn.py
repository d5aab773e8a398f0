"""Networks evaluated for all K components at once: K is the leading axis."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["PosteriorNet", "StackedLinear", "StackedMLP", "autoregressive_masks"]


def _uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)


class StackedLinear(nn.Module):
    r"""K independent affine maps in one batched product.

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

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (K, N, n_inputs) to (K, N, n_outputs)."""
        bias = self.bias.unsqueeze(1)
        if self.weight is None:
            return bias.expand(-1, x.shape[1], -1)
        weight = self.weight if self.mask is None else self.weight * self.mask
        return torch.baddbmm(bias, x, weight.transpose(1, 2))


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

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (K, N, n_inputs) to (K, N, n_outputs)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu_()
        return self.layers[-1](x)


def autoregressive_masks(
    order: Tensor, n_parameters: int, hidden_units: Sequence[int]
) -> list[Tensor]:
    """Masks that let column i of the output see only the columns before it.

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
        hidden = torch.arange(width) % max(len(order) - 1, 1)
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
        self.mlp = StackedMLP(
            1, n_features, n_components, hidden_units, generator=generator
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, K) for x of shape (N, D)."""
        return self.mlp(x.unsqueeze(0)).squeeze(0)

    def permute_(self, index: Tensor) -> None:
        """Reorder the K outputs in place."""
        last = cast(StackedLinear, self.mlp.layers[-1])
        last.bias.data = last.bias.data[:, index]
        if last.weight is not None:
            last.weight.data = last.weight.data[:, index]
