"""Element-wise monotone maps whose parameters come from a conditioner."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from skflowmix.model.nn import Recorded

__all__ = ["Affine", "AutogradMap", "ElementwiseMap", "RationalQuadraticSpline"]

ONE = torch.ones((), dtype=torch.float32)

# Maps gradients of the value and of the log-slope to those of x and of the parameters.
# The gradient of the log-slope only has to broadcast to its shape.
MapBackward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class ElementwiseMap(Protocol):
    """What a flow family needs from an element-wise map.

    Points have shape (..., N) and their parameters (..., n_parameters, N). Zero
    parameters give the identity.
    """

    n_parameters: int

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value and the log-slope, both shaped as x."""
        ...

    def record(
        self, x: Tensor, parameters: Tensor
    ) -> tuple[Tensor, Tensor, MapBackward]:
        """Return the outputs of `forward`, without autograd, and their backward."""
        ...

    def inverse(self, z: Tensor, parameters: Tensor) -> Tensor:
        """Return the x whose value is z."""
        ...


class AutogradMap(ABC):
    """Base class of element-wise maps that define only `forward` and `inverse`.

    The backward is autograd's, which is slower than a hand-written one. See
    `ElementwiseMap` for the two methods and `n_parameters`; `forward` must consist of
    torch operations that change nothing in place.

    Examples
    --------
    >>> class Shift(AutogradMap):
    ...     n_parameters = 1
    ...     def forward(self, x, parameters):
    ...         return x + parameters[..., 0, :], torch.zeros_like(x)
    ...     def inverse(self, z, parameters):
    ...         return z - parameters[..., 0, :]
    """

    n_parameters: int

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value and the log-slope, both shaped as x."""

    @abstractmethod
    def inverse(self, z: Tensor, parameters: Tensor) -> Tensor:
        """Return the x whose value is z."""

    def record(
        self, x: Tensor, parameters: Tensor
    ) -> tuple[Tensor, Tensor, MapBackward]:
        """Return the outputs of `forward`, without autograd, and their backward."""
        if torch.is_inference_mode_enabled():
            return *self.forward(x, parameters), _no_backward
        inputs = [t.detach().requires_grad_() for t in (x, parameters)]
        with torch.enable_grad():
            outputs = self.forward(*inputs)

        def backward(grad_value: Tensor, grad_log: Tensor) -> tuple[Tensor, Tensor]:
            on_x, on_parameters = torch.autograd.grad(
                outputs,
                inputs,
                (grad_value, grad_log.expand_as(outputs[1])),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            return on_x, on_parameters

        value, log_slope = outputs
        return value.detach(), log_slope.detach(), backward


def _no_backward(grad_value: Tensor, grad_log: Tensor) -> NoReturn:
    raise RuntimeError("Nothing is recorded in inference mode.")


class Affine:
    r"""The map :math:`z = x e^s + t` with bounded :math:`s`.

    .. math:: s = \frac{a}{1 + |a / \log \epsilon|}

    so that the slope lies in :math:`(\epsilon, 1 / \epsilon)`, as in zuko.

    Parameters
    ----------
    min_slope : float, default=1e-3
        Lower bound :math:`\epsilon` of the slope.
    """

    n_parameters = 2

    def __init__(self, min_slope: float = 1e-3):
        self.min_slope = min_slope

    def _denominator(self, raw: Tensor) -> Tensor:
        return torch.add(ONE, raw.abs(), alpha=-1 / math.log(self.min_slope))

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value and the log-slope, both shaped as x."""
        return Recorded.apply(self.record, x, parameters)

    def record(
        self, x: Tensor, parameters: Tensor
    ) -> tuple[Tensor, Tensor, MapBackward]:
        """Return the outputs of `forward`, without autograd, and their backward."""
        shift, raw = parameters.unbind(-2)
        denominator = self._denominator(raw)
        log_slope = raw / denominator
        slope = log_slope.exp()

        def backward(grad_value: Tensor, grad_log: Tensor) -> tuple[Tensor, Tensor]:
            on_x = grad_value * slope
            on_raw = torch.addcmul(grad_log, on_x, x)
            on_raw.div_(denominator).div_(denominator)
            return on_x, torch.stack((grad_value, on_raw), -2)

        return torch.addcmul(shift, x, slope), log_slope, backward

    def inverse(self, z: Tensor, parameters: Tensor) -> Tensor:
        """Return the x whose value is z."""
        shift, raw = parameters.unbind(-2)
        return (z - shift) * (raw / self._denominator(raw)).neg_().exp_()


class RationalQuadraticSpline:
    """Monotone rational-quadratic spline on ``[-bound, bound]``, identity outside.

    The parameters of one map are ``n_bins`` widths, ``n_bins`` heights and
    ``n_bins - 1`` inner slopes, unconstrained: widths and heights pass through a
    soft clip and a softmax, slopes through a soft clip and ``exp``, as in zuko.

    Parameters
    ----------
    n_bins : int, default=8
        Number of bins.
    bound : float, default=5.0
        Half the width of the interval on which the spline acts.
    min_slope : float, default=1e-3
        Lower bound of the slopes at the knots and of the ratios between bin widths; its
        reciprocal is the upper bound.

    References
    ----------
    C. Durkan, A. Bekasov, I. Murray and G. Papamakarios, Neural Spline Flows,
    NeurIPS 2019, equations 4-8 and appendix A.
    """

    def __init__(self, n_bins: int = 8, bound: float = 5.0, min_slope: float = 1e-3):
        self.n_bins = n_bins
        self.bound = bound
        self.min_slope = min_slope
        self.n_parameters = 3 * n_bins - 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value and the log-slope, both shaped as x."""
        return Recorded.apply(self.record, x, parameters)

    def record(
        self, x: Tensor, parameters: Tensor
    ) -> tuple[Tensor, Tensor, MapBackward]:
        """Return the outputs of `forward`, without autograd, and their backward."""
        flat, segment = self._segment(x, parameters, 0)
        inside = segment.inside
        value, log_slope = segment.forward(flat)

        def backward(grad_value: Tensor, grad_log: Tensor) -> tuple[Tensor, Tensor]:
            grad_value = grad_value.reshape(flat.shape)
            grad_log = grad_log.expand(x.shape).reshape(flat.shape)
            on_x, on_raw = segment.backward(grad_value * inside, grad_log * inside)
            on_x = torch.lerp(grad_value, on_x, inside)
            return on_x.view(x.shape), on_raw.view(parameters.shape)

        value = torch.lerp(flat, value, inside).view(x.shape)
        return value, log_slope.mul_(inside).view(x.shape), backward

    def inverse(self, z: Tensor, parameters: Tensor) -> Tensor:
        """Return the x whose value is z."""
        flat, segment = self._segment(z, parameters, 1)
        return torch.lerp(flat, segment.inverse(flat), segment.inside).view(z.shape)

    def _segment(
        self, point: Tensor, parameters: Tensor, side: int
    ) -> tuple[Tensor, "_Segment"]:
        """Return the points as (M, N), and the bins that contain them."""
        n_points = point.shape[-1]
        flat = point.reshape(-1, n_points)
        raw = parameters.reshape(-1, self.n_parameters, n_points)
        return flat, _Segment(self, raw, flat, side)


class _Segment:
    """The bins that contain the points of M x N splines, one point per spline.

    ``side`` tells whether the points are values of x (0) or of z (1). Arrays named
    ``sizes`` and ``ends`` are (M, 2, n_bins, N), widths then heights, before
    normalisation; pairs for widths and heights, or for the left and right knots, are
    (M, 2, N); everything else is (M, N).

    The cost of small splines is governed by the number of operations, and a Python
    scalar adds one: hence `ONE`, and factors passed as ``alpha`` and ``value``.
    """

    def __init__(
        self, spline: RationalQuadraticSpline, raw: Tensor, point: Tensor, side: int
    ):
        n_bins, bound = spline.n_bins, spline.bound
        self.spline, self.raw = spline, raw
        clip = -math.log(spline.min_slope)
        sides = raw[:, : 2 * n_bins].view(len(raw), 2, n_bins, -1)
        # The soft clip bounds the exponent, so the softmax need not subtract a maximum.
        self.damping = torch.add(ONE, sides.abs(), alpha=2 / clip).reciprocal_()
        self.sizes = (sides * self.damping).exp_()
        ends = self._cumulate(self.sizes, raw.new_ones(n_bins, n_bins).tril_())
        self.total = ends[:, :, -1]
        self.per_size = 2 * bound / self.total
        self.inside = (bound - point.abs()).sign_().clamp_(min=0)
        position = (point + bound).div_(self.per_size[:, side])
        # In floating point: much faster than a comparison that returns booleans.
        passed = ends[:, side, :-1].clone().le_(position.unsqueeze(1))
        current = passed.sum(1, keepdim=True)
        self.bin = current.long().unsqueeze(1).expand(-1, 2, -1, -1)
        size = self.sizes.gather(2, self.bin).squeeze(2)
        end = ends.gather(2, self.bin).squeeze(2)
        self.lengths = size * self.per_size
        self.offsets = end.sub_(size).mul_(self.per_size)
        self.width, self.height = self.lengths.unbind(1)
        self.x0, self.z0 = (self.offsets - bound).unbind(1)
        # Slopes are free at the inner knots 0..n_bins-2, and one at the two ends.
        knots = torch.cat((current - 1, current), 1)
        columns = knots.clamp(0, n_bins - 2)
        inner = 1 - (knots - columns).abs_()
        self.columns = columns.add_(2 * n_bins).long()
        slopes = raw.gather(1, self.columns)
        damping = torch.add(ONE, slopes.abs(), alpha=1 / clip).reciprocal_()
        self.slope_damping = damping.mul_(inner)
        self.slopes = slopes.mul_(self.slope_damping).exp_()
        self.slope0, self.slope1 = self.slopes.unbind(1)
        self.secant = self.height / self.width
        self.bend = torch.add(self.slope0, self.slope1).sub_(self.secant, alpha=2)

    @staticmethod
    def _cumulate(sizes: Tensor, triangle: Tensor) -> Tensor:
        """Cumulate over bins by a matrix product, which is faster than `cumsum`."""
        n_splines, n_sides, _, n_points = sizes.shape
        flat = sizes.flatten(0, 1)
        sums = torch.bmm(triangle.expand(len(flat), -1, -1), flat)
        return sums.view(n_splines, n_sides, len(triangle), n_points)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and log-slope of points inside the interval."""
        # Rounding may put a point just outside its bin.
        self.theta = theta = (x - self.x0).div_(self.width).clamp_(0, 1)
        self.rest = rest = ONE - theta
        self.mixed = mixed = theta * rest
        self.squared, self.rest_squared = theta.square(), rest.square()
        self.denominator = torch.addcmul(self.secant, self.bend, mixed)
        self.ratio = (
            torch.mul(self.slope0, mixed)
            .addcmul_(self.secant, self.squared)
            .div_(self.denominator)
        )
        self.rise = (
            torch.mul(self.slope1, self.squared)
            .addcmul_(self.slope0, self.rest_squared)
            .addcmul_(self.secant, mixed, value=2)
        )
        value = torch.addcmul(self.z0, self.height, self.ratio)
        log_slope = (self.secant / self.denominator).square_().mul_(self.rise).log_()
        return value, log_slope

    def inverse(self, z: Tensor) -> Tensor:
        """Return the points inside the interval whose values are z."""
        above = z - self.z0
        bent = above * self.bend
        a = self.height * (self.secant - self.slope0) + bent
        b = self.height * self.slope0 - bent
        c = self.secant * above
        root = (b.square() + 4 * a * c).clamp_(min=0).sqrt_()
        theta = (2 * c / (b + root)).clamp_(0, 1)
        return torch.addcmul(self.x0, theta, self.width)

    def backward(self, grad_value: Tensor, grad_log: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients with respect to x and to the raw parameters."""
        theta, rest, mixed, secant = self.theta, self.rest, self.mixed, self.secant
        turn = rest - theta
        # All gradients follow from those of the numerator of the value, of the
        # denominator common to value and log-slope (negated), and of the rise.
        on_numerator = (grad_value * self.height).div_(self.denominator)
        off_denominator = torch.mul(on_numerator, self.ratio).addcdiv_(
            grad_log, self.denominator, value=2
        )
        on_rise = grad_log / self.rise
        numerator_slope = torch.mul(self.slope0, turn).addcmul_(secant, theta, value=2)
        half_rise_slope = (
            torch.mul(self.slope1, theta)
            .addcmul_(secant, turn)
            .addcmul_(self.slope0, rest, value=-1)
        )
        on_theta = (
            numerator_slope.mul_(on_numerator)
            .addcmul_(off_denominator, self.bend * turn, value=-1)
            .addcmul_(on_rise, half_rise_slope, value=2)
        )
        on_secant = (
            torch.mul(on_numerator, self.squared)
            .addcmul_(off_denominator, self.squared + self.rest_squared, value=-1)
            .addcmul_(on_rise, mixed, value=2)
            .addcdiv_(grad_log, secant, value=2)
        )
        on_slope0 = torch.mul(on_rise, self.rest_squared).addcmul_(
            on_numerator - off_denominator, mixed
        )
        on_slope1 = torch.mul(on_rise, self.squared).addcmul_(
            off_denominator, mixed, value=-1
        )
        on_x = on_theta.div_(self.width)
        on_x0 = on_x.neg()
        on_height = on_secant.div_(self.width)
        on_width = torch.mul(on_x0, theta).addcmul_(on_height, secant, value=-1)
        on_height = on_height.addcmul_(grad_value, self.ratio)
        return on_x, self._backward_raw(
            torch.stack((on_x0, grad_value), 1),
            torch.stack((on_width, on_height), 1),
            torch.stack((on_slope0, on_slope1), 1),
        )

    def _backward_raw(
        self, on_starts: Tensor, on_lengths: Tensor, on_slopes: Tensor
    ) -> Tensor:
        n_bins = self.spline.n_bins
        grad = torch.zeros_like(self.raw)
        # A size shifts the starts of the later bins, scales its own bin and, through
        # the normalisation, affects all bins: three steps of a reversed cumulative
        # sum, whose first entry is for starts that no size shifts.
        on_all = torch.mul(on_starts, self.offsets).addcmul_(on_lengths, self.lengths)
        steps = self.raw.new_zeros(len(grad), 2, n_bins + 1, grad.shape[2])
        steps[:, :, -1] = on_all.div_(self.total).neg_()
        on_lengths, on_starts = on_lengths * self.per_size, on_starts * self.per_size
        steps.scatter_add_(2, self.bin, (on_starts - on_lengths).unsqueeze(2))
        steps.scatter_add_(2, self.bin + 1, on_lengths.unsqueeze(2))
        triangle = self.raw.new_ones(n_bins, n_bins + 1).triu_(1)
        on_sizes = self._cumulate(steps, triangle).mul_(self.sizes)
        torch.mul(
            on_sizes,
            self.damping.square(),
            out=grad[:, : 2 * n_bins].view(on_sizes.shape),
        )
        on_raw = on_slopes.mul_(self.slopes).mul_(self.slope_damping.square())
        return grad.scatter_add_(1, self.columns, on_raw)
