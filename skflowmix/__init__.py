"""Mixtures of normalizing flows with scikit-learn's API.

`FlowMixture` is a `GaussianMixture` for clusters that are not Gaussian.
"""

from skflowmix._version import __version__
from skflowmix.callbacks import StopOnInterrupt
from skflowmix.classifier import FlowMixtureClassifier
from skflowmix.displays.count import ComponentCountDisplay
from skflowmix.displays.density import DensityDisplay, SamplesDisplay
from skflowmix.displays.scores import AnomalyScoreDisplay, ReliabilityDisplay
from skflowmix.displays.training import (
    ResponsibilityDisplay,
    TrainingHistoryDisplay,
)
from skflowmix.distributed import data_parallel
from skflowmix.estimator import FlowMixture
from skflowmix.files import ModelFileError
from skflowmix.options import FlowMixtureOptions
from skflowmix.outlier import FlowMixtureOutlierDetector
from skflowmix.persistence import load, save
from skflowmix.scorers import (
    adjusted_rand_scorer,
    log_likelihood_scorer,
    outlier_auc_scorer,
)

__all__ = [
    "AnomalyScoreDisplay",
    "ComponentCountDisplay",
    "DensityDisplay",
    "FlowMixture",
    "FlowMixtureClassifier",
    "FlowMixtureOptions",
    "FlowMixtureOutlierDetector",
    "ModelFileError",
    "ReliabilityDisplay",
    "ResponsibilityDisplay",
    "SamplesDisplay",
    "StopOnInterrupt",
    "TrainingHistoryDisplay",
    "__version__",
    "adjusted_rand_scorer",
    "data_parallel",
    "load",
    "log_likelihood_scorer",
    "outlier_auc_scorer",
    "save",
]
