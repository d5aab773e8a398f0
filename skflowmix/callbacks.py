"""Callbacks of scikit-learn's protocol."""

import signal
import threading

from joblib import effective_n_jobs

from skflowmix.options import OptionsMixin

__all__ = ["StopOnInterrupt"]


class StopOnInterrupt:
    """Callback that lets Ctrl-C end a fit with the best model so far.

    While an estimator with this callback is being fitted, the first interrupt (SIGINT)
    waits for the end of the epoch; `fit` then returns with the parameters that held-out
    rows found best, those of the M-step if there was no other epoch. In the first
    partition it waits for the first epoch. A second one raises `KeyboardInterrupt`,
    which leaves the estimator as it was before.

    Interrupts are left alone where they could not end the fit: in a search or another
    meta-estimator, for restarts in other processes (``n_jobs``), and in other threads
    than the main one, which get none.

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

    def __init__(self):
        self.interrupted = False
        self._former = None

    def __getstate__(self):
        """Leave out the handler of signals, which belongs to this process."""
        return {"interrupted": self.interrupted, "_former": None}

    def setup(self, estimator, context):
        """Listen to interrupts, where they can end the fit."""
        self.interrupted = False
        is_outermost = context.parent is None and isinstance(estimator, OptionsMixin)
        in_process = effective_n_jobs(getattr(estimator, "n_jobs", None)) == 1
        in_main_thread = threading.current_thread() is threading.main_thread()
        if is_outermost and in_process and in_main_thread:
            self._former = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number, frame):
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_fit_task_begin(self, estimator, context):
        """Do nothing."""

    def on_fit_task_end(self, estimator, context):
        """Ask to stop if there was an interrupt."""
        return self.interrupted

    def teardown(self, estimator, context):
        """Leave interrupts to whom they were left to before."""
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)
            self._former = None
