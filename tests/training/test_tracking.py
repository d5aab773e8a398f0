"""Densities of fixed rows, followed at the cost of the pairs that matter."""

import math

import pytest
import torch
from small_modules import flow_parameters, make_model, rows, seeded

from skflowmix.training.tracking import DENSE_EVERY, LEAST_SHARE, TrackedDensities

N_ROWS = 60


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def x():
    return rows(N_ROWS)


def change(model, size, seed=4):
    generator = seeded(seed)
    with torch.no_grad():
        for p in flow_parameters(model):
            p += size * torch.randn(p.shape, generator=generator, dtype=p.dtype)


@torch.no_grad()
def exact(model, x):
    return model.component_log_prob(x)


def mixture(model, log_prob):
    return (log_prob + model.log_weights).logsumexp(1).detach()


def test_all_pairs_are_computed_first_and_every_so_often(model, x):
    tracked = TrackedDensities(model, x)
    torch.testing.assert_close(tracked.log_prob, exact(model, x))
    for _ in range(DENSE_EVERY):
        change(model, 0.3)
        log_prob = tracked.update()
    torch.testing.assert_close(log_prob, exact(model, x))


def test_the_density_of_a_row_is_off_by_less_than_the_least_share(model, x):
    """Where parameters change as in an epoch."""
    tracked = TrackedDensities(model, x)
    for seed in range(DENSE_EVERY - 1):
        change(model, 0.003, seed)
        error = mixture(model, tracked.update()) - mixture(model, exact(model, x))
        assert error.abs().max() < LEAST_SHARE


def test_pairs_that_matter_are_computed_anew_and_no_others(model, x):
    tracked = TrackedDensities(model, x)
    before = tracked.log_prob
    log_joint = before + model.log_weights
    shares = log_joint.softmax(1)
    change(model, 0.1)
    after = tracked.update()
    anew = torch.isclose(after, exact(model, x), rtol=0, atol=1e-9)
    kept = after == before
    assert (anew | kept).all()
    assert anew[shares > LEAST_SHARE].all()
    assert kept[shares < LEAST_SHARE / 10 / model.n_components].any()


def test_pairs_that_are_needed_are_always_computed(model, x):
    needed = torch.zeros(N_ROWS, model.n_components, dtype=torch.bool)
    needed[::2] = True
    tracked = TrackedDensities(model, x, needed)
    change(model, 0.1)
    after = tracked.update()
    torch.testing.assert_close(after[::2], exact(model, x)[::2])


def test_pairs_of_a_known_class_are_computed(model, x):
    """The most likely ones of those that it allows, however unlikely."""
    allowed = torch.zeros(N_ROWS, model.n_components, dtype=torch.bool)
    allowed[:, 0] = True
    tracked = TrackedDensities(model, x, allowed=allowed)
    change(model, 0.1)
    torch.testing.assert_close(tracked.update()[:, 0], exact(model, x)[:, 0])


def test_what_is_not_finite_is_computed_anew(model, x):
    tracked = TrackedDensities(model, x)
    tracked.log_prob[3] = math.nan
    assert tracked.update().isfinite().all()


def test_another_goes_on_from_the_state(model, x):
    one = TrackedDensities(model, x)
    change(model, 0.1)
    one.update()
    other = TrackedDensities(model, x)
    other.load_state_dict(one.state_dict())
    for _ in range(DENSE_EVERY):
        change(model, 0.1)
        torch.testing.assert_close(one.update(), other.update(), rtol=0, atol=0)
