"""Evaluation of flows that act within a ball, with hand-written gradients."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skflowmix.model.tails import BASE_SHARE, LOG_BASE_SHARE, Ball, RadialBase, norm

__all__ = ["TINY", "InBall"]

# Lower bound of radii that are divisors.
TINY = 1e-30

# Added to the log-density of flows outside the ball, which has no probability there:
# an infinity would make products with zero undefined.
OUTSIDE = -1e30


class InBall:
    """Whitened rows passed through flows that act within a ball.

    Masks are numbers, zero or one: products with them take a fraction of the time of
    `torch.where`. Derivatives are only computed in the backward.

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
        # On a GPU this test would require a synchronisation.
        self.all_in_core = not white.is_cuda and bool((self.r <= ball.core).all())
        if not self.all_in_core:
            self.inside = (ball.radius - self.r).sign_().clamp_(min=0)
            self.stretch = ball.stretch(self.r)
            # In the core it is exactly one.
            self.factor = self.stretch.radius.clamp(min=TINY)
            self.factor.div_(self.r.clamp(min=TINY)).mul_(self.inside)
            self.moved = white * self.factor

    def scaled(self, centred: Tensor) -> Tensor:
        """Return stretched centred rows, with those outside the ball set to zero."""
        if self.base is None or self.all_in_core:
            return centred
        shift = torch.bmm(self.unwhitening, self.moved - self.white)
        return shift.add_(centred).mul_(self.inside)

    def log_prob(
        self, z: Tensor, log_slopes: list[Tensor], trains: bool
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """Return log-densities (K, 1, N) of z, up to a constant, and their backward.

        The backward returns gradients of z and of the log-slopes; see `backward` for
        that of the radius of the whitened rows. If the model `trains`, they are those
        of `MixtureModule.training_log_prob`.
        """
        log_slope = _sum_over_columns(log_slopes)
        if self.base is None:
            log_prob = z.square().sum(1, keepdim=True).mul_(-0.5).add_(log_slope)
            return log_prob, lambda grad: (-grad * z, grad)
        rho = norm(z)
        # Most batches stay in the core, which is not shrunk.
        shrunk = None
        if z.is_cuda or not bool((rho <= self.ball.core).all()):
            shrunk = self.ball.shrink(rho)
            log_share, slope_of_share = self.ball.log_share_of_flows(shrunk.left)
            log_prob, slope_of_base = self.base.log_prob(shrunk.radius)
            log_prob.add_(shrunk.log_det).add_(log_share)
        else:
            log_prob, slope_of_base = self.base.log_prob(rho)
            log_prob += math.log1p(-BASE_SHARE)
        log_prob += log_slope
        of_base, self.slope_without_flows = self.base.log_prob(self.r)
        if self.all_in_core:
            of_base += LOG_BASE_SHARE
        else:
            share_of_base = self.ball.log_share_of_base(self.stretch.left)
            log_share_of_base, self.slope_of_share = share_of_base
            of_base.addcmul_(log_share_of_base, self.inside)
            log_prob += self.stretch.log_det
            log_prob.add_(1 - self.inside, alpha=OUTSIDE)
        both = torch.logaddexp(log_prob, of_base)
        of_flows = (log_prob - both).exp_()
        if trains and self.all_in_core:
            of_flows.clamp_(min=1 - BASE_SHARE)
        elif trains:
            least = log_share_of_base.expm1().neg_().mul_(self.inside)
            of_flows = torch.maximum(of_flows, least)
        self.of_flows = of_flows

        def backward(grad: Tensor) -> tuple[Tensor, Tensor]:
            within = (grad * of_flows).contiguous()
            slope = slope_of_base()
            if shrunk is not None:
                radius_slope, log_det_slope = shrunk.slopes()
                slope.add_(slope_of_share()).mul_(radius_slope).add_(log_det_slope)
            slope.mul_(within).div_(rho.clamp(min=TINY))
            return z * slope, within

        return both, backward

    def backward(self, grad_log: Tensor, grad: Tensor, shifted: bool) -> Tensor:
        """Return the gradient of the whitened rows.

        `grad_log` is the gradient of the log-densities, and `grad` that of the moved
        rows or, if `shifted`, of the rows that `scaled` returned, without their direct
        dependence on the centred rows.
        """
        if self.base is None:
            return grad
        within = grad_log * self.of_flows
        on_radius = self.slope_without_flows()
        direction = self.white / self.r.clamp(min=TINY)
        if self.all_in_core:
            on_white = direction * on_radius.mul_(grad_log - within)
            return on_white if shifted else on_white + grad
        slope, log_det_slope = self.stretch.slopes()
        on_radius.addcmul_(self.slope_of_share(), self.inside)
        on_radius.mul_(grad_log - within)
        on_radius.addcmul_(within, log_det_slope)
        on_moved = grad
        if shifted:
            on_moved = torch.bmm(self.unwhitening.transpose(1, 2), grad)
        along = (on_moved * direction).sum(1, keepdim=True)
        turn = slope.mul_(self.inside).sub_(self.factor)
        on_white = on_moved * self.factor
        on_white.addcmul_(direction, along.mul_(turn).add_(on_radius))
        return on_white - on_moved if shifted else on_white


def _sum_over_columns(parts: list[Tensor]) -> Tensor | float:
    """Return the sum (K, 1, N) of tensors (K, D, N) over D; those of equal D first."""
    sums: dict[int, Tensor] = {}
    for part in parts:
        n_columns = part.shape[1]
        sums[n_columns] = sums[n_columns] + part if n_columns in sums else part
    return sum(part.sum(1, keepdim=True) for part in sums.values())
