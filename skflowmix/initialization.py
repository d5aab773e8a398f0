"""Initialisation of components: proposals, given values, labels, fitted models."""

from typing import Any

import numpy as np
import torch

from skflowmix._arrays import evaluate_in_chunks
from skflowmix.fitting import Problem, Start
from skflowmix.model.groups import Groups
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.knn import one_hot
from skflowmix.starts.labels import LabelGraph, likeliest
from skflowmix.starts.partitions import nearest_mean_responsibilities, rescale_columns
from skflowmix.starts.preprocessing import SCORING_BOUND, Standardizer
from skflowmix.starts.proposals import count_starts, propose_starts
from skflowmix.starts.unlabelled import spreading_helps
from skflowmix.training.table import TrainingTable

__all__ = [
    "FittedStart",
    "GivenMeans",
    "GivenResponsibilities",
    "LabelStart",
    "ProposedStart",
    "unlabelled_rows_help",
]


class ProposedStart(Start):
    """Partitions proposed by a named method or a clusterer.

    Parameters
    ----------
    n_components : int or None
        K. With None, it is estimated, or taken from the clusterer.
    max_components : int
        Largest number that may be estimated.
    init : str or clusterer
        See `skflowmix.starts.partitions.propose_partitions`.
    n_init : int
        Largest number of proposals.
    weights : ndarray of shape (K,), optional
        Initial weights; components then keep their order.
    """

    def __init__(
        self,
        n_components: int | None,
        max_components: int | None,
        init: Any,
        n_init: int,
        weights: np.ndarray | None = None,
    ):
        self.n_components, self.max_components = n_components, max_components
        self.init, self.n_init, self.weights = init, n_init, weights
        self.is_given = weights is not None
        self.is_found = n_components is None

    def responsibilities(
        self,
        problem: Problem,
        table: TrainingTable,
        random_state: np.random.RandomState,
    ) -> list[np.ndarray]:
        """See `skflowmix.fitting.Start`."""
        # Repeated values do not add evidence: one of them must not become a cluster.
        weights = table.weights / table.weights.mean()
        if self.n_components is None and isinstance(self.init, str):
            assert self.max_components is not None
            largest = min(self.max_components, len(table.x))
            starts, table.path = count_starts(
                table.x,
                weights,
                table.standardizer,
                largest,
                self.init,
                random_state,
                self.n_init,
            )
            return starts
        return propose_starts(
            table.x,
            weights,
            table.standardizer,
            self.n_components,
            self.init,
            random_state,
            self.n_init,
        )


class GivenMeans(Start):
    """Assignment of each row to the component with the nearest mean.

    Parameters
    ----------
    means : ndarray of shape (K, n_features)
        In data units.
    weights : ndarray of shape (K,), optional
        Initial weights.
    """

    def __init__(self, means: np.ndarray, weights: np.ndarray | None = None):
        self.means, self.weights = means, weights

    def responsibilities(
        self,
        problem: Problem,
        table: TrainingTable,
        random_state: np.random.RandomState,
    ) -> list[np.ndarray]:
        """See `skflowmix.fitting.Start`."""
        bound = SCORING_BOUND[table.x.dtype]
        means = table.standardizer.transform(self.means, bound)
        return [nearest_mean_responsibilities(table.x, means)]


class GivenResponsibilities(Start):
    """Given shares of the components in every row.

    Parameters
    ----------
    shares : ndarray of shape (n_samples, K)
        Non-negative; rows sum to one.
    weights : ndarray of shape (K,), optional
        Initial weights.
    """

    def __init__(self, shares: np.ndarray, weights: np.ndarray | None = None):
        self.shares, self.weights = shares, weights

    def responsibilities(
        self,
        problem: Problem,
        table: TrainingTable,
        random_state: np.random.RandomState,
    ) -> list[np.ndarray]:
        """See `skflowmix.fitting.Start`."""
        merged = np.zeros((len(table.x), self.shares.shape[1]))
        weights = problem.sample_weight[problem.kept]
        np.add.at(merged, problem.inverse, self.shares[problem.kept] * weights[:, None])
        return [merged / merged.sum(1, keepdims=True)]


class FittedStart(Start):
    """A fitted model to continue from.

    Parameters
    ----------
    module : MixtureModule
        The model, which is not changed.
    gaussians : Gaussians
        The Gaussians that it whitens by.
    standardizer : Standardizer
        The standardisation of its rows.
    """

    def __init__(
        self, module: MixtureModule, gaussians: Gaussians, standardizer: Standardizer
    ):
        self.fitted = (module, gaussians, standardizer)

    def responsibilities(
        self,
        problem: Problem,
        table: TrainingTable,
        random_state: np.random.RandomState,
    ) -> list[np.ndarray]:
        """See `skflowmix.fitting.Start`; returns the model's responsibilities."""
        assert self.fitted is not None
        module = self.fitted[0]
        return [
            evaluate_in_chunks(
                module.responsibilities,
                np.asarray,
                table.x,
                floats_per_row=module.floats_per_row,
                dtype=torch.float64,
                device=torch.device("cpu"),
            )
        ]


class LabelStart(Start):
    """Label propagation to unlabelled rows, and division of classes into components.

    Parameters
    ----------
    groups : Groups
        The class of every component.
    init : str or clusterer
        Method that divides a class with several components.
    """

    def __init__(self, groups: Groups, init: Any):
        self.groups, self.init = groups, init
        self._graph: LabelGraph | None = None
        self._within_classes: np.ndarray | None = None

    def responsibilities(
        self,
        problem: Problem,
        table: TrainingTable,
        random_state: np.random.RandomState,
    ) -> list[np.ndarray]:
        """See `skflowmix.fitting.Start`; restricts labelled rows to their class."""
        classes, groups = problem.classes, self.groups
        assert classes is not None
        table.allowed = groups.allowed(classes)
        if (classes < 0).any():
            self._graph = LabelGraph(_graph_columns(table), classes, random_state)
        shares = self._class_shares(classes)
        likeliest = shares.argmax(1)
        self._within_classes = np.concatenate(
            [
                self._within(table, np.flatnonzero(likeliest == k), n_own, random_state)
                for k, n_own in enumerate(groups.sizes)
            ],
            axis=1,
        )
        return [shares[:, groups.of_flow] * self._within_classes]

    def without_labels(self, classes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return responsibilities (n_distinct, K) with the labels of some rows hidden.

        Labels are kept if all rows have one, since none are then propagated.

        Parameters
        ----------
        classes : ndarray of shape (n_distinct,)
            Index of each row's class, -1 if unknown.
        rows : ndarray of shape (n_rows,)
            Indices of the rows whose labels are hidden.
        """
        assert self._within_classes is not None
        if self._graph is not None:
            classes = classes.copy()
            classes[rows] = -1
        return (
            self._class_shares(classes)[:, self.groups.of_flow] * self._within_classes
        )

    def _class_shares(self, classes: np.ndarray) -> np.ndarray:
        """Return shares (n_distinct, n_classes) of the classes in every row."""
        n_classes = self.groups.n_groups
        if self._graph is None:
            return one_hot(classes, n_classes)
        return likeliest(self._graph.spread(classes, n_classes))

    def _within(
        self,
        table: TrainingTable,
        own: np.ndarray,
        n_components: int,
        random_state: np.random.RandomState,
    ) -> np.ndarray:
        """Return shares (n, n_components) within the class whose rows are `own`."""
        n_rows = len(table.x)
        if n_components == 1:
            return np.ones((n_rows, 1))
        if not len(own):
            return np.full((n_rows, n_components), 1 / n_components)
        proposal = propose_starts(
            table.x[own],
            table.weights[own],
            table.standardizer,
            n_components,
            self.init,
            random_state,
        )[0]
        mass = table.weights[own] @ proposal
        weighted = (proposal * table.weights[own, None]).T @ table.x[own]
        means = weighted / np.maximum(mass, 1e-10)[:, None]
        within = nearest_mean_responsibilities(table.x, means)
        within[own] = proposal
        return within


def unlabelled_rows_help(problem: Problem, groups: Groups) -> bool:
    """Tell whether unlabelled rows improve the fit, see `spreading_helps`.

    Parameters
    ----------
    problem : Problem
        Rows, of which some have a class.
    groups : Groups
        The classes.

    Returns
    -------
    helps : bool
        Also True if there are too few labels to decide.
    """
    # Not the fit's own generator, so that dropping these rows equals not giving them.
    random_state = np.random.RandomState(0)
    assert problem.classes is not None
    standardizer = Standardizer.fit(problem.rows, problem.weights)
    table = TrainingTable(
        problem.rows, problem.weights, standardizer, 0.5, random_state
    )
    return spreading_helps(
        table.x,
        _graph_columns(table),
        table.weights,
        problem.classes,
        groups.n_groups,
        random_state,
    )


def _graph_columns(table: TrainingTable) -> np.ndarray:
    """Return rows rescaled so that distances are meaningful."""
    return rescale_columns(table.x, table.weights, table.standardizer.scale, table.far)
