"""Class probabilities from densities: temperature and class shares fitted to labels."""

import math
from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

__all__ = [
    "ClassProbabilities",
    "calibrated_losses",
    "calibration_temperature",
    "label_losses",
    "log_proba_with_noise",
]

# Grid of log-temperatures for calibration, and the share of labels assumed to be wrong.
LOG_TEMPERATURES = np.linspace(-2.0, 6.0, 161)
WRONG_LABELS = 1e-3


class ClassProbabilities:
    r"""Bayes' rule with tempered densities.

    .. math:: p(y|x) \propto \pi_y\, p(x|y)^{1/T}

    before label noise is added, see `log_proba_with_noise`.

    Parameters
    ----------
    temperature : float
        T.
    log_prior : ndarray of shape (n_classes,)
        Logarithms of the shares :math:`\pi_y`.
    """

    def __init__(self, temperature: float, log_prior: np.ndarray):
        self.temperature, self.log_prior = temperature, log_prior

    @classmethod
    def fit(
        cls,
        log_prob: np.ndarray,
        classes: np.ndarray,
        weights: np.ndarray,
        shares: np.ndarray,
    ) -> Self:
        r"""Fit temperature and class shares to labels.

        Minimises the log-loss, with one label in a thousand taken as noise, plus the
        penalties :math:`(\ln T)^2 / 2` and :math:`(\ln \pi_y / s_y)^2 / 2` for every
        class. The noise bounds the loss of a misclassified row; the penalties keep the
        correction small where labels are few.

        Parameters
        ----------
        log_prob : ndarray of shape (n_samples, n_classes)
            log p(x|y), in nats, of rows that the densities have not seen.
        classes : ndarray of shape (n_samples,)
            Their classes, numbered from 0.
        weights : ndarray of shape (n_samples,)
            Positive weights.
        shares : ndarray of shape (n_classes,)
            Class shares s, positive.

        Returns
        -------
        probabilities : ClassProbabilities
            Temperature and class shares with the lowest loss found.

        References
        ----------
        C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On Calibration of Modern Neural
        Networks, ICML 2017, section 4.2.

        Examples
        --------
        >>> import numpy as np
        >>> log_prob = np.array([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
        >>> right, wrong = np.array([0, 1, 0]), np.array([0, 1, 1])
        >>> halves = np.full(2, 0.5)
        >>> fit = ClassProbabilities.fit
        >>> fit(log_prob, wrong, np.ones(3), halves).temperature > 2
        True
        >>> fit(log_prob, right, np.ones(3), halves).temperature < 1.5
        True
        """
        log_prob = log_prob - log_prob.max(1, keepdims=True)
        log_shares = np.log(shares)
        rows, n_classes = np.arange(len(classes)), len(shares)

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            log_temperature, biases = parameters[0], parameters[1:]
            tempered = log_prob * np.exp(-log_temperature)
            proba = softmax(tempered + log_shares + biases, axis=1)
            right = (1 - WRONG_LABELS) * proba[rows, classes]
            likely = right + WRONG_LABELS / n_classes
            on_logits = proba.copy()
            on_logits[rows, classes] -= 1
            on_logits *= (weights * right / likely)[:, None]
            gradient = np.r_[-(on_logits * tempered).sum(), on_logits.sum(0)]
            penalty = 0.5 * parameters @ parameters
            return penalty - weights @ np.log(likely), parameters + gradient

        # The loss is not convex: start from the best temperature of a grid.
        first = np.zeros(1 + n_classes)
        first[0] = np.log(
            calibration_temperature(log_prob, classes, weights, log_shares)
        )
        found = minimize(loss, first, jac=True, method="L-BFGS-B").x
        return cls(float(np.exp(found[0])), log_softmax(log_shares + found[1:]))


def calibration_temperature(
    log_prob: np.ndarray,
    classes: np.ndarray,
    weights: np.ndarray,
    log_shares: np.ndarray | float = 0.0,
) -> float:
    """Return the temperature at which class probabilities fit labels best.

    Parameters
    ----------
    log_prob, classes, weights
        As for `ClassProbabilities.fit`.
    log_shares : ndarray of shape (n_classes,), default=0.0
        Logarithms of the class shares, which are not tempered.

    Returns
    -------
    temperature : float
        Above one where the densities are overconfident.
    """

    def loss(log_temperature: float) -> float:
        logits = log_prob * np.exp(-log_temperature) + log_shares
        return 0.5 * log_temperature**2 + weights @ label_losses(logits, classes)

    return float(np.exp(min(LOG_TEMPERATURES, key=loss)))


def calibrated_losses(
    log_joint: np.ndarray, classes: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return `label_losses` at the temperature that fits these labels best."""
    temperature = calibration_temperature(log_joint, classes, weights)
    return label_losses(log_joint / temperature, classes)


def label_losses(log_joint: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the log-loss of each label, with one label in a thousand taken as noise.

    Parameters
    ----------
    log_joint : ndarray of shape (n_samples, n_classes)
        Logarithms of the class probabilities, up to a constant per row.
    classes : ndarray of shape (n_samples,)
        The rows' classes, numbered from 0.

    Returns
    -------
    losses : ndarray of shape (n_samples,)
        In nats.
    """
    return -log_proba_with_noise(log_joint)[np.arange(len(classes)), classes]


def log_proba_with_noise(log_joint: np.ndarray) -> np.ndarray:
    """Return log class probabilities with one label in a thousand drawn uniformly.

    Parameters
    ----------
    log_joint : ndarray of shape (n_samples, n_classes)
        Logarithms of the class probabilities, up to a constant per row.

    Returns
    -------
    log_proba : ndarray of shape (n_samples, n_classes)
        Logarithms, in the dtype of `log_joint`.

    Examples
    --------
    >>> import numpy as np
    >>> proba = np.exp(log_proba_with_noise(np.array([[0.0, -1000.0]])))
    >>> np.allclose(proba, [[0.9995, 0.0005]])
    True
    """
    log_joint = log_joint - log_joint.max(axis=1, keepdims=True)
    log_proba = log_joint - np.logaddexp.reduce(log_joint, axis=1, keepdims=True)
    noise = math.log(WRONG_LABELS / log_joint.shape[1])
    return np.logaddexp(log_proba + math.log1p(-WRONG_LABELS), noise)
