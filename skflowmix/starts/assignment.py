"""First responsibilities of rows outside the sample that was partitioned."""

import numpy as np
from scipy.special import softmax

from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.knn import draw_rows

__all__ = ["Assignment"]

# Most anchor rows, which represent a partition, and most rows to evaluate them on.
N_ANCHORS, N_JUDGED = 2048, 8192

# Rows per matrix product: a block that fits in the processor's cache with the anchors.
ROWS_AT_A_TIME = 128


class Assignment:
    """Assigns new rows to the components of a partition.

    Uses the posterior of the Gaussians or the nearest anchor, a row of the partition:
    whichever agrees better with the partition on rows that are not anchors.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Standardised rows.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    responsibilities : ndarray of shape (n_samples, n_components)
        Partition of `x`.
    gaussians : Gaussians
        Gaussians of its components.
    random_state : RandomState
        Draws the anchors and the rows to evaluate on.
    """

    def __init__(
        self,
        x: np.ndarray,
        weights: np.ndarray,
        responsibilities: np.ndarray,
        gaussians: Gaussians,
        random_state: np.random.RandomState,
    ):
        self.gaussians = gaussians
        anchors = draw_rows(weights, min(N_ANCHORS, -(-len(x) // 2)), random_state)
        # With minus half the squared length as a column, a product ranks distances.
        lengths = np.einsum("ij,ij->i", x[anchors], x[anchors])
        self.anchors = np.column_stack((x[anchors], lengths / -2)).astype(np.float32)
        self.shares = responsibilities[anchors]
        self.by_gaussians = True
        if responsibilities.shape[1] == 1:
            return
        judged = random_state.permutation(len(x))[:N_JUDGED]
        judged = judged[~np.isin(judged, anchors)]
        by_gaussians, by_anchors = (
            responsibilities[judged, assigned.argmax(axis=1)].sum()
            for assigned in (self._posterior(x[judged]), self._nearest(x[judged]))
        )
        self.by_gaussians = by_gaussians >= by_anchors

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return responsibilities (n, n_components) of standardised rows."""
        n_components = self.shares.shape[1]
        if n_components == 1 or not len(x):  # empty: all weightless or held out
            return np.ones((len(x), n_components))
        return self._posterior(x) if self.by_gaussians else self._nearest(x)

    def _posterior(self, x: np.ndarray) -> np.ndarray:
        return softmax(self.gaussians.log_joint(x), axis=1)

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        rows = np.column_stack((x, np.ones(len(x)))).astype(np.float32)
        parts = range(0, max(len(x), 1), ROWS_AT_A_TIME)
        nearest = [
            (rows[start : start + ROWS_AT_A_TIME] @ self.anchors.T).argmax(axis=1)
            for start in parts
        ]
        return self.shares[np.concatenate(nearest)]
