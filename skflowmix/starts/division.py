"""Division of a component's rows into parts, one for each of its flows."""

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.cluster import KMeans

from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.knn import draw_rows, one_hot
from skflowmix.starts.partitions import expectation_maximisation
from skflowmix.starts.preprocessing import repeat_widths
from skflowmix.starts.shrinkage import LOSS_BOUND, Shrinkage

__all__ = ["LEAST_GAIN", "best_parts", "divide_rows", "fit_parts"]

# Most rows of a component that its parts are fitted to, and most iterations of EM.
MAX_ROWS = 2000
MAX_ITER = 50

# Shrinkage of the parts' covariances to the pooled one: weight of the pooled one in
# rows per column, and share of its correlations that is removed.
STRENGTH = 1.0
DIAGONALITY = 0.1
REG_COVAR = 1e-6

# Numbers of parts to try; least rows per part, and least rows per part and column.
NUMBERS = (2, 4, 8, 16)
ROWS_OF_PART = 10
ROWS_PER_COLUMN = 5

# The search ends after this many numbers in a row without improvement.
PATIENCE = 2

# Least gain of the parts in nats per row, because the flow would gain from further
# training as well. A standard error, times 1 + FEW_ROWS / n for n held-out rows, is
# added to it; fewer held-out rows than FEW_ROWS divide nothing.
LEAST_GAIN = 0.1
FEW_ROWS = 8

# Dequantization noise in widths of `repeat_widths`, and the largest width in standard
# deviations of a column: a part must not be a single value.
REPEAT_NOISE, LARGEST_REPEAT_WIDTH = 0.8, 1.0


def fit_parts(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_parts: int,
    random_state: np.random.RandomState,
) -> Gaussians:
    """Fit a small Gaussian mixture to the rows of a component.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Rows of the component, in a random order.
    sample_weight : ndarray of shape (n,)
        Positive weights.
    n_parts : int
        Number of Gaussians, reduced to the number of rows if there are fewer.
    random_state : RandomState
        Draws the rows, the dequantization noise and the start of k-means.

    Returns
    -------
    parts : Gaussians
        The mixture.
    """
    x, sample_weight = _deciding_rows(x, sample_weight, random_state)
    return _mixture(x, sample_weight, min(n_parts, len(x)), random_state)


def best_parts(
    x: np.ndarray,
    sample_weight: np.ndarray,
    new: np.ndarray,
    new_weight: np.ndarray,
    reference: np.ndarray,
    random_state: np.random.RandomState,
) -> Gaussians | None:
    """Fit as many parts as held-out rows prefer, if they prefer any division.

    Parameters
    ----------
    x, sample_weight, random_state
        As for `fit_parts`.
    new : ndarray of shape (m, D)
        Held-out rows of the component.
    new_weight : ndarray of shape (m,)
        Their weights.
    reference : ndarray of shape (m,)
        Their log-densities under the component's single flow, in nats.

    Returns
    -------
    parts : Gaussians or None
        None where no mixture is clearly better than the flow, or one Gaussian is as
        good as the best mixture. Otherwise at least two Gaussians, and half as many as
        the smallest mixture that is not clearly worse than the best: a flow can take
        the shape of two.
    """
    n_columns = x.shape[1]
    most = len(x) // max(ROWS_OF_PART, ROWS_PER_COLUMN * n_columns)
    numbers = [number for number in NUMBERS if number <= most]
    if not numbers or len(new) < FEW_ROWS:
        return None
    x, sample_weight = _deciding_rows(x, sample_weight, random_state)

    def gain(log_prob: np.ndarray, other: np.ndarray) -> tuple[float, float]:
        """Return the mean of clipped gains over `other`, and its standard error."""
        bound = LOSS_BOUND * n_columns
        gains = np.clip(log_prob - other, -bound, bound)
        mean = np.average(gains, weights=new_weight)
        error = np.linalg.norm(new_weight * (gains - mean)) / new_weight.sum()
        return mean, error * (1 + FEW_ROWS / len(new))

    tried: list[Gaussians] = []
    log_probs, gains = [], []
    for number in (1, *numbers):
        parts = _mixture(x, sample_weight, number, random_state)
        tried.append(parts)
        log_probs.append(logsumexp(parts.log_joint(new), axis=1))
        gains.append(gain(log_probs[-1], reference)[0])
        best = int(np.argmax(gains))
        if best + PATIENCE < len(gains):
            break
    mean, error = gain(log_probs[best], reference)
    if not mean > LEAST_GAIN + error:
        return None
    enough = min(
        place
        for place, log_prob in enumerate(log_probs)
        if np.less_equal(*gain(log_probs[best], log_prob))
    )
    return tried[max(enough - 1, 1)] if enough else None


def divide_rows(
    x: np.ndarray, responsibilities: np.ndarray, parts: Sequence[Gaussians | None]
) -> tuple[np.ndarray, list[int]]:
    """Divide the responsibilities of components among their parts.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Rows.
    responsibilities : ndarray of shape (n, K)
        Responsibilities of the components.
    parts : sequence of Gaussians or None
        Parts of each component; None where it stays whole.

    Returns
    -------
    divided : ndarray of shape (n, sum of sizes)
        Responsibilities of the parts; the parts of a component are adjacent.
    sizes : list of int
        Number of parts of each component.
    """
    columns = []
    for share, own in zip(responsibilities.T, parts, strict=True):
        if own is None:
            columns.append(share[:, None])
        else:
            chunks = np.array_split(x, len(x) // 50_000 + 1)
            within = [softmax(own.log_joint(chunk), axis=1) for chunk in chunks]
            columns.append(share[:, None] * np.concatenate(within))
    return np.concatenate(columns, axis=1), [own.shape[1] for own in columns]


def _deciding_rows(
    x: np.ndarray, sample_weight: np.ndarray, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return a sample of dequantized rows, and their weights."""
    rows = draw_rows(sample_weight, MAX_ROWS, random_state)
    # Rows drawn in proportion to their weights have weight one.
    weight = sample_weight[rows] if len(rows) == len(x) else np.ones(len(rows))
    x = x[rows]
    widths = repeat_widths(x, weight, LARGEST_REPEAT_WIDTH)
    if widths is not None:
        x = x + REPEAT_NOISE * widths * random_state.standard_normal(x.shape)
    return x, weight


def _mixture(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_parts: int,
    random_state: np.random.RandomState,
) -> Gaussians:
    """Fit a Gaussian mixture by EM, started from k-means."""
    shrinkage = Shrinkage(STRENGTH * x.shape[1], DIAGONALITY, 0.0, REG_COVAR)
    model = KMeans(n_parts, n_init=1, random_state=random_state)
    labels = model.fit_predict(x, sample_weight=sample_weight)
    shares = expectation_maximisation(
        x, sample_weight, one_hot(labels, n_parts), shrinkage, MAX_ITER
    )
    return Gaussians.shrunk(x, sample_weight, shares, shrinkage)
