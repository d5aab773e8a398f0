"""Location and scale of a column hold with a quarter of its values far off."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skflowmix.starts.preprocessing import Standardizer
from skflowmix.starts.robust import lone_heaps, usual_interval, weighted_quantile

N = 2000

USUAL = {
    "normal": lambda rng: rng.normal(size=N),
    "uniform": lambda rng: rng.uniform(size=N),
    "exponential": lambda rng: rng.exponential(size=N),
    "lognormal": lambda rng: rng.lognormal(size=N),
    "poisson": lambda rng: rng.poisson(3.0, size=N).astype(float),
    "rare counts": lambda rng: rng.poisson(0.2, size=N).astype(float),
    "flag": lambda rng: (rng.random(N) < 0.3).astype(float),
    "rare flag": lambda rng: (rng.random(N) < 0.01).astype(float),
    "groups": lambda rng: rng.choice([-3.0, 0.0, 4.0], N) + 0.3 * rng.normal(size=N),
    **{
        f"{share:.0%} zeros": lambda rng, share=share: np.where(
            rng.random(N) < share, 0.0, rng.lognormal(size=N)
        )
        for share in (0.3, 0.6, 0.74, 0.76, 0.9)
    },
}
each_usual = pytest.mark.parametrize("name", USUAL)


@each_usual
def test_usual_columns_have_no_far_values(name):
    x = USUAL[name](np.random.default_rng(0))
    low, high, center, spread = usual_interval(x, np.ones(N))
    assert low <= x.min() and x.max() <= high
    assert_allclose(center, x.mean(), atol=0.1 * x.std())
    assert_allclose(spread, x.std(), rtol=0.1)


@pytest.mark.parametrize("name", ["normal", "uniform", "poisson", "groups"])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.24])
@pytest.mark.parametrize("code", [-99.0, -999.0, 99.0, 1e9])
def test_codes_leave_location_and_scale(name, share, code):
    rng = np.random.default_rng(1)
    x = USUAL[name](rng)
    is_code = np.arange(N) < share * N
    low, high, center, spread = usual_interval(np.where(is_code, code, x), np.ones(N))
    if not low <= code <= high:
        assert_allclose(spread, x[~is_code].std(), rtol=0.05)
        assert_allclose(center, x[~is_code].mean(), atol=0.05 * spread)
    # Otherwise it lies near enough to do no harm.
    assert spread < 3.2 * x.std()
    assert ((x[~is_code] >= low) & (x[~is_code] <= high)).all()


@pytest.mark.parametrize("name", ["30% zeros", "60% zeros", "76% zeros", "flag"])
def test_codes_beside_a_heap(name):
    x = USUAL[name](np.random.default_rng(2))
    x[:40] = -999.0
    low, high, _, spread = usual_interval(x, np.ones(N))
    assert low > -999.0 and np.mean(x > high) < 0.01
    assert_allclose(spread, x[40:].std(), rtol=0.3)


def test_codes_on_both_sides():
    x = np.random.default_rng(0).normal(size=N)
    x[:200], x[200:450] = -999.0, 9999.0
    low, high, _, spread = usual_interval(x, np.ones(N))
    assert low > -999 and high < 9999
    assert_allclose(spread, 1.0, rtol=0.05)


@each_usual
def test_a_weight_equals_repetition(name):
    rng = np.random.default_rng(3)
    x, counts = USUAL[name](rng), rng.integers(1, 4, size=N)
    weighted = usual_interval(x, counts.astype(float))
    repeated = usual_interval(np.repeat(x, counts), np.ones(counts.sum()))
    assert_allclose(weighted, repeated, rtol=0.02, atol=0.02)


@given(
    factor=st.floats(1e-30, 1e30),
    shift=st.floats(-1e3, 1e3),
    seed=st.integers(0, 100),
)
def test_units_do_not_matter(factor, shift, seed):
    rng = np.random.default_rng(seed)
    x = USUAL["normal"](rng)
    x[: rng.integers(0, 400)] = 1e4
    low, high, center, spread = usual_interval(x, np.ones(N))
    scaled = usual_interval(factor * (x + shift), np.ones(N))
    expected = factor * np.array([low + shift, high + shift, center + shift, spread])
    assert_allclose(scaled, expected, rtol=1e-6, atol=1e-6 * factor)


def test_one_absurd_value_is_far():
    x = np.random.default_rng(0).normal(size=(N, 1))
    x[0] = 1e300
    standardizer = Standardizer.fit(x, np.ones(N))
    far = standardizer.far(standardizer.transform(x, 1e8))
    assert far[0].all() and not far[1:].any()
    assert_allclose(standardizer.scale, 1.0, rtol=0.1)


def test_weighted_quantile_is_numpys():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=50), rng.integers(1, 5, size=50).astype(float)
    levels = [0.0, 0.01, 0.3, 0.5, 0.999, 1.0]
    expected = np.quantile(x, levels, weights=weights, method="inverted_cdf")
    np.testing.assert_array_equal(weighted_quantile(x, weights, levels), expected)


@pytest.mark.parametrize(("n_values", "n_found"), [(1, 1), (3, 3), (4, 0), (20, 0)])
def test_a_column_has_few_heaps_or_is_a_grid(n_values, n_found):
    rng = np.random.default_rng(0)
    column = np.concatenate(
        [rng.normal(size=1000), np.repeat(np.linspace(-1, 1, n_values), 20)]
    )
    heaps = lone_heaps(column, np.ones(len(column)))
    assert heaps.max() + 1 == n_found
    assert (heaps[:1000] == -1).all()
