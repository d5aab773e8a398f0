"""Columns of which classes share one covariance, as in linear discriminant analysis."""

from collections.abc import Callable

import numpy as np

from skflowmix.starts.class_probabilities import calibrated_losses
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.scores import in_standard_errors
from skflowmix.starts.unlabelled import label_folds, weights_without_each

__all__ = ["shared_columns", "tied_columns"]

# Classes share the covariance of columns in which one value has more than this share of
# each class's weight: their own would follow from the few rows with other values. In a
# class of fewer rows one value may have that share by chance.
TIED_SHARE, MIN_TIED_ROWS = 0.75, 10

# Covariances are shared if that gains so many standard errors of the log-loss (5 %
# level, one-sided), and so many nats per label.
CLEAR_GAIN = 1.645
LEAST_GAIN = 0.002

# Least and most labelled rows that are used.
MIN_LABELLED, MAX_LABELLED = 20, 5_000


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
    is_used = (classes >= 0) & (responsibilities.sum(axis=1) > 0)
    rows = np.flatnonzero(is_used)[:MAX_LABELLED]
    folds = label_folds(classes[rows])
    few = len(rows) < max(MIN_LABELLED, x.shape[1])
    if few or not folds or len(np.unique(classes[rows])) < 2:
        return tied
    data = x[rows], weights[rows], responsibilities[rows]
    judges = np.concatenate(folds)
    known, importance = classes[rows][judges], weights[rows][judges]
    try:
        losses = [
            calibrated_losses(
                by_class(_held_out(*data, folds, reg_covar, columns)), known, importance
            )
            for columns in (tied, every)
        ]
    except np.linalg.LinAlgError:  # flat within some rows, which reg_covar=0 allows
        return tied
    gains = losses[0] - losses[1]
    is_clear = in_standard_errors(gains, importance) > CLEAR_GAIN
    is_clear &= np.average(gains, weights=importance) > LEAST_GAIN
    return every if is_clear else tied


def _held_out(
    x: np.ndarray,
    weights: np.ndarray,
    responsibilities: np.ndarray,
    folds: list[np.ndarray],
    reg_covar: float,
    tied: tuple[int, ...],
) -> np.ndarray:
    """Return joint log-densities of each fold's rows under Gaussians of the others."""
    (gaussians,) = Gaussians.fit_each(
        x, weights, responsibilities, reg_covar, [0.0], tied=tied
    )
    log_joint = []
    for own, kept in zip(folds, weights_without_each(x, weights, folds), strict=True):
        others = np.flatnonzero(kept)
        refitted = gaussians.refit(x[others], kept[others], responsibilities[others])
        log_joint.append(refitted.log_joint(x[own]))
    return np.concatenate(log_joint)


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
