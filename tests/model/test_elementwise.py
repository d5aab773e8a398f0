"""Element-wise maps: monotone, invertible, with the slope that they report."""

import math
from functools import partial

import pytest
import torch
import zuko
from torch.autograd import gradcheck

from skflowmix.model.elementwise import Affine, RationalQuadraticSpline
from skflowmix.model.flows import FLOWS

MAPS = sorted({family.elementwise for family in FLOWS.values()}, key=str)
each_map = pytest.mark.parametrize("make_map", MAPS, ids=lambda m: m.__name__)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

BOUND = RationalQuadraticSpline().bound


def normal(*shape, seed=0, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(*shape, generator=generator, dtype=torch.float64)


def points(n, reach=1.6 * BOUND):
    """Evenly spaced, inside and outside the splines' interval."""
    return torch.linspace(-reach, reach, n, dtype=torch.float64)


def slope_of(function, x):
    """Derivative of an element-wise function by autograd."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope


def forward(elementwise, x, parameters):
    """Value and log-slope, with the parameters of each point in the last axis."""
    return elementwise.forward(x, parameters.movedim(-1, -2))


def inverse(elementwise, z, parameters):
    return elementwise.inverse(z, parameters.movedim(-1, -2))


def zuko_map(elementwise, parameters):
    """The same map as zuko writes it."""
    if elementwise.n_parameters == 2:
        return zuko.transforms.MonotonicAffineTransform(*parameters.unbind(-1))
    n_bins = elementwise.n_bins
    sizes = (n_bins, n_bins, n_bins - 1)
    return zuko.transforms.MonotonicRQSTransform(*parameters.split(sizes, -1))


# Laws of every map.


@each_map
@each_dtype
def test_zero_parameters_give_the_identity(make_map, dtype):
    elementwise = make_map()
    x = points(401).to(dtype)
    zeros = x.new_zeros(401, elementwise.n_parameters)
    value, log_slope = forward(elementwise, x, zeros)
    tolerance = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(value, x, rtol=0, atol=tolerance)
    torch.testing.assert_close(log_slope, 0 * x, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        inverse(elementwise, x, zeros), x, rtol=0, atol=tolerance
    )


@each_map
@pytest.mark.parametrize(
    "size, tolerance",
    # Slopes of 1e-9, which large parameters give, cost as many digits.
    [(0.3, 1e-8), (1.0, 1e-8), (3.0, 1e-8), (100.0, 1e-5)],
)
def test_inverse_undoes_forward(make_map, size, tolerance):
    elementwise = make_map()
    x = points(2001)
    parameters = normal(2001, elementwise.n_parameters, size=size)
    value, _ = forward(elementwise, x, parameters)
    back = inverse(elementwise, value, parameters)
    torch.testing.assert_close(back, x, rtol=0, atol=tolerance)
    forth, _ = forward(elementwise, inverse(elementwise, x, parameters), parameters)
    torch.testing.assert_close(forth, x, rtol=0, atol=1e-8)


@each_map
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_log_slope_is_the_logarithm_of_autograds_slope(make_map, size):
    elementwise = make_map()
    x = points(2001)
    parameters = normal(2001, elementwise.n_parameters, size=size)
    slope = slope_of(lambda x: forward(elementwise, x, parameters)[0], x)
    _, log_slope = forward(elementwise, x, parameters)
    torch.testing.assert_close(log_slope, slope.log(), rtol=0, atol=1e-9)


@each_map
def test_value_grows_with_x(make_map):
    elementwise = make_map()
    parameters = normal(20, 1, elementwise.n_parameters, size=3.0).expand(-1, 500, -1)
    value, _ = forward(elementwise, points(500).expand(20, -1), parameters)
    assert (value.diff(dim=1) > 0).all()


@each_map
def test_leading_axes_do_not_matter(make_map):
    elementwise = make_map()
    x, parameters = normal(3, 4, 5), normal(3, 4, 5, elementwise.n_parameters, seed=1)
    one_by_one = [
        forward(elementwise, x[i, j, k : k + 1], parameters[i, j, k : k + 1])
        for i in range(3)
        for j in range(4)
        for k in range(5)
    ]
    for together, apart in zip(
        forward(elementwise, x, parameters), zip(*one_by_one, strict=True), strict=True
    ):
        assert together.shape == x.shape
        torch.testing.assert_close(together.flatten(), torch.cat(apart))


@each_map
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_map_agrees_with_zuko(make_map, size):
    elementwise = make_map()
    x = points(2000)
    parameters = normal(2000, elementwise.n_parameters, size=size)
    value, log_slope = forward(elementwise, x, parameters)
    theirs = zuko_map(elementwise, parameters)
    their_value, their_log_slope = theirs.call_and_ladj(x)
    torch.testing.assert_close(value, their_value, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_slope, their_log_slope, rtol=0, atol=1e-9)
    back = inverse(elementwise, x, parameters)
    torch.testing.assert_close(back, theirs.inv(x), rtol=0, atol=1e-9)


@each_map
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_gradients_agree_with_autograd_through_zuko(make_map, size):
    elementwise = make_map()
    x = points(2000).requires_grad_()
    parameters = normal(2000, elementwise.n_parameters, size=size).requires_grad_()
    seeds = normal(2000, seed=1), normal(2000, seed=2)

    def gradients(outputs):
        return torch.autograd.grad(outputs, (x, parameters), seeds)

    ours = gradients(forward(elementwise, x, parameters))
    theirs = gradients(zuko_map(elementwise, parameters).call_and_ladj(x))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@each_map
@each_dtype
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_far_points_and_large_parameters_stay_finite(make_map, dtype, size):
    elementwise = make_map()
    magnitudes = [0.0, 1e-30, 1.0, BOUND, 10.0, 1e3, 1e6, 1e9, 1e12]
    x = torch.tensor([s * m for m in magnitudes for s in (-1, 1)], dtype=dtype)
    x = x.repeat(50).requires_grad_()
    parameters = normal(len(x), elementwise.n_parameters, size=size).to(dtype)
    parameters.requires_grad_()
    value, log_slope = forward(elementwise, x, parameters)
    (value.sum() + log_slope.sum()).backward()
    results = value, log_slope, x.grad, parameters.grad
    assert all(result.isfinite().all() for result in results)
    assert inverse(elementwise, x, parameters).isfinite().all()


# The spline's hand-written backward.


def spline_parameters(n, n_bins, size=1.0):
    spline = RationalQuadraticSpline(n_bins=n_bins)
    return spline, normal(n, spline.n_parameters, size=size, seed=3)


def knots_of(spline, parameters):
    """Inner knots (M, n_bins - 1) on the x side, by zuko's cumulated softmax."""
    return zuko_map(spline, parameters).horizontal[:, 1:-1]


@pytest.mark.parametrize("n_bins", [2, 3, 8])
@pytest.mark.parametrize("size", [0.5, 3.0])
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_spline_gradients_pass_gradcheck(n_bins, size, where):
    spline, parameters = spline_parameters(12, n_bins, size)
    x = 0.99 * points(12, BOUND)
    if where == "outside":
        x = x + x.sign() * BOUND
    # Away from the knots, where the log-slope has a kink.
    assert (x.unsqueeze(1) - knots_of(spline, parameters)).abs().min() > 1e-4
    inputs = x.requires_grad_(), parameters.requires_grad_()
    function = partial(forward, spline)
    assert gradcheck(function, inputs, eps=1e-7, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_bins", [2, 8])
def test_spline_value_passes_gradcheck_at_knots_and_bounds(n_bins):
    spline, parameters = spline_parameters(2, n_bins)
    ends = torch.tensor([[-BOUND, BOUND]], dtype=torch.float64).expand(2, -1)
    x = torch.cat((knots_of(spline, parameters), ends), 1)
    parameters = parameters.unsqueeze(1).repeat(1, x.shape[1], 1)
    inputs = x.requires_grad_(), parameters.requires_grad_()

    def value(x, parameters):
        return forward(spline, x, parameters)[0]

    assert gradcheck(value, inputs, eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_bins", [2, 8])
def test_spline_log_slope_has_a_one_sided_gradient_at_knots_and_bounds(n_bins):
    spline, parameters = spline_parameters(6, n_bins)
    ends = torch.tensor([[-BOUND, BOUND]], dtype=torch.float64).expand(6, -1)
    x = torch.cat((knots_of(spline, parameters), ends), 1)
    parameters = parameters.unsqueeze(1).repeat(1, x.shape[1], 1)

    def gradients(x):
        inputs = x.clone().requires_grad_(), parameters.clone().requires_grad_()
        grads = torch.autograd.grad(forward(spline, *inputs)[1].sum(), inputs)
        return torch.cat((grads[0].unsqueeze(2), grads[1]), 2)

    at, left, right = gradients(x), gradients(x - 1e-9), gradients(x + 1e-9)
    distances = torch.stack([(at - side).abs().amax(2) for side in (left, right)])
    assert distances.amin(0).max() < 1e-5
    assert (left - right).abs().max() > 0.1  # or the test would say nothing


def test_spline_is_the_identity_from_its_bound_on():
    spline, parameters = spline_parameters(8, 8, 3.0)
    x = torch.tensor([1.0, 1.0 + 1e-9, 2.0, 1e12], dtype=torch.float64) * BOUND
    x = torch.cat((-x, x))
    value, log_slope = forward(spline, x, parameters)
    assert torch.equal(value, x)
    assert torch.equal(log_slope, torch.zeros_like(x))
    assert torch.equal(inverse(spline, x, parameters), x)
    just_inside = x.sign() * BOUND * (1 - 1e-9)
    value, log_slope = forward(spline, just_inside, parameters)
    torch.testing.assert_close(value, just_inside, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_slope, 0 * x, rtol=0, atol=1e-4)


def test_slopes_stay_within_their_bounds():
    """Affine slopes, and the spline's at its knots, stay in (1e-3, 1e3)."""
    limit = math.log(1e3)
    raw = torch.tensor([-1e9, -10.0, 10.0, 1e9], dtype=torch.float64)
    parameters = torch.stack((0 * raw, raw), 1)
    _, log_slope = forward(Affine(), torch.ones_like(raw), parameters)
    assert log_slope.abs().max() < limit
    torch.testing.assert_close(log_slope[::3], raw.sign()[::3] * limit)
    spline = RationalQuadraticSpline(n_bins=2)  # a knot in the middle
    parameters = torch.zeros(4, 5, dtype=torch.float64)
    parameters[:, 4] = raw
    _, log_slope = forward(spline, 0 * raw, parameters)
    assert log_slope.abs().max() < limit
    torch.testing.assert_close(log_slope[::3], raw.sign()[::3] * limit)
