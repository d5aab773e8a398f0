"""Whether unlabelled rows help: labels predicted from the labels of other folds."""

import numpy as np
from scipy.stats import entropy

from skflowmix.starts.class_probabilities import calibrated_losses
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.labels import LabelGraph, likeliest
from skflowmix.starts.preprocessing import row_counts, rows_of_shared_values
from skflowmix.starts.scores import REG_COVAR, in_standard_errors

__all__ = ["label_folds", "spreading_helps", "weights_without_each"]

# Most labels to evaluate on; number of folds, more for fewer than FEW_JUDGES labels.
MAX_JUDGES = 4096
N_FOLDS, N_SMALL_FOLDS, FEW_JUDGES = 5, 10, 100

# Label propagation over all rows helps if its log-loss is below this share of the
# labels' entropy, is lower by this share than over labelled rows only, and gains this
# many standard errors (5 % level, one-sided) over predictions from labelled rows alone.
LARGEST_SHARE_LEFT = 0.5
LEAST_SHARE_GAINED = 0.2
CLEAR_GAIN = 1.645

# Gaussians of all rows may be worse than those of labelled rows by this many standard
# errors.
LARGEST_LOSS = 1.0

# Least class share in a logarithm.
TINY = 1e-12


def label_folds(classes: np.ndarray) -> list[np.ndarray]:
    """Divide labelled rows into folds stratified by class.

    Parameters
    ----------
    classes : ndarray of shape (n_samples,)
        Number of each row's class, -1 where it is unknown.

    Returns
    -------
    folds : list of ndarray
        Row numbers, without rows that are the only one of their class.
    """
    labelled = np.flatnonzero(classes >= 0)
    counts = np.bincount(classes[labelled])
    judges = labelled[counts[classes[labelled]] > 1]
    judges = judges[:: -(-len(judges) // MAX_JUDGES) or 1]
    judges = judges[np.argsort(classes[judges], kind="stable")]
    n_folds = N_SMALL_FOLDS if len(judges) < FEW_JUDGES else N_FOLDS
    folds = (judges[fold::n_folds] for fold in range(n_folds))
    return [own for own in folds if len(own)]


def weights_without_each(
    x: np.ndarray, weights: np.ndarray, folds: list[np.ndarray]
) -> list[np.ndarray]:
    """Return weights of the rows for fits that leave out one fold each.

    A row of the fold that stands for m equal ones is evaluated as one of them. The
    others would be in its fold with probability one over the number of folds F, so that
    the share (1 - 1 / m) (1 - 1 / F) of its weight is kept. This holds of
    `rows_of_shared_values`, such as answers and flags; copies of other rows, such as a
    bootstrap has, would predict themselves.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Distinct rows.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    folds : list of ndarray of int
        Numbers of each fold's rows.

    Returns
    -------
    kept : list of ndarray of shape (n_samples,)
        For each fold, zero for all other rows of it.
    """
    if not folds:
        return []
    share = (1 - 1 / row_counts(weights)) * (1 - 1 / len(folds))
    share[~rows_of_shared_values(x)] = 0.0
    kept = [weights.copy() for _ in folds]
    for own, rest in zip(folds, kept, strict=True):
        rest[own] *= share[own]
    return kept


def spreading_helps(
    x: np.ndarray,
    in_units: np.ndarray,
    weights: np.ndarray,
    classes: np.ndarray,
    n_classes: int,
    random_state: np.random.RandomState,
) -> bool:
    """Tell whether unlabelled rows help to predict held-out labels.

    They help where classes are clusters, and mislead where classes overlap: densities
    of all rows are then fitted to groups that are not the classes. So each label is
    predicted from the other folds, by label propagation and by Gaussians, each with all
    rows and with labelled rows only. Propagation over all rows has to explain most of
    the labels' entropy, and predict clearly better than both methods on labelled rows.
    Gaussians of all rows, from which the flows start, must not be clearly worse than
    those of labelled rows.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Standardised rows.
    in_units : ndarray of shape (n_samples, n_features)
        The same rows, scaled so that distances are meaningful.
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
        Also True where fewer than two classes have two labels, too few to decide.

    References
    ----------
    F. G. Cozman and I. Cohen, Risks of Semi-Supervised Learning: How Unlabeled Data Can
    Degrade Performance of Generative Classifiers, in O. Chapelle, B. Schoelkopf and
    A. Zien (eds.), Semi-Supervised Learning, MIT Press 2006.
    """
    if np.count_nonzero(np.bincount(classes[classes >= 0]) > 1) < 2:
        return True
    labelled = np.flatnonzero(classes >= 0)
    judges = np.concatenate(label_folds(classes))
    own, weights_of_judges = classes[judges], weights[judges]

    def losses(rows: np.ndarray) -> list[np.ndarray]:
        graph = LabelGraph(in_units[rows], classes[rows], random_state)
        told = _tell(graph, x[rows], weights[rows], classes[rows], n_classes)
        return [calibrated_losses(t, own, weights_of_judges) for t in told]

    def gain(former: np.ndarray, latter: np.ndarray) -> float:
        return in_standard_errors(former - latter, weights_of_judges)

    spread, gaussians = losses(np.arange(len(x)))
    shares = np.bincount(own, weights_of_judges) / weights_of_judges.sum()
    left = np.average(spread, weights=weights_of_judges)
    if left >= LARGEST_SHARE_LEFT * entropy(shares):
        return False
    spread_alone, gaussians_alone = losses(labelled)
    left_alone = np.average(spread_alone, weights=weights_of_judges)
    return bool(
        left < (1 - LEAST_SHARE_GAINED) * left_alone
        and gain(spread_alone, spread) > CLEAR_GAIN
        and gain(gaussians_alone, spread) > CLEAR_GAIN
        and gain(gaussians_alone, gaussians) >= -LARGEST_LOSS
    )


def _tell(
    graph: LabelGraph,
    x: np.ndarray,
    weights: np.ndarray,
    classes: np.ndarray,
    n_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return log class shares from the other folds: by propagation, by Gaussians."""
    every, spread, joint = np.arange(len(x)), [], []
    shares = likeliest(graph.spread(classes, n_classes))
    gaussians = Gaussians.fit(x, weights, shares, REG_COVAR)
    for own in label_folds(classes):
        hidden, others = classes.copy(), np.setdiff1d(every, own)
        hidden[own] = -1
        shares = graph.spread(hidden, n_classes)
        spread.append(shares[own])
        shares = likeliest(shares)[others]
        refitted = gaussians.refit(x[others], weights[others], shares)
        joint.append(refitted.log_joint(x[own]))
    return np.log(np.maximum(np.concatenate(spread), TINY)), np.concatenate(joint)
