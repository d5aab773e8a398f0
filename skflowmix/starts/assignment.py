"""First responsibilities of rows that were not there when a partition was found."""

import numpy as np
from scipy.special import softmax

from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.knn import draw_rows

__all__ = ["Assignment"]

# Rows that stand for a partition, and others on which it is judged how well.
N_ANCHORS, N_JUDGED = 2048, 8192

# What stays in the processor's cache, beside all anchors.
ROWS_AT_A_TIME = 128


class Assignment:
    """Assigns rows to the components of a partition of other rows.

    By Gaussians or, where the partition is not theirs, by the nearest one of a few of
    its rows: whichever agrees better with it on rows that are not among these.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Standardised rows.
    weights : ndarray of shape (n_samples,)
        Positive weights.
    responsibilities : ndarray of shape (n_samples, n_components)
        Their partition.
    gaussians : Gaussians
        Those of its components.
    random_state : RandomState
        Source of the choice of rows.
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
        # Half the squared length is a further column: one product gives distances.
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
        if n_components == 1 or not len(x):  # as a block of weight zero, or held out
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
