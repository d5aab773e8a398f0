"""Tables that are read piece by piece: which they are, and fits to them."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from small_models import small

from skflowmix import row_stream
from skflowmix.row_stream import RowStream, is_on_disk, is_too_large, sample_size
from skflowmix.training import stream as training_stream


def quick(n_components, **kwargs):
    """A small model whose components are one flow each."""
    return small(n_components, **{"n_flows_per_component": 1, **kwargs})


class Dataset:
    """What h5py and zarr give: slices of rows; it refuses to become an array."""

    def __init__(self, X):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype
        self.n_touched, self.most_at_once = np.zeros(len(X), dtype=int), 0

    def __getitem__(self, index):
        assert isinstance(index, slice), "only slices of rows are quick everywhere"
        self.n_touched[index] += 1
        part = self._X[index].copy()
        self.most_at_once = max(self.most_at_once, len(part))
        return part

    def __len__(self):
        return len(self._X)

    def __array__(self, *args, **kwargs):
        raise AssertionError("all of it would be in memory")


def blobs(n_rows=1500, seed=0):
    """Rows of two curved groups, one after the other."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 2)).astype(np.float32)
    X[:, 1] = 0.2 * X[:, 1] + X[:, 0] ** 2
    X[: n_rows // 3] += [8, 0]
    return X


@pytest.fixture
def few_rows(monkeypatch):
    """A sample of few rows, and small blocks."""
    monkeypatch.setattr(row_stream, "SAMPLE_ROWS", 480)
    monkeypatch.setattr(training_stream, "BLOCK_ROWS", 64)
    monkeypatch.setattr(training_stream, "BUFFER_ROWS", 256)


@pytest.fixture
def memmap(tmp_path):
    X = blobs()
    path = tmp_path / "X.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


def test_which_tables_are_on_disk(memmap):
    X = blobs(10)
    assert is_on_disk(memmap) and is_on_disk(Dataset(X))
    assert not any(map(is_on_disk, (X, X.tolist(), csr_array(X), None, memmap[:, 0])))
    assert not is_on_disk(Dataset(X.astype(object)))


def test_which_tables_in_memory_are_too_large():
    assert not is_too_large((row_stream.LARGEST_ROWS, 10))
    assert is_too_large((row_stream.LARGEST_ROWS + 1, 10))
    n_columns = row_stream.LARGEST_VALUES // row_stream.LEAST_SAMPLE
    assert not is_too_large((row_stream.LEAST_SAMPLE, n_columns + 1))
    assert is_too_large((row_stream.LEAST_SAMPLE + 1, n_columns))
    assert sample_size(10) == row_stream.SAMPLE_ROWS
    assert sample_size(10**6) == row_stream.LEAST_SAMPLE


@pytest.mark.parametrize("kind", [Dataset, lambda X: X], ids=["dataset", "array"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_sample_is_of_different_rows_of_positive_weight(
    monkeypatch, kind, is_weighted
):
    monkeypatch.setattr(row_stream, "SAMPLE_ROWS", 320)
    X, weights = blobs(1001), None
    if is_weighted:
        weights = np.random.default_rng(0).integers(3, size=len(X)).astype(float)
    stream = RowStream(kind(X), weights)
    numbers, rows = stream.sample()
    assert (np.diff(numbers) > 0).all() and len(numbers) <= 320
    np.testing.assert_array_equal(rows, X[numbers])
    assert (stream.weights(numbers) > 0).all()
    np.testing.assert_array_equal(stream.sample()[0], numbers)
    assert stream.n_counted == (len(X) if weights is None else (weights > 0).sum())
    # Those of all parts of the table.
    assert np.histogram(numbers, bins=3, range=(0, len(X)))[0].min() > 30


def test_a_dataset_is_fitted_block_by_block_and_seen_as_a_whole(few_rows):
    X = blobs(1500)
    data = Dataset(X)
    model = quick(2, n_iter_init=1, tol=0.02, max_iter=60).fit(data)
    assert data.n_touched.min() >= 1, "the last phase is a pass over all rows"
    assert data.most_at_once <= 64
    assert [r["phase"] for r in model.history_][-1] == "all rows"
    assert model.n_features_in_ == 2
    # The two groups were found, in their proportions.
    np.testing.assert_allclose(model.weights_, [2 / 3, 1 / 3], atol=0.05)
    in_memory = quick(2, n_iter_init=1, tol=0.02, max_iter=60).fit(X)
    assert model.score(X) > in_memory.score(X) - 0.05


@pytest.mark.slow
def test_a_large_table_in_memory_is_fitted_as_on_disk_and_has_labels(
    few_rows, memmap, monkeypatch
):
    monkeypatch.setattr(row_stream, "LARGEST_ROWS", 1000)
    X = np.array(memmap)
    of_map, of_array = (
        quick(2, n_iter_init=1).fit(memmap),
        quick(2, n_iter_init=1).fit(X),
    )
    scores = [model.score_samples(X) for model in (of_map, of_array)]
    np.testing.assert_array_equal(*scores)
    # Only a table in memory keeps a label for every row.
    np.testing.assert_array_equal(of_array.labels_, of_array.predict(X))
    assert not hasattr(of_map, "labels_")
    with pytest.raises(AttributeError, match=r"labels_.*too many.*predict"):
        _ = of_map.labels_
    np.testing.assert_array_equal(
        quick(2, n_iter_init=1).fit_predict(memmap), of_map.predict(X)
    )


@pytest.mark.slow
def test_a_small_table_on_disk_is_read_as_a_whole(memmap):
    X = np.array(memmap)
    expected = quick(2, n_iter_init=1).fit(X)
    for data in (memmap, SmallDataset(X)):
        model = quick(2, n_iter_init=1).fit(data)
        np.testing.assert_array_equal(model.labels_, expected.labels_)
        np.testing.assert_array_equal(model.score_samples(X), expected.score_samples(X))


class SmallDataset(Dataset):
    """A dataset that may be read as a whole."""


def test_weights_of_a_stream_count(few_rows, memmap):
    X = np.array(memmap)
    left = X[:, 0] < 4
    weights = np.where(left, 1.0, 4.0)
    model = quick(2, n_iter_init=1).fit(memmap, sample_weight=weights)
    expected = np.average(left, weights=weights)
    assert abs(model.weights_.max() - max(expected, 1 - expected)) < 0.05
    # Of weight zero rows may be anything.
    spoilt = X.copy()
    spoilt[::7] = 1e6
    weights[::7] = 0
    model = quick(2, n_iter_init=1).fit(Dataset(spoilt), sample_weight=weights)
    assert np.abs(model.means_).max() < 100


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_found_when_they_are_read(few_rows, value):
    X = blobs(3000)
    X[1234, 1] = value
    with pytest.raises(ValueError, match=r"In rows \d+ to \d+: (.|\n)*is in column 1"):
        quick(2, n_iter_init=1, tol=0.02, max_iter=60).fit(Dataset(X))


def test_a_stream_refuses_what_it_cannot_use(few_rows):
    data = Dataset(blobs())
    with pytest.raises(ValueError, match="init_params"):
        quick(2, init_params=np.full((1500, 2), 0.5)).fit(data)
    with pytest.raises(ValueError, match="sample_weight"):
        quick(2, n_iter_init=1).fit(data, sample_weight=np.ones(3))


def test_a_fit_that_fails_leaves_the_estimator(few_rows):
    X = blobs(3000)
    model = quick(2, n_iter_init=1).fit(blobs(100))
    before = dict(vars(model))
    X[:, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.fit(Dataset(X))
    assert vars(model).keys() == before.keys()
    assert model.labels_ is before["labels_"]


def test_integers_are_rows_too(few_rows):
    X = np.rint(10 * blobs()).astype(np.int16)
    model = quick(2, n_iter_init=1).fit(Dataset(X))
    assert np.isfinite(model.score_samples(X)).all()


def test_all_rows_of_positive_weight_are_sampled_where_they_are_few(few_rows):
    X, weights = blobs(20_000), np.zeros(20_000)
    weights[[5, 10_001, 19_999]] = weights[1000:1040] = 1
    numbers, rows = RowStream(Dataset(X), weights).sample()
    assert numbers.tolist() == np.flatnonzero(weights).tolist()
    assert (rows == X[numbers]).all()


def test_rows_of_weight_zero_may_fill_whole_blocks(few_rows):
    weights = np.ones(1500)
    weights[200:600] = 0
    X = blobs()
    X[200:600] = 1e6
    model = quick(2, n_iter_init=1).fit(Dataset(X), sample_weight=weights)
    assert np.abs(model.means_).max() < 100


def test_components_of_a_stream_may_be_several_flows(few_rows, monkeypatch):
    monkeypatch.setattr(row_stream, "LARGEST_ROWS", 1000)
    X = blobs()
    model = quick(2, n_iter_init=1, n_flows_per_component=2).fit(X)
    assert model.n_flows_ == 4
    np.testing.assert_allclose(model.weights_, [2 / 3, 1 / 3], atol=0.1)
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    assert set(model.labels_) == {0, 1}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("max_iter", [0, 1])
def test_few_epochs_on_the_elbo_are_enough(max_iter, few_rows):
    data = Dataset(blobs(1500))
    model = quick(2, n_iter_init=8, max_iter=max_iter, n_transforms=2).fit(data)
    phases = [record["phase"] for record in model.history_]
    assert phases.count("elbo") == phases.count("all rows") == max_iter
    assert np.isfinite(model.score_samples(blobs(20))).all()
