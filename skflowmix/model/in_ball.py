"""Evaluation of flows that act within a ball, with hand-written gradients."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skflowmix.model.tails import BASE_SHARE, LOG_BASE_SHARE, Ball, RadialBase, norm

__all__ = ["TINY", "InBall"]

# Lower bound of radii that are divisors.
TINY = 1e-30


class InBall:
    """Whitened rows passed through flows that act within a ball.

    Parameters
    ----------
    white : Tensor of shape (K, D, N)
        The rows.
    unwhitening : Tensor of shape (K, D, D)
        Inverse of the whitening, back to scaled columns.
    base : RadialBase or None
        The base distribution; None, without transforms, is the standard normal.
    ball : Ball or None
        The balls of the components; None without transforms.
    """

    def __init__(
        self,
        white: Tensor,
        unwhitening: Tensor,
        base: RadialBase | None,
        ball: Ball | None,
    ):
        self.white, self.unwhitening, self.base = white, unwhitening, base
        self.moved = white
        self.all_in_core = True
        if ball is None:
            return
        self.ball = ball
        self.r = norm(white)
        self.inside = self.r < self.ball.radius
        # On a GPU this test would require a synchronisation.
        self.all_in_core = not white.is_cuda and bool((self.r <= self.ball.core).all())
        if not self.all_in_core:
            self.stretch = self.ball.stretch(self.r)
            beyond = self.r > self.ball.core
            self.factor = torch.where(beyond, self.stretch.radius / self.r, 1.0)
            self.moved = torch.where(self.inside, white * self.factor, 0.0)

    def scaled(self, centred: Tensor) -> Tensor:
        """Return stretched centred rows, with those outside the ball set to zero."""
        if self.base is None or self.all_in_core:
            return centred
        shift = torch.bmm(self.unwhitening, self.moved - self.white)
        return torch.where(self.inside, centred + shift, 0.0)

    def log_prob(
        self, z: Tensor, log_slopes: list[Tensor], trains: bool
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
        """Return log-densities (K, 1, N) of z, up to a constant, and their backward.

        The backward returns gradients of z, of the log-slopes, and of the radius of the
        whitened rows. If the model `trains`, they are those of
        `MixtureModule.training_log_prob`.
        """
        parts = [part.sum(1, keepdim=True) for part in log_slopes]
        if self.base is None:
            log_prob = z.square().sum(1, keepdim=True).mul_(-0.5)
            for part in parts:
                log_prob += part
            return log_prob, lambda grad: (-grad * z, grad, grad)
        rho = norm(z)
        # Most batches stay in the core, which is not shrunk.
        shrinks = z.is_cuda or not bool((rho <= self.ball.core).all())
        if shrinks:
            shrunk = self.ball.shrink(rho)
            log_prob, slope = self.base.log_prob(shrunk.radius)
            log_share, growth = self.ball.log_share_of_flows(shrunk.left)
            log_prob += shrunk.log_det + log_share
            slope = (slope + growth) * shrunk.slope + shrunk.log_det_slope
        else:
            log_prob, slope = self.base.log_prob(rho)
            log_prob += math.log1p(-BASE_SHARE)
        for part in parts:
            log_prob += part
        of_base, slope_of_base = self.base.log_prob(self.r)
        if self.all_in_core:
            of_base += LOG_BASE_SHARE
        else:
            log_share, growth = self.ball.log_share_of_base(self.stretch.left)
            of_base += torch.where(self.inside, log_share, 0.0)
            slope_of_base += torch.where(self.inside, growth, 0.0)
            log_prob += self.stretch.log_det
            log_prob = torch.where(self.inside, log_prob, -math.inf)
        both = torch.logaddexp(log_prob, of_base)
        of_flows = (log_prob - both).exp()
        if trains and self.all_in_core:
            of_flows.clamp_(min=1 - BASE_SHARE)
        elif trains:
            least = torch.where(self.inside, -log_share.expm1(), 0.0)
            of_flows = torch.maximum(of_flows, least)

        def backward(grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            within = grad * of_flows
            on_radius = (grad - within) * slope_of_base
            if not self.all_in_core:
                on_radius += within * self.stretch.log_det_slope
            on_z = z * (within * slope / rho.clamp(min=TINY))
            return on_z, within.contiguous(), on_radius

        return both, backward

    def backward(self, grad: Tensor, on_radius: Tensor, shifted: bool) -> Tensor:
        """Return the gradient of the whitened rows.

        `grad` is the gradient of the moved rows or, if `shifted`, of the rows that
        `scaled` returned, without their direct dependence on the centred rows.
        """
        if self.base is None:
            return grad
        direction = self.white / self.r.clamp(min=TINY)
        if self.all_in_core:
            on_white = direction * on_radius
            return on_white if shifted else on_white + grad
        on_moved = grad
        if shifted:
            on_moved = torch.bmm(self.unwhitening.transpose(1, 2), grad)
        along = (on_moved * direction).sum(1, keepdim=True)
        on_white = on_moved * self.factor
        on_white += direction * (along * (self.stretch.slope - self.factor))
        on_white = torch.where(self.inside, on_white, 0.0)
        on_white += direction * on_radius
        return on_white - on_moved if shifted else on_white
