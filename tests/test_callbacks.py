"""scikit-learn's callbacks on `FlowMixture`, alone and in a search."""

import pickle
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from small_models import answers, assert_same_answers, make, moons, small, trained

from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOutlierDetector,
    StopOnInterrupt,
)
from skflowmix.training import settings


class Recorder:
    """Keeps what it is shown; asks to stop when `stop_at` says so."""

    def __init__(self, stop_at=lambda context: False):
        self.stop_at = stop_at
        self.begun, self.ended, self.models, self.seen = [], [], [], []
        self.torn_down = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        self.torn_down += 1

    def on_fit_task_begin(self, estimator, context):
        self.begun.append(context.task_name)

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.ended.append(context.task_name)
        self.seen.append((X, y, metadata))
        self.models.append(fitted_estimator)
        return self.stop_at(context)

    def of_epochs(self, phase):
        return [
            model
            for name, model in zip(self.ended, self.models, strict=True)
            if name == f"{phase} epoch"
        ]


class Stop:
    """Asks to stop at the end of a task's n-th run; sees no model, can be pickled."""

    def __init__(self, task_name, n):
        self.task_name, self.n = task_name, n

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n -= context.task_name == self.task_name
        return self.n == 0


@pytest.mark.parametrize("n_components", [1, 2])
def test_every_epoch_is_a_task(n_components):
    recorder = Recorder()
    model = small(n_components, n_init=2).set_callbacks(recorder).fit(moons())
    epochs = [f"{record['phase']} epoch" for record in model.history_]
    one = [*epochs]
    assert recorder.ended[: len(one)] == one
    assert recorder.ended.count("init 0") == recorder.ended.count("init 1") == 1
    assert recorder.ended[-1] == "fit"
    assert sorted(recorder.begun) == sorted(recorder.ended)
    assert recorder.torn_down == 1
    assert recorder.models[-1].score(moons()) == model.score(moons())


def test_callbacks_do_not_change_the_fit():
    alone = small(2, n_init=2).fit(moons())
    watched = small(2, n_init=2).set_callbacks(Recorder()).fit(moons())
    assert_same_answers(watched, alone, moons())
    assert watched.history_ == alone.history_
    assert_array_equal(watched.sample(3)[0], alone.sample(3)[0])


def test_what_a_callback_sees_is_a_copy():
    during = []

    class Scorer(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            self.models.append(fitted_estimator)
            during.append(answers(fitted_estimator, moons()))

    scorer = Scorer()
    model = trained(2, max_iter=8, n_iter_init=4, tol=10.0, n_iter_no_change=2)
    model.set_callbacks(scorer).fit(moons())
    assert len(during) > 6
    for fitted, then in zip(scorer.models, during, strict=True):
        for name, answer in answers(fitted, moons()).items():
            assert_array_equal(answer, then[name])
        assert np.isfinite(then["score_samples"]).all()
        assert fitted.sample(3)[0].shape == (3, 2)
    scores = [then["score_samples"].mean() for then in during]
    assert len(set(scores)) > 3  # as the training goes on


def test_callbacks_see_each_restart_in_its_final_order():
    X, _ = make_blobs([20, 40, 80, 160], random_state=0)
    recorder = Recorder()
    model = small(4, n_init=4, init_params="k-means++")
    model.set_callbacks(recorder).fit(X)
    shown = {
        name: model
        for name, model in zip(recorder.ended, recorder.models, strict=True)
        if name.startswith("init")
    }
    assert len(shown) == 4
    for restart in shown.values():
        assert (np.diff(restart.weights_) <= 0).all()
    assert any(
        np.array_equal(restart.means_, model.means_)
        and np.array_equal(restart.labels_, model.labels_)
        for restart in shown.values()
    )


def test_a_callback_sees_no_rest_of_a_former_fit():
    recorder = Recorder()
    small(2).fit(moons()).set_callbacks(recorder).fit(moons()[:100])
    assert recorder.of_epochs("elbo")
    for shown in recorder.models:
        assert_array_equal(shown.labels_, shown.predict(moons()[:100]))
        assert shown.lower_bound_ == pytest.approx(shown.elbo(moons()[:100]).mean())


def test_a_callback_cannot_change_the_history():
    class Vandal(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            if context.task_name != "fit":
                for record in fitted_estimator.history_:
                    record.clear()

    watched = small(2).set_callbacks(Vandal()).fit(moons())
    assert watched.history_ == small(2).fit(moons()).history_


def test_a_callback_sees_the_data():
    recorder = Recorder()
    weights = np.ones(len(moons()))
    small(2).set_callbacks(recorder).fit(moons(), sample_weight=weights)
    for X, y, metadata in recorder.seen:
        assert X is moons()
        assert_array_equal(y, np.zeros(len(X)))
        assert metadata["sample_weight"] is weights
    recorder = Recorder()
    labels = np.arange(len(moons()))
    small(2).set_callbacks(recorder).fit(moons(), labels)
    assert recorder.seen[0][1] is labels
    assert recorder.seen[0][2] == {}


@pytest.mark.parametrize("n_init", [1, 3])
@pytest.mark.parametrize("phase", ["m-step", "elbo"])
def test_stop_ends_the_fit(phase, n_init):
    def stop_at(context):
        return context.task_name == f"{phase} epoch" and context.task_id >= 6

    recorder = Recorder(stop_at)
    model = trained(2, n_init=n_init, n_iter_init=4 if phase == "elbo" else 40)
    model.set_callbacks(recorder).fit(moons())  # and does not warn
    assert recorder.ended[-1] == "fit"
    assert recorder.ended.count("init 0") == 1
    assert recorder.ended.count("init 1") == 0
    assert len(model.history_) == 7
    assert model.history_[-1]["phase"] == phase
    assert recorder.torn_down == 1
    assert np.isfinite(model.score(moons()))


@pytest.mark.parametrize("phase", ["m-step", "elbo"])
def test_stop_keeps_the_best(phase):
    def stop_when_worse(context):
        scores = scores_of(recorder.models[-1])
        return len(scores) > 1 and 0 < max(scores) > scores[-1]

    def scores_of(model):
        return [r["score"] for r in model.history_ if r["phase"] == phase]

    recorder = Recorder(stop_when_worse)
    # Steps so large that the score goes up and down.
    model = trained(
        2, learning_rate=0.1, batch_size=64, n_iter_no_change=20, flow="realnvp"
    )
    model.set_params(options__n_iter_init=40 if phase == "m-step" else 0)
    model.set_callbacks(recorder).fit(moons(300))
    scores = scores_of(model)
    best = int(np.argmax(scores))
    assert best == len(scores) - 2
    seen = recorder.of_epochs(phase)
    assert len(seen) == len(scores)
    expected = seen[best].score_samples(moons(300))
    assert_allclose(model.score_samples(moons(300)), expected, rtol=1e-9)
    assert (seen[-1].score_samples(moons(300)) != expected).all()


def test_stop_after_a_restart():
    recorder = Recorder(lambda context: context.task_name == "init 1")
    small(2, n_init=4).set_callbacks(recorder).fit(moons())
    assert {name for name in recorder.ended if name.startswith("init")} == {
        "init 0",
        "init 1",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", ["m-step", pytest.param("elbo", marks=pytest.mark.slow)]
)
def test_stop_in_a_worker(phase):
    model = trained(2, n_init=3, n_jobs=2, init_params="random")
    model.set_callbacks(Stop(f"{phase} epoch", 2)).fit(moons())
    assert [r["phase"] for r in model.history_].count(phase) == 2
    assert np.isfinite(model.score(moons()))


def test_stop_in_a_search():
    search = GridSearchCV(
        trained(2).set_callbacks(Stop("elbo epoch", 2)),
        {"flow": ["realnvp", "nsf"]},
        cv=2,
        error_score="raise",
    )
    search.fit(moons())
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_failing_callback_fails_the_fit():
    def stop_at(context):
        raise RuntimeError("from the callback")

    recorder = Recorder(stop_at)
    with pytest.raises(RuntimeError, match="from the callback"):
        small(2).set_callbacks(recorder).fit(moons())
    assert recorder.torn_down == 1


FAILURES = {
    "first epoch": (RuntimeError, lambda context: "epoch" in context.task_name),
    "interrupted": (KeyboardInterrupt, lambda context: "elbo" in context.task_name),
    "restart": (RuntimeError, lambda context: context.task_name == "init 0"),
    "last": (RuntimeError, lambda context: context.task_name == "fit"),
    "interrupted at last": (KeyboardInterrupt, lambda c: c.task_name == "fit"),
}


class Fails(Stop):
    """Raises an error at the end of a task; sees no model, which would take time."""

    def __init__(self, error, fails_at):
        self.error, self.fails_at, self.torn_down = error, fails_at, 0

    def teardown(self, estimator, context):
        self.torn_down += 1

    def on_fit_task_end(self, estimator, context):
        if self.fails_at(context):
            raise self.error("from the callback")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("error", "fails_at"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize(
    "cls", [FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector]
)
def test_a_fit_that_a_callback_ends_by_an_error_is_none(cls, error, fails_at):
    """The estimator is unfitted, or what it was before, callbacks and all."""
    X, y = moons(60), np.arange(60) % 2
    wider = np.c_[X, X]
    networks = {"hidden_units": 8, "n_transforms": 1, "n_iter_init": 2}
    model = make(cls, max_iter=2, tol=1e9, n_iter_no_change=1, **networks)
    model.set_params(random_state=0)
    for is_fitted in (False, True):
        if is_fitted:
            model.set_callbacks().fit(X, y)
            expected = model.score_samples(X)
        callback = Fails(error, fails_at)
        model.set_callbacks(callback)
        before = dict(vars(model))
        with pytest.raises(error, match="from the callback"):
            model.fit(wider, y)
        assert callback.torn_down == 1
        assert vars(model).keys() == before.keys()
        assert all(value is before[name] for name, value in vars(model).items())
        assert hasattr(model, "n_features_in_") == is_fitted
    assert_array_equal(model.score_samples(X), expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "cls", [FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector]
)
def test_a_fit_whose_callback_cannot_be_torn_down_is_none(cls):
    class Breaks(Stop):
        def teardown(self, estimator, context):
            raise RuntimeError("while torn down")

    X, y = moons(60), np.arange(60) % 2
    model = make(cls, max_iter=0, n_iter_init=0, random_state=0)
    for is_fitted in (False, True):
        if is_fitted:
            model.set_callbacks().fit(X, y)
        before = dict(vars(model.set_callbacks(Breaks("none", 0))))
        with pytest.raises(RuntimeError, match="while torn down"):
            model.fit(np.c_[X, X], y)
        assert vars(model) == before
    assert len(model.set_callbacks().score_samples(X)) == 60


class Interrupts(Stop):
    """Sends an interrupt at the end of a task's n-th run."""

    def on_fit_task_end(self, estimator, context):
        if super().on_fit_task_end(estimator, context):
            self.n = -1
            signal.raise_signal(signal.SIGINT)


def test_an_interrupt_ends_the_fit_with_the_best_model(handler):
    stop = StopOnInterrupt()
    model = trained(2).set_callbacks(Interrupts("elbo epoch", 2), stop)
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(moons())
    assert stop.interrupted
    assert [r["phase"] for r in model.history_].count("elbo") == 2
    assert np.isfinite(model.score(moons()))
    assert signal.getsignal(signal.SIGINT) is handler
    assert not pickle.loads(pickle.dumps(stop))._former


def test_a_second_interrupt_leaves_the_estimator_as_it_was(handler):
    model = trained(2)
    model.set_callbacks(
        StopOnInterrupt(), Interrupts("elbo epoch", 2), Interrupts("elbo epoch", 2)
    )
    with (
        pytest.raises(KeyboardInterrupt),
        pytest.warns(UserWarning, match="interrupted"),
    ):
        model.fit(moons())
    assert not hasattr(model, "weights_")
    assert signal.getsignal(signal.SIGINT) is handler


def test_interrupts_that_are_ignored_stay_so(handler):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = StopOnInterrupt()
    small(2).set_callbacks(Interrupts("elbo epoch", 1), stop).fit(moons())
    assert not stop.interrupted
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_interrupts_that_could_not_end_the_fit_are_left_alone(handler):
    handlers = []

    class Watch(Stop):
        def on_fit_task_end(self, estimator, context):
            handlers.append(signal.getsignal(signal.SIGINT))

    watch, stop = Watch("", 0), StopOnInterrupt()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(small(2).set_callbacks(stop, watch).fit, moons()).result()
    alone = SimpleNamespace(parent=None, root_uuid=1)
    stop.setup(small(2, n_init=2, n_jobs=2), alone)
    assert signal.getsignal(signal.SIGINT) is handler
    stop.setup(small(2, n_jobs=2), alone)
    assert signal.getsignal(signal.SIGINT) is not handler
    # One within the other: the outer one has it, and gives it back.
    small(2).set_callbacks(stop).fit(moons())
    assert signal.getsignal(signal.SIGINT) is not handler
    stop.teardown(small(2), alone)
    grid = {"n_components": [1]}
    inside = small(2).set_callbacks(stop, watch)
    GridSearchCV(inside, grid, cv=2).fit(moons())
    around = GridSearchCV(small(2), grid, cv=2).set_callbacks(stop, watch)
    around.fit(moons())
    assert len(handlers) > 20
    assert all(own is handler for own in handlers)
    assert signal.getsignal(signal.SIGINT) is handler


# scikit-learn's own.


def log_likelihood(estimator, X, y, sample_weight=None):
    return {"score": estimator.score(X, sample_weight=sample_weight)}


def logged_scores(monitor):
    return [
        (row["task_name"], row["score"])
        for row in monitor.get_logs().data
        if "score" in row
    ]


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("y", [None, np.zeros(len(moons()))], ids=["no y", "y"])
def test_scoring_monitor_logs_every_epoch(n_jobs, y):
    monitor = ScoringMonitor(scoring=log_likelihood)
    model = small(2, n_init=2, n_jobs=n_jobs).set_callbacks(monitor).fit(moons(), y)
    rows = logged_scores(monitor)
    names = [name for name, _ in rows]
    assert names.count("fit") == names.count("init 0") == names.count("init 1") == 1
    n_epochs = len(model.history_)
    # Restarts may take more or fewer.
    assert sum(name.endswith("epoch") for name in names) >= n_epochs + 6
    assert np.isfinite([score for _, score in rows]).all()
    assert dict(rows)["fit"] == model.score(moons())


def test_scoring_monitor_sees_weights():
    monitor = ScoringMonitor(scoring=log_likelihood)
    weights = np.arange(len(moons()))
    model = small(2).set_callbacks(monitor).fit(moons(), sample_weight=weights)
    score = dict(logged_scores(monitor))["fit"]
    assert score == model.score(moons(), sample_weight=weights)
    assert score != model.score(moons())


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_scoring_monitor_in_a_search(n_jobs):
    monitor = ScoringMonitor(scoring=log_likelihood)
    search = GridSearchCV(
        small().set_callbacks(monitor),
        {"n_components": [1, 2]},
        cv=2,
        n_jobs=n_jobs,
        error_score="raise",
    )
    search.fit(moons())
    rows = logged_scores(monitor)
    assert sum(name.endswith("elbo epoch") for name, _ in rows) >= 5 * 3
    assert np.isfinite([score for _, score in rows]).all()


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_progress_bar(n_jobs, capsys):
    model = small(2, n_init=2, n_jobs=n_jobs).set_callbacks(ProgressBar())
    model.fit(moons())
    shown = capsys.readouterr().out
    assert "FlowMixture - fit" in shown
    assert "init 0" in shown and "init 1" in shown
    assert "100%" in shown
    assert_same_answers(model, small(2, n_init=2).fit(moons()), moons())


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_progress_bar_on_a_search(n_jobs, capsys):
    search = GridSearchCV(
        small(), {"n_components": [1, 2]}, cv=2, n_jobs=n_jobs, error_score="raise"
    )
    search.set_callbacks(ProgressBar()).fit(moons())
    shown = capsys.readouterr().out
    assert "GridSearchCV - fit" in shown
    assert "FlowMixture" in shown
    assert np.isfinite(search.score(moons()))


def test_progress_bar_inside_a_search_is_refused():
    """By scikit-learn; it belongs on the search."""
    search = GridSearchCV(
        small().set_callbacks(ProgressBar()),
        {"n_components": [1]},
        cv=2,
        error_score="raise",
    )
    with pytest.raises(TypeError, match="auto-propagated"):
        search.fit(moons())


def test_a_fitted_model_forgets_its_callbacks_context():
    model = small(2).set_callbacks(Recorder()).fit(moons())
    public = {name for name in vars(model) if not name.startswith("_")}
    assert all(name.endswith("_") for name in public - set(model.get_params()))
    assert not hasattr(model, "_callback_fit_ctx")


class Pickles(Stop):
    """Pickles every model that it sees."""

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        again = pickle.loads(pickle.dumps(fitted_estimator))
        labels = again.predict(moons())
        self.n += np.array_equal(labels, fitted_estimator.predict(moons()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("cls", [FlowMixtureClassifier, FlowMixtureOutlierDetector])
def test_callbacks_of_other_estimators_see_models_that_can_be_pickled(cls):
    callback = Pickles(None, 0)
    networks = {"hidden_units": (8,), "posterior_units": (8,), "max_iter": 2}
    model = make(cls, random_state=0, **networks).set_callbacks(callback)
    model.fit(moons(), np.arange(len(moons())) % 2)
    assert callback.n > 3


@pytest.mark.parametrize("usual", [2, 40])
def test_bars_tell_time_by_the_usual_number_of_epochs(usual, monkeypatch):
    """Those beyond it are in a task of their own: no task has more than it said."""
    monkeypatch.setattr(settings, "USUAL_EPOCHS", usual)
    most, begun = {}, {}

    class Counter(Recorder):
        def on_fit_task_begin(self, estimator, context):
            most[context.task_name] = context.max_subtasks
            parent = context.parent and context.parent.task_name
            begun[parent] = begun.get(parent, 0) + 1

    model = small(2, max_iter=8, n_iter_init=3, tol=0.0).set_callbacks(Counter())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(moons())
    n_usual = 3 + min(usual, 8) + 8
    assert most["init 0"] == n_usual + 1
    assert ("more epochs" in most) == (len(model.history_) > n_usual)
    assert begun["init 0"] <= n_usual + 1
    assert sum(begun.values()) >= len(model.history_)
