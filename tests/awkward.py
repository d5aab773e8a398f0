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


# Those of which no value repeats.
CONTINUOUS = (_normal, _groups, _bounded, _skewed, _heavy_tailed)


def _coded(rng, rows):
    """Put a code for missing values below, above or among those of a column or two."""
    n, n_columns = rows.shape
    code = rng.choice([-999.0, 99.0, -1.0, 1e9])
    share = rng.uniform(0.01, 0.2)
    for j in rng.permutation(n_columns)[: rng.integers(1, 3)]:
        rows[rng.random(n) < share, j] = code
    return rows


def _far_apart(rng, rows):
    """Move up to three groups 100 to 1e6 spreads away, in some of the columns."""
    n, n_columns = rows.shape
    spreads = rows.std(axis=0) + (np.ptp(rows, axis=0) == 0)
    group = rng.choice(4, size=n, p=rng.dirichlet([6, 2, 2, 1]))
    for number in range(1, rng.integers(2, 5)):
        direction = rng.normal(size=n_columns) * (rng.random(n_columns) < 0.7)
        distance = 10 ** rng.uniform(2, 6)
        rows[group == number] += distance * direction * spreads
    return rows


def _tied(rng, rows):
    """Round columns, to whole multiples of their spread or of parts of it."""
    rounded = rng.random(rows.shape[1]) < 0.7
    step = rows.std(axis=0) * rng.choice([0.2, 0.5, 1.0, 2.0], size=rows.shape[1])
    rounded &= step > 0
    rows[:, rounded] = np.round(rows[:, rounded] / step[rounded]) * step[rounded]
    ages = 5 * np.round(rng.normal(45, 15, size=len(rows)) / 5)
    if rng.random() < 0.5:
        rows[:, rng.integers(rows.shape[1])] = ages
    return rows


def _narrow_in_a_group(rng, rows):
    """Make columns constant, or nearly so, in one group of the rows."""
    n, n_columns = rows.shape
    narrow = rng.random(n_columns) < 0.5
    narrow[rng.integers(n_columns)] = True
    group = rng.random(n) < rng.uniform(0.1, 0.6)
    place = rng.normal(size=n_columns) * rows.std(axis=0)
    width = rng.choice([0.0, 1e-12, 1e-9, 1e-6, 1e-3])
    spread = width * (rows - rows.mean(axis=0))
    return np.where(group[:, None] & narrow, place + spread, rows)


HARDSHIPS = (_coded, _far_apart, _tied, _narrow_in_a_group)


def _columns(rng, n, kinds, copies):
    """Up to eight columns of those kinds, some mixed with others or copied."""
    chosen = rng.choice(len(kinds), size=rng.integers(1, 9))
    columns = [kinds[kind](rng, n) for kind in chosen]
    for j in range(1, len(columns)):
        way = rng.random()
        if way < 0.2:
            columns[j] = columns[j] + columns[rng.integers(j)]
        elif way < 0.3 and copies:
            columns[j] = columns[rng.integers(j)].copy()
    return np.stack(columns, axis=1)


def _number_of_rows(rng, largest):
    return int(np.exp(rng.uniform(np.log(6), np.log(largest))))


def _with_absurd_value(rng, X):
    """Let one cell be a million standard deviations out, or 1e9."""
    X = X.copy()
    i, j = rng.integers(len(X)), rng.integers(X.shape[1])
    distance = rng.choice([1e6 * X[:, j].std(), 1e9])
    X[i, j] += rng.choice([-1, 1]) * distance
    return X


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
    n = _number_of_rows(rng, 400)
    rows = _columns(rng, n + n_fresh, COLUMNS, copies=True)
    rows *= 10.0 ** rng.integers(-6, 7, size=rows.shape[1])
    X = rows[:n]
    if rng.random() < 0.3:
        X = X[rng.integers(n, size=n)]
    return X, rows[n:]


def spoilt_rows(seed, n_fresh=1000):
    """Awkward rows that are spoilt in one way or several.

    By codes for missing values, groups that are far apart, ties (of up to 3000 rows)
    and one absurd value.

    Parameters
    ----------
    seed, n_fresh : int
        As for `awkward_rows`.

    Returns
    -------
    X, fresh : ndarray
        As of `awkward_rows`; in the fresh rows no value is absurd.
    """
    rng = np.random.default_rng([seed, 1])
    n_ways = 1 + rng.binomial(len(HARDSHIPS), 0.3)
    ways = rng.permutation(len(HARDSHIPS) + 1)[:n_ways]
    hardships = [HARDSHIPS[way] for way in ways if way < len(HARDSHIPS)]
    n = _number_of_rows(rng, 3000 if _tied in hardships else 400)
    rows = _columns(rng, n + n_fresh, COLUMNS, copies=True)
    for hardship in hardships:
        rows = hardship(rng, rows)
    X, fresh = rows[:n], rows[n:]
    if len(HARDSHIPS) in ways:
        X = _with_absurd_value(rng, X)
    units = 10.0 ** rng.integers(-6, 7, size=rows.shape[1])
    return X * units, fresh * units


def continuous_rows(seed, n_fresh=1000):
    """Rows of a law with a density: of no column does a value repeat.

    Up to eight columns, some mixed with others, some sets with groups that are far
    apart or with one absurd value. Units are no less than one: scikit-learn's
    `reg_covar` is to be small beside the variances.

    Parameters
    ----------
    seed, n_fresh : int
        As for `awkward_rows`.

    Returns
    -------
    X, fresh : ndarray
        As of `awkward_rows`; in the fresh rows no value is absurd.
    """
    rng = np.random.default_rng([seed, 2])
    n = _number_of_rows(rng, 400)
    rows = _columns(rng, n + n_fresh, CONTINUOUS, copies=False)
    if rng.random() < 0.3:
        rows = _far_apart(rng, rows)
    X, fresh = rows[:n], rows[n:]
    if rng.random() < 0.15:
        X = _with_absurd_value(rng, X)
    units = 10.0 ** rng.integers(0, 7, size=rows.shape[1])
    return X * units, fresh * units
