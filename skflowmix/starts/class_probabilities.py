"""Class probabilities of densities: temperature and class shares, fitted to labels."""

import math
from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

__all__ = [
    "ClassProbabilities",
    "calibration_temperature",
    "label_losses",
    "log_proba_with_noise",
]

# Logarithms of the temperatures among which calibration chooses, and the share of
# labels that it takes to be wrong.
LOG_TEMPERATURES = np.linspace(-2.0, 6.0, 161)
WRONG_LABELS = 1e-3


class ClassProbabilities:
    r"""Bayes' rule with tempered densities.

    .. math:: p(y|x) \propto \pi_y\, p(x|y)^{1/T}

    but for noise of labels, see `log_proba_with_noise`.

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
        r"""Find what fits labels best.

        Minimises the log-loss, where a label counts as noise in one case of a thousand,
        plus :math:`(\ln T)^2 / 2` and :math:`(\ln \pi_y / s_y)^2 / 2` for every class,
        as if one more label had asked for no correction. Neither a row that is
        hopelessly wrong nor the lack of labels then decides.

        Parameters
        ----------
        log_prob : ndarray of shape (n_samples, n_classes)
            log p(x|y), in nats, of rows that the densities have not seen.
        classes : ndarray of shape (n_samples,)
            Numbers of their classes.
        weights : ndarray of shape (n_samples,)
            Positive weights.
        shares : ndarray of shape (n_classes,)
            Shares s of the classes, positive.

        Returns
        -------
        probabilities : ClassProbabilities
            The best ones.

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

        # Not convex: a search among all temperatures cannot miss the lowest.
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
    """Temperature of the densities at which class probabilities fit labels best.

    Parameters
    ----------
    log_prob, classes, weights
        As for `ClassProbabilities.fit`.
    log_shares : ndarray of shape (n_classes,), default=0.0
        Logarithms of the class shares, which are not tempered.

    Returns
    -------
    temperature : float
        Above one where the densities are too sure of themselves.
    """

    def loss(log_temperature: float) -> float:
        logits = log_prob * np.exp(-log_temperature) + log_shares
        return 0.5 * log_temperature**2 + weights @ label_losses(logits, classes)

    return float(np.exp(min(LOG_TEMPERATURES, key=loss)))


def label_losses(log_joint: np.ndarray, classes: np.ndarray) -> np.ndarray:
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
    return -log_proba_with_noise(log_joint)[np.arange(len(classes)), classes]


def log_proba_with_noise(log_joint: np.ndarray) -> np.ndarray:
    """Class probabilities, where one label in a thousand is any one.

    Parameters
    ----------
    log_joint : ndarray of shape (n_samples, n_classes)
        Logarithms of the class probabilities, up to a constant per row.

    Returns
    -------
    log_proba : ndarray of shape (n_samples, n_classes)
        Their logarithms; dtype of `log_joint`.

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
