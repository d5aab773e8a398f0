"""Mixtures of normalizing flows with the verbs of scikit-learn.

`FlowMixture` is the `GaussianMixture` for clusters that are not Gaussian.
"""

from skflowmix._version import __version__
from skflowmix.estimator import FlowMixture

__all__ = ["FlowMixture", "__version__"]
