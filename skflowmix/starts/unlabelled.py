"""Whether rows without a label help: labels told by other labels."""

import numpy as np
from scipy.stats import entropy

from skflowmix.starts.class_probabilities import calibration_temperature, label_losses
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.knn import one_hot
from skflowmix.starts.labels import LabelGraph
from skflowmix.starts.scores import REG_COVAR

__all__ = ["label_folds", "spreading_helps"]

# Labels that judge, and the folds that they make: more where labels are few.
MAX_JUDGES = 4096
N_FOLDS, N_SMALL_FOLDS, FEW_JUDGES = 5, 10, 100

# Labels spread well if they leave less than this share of the labels' entropy, and gain
# so many times the standard error over what the labelled rows say alone: by chance one
# time in twenty.
LARGEST_SHARE_LEFT = 0.5
CLEAR_GAIN = 1.645

# The least share of a class whose logarithm is taken.
TINY = 1e-12


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


def spreading_helps(x, in_units, weights, classes, n_classes, random_state):
    """Tell whether rows without a label help labels to tell each other.

    They help where classes are clusters, and mislead where classes overlap: densities
    of all rows are then fitted to groups that are not the classes. So each label is
    told by those of other folds in three ways: spread over all rows, over the labelled
    rows only, and by Gaussians of these. The first has to tell most of what a label
    says, and clearly more than either of the others.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Standardised rows.
    in_units : ndarray of shape (n_samples, n_features)
        The same in units in which distances mean something.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    classes : ndarray of shape (n_samples,)
        Number of each row's class, -1 where it is unknown.
    n_classes : int
        Number of classes.
    random_state : RandomState
        Draws the sample of a large graph.

    Returns
    -------
    helps : bool
        True as well where fewer than two classes have two labels to judge by.

    References
    ----------
    F. G. Cozman and I. Cohen, Risks of Semi-Supervised Learning: How Unlabeled Data Can
    Degrade Performance of Generative Classifiers, in O. Chapelle, B. Schoelkopf and
    A. Zien (eds.), Semi-Supervised Learning, MIT Press 2006.
    """
    if np.count_nonzero(np.bincount(classes[classes >= 0]) > 1) < 2:
        return True
    graph = LabelGraph(in_units, classes, random_state)
    of_all = _told_by_graph(graph, classes, n_classes)
    labelled = np.flatnonzero(classes >= 0)
    x, in_units, weights, classes = (
        array[labelled] for array in (x, in_units, weights, classes)
    )
    graph = LabelGraph(in_units, classes, random_state)
    alone = (
        _told_by_graph(graph, classes, n_classes),
        _told_by_gaussians(x, weights, classes, n_classes),
    )
    judges = np.concatenate(label_folds(classes))
    classes, weights = classes[judges], weights[judges]
    losses = _calibrated_losses(of_all, classes, weights)
    shares = np.bincount(classes, weights) / weights.sum()
    left = np.average(losses, weights=weights)
    return bool(left < LARGEST_SHARE_LEFT * entropy(shares)) and all(
        _is_clear(_calibrated_losses(told, classes, weights) - losses, weights)
        for told in alone
    )


def _told_by_graph(graph, classes, n_classes):
    """Logarithms of what spread labels say of those of each fold."""
    told = []
    for own in label_folds(classes):
        others = classes.copy()
        others[own] = -1
        told.append(graph.spread(others, n_classes)[own])
    return np.log(np.maximum(np.concatenate(told), TINY))


def _told_by_gaussians(x, weights, classes, n_classes):
    """Log-densities, joint with the classes, under Gaussians without each fold."""
    shares, every = one_hot(classes, n_classes), np.arange(len(classes))
    gaussians, told = Gaussians.fit(x, weights, shares, REG_COVAR), []
    for own in label_folds(classes):
        others = np.setdiff1d(every, own)
        refitted = gaussians.refit(x[others], weights[others], shares[others])
        told.append(refitted.log_joint(x[own]))
    return np.concatenate(told)


def _calibrated_losses(log_joint, classes, weights):
    temperature = calibration_temperature(log_joint, classes, weights)
    return label_losses(log_joint / temperature, classes)


def _is_clear(gains, weights):
    """Whether the weighted mean exceeds `CLEAR_GAIN` standard errors."""
    mean = np.average(gains, weights=weights)
    error = np.linalg.norm(weights * (gains - mean)) / weights.sum()
    return bool(mean > CLEAR_GAIN * error)
