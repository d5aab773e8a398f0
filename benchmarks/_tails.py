"""Generated groups with tails, or on a background, for `partitions.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

Drawing = tuple[np.ndarray, np.ndarray]
N_ROWS = 800


def student_t(rng, df, n_columns, k, distance) -> Drawing:
    """Multivariate t; centres are normal, with standard deviation `distance`."""
    y = rng.integers(k, size=N_ROWS)
    centres = distance * rng.normal(size=(k, n_columns))
    radii = np.sqrt(rng.chisquare(df, N_ROWS) / df)
    return centres[y] + rng.normal(size=(N_ROWS, n_columns)) / radii[:, None], y


def shifted(rng, law, n_columns, k, distance) -> Drawing:
    """Groups of one skewed law, mirrored at random in each column, at random places."""
    y = rng.integers(k, size=N_ROWS)
    signs = rng.choice([-1, 1], size=(k, n_columns))
    places = distance * rng.normal(size=(k, n_columns))
    return signs[y] * law(rng, (N_ROWS, n_columns)) + places[y], y


def scaled(rng, law, n_columns, k) -> Drawing:
    """Groups of one positive law that differ in the scales of their columns."""
    y = rng.integers(k, size=N_ROWS)
    scales = 12.0 ** rng.uniform(-1, 1, size=(k, n_columns))
    return scales[y] * law(rng, (N_ROWS, n_columns)), y


def on_background(rng, share, n_columns, k) -> Drawing:
    """k - 1 normal groups, which may overlap, and a uniform one around them."""
    shares = np.append(np.full(k - 1, (1 - share) / (k - 1)), share)
    y = rng.choice(k, N_ROWS, p=shares)
    X = rng.uniform(-4, 4, (k, n_columns))[y]
    X += 0.4 * rng.normal(size=(N_ROWS, n_columns))
    X[y == k - 1] = rng.uniform(-6, 6, (np.sum(y == k - 1), n_columns))
    return X, y


def _exponential(rng, shape):
    return rng.exponential(size=shape)


def _lognormal(rng, shape):
    return rng.lognormal(sigma=0.8, size=shape)


TAILS: dict[str, Callable[[np.random.Generator], Drawing]] = {
    "t2, 2 columns": partial(student_t, df=2, n_columns=2, k=3, distance=4),
    "t2, 4 columns": partial(student_t, df=2, n_columns=4, k=3, distance=4),
    "t2, 8 columns": partial(student_t, df=2, n_columns=8, k=5, distance=3),
    "t3, 4 columns": partial(student_t, df=3, n_columns=4, k=2, distance=4),
    "t3, 8 columns": partial(student_t, df=3, n_columns=8, k=4, distance=3),
    "exponential": partial(shifted, law=_exponential, n_columns=3, k=3, distance=2.5),
    "lognormal": partial(shifted, law=_lognormal, n_columns=4, k=4, distance=2.5),
    "scaled exponential": partial(scaled, law=_exponential, n_columns=3, k=3),
    "scaled lognormal": partial(scaled, law=_lognormal, n_columns=3, k=3),
    "background of .3": partial(on_background, share=0.3, n_columns=2, k=3),
    "background of .5": partial(on_background, share=0.5, n_columns=2, k=3),
    "background in 4 columns": partial(on_background, share=0.3, n_columns=4, k=4),
}


def draw(name: str, seed: int) -> Drawing:
    """Rows of a kind and their labels."""
    return TAILS[name](np.random.default_rng([seed, *name.encode()]))
