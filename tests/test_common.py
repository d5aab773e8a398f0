"""scikit-learn's own checks of an estimator: all of them pass."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    parametrize_with_checks,
)
from small_models import small

from skflowmix import FlowMixture
from skflowmix.model.flows import FLOWS


def run(check, estimator, monkeypatch):
    # One check permutes rows with NumPy's global generator.
    permutation = np.random.RandomState(0).permutation
    monkeypatch.setattr(np.random, "permutation", permutation)
    check(estimator)


@parametrize_with_checks(
    [
        small("auto", random_state=None),
        FlowMixture(),
    ]
)
def test_sklearn(estimator, check, monkeypatch):
    run(check, estimator, monkeypatch)


@pytest.mark.slow
@parametrize_with_checks(
    [
        small(n_components, flow=flow, random_state=None)
        for flow in FLOWS
        for n_components in (1, 3)
    ]
)
def test_sklearn_with_other_families(estimator, check, monkeypatch):
    run(check, estimator, monkeypatch)


# scikit-learn runs these on its own estimators only.


def test_a_bad_parameter_is_named():
    check_param_validation("FlowMixture", small())


def test_column_names_are_checked():
    check_dataframe_column_names_consistency("FlowMixture", small())
