"""Columns of which classes share one covariance, as in linear discriminant analysis."""

from collections.abc import Callable

import numpy as np

from skflowmix.starts.class_probabilities import calibrated_losses
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.scores import in_standard_errors
from skflowmix.starts.unlabelled import label_folds, weights_without

__all__ = ["shared_columns", "tied_columns"]

# Classes share the covariance of columns in which one value has more than this share of
# each class's weight: their own would follow from the few rows with other values. In a
# class of fewer rows one value may have that share by chance.
TIED_SHARE, MIN_TIED_ROWS = 0.75, 10

# Labels are predicted by Gaussians with one covariance if that gains so many standard
# errors (5 % level, one-sided) of the log-loss.
CLEAR_GAIN = 1.645

# Most labelled rows that are used.
MAX_LABELLED = 10_000


def shared_columns(
    x: np.ndarray,
    weights: np.ndarray,
    responsibilities: np.ndarray,
    classes: np.ndarray | None,
    by_class: Callable[[np.ndarray], np.ndarray],
    reg_covar: float,
) -> tuple[int, ...]:
    """Return the columns of which all components share one covariance.

    These are the `tied_columns`, or all columns if labels of other folds are predicted
    clearly better so. Likelihood chooses how far covariances are shrunk towards the
    pooled one, but where columns depend on each other in other ways than Gaussians do,
    likelier covariances may predict classes worse.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Standardised rows, in a random order.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    responsibilities : ndarray of shape (n_samples, n_components)
        Share of each row that belongs to each component.
    classes : ndarray of shape (n_samples,), int, or None
        Index of each row's class, -1 if unknown.
    by_class : callable
        Joint log-densities of classes, from those of components.
    reg_covar : float
        As for `Gaussians.fit`.

    Returns
    -------
    shared : tuple of int
        Numbers of the columns.
    """
    tied = tied_columns(x, weights, classes)
    every = tuple(range(x.shape[1]))
    if classes is None or tied == every:
        return tied
    rows = np.flatnonzero(classes >= 0)[:MAX_LABELLED]
    x, weights, responsibilities = x[rows], weights[rows], responsibilities[rows]
    classes = classes[rows]
    folds = label_folds(classes)
    if len(np.unique(classes)) < 2 or len(rows) < x.shape[1] or not folds:
        return tied
    judges, losses = np.concatenate(folds), []
    for columns in (tied, every):
        (gaussians,) = Gaussians.fit_each(
            x, weights, responsibilities, reg_covar, [0.0], tied=columns
        )
        joint = []
        for own in folds:
            kept = weights_without(weights, own, len(folds))
            others = np.flatnonzero(kept)
            refitted = gaussians.refit(
                x[others], kept[others], responsibilities[others]
            )
            # Without these rows a column may be constant, which reg_covar=0 allows.
            if not refitted.are_positive_definite():
                return tied
            joint.append(refitted.log_joint(x[own]))
        log_prob = by_class(np.concatenate(joint))
        losses.append(calibrated_losses(log_prob, classes[judges], weights[judges]))
    gain = in_standard_errors(losses[0] - losses[1], weights[judges])
    return every if gain > CLEAR_GAIN else tied


def tied_columns(
    x: np.ndarray, weights: np.ndarray, classes: np.ndarray | None
) -> tuple[int, ...]:
    """Return the columns of which classes should share a covariance.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Rows.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    classes : ndarray of shape (n_samples,), int, or None
        Index of each row's class, -1 if unknown.

    Returns
    -------
    tied : tuple of int
        Columns in which one value has more than `TIED_SHARE` of the weight, also in
        every class of at least `MIN_TIED_ROWS` rows. None with a single class.
    """
    if classes is None or len(np.unique(classes[classes >= 0])) < 2:
        return ()
    numbers, sizes = np.unique(classes, return_counts=True)
    large = numbers[(numbers >= 0) & (sizes >= MIN_TIED_ROWS)]
    is_tied = np.ones(x.shape[1], dtype=bool)
    for own in (slice(None), *(classes == number for number in large)):
        for j in np.flatnonzero(is_tied):
            index = np.unique(x[own, j], return_inverse=True)[1]
            heaviest = np.bincount(index, weights[own]).max()
            is_tied[j] = heaviest > TIED_SHARE * weights[own].sum()
    return tuple(np.flatnonzero(is_tied).tolist())
