"""The mixture: a density, a Gaussian mixture without transforms, samples of itself."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture
from small_models import each_flow_slowly, make
from small_modules import flow_parameters, make_model, random_gaussians, rows, seeded

from skflowmix import FlowMixture
from skflowmix.model.components import MANY_COMPONENTS, WIDE
from skflowmix.model.flows import FLOWS
from skflowmix.model.groups import Groups
from skflowmix.model.mixture import LEAST_LOG_POSTERIOR, MixtureModule, elbo_terms
from skflowmix.model.pairs import AllPairs, Support
from skflowmix.starts import shrinkage as shrinkage_module
from skflowmix.starts.gaussians import (
    FLAT,
    Gaussians,
)
from skflowmix.starts.shrinkage import (
    BLENDS,
    DIAGONALITIES,
    STRENGTHS,
    Shrinkage,
    cross_validated_log_densities,
)

each_family = pytest.mark.parametrize("flow", FLOWS)
# Transforms that components share: next to the data, next to the base, on both sides.
each_sharing = pytest.mark.parametrize(
    "sharing",
    [
        {},
        {"n_common_transforms": 2},
        {"n_shared_transforms": 1},
        {"n_common_transforms": 1, "n_shared_transforms": 3},
    ],
    ids=["own", "common", "shared", "all"],
)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def grid(n_features, n_points):
    """Points (N, D) of a grid that reaches into the tails, and their volumes (N,)."""
    z = torch.linspace(-6, 6, n_points, dtype=torch.float64)
    axis = z.sinh()
    lengths = z.cosh() * (z[1] - z[0])
    x = torch.cartesian_prod(*n_features * [axis]).view(-1, n_features)
    volumes = torch.cartesian_prod(*n_features * [lengths]).view(-1, n_features)
    return x, volumes.prod(1)


N_POINTS = {1: 4001, 2: 451}


# It is a Gaussian mixture before anything is learned.


@pytest.mark.parametrize("n_features", [1, 2, 3, 8])
@pytest.mark.parametrize("n_components", [1, 3])
def test_without_transforms_components_are_scipys_gaussians(n_features, n_components):
    gaussians = random_gaussians(n_components, n_features)
    model = make_model(n_components=n_components, n_features=n_features, n_transforms=0)
    x = rows(200, n_features, size=5.0)
    found = model.component_log_prob(x)
    assert found.shape == (200, n_components)
    for k in range(n_components):
        normal = stats.multivariate_normal(gaussians.means[k], gaussians.covariances[k])
        np.testing.assert_allclose(
            found[:, k].numpy(force=True), normal.logpdf(x.numpy()), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("n_features", [1, 2, 8])
def test_without_transforms_the_whole_is_scikit_learns_mixture(n_features):
    X = rows(300, n_features).numpy()
    theirs = GaussianMixture(3, random_state=0).fit(X)
    model = MixtureModule.of_flows(
        Gaussians(theirs.weights_, theirs.means_, theirs.covariances_),
        flow="maf",
        n_transforms=0,
        hidden_units=(),
        posterior_units=(),
        generator=seeded(),
    )
    far = 3 * rows(300, n_features, seed=6)
    log_joint = model.component_log_prob(far) + model.log_weights
    np.testing.assert_allclose(
        model.log_prob(far).numpy(force=True),
        theirs.score_samples(far.numpy()),
        rtol=0,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        log_joint.softmax(1).numpy(force=True),
        theirs.predict_proba(far.numpy()),
        rtol=0,
        atol=1e-6,
    )


@each_family
@pytest.mark.parametrize("n_features", [1, 2, 8])
@each_sharing
def test_untrained_components_are_gaussians_within_three_deviations(
    flow, n_features, sharing
):
    gaussians = random_gaussians(3, n_features)
    model = make_model(flow, 3, n_features, size=0.0, **sharing)
    white = rows(200, n_features)
    white = (3 * white / white.norm(dim=1, keepdim=True).clamp(min=3)).numpy()
    for k in range(3):
        factor = np.linalg.cholesky(gaussians.covariances[k])
        x = white @ factor.T + gaussians.means[k]
        normal = stats.multivariate_normal(gaussians.means[k], gaussians.covariances[k])
        found = model.component_log_prob(torch.from_numpy(x))[:, k]
        np.testing.assert_allclose(
            found.numpy(force=True), normal.logpdf(x), rtol=0, atol=1e-6
        )


# It is a density.

FAR = [100.0, 300.0, 1e3, 1e4, 1e5, 1e6, 1e9, 1e13]


@each_family
@pytest.mark.parametrize("n_features", [1, 2])
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0.0, id="initial", marks=pytest.mark.slow),
        pytest.param(0.1, id="perturbed"),
    ],
)
@each_sharing
def test_density_integrates_to_one(flow, n_features, size, sharing):
    model = make_model(flow, 3, n_features, size=size, **sharing)
    x, volumes = grid(n_features, N_POINTS[n_features])
    with torch.no_grad():
        masses = volumes @ model.component_log_prob(x).exp()
        mass = masses @ model.log_weights.exp()
    torch.testing.assert_close(masses, torch.ones_like(masses), rtol=0, atol=1e-3)
    assert float(mass) == pytest.approx(1, abs=1e-3)


@each_flow_slowly
@pytest.mark.parametrize("n_features", [1, 2])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_density_of_a_trained_model_integrates_to_one(flow, n_features):
    """In data units: the scales of the columns are counted."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, np.pi, 300)
    half = rng.integers(2, size=300)
    X = np.column_stack((np.cos(angle), np.sin(angle)))
    X = np.where(half[:, None], X, [1.0, 0.5] - X) + 0.1 * rng.normal(size=(300, 2))
    X = (X * [1e-3, 50.0] + [7.0, -3.0])[:, :n_features]
    model = make(
        FlowMixture,
        2,
        flow=flow,
        hidden_units=(16,),
        init_params="kmeans",
        n_iter_init=10,
        max_iter=10,
        random_state=0,
    ).fit(X)
    gaussian = GaussianMixture(2, random_state=0).fit(X)
    if n_features == 2:  # it has learned something
        assert model.score(X) > gaussian.score(X) + 0.05
    x, volumes = grid(n_features, N_POINTS[n_features])
    center, scale = X.mean(0), X.std(0)
    log_prob = model.score_samples(x.numpy() * scale + center)
    mass = volumes.numpy() @ np.exp(log_prob) * scale.prod()
    assert mass == pytest.approx(1, abs=1e-3)


@each_family
@pytest.mark.parametrize("n_features", [1, 2, 8])
def test_log_prob_is_the_weighted_sum_of_the_components(flow, n_features):
    model = make_model(flow, 3, n_features)
    model.weight_logits.data += torch.tensor([5.0, -1.0, 0.3])
    x = rows(100, n_features)
    weights = model.weight_logits.exp() / model.weight_logits.exp().sum()
    torch.testing.assert_close(model.log_weights.exp(), weights)
    expected = (model.component_log_prob(x).exp() @ weights).log()
    torch.testing.assert_close(model.log_prob(x), expected, rtol=0, atol=1e-10)


@each_family
@each_dtype
@pytest.mark.parametrize("n_features", [1, 2, 8])
def test_density_is_finite_and_falls_far_from_the_data(flow, dtype, n_features):
    directions = torch.nn.functional.normalize(rows(64, n_features)).to(dtype)
    points = torch.stack([r * directions for r in FAR])

    def far_log_prob(model):
        with torch.no_grad():
            found = model.to(dtype).component_log_prob(points.flatten(0, 1))
        assert found.isfinite().all()
        return found.unflatten(0, (len(FAR), -1))

    assert (
        far_log_prob(make_model(flow, 2, n_features, size=0.1)).diff(dim=0) < 0
    ).all()
    far_log_prob(make_model(flow, 2, n_features, size=1.0))  # at wild weights finite


@each_family
@pytest.mark.parametrize("n_features", [1, 2, 8])
def test_far_points_are_less_likely_than_samples(flow, n_features):
    model = make_model(flow, 2, n_features, size=0.1)
    directions = torch.nn.functional.normalize(rows(64, n_features))
    far = torch.cat([r * directions for r in FAR])
    with torch.no_grad():
        for k in range(2):
            samples = model.sample(torch.full((1000,), k), seeded())
            log_prob = model.component_log_prob(samples)[:, k]
            far_log_prob = model.component_log_prob(far)[:, k]
            assert far_log_prob.max() < log_prob.quantile(0.01) - 3


@each_family
def test_columns_of_the_table_are_the_components(flow):
    """Column k depends on the parameters of component k only."""
    model = make_model(flow)
    x = rows(20)
    model.component_log_prob(x)[:, 1].sum().backward()
    for parameter in flow_parameters(model):
        assert not parameter.grad[[0, 2]].any()
        assert parameter.grad[1].any()


@each_family
def test_shared_transforms_learn_from_all_components(flow):
    model = make_model(flow, n_common_transforms=1, n_shared_transforms=1)
    of_own = sum(p.numel() for p in (*model.components.inner.parameters(),))
    for shared in (model.components.common, model.components.shared):
        assert 3 * sum(p.numel() for p in shared.parameters()) == of_own
        for k in range(3):
            model.zero_grad()
            model.component_log_prob(rows(20))[:, k].sum().backward()
            assert all(p.grad.any() for p in shared.parameters())


@each_family
def test_all_transforms_shared_give_every_component_one_shape(flow):
    """Turned to its principal axes, each looks like the others."""
    gaussians = random_gaussians(3, 2, turned=True)
    model = make_model(flow, n_shared_transforms=3)
    z = rows(50)
    white = torch.from_numpy(gaussians.axes) / torch.from_numpy(
        np.sqrt(np.linalg.eigvalsh(gaussians.covariances)[:, ::-1].copy())
    ).unsqueeze(2)
    log_prob = []
    for k in range(3):
        x = torch.linalg.solve(white[k], z.T).T + torch.from_numpy(gaussians.means[k])
        volume = torch.linalg.slogdet(white[k])[1]
        log_prob.append(model.component_log_prob(x)[:, k] - volume)
    torch.testing.assert_close(log_prob[1], log_prob[0])
    torch.testing.assert_close(log_prob[2], log_prob[0])


# Gaussians.


@pytest.mark.parametrize("turned", [False, True])
def test_whitening_takes_covariances_to_the_identity(turned):
    gaussians = random_gaussians(3, 4, turned=turned)
    whole = gaussians.whitening() / gaussians.scales()[:, None, :]
    white = whole @ gaussians.covariances @ whole.transpose(0, 2, 1)
    np.testing.assert_allclose(white, np.tile(np.eye(4), (3, 1, 1)), atol=1e-10)


def test_principal_axes_turn_with_the_rows():
    """A cluster and its copy, turned, look the same along their axes."""
    rng = np.random.default_rng(0)
    x = rng.gamma(1.0, size=(500, 2)) * [1.0, 3.0]
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    responsibilities = np.repeat(np.eye(2), 500, axis=0)
    both = np.concatenate([x, x @ turn.T + 50])
    gaussians = Gaussians.fit(both, np.ones(1000), responsibilities, 0.0, turned=True)
    np.testing.assert_allclose(gaussians.axes[0] @ turn.T, gaussians.axes[1], atol=1e-4)
    along = (x - gaussians.means[0]) @ gaussians.axes[0].T
    assert (stats.skew(along) > 0).all()
    assert along[:, 0].std() > along[:, 1].std()


@pytest.mark.parametrize("least_strength", [0.0, 10.0])
@pytest.mark.parametrize("n_rows", [3, 60, 3000])
def test_tied_columns_have_one_covariance_and_none_with_others(n_rows, least_strength):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_rows, 4)) @ rng.normal(size=(4, 4))
    y = np.arange(n_rows) % 3
    x[y == 1, 0] *= 9.0
    (gaussians,) = Gaussians.fit_each(
        x, np.ones(n_rows), np.eye(3)[y], 1e-6, [least_strength], tied=(1, 3)
    )
    if n_rows < x.shape[1]:
        assert gaussians.shrinkage.tied == ()
        return
    between = gaussians.covariances[:, [0, 2]][:, :, [1, 3]]
    within = gaussians.covariances[:, [1, 3]][:, :, [1, 3]]
    np.testing.assert_allclose(between, 0.0, atol=1e-12)
    np.testing.assert_allclose(within, within[[0, 0, 0]], rtol=1e-12)
    if n_rows == 3000:
        centred = x - np.stack([x[y == k].mean(axis=0) for k in range(3)])[y]
        pooled = (centred.T @ centred / n_rows)[np.ix_([1, 3], [1, 3])]
        np.testing.assert_allclose(within[0], pooled, rtol=0.05)


@pytest.mark.parametrize("n_features", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_rows", [8, 60, 3000])
def test_fitted_gaussians_are_numpys_weighted_moments_shrunk(n_features, soft, n_rows):
    """By one of the documented strengths, towards the pooled covariance."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_rows, n_features)) * 3 + 1
    labels = np.arange(n_rows) % 3
    x *= 1 + labels[:, None]
    weights = rng.uniform(0.1, 4, size=n_rows)
    shares = rng.dirichlet(np.ones(3), n_rows) if soft else np.eye(3)[labels]
    kept = x.copy(), weights.copy(), shares.copy()
    gaussians = Gaussians.fit(x, weights, shares, reg_covar=0.05)
    for before, after in zip(kept, (x, weights, shares), strict=True):
        np.testing.assert_array_equal(before, after)

    totals = weights @ shares
    np.testing.assert_allclose(gaussians.weights, totals / totals.sum())

    def moments(blend):
        """Means and covariances where all components get that share of every row."""
        blended = (1 - blend) * shares + blend * totals / totals.sum()
        own = [weights * column for column in blended.T]
        covariances = [np.cov(x.T, aweights=w, ddof=0) for w in own]
        return (
            np.stack([np.average(x, axis=0, weights=w) for w in own]),
            np.reshape(covariances, (3, n_features, n_features)),
        )

    def shrunk(covariances, strength, diagonality):
        pooled = np.average(covariances, axis=0, weights=totals)
        prior = np.where(np.eye(n_features), pooled, (1 - diagonality) * pooled)
        nu, n = strength * n_features, totals[:, None, None]
        ratios = np.diagonal(covariances, axis1=1, axis2=2) / np.diag(pooled)
        size = ratios.mean(axis=1)[:, None, None] ** (n / (n + 100))
        shrunk = (n * covariances + nu * size * prior) / (n + nu)
        return shrunk * (1 + 0.05 * np.eye(n_features))

    errors = []
    for blend in reversed(BLENDS):
        means, covariances = moments(blend)
        error = np.abs(gaussians.means - means).max()
        for choice in itertools.product(STRENGTHS, DIAGONALITIES):
            differences = gaussians.covariances - shrunk(covariances, *choice)
            errors.append(max(np.abs(differences).max(), error))
    assert min(errors) < 1e-9
    if n_rows == 8:  # too few to choose by
        assert errors[-1] < 1e-9
    if n_rows == 3000:  # enough to trust
        raw = covariances * (1 + 0.05 * np.eye(n_features))
        np.testing.assert_allclose(gaussians.covariances, raw, rtol=0, atol=0.5)


def test_shrinkage_helps_where_rows_are_few():
    """Components of equal shape, and of columns that do not correlate."""
    gains = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = np.arange(40) % 2
        x = rng.normal(size=(40, 8)) + 20 * labels[:, None]
        gaussians = Gaussians.fit(x, np.ones(40), np.eye(2)[labels], reg_covar=1e-6)
        fresh = rng.normal(size=(1000, 8))
        found, raw = (
            stats.multivariate_normal(gaussians.means[0], covariance).logpdf(fresh)
            for covariance in (gaussians.covariances[0], np.cov(x[labels == 0].T))
        )
        gains.append((found - raw).mean())
    assert min(gains) > 0.5


@pytest.mark.parametrize("reg_covar", [1e-6, 1e-2])
@pytest.mark.parametrize("constant", [False, True])
def test_rows_fewer_than_columns_are_scored_by_matrices_of_rows(
    constant, reg_covar, monkeypatch
):
    """To the same densities as by matrices of columns."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 50)) * rng.uniform(0.5, 2, 50)
    if constant:
        x[:, 0] = 1.0
    weights, shares = rng.uniform(0.5, 2, 30), rng.dirichlet(np.ones(3), 30)
    grid = list(itertools.product([1.0, 10.0, 500.0], DIAGONALITIES))
    data = x, weights, shares, grid, reg_covar
    by_rows = cross_validated_log_densities(*data)
    monkeypatch.setattr(shrinkage_module, "LEAST_REG_COVAR", math.inf)
    np.testing.assert_allclose(by_rows, cross_validated_log_densities(*data), rtol=1e-6)


@pytest.mark.parametrize("n_rows", [20_000, 100_000])
def test_many_rows_of_few_values_are_not_shrunk(n_rows):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n_rows)
    rounded = np.rint(rng.normal(labels * 12, 1 + labels * 2))
    x, values, counts = np.unique(rounded, return_inverse=True, return_counts=True)
    order = rng.permutation(len(x))
    shares = np.stack([np.bincount(values, labels == k) for k in (0, 1)], 1)
    shares = (shares / counts[:, None])[order]
    x, counts = x[order, None], counts[order].astype(float)
    fitted = Gaussians.fit(x, counts, shares, reg_covar=1e-6)
    raw = [np.cov(x.T, aweights=counts * own, ddof=0) for own in shares.T]
    np.testing.assert_allclose(np.sqrt(fitted.covariances).ravel(), np.sqrt(raw), 0.05)


@pytest.mark.parametrize("turned", [False, True])
def test_refitted_to_the_same_rows_gaussians_stay(turned):
    x, shares = rows(300).numpy(), np.eye(2)[np.arange(300) % 2]
    first = Gaussians.fit(x, np.ones(300), shares, reg_covar=1e-6, turned=turned)
    again = first.refit(x, np.ones(300), shares)
    np.testing.assert_allclose(again.means, first.means)
    np.testing.assert_allclose(again.whitening(), first.whitening())


def test_covariances_lean_to_the_pooled_one_as_much_as_asked():
    """As large as the component is."""
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 2
    x = rng.normal(size=(4000, 2)) * np.where(labels, 0.01, 1.0)[:, None]
    fits = [
        Gaussians.fit(x, np.ones(4000), np.eye(2)[labels], 0.0, least_strength=least)
        for least in (0.0, 1.0)
    ]
    narrow, leaning = (np.sqrt(np.linalg.det(f.covariances[1])) for f in fits)
    # Two rows of prior beside two thousand of data, of a variance of one half.
    np.testing.assert_allclose(narrow, 1e-4, rtol=0.1)
    size = 2e-4 ** (2000 / 2100)
    np.testing.assert_allclose(leaning, 1e-4 + size * 0.5 * 2 / 2002, rtol=0.1)


@pytest.mark.parametrize("factor", [1e-5, 1e-2, 1e3])
def test_reg_covar_and_shrinkage_are_in_units_of_the_component(factor):
    """A component far smaller than the others keeps its own covariance."""
    rng = np.random.default_rng(0)
    labels = np.arange(3000) % 3
    x = rng.normal(size=(3000, 2)) @ [[1.0, 0.5], [0.0, 0.7]]
    x[labels == 0] *= factor
    x += 1e4 * labels[:, None]
    fit = Gaussians.fit(x, np.ones(3000), np.eye(3)[labels], 1e-6, least_strength=1.0)
    for k in range(3):
        expected = np.cov(x[labels == k].T)
        deviations = np.sqrt(np.diag(expected))
        error = (fit.covariances[k] - expected) / np.outer(deviations, deviations)
        assert np.abs(error).max() < 0.02


@pytest.mark.parametrize("reg_covar", [0.0, 1e-4])
@pytest.mark.parametrize("least", [0.0, 2e-4, 1e-3])
def test_flat_gaussians_are_told_by_their_least_variance(least, reg_covar):
    """That `reg_covar` has added does not count."""
    least += reg_covar
    correlations = np.stack(
        [np.eye(3), [[1, 1 - least, 0], [1 - least, 1, 0], [0, 0, 1]]]
    )
    scales = np.array([1e-3, 1.0, 1e3])
    gaussians = Gaussians(
        np.full(2, 0.5),
        np.zeros((2, 3)),
        correlations * scales[:, None] * scales,
        shrinkage=Shrinkage(1.0, 0.0, 0.0, reg_covar),
    )
    assert gaussians.are_flat() == (least - reg_covar < FLAT)
    assert gaussians.are_positive_definite() == (least > 0)


def untrained(gaussians):
    return MixtureModule.of_flows(
        gaussians,
        flow="realnvp",
        n_transforms=1,
        hidden_units=(2,),
        posterior_units=(2,),
        generator=seeded(),
    )


@pytest.mark.parametrize(
    ("n_components", "n_features"), [(3, WIDE + 1), (MANY_COMPONENTS + 1, 4)]
)
def test_in_large_problems_the_posterior_network_corrects_gaussians(
    n_components, n_features
):
    """Before it has learnt anything, q is theirs within its bound."""
    gaussians = random_gaussians(n_components, n_features)
    model = untrained(gaussians)
    x = np.random.default_rng(1).normal(size=(5, n_features)) + gaussians.means[[1]]
    q = model.posterior_proba(torch.from_numpy(x))
    expected = gaussians.log_joint(x)
    expected -= logsumexp(expected, axis=1, keepdims=True)
    expected = np.maximum(expected, LEAST_LOG_POSTERIOR)
    expected -= logsumexp(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(q.detach().log(), expected, rtol=1e-6, atol=1e-6)


def test_a_high_temperature_makes_q_of_many_components_uniform():
    model = untrained(random_gaussians(MANY_COMPONENTS + 1, 4))
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 4)))
    at_one = model.posterior_proba(x).detach()
    model.temperature.fill_(0.1)
    # The network is zero: only what it has learnt may be sharper than Bayes' rule.
    torch.testing.assert_close(model.posterior_proba(x).detach(), at_one)
    model.temperature.fill_(1e6)
    even = torch.full_like(at_one, 1 / at_one.shape[1])
    assert not torch.allclose(at_one, even, atol=0.1)
    torch.testing.assert_close(
        model.posterior_proba(x).detach(), even, atol=1e-3, rtol=0
    )


def test_in_small_problems_the_posterior_network_starts_undecided():
    model = untrained(random_gaussians(MANY_COMPONENTS, 4))
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 4)))
    q = model.posterior_proba(x).detach()
    np.testing.assert_allclose(q, 1 / MANY_COMPONENTS, rtol=1e-6)


def scipy_log_joint(gaussians, x):
    parts = zip(gaussians.weights, gaussians.means, gaussians.covariances, strict=True)
    return np.stack(
        [np.log(w) + stats.multivariate_normal(m, c).logpdf(x) for w, m, c in parts],
        axis=1,
    )


@pytest.mark.parametrize("n_features", [1, 4])
def test_log_joint_of_gaussians_is_scipys(n_features):
    gaussians = random_gaussians(3, n_features)
    x = np.random.default_rng(1).normal(size=(50, n_features))
    np.testing.assert_allclose(gaussians.log_joint(x), scipy_log_joint(gaussians, x))


def test_cross_validated_log_densities_are_those_of_gaussians_of_the_other_rows():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(80, 3)) * [1, 2, 3], rng.uniform(0.5, 2, size=80)
    shares = rng.dirichlet(np.ones(2), size=80)
    grid = [(0.1, 0.0), (20.0, 0.5)]
    expected = []
    for shrinkage in (Shrinkage(*setting, 0.0, 1e-3) for setting in grid):
        log_prob = np.empty(80)
        for own in (np.arange(80) % 5 == fold for fold in range(5)):
            seen = x[~own], weights[~own], shares[~own]
            log_joint = scipy_log_joint(Gaussians.shrunk(*seen, shrinkage), x[own])
            log_prob[own] = np.logaddexp.reduce(log_joint, axis=1)
        expected.append(log_prob)
    found = cross_validated_log_densities(x, weights, shares, grid, 1e-3)
    np.testing.assert_allclose(found, expected)
    x[7] = 1e4  # counts for so much only
    assert cross_validated_log_densities(x, weights, shares, grid, 1e-3).min() > -100


@pytest.mark.parametrize("n_rows", [1, 2, 11, 60])
def test_gaussians_of_degenerate_rows_are_positive_definite(n_rows):
    x = np.ones((n_rows, 3))
    x[:, 1] = np.arange(n_rows)
    shares = np.eye(4)[np.arange(n_rows) % 2]
    gaussians = Gaussians.fit(x, np.ones(n_rows), shares, reg_covar=1e-6)
    assert np.linalg.eigvalsh(gaussians.covariances).min() > 0.9e-6


def test_component_without_rows_takes_the_moments_of_all():
    x = rows(3000).numpy()
    x[::2] += 3
    weights = np.linspace(1, 2, 3000)
    shares = np.eye(3)[np.arange(3000) % 2]  # nothing for the third
    gaussians = Gaussians.fit(x, weights, shares, reg_covar=0.0)
    np.testing.assert_allclose(
        gaussians.means[2], np.average(x, axis=0, weights=weights)
    )
    assert np.isfinite(gaussians.covariances).all()
    assert np.linalg.eigvalsh(gaussians.covariances[2]).min() > 1
    assert 0 < gaussians.weights[2] < 1e-5
    assert gaussians.weights.sum() == pytest.approx(1)


def test_gaussians_can_be_reordered():
    gaussians = random_gaussians(3, 2)
    some = gaussians[np.array([2, 0])]
    np.testing.assert_array_equal(some.weights, gaussians.weights[[2, 0]])
    np.testing.assert_array_equal(some.means, gaussians.means[[2, 0]])
    np.testing.assert_array_equal(some.covariances, gaussians.covariances[[2, 0]])


# Supports.


@given(
    chosen=st.integers(1, 12).flatmap(
        lambda n: st.lists(
            st.lists(st.booleans(), min_size=3, max_size=3), min_size=n, max_size=n
        )
    ),
    capacity=st.none() | st.integers(1, 12),
)
def test_support_holds_every_chosen_pair_once(chosen, capacity):
    """The first ones of every component, where a capacity is given."""
    chosen = torch.tensor(chosen)
    support = Support(chosen, capacity)
    if capacity is None:
        capacity = int(chosen.sum(0).max())
    counts = torch.zeros(chosen.shape, dtype=torch.int64)
    for k in range(3):
        for row in support.rows[k][support.valid[k]]:
            counts[row, k] += 1
    assert torch.equal(support.kept, chosen & (chosen.cumsum(0) <= capacity))
    assert torch.equal(counts, support.kept.long())
    assert support.rows.shape == support.valid.shape == (3, capacity)


@each_family
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@each_sharing
def test_log_prob_on_a_support_equals_the_dense_table(flow, share, sharing):
    model = make_model(flow, **sharing)
    x = rows(50)
    chosen = torch.rand(50, 3, generator=seeded(3)) < share
    chosen[0, 0] = True
    support = Support(chosen)
    table = torch.zeros(50, 3, dtype=torch.float64)
    packed = model.training_log_prob(x, support)
    dense = model.component_log_prob(x)
    component = torch.arange(3).unsqueeze(1).expand_as(support.rows)
    table[support.rows[support.valid], component[support.valid]] = packed[support.valid]
    torch.testing.assert_close(
        table, dense.masked_fill(~chosen, 0.0), rtol=0, atol=1e-10
    )
    gathered = support.gather(dense.T)[support.valid]
    torch.testing.assert_close(gathered, packed[support.valid], rtol=0, atol=1e-10)


@each_family
@each_dtype
@pytest.mark.parametrize("spread", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("sizes", [[1, 1, 1], [2, 1], [3]], ids=str)
def test_the_most_probable_group_is_that_of_all_densities(flow, dtype, spread, sizes):
    model = make_model(flow, spread=spread, groups=Groups(sizes)).to(dtype)
    x = torch.cat([rows(300), spread * rows(300), 1e6 * rows(9)]).to(dtype)
    with torch.inference_mode():
        log_prob = model.component_log_prob(x)
        lower, upper = model.components.log_prob_bounds(x)
        expected = model.group_log_joint(x).argmax(1)
        assert torch.equal(model.predict(x), expected)
    slack = 1e-4 * log_prob.abs()
    assert (lower <= log_prob + slack).all()
    assert (log_prob <= upper + slack).all()


def test_rows_of_separate_components_are_told_apart_without_flows():
    model = make_model("nsf", spread=1000.0)
    component = torch.arange(3).repeat(50)
    x = model.sample(component, seeded())
    assert (model.components.log_prob_bounds(x)[1].isfinite().sum(1) == 2).all()
    model.component_log_prob = None  # cannot be called
    assert torch.equal(model.predict(x), component)


def test_a_flow_learns_from_rows_that_it_has_lost():
    """Moved off by a wild step, where only the base has any density there."""
    model = make_model("nsf", 1, 2)
    x = 0.1 * rows(50)
    with torch.no_grad():
        for flows in model.components.flows():
            for parameter in flows.parameters():
                parameter.add_(3.0)
    parameters = [p for flows in model.components.flows() for p in flows.parameters()]
    sizes = []
    for log_prob in (
        model.component_log_prob(x),
        model.training_log_prob(x, AllPairs(1)),
    ):
        gradients = torch.autograd.grad(log_prob.mean(), parameters)
        sizes.append(max(float(g.abs().max()) for g in gradients))
    assert sizes[0] < 0.05 * sizes[1]


@pytest.mark.parametrize("turned", [False, True])
def test_reach_is_the_largest_mahalanobis_distance_of_own_rows(turned):
    gaussians = random_gaussians(3, 2, turned=turned)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 2))
    shares = rng.dirichlet((1, 1), size=60) @ np.eye(2, 3)  # none of the third
    shares[0], x[0] = 0, 100.0
    gaussians.measure_reach(x, shares)
    for k in (0, 1):
        away = (x - gaussians.means[k])[
            (shares.argmax(axis=1) == k) & shares.any(axis=1)
        ]
        squares = np.sum(away @ np.linalg.inv(gaussians.covariances[k]) * away, axis=1)
        assert gaussians.reach[k] == pytest.approx(np.sqrt(squares.max()))
    assert gaussians.reach[2] == 0


# Reordering.


@each_family
@each_sharing
def test_permuted_components_permute_densities_and_posteriors(flow, sharing):
    model = make_model(flow, **sharing)
    x = rows(50)
    index = torch.tensor([2, 0, 1])
    questions = (model.component_log_prob, model.posterior_logits)
    before = [question(x) for question in questions]
    log_weights, log_prob = model.log_weights, model.log_prob(x)
    model.select_(index)
    for table, question in zip(before, questions, strict=True):
        torch.testing.assert_close(question(x), table[:, index])
    torch.testing.assert_close(model.log_weights, log_weights[index])
    torch.testing.assert_close(model.log_prob(x), log_prob)
    labels = torch.arange(3).repeat(10)
    assert model.sample(labels, seeded()).shape == (30, 2)


def test_temperature_divides_the_posteriors_logits():
    model = make_model()
    x = rows(10)
    logits = model.posterior_logits(x)
    model.temperature.fill_(0.25)
    torch.testing.assert_close(model.posterior_logits(x), 4 * logits)


def test_posterior_is_bounded_far_from_the_data():
    model = make_model()
    x = rows(10)
    far = model.posterior_logits(1e12 * x)
    assert far.isfinite().all()
    torch.testing.assert_close(far, model.posterior_logits(1e6 * x))


# Samples.


def test_samples_without_transforms_have_their_components_moments():
    gaussians = random_gaussians(4, 3)
    model = make_model(n_components=4, n_features=3, n_transforms=0)
    # Mixed order, and component 2 is absent.
    labels = torch.tensor([3, 0, 1, 0]).repeat(10_000)
    with torch.no_grad():
        x = model.sample(labels, seeded()).numpy()
    assert x.shape == (40_000, 3)
    for k, n in ((0, 20_000), (1, 10_000), (3, 10_000)):
        own = x[labels.numpy() == k]
        deviations = np.sqrt(np.diag(gaussians.covariances[k]))
        errors = (own.mean(0) - gaussians.means[k]) / (deviations / math.sqrt(n))
        assert np.abs(errors).max() < 4
        np.testing.assert_allclose(
            np.cov(own.T), gaussians.covariances[k], rtol=0, atol=0.05
        )


@each_family
def test_samples_in_one_dimension_follow_the_density(flow):
    """Kolmogorov-Smirnov against the integral of the component's own density."""
    model = make_model(flow, n_components=2, n_features=1)
    x, volumes = grid(1, 4001)
    with torch.no_grad():
        densities = model.component_log_prob(x).exp()
        draws = model.sample(torch.arange(2).repeat(2000), seeded(9)).view(-1, 2)
    for k in range(2):
        cumulated = (volumes * densities[:, k]).cumsum(0)

        def distribution(values, cumulated=cumulated):
            return np.interp(values, x[:, 0].numpy(), cumulated.numpy())

        assert stats.kstest(draws[:, k].numpy(), distribution).pvalue > 1e-3


def test_samples_have_the_densitys_tails():
    model = make_model("realnvp", 1, 1, n_transforms=1, size=0.0)
    n = 400_000
    x, volumes = grid(1, 4001)
    with torch.no_grad():
        draws = model.sample(torch.zeros(n, dtype=torch.int64), seeded())
        density = model.component_log_prob(x)[:, 0].exp()
    center, deviation = float(model.components.means[0]), float(draws.std())
    for reach in (4.0, 6.0):
        beyond = (x[:, 0] - center).abs() > reach * deviation
        expected = n * float(volumes[beyond] @ density[beyond])
        count = ((draws - center).abs() > reach * deviation).sum()
        assert abs(count - expected) < 4 * math.sqrt(expected) + 1


@each_flow_slowly
@each_sharing
def test_samples_have_the_densitys_entropy_and_mean(flow, sharing):
    """Against integrals over a grid, which know nothing of the sampler."""
    model = make_model(flow, size=0.1, **sharing)
    n = 4000
    x, volumes = grid(2, N_POINTS[2])
    with torch.no_grad():
        log_prob_on_grid = model.component_log_prob(x)
        for k in range(3):
            draws = model.sample(torch.full((n,), k), seeded(k))
            log_prob = model.component_log_prob(draws)[:, k]
            on_grid = log_prob_on_grid[:, k]
            mass = volumes * on_grid.exp()
            # Tails are logarithmic: bounded statistics have bounded errors.
            for drawn, known in (
                (log_prob.clamp(min=-12), on_grid.clamp(min=-12)),
                (draws[:, 0].tanh(), x[:, 0].tanh()),
                (draws[:, 1].tanh(), x[:, 1].tanh()),
                ((draws[:, 0] * draws[:, 1]).tanh(), (x[:, 0] * x[:, 1]).tanh()),
            ):
                error = drawn.mean() - mass @ known
                assert abs(error) < 4 * drawn.std() / math.sqrt(n) + 1e-3


@each_family
@pytest.mark.parametrize("n_features", [1, 2, 3, 8])
def test_each_sampled_row_comes_from_its_component(flow, n_features):
    """Far apart, the component of a row is plain to see."""
    gaussians = random_gaussians(3, n_features)
    gaussians.means += 1000 * np.arange(3)[:, None]
    model = MixtureModule.of_flows(
        gaussians,
        flow=flow,
        n_transforms=2,
        hidden_units=(8,),
        posterior_units=(),
        generator=seeded(),
    )
    labels = torch.randint(3, (60,), generator=seeded(1))
    x = model.sample(labels, seeded(2))
    assert torch.equal(model.component_log_prob(x).argmax(1), labels)


def test_sampling_is_reproducible_and_varies():
    model = make_model()
    labels = torch.arange(3).repeat(20)
    one, same = model.sample(labels, seeded(1)), model.sample(labels, seeded(1))
    assert torch.equal(one, same)
    other = model.sample(labels, seeded(2))
    assert not torch.isclose(one, other).any()
    assert len(one.unique(dim=0)) == 60


# The bound.


def random_tables(n_components, seed, size):
    """log p(x|k), log p(k) and log q(k|x) of 20 rows."""
    generator = seeded(seed)
    shapes = (20, n_components), (n_components,), (20, n_components)
    joint, prior, posterior = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return size * joint, prior.log_softmax(0), (size * posterior).log_softmax(1)


@given(
    seed=st.integers(0, 10_000),
    n_components=st.integers(1, 6),
    size=st.floats(0.01, 100.0),
    temperature=st.floats(0.1, 10.0),
)
def test_elbo_never_exceeds_the_log_likelihood(seed, n_components, size, temperature):
    log_prob, log_prior, log_q = random_tables(n_components, seed, size)
    log_q = (log_q / temperature).log_softmax(1)
    elbo = sum(elbo_terms(log_prob, log_prior, log_q))
    log_likelihood = (log_prob + log_prior).logsumexp(1)
    assert (elbo <= log_likelihood + 1e-9).all()


@given(
    seed=st.integers(0, 10_000),
    n_components=st.integers(1, 6),
    size=st.floats(0.01, 10.0),
)
def test_elbo_of_the_exact_posterior_is_the_log_likelihood(seed, n_components, size):
    log_prob, log_prior, _ = random_tables(n_components, seed, size)
    log_joint = log_prob + log_prior
    elbo = sum(elbo_terms(log_prob, log_prior, log_joint.log_softmax(1)))
    torch.testing.assert_close(elbo, log_joint.logsumexp(1), rtol=0, atol=1e-10)


def test_terms_of_the_elbo_are_their_definitions():
    log_prob, log_prior, log_q = random_tables(3, 0, 1.0)
    reconstruction, prior, entropy = elbo_terms(log_prob, log_prior, log_q)
    q = log_q.exp().numpy()
    np.testing.assert_allclose(reconstruction, (q * log_prob.numpy()).sum(1))
    np.testing.assert_allclose(prior, q @ log_prior.numpy())
    np.testing.assert_allclose(entropy, stats.entropy(q, axis=1))


@each_family
def test_elbo_of_a_model_is_below_its_log_likelihood(flow):
    model = make_model(flow, size=0.5)
    x = rows(200)
    log_q = model.posterior_logits(x).log_softmax(1)
    log_prob = model.component_log_prob(x)
    gap = model.log_prob(x) - sum(elbo_terms(log_prob, model.log_weights, log_q))
    # The gap is the Kullback-Leibler divergence of q from the exact posterior.
    log_posterior = (log_prob + model.log_weights).log_softmax(1)
    divergence = (log_q.exp() * (log_q - log_posterior)).sum(1)
    assert gap.min() >= -1e-9 and gap.max() > 0.1
    torch.testing.assert_close(gap, divergence, rtol=0, atol=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_chosen_pairs_have_their_log_densities(share):
    model, x = make_model(), rows(50)
    chosen = torch.rand(50, 3, generator=seeded(), dtype=torch.float64) < share
    with torch.no_grad():
        log_prob = model.chosen_log_prob(x, chosen)
        expected = model.component_log_prob(x).masked_fill(~chosen, -torch.inf)
    torch.testing.assert_close(log_prob, expected)
