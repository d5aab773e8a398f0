"""Callbacks of scikit-learn's protocol."""

import signal
import threading

__all__ = ["StopOnInterrupt"]


class StopOnInterrupt:
    """Callback that lets Ctrl-C end a fit with the best model so far.

    While an estimator with this callback is being fitted the first interrupt (SIGINT)
    is kept until the epoch ends; `fit` then returns with the parameters that held-out
    rows found best. A second one raises `KeyboardInterrupt`, which leaves the estimator
    as it was before. Between epochs, as in the first partition, nothing is asked until
    the next epoch. In other threads than the main one, which get no signals, and for
    restarts in other processes (``n_jobs``), it does nothing.

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
    >>> model = FlowMixture(max_iter=5, tol=1e9, random_state=0)
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
        """Listen to interrupts, in the main thread."""
        self.interrupted = False
        if threading.current_thread() is threading.main_thread():
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
