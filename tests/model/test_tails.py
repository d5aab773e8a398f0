"""Components within a ball, and their tails beyond it."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_iris
from small_models import each_flow_slowly, make

from skflowmix import FlowMixture
from skflowmix.model.flows import FLOWS
from skflowmix.model.tails import Ball, RadialBase, ball_radius, norm

DIMENSIONS = (1, 2, 5, 64)
each_dimension = pytest.mark.parametrize("n_features", DIMENSIONS)


def derivative(function, r):
    r = r.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(r).sum(), r)
    return slope


def ball_of(n_features, dtype=torch.float64):
    return Ball(n_features, torch.tensor(10.0, dtype=dtype))


def radii(low, high, n=2001):
    return torch.linspace(low, high, n, dtype=torch.float64)


@each_dimension
def test_base_is_normal_inside_its_bound(n_features):
    base = RadialBase(n_features)
    r = radii(0.0, base.bound)
    log_prob, _ = base.log_prob(r)
    log_prob -= 0.5 * n_features * math.log(2 * math.pi)
    x = np.zeros((len(r), n_features))
    x[:, 0] = r
    expected = stats.multivariate_normal(np.zeros(n_features)).logpdf(x)
    np.testing.assert_allclose(log_prob, expected)


@each_dimension
def test_base_integrates_to_one(n_features):
    """Over radii, with the surfaces of spheres."""
    base = RadialBase(n_features)
    inside = stats.chi(n_features).cdf(base.bound)
    log_r = radii(math.log(base.bound), 400.0, 400_001)
    log_prob, _ = base.log_prob(log_r.exp())
    log_surface = math.log(2) - math.lgamma(n_features / 2)
    log_surface += 0.5 * n_features * math.log(math.pi) + n_features * log_r
    log_mass = log_prob + log_surface - 0.5 * n_features * math.log(2 * math.pi)
    mass = torch.trapezoid(log_mass.exp(), log_r)
    assert inside + float(mass) == pytest.approx(1, abs=1e-5)


@each_dimension
def test_base_falls_with_the_radius(n_features):
    base = RadialBase(n_features)
    r = torch.cat((radii(0.0, 50.0), torch.logspace(2, 15, 500).double()))
    log_prob, slope = base.log_prob(r)
    assert (log_prob.diff() < 0).all()
    assert (slope()[1:] < 0).all()
    off = r + 1.234e-5  # one-sided derivatives differ at the bound
    found = derivative(lambda r: base.log_prob(r)[0], off)
    torch.testing.assert_close(base.log_prob(off)[1](), found)


@each_dimension
def test_radius_undoes_the_tail(n_features):
    base = RadialBase(n_features)
    t = radii(0.0, base.bound + 5)
    r = base.radius(t)
    log_prob, _ = base.log_prob(r)
    # The density of the normal radius, with the Jacobian of the map.
    slope = derivative(base.radius, t + 1.234e-6)
    others = n_features - 1
    expected = -0.5 * t**2 - slope.log()
    expected += others * (t.clamp(min=1e-9) / r.clamp(min=1e-9)).log()
    torch.testing.assert_close(log_prob, expected, rtol=1e-4, atol=1e-4)


def test_eighty_deviations_cost_tens_of_nats():
    for n_features in (1, 2, 5):
        base = RadialBase(n_features)
        log_prob, _ = base.log_prob(torch.tensor([0.0, 80.0], dtype=torch.float64))
        assert 10 < log_prob[0] - log_prob[1] < 60


@each_dimension
def test_stretch_and_shrink_undo_each_other(n_features):
    ball = ball_of(n_features)
    r = ball.radius * radii(0.0, 0.9999) + 1.234e-6
    stretched = ball.stretch(r)
    shrunk = ball.shrink(stretched.radius)
    torch.testing.assert_close(shrunk.radius, r)
    torch.testing.assert_close(shrunk.log_det, -stretched.log_det)
    core = r <= ball.core
    assert core.any() and torch.equal(stretched.radius[core], r[core])
    for function, at, result in (
        (ball.stretch, r, stretched),
        (ball.shrink, stretched.radius, shrunk),
    ):
        slope = derivative(lambda r, f=function: f(r).radius, at)
        found, found_of_log_det = result.slopes()
        torch.testing.assert_close(found, slope)
        log_det = slope.log() + (n_features - 1) * (result.radius / at).log()
        torch.testing.assert_close(result.log_det, log_det)
        slope = derivative(lambda r, f=function: f(r).log_det, at)
        torch.testing.assert_close(found_of_log_det, slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_dimension
def test_shrink_stays_in_the_ball(n_features, dtype):
    ball = ball_of(n_features, dtype)
    rho = torch.logspace(0, 15, 200).to(dtype)
    shrunk = ball.shrink(rho)
    assert (shrunk.radius <= ball.radius).all()
    for value in (shrunk.radius, shrunk.log_det, shrunk.left, *shrunk.slopes()):
        assert torch.isfinite(value).all()


@each_dimension
def test_what_does_not_stay_goes_through_the_flows(n_features):
    """Shares from a hundredth in the core to all at the surface, with their slopes."""
    ball = ball_of(n_features)
    r = ball.radius * radii(0.0, 0.9999) + 1.234e-6

    def of_base(r):
        return ball.log_share_of_base(ball.stretch(r).left)[0]

    def of_flows(r):
        return ball.log_share_of_flows(ball.stretch(r).left)[0]

    torch.testing.assert_close(of_base(r).exp() + of_flows(r).exp(), torch.ones_like(r))
    core = r <= ball.core
    assert (of_base(r)[core].exp() - 0.01).abs().max() < 1e-12
    assert of_base(r)[-1].exp() > 0.99
    left = ball.stretch(r).left
    for function, found in (
        (of_base, ball.log_share_of_base(left)[1]()),
        (of_flows, ball.log_share_of_flows(left)[1]()),
    ):
        torch.testing.assert_close(found, derivative(function, r))


@each_dimension
def test_the_core_holds_the_rows_and_most_of_the_base(n_features):
    bound = RadialBase(n_features).bound
    largest = max(10, 2.5 * math.sqrt(n_features))
    reach = np.array([0.0, bound + 0.1, np.inf])
    found = ball_radius(n_features, reach)
    np.testing.assert_allclose(0.75 * found[:2], [bound, bound + 0.1])
    assert found[2] == largest


def test_norm_is_that_of_the_columns():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 50, dtype=torch.float64, generator=generator)
    x[0] *= 1e-200
    x[1] *= 1e30
    expected = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    torch.testing.assert_close(norm(x), expected, rtol=1e-14, atol=1e-160)


def test_norm_of_huge_rows_is_finite():
    x = torch.full((1, 3, 2), 1e30, dtype=torch.float32)
    assert torch.isfinite(norm(x).square()).all()


def thin_curve(rng):
    t = rng.uniform(0, 3, 300)
    return np.c_[t, np.sin(3 * t)] + 0.01 * rng.normal(size=(300, 2))


def heavy(rng):
    return rng.standard_t(2, (300, 2)) @ rng.normal(size=(2, 2))


SETS = {
    "thin curve": (1, thin_curve),
    "heavy tails": (2, heavy),
    "iris": (3, lambda rng: load_iris().data),
    "one column": (
        2,
        lambda rng: np.c_[rng.gamma(1, size=300) + 9 * (np.arange(300) % 2)],
    ),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@each_flow_slowly
@pytest.mark.parametrize("name", SETS)
def test_log_prob_falls_with_the_mahalanobis_distance(name, flow):
    """Beyond 10 from a flow's Gaussian, and with ellipses for contours."""
    n_components, draw = SETS[name]
    X = draw(np.random.default_rng(0))
    model = make(
        FlowMixture,
        n_components,
        flow=flow,
        n_transforms=2,
        hidden_units=(16,),
        posterior_units=(16,),
        max_iter=15,
        random_state=0,
    ).fit(X)
    rng = np.random.default_rng(1)
    radius = np.array([10.001, 12, 15, 20, 30, 50, 100, 1e3, 1e4, 1e5, 1e6])
    ways = rng.normal(size=(40, X.shape[1]))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    scale = model._standardizer
    for k in range(model.n_flows_):
        factor = np.linalg.cholesky(model.flow_covariances_[k])
        x = model.flow_means_[k] + radius[:, None, None] * (ways @ factor.T)
        rows = torch.from_numpy(scale.transform(x.reshape(-1, X.shape[1]), np.inf))
        with torch.no_grad():
            log_prob = model.module_.component_log_prob(rows)[:, k].numpy()
        by_radius = log_prob.reshape(len(radius), -1)
        np.testing.assert_allclose(np.ptp(by_radius, axis=1), 0, atol=1e-6)
        assert (np.diff(by_radius, axis=0) < 0).all()
    # So the mixture falls along rays on which all distances grow.
    ways = X.std(axis=0) * ways
    x = X.mean(axis=0) + np.geomspace(10, 1e6, 40)[:, None, None] * ways
    flat = x.reshape(-1, X.shape[1])
    inverse = np.linalg.inv(model.flow_covariances_)
    away = flat[:, None] - model.flow_means_
    r = np.sqrt(np.einsum("nki,kij,nkj->nk", away, inverse, away))
    r = r.reshape(*x.shape[:2], model.n_flows_)
    falls = (r[:-1].min(axis=2) > 10) & (np.diff(r, axis=0) > 0).all(axis=2)
    change = np.diff(model.score_samples(flat).reshape(x.shape[:2]), axis=0)
    assert falls.any() and (change[falls] < 0).all()


@pytest.mark.parametrize("flow", FLOWS)
def test_a_trained_density_integrates_to_one(flow):
    X = heavy(np.random.default_rng(0))[:, :1]
    model = make(FlowMixture, 2, flow=flow, tol=0.1, n_iter_no_change=2, random_state=0)
    model.fit(X)
    t = np.linspace(-60, 60, 400_001)
    x = np.sinh(t)
    density = np.exp(model.score_samples(x[:, None])) * np.cosh(t)
    assert np.trapezoid(density, t) == pytest.approx(1, abs=1e-3)
