"""Scorers for model selection that `sklearn.metrics.make_scorer` cannot make.

Each is a callable of estimator, rows and labels: pass it as `scoring` to
`GridSearchCV`, `cross_val_score` and the like.
"""

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from skflowmix.array_api import to_numpy

__all__ = [
    "adjusted_rand_scorer",
    "log_likelihood_scorer",
    "outlier_auc_scorer",
    "outliers_in",
]

# A column is discrete if it has at least this many rows per distinct value.
ROWS_PER_VALUE = 2.0


def outliers_in(y: Any, name: str) -> np.ndarray:
    """Tell which labels mark outliers.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        -1 for outliers and 1 for inliers, or 1 and 0.
    name : str
        Name of `y` in error messages.

    Returns
    -------
    is_outlier : ndarray of shape (n_samples,), bool
        True for outliers.

    Raises
    ------
    ValueError
        If `y` holds anything else, or only one of the two.
    """
    y = np.asarray(y)
    values = set(np.unique(y).tolist())
    if values == {-1, 1}:
        return y == -1
    if values == {0, 1}:
        return y == 1
    hint = ""
    if len(values) == 1 and values <= {-1, 0, 1}:
        hint = " StratifiedKFold and train_test_split(stratify=...) keep both."
    raise ValueError(
        f"{name} must hold -1 for outliers and 1 for inliers, or 1 for outliers and 0 "
        f"for inliers, both of them; got {sorted(values, key=str)}.{hint}"
    )


def outlier_auc_scorer(estimator: Any, X: Any, y: Any) -> float:
    """Return the area under the ROC curve of outliers ranked by `score_samples`.

    Parameters
    ----------
    estimator : estimator
        Fitted; outliers have low `score_samples`.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,)
        -1 for outliers and 1 for inliers, as outlier detectors predict; or True (1) for
        outliers and False (0) for inliers.

    Returns
    -------
    auc : float
        From 0 to 1; 0.5 by chance.

    Raises
    ------
    ValueError
        If `y` holds anything else, or only one of the two.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from skflowmix import FlowMixture, outlier_auc_scorer
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> X[::10] *= 10
    >>> is_outlier = np.arange(100) % 10 == 0
    >>> model = FlowMixture(n_transforms=0)
    >>> cross_val_score(model, X, is_outlier, scoring=outlier_auc_scorer).shape
    (5,)
    """
    is_outlier = outliers_in(y, "y")
    return float(roc_auc_score(is_outlier, -np.asarray(estimator.score_samples(X))))


def log_likelihood_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """Return the mean log-likelihood of rows, with discrete columns dequantized.

    The density of a value that repeats is unbounded, so that models would be compared
    by their spikes. Before scoring, values of discrete columns therefore get uniform
    noise as wide as the smallest distance between two of them, the same in every call.
    For a fair comparison, fit the models to dequantized rows as well.

    Parameters
    ----------
    estimator : estimator
        Fitted, with `score_samples`.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : Ignored
        Present for API consistency.

    Returns
    -------
    log_likelihood : float
        In nats per row.

    References
    ----------
    B. Uria, I. Murray and H. Larochelle, RNADE: The Real-Valued Neural Autoregressive
    Density-Estimator, NIPS 2013, section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> from skflowmix import FlowMixture, log_likelihood_scorer
    >>> X = np.random.default_rng(0).poisson(5, size=(100, 1)).astype(float)
    >>> bool(log_likelihood_scorer(FlowMixture(n_transforms=0).fit(X), X) < 0)
    True
    """
    random_state = np.random.RandomState(0)
    scores = estimator.score_samples(_dequantized_table(X, random_state))
    return float(np.mean(np.asarray(to_numpy(scores))))


def _dequantized_table(X: Any, random_state: np.random.RandomState) -> Any:
    """Dequantize the numeric columns of a table; return a table of the same kind."""
    if not hasattr(X, "columns"):
        rows = np.array(to_numpy(X))
        if rows.dtype.kind in "biuf":
            rows = rows.astype(np.float64)
        for j, column in enumerate(rows.T):
            rows[:, j] = _dequantized(column, random_state)
        return rows
    columns = {
        name: _dequantized(X[name].to_numpy(), random_state) for name in X.columns
    }
    if hasattr(X, "to_pandas"):
        return X.with_columns(**{n: type(X[n])(n, own) for n, own in columns.items()})
    table = X.copy()
    for name, column in columns.items():
        table[name] = column
    return table


def _dequantized(column: np.ndarray, random_state: np.random.RandomState) -> np.ndarray:
    """Add noise to a column of discrete numbers; missing values stay missing."""
    noise = random_state.uniform(-0.5, 0.5, len(column))
    try:
        numbers = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        return column
    finite = numbers[np.isfinite(numbers)]
    values = np.unique(finite)
    if len(values) > 1 and len(finite) >= ROWS_PER_VALUE * len(values):
        return numbers + np.diff(values).min() * noise
    return numbers


def adjusted_rand_scorer(estimator: Any, X: Any, y: Any) -> float:
    """Return the adjusted Rand index of the clusters that a clone finds in `X`.

    Parameters
    ----------
    estimator : estimator
        With `fit_predict`; it is cloned.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,)
        Their true groups.

    Returns
    -------
    ari : float
        At most 1, 0 by chance.

    References
    ----------
    L. Hubert and P. Arabie, Comparing Partitions, Journal of Classification 2, 1985.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skflowmix import FlowMixture, adjusted_rand_scorer
    >>> X, y = make_blobs(60, random_state=0, cluster_std=0.1)
    >>> adjusted_rand_scorer(FlowMixture(3, n_transforms=0, random_state=0), X, y)
    1.0
    """
    return float(adjusted_rand_score(y, clone(estimator).fit_predict(X)))
