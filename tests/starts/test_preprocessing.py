"""Rows before they meet the model: merged, standardised, split."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import chi2

from skflowmix.starts.preprocessing import (
    SCORING_BOUND,
    Standardizer,
    column_space,
    count_directions,
    merge_identical_rows,
    outside_spikes,
    repeat_widths,
    row_counts,
    split_rows,
    weighted_quantile,
)

FEW_VALUES = st.sampled_from([-1e300, -2.5, -0.0, 0.0, 1e-310, 1.0, 1.0 + 2**-52, 7.0])


@st.composite
def weighted_rows(draw):
    """Up to 30 rows with many repetitions, and integer weights."""
    shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 3)))
    X = draw(hnp.arrays(np.float64, shape, elements=FEW_VALUES))
    counts = draw(hnp.arrays(np.int64, shape[:1], elements=st.integers(1, 4)))
    order = draw(st.permutations(range(shape[0])))
    return X, counts, np.array(order)


def standard(X, weights=None):
    weights = np.ones(len(X)) if weights is None else weights
    return Standardizer.fit(X, weights)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# Merging.


@given(weighted_rows())
def test_merged_rows_are_the_distinct_rows_with_their_weights(data):
    X, counts, _ = data
    rows, weights, inverse = merge_identical_rows(X, counts.astype(float))
    np.testing.assert_array_equal(rows[inverse], X)
    assert len({tuple(row) for row in rows}) == len(rows)
    totals = np.array([counts[inverse == i].sum() for i in range(len(rows))])
    np.testing.assert_allclose(weights, totals / totals.mean())
    assert weights.mean() == pytest.approx(1)


@given(weighted_rows())
def test_merging_does_not_depend_on_the_order_of_rows(data):
    X, counts, order = data
    weights = counts.astype(float)
    rows, merged, inverse = merge_identical_rows(X, weights)
    for again, expected in zip(
        merge_identical_rows(X[order], weights[order]),
        (rows, merged, inverse[order]),
        strict=True,
    ):
        np.testing.assert_array_equal(again, expected)


@given(weighted_rows())
def test_merging_makes_weight_equal_repetition(data):
    X, counts, _ = data
    weighted = merge_identical_rows(X, counts.astype(float))
    repeated = merge_identical_rows(np.repeat(X, counts, axis=0), np.ones(counts.sum()))
    for one, other in zip(weighted[:2], repeated[:2], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.repeat(weighted[2], counts), repeated[2])


@given(
    hnp.arrays(np.int64, st.integers(1, 20), elements=st.integers(1, 300)),
    st.floats(1e-3, 1e3),
    st.integers(1, 5),
)
def test_rows_are_counted_in_the_common_divisor_of_their_weights(counts, factor, times):
    """Whatever their scale, and however often the table is given."""
    X = np.arange(len(counts))[:, None]
    X, weights = np.tile(X, (times, 1)), np.tile(factor * counts, times)
    rows, merged, _ = merge_identical_rows(X, weights)
    expected = counts[rows[:, 0].astype(int)] / np.gcd.reduce(counts)
    np.testing.assert_array_equal(row_counts(merged), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_real_weights_count_once(dtype):
    weights = np.random.default_rng(0).random(50, dtype=dtype).astype(float)
    np.testing.assert_array_equal(row_counts(weights), np.ones(50))
    np.testing.assert_array_equal(row_counts(np.array([1e-300, 1.0])), np.ones(2))


def test_a_million_rows_of_few_values_are_counted():
    counts = np.array([1.0, 7.0, 499_979.0, 500_013.0])
    np.testing.assert_array_equal(row_counts(counts / counts.mean()), counts)


def test_negative_zero_equals_zero():
    X = np.array([[0.0, 1.0], [-0.0, 1.0], [-0.0, -1.0], [0.0, -1.0]])
    rows, weights, inverse = merge_identical_rows(X, np.array([1.0, 2.0, 3.0, 4.0]))
    assert len(rows) == 2
    assert not np.signbit(rows[:, 0]).any()
    np.testing.assert_allclose(sorted(weights), [0.6, 1.4])
    assert inverse[0] == inverse[1] != inverse[2] == inverse[3]
    assert np.signbit(X[1, 0])  # the caller's array is left alone


@pytest.mark.parametrize("unit", [1.0, 0.1, 2.0**-30, 1e9])
def test_merged_rows_of_a_grid_are_in_random_order(unit):
    grid = unit * np.stack(np.meshgrid(np.arange(100), np.arange(100)), -1)
    rows, _, _ = merge_identical_rows(grid.reshape(-1, 2), np.ones(10_000))
    for column in rows[:2000].T:
        _, counts = np.unique(column, return_counts=True)
        # Hypergeometric: twenty of each value, with variance 16.
        assert np.sum((counts - 20) ** 2 / 16) < chi2.ppf(0.999, 99)
    steps = np.abs(np.diff(rows, axis=0)).mean() / unit
    assert steps == pytest.approx(100 / 3, rel=0.03)


def test_rows_that_share_a_hash_are_kept_apart(monkeypatch):
    X = np.random.default_rng(0).integers(3, size=(60, 2)).astype(float)
    weights = np.linspace(1, 2, 60)
    plain = merge_identical_rows(X, weights)
    unique = np.unique
    collisions = []

    def colliding_unique(values, *args, **kwargs):
        if values.dtype == np.uint64:
            values = values % np.uint64(4)
            collisions.append(len(unique(values)))
        return unique(values, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(np, "unique", colliding_unique)
        found = merge_identical_rows(X, weights)
        shuffled = merge_identical_rows(X[::-1], weights[::-1])
    assert collisions[0] <= 4 < len(plain[0])

    def table(merged):
        return sorted(zip(map(tuple, merged[0]), merged[1].round(12), strict=True))

    assert table(found) == table(plain)
    np.testing.assert_array_equal(found[0][found[2]], X)
    np.testing.assert_array_equal(found[0], shuffled[0])


def test_rows_that_differ_in_one_bit_or_in_column_order_stay_apart():
    X = np.array(
        [[1.0, 2.0], [2.0, 1.0], [1.0, np.nextafter(2, 3)], [-1.0, 2.0], [1.0, -2.0]]
    )
    rows, _, _ = merge_identical_rows(X, np.ones(5))
    assert len(rows) == 5


def test_merged_rows_are_float64_whatever_they_were():
    X = np.array([[1, 2], [1, 2], [3, 4]])
    for dtype in (np.int64, np.float32, np.float64):
        rows, weights, _ = merge_identical_rows(X.astype(dtype), np.ones(3))
        assert rows.dtype == weights.dtype == np.float64
        assert len(rows) == 2
    fortran = merge_identical_rows(np.asfortranarray(X, dtype=float), np.ones(3))
    np.testing.assert_array_equal(fortran[0], rows)


def test_order_of_merged_rows_is_not_that_of_their_values():
    """Sorted rows would make batches and validation sets of neighbours."""
    rows, _, _ = merge_identical_rows(np.arange(1000.0)[:, None], np.ones(1000))
    correlation = np.corrcoef(rows[:, 0], np.arange(1000))[0, 1]
    assert abs(correlation) < 0.1


# Quantiles.


@given(
    x=hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e6, 1e6)),
    data=st.data(),
    level=st.sampled_from([0.0, 0.01, 0.05, 0.25, 0.5, 0.9, 0.99, 1.0]),
)
def test_weighted_quantile_is_that_of_repeated_values(x, data, level):
    counts = data.draw(hnp.arrays(np.int64, len(x), elements=st.integers(1, 5)))
    (found,) = weighted_quantile(x, counts.astype(float), [level])
    repeated = np.repeat(x, counts)
    assert found == np.quantile(repeated, level, method="inverted_cdf")


def test_weighted_quantiles_by_hand():
    x, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.0, 7.0])
    levels = [0.0, 0.2, 0.21, 0.9, 0.91, 1.0]
    np.testing.assert_array_equal(
        weighted_quantile(x, weights, levels), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    )


@pytest.mark.parametrize("n", [3, 7, 10, 49, 100])
@pytest.mark.parametrize("weight", [0.1, 1 / 3, 1e-5, 1e300])
def test_rounding_of_the_shares_does_not_move_a_quantile(n, weight):
    x, levels = np.arange(float(n)), np.arange(1, n + 1) / n
    found = weighted_quantile(x, np.full(n, weight), levels)
    np.testing.assert_array_equal(found, x)


# Standardising.


def test_standardizer_of_clean_rows_is_mean_and_standard_deviation():
    X = normal(1000, 3) * [1.0, 10.0, 0.1] + [5.0, 0.0, -3.0]
    weights = np.random.default_rng(1).uniform(0.5, 2, 1000)
    standardizer = standard(X, weights)
    mean = np.average(X, axis=0, weights=weights)
    variance = np.average((X - mean) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(standardizer.location, mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(standardizer.scale, np.sqrt(variance), rtol=1e-12)
    x = standardizer.transform(X, 30.0)
    np.testing.assert_allclose(np.average(x, axis=0, weights=weights), 0, atol=1e-12)


@pytest.mark.parametrize("far", [1e9, -1e9, 1e300, -1e300])
@pytest.mark.parametrize("n_rows", [20, 200])
def test_one_far_row_does_not_flatten_the_rest(far, n_rows):
    X = normal(n_rows, 2)
    clean = standard(X)
    X[0, 0] = far
    standardizer = standard(X)
    assert 0.5 < standardizer.scale[0] / clean.scale[0] < 2.5
    assert abs(standardizer.location[0] - clean.location[0]) < clean.scale[0]
    assert standardizer.scale[1] == clean.scale[1]
    x = standardizer.transform(X, 30.0)
    assert np.isfinite(x).all()
    assert x[0, 0] == np.sign(far) * 30
    assert x[1:, 0].std() > 0.4


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-9, 0.1, 1e300, -1.7e308, 5e-324])
def test_constant_column_has_scale_one(value):
    X = np.column_stack((normal(50), np.full(50, value)))
    standardizer = standard(X, np.linspace(1, 3, 50))
    assert standardizer.location[1] == value
    assert standardizer.scale[1] == 1
    x = standardizer.transform(X, 30.0)
    np.testing.assert_array_equal(x[:, 1], 0)


def test_column_that_differs_by_rounding_only_counts_as_constant():
    X = np.full((50, 1), 0.1)
    X[::2] = np.nextafter(0.1, 1)
    assert standard(X).scale[0] == 1


@pytest.mark.parametrize("share", [0.5, 0.96, 0.995])
def test_column_that_is_nearly_always_one_value_has_a_spread(share):
    """Counts with many zeros: the quantiles coincide, the column is not constant."""
    X = np.zeros((1000, 1))
    n = round(1000 * (1 - share))
    X[:n, 0] = 1 + np.arange(n) % 3
    standardizer = standard(X)
    assert 0 < standardizer.scale[0] <= X.std() * 1.0001
    assert np.abs(standardizer.transform(X, np.inf)).max() < 100


@given(exponent=st.integers(-12, 12), shift=st.sampled_from([0.0, 3.0, -100.0]))
def test_standardized_rows_do_not_depend_on_units(exponent, shift):
    X = normal(60, 2) + shift
    unit = 10.0**exponent
    x = standard(X).transform(X, 30.0)
    scaled = standard(X * unit).transform(X * unit, 30.0)
    np.testing.assert_allclose(scaled, x, rtol=1e-9, atol=1e-9)
    assert standard(X * unit).log_scale - standard(X).log_scale == pytest.approx(
        2 * np.log(unit), abs=1e-9
    )


@pytest.mark.parametrize("unit", [1.7e308, 1e300, 1e-290, 1e-307, 1e-315, 5e-324])
def test_rows_near_the_float_limits(unit):
    """No overflow, no warning (they are errors here), nothing that is not finite."""
    X = np.clip(normal(100, 2) / 4, -1, 1) * unit
    standardizer = standard(X)
    assert np.isfinite(standardizer.location).all()
    assert np.isfinite(standardizer.scale).all() and (standardizer.scale > 0).all()
    assert np.isfinite(standardizer.log_scale)
    x = standardizer.transform(X, SCORING_BOUND[X.dtype])
    assert np.isfinite(x).all() and np.abs(x).max() < 10
    if unit > 1e-305:  # smaller scales are bounded by the smallest normal float
        np.testing.assert_allclose(x.std(0), 1, rtol=0.05)
        back = standardizer.inverse_transform(x)
        np.testing.assert_allclose(back, X, rtol=1e-12, atol=1e-12 * unit)


def test_opposite_rows_at_the_float_limits_do_not_overflow():
    largest = np.finfo(float).max
    X = np.array([[-largest], [largest], [0.0], [largest / 2], [-largest / 2]])
    standardizer = standard(X)
    x = standardizer.transform(X, 30.0)
    assert np.isfinite(x).all()
    assert (np.diff(x[np.argsort(X[:, 0]), 0]) > 0).all()
    small = standard(normal(50, 1))
    far = small.transform(np.array([[largest], [-largest]]), 1e120)
    np.testing.assert_array_equal(far, [[1e120], [-1e120]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transform_and_its_inverse(dtype):
    X = (normal(50, 3) * [1e-6, 1.0, 1e6] + [1.0, 0.0, -1e6]).astype(dtype)
    kept = X.copy()
    standardizer = standard(X.astype(float))
    x = standardizer.transform(X, 30.0)
    assert x.dtype == np.float64
    expected = (X.astype(float) - standardizer.location) / standardizer.scale
    np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(standardizer.inverse_transform(x), X, rtol=1e-12)
    np.testing.assert_array_equal(X, kept)


def unlimited(n_columns):
    return np.full((2, n_columns), [[-np.inf], [np.inf]])


def test_transform_clips_at_its_bound():
    standardizer = Standardizer(np.array([1.0]), np.array([2.0]), unlimited(1))
    X = np.array([[-99.0], [1.0], [2.0], [1e300]])
    x = standardizer.transform(X, 10.0)
    np.testing.assert_array_equal(x, [[-10.0], [0.0], [0.5], [10.0]])


def test_log_scale_is_the_log_jacobian():
    standardizer = Standardizer(np.zeros(3), np.array([2.0, 0.5, 10.0]), unlimited(3))
    assert standardizer.log_scale == pytest.approx(np.log(10.0))


def test_standardizer_makes_weight_equal_repetition():
    X, counts = normal(40, 2), 1 + np.arange(40) % 4
    weighted = standard(X, counts.astype(float))
    repeated = standard(np.repeat(X, counts, axis=0))
    np.testing.assert_allclose(weighted.location, repeated.location, rtol=1e-12)
    np.testing.assert_allclose(weighted.scale, repeated.scale, rtol=1e-12)


# Splitting.


@pytest.mark.parametrize(
    "n_rows, fraction, n_validation",
    [
        (100, 0.15, 15),
        (53, 0.16, 8),
        (53, 0.15, 0),  # seven would be too few to judge by
        (2, 0.5, 0),
        (16, 0.5, 8),
        (1000, 0.0, 0),
        (1000, 0.999, 999),
    ],
)
def test_sizes_of_a_split(n_rows, fraction, n_validation):
    train, validation = split_rows(n_rows, fraction, np.random.RandomState(0))
    assert len(validation) == n_validation
    both = sorted(itertools.chain(train, validation))
    assert both == list(range(n_rows))


def test_split_is_random_and_reproducible():
    def split(seed):
        return split_rows(100, 0.2, np.random.RandomState(seed))

    for one, same, other in zip(split(0), split(0), split(1), strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)
    assert not np.array_equal(split(0)[0], np.sort(split(0)[0]))


def column_widths(values, weights=None):
    x = np.asarray(values, dtype=float)[:, None]
    widths = repeat_widths(x, np.ones(len(x)) if weights is None else weights, 0.25)
    return None if widths is None else widths[:, 0]


def test_merged_rows_repeat_their_values():
    """One column of integers has only distinct rows, with weights."""
    values = np.arange(6) * 0.1
    counts = np.array([1.0, 2.0, 2.0, 2.0, 2.0, 1.0])
    widths = column_widths(values, counts / counts.mean())
    np.testing.assert_allclose(widths[1:-1], 0.05)
    np.testing.assert_array_equal(widths[[0, -1]], 0.0)


def test_values_that_do_not_repeat_have_no_width():
    assert column_widths(np.random.RandomState(0).randn(50)) is None
    assert column_widths(np.full(50, 7.0)) is None


def test_values_of_float32_that_collide_by_chance_have_no_width():
    values = np.random.RandomState(0).randn(100_000).astype(np.float32)
    assert len(np.unique(values)) < len(values)
    assert column_widths(values) is None


def test_rounded_values_are_as_wide_as_half_the_rounding():
    values = np.repeat(np.arange(10) * 0.1, 5)
    np.testing.assert_allclose(column_widths(values), 0.05)


def test_widths_are_bounded():
    np.testing.assert_array_equal(column_widths([0, 0, 3, 3, 6, 6]), 0.25)


def test_a_heavy_value_is_as_wide_as_the_range_of_half_its_weight():
    """Next to it are many others, a thousandth away."""
    others = np.linspace(0.001, 0.4, 400)
    widths = column_widths(np.r_[np.zeros(400), others])
    np.testing.assert_allclose(widths[:400], others[199] / 2)
    assert not widths[400:].any()


def test_weights_are_repetitions_to_widths():
    values = np.array([0.0, 0.0, 0.1, 0.1, 0.3])
    weighted = column_widths(values, np.array([1.0, 1.0, 2.0, 2.0, 1.0]))
    repeated = column_widths(np.repeat(values, [1, 1, 2, 2, 1]))
    np.testing.assert_array_equal(weighted[[0, 2, 4]], repeated[[0, 2, 6]])


@pytest.mark.parametrize("heavy", [1e17, 1e300])
def test_weights_that_drown_the_others_leave_widths_finite(heavy):
    widths = column_widths(np.arange(5) * 0.1, np.array([heavy, 1, 1, 1, 1]))
    assert widths[0] == 0.25 and not widths[1:].any()


@pytest.mark.parametrize("seed", range(20))
def test_a_common_factor_of_weights_leaves_widths(seed):
    rng = np.random.RandomState(seed)
    values = 0.05 * np.round(5 * rng.randn(300))
    weights = rng.randint(1, 4, 300).astype(float)
    widths = column_widths(values, weights)
    for factor in (0.1, 1 / 3, 7.0):
        np.testing.assert_array_equal(column_widths(values, factor * weights), widths)
    mirrored = column_widths(-values, 0.1 * weights)
    np.testing.assert_allclose(mirrored, widths, rtol=1e-12)


def test_shifts_stay_in_the_plane_of_the_rows():
    rng = np.random.RandomState(0)
    x = rng.randn(200, 2) * [1, 100]
    levels = np.eye(3)[rng.randint(3, size=200)]
    weights = rng.randint(1, 4, 200)
    assert column_space(x, weights, np.ones(x.shape)) is None
    assert column_space(x[:2], weights[:2], np.ones((2, 2))) is None
    for columns, null in (
        ([x, levels], [0, 0, 1, 1, 1]),
        ([x, np.ones((200, 1))], [0, 0, 1]),
        ([x, x[:, :1] + x[:, 1:]], [1, 1, -1]),
        ([x, -2 * x[:, :1]], [2, 0, 1]),
    ):
        rows = np.hstack(columns)
        plane = column_space(rows, weights, np.ones(rows.shape))
        shifts = rng.randn(50, rows.shape[1]) @ plane
        np.testing.assert_allclose(shifts @ null, 0, atol=1e-9)
        # What is in the plane already keeps its direction.
        differences = rows[1:] - rows[0]
        moved = differences @ plane
        factor = np.linalg.norm(moved) / np.linalg.norm(differences)
        assert factor >= 1
        np.testing.assert_allclose(moved, factor * differences, atol=1e-8)


def test_directions_are_those_in_which_rows_differ():
    x = normal(200, 3)
    for rows, n_directions in (
        (x, 3),
        (np.hstack([x, x[:, :1], np.ones((200, 1))]), 3),
        (np.hstack([x, x.sum(1, keepdims=True)]), 3),
        (np.hstack([x, x[:, :1] + 0.01 * normal(200, 1, seed=1)]), 4),
        (np.hstack([x[:3], np.ones((3, 1))]), 3),
        (np.ones((200, 2)), 0),
    ):
        assert count_directions(rows, np.ones(len(rows))) == n_directions


@pytest.mark.parametrize("copies", [2, 4])
def test_a_copied_column_has_as_much_noise_as_one(copies):
    rng = np.random.RandomState(0)
    level = rng.randint(4, size=(500, 1))
    rows = np.hstack([rng.randn(500, 1)] + copies * [level])
    widths = np.where(np.arange(copies + 1) > 0, 0.3, np.zeros(rows.shape))
    plane = column_space(rows, np.ones(500), widths)
    noise = widths[:1] * rng.randn(50_000, copies + 1) @ plane
    expected = [0.0] + copies * [0.3]
    np.testing.assert_allclose(noise.std(axis=0), expected, rtol=0.02, atol=1e-9)


def test_a_thin_sheet_on_a_lattice_is_no_plane():
    """Its thickness repeats values, and needs noise to be more than a spike."""
    rng = np.random.RandomState(0)
    start = rng.randint(400, size=1000)
    rows = np.column_stack([start, start + rng.randint(3, size=1000)])
    assert column_space(rows, np.ones(1000), np.ones(rows.shape)) is None


@given(
    hnp.arrays(
        float,
        st.tuples(st.integers(1, 40), st.integers(1, 3)),
        elements=st.integers(-3, 3).map(float),
    ),
    st.floats(0.1, 3.0),
)
def test_widths_are_those_of_the_mirror_image_and_the_order(x, scale):
    weights = np.ones(len(x))
    widths = repeat_widths(scale * x, weights, 0.25)
    mirrored = repeat_widths(-scale * x, weights, 0.25)
    turned = repeat_widths(scale * x[::-1], weights, 0.25)
    if widths is None:
        assert mirrored is None
        assert turned is None
    else:
        assert np.all((widths >= 0) & (widths <= 0.25))
        np.testing.assert_allclose(mirrored, widths)
        np.testing.assert_allclose(turned[::-1], widths)


# Noise in training.


def test_values_in_a_spike_are_not_to_move():
    rng = np.random.RandomState(0)
    x = rng.randn(1000, 3)
    x[:300, 1] = 0.01 * x[:300, 1] - 1  # three in ten lie within .05 of each other
    movable = outside_spikes(x, np.ones(1000))
    assert movable[:, [0, 2]].all()
    assert not movable[:300, 1].any()
    assert movable[300:, 1].mean() > 0.95


def test_a_heavy_row_is_a_spike():
    x = np.random.RandomState(0).randn(100, 1)
    weights = np.ones(100)
    weights[7] = 30.0
    near = np.abs(x - x[7]) < 0.01
    assert not outside_spikes(x, weights)[near].any()
    repeated = np.repeat(x, weights.astype(int), axis=0)
    np.testing.assert_array_equal(
        np.repeat(outside_spikes(x, weights), weights.astype(int), axis=0),
        outside_spikes(repeated, np.ones(len(repeated))),
    )


def test_values_that_depend_on_each_other_move_together_or_not_at_all():
    rng = np.random.RandomState(0)
    x = rng.randn(1000, 3)
    x[:300, 1] = 0.01 * x[:300, 1]
    x = np.column_stack((x, x[:, :2].sum(axis=1), np.ones(1000)))
    movable = outside_spikes(x, np.ones(1000))
    coupled = movable[:, [0, 1, 3]]
    assert (coupled.all(axis=1) == coupled.any(axis=1)).all()
    assert not coupled[:300].any()
    assert coupled[300:].mean() > 0.9
    # Neither a constant column nor the plane concerns a column of its own.
    assert movable[:, 2].all()
    alone = outside_spikes(x[:, [0, 1, 4]], np.ones(1000))
    assert alone[:, 0].all()
