"""Class probabilities of densities: a temperature fitted to labels."""

import numpy as np
from scipy.special import softmax

__all__ = ["calibration_temperature", "label_losses"]

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
        losses = label_losses(log_joint * np.exp(-log_temperature), classes)
        return 0.5 * log_temperature**2 + weights @ losses

    # Not convex: a search among all of them cannot miss the lowest.
    return float(np.exp(min(LOG_TEMPERATURES, key=loss)))


def label_losses(log_joint, classes):
    """Log-loss of each label, where one in a thousand is wrong.

    Parameters
    ----------
    log_joint : ndarray of shape (n_samples, n_classes)
        Logarithms of the class probabilities, up to a constant per row.
    classes : ndarray of shape (n_samples,)
        Numbers of the rows' classes.

    Returns
    -------
    losses : ndarray of shape (n_samples,)
        In nats.
    """
    proba = softmax(log_joint, axis=1)
    of_label = proba[np.arange(len(classes)), classes]
    return -np.log((1 - WRONG_LABELS) * of_label + WRONG_LABELS / log_joint.shape[1])
