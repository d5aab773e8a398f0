"""How sure class probabilities may be: a temperature fitted to labels."""

import numpy as np
import torch
from scipy.special import softmax

from skflowmix.fitting import FittedMixture
from skflowmix.model.groups import Groups

__all__ = ["Calibration", "calibration_temperature"]

# Labels that decide on the temperature of calibration, and folds that they make.
MAX_CALIBRATION_ROWS = 4096
N_FOLDS = 5

# Logarithms of the temperatures among which calibration chooses, and the share of
# labels that it takes to be wrong.
LOG_TEMPERATURES = np.linspace(-2.0, 6.0, 161)
WRONG_LABELS = 1e-3


def calibration_temperature(log_joint, classes, weights):
    r"""Temperature at which class probabilities fit labels best.

    Minimises the log-loss of :math:`p(y|x) \propto p(x, y)^{1/T}`, where a label counts
    as noise in one case of a thousand, plus :math:`(\ln T)^2 / 2`, as if one more label
    had asked for :math:`T = 1`. Neither a row that is hopelessly wrong nor the lack of
    labels then decides.

    Parameters
    ----------
    log_joint : ndarray of shape (n_samples, n_classes)
        log p(x, y), in nats, of rows that the densities have not seen.
    classes : ndarray of shape (n_samples,)
        Numbers of their classes.
    weights : ndarray of shape (n_samples,)
        Positive weights.

    Returns
    -------
    temperature : float
        Above one where the densities are too sure of themselves.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On Calibration of Modern Neural
    Networks, ICML 2017, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> log_joint = np.array([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    >>> right, wrong = np.array([0, 1, 0]), np.array([0, 1, 1])
    >>> calibration_temperature(log_joint, wrong, np.ones(3)) > 2
    True
    >>> calibration_temperature(log_joint, right, np.ones(3)) < 1.5
    True
    """

    def loss(log_temperature):
        proba = softmax(log_joint * np.exp(-log_temperature), axis=1)
        of_label = proba[np.arange(len(classes)), classes]
        of_label = (1 - WRONG_LABELS) * of_label + WRONG_LABELS / log_joint.shape[1]
        return 0.5 * log_temperature**2 - weights @ np.log(of_label)

    # Not convex: a search among all of them cannot miss the lowest.
    return float(np.exp(min(LOG_TEMPERATURES, key=loss)))


class Calibration:
    """Temperature by the labels, each under Gaussians refitted without its row.

    The flows and the labels spread to other rows have seen it, which is less: in
    many columns it is the Gaussians that are too sure of themselves.

    Parameters
    ----------
    groups : Groups
        The class of every component.
    """

    def __init__(self, groups: Groups):
        self.groups = groups
        self._folds: tuple | None = None

    def __call__(self, fitted: FittedMixture) -> float:
        """Return the temperature of a fitted mixture; 1 where nothing tells it."""
        if self.groups.n_groups == 1:
            return 1.0
        folds = self._folds_of(fitted)
        if not folds:
            return 1.0
        table, classes, parts = fitted.table, fitted.problem.classes, []
        assert classes is not None
        for own, gaussians in folds:
            model = fitted.module.with_gaussians(gaussians)
            with torch.no_grad():
                log_prob = model.component_log_prob(torch.from_numpy(table.x[own]))
                parts.append((log_prob + model.log_weights).numpy())
        labelled = np.concatenate([own for own, _ in folds])
        log_joint = self.groups.logsumexp(np.concatenate(parts))
        finite = np.isfinite(log_joint).all(1)
        labelled, log_joint = labelled[finite], log_joint[finite]
        return calibration_temperature(
            log_joint, classes[labelled], table.weights[labelled]
        )

    def _folds_of(self, fitted):
        """Refit once for all epochs of a start, of which a fit can have several."""
        gaussians = fitted.candidate.gaussians
        if self._folds is None or self._folds[0] is not gaussians:
            self._folds = gaussians, _refit_without_folds(fitted)
        return self._folds[1]


def _refit_without_folds(fitted):
    """Pairs of labelled rows and Gaussians of all others."""
    gaussians, table = fitted.candidate.gaussians, fitted.table
    labelled = np.flatnonzero(fitted.problem.classes >= 0)[:MAX_CALIBRATION_ROWS]
    moments = table.without_far(fitted.start)
    folds = []
    for own in (labelled[fold::N_FOLDS] for fold in range(N_FOLDS)):
        others = np.setdiff1d(np.arange(len(table.x)), own)
        if not (len(own) and len(others)):
            continue
        refitted = gaussians.refit(
            table.x[others], table.weights[others], moments[others]
        )
        # Without these rows a column may be constant, which reg_covar=0 allows.
        if refitted.are_positive_definite():
            folds.append((own, refitted))
    return folds
