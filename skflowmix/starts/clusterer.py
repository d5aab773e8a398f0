"""First partitions by a scikit-learn clusterer."""

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import DensityMixin, clone
from sklearn.cluster import KMeans
from sklearn.utils.validation import has_fit_parameter

from skflowmix.starts.knn import draw_rows, nearest, one_hot

__all__ = ["MAX_MODEL_ROWS", "from_clusterer", "split_to", "weighted_rows"]

# Most rows drawn for a method, or for a clusterer that takes no weights.
MAX_MODEL_ROWS = 20_000


def is_constant(sample_weight: np.ndarray) -> bool:
    return np.ptp(sample_weight) < 1e-9


def weighted_rows(
    x: np.ndarray,
    sample_weight: np.ndarray,
    size: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Draw rows in proportion to their weights, for learners that take no weights."""
    if is_constant(sample_weight):
        return x[draw_rows(sample_weight, size, random_state)]
    probability = sample_weight / sample_weight.sum()
    drawn = random_state.choice(len(x), min(2 * len(x), size), p=probability)
    return x[np.sort(drawn)]


def from_clusterer(
    x: np.ndarray,
    sample_weight: np.ndarray,
    n_components: int | None,
    clusterer: Any,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Partition rows with a clone of a clusterer.

    Parameters
    ----------
    x : ndarray of shape (n, D)
        Rows.
    sample_weight : ndarray of shape (n,)
        Passed to a clusterer that takes weights; others get rows drawn by weight.
    n_components : int or None
        K. An integer `n_clusters` of the clusterer, or `n_components` of a mixture, is
        set to it; if fewer clusters are found, the largest are split. None accepts
        any number.
    clusterer : clusterer
        Rows that it labels as noise join the cluster of the nearest other row.
    random_state : RandomState
        Seeds the clusterer where its own is None.

    Returns
    -------
    responsibilities : ndarray of shape (n, K)
        One-hot rows.

    Raises
    ------
    ValueError
        If the clusterer finds more than K clusters, or does not label rows by integers.
    """
    model = clone(clusterer)
    for key, value in model.get_params().items():
        name = key.split("__")[-1]
        if value is None and name == "random_state":
            model.set_params(**{key: random_state.randint(2**31 - 1)})
    last = model
    while hasattr(last, "steps"):  # a Pipeline
        last = last.steps[-1][1]
    name = "n_components" if isinstance(last, DensityMixin) else "n_clusters"
    counts = isinstance(getattr(last, name, None), Integral)
    if counts and n_components is not None:
        last.set_params(**{name: n_components})
    rows, fit_params = x, {}
    if not is_constant(sample_weight):
        if has_fit_parameter(model, "sample_weight"):
            fit_params = {"sample_weight": sample_weight}
        else:
            rows = weighted_rows(x, sample_weight, MAX_MODEL_ROWS, random_state)
    labels = _check_labels(model.fit_predict(rows, **fit_params), len(rows))
    if rows is not x:
        labels = labels[nearest(rows, x, 1)[:, 0]]
    noise = labels < 0
    if noise.all():
        labels[:] = 0
    elif noise.any():
        owner = nearest(x[~noise], x[noise], 1)[:, 0]
        labels[noise] = labels[~noise][owner]
    n_found = len(np.unique(labels))
    if n_components is None:
        n_components = n_found
    if n_found > n_components:
        raise ValueError(
            f"The clusterer given as init_params found {n_found} clusters, more than "
            f"n_components={n_components}."
        )
    return one_hot(split_to(labels, x, n_components, random_state), n_components)


def _check_labels(labels: Any, n_rows: int) -> np.ndarray:
    """Return labels as integers; refuse what is not one integer per row."""
    labels = np.asarray(labels)
    wrong = None
    if labels.shape != (n_rows,):
        wrong = f"an array of shape {labels.shape} for {n_rows} rows"
    elif labels.dtype.kind not in "iufb":
        wrong = f"labels of dtype {labels.dtype}"
    elif not np.isfinite(labels).all() or (labels != np.floor(labels)).any():
        wrong = "NaN, infinity or fractions"
    if wrong:
        raise ValueError(
            "The fit_predict of the clusterer given as init_params must return one "
            f"integer per row, negative for noise; it returned {wrong}."
        )
    return labels.astype(np.intp)


def split_to(
    labels: np.ndarray,
    x: np.ndarray,
    n_components: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Split the largest clusters in two until there are `n_components`."""
    labels = np.unique(labels, return_inverse=True)[1]
    for new in range(labels.max() + 1, n_components):
        largest = np.flatnonzero(labels == np.bincount(labels).argmax())
        halves = KMeans(2, n_init=1, random_state=random_state).fit_predict(x[largest])
        if not halves.any():
            halves[: len(halves) // 2] = 1
        labels[largest[halves == 1]] = new
    return labels
