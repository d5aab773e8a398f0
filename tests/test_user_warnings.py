"""Warnings name the line of the user, however deep in the library they arise."""

import signal
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from small_models import moons, small

from skflowmix import StopOnInterrupt

CALLS = {
    "fit": lambda model, X: model.fit(X),
    "fit_predict": lambda model, X: model.fit_predict(X),
    "partial_fit": lambda model, X: model.partial_fit(X),
    "search": lambda model, X: cross_val_score(model, X, cv=2),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_warning_points_to_the_caller(call):
    X = moons().copy()
    X[:20, 0] = -999
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(small(2, max_iter=1, n_init=1), X)
    kinds = {warning.category for warning in caught}
    assert UserWarning in kinds
    assert (ConvergenceWarning in kinds) == (call is not CALLS["partial_fit"])
    assert {warning.filename for warning in caught} == {__file__}


def test_an_interrupted_fit_points_to_the_caller(handler):
    """scikit-learn tears callbacks down by way of the standard library."""

    class Interrupts(StopOnInterrupt):
        def on_fit_task_end(self, estimator, context):
            if not self.interrupted:
                signal.raise_signal(signal.SIGINT)
            return super().on_fit_task_end(estimator, context)

    with pytest.warns(UserWarning, match="interrupted") as caught:
        small(2).set_callbacks(Interrupts()).fit(moons())
    assert caught[0].filename == __file__


def test_a_criterion_warns_in_the_name_of_its_caller():
    model = small(2).fit(moons())
    assert np.isfinite(model.score(moons()))
    for criterion in (model.bic, model.aic):
        with pytest.warns(UserWarning, match="favours few components") as caught:
            criterion(moons())
        assert caught[0].filename == __file__


def test_a_warning_that_is_an_error_keeps_the_fitted_model():
    model = small(2, max_iter=1, n_init=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            model.fit(moons())
    assert len(model.predict(moons())) == len(moons())
