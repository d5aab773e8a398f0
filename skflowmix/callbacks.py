"""Callbacks for scikit-learn's callback protocol."""

import signal
import threading
from types import FrameType
from typing import Any

from joblib import effective_n_jobs

from skflowmix.distributed import active_reducer
from skflowmix.options import OptionsMixin
from skflowmix.user_warnings import warn_user

__all__ = ["StopOnInterrupt"]


class StopOnInterrupt:
    """Callback that lets Ctrl-C end a fit with the best model so far.

    While an estimator with this callback is being fitted, the first interrupt (SIGINT)
    takes effect at the end of the epoch; `fit` then returns with the parameters that
    were best on held-out rows, those of the M-step if there was no other epoch. An
    interrupt during the first partition waits for the first epoch. A second interrupt
    raises `KeyboardInterrupt`, which leaves the estimator as it was before.

    Interrupts are not handled where they could not end the fit, or other code handles
    them: in a search or a pipeline, with restarts in other processes (``n_jobs``),
    among several processes (`data_parallel`), outside the main thread, and where SIGINT
    is ignored. `cross_val_score`, and meta-estimators that do not support callbacks,
    continue with their next fit; a warning tells of the interrupt.

    Warns
    -----
    UserWarning
        If a fit was interrupted.

    Attributes
    ----------
    interrupted : bool
        Whether the last fit was interrupted.

    Examples
    --------
    >>> import numpy as np
    >>> from skflowmix import FlowMixture, StopOnInterrupt
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> stop = StopOnInterrupt()
    >>> model = FlowMixture(n_transforms=0, random_state=0)
    >>> model = model.set_callbacks(stop).fit(X)
    >>> stop.interrupted
    False
    """

    _former: Any
    _owner: Any

    def __init__(self) -> None:
        self.interrupted = False
        self._former = self._owner = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the signal handler, which belongs to this process."""
        return {"interrupted": self.interrupted, "_former": None, "_owner": None}

    def setup(self, estimator: Any, context: Any) -> None:
        """Install the signal handler if an interrupt can end the fit."""
        if self._owner is not None or not _can_end(estimator, context):
            return
        self.interrupted = False
        self._owner = context.root_uuid
        self._former = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        """Return True, a request to stop, if there was an interrupt."""
        return self.interrupted and context.root_uuid == self._owner

    def teardown(self, estimator: Any, context: Any) -> None:
        """Restore the previous signal handler, and warn if there was an interrupt."""
        if context.root_uuid != self._owner:
            return
        signal.signal(signal.SIGINT, self._former)
        self._former = self._owner = None
        if self.interrupted:
            warn_user(
                "The fit was interrupted: where it ended without an error, the model "
                "is the best one until then.",
            )


def _can_end(estimator: Any, context: Any) -> bool:
    """Tell whether an interrupt can end this fit, and no other code handles it."""
    if context.parent is not None or not isinstance(estimator, OptionsMixin):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    restarts = getattr(estimator, "n_init", 1) > 1
    if restarts and effective_n_jobs(getattr(estimator, "n_jobs", None)) > 1:
        return False
    if active_reducer().n_ranks > 1:
        return False
    return signal.getsignal(signal.SIGINT) not in (None, signal.SIG_IGN)
