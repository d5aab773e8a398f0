"""Several processes that fit one model: threads, and by gloo where it takes long."""

import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from processes import in_processes, outcomes_in_processes
from small_models import make, moons, small, trained

from skflowmix import (
    FlowMixtureClassifier,
    FlowMixtureOutlierDetector,
    checkpoints,
    data_parallel,
    distributed,
    row_stream,
)
from skflowmix.starts import knn
from skflowmix.training import phases
from skflowmix.training.batches import Noise
from skflowmix.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def bits(model):
    return b"".join(array.tobytes() for array in model.module_.arrays().values())


def assert_one_model(models):
    assert len({bits(model) for model in models}) == 1
    assert len({model.sample(3)[0].tobytes() for model in models}) == 1
    for model in models[1:]:
        assert model.history_ == models[0].history_
        for name in ("lower_bound_", "elbo_gap_", "converged_", "n_components_in_use_"):
            assert getattr(model, name) == getattr(models[0], name)


def figures(model, name):
    return np.array([record[name] for record in model.history_])


@pytest.mark.parametrize("sharded", [pytest.param(False, marks=pytest.mark.slow), True])
def test_small_tables_are_fitted_as_by_one_process(sharded):
    """Every epoch is that of one process, noise and steps of all sizes included."""
    settings = {"dtype": "float64", "max_iter": 4, "n_iter_init": 2, "n_init": 2}
    settings |= {"hidden_units": (8,), "posterior_units": (8,), "n_transforms": 1}
    settings |= {"n_flows_per_component": 1}  # as among processes
    X, weights = moons(151), np.where(np.arange(151) % 7, 1.0, 2.0)

    def fit(reducer):
        own = slice(reducer.rank, None, reducer.n_ranks) if sharded else slice(None)
        model = trained(2, **settings)
        return model.fit(X[own], sample_weight=weights[own])

    one = trained(2, **settings)
    one.fit(X, sample_weight=weights)
    models = in_processes(2, fit, sharded=sharded)
    assert_one_model(models)
    for name in ("train_loss", "score", "validation_log_likelihood", "elbo"):
        assert_allclose(figures(models[0], name), figures(one, name), rtol=1e-5)
    assert_allclose(models[0].lower_bound_, one.lower_bound_, rtol=1e-6)
    labels = np.concatenate([model.labels_ for model in models])
    expected = (
        np.concatenate([one.labels_[k::2] for k in range(2)])
        if sharded
        else (np.tile(one.labels_, 2))
    )
    assert_array_equal(labels, expected)


@pytest.fixture
def small_sample(monkeypatch):
    monkeypatch.setattr(distributed, "SAMPLE_ROWS", 150)


@pytest.mark.slow
def test_flows_are_trained_on_more_rows_than_the_sample(small_sample):
    settings = {"n_transforms": 1, "max_iter": 4, "n_iter_init": 2}
    X = moons(900)
    sizes = np.split(X, [200, 500])

    def fit(reducer):
        model = trained(2, repeat_noise=0.25, **settings)
        return model.fit(sizes[reducer.rank])

    models = in_processes(3, fit, sharded=True)
    assert_one_model(models)
    assert [len(model.labels_) for model in models] == [200, 300, 400]
    one = trained(2, **settings).fit(X)
    assert abs(models[0].score(moons(1000, 1)) - one.score(moons(1000, 1))) < 0.1
    # The components of the rows that each process holds, by the one model.
    for model, rows in zip(models, sizes, strict=True):
        assert_array_equal(model.labels_, models[0].predict(rows))
    assert_allclose(models[0].lower_bound_, models[0].elbo(X).mean(), rtol=1e-6)


@pytest.mark.parametrize(("searched", "ratio"), [(10_000, 1 / 3), (100, 1.0)])
def test_noise_is_as_wide_as_in_one_process(monkeypatch, small_sample, searched, ratio):
    """Distances to the nearest of n rows in two columns grow like n to the -1/2.

    Where one process would search for them among 100 rows, so does each of several.
    """
    monkeypatch.setattr(knn, "MAX_SEARCHED_ROWS", searched)
    scales = []
    monkeypatch.setattr(
        phases, "Noise", lambda *given: scales.append(given[0]) or Noise(*given)
    )
    shards = np.split(moons(900), 3)

    def fit(X):
        small(2, input_noise=0.5, max_iter=1, n_flows_per_component=1).fit(X)

    fit(moons(900))
    one = scales.copy()
    scales.clear()
    in_processes(3, lambda reducer: fit(shards[reducer.rank]), sharded=True)
    assert one
    expected = np.repeat(np.sort(one), 3) * ratio**0.5
    assert_allclose(np.sort(scales), expected, rtol=0.03)


def spoilt(X, fault):
    if fault == "NaN":
        X = X.copy()
        X[3, 1] = np.nan
    return {"NaN": X, "columns": X[:, :1], "too few": X[:1]}[fault]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("NaN", "In process 1: Input X contains NaN"),
        ("columns", r"as many columns in every process, got \[2, 1\]"),
        ("too few", "In process 1: Found array with 1 sample"),
    ],
)
def test_all_processes_refuse_what_one_must(fault, message):
    shards = moons()[::2], moons()[1::2]

    def fit(reducer):
        X = shards[reducer.rank]
        return small(2).fit(spoilt(X, fault) if reducer.rank == 1 else X)

    for outcome in outcomes_in_processes(2, fit, sharded=True):
        with pytest.raises(ValueError, match=message):
            raise outcome


def test_parameters_that_shards_do_not_have():
    def fit(reducer):
        shares = np.full((len(moons()), 2), 0.5)
        return small(2, init_params=shares).fit(moons())

    for outcome in outcomes_in_processes(2, fit, sharded=True):
        with pytest.raises(ValueError, match="init_params must be no array"):
            raise outcome
    for cls in (FlowMixtureClassifier, FlowMixtureOutlierDetector):
        for outcome in outcomes_in_processes(
            2, lambda _, cls=cls: cls().fit(moons(), moons()[:, 0] > 0), sharded=True
        ):
            with pytest.raises(ValueError, match="cannot be fitted to shards"):
                raise outcome


def test_other_rows_than_the_same_are_refused():
    def fit(reducer):
        return small(2).fit(moons(150, reducer.rank))

    for outcome in outcomes_in_processes(2, fit):
        with pytest.raises(ValueError, match="must be the same in every process"):
            raise outcome


@pytest.mark.parametrize("cls", [FlowMixtureClassifier, FlowMixtureOutlierDetector])
def test_estimators_around_a_mixture(cls):
    """Fresh entropy is that of the first process."""
    y = np.where(np.arange(150) % 3, moons()[:, 0] > 0.5, -1)
    settings = {"hidden_units": (8,), "posterior_units": (8,), "max_iter": 3}

    def fit(reducer):
        return make(cls, n_iter_init=1, **settings).fit(moons(), y)

    one, other = in_processes(2, fit)
    assert_one_model([one.mixture_, other.mixture_])
    assert_array_equal(one.predict(moons()), other.predict(moons()))


class Watcher:
    """Counts epochs in its thread, and stops at the third."""

    def __init__(self):
        self.n_seen = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        self.n_seen += 1
        assert len(fitted_estimator.labels_) == len(X)
        return self.n_seen == 3


def test_the_first_process_watches(capsys):
    def fit(reducer):
        watcher = Watcher()
        model = small(2, tol=0.0, verbose=2).set_callbacks(watcher)
        return model.fit(moons()[reducer.rank :: 2]), watcher.n_seen

    (one, n_seen), (other, n_unseen) = in_processes(2, fit, sharded=True)
    assert_one_model([one, other])
    assert len(one.history_) == 3 and n_seen >= 3 and n_unseen == 0
    assert capsys.readouterr().out.count("first partition") == 1


def test_an_error_of_a_callback_is_raised_by_all():
    class Faulty(Watcher):
        def on_fit_task_end(self, estimator, context):
            raise ValueError("not this one")

    def fit(reducer):
        return small(2).set_callbacks(Faulty()).fit(moons())

    for outcome in outcomes_in_processes(2, fit):
        with pytest.raises(ValueError, match="not this one"):
            raise outcome


@pytest.mark.parametrize("sharded", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_fit_that_was_killed_goes_on(sharded, small_sample, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    monkeypatch.setattr(phases, "POSTERIOR_EPOCHS", 2)
    rows = moons(300)

    def fit(reducer, folder):
        own = slice(reducer.rank, None, 2) if sharded else slice(None)
        model = small(2, n_iter_init=2, max_iter=3, tol=0.0)
        return model.fit(rows[own], checkpoint=folder)

    expected = in_processes(2, lambda r: fit(r, None), sharded=sharded)
    epoch, count = Trainer.epoch, threading.local()

    def killed(trainer, on_epoch):
        count.n = getattr(count, "n", 0) + 1
        if count.n == 4:
            raise RuntimeError("killed")
        epoch(trainer, on_epoch)

    monkeypatch.setattr(Trainer, "epoch", killed)
    folder = tmp_path / "fit"
    for outcome in outcomes_in_processes(2, lambda r: fit(r, folder), sharded=sharded):
        assert str(outcome) == "killed"
    n_epochs = []

    def counted(trainer, on_epoch):
        n_epochs.append(trainer)
        epoch(trainer, on_epoch)

    monkeypatch.setattr(Trainer, "epoch", counted)
    models = in_processes(2, lambda r: fit(r, folder), sharded=sharded)
    assert_one_model([*models, expected[0]])
    assert not folder.exists()
    assert len(n_epochs) // 2 < len(expected[0].history_)


def test_processes_that_drift_apart_say_so(monkeypatch):
    monkeypatch.setattr(phases.ModelFit, "finish", lambda fit, *_, **__: drifted(fit))

    def drifted(fit):
        candidate = fit.candidate(fit.held_out_log_prob())
        candidate.model.weight_logits.data += fit.runtime.reducer.rank
        return candidate

    for outcome in outcomes_in_processes(2, lambda _: small(2).fit(moons())):
        with pytest.raises(RuntimeError, match="ended with different parameters"):
            raise outcome


def test_random_state_goes_on_alike():
    def fit(reducer):
        random_state = np.random.RandomState(reducer.rank)
        small(2, random_state=random_state).fit(moons())
        return random_state.randint(2**31)

    assert len(set(in_processes(2, fit))) == 1


def test_alone_it_does_nothing(monkeypatch):
    for name in distributed.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with data_parallel():
        model = small(2).fit(moons())
    assert bits(model) == bits(small(2).fit(moons()))
    with pytest.raises(ValueError, match="timeout must be a positive"):
        with data_parallel(timeout=0):
            pass


@pytest.mark.parametrize("sharded", [False, True])
def test_rows_that_are_read_piece_by_piece_are_for_one_process(
    tmp_path, monkeypatch, sharded
):
    monkeypatch.setattr(row_stream, "SAMPLE_ROWS", 64)
    np.save(tmp_path / "X.npy", moons(300))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")

    def fit(reducer):
        return small(2).fit(X)

    outcomes = outcomes_in_processes(2, fit, sharded=sharded)
    for error in outcomes:
        assert isinstance(error, ValueError)
        assert "piece by piece, which is not supported" in str(error)
        assert "data_parallel" in str(error)


def test_rows_in_memory_are_held_by_the_processes_however_many(monkeypatch):
    monkeypatch.setattr(row_stream, "SAMPLE_ROWS", 64)
    monkeypatch.setattr(row_stream, "LARGEST_ROWS", 100)
    X = moons(302)
    models = in_processes(
        2, lambda reducer: small(2).fit(X[reducer.rank :: 2]), sharded=True
    )
    assert_one_model(models)
    assert [len(model.labels_) for model in models] == [151, 151]


def test_partial_fit_is_for_one_process():
    def fit(reducer):
        return small(2).partial_fit(moons())

    for error in outcomes_in_processes(2, fit):
        assert isinstance(error, ValueError)
        assert "partial_fit is not supported within data_parallel" in str(error)
