"""Random data sets that are awkward in many ways at once."""

import numpy as np


def _normal(rng, n):
    return rng.normal(size=n)


def _groups(rng, n):
    return rng.choice([-3.0, 0.0, 4.0], size=n) + 0.3 * rng.normal(size=n)


def _integers(rng, n):
    return rng.poisson(3.0, size=n).astype(float)


def _two_values(rng, n):
    return (rng.random(n) < 0.3).astype(float)


def _rounded(rng, n):
    return np.round(rng.normal(size=n), 1)


def _zero_inflated(rng, n):
    return np.where(rng.random(n) < 0.6, 0.0, rng.lognormal(size=n))


def _bounded(rng, n):
    return rng.beta(0.5, 0.5, size=n)


def _skewed(rng, n):
    return rng.exponential(size=n)


def _heavy_tailed(rng, n):
    return rng.standard_t(2, size=n)


def _nearly_constant(rng, n):
    return np.where(rng.random(n) < 0.02, rng.normal(size=n), 7.0)


def _constant(rng, n):
    return np.full(n, 7.0)


COLUMNS = (
    _normal,
    _groups,
    _integers,
    _two_values,
    _rounded,
    _zero_inflated,
    _bounded,
    _skewed,
    _heavy_tailed,
    _nearly_constant,
    _constant,
)


def awkward_rows(seed, n_fresh=1000):
    """Rows to fit and fresh ones of the same law.

    Up to eight columns of different kinds, some mixed with others or repeated, in units
    from 1e-6 to 1e6; 6 to 400 rows, some of them repeated.

    Parameters
    ----------
    seed : int
        Determines everything.
    n_fresh : int, default=1000
        Number of fresh rows.

    Returns
    -------
    X : ndarray of shape (n, D)
        Rows to fit.
    fresh : ndarray of shape (n_fresh, D)
        Fresh rows.
    """
    rng = np.random.default_rng(seed)
    n = int(np.exp(rng.uniform(np.log(6), np.log(400))))
    kinds = rng.choice(len(COLUMNS), size=rng.integers(1, 9))
    columns = [COLUMNS[kind](rng, n + n_fresh) for kind in kinds]
    for j in range(1, len(columns)):
        way = rng.random()
        if way < 0.2:
            columns[j] = columns[j] + columns[rng.integers(j)]
        elif way < 0.3:
            columns[j] = columns[rng.integers(j)].copy()
    units = 10.0 ** rng.integers(-6, 7, size=len(columns))
    rows = np.stack(columns, axis=1) * units
    X = rows[:n]
    if rng.random() < 0.3:
        X = X[rng.integers(n, size=n)]
    return X, rows[n:]
