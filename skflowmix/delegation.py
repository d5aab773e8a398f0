"""What the estimators around a `FlowMixture` share: parameters and callbacks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from skflowmix.estimator import FlowMixture

__all__ = [
    "SHARED_PARAMETERS",
    "fit_with_callbacks",
    "mixture_of",
    "shared_constraints",
]

# Parameters that mean the same here as in `FlowMixture`.
SHARED_PARAMETERS = (
    "flow",
    "n_transforms",
    "n_common_transforms",
    "n_shared_transforms",
    "hidden_units",
    "posterior_units",
    "init_params",
    "reg_covar",
    "temperature",
    "temperature_decay",
    "label_noise",
    "input_noise",
    "repeat_noise",
    "max_iter",
    "n_iter_init",
    "tol",
    "n_iter_no_change",
    "validation_fraction",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "dtype",
    "device",
    "random_state",
    "verbose",
    "verbose_interval",
)


def shared_constraints() -> dict[str, list]:
    """Constraints of the shared parameters, for `_parameter_constraints`."""
    constraints = FlowMixture._parameter_constraints
    return {name: constraints[name] for name in SHARED_PARAMETERS}


def mixture_of(estimator, cls=FlowMixture, **others) -> FlowMixture:
    """Make an unfitted mixture with the parameters of an estimator around it."""
    shared = {name: getattr(estimator, name) for name in SHARED_PARAMETERS}
    # In one process: what callbacks say must reach the outer estimator.
    mixture = cls(**{**shared, "n_jobs": 1, **others})
    mixture._warns_of_codes = False
    return mixture


class _Relay:
    """Shows the tasks of an inner fit to the callbacks of the outer estimator.

    Parameters
    ----------
    estimator : estimator
        The outer one.
    parent : CallbackContext
        Its task that stands for the whole inner fit.
    seen : dict
        The outer `X`, `y` and `metadata`.
    attributes : callable
        Maps a fitted inner estimator to fitted attributes of the outer one.
    """

    def __init__(self, estimator, parent, seen, attributes):
        self.estimator, self.seen, self.attributes = estimator, seen, attributes
        self.tasks = {None: parent}
        self.stopped = False

    def setup(self, estimator, context):
        """Nothing to set up."""

    def teardown(self, estimator, context):
        """Nothing to tear down."""

    def on_fit_task_begin(self, estimator, context):
        """Begin the outer task."""
        if context.parent is None:
            self.tasks[context] = self.tasks[None]
            return
        outer = self.tasks[context.parent].subcontext(
            context.task_name, max_subtasks=context.max_subtasks
        )
        self.tasks[context] = outer
        outer.call_on_fit_task_begin(estimator=self.estimator, **self.seen)

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        """End the outer task; true where a callback asks to stop."""
        if context.parent is None:
            return False
        stop = self.tasks[context].call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=lambda: self.attributes(
                _without_callbacks(fitted_estimator)
            ),
            **self.seen,
        )
        self.stopped |= stop
        return stop


def _without_callbacks(estimator):
    """Take the relay out of an estimator, which could not be pickled with it."""
    for name in list(vars(estimator)):
        if name.startswith(("_skl", "_callback")):
            delattr(estimator, name)
    return estimator


def fit_with_callbacks(
    estimator,
    mixture: FlowMixture,
    X: np.ndarray,
    sample_weight: np.ndarray,
    parent,
    seen: dict[str, Any],
    attributes: Callable[[FlowMixture], dict[str, Any]],
) -> tuple[FlowMixture, bool]:
    """Fit a mixture; its epochs are tasks for the callbacks of the outer estimator.

    Parameters
    ----------
    estimator : estimator
        The outer one.
    mixture : FlowMixture
        What is fitted.
    X : ndarray of shape (n_samples, n_features)
        Checked rows.
    sample_weight : ndarray of shape (n_samples,)
        Their weights.
    parent : CallbackContext
        The outer task that stands for this fit.
    seen : dict
        What callbacks see as `X`, `y` and `metadata`.
    attributes : callable
        Maps a fitted mixture to the fitted attributes of the outer estimator.

    Returns
    -------
    mixture : FlowMixture
        The fitted mixture.
    stopped : bool
        Whether a callback ended the fit.
    """
    relay = _Relay(estimator, parent, seen, attributes)
    if getattr(estimator, "_skl_callbacks", None):  # else no model is copied
        mixture.set_callbacks(relay)
    mixture.fit(X, sample_weight=sample_weight)
    del mixture._warns_of_codes  # where it is fitted on its own, it warns
    return mixture.set_callbacks(), relay.stopped
