"""Radial maps: a base distribution with heavy tails, a ball within which flows act."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Ball", "RadialBase", "Stretch", "ball_radius", "norm"]

# The tail of the base distribution begins at sqrt(D) + this, beyond which a standard
# normal has three rows in a thousand.
NORMAL_ROOM = 2.0

# Largest radius of the ball in which flows act, a Mahalanobis distance: the larger of
# RADIUS and RADIUS_PER_ROOT * sqrt(D). The stretch leaves rows up to CORE_SHARE of the
# radius, the core, where they are.
RADIUS = 10.0
RADIUS_PER_ROOT = 2.5
CORE_SHARE = 0.75

# Share of a component, in the core, that does not go through its flow.
BASE_SHARE = 0.01
LOG_BASE_SHARE = math.log(BASE_SHARE)

# Scale of the base distribution's tail, in standard deviations:
# TAIL_SCALE_TIMES_COLUMNS / D, clipped to TAIL_SCALES; smaller means a heavier tail. A
# radial density falls faster with more columns. In two columns, with the scale for ten,
# weights and sizes of components, not distances, determined which component a remote
# region was assigned to.
TAIL_SCALE_TIMES_COLUMNS = 3.0
TAIL_SCALES = (0.3, 1.5)


def norm(x: Tensor) -> Tensor:
    """Return lengths (K, 1, N) of x (K, D, N), clipped so that squares are finite."""
    largest = math.sqrt(torch.finfo(x.dtype).max) / 2 / math.sqrt(x.shape[1])
    # `torch.linalg.vector_norm` along strided columns takes 20 to 80 times as long.
    return x.clamp(-largest, largest).square_().sum(1, keepdim=True).sqrt_()


class RadialBase:
    r"""A normal distribution in D dimensions whose radius has a logarithmic tail.

    The density of :math:`z` is that of :math:`z \, t(r) / r` under the standard normal,
    times the Jacobian determinant, where :math:`r = |z|` and

    .. math:: t(r) = r, \quad r \le b; \qquad
        t(r) = b + s \log(1 + (r - b) / s), \quad r > b.

    It is continuous and a decreasing function of r alone, so that its contours are
    spheres. A row at 80 standard deviations costs tens of nats instead of 3200.

    Parameters
    ----------
    n_features : int
        D. The tail begins at :math:`b = \sqrt{D} + 2`, beyond which the normal has
        about three rows in a thousand; its scale s is 3 / D, clipped to [0.3, 1.5].
    """

    def __init__(self, n_features: int):
        self.n_features = n_features
        self.bound = math.sqrt(n_features) + NORMAL_ROOM
        self.scale = float(np.clip(TAIL_SCALE_TIMES_COLUMNS / n_features, *TAIL_SCALES))

    def log_prob(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-density at radius r, relative to the normal's at 0, and slope.

        Parameters
        ----------
        r : Tensor
            Radii.

        Returns
        -------
        log_prob, slope : Tensor shaped as r
            In nats; the slope is the derivative with respect to r.
        """
        others = self.n_features - 1
        excess = (r - self.bound).clamp_(min=0).div_(self.scale)
        log_stretch = excess.log1p()
        t = r.clamp(max=self.bound) + self.scale * log_stretch
        beyond = excess > 0
        rate = (1 + excess).reciprocal_()
        log_prob = t.square().mul_(-0.5).sub_(log_stretch)
        slope = -t * rate - torch.where(beyond, rate / self.scale, 0)
        if others:
            # Both terms are zero inside the bound, and undefined at radius zero.
            safe = r.clamp(min=self.bound)
            t_safe = t.clamp(min=self.bound)
            log_prob += others * (t_safe.log() - safe.log())
            change = rate / t_safe - safe.reciprocal()
            slope += others * torch.where(beyond, change, 0)
        return log_prob, slope

    def radius(self, t: Tensor) -> Tensor:
        """Return the radius r whose t(r) is t, the radius of a normal draw."""
        largest = math.log(torch.finfo(t.dtype).max) / 2  # headroom to unwhiten
        excess = (t - self.bound).div_(self.scale).clamp_(0, largest)
        return t.clamp(max=self.bound) + self.scale * excess.expm1_()


def ball_radius(n_features: int, reach: np.ndarray) -> np.ndarray:
    r"""Return the radius of each component's ball, given the reach of its rows.

    Parameters
    ----------
    n_features : int
        D.
    reach : ndarray
        Largest Mahalanobis distance of a row of each component.

    Returns
    -------
    radius : ndarray
        Large enough that the core contains the component's rows, and the base
        distribution up to the beginning of its tail; at most 10, or
        :math:`2.5 \sqrt D` if that is more (D > 16).
    """
    root = math.sqrt(n_features)
    largest = max(RADIUS, RADIUS_PER_ROOT * root)
    return np.clip(reach, root + NORMAL_ROOM, CORE_SHARE * largest) / CORE_SHARE


class Stretch(NamedTuple):
    """A radial map at given radii: new radii and log-determinant, with their slopes.

    `left` is the remaining fraction of the shell between core and surface of the ball,
    from 1 in the core to 0 at the surface.
    """

    radius: Tensor
    slope: Tensor
    log_det: Tensor
    log_det_slope: Tensor
    left: Tensor


class Ball:
    r"""A ball in D dimensions, stretched so that it fills the space.

    .. math::

        \rho(r) = r, \quad r \le c; \qquad
        \rho(r) = c + \frac{(R - c)(r - c)}{R - r}, \quad c < r < R.

    With :math:`\varphi(u) = u \rho(|u|) / |u|`, any bijection f of the space gives a
    bijection :math:`\varphi^{-1} \circ f \circ \varphi` of the ball, continued by the
    identity outside. Flows thus shape a component within :math:`|u| < R` only; beyond,
    it has the contours of its Gaussian.

    Not all draws from the base distribution go through the flows. Of the draws at
    radius r, the share

    .. math:: s(r) = 0.01^{\min(1, (R - r) / (R - c))}

    is left unchanged, so that the density at the surface is that of the base. The share
    rises towards the surface no faster than the base falls, roughly: otherwise rings of
    a wide component that its flow has left empty would be assigned to other components.

    Parameters
    ----------
    n_features : int
        D.
    radius : Tensor of shape (K, 1, 1)
        R of every component. The map leaves the core, of radius c = 0.75 R, unchanged.
    """

    def __init__(self, n_features: int, radius: Tensor):
        self.n_features = n_features
        self.radius = radius
        self.core = CORE_SHARE * radius

    def stretch(self, r: Tensor) -> Stretch:
        """Map radii inside the ball to all radii.

        Parameters
        ----------
        r : Tensor
            Radii; those beyond the ball are treated as just inside.

        Returns
        -------
        stretch : Stretch
            The new radii, their derivative, the log-determinant of the map of vectors,
            and its derivative.
        """
        width = self.radius - self.core
        least = 8 * torch.finfo(r.dtype).eps * self.radius
        excess = (r - self.core).clamp_(min=0)
        left = (width - excess).clamp_(min=least)
        beyond = (excess > 0).to(r)
        excess = width - left
        share_left = left / width
        growth = share_left.reciprocal()
        core = r.clamp(max=self.core)
        rho = core + excess * growth
        slope = growth.square()
        log_det = 2 * growth.log()
        log_det_slope = 2 / left
        if self.n_features > 1:
            inside = (core + excess).clamp(min=self.core)
            outside = rho.clamp(min=self.core)
            others = self.n_features - 1
            log_det = log_det + others * (outside / inside).log()
            log_det_slope = log_det_slope + others * (slope / outside - 1 / inside)
        return Stretch(rho, slope, log_det, log_det_slope * beyond, share_left)

    def shrink(self, rho: Tensor) -> Stretch:
        """Map radii into the ball, the inverse of `stretch`.

        Parameters
        ----------
        rho : Tensor
            Radii.

        Returns
        -------
        shrunk : Stretch
            Radii inside the ball, the log-determinant of the inverse map, and the
            derivatives of both with respect to rho.
        """
        width = self.radius - self.core
        excess = (rho - self.core).clamp_(min=0)
        beyond = (excess > 0).to(rho)
        share = width / (width + excess)
        # Not excess * share, which can round to the radius.
        r = rho.clamp(max=self.core) + width * (1 - share)
        slope = share.square()
        log_det = 2 * share.log()
        log_det_slope = -2 / (width + excess)
        if self.n_features > 1:
            outside, inside = (radius.clamp(min=self.core) for radius in (rho, r))
            others = self.n_features - 1
            log_det = log_det + others * (inside / outside).log()
            log_det_slope = log_det_slope + others * (slope / inside - 1 / outside)
        return Stretch(r, slope, log_det, log_det_slope * beyond, share)

    def log_share_of_base(self, left: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-share of draws that bypass the flows, and its slope over r.

        Parameters
        ----------
        left : Tensor
            See `Stretch`.

        Returns
        -------
        log_share, slope : Tensor shaped as left
            In nats.
        """
        growth = -LOG_BASE_SHARE / (self.radius - self.core)
        return LOG_BASE_SHARE * left, torch.where(left < 1, growth, 0.0)

    def log_share_of_flows(self, left: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-share of draws that go through the flows, and its slope."""
        share_of_base, growth = self.log_share_of_base(left)
        share = -torch.expm1(share_of_base)
        return share.log(), growth * (1 - share.reciprocal())
