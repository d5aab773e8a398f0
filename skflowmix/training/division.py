"""Division of components among several flows: a given number or by held-out rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from skflowmix.model.groups import Groups
from skflowmix.starts.division import best_parts, divide_rows, fit_parts
from skflowmix.training.phases import ModelFit
from skflowmix.training.table import TrainingTable

__all__ = ["divide", "divide_where_it_gains"]

# Rows with a smaller responsibility have no part in how a component is divided.
LEAST_SHARE = 0.05


def divide(
    table: TrainingTable,
    responsibilities: np.ndarray,
    n_parts: int,
    random_state: np.random.RandomState,
) -> tuple[np.ndarray, Groups]:
    """Divide every component among `n_parts` flows, or as many as it has rows.

    Parameters
    ----------
    table : TrainingTable
        The rows; held-out rows have no influence on the division.
    responsibilities : ndarray of shape (n_distinct, n_components)
        Shares of the components.
    n_parts : int
        Number of flows per component.
    random_state : RandomState
        Source of everything random.

    Returns
    -------
    divided : ndarray of shape (n_distinct, n_flows)
        Shares of the flows.
    groups : Groups
        The component of each flow.
    """
    if n_parts == 1:
        return responsibilities, Groups.singles(responsibilities.shape[1])
    parts = []
    for own, weight in _rows_of_components(table, responsibilities):
        fits = len(own) > 1
        parts.append(
            fit_parts(table.x[own], weight, n_parts, random_state) if fits else None
        )
    return _divided(table, responsibilities, parts)


def divide_where_it_gains(
    fit: ModelFit, random_state: np.random.RandomState
) -> tuple[np.ndarray, Groups] | None:
    """Divide components of one flow for which held-out rows prefer several Gaussians.

    Parameters
    ----------
    fit : ModelFit
        The model after the M-step, in which every component is one flow.
    random_state : RandomState
        Source of everything random.

    Returns
    -------
    divided : ndarray of shape (n_distinct, n_flows)
        Shares of the flows.
    groups : Groups
        The component of each flow. The result is None if no component is divided.
    """
    table, responsibilities = fit.table, fit.responsibilities
    log_prob = fit.held_out_component_log_prob()
    held_out = table.held_out[: len(log_prob)]
    shares = responsibilities[held_out]
    parts = []
    for k, (own, weight) in enumerate(_rows_of_components(table, responsibilities)):
        judges = shares[:, k] >= LEAST_SHARE
        rows = held_out[judges]
        parts.append(
            best_parts(
                table.x[own],
                weight,
                table.x[rows],
                table.weights[rows] * shares[judges, k],
                log_prob[judges, k],
                random_state,
            )
        )
    if all(own is None for own in parts):
        return None
    return _divided(table, responsibilities, parts)


def _rows_of_components(
    table: TrainingTable, responsibilities: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each component's training rows, except outlying ones, and their weights."""
    shares = table.without_far(responsibilities)[table.train]
    for share in shares.T:
        own = np.flatnonzero(share >= LEAST_SHARE)
        rows = table.train[own]
        yield rows, table.weights[rows] * share[own]


def _divided(
    table: TrainingTable,
    responsibilities: np.ndarray,
    parts: Sequence[Any],
) -> tuple[np.ndarray, Groups]:
    divided, sizes = divide_rows(table.x, responsibilities, parts)
    return divided, Groups(sizes)
