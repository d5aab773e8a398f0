"""Radial maps: a base distribution with heavy tails, a ball within which flows act."""

import math
from collections.abc import Callable
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

    def log_prob(self, r: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return the log-density at radius r, relative to the normal's at 0, and slope.

        Parameters
        ----------
        r : Tensor
            Radii.

        Returns
        -------
        log_prob : Tensor shaped as r
            In nats.
        slope : callable
            Returns the derivative with respect to r.
        """
        others = self.n_features - 1
        # The bound where r is less: all terms of the tail then are exactly zero.
        outer = r.clamp(min=self.bound)
        excess = (outer - self.bound).div_(self.scale)
        log_stretch = excess.log1p()
        t = torch.add(r.clamp(max=self.bound), log_stretch, alpha=self.scale)
        outer_t = t.clamp(min=self.bound)
        log_prob = t.square().mul_(-0.5).sub_(log_stretch)
        if others:
            log_prob.add_((outer_t / outer).log_(), alpha=others)

        def slope() -> Tensor:
            rate = (1 + excess).reciprocal_()
            change = torch.add(t, excess.sign(), alpha=1 / self.scale)
            change.mul_(rate).neg_()
            if others:
                of_log = (rate / outer_t).sub_(outer.reciprocal())
                change.add_(of_log, alpha=others)
            return change

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
    """A radial map at given radii: new radii and log-determinant.

    `left` is the remaining fraction of the shell between core and surface of the ball,
    from 1 in the core to 0 at the surface. `slopes` returns the derivatives of radius
    and log-determinant.
    """

    radius: Tensor
    log_det: Tensor
    left: Tensor
    slopes: Callable[[], tuple[Tensor, Tensor]]


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
        self.width = radius - self.core

    def stretch(self, r: Tensor) -> Stretch:
        """Map radii inside the ball to all radii.

        Parameters
        ----------
        r : Tensor
            Radii; those beyond the ball are treated as just inside.

        Returns
        -------
        stretch : Stretch
            The new radii, and the log-determinant of the map of vectors.
        """
        least = 8 * torch.finfo(r.dtype).eps * self.radius
        excess = (r - self.core).clamp_(min=0)
        left = (self.width - excess).clamp_(min=least)
        excess = self.width - left
        share_left = left / self.width
        growth = share_left.reciprocal()
        grown = excess * growth
        inside, outside = self.core + excess, self.core + grown
        log_det = self._log_det(growth, outside / inside)

        def slopes() -> tuple[Tensor, Tensor]:
            slope = growth.square()
            change = left.reciprocal().mul_(2)
            if self.n_features > 1:
                change.add_(slope / outside, alpha=self.n_features - 1)
                change.sub_(inside.reciprocal(), alpha=self.n_features - 1)
            return slope, change.mul_(excess.sign())

        return Stretch(r.clamp(max=self.core) + grown, log_det, share_left, slopes)

    def shrink(self, rho: Tensor) -> Stretch:
        """Map radii into the ball, the inverse of `stretch`.

        Parameters
        ----------
        rho : Tensor
            Radii.

        Returns
        -------
        shrunk : Stretch
            Radii inside the ball, and the log-determinant of the inverse map.
        """
        excess = (rho - self.core).clamp_(min=0)
        grown_width = self.width + excess
        share = self.width / grown_width
        # Not excess * share, which can round to the radius.
        shrunk = self.width * (1 - share)
        inside, outside = self.core + shrunk, self.core + excess
        log_det = self._log_det(share, inside / outside)

        def slopes() -> tuple[Tensor, Tensor]:
            slope = share.square()
            change = grown_width.reciprocal().mul_(-2)
            if self.n_features > 1:
                change.add_(slope / inside, alpha=self.n_features - 1)
                change.sub_(outside.reciprocal(), alpha=self.n_features - 1)
            return slope, change.mul_(excess.sign())

        return Stretch(rho.clamp(max=self.core) + shrunk, log_det, share, slopes)

    def _log_det(self, root_slope: Tensor, ratio: Tensor) -> Tensor:
        """Return the log-determinant of a radial map whose slope is a square.

        `ratio` is that of the new to the old radii; it stretches all other directions.
        """
        log_det = root_slope.log().mul_(2)
        return log_det.add_(ratio.log(), alpha=self.n_features - 1)

    def log_share_of_base(self, left: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return the log-share of draws that bypass the flows, and its slope.

        Parameters
        ----------
        left : Tensor
            See `Stretch`.

        Returns
        -------
        log_share : Tensor shaped as left
            In nats.
        slope : callable
            Returns the derivative with respect to r.
        """

        def slope() -> Tensor:
            return (1 - left).sign_().mul_(-LOG_BASE_SHARE / self.width)

        return LOG_BASE_SHARE * left, slope

    def log_share_of_flows(self, left: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return the log-share of draws that go through the flows, and its slope."""
        share_of_base, slope_of_base = self.log_share_of_base(left)
        share = -torch.expm1(share_of_base)

        def slope() -> Tensor:
            return slope_of_base().mul_(1 - share.reciprocal())

        return share.log(), slope
