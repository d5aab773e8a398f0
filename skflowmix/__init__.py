"""Mixtures of normalizing flows with the verbs of scikit-learn.

`FlowMixture` is the `GaussianMixture` for clusters that are not Gaussian.
"""

from skflowmix._version import __version__
from skflowmix.classifier import FlowMixtureClassifier
from skflowmix.estimator import FlowMixture
from skflowmix.files import ModelFileError
from skflowmix.options import FlowMixtureOptions
from skflowmix.outlier import FlowMixtureOutlierDetector
from skflowmix.persistence import load, save

__all__ = [
    "FlowMixture",
    "FlowMixtureClassifier",
    "FlowMixtureOptions",
    "FlowMixtureOutlierDetector",
    "ModelFileError",
    "__version__",
    "load",
    "save",
]
