"""Callbacks of scikit-learn's protocol."""

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
    waits for the end of the epoch; `fit` then returns with the parameters that held-out
    rows found best, those of the M-step if there was no other epoch. In the first
    partition it waits for the first epoch. A second one raises `KeyboardInterrupt`,
    which leaves the estimator as it was before.

    Interrupts are left alone where they could not end the fit, or somebody else waits
    for them: in a search or a pipeline, for restarts in other processes (``n_jobs``),
    among several processes (`data_parallel`), in other threads than the main one, and
    where they are ignored. `cross_val_score` and meta-estimators that tell callbacks
    nothing go on with their next fit: hence a warning.

    Warns
    -----
    UserWarning
        Where a fit was interrupted.

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
        """Leave out the handler of signals, which belongs to this process."""
        return {"interrupted": self.interrupted, "_former": None, "_owner": None}

    def setup(self, estimator: Any, context: Any) -> None:
        """Listen to interrupts, where they can end the fit."""
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
        """Ask to stop if there was an interrupt."""
        return self.interrupted and context.root_uuid == self._owner

    def teardown(self, estimator: Any, context: Any) -> None:
        """Leave interrupts to whom they were left to before."""
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
    """Tell whether an interrupt can end that fit, and nobody else waits for it."""
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
