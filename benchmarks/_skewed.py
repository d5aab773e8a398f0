"""Generated groups in skewed columns, for `partitions.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.datasets import make_circles, make_moons

Drawing = tuple[np.ndarray, np.ndarray]
N_ROWS = 900


def _scales(rng, y, k, n_columns, spread):
    """A log-normal factor for each row, the same for all rows of a group and column."""
    return np.exp(spread * rng.normal(size=(k, n_columns)))[y]


def chi_squared(rng) -> Drawing:
    """Groups that differ in their degrees of freedom, from 1 to 30."""
    y = rng.integers(3, size=N_ROWS)
    return rng.chisquare(np.exp(rng.uniform(0, 3.4, size=(3, 4)))[y]), y


def inverse_gamma(rng) -> Drawing:
    y = rng.integers(3, size=N_ROWS)
    return _scales(rng, y, 3, 3, 1.2) / rng.gamma(3, size=(N_ROWS, 3)), y


def half_normal(rng) -> Drawing:
    y = rng.integers(3, size=N_ROWS)
    return _scales(rng, y, 3, 4, 0.9) * np.abs(rng.normal(size=(N_ROWS, 4))), y


def reflected_gamma(rng) -> Drawing:
    y = rng.integers(3, size=N_ROWS)
    return 100 - _scales(rng, y, 3, 3, 0.9) * rng.gamma(2, size=(N_ROWS, 3)), y


def unequal_lognormal(rng) -> Drawing:
    """Shares of 75, 20 and 5 %."""
    y = rng.choice(3, N_ROWS, p=[0.75, 0.2, 0.05])
    noise = np.exp(0.5 * rng.normal(size=(N_ROWS, 4)))
    return _scales(rng, y, 3, 4, 1.3) * noise, y


def few_lognormal(rng) -> Drawing:
    """160 rows."""
    y = rng.integers(3, size=160)
    return _scales(rng, y, 3, 4, 1.2) * np.exp(0.5 * rng.normal(size=(160, 4))), y


def rounded_lognormal(rng) -> Drawing:
    y = rng.integers(3, size=N_ROWS)
    noise = np.exp(4 + 0.5 * rng.normal(size=(N_ROWS, 3)))
    return np.round(_scales(rng, y, 3, 3, 1.2) * noise), y


def exponential_of_moons(rng) -> Drawing:
    X, y = make_moons(N_ROWS, noise=0.07, random_state=int(rng.integers(1000)))
    return np.exp(1.2 * X), y


def moons_and_waiting_times(rng) -> Drawing:
    """Moons beside an exponential column that says nothing."""
    X, y = make_moons(N_ROWS, noise=0.07, random_state=int(rng.integers(1000)))
    return np.c_[X, rng.exponential(size=N_ROWS)], y


def rings_and_amounts(rng) -> Drawing:
    """Two rings beside a log-normal column that says nothing."""
    seed = int(rng.integers(1000))
    X, y = make_circles(N_ROWS, noise=0.04, factor=0.4, random_state=seed)
    return np.c_[X, rng.lognormal(size=N_ROWS)], y


def skew_normal(rng) -> Drawing:
    """Groups of one skewed shape at different places."""
    y = rng.integers(3, size=N_ROWS)
    noise = 2 * np.abs(rng.normal(size=(N_ROWS, 4)))
    noise += 0.4 * rng.normal(size=(N_ROWS, 4))
    return 2.5 * rng.normal(size=(3, 4))[y] + noise, y


def normal_of_unequal_sizes(rng) -> Drawing:
    """Normal groups whose unequal shares make the columns skewed."""
    y = rng.choice(4, N_ROWS, p=[0.55, 0.25, 0.12, 0.08])
    sizes = np.array([0.4, 0.8, 1.2, 2.0])[y][:, None]
    X = rng.uniform(-6, 6, size=(4, 3))[y]
    return X + sizes * rng.normal(size=(N_ROWS, 3)), y


SKEWED: dict[str, Callable[[np.random.Generator], Drawing]] = {
    function.__name__: function
    for function in (
        chi_squared,
        inverse_gamma,
        half_normal,
        reflected_gamma,
        unequal_lognormal,
        few_lognormal,
        rounded_lognormal,
        exponential_of_moons,
        moons_and_waiting_times,
        rings_and_amounts,
        skew_normal,
        normal_of_unequal_sizes,
    )
}


def draw(name: str, seed: int) -> Drawing:
    """Rows of a kind and their labels."""
    return SKEWED[name](np.random.default_rng([seed, *name.encode()]))
