"""scikit-learn's callbacks and printed lines, as the watchers of a fit."""

from collections.abc import Callable
from typing import Any

from skflowmix.fitting import FittedMixture
from skflowmix.training.candidate import Candidate

__all__ = ["CallbackMonitor", "CallbackWatcher"]


class CallbackWatcher:
    """Shows the restarts of a fit to the callbacks of an estimator.

    Parameters
    ----------
    estimator : estimator
        The one that is being fitted.
    context : CallbackContext
        Its task that stands for the fit.
    seen : dict
        What callbacks see as `X`, `y` and `metadata`.
    attributes : callable
        Maps a `FittedMixture` to the estimator's fitted attributes.
    """

    def __init__(
        self,
        estimator,
        context,
        seen: dict[str, Any],
        attributes: Callable[[FittedMixture], dict[str, Any]],
    ):
        self.estimator, self.context = estimator, context
        self.seen, self.attributes = seen, attributes

    def restart(
        self, i: int, fitted: Callable[[Candidate], FittedMixture]
    ) -> "CallbackMonitor":
        """See `skflowmix.fitting.Watcher`."""
        return CallbackMonitor(
            self.estimator,
            self.context.subcontext(f"init {i}", task_id=i, max_subtasks=None),
            self.seen,
            lambda candidate: self.attributes(fitted(candidate)),
        )


class CallbackMonitor:
    """Shows the epochs of one restart.

    Parameters
    ----------
    estimator, context, seen
        As for `CallbackWatcher`; the task is the restart.
    attributes : callable
        Maps a candidate to the estimator's fitted attributes.
    """

    def __init__(
        self,
        estimator,
        context,
        seen: dict[str, Any],
        attributes: Callable[[Candidate], dict[str, Any]],
    ):
        self.estimator, self.context = estimator, context
        self.seen, self.attributes = seen, attributes
        self.stopped = False

    def begin(self) -> None:
        """See `skflowmix.fitting.RestartMonitor`."""
        self.context.call_on_fit_task_begin(estimator=self.estimator, **self.seen)

    def epoch(
        self, record: dict[str, Any], make_candidate: Callable[[], Candidate]
    ) -> bool:
        """See `skflowmix.training.candidate.Monitor`."""
        task = self.context.subcontext(f"{record['phase']} epoch")
        task.call_on_fit_task_begin(estimator=self.estimator, **self.seen)
        estimator = self.estimator
        if estimator.verbose and record["epoch"] % estimator.verbose_interval == 0:
            print(
                f"  {record['phase']} epoch {record['epoch']}: validation "
                f"log-likelihood {record['validation_log_likelihood']:.5f}"
            )
        self._end(task, make_candidate)
        return self.stopped

    def end(self, candidate: Candidate) -> None:
        """See `skflowmix.fitting.RestartMonitor`."""
        self._end(self.context, lambda: candidate)

    def _end(self, task, make_candidate):
        self.stopped |= bool(
            task.call_on_fit_task_end(
                estimator=self.estimator,
                reconstruction_attributes=lambda: self.attributes(make_candidate()),
                **self.seen,
            )
        )
