"""Models that fit in a blink, and the rows they are fitted to."""

import inspect
from functools import cache

import numpy as np
import pytest
from sklearn.datasets import make_moons

from skflowmix import FlowMixture, FlowMixtureOptions
from skflowmix.model.flows import FLOWS

# Where tests of all families take long: those with another conditioner and another map
# come first, the two others in the profile of all tests.
each_flow_slowly = pytest.mark.parametrize(
    "flow",
    [
        pytest.param(
            flow, marks=[] if flow in ("realnvp", "nsf-ar") else [pytest.mark.slow]
        )
        for flow in FLOWS
    ],
)


def make(cls, *args, **parameters):
    """Make an estimator; what is no parameter of its own becomes an option."""
    own = inspect.signature(cls).parameters
    options = {name: parameters.pop(name) for name in [*parameters] if name not in own}
    if options:
        parameters["options"] = FlowMixtureOptions(**options)
    return cls(*args, **parameters)


def small(n_components=1, **kwargs):
    """A `FlowMixture` with small networks that counts as converged after 6 epochs."""
    parameters = {
        "n_transforms": 1,
        "hidden_units": (8,),
        "posterior_units": (8,),
        "init_params": "kmeans",
        "tol": 10.0,
        "n_iter_no_change": 1,
        "max_iter": 6,
        "random_state": 0,
    }
    return make(FlowMixture, n_components, **{**parameters, **kwargs})


def trained(n_components=1, **kwargs):
    """A `FlowMixture` with small networks, trained until it has converged."""
    parameters = {
        "n_transforms": 2,
        "hidden_units": (16,),
        "posterior_units": (16,),
        "init_params": "kmeans",
        "n_iter_no_change": 3,
        "random_state": 0,
    }
    return make(FlowMixture, n_components, **{**parameters, **kwargs})


@cache
def moons(n_samples=150, seed=0):
    """Rows of two moons, read-only."""
    X, _ = make_moons(n_samples, noise=0.1, random_state=seed)
    X.setflags(write=False)
    return X


def answers(model, X):
    """What a fitted model says of rows, by the name of the question."""
    return {
        "score_samples": model.score_samples(X),
        "component_log_prob": model.component_log_prob(X),
        "predict_proba": model.predict_proba(X),
        "posterior_proba": model.posterior_proba(X),
        "predict": model.predict(X),
        "elbo": model.elbo(X),
    }


def assert_same_answers(model, other, X):
    """Two models say the same, bit for bit."""
    expected = answers(other, X)
    for name, answer in answers(model, X).items():
        np.testing.assert_array_equal(answer, expected[name], err_msg=name)
