"""K flows on whitened, standardised rows: the components of the mixture."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from skflowmix.model.flows import FlowBackward, FlowFamily, FlowStack
from skflowmix.model.in_ball import TINY, InBall
from skflowmix.model.nn import Recorded
from skflowmix.model.pairs import SPARSE_SHARE, AllPairs, Support
from skflowmix.model.tails import LOG_BASE_SHARE, Ball, RadialBase, ball_radius, norm
from skflowmix.starts.gaussians import Gaussians

__all__ = [
    "FEW_ROWS",
    "MANY_COMPONENTS",
    "WIDE",
    "Components",
    "FlowComponents",
]

# Buffers that define how components whiten rows.
WHITENING = ("means", "scales", "whitening", "unwhitening", "log_constant", "radii")

# With more columns than WIDE, the posterior network learns little from few rows, but
# Gaussians separate the components; with more than MANY_COMPONENTS (each flow of a
# class or cluster counts) it takes many steps to rule most of them out. So the network
# only corrects the posterior of these Gaussians, and most pairs of rows and components
# need no flow.
WIDE = 500
MANY_COMPONENTS = 8

# Up to this many rows, finding pairs that need no flow costs more than it saves.
FEW_ROWS = 32


# Maps gradients of the log-densities to those of the rows (None if not needed) and of
# all parameters.
Backward = Callable[[Tensor], tuple[Tensor | None, ...]]


def _no_backward(
    grad: Tensor, grad_log: Tensor, needs_input: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the gradients of an empty stack of transforms, the identity."""
    return grad, []


def _record_joined(
    stack: FlowStack, z: Tensor, parameters: Sequence[Sequence[Tensor]], keeps: bool
) -> tuple[Tensor, list[Tensor], FlowBackward]:
    """Map z (K, D, N) by a stack of a single flow, shared by all components."""
    if not parameters:
        return z, [], _no_backward

    def joined(parts: Tensor) -> Tensor:
        return parts.transpose(0, 1).flatten(1).unsqueeze(0)

    def parted(whole: Tensor) -> Tensor:
        return whole.squeeze(0).unflatten(1, (len(z), -1)).transpose(0, 1)

    flat, log_slopes, flat_backward = stack.record(joined(z), parameters, keeps)

    def backward(
        grad: Any, grad_log: Tensor, needs_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        grad, own = flat_backward(joined(grad), joined(grad_log), needs_input)
        return None if grad is None else parted(grad).contiguous(), own

    return parted(flat), [parted(part) for part in log_slopes], backward


class Components(Protocol):
    """Interface of the K components of a mixture, a torch module.

    Parameters are trained by group, see `skflowmix.training.optimizer`: "pooled" ones
    (weights of several components, K leading) as a common part and deviations from it,
    "decayed" ones (other weights) with weight decay, "plain" ones without.
    """

    n_components: int
    n_features: int
    floats_per_row: int
    architecture: dict[str, Any]

    def spec(self) -> dict[str, Any]:
        """Return a description of the components, without their tensors."""
        ...

    @property
    def n_flow_parameters(self) -> int:
        """Number of free parameters besides those of Gaussians."""
        ...

    def log_prob(
        self, x: Tensor, pairs: Support | AllPairs, trains: bool = False
    ) -> Tensor:
        """Return log-densities (K, C), in nats, of pairs of rows x and components.

        If the model `trains`, gradients may differ from those of the returned value.
        """
        ...

    def log_prob_of_all(self, x: Tensor) -> Tensor:
        """Return log-densities (N, K) of all pairs, in nats."""
        ...

    def log_prob_bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return lower and upper bounds of `log_prob_of_all` that need no flow."""
        ...

    def gaussian_log_prob(self, x: Tensor) -> Tensor | None:
        """Return log-densities (K, N) of the components' Gaussians, or None.

        If given, the posterior network corrects the posterior of these Gaussians.
        """
        ...

    def with_gaussians(self, gaussians: Gaussians) -> Self:
        """Return a copy that starts from other Gaussians, or whitens by them."""
        ...

    def whiten_like_(self, other: Any) -> None:
        """Copy the Gaussians of other components."""
        ...

    def sample(self, component: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one row from each of the given components: (N,) to (N, D)."""
        ...

    def select_(self, index: Tensor) -> None:
        """Reorder the components, or keep some of them, in place."""
        ...

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return trained parameters by group: "pooled", "decayed" and "plain"."""
        ...


class FlowComponents(nn.Module):
    r"""K normalizing flows that start as Gaussians, evaluated together.

    .. math::

        \log p(x|k) = \log p_0(z_k) + \log \bigl|\det \partial z_k / \partial x\bigr|,
        \quad z_k = s\bigl(g_k(W_k h_k(S_k^{-1} (c(x) - \mu_k)))\bigr)

    with :math:`S_k` the standard deviations of component k and :math:`W_k` the matrix
    that whitens the scaled rows. The first transform :math:`h_k` acts on the original
    columns, where steps, bounds and repeated values are simple; the other transforms,
    :math:`g_k`, act on decorrelated columns.

    Components can share transforms on both sides. The common transforms c, next to the
    data, learn from all rows. The shared transforms s, next to the base distribution,
    give the components one shape, which their own transforms move, turn and slightly
    bend; :math:`W_k` then rotates each component to its principal axes, oriented
    towards its skewness.

    If the covariance of any component is nearly singular (a column is the sum of others
    up to a hundredth), all transforms of all components come after :math:`W_k` and none
    is common: a step of a transform before :math:`W_k` would move rows by many standard
    deviations out of their subspace. There are no common transforms either if a
    component is small relative to the data.

    All transforms start as the identity and every component as the Gaussian
    :math:`N(\mu_k, \Sigma_k)`. With transforms, the base distribution :math:`p_0` has
    heavier tails than the normal (`skflowmix.model.tails.RadialBase`), so that a single
    outlying row cannot dominate a fit. Transforms act within a ball of Mahalanobis
    distances to :math:`N(\mu_k, \Sigma_k)` (`skflowmix.model.tails.Ball`, which
    stretches x before the first transform and shrinks z after the last); beyond the
    ball, the density has elliptical contours and decreases with the distance. A share
    of every component remains the initial density: a hundredth in the core of the ball,
    rising to all at its surface. Where flows leave almost no density, it therefore
    still decreases with the distance.

    Parameters
    ----------
    gaussians : Gaussians
        Where the components start.
    flow : str or FlowFamily
        See `skflowmix.model.flows.FlowStack`.
    n_transforms : int
        Number of layers of each flow. With 0 there are no transforms at all.
    n_common_transforms : int, default=0
        Number of layers before those of the components, common to all components.
    n_shared_transforms : int, default=0
        Number of the last of the `n_transforms` layers that all components share.
    hidden_units : sequence of int
        Widths of the hidden layers of the conditioners.
    generator : torch.Generator
        Source of the initial network weights.
    """

    means: Tensor
    scales: Tensor
    whitening: Tensor
    unwhitening: Tensor
    log_constant: Tensor
    radii: Tensor

    def __init__(
        self,
        gaussians: Gaussians,
        *,
        flow: str | FlowFamily,
        n_transforms: int,
        n_common_transforms: int = 0,
        n_shared_transforms: int = 0,
        hidden_units: Sequence[int],
        generator: torch.Generator,
    ):
        super().__init__()
        n_components, n_features = gaussians.means.shape
        self.n_components, self.n_features = n_components, n_features
        self.architecture: dict[str, Any] = {
            "flow": flow,
            "n_transforms": n_transforms,
            "n_common_transforms": n_common_transforms,
            "n_shared_transforms": n_shared_transforms,
            "hidden_units": tuple(hidden_units),
        }
        are_small = gaussians.are_small()
        self.guides_posterior = (
            are_small or n_features > WIDE or n_components > MANY_COMPONENTS
        )
        n_own = n_transforms - n_shared_transforms
        n_common = n_common_transforms if n_transforms else 0
        n_inner = min(n_own, 1)
        if gaussians.are_flat():
            n_common = n_inner = 0
        elif are_small:
            n_common = 0
        layers = (n_common, n_inner, n_own - n_inner, n_shared_transforms)
        self._build(layers, generator)
        for name, value in self._whitening(gaussians).items():
            self.register_buffer(name, value)

    def _build(self, layers: Sequence[int], generator: torch.Generator) -> None:
        """Make the four stacks, with the given numbers of layers."""
        flow, hidden_units = (
            self.architecture[name] for name in ("flow", "hidden_units")
        )
        n_components, n_features = self.n_components, self.n_features
        # Approximate working memory of an evaluation per row.
        self.floats_per_row = 8 * n_components * max(*hidden_units, 24 * n_features, 1)
        stacks, position = [], 0
        sizes = (1, n_components, n_components, 1)
        for n_flows, n_layers in zip(sizes, layers, strict=True):
            stack = FlowStack(
                flow,
                n_flows,
                n_features,
                n_layers,
                hidden_units,
                first_position=position,
                generator=generator,
            )
            stacks.append(stack)
            position += n_layers
        self.common, self.inner, self.outer, self.shared = stacks
        n_transforms = self.architecture["n_transforms"]
        self.base = RadialBase(n_features) if n_transforms else None
        self.double()

    def spec(self) -> dict[str, Any]:
        """Return what `from_spec` needs to rebuild the components, except tensors."""
        return {
            "architecture": self.architecture,
            "n_components": self.n_components,
            "n_features": self.n_features,
            "guides_posterior": self.guides_posterior,
            "layers": [stack.n_layers for stack in self.flows()],
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Self:
        """Make components whose tensors are still to be loaded."""
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self.architecture = spec["architecture"]
        self.n_components, self.n_features = spec["n_components"], spec["n_features"]
        self.guides_posterior = spec["guides_posterior"]
        self._build(spec["layers"], torch.Generator())
        shapes: dict[str, tuple[int, ...]] = {
            "means": (self.n_features,),
            "scales": (self.n_features,),
            "whitening": (self.n_features, self.n_features),
            "unwhitening": (self.n_features, self.n_features),
            "log_constant": (),
            "radii": (),
        }
        for name in WHITENING:
            shape = (self.n_components, *shapes[name])
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        return self

    @staticmethod
    def _whitening(gaussians: Gaussians) -> dict[str, Tensor]:
        """Return the buffers that define how components whiten rows."""
        scales = gaussians.scales()
        whitening = gaussians.whitening()
        n_features = scales.shape[1]
        log_constant = np.linalg.slogdet(whitening)[1] - np.log(scales).sum(1)
        log_constant -= 0.5 * n_features * math.log(2 * math.pi)
        return {
            "means": torch.from_numpy(gaussians.means),
            "scales": torch.from_numpy(scales),
            "whitening": torch.from_numpy(whitening),
            "unwhitening": torch.from_numpy(np.linalg.inv(whitening)),
            "log_constant": torch.from_numpy(log_constant),
            "radii": torch.from_numpy(ball_radius(n_features, gaussians.reach)),
        }

    def with_gaussians(self, gaussians: Gaussians) -> Self:
        """Return a copy in float64 on the CPU that whitens by other Gaussians."""
        other = copy.deepcopy(self)
        for name, value in self._whitening(gaussians).items():
            setattr(other, name, value)
        return other

    @property
    def n_flow_parameters(self) -> int:
        """Number of free parameters of the transforms."""
        return sum(flows.n_parameters for flows in self.flows())

    def whiten_like_(self, other: Self) -> None:
        """Copy the whitening of other components."""
        for name in WHITENING:
            getattr(self, name).copy_(getattr(other, name))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """See `Components`."""
        stacks = self.flows()
        groups = {
            "pooled": [
                w for stack in stacks if stack.is_stacked for w in stack.weights
            ],
            "decayed": [
                w for stack in stacks if not stack.is_stacked for w in stack.weights
            ],
            "plain": [bias for stack in stacks for bias in stack.biases],
        }
        return groups

    def _ball(self, index: Tensor | slice = slice(None)) -> Ball:
        """Return the components' balls, for radii of shape (K, 1, N) or (K, N, 1)."""
        return Ball(self.n_features, self.radii[index, None, None])

    def flows(self) -> tuple[FlowStack, ...]:
        """Return all transforms, from the data to the base distribution."""
        return self.common, self.inner, self.outer, self.shared

    def log_prob(
        self, x: Tensor, pairs: Support | AllPairs, trains: bool = False
    ) -> Tensor:
        """Return log-densities (K, C) of pairs of standardised rows and components.

        It is a single autograd function: one node per small layer would cost more than
        the layer.
        """
        parameters = [stack.recorded_parameters for stack in self.flows()]
        needs_input, keeps = x.requires_grad, torch.is_grad_enabled()

        def record(x: Tensor, *_parameters: Tensor) -> tuple[Tensor, Backward]:
            return self._record(x, pairs, parameters, needs_input, keeps, trains)

        flat = (p for of_stack in parameters for own in of_stack for p in own)
        return Recorded.apply(record, x, *flat)[0]

    def _record(
        self,
        x: Tensor,
        pairs: Support | AllPairs,
        parameters: Sequence[Sequence[Sequence[Tensor]]],
        needs_input: bool,
        keeps: bool,
        trains: bool,
    ) -> tuple[Tensor, Backward]:
        of_common, of_inner, of_outer, of_shared = parameters
        scales = self.scales.unsqueeze(2)
        points = pairs.spread(x.T.contiguous())
        centred = (points - self.means.unsqueeze(2)).div_(scales)
        white = torch.bmm(self.whitening, centred)
        ball = InBall(
            white, self.unwhitening, self.base, self._ball() if self.base else None
        )
        has_inner = bool(of_common or of_inner)
        common_backward: FlowBackward = _no_backward
        inner_backward: FlowBackward = _no_backward
        log_slopes: list[Tensor] = []
        if has_inner:
            scaled = ball.scaled(centred)
            if of_common:
                if scaled is not centred:
                    points = torch.addcmul(self.means.unsqueeze(2), scaled, scales)
                y, slopes, common_backward = _record_joined(
                    self.common, points, of_common, keeps
                )
                log_slopes += slopes
                scaled = (y - self.means.unsqueeze(2)).div_(scales)
            bent, slopes, inner_backward = self.inner.record(scaled, of_inner, keeps)
            log_slopes += slopes
            z = torch.bmm(self.whitening, bent)
        else:
            z = ball.moved
        z, slopes, outer_backward = self.outer.record(z, of_outer, keeps)
        log_slopes += slopes
        z, slopes, shared_backward = _record_joined(self.shared, z, of_shared, keeps)
        log_slopes += slopes
        log_density, base_backward = ball.log_prob(z, log_slopes, trains)
        log_prob = log_density.squeeze(1).add_(self.log_constant.unsqueeze(1))

        def backward(grad: Any) -> tuple[Tensor | None, ...]:
            on_log_density = grad.unsqueeze(1)
            grad, grad_log = base_backward(on_log_density)
            grad, on_shared = shared_backward(grad, grad_log, True)
            grad, on_outer = outer_backward(grad, grad_log, needs_input or has_inner)
            own = on_outer + on_shared
            if has_inner:
                grad = torch.bmm(self.whitening.transpose(1, 2), grad)
                needs_points = needs_input or bool(of_common)
                grad, on_inner = inner_backward(grad, grad_log, needs_points)
                own = on_inner + own
                if of_common:
                    grad = (grad / scales).contiguous()
                    grad, on_common = common_backward(grad, grad_log, needs_input)
                    own = on_common + own
                    grad = None if grad is None else grad * scales
            if not needs_input:
                return None, *own
            on_white = ball.backward(on_log_density, grad, has_inner)
            on_centred = torch.bmm(self.whitening.transpose(1, 2), on_white)
            if has_inner:
                on_centred += grad
            return pairs.collect(on_centred / scales, len(x)).T, *own

        return log_prob, backward

    def log_prob_of_all(self, x: Tensor) -> Tensor:
        """Return the log-density of every component at every row.

        Parameters
        ----------
        x : Tensor of shape (N, D)
            Standardised rows.

        Returns
        -------
        log_prob : Tensor of shape (N, K)
            log p(x|k), in nats.
        """
        keeps_all = x.is_cuda or torch.is_grad_enabled() or len(x) <= FEW_ROWS
        if self.base is None or keeps_all:
            return self.log_prob(x, AllPairs(self.n_components)).T
        inside, log_prob = self._of_base(x)
        capacity = int(inside.sum(1).max())
        if capacity > SPARSE_SHARE * len(x):
            return self.log_prob(x, AllPairs(self.n_components)).T
        if capacity:
            support = Support(inside.T, capacity)
            entries = self.log_prob(x, support)
            log_prob.mul_(~inside).add_(support.scatter(entries, len(x)))
        return log_prob.T

    def log_prob_bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Components`; they are equal outside the ball, where no flow acts.

        Inside, the share of the base distribution is a lower bound.
        """
        if self.base is None:
            log_prob = self.log_prob_of_all(x)
            return log_prob, log_prob
        inside, log_prob = self._of_base(x)
        lower = log_prob + LOG_BASE_SHARE * inside
        return lower.T, log_prob.masked_fill(inside, math.inf).T

    def _of_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether rows are in the balls, and log-densities without flows."""
        assert self.base is not None
        r = self._mahalanobis(x)
        log_prob = self.base.log_prob(r)[0].squeeze(1)
        log_prob += self.log_constant.unsqueeze(1)
        return (r < self._ball().radius).squeeze(1), log_prob

    def gaussian_log_prob(self, x: Tensor) -> Tensor | None:
        """Return log-densities (K, N) of the Gaussians, or None if q needs none.

        q needs them if components are small relative to the data, since a network of
        standardised rows cannot resolve their borders, if there are many columns, from
        which it learns little, or many flows.
        """
        if not self.guides_posterior:
            return None
        r = self._mahalanobis(x).squeeze(1)
        return self.log_constant.unsqueeze(1) - 0.5 * r.square()

    def _mahalanobis(self, x: Tensor) -> Tensor:
        """Return the Mahalanobis distances of rows to components: (K, 1, N)."""
        centred = x.T.sub(self.means.unsqueeze(2)).div_(self.scales.unsqueeze(2))
        return norm(torch.bmm(self.whitening, centred))

    def sample(self, component: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one standardised row from each of the given components.

        Parameters
        ----------
        component : Tensor of shape (N,), int64
            Component of every row.
        generator : torch.Generator
            Source of the draws. A CPU generator draws the same for every device.

        Returns
        -------
        x : Tensor of shape (N, D)
            The rows.
        """
        present, local = component.unique(return_inverse=True)
        inner, outer = self.inner, self.outer
        if len(present) < self.n_components:
            inner, outer = inner.select(present), outer.select(present)
        support = Support(nn.functional.one_hot(local, len(present)).bool())
        z = torch.randn(
            *support.rows.shape,
            self.n_features,
            generator=generator,
            dtype=self.means.dtype,
            device=generator.device,
        ).to(self.means.device)
        means, scales = (
            values[present].unsqueeze(1) for values in (self.means, self.scales)
        )
        unwhitening = self.unwhitening[present].transpose(1, 2)
        white = z
        if self.base is not None:
            ball = self._ball(present)
            t = z.norm(dim=2, keepdim=True).clamp(min=TINY)
            r = self.base.radius(t)
            of_flows = torch.rand(r.shape, generator=generator, dtype=r.dtype).to(r)
            stretch = ball.stretch(r)
            stays = ball.log_share_of_base(stretch.left)[0].exp()
            inside = (r < ball.radius) & (of_flows >= stays)
            rho = stretch.radius
            moved = z * torch.where(inside, rho / t, 0.0)
            moved = self.shared.inverse(moved.flatten(0, 1).unsqueeze(0)).view_as(z)
            moved = outer.inverse(moved)
            scaled = inner.inverse(torch.bmm(moved, unwhitening))
            y = torch.addcmul(means, scaled, scales).flatten(0, 1)
            y = self.common.inverse(y.unsqueeze(0)).view_as(z)
            moved = torch.bmm((y - means) / scales, self.whitening[present].mT)
            rho = moved.norm(dim=2, keepdim=True).clamp(min=TINY)
            white = moved * (ball.shrink(rho).radius / rho)
            white = torch.where(inside, white, z * (r / t))
        points = torch.addcmul(means, torch.bmm(white, unwhitening), scales)
        x = points.new_empty(len(component), self.n_features)
        x[support.rows[support.valid]] = points[support.valid]
        return x

    def select_(self, index: Tensor) -> None:
        """See `Components`."""
        self.n_components = len(index)
        self.inner, self.outer = self.inner.select(index), self.outer.select(index)
        for name in WHITENING:
            setattr(self, name, getattr(self, name)[index])
