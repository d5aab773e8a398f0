"""Watchers of a fit: scikit-learn's callbacks and printed lines."""

import time
from collections.abc import Callable
from typing import Any

from skflowmix.fitting import FittedMixture, RestartMonitor, Watcher
from skflowmix.training.reducers import Reducer
from skflowmix.training.runtime import Candidate
from skflowmix.training.settings import FitSettings
from skflowmix.training.table import TrainingTable

__all__ = [
    "CallbackMonitor",
    "CallbackWatcher",
    "FirstWatcher",
    "begin_fit",
    "shown_to_callbacks",
]

# With verbose=1, seconds between two lines.
SECONDS_BETWEEN_LINES = 5.0


def shown_to_callbacks(X: Any, y: Any, sample_weight: Any) -> dict[str, Any]:
    """Return what callbacks see of a fit, as it was given: `X`, `y` and `metadata`."""
    metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
    return {"X": X, "y": y, "metadata": metadata}


class _NoTask:
    """Task without callbacks, for processes other than the first."""

    def call_on_fit_task_begin(self, **seen: Any) -> None:
        """Do nothing."""

    def call_on_fit_task_end(self, **seen: Any) -> bool:
        """Do nothing, and do not ask to stop."""
        return False


def begin_fit(
    estimator: Any, seen: dict[str, Any], n_restarts: int, rank: int = 0
) -> Any:
    """Tell the callbacks of an estimator that its fit begins.

    Parameters
    ----------
    estimator : estimator
        The estimator that is fitted.
    seen : dict
        What callbacks see as `X`, `y` and `metadata`.
    n_restarts : int
        Number of restarts, the subtasks of the fit.
    rank : int, default=0
        Rank of this process; only the first one, 0, has callbacks.

    Returns
    -------
    context : CallbackContext
        The task of the fit.
    """
    if rank > 0:
        return _NoTask()
    context = estimator._init_callback_context(
        max_subtasks=n_restarts, sequential_subtasks=False
    )
    context.call_on_fit_task_begin(estimator=estimator, **seen)
    return context


class _Printer:
    """Prints lines with the time since a fit began, if the estimator is verbose."""

    def __init__(self, estimator: Any):
        self.name = type(estimator).__name__
        self.verbose, self.interval = estimator.verbose, estimator.verbose_interval
        self.began = time.time()  # the same clock in all processes
        self.last = self.began

    def say(self, text: str) -> None:
        """Print a line."""
        if self.verbose:
            self.last = time.time()
            print(f"[{self.name}] {_clock(self.last - self.began)} {text}", flush=True)

    def is_due(self, epoch: int) -> bool:
        """Tell whether to print an epoch: by its number, or a few seconds apart."""
        if self.verbose >= 2:
            return epoch % self.interval == 0
        return time.time() - self.last >= SECONDS_BETWEEN_LINES


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


class CallbackWatcher:
    """Shows the restarts of a fit to the callbacks of an estimator.

    Parameters
    ----------
    estimator : estimator
        The estimator that is being fitted.
    context : CallbackContext
        The task of the fit.
    seen : dict
        What callbacks see as `X`, `y` and `metadata`.
    attributes : callable
        Maps a `FittedMixture` to the estimator's fitted attributes.
    resumes : bool, default=False
        Whether the fit goes on from a checkpoint.
    """

    def __init__(
        self,
        estimator: Any,
        context: Any,
        seen: dict[str, Any],
        attributes: Callable[[FittedMixture], dict[str, Any]],
        resumes: bool = False,
    ):
        self.estimator, self.context = estimator, context
        self.seen, self.attributes = seen, attributes
        self.resumes = resumes
        self.printer = _Printer(estimator)

    def begin(self, table: TrainingTable, settings: FitSettings) -> None:
        """See `skflowmix.fitting.Watcher`."""
        self.settings = settings
        self.log_scale = table.standardizer.log_scale
        n_rows, n_columns = table.x.shape
        self.printer.say(
            f"first partition of {n_rows} distinct rows, {n_columns} columns"
        )
        if self.resumes:
            self.printer.say("resuming from the checkpoint")

    def restart(
        self, i: int, fitted: Callable[[Candidate], FittedMixture]
    ) -> "CallbackMonitor":
        """See `skflowmix.fitting.Watcher`."""
        # Progress bars estimate time from the number of subtasks: the usual number of
        # epochs, plus one subtask for all further epochs.
        usual, name = self.settings.usual_epochs(), f"init {i}"
        return CallbackMonitor(
            self.estimator,
            self.context.subcontext(name, task_id=i, max_subtasks=usual + 1),
            self.seen,
            lambda candidate: self.attributes(fitted(candidate)),
            self.printer,
            self.settings,
            self.log_scale,
        )

    def end(self, candidate: Candidate) -> None:
        """See `skflowmix.fitting.Watcher`."""
        epochs = len(candidate.history)
        state = "converged" if candidate.converged else "did not converge"
        if candidate.stopped:
            state = "was stopped"
        self.printer.say(
            f"{state} after {epochs} epochs in all phases; last evaluation of all rows"
        )


class CallbackMonitor:
    """Shows the epochs of one restart to the callbacks, and prints them.

    Parameters
    ----------
    estimator, context, seen
        As for `CallbackWatcher`; the task is the restart.
    attributes : callable
        Maps a candidate to the estimator's fitted attributes.
    printer : _Printer
        Prints the lines.
    settings : FitSettings
        Settings of the fit, with the numbers of epochs.
    log_scale : float
        Log-Jacobian of the standardisation, in nats.
    """

    def __init__(
        self,
        estimator: Any,
        context: Any,
        seen: dict[str, Any],
        attributes: Callable[[Candidate], dict[str, Any]],
        printer: _Printer,
        settings: FitSettings,
        log_scale: float,
    ):
        self.estimator, self.context = estimator, context
        self.seen, self.attributes = seen, attributes
        self.printer, self.settings, self.log_scale = printer, settings, log_scale
        self.stopped = False
        self.last_epoch = self.phase_began = time.time()
        self.place, self.n_seen = ("", 0), 0
        self.n_epochs = 0
        self.more: Any = None

    def begin(self) -> None:
        """See `skflowmix.fitting.RestartMonitor`."""
        self.printer.say(f"{self.context.task_name}: training")
        self.last_epoch = time.time()
        self.context.call_on_fit_task_begin(estimator=self.estimator, **self.seen)

    def epoch(
        self, record: dict[str, Any], make_candidate: Callable[[], Candidate]
    ) -> bool:
        """See `skflowmix.training.phases.Monitor`."""
        task = self._parent().subcontext(f"{record['phase']} epoch")
        task.call_on_fit_task_begin(estimator=self.estimator, **self.seen)
        now, place = time.time(), (record["phase"], record["epoch"])
        if place != (self.place[0], self.place[1] + 1):
            self.phase_began, self.n_seen = self.last_epoch, 0
        self.place, self.last_epoch = place, now
        self.n_seen += 1
        if self.printer.is_due(record["epoch"]):
            self._print(record, (now - self.phase_began) / self.n_seen)
        self._end(task, make_candidate)
        return self.stopped

    def _parent(self) -> Any:
        """Return the task that the next epoch belongs to."""
        usual, most = self.settings.usual_epochs(), self.settings.most_epochs()
        self.n_epochs += 1
        if self.n_epochs <= usual:
            return self.context
        if self.more is None:
            self.more = self.context.subcontext(
                "more epochs", max_subtasks=max(most - usual, 1)
            )
            self.more.call_on_fit_task_begin(estimator=self.estimator, **self.seen)
        return self.more

    def _print(self, record: dict[str, Any], seconds: float) -> None:
        most, epoch = self.settings.most_epochs_of(record["phase"]), record["epoch"]
        score = record["validation_log_likelihood"] - self.log_scale
        self.printer.say(
            f"{self.context.task_name}: {record['phase']} epoch {epoch} of at most "
            f"{most}, held-out log-likelihood {score:.4f} nats per row, at most "
            f"{_clock(seconds * (most - epoch))} more in this phase"
        )

    def end(self, candidate: Candidate) -> None:
        """See `skflowmix.fitting.RestartMonitor`."""
        if self.more is not None:
            self._end(self.more, lambda: candidate)
        self._end(self.context, lambda: candidate)

    def _end(self, task: Any, make_candidate: Callable[[], Candidate]) -> None:
        self.stopped |= bool(
            task.call_on_fit_task_end(
                estimator=self.estimator,
                reconstruction_attributes=lambda: self.attributes(make_candidate()),
                **self.seen,
            )
        )


class FirstWatcher:
    """Lets the first of several processes watch a fit for all of them.

    Parameters
    ----------
    watcher : Watcher
        The watcher, called in the first process only.
    reducer : Reducer
        The processes.
    """

    def __init__(self, watcher: Watcher, reducer: Reducer):
        self.watcher, self.reducer = watcher, reducer

    def begin(self, table: TrainingTable, settings: FitSettings) -> None:
        """See `skflowmix.fitting.Watcher`."""
        self.reducer.from_first(lambda: self.watcher.begin(table, settings))

    def restart(
        self, i: int, fitted: Callable[[Candidate], FittedMixture]
    ) -> "_FirstMonitor":
        """See `skflowmix.fitting.Watcher`."""
        first = None
        if self.reducer.rank == 0:
            first = self.watcher.restart(i, fitted)
        return _FirstMonitor(first, self.reducer)

    def end(self, candidate: Candidate) -> None:
        """See `skflowmix.fitting.Watcher`."""
        self.reducer.from_first(lambda: self.watcher.end(candidate))


class _FirstMonitor:
    """Lets the first of several processes watch a restart for all of them."""

    def __init__(self, first: RestartMonitor | None, reducer: Reducer):
        self.first, self.reducer = first, reducer
        self.stopped = False

    def _watch(self, call: Callable[[RestartMonitor], Any]) -> None:
        def in_first() -> bool:
            assert self.first is not None
            call(self.first)
            return self.first.stopped

        self.stopped = self.reducer.from_first(in_first)

    def begin(self) -> None:
        """See `skflowmix.fitting.RestartMonitor`."""
        self._watch(lambda first: first.begin())

    def epoch(
        self, record: dict[str, Any], make_candidate: Callable[[], Candidate]
    ) -> bool:
        """See `skflowmix.training.phases.Monitor`."""
        self._watch(lambda first: first.epoch(record, make_candidate))
        return self.stopped

    def end(self, candidate: Candidate) -> None:
        """See `skflowmix.fitting.RestartMonitor`."""
        self._watch(lambda first: first.end(candidate))
