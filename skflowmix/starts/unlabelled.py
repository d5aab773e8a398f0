"""Whether rows without a label help: labels told by other labels."""

import numpy as np
from scipy.special import xlogy

from skflowmix.starts.class_probabilities import calibration_temperature, label_losses
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.knn import one_hot

__all__ = ["label_folds", "spreading_helps"]

# Labels that judge, and the folds that they make: more where labels are few.
MAX_JUDGES = 4096
N_FOLDS, N_SMALL_FOLDS, FEW_JUDGES = 5, 10, 100

# Labels spread well if they leave less than this share of the labels' entropy, and gain
# over Gaussians of the labelled rows so many times the standard error.
LARGEST_SHARE_LEFT = 0.5
CLEAR_GAIN = 1.0

REG_COVAR = 1e-6


def label_folds(classes):
    """Divide labelled rows into folds, each class in turn.

    Parameters
    ----------
    classes : ndarray of shape (n_samples,)
        Number of each row's class, -1 where it is unknown.

    Returns
    -------
    folds : list of ndarray
        Numbers of rows, none of them the only one of its class.
    """
    labelled = np.flatnonzero(classes >= 0)
    counts = np.bincount(classes[labelled])
    judges = labelled[counts[classes[labelled]] > 1]
    judges = judges[:: -(-len(judges) // MAX_JUDGES) or 1]
    judges = judges[np.argsort(classes[judges], kind="stable")]
    n_folds = N_SMALL_FOLDS if len(judges) < FEW_JUDGES else N_FOLDS
    folds = (judges[fold::n_folds] for fold in range(n_folds))
    return [own for own in folds if len(own)]


def spreading_helps(x, weights, classes, graph, n_classes):
    """Tell whether labels say more of each other along a graph than by their Gaussians.

    Rows without a label help where classes are clusters, and mislead where classes
    overlap: densities of all rows are then fitted to groups that are not the classes.
    So each label is told twice by those of other folds: spread over all rows, and by
    Gaussians of the labelled rows. Spreading has to win clearly, and to tell most of
    what a label says.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Standardised rows.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    classes : ndarray of shape (n_samples,)
        Number of each row's class, -1 where it is unknown.
    graph : LabelGraph
        Of the rows.
    n_classes : int
        Number of classes.

    Returns
    -------
    helps : bool or None
        None where no class has two labels.

    References
    ----------
    F. G. Cozman and I. Cohen, Risks of Semi-Supervised Learning: How Unlabeled Data Can
    Degrade Performance of Generative Classifiers, in O. Chapelle, B. Schoelkopf and
    A. Zien (eds.), Semi-Supervised Learning, MIT Press 2006.
    """
    folds = label_folds(classes)
    if not folds:
        return None
    judges = np.concatenate(folds)
    of_graph = np.concatenate(
        [graph.spread(_without(classes, own), n_classes)[own] for own in folds]
    )
    labelled = np.flatnonzero(classes >= 0)
    shares = one_hot(classes[labelled], n_classes)
    gaussians = Gaussians.fit(x[labelled], weights[labelled], shares, REG_COVAR)
    of_gaussians = []
    for own in folds:
        others = ~np.isin(labelled, own)
        rows = labelled[others]
        refitted = gaussians.refit(x[rows], weights[rows], shares[others])
        of_gaussians.append(refitted.log_joint(x[own]))
    told = classes[judges], weights[judges]
    by_graph = _calibrated_losses(np.log(np.maximum(of_graph, 1e-12)), *told)
    by_gaussians = _calibrated_losses(np.concatenate(of_gaussians), *told)
    gain, error = _mean_and_error(by_gaussians - by_graph, weights[judges])
    counts = np.bincount(classes[judges], weights[judges], n_classes)
    entropy = -xlogy(counts, counts / counts.sum()).sum() / counts.sum()
    left = np.average(by_graph, weights=weights[judges])
    return bool(gain > CLEAR_GAIN * error and left < LARGEST_SHARE_LEFT * entropy)


def _without(classes, own):
    others = classes.copy()
    others[own] = -1
    return others


def _calibrated_losses(log_joint, classes, weights):
    temperature = calibration_temperature(log_joint, classes, weights)
    return label_losses(log_joint / temperature, classes)


def _mean_and_error(values, weights):
    """Weighted mean and its standard error."""
    mean = np.average(values, weights=weights)
    return mean, np.linalg.norm(weights * (values - mean)) / weights.sum()
