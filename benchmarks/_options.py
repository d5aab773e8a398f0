"""Make estimators from one dictionary of parameters that includes options."""

import inspect

from skflowmix import FlowMixtureOptions


def make(cls, *args, **parameters):
    """Make an estimator; what is no parameter of its own becomes an option."""
    own = inspect.signature(cls).parameters
    options = {name: parameters.pop(name) for name in [*parameters] if name not in own}
    if options:
        parameters["options"] = FlowMixtureOptions(**options)
    return cls(*args, **parameters)
