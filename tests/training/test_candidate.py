"""A candidate: which Gaussians it starts from, and what becomes of its flows."""

import numpy as np
import pytest
from small_models import small

from skflowmix.training import candidate


@pytest.mark.parametrize(
    "large, tol", [(None, 10.0), ("WIDE", 0.01), ("EPOCH_ROWS", 0.01), ("WIDE", 10.0)]
)
def test_large_tables_are_trained_once(large, tol, monkeypatch):
    """From the plain Gaussians where they are ahead by more than `tol`."""
    strengths = []
    m_step = candidate.ModelFit.train_by_responsibilities

    def spoiling_m_step(fit):
        m_step(fit)
        fit.working.components.means += 3.0
        strengths.append(fit.gaussians.shrinkage.strength)

    monkeypatch.setattr(
        candidate.ModelFit, "train_by_responsibilities", spoiling_m_step
    )
    if large:
        monkeypatch.setattr(candidate, large, 5)
    X = np.random.RandomState(0).randn(600, 6)
    X[::2] *= [1, 0.1, 1, 0.1, 1, 0.1]
    X[::2] += 5.0
    small(2, tol=tol, max_iter=100).fit(X)
    assert len(strengths) == (1 if large else 2)
    assert (strengths[0] < 6) == (large is not None and tol < 1)
