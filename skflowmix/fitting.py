"""The fitting engine: turns rows, a start and settings into a fitted mixture.

It handles rows, weights, classes and watchers, and does not depend on estimators.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from scipy.special import softmax

from skflowmix._arrays import limited_threads
from skflowmix.evaluation import evaluate
from skflowmix.model.groups import Groups
from skflowmix.model.mixture import MixtureModule
from skflowmix.restarts import fit_restarts
from skflowmix.row_stream import RowStream
from skflowmix.starts.class_covariances import shared_columns
from skflowmix.starts.gaussians import Gaussians, component_weights, least_strengths
from skflowmix.starts.preprocessing import (
    Standardizer,
    different_rows,
    merge_identical_rows,
)
from skflowmix.training.candidate import (
    Partition,
    best_candidate,
    can_train_flows,
    fit_candidate,
)
from skflowmix.training.division import divide
from skflowmix.training.journal import Journal, NoJournal
from skflowmix.training.reducers import LocalReducer, Reducer
from skflowmix.training.runtime import Candidate, Monitor, Runtime
from skflowmix.training.settings import FitSettings
from skflowmix.training.shards import hold_shard
from skflowmix.training.table import TrainingTable
from skflowmix.user_warnings import warn_user

__all__ = ["FittedMixture", "Problem", "Start", "Watcher", "fit_mixture"]


# Largest number of rows of a streamed table on which its bound is computed.
SUMMED_UP = 16_384

# Least standard deviation of a component, in standardised units: squares of values
# divided by a smaller one would overflow float32.
LEAST_SCALE = 1e-18


class Problem:
    """The data that a mixture is fitted to.

    Identical rows of the same class are merged.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows in data units, float32 or float64.
    sample_weight : ndarray of shape (n_samples,)
        Non-negative; rows of weight zero are only evaluated.
    classes : ndarray of shape (n_samples,), int, optional
        Index of each row's class, -1 if unknown.
    stream : RowStream, optional
        The table that these rows are a sample of.
    numbers : ndarray of shape (n_samples,), int, optional
        Indices of the rows in that table, increasing.

    Attributes
    ----------
    rows : ndarray of shape (n_distinct, n_features)
        Distinct rows of positive weight, float64.
    weights : ndarray of shape (n_distinct,)
        Their weights, with mean one.
    inverse : ndarray of shape (n_kept,)
        Index into `rows` of every row of positive weight.
    kept : ndarray of shape (n_samples,), bool
        Whether each row has positive weight.
    classes : ndarray of shape (n_distinct,) or None
        Classes of the distinct rows.
    shard : Problem or None
        The rows of this process alone, if these are the rows of several processes.
    is_sample : bool
        Whether these are only a sample of the rows of all processes.
    why_few : str
        What the warning of too few rows adds, if the caller has left rows out.
    """

    shard: "Problem | None" = None
    is_sample: bool = False
    why_few: str = ""

    def __init__(
        self,
        X: np.ndarray,
        sample_weight: np.ndarray,
        classes: np.ndarray | None = None,
        stream: RowStream | None = None,
        numbers: np.ndarray | None = None,
    ):
        self.X, self.sample_weight = X, sample_weight
        self.stream, self.numbers = stream, numbers
        self.kept = sample_weight > 0
        rows = X[self.kept]
        if classes is not None:
            rows = np.column_stack([rows, classes[self.kept]])
        rows, self.weights, self.inverse = merge_identical_rows(
            rows, sample_weight[self.kept]
        )
        self.classes = None
        if classes is not None:
            self.classes = rows[:, -1].astype(int)
            rows = np.ascontiguousarray(rows[:, :-1])
        self.rows = rows
        # Equal rows are evaluated once.
        self.different, self.places = different_rows(X, self.kept, self.inverse)

    @property
    def own(self) -> "Problem":
        """The rows that this process holds."""
        return self if self.shard is None else self.shard

    def totals(self) -> np.ndarray:
        """Return the weights of `rows` in the unit of `sample_weight`."""
        total = self.sample_weight[self.kept].sum()
        return self.weights * (total / len(self.rows))


class Start(ABC):
    """Initialisation of the components.

    Attributes
    ----------
    is_given : bool
        Whether components keep their order; otherwise they are sorted by weight.
    is_found : bool
        Whether their number is estimated: components without rows are then dropped.
    weights : ndarray of shape (K,) or None
        Initial weights, if given.
    fitted : tuple of MixtureModule, Gaussians and Standardizer, or None
        A fitted model to continue from, if any.
    """

    is_given: bool = True
    is_found: bool = False
    weights: np.ndarray | None = None
    fitted: tuple[MixtureModule, Gaussians, Standardizer] | None = None

    @abstractmethod
    def responsibilities(
        self,
        problem: Problem,
        table: TrainingTable,
        random_state: np.random.RandomState,
    ) -> list[np.ndarray]:
        """Return initial responsibilities (n_distinct, K), one array per proposal.

        May set the table's `allowed` and `path`.
        """


@dataclass
class FittedMixture:
    """Result of a fit, or of one of its epochs.

    Parameters
    ----------
    candidate : Candidate
        The model and its history.
    problem : Problem
        The data it was fitted to, of which this process holds a part or all.
    table : TrainingTable
        The rows as used in training.
    start : ndarray of shape (n_distinct, K)
        Initial responsibilities.
    device : torch.device
        Where to evaluate.
    sample_seed : int
        Seed of samples that are drawn without a random state.
    labels : ndarray of shape (n_samples,) or None
        Component of every row; None for a table on disk.
    lower_bound, elbo_gap : float
        Means of the ELBO, in data units, and of log p(x) - ELBO, in nats per row, over
        the rows that this process holds; for a table read in chunks, over a sample.
    """

    candidate: Candidate
    problem: Problem
    table: TrainingTable
    start: np.ndarray
    device: torch.device
    sample_seed: int = 0
    labels: np.ndarray | None = field(init=False)
    lower_bound: float = field(init=False)
    elbo_gap: float = field(init=False)

    def __post_init__(self) -> None:
        problem = self.problem.own
        rows, places = problem.different, problem.places
        weights = problem.sample_weight
        if problem.stream is not None:
            # For means, a part of the sample is enough.
            part = slice(None, None, -(-len(problem.X) // SUMMED_UP))
            rows, places, weights = problem.X[part], slice(None), weights[part]
        answers = evaluate(
            self.module,
            self.standardizer,
            rows,
            MixtureModule.label_bound_and_log_prob,
            self.device,
        )
        labels, elbo, log_prob = answers[places].astype(np.float64).T
        self.labels = self._labels(labels)
        bound = float(np.average(elbo, weights=weights))
        self.lower_bound = bound - self.standardizer.log_scale
        self.elbo_gap = float(np.average(log_prob - elbo, weights=weights))

    def _labels(self, of_problem: np.ndarray) -> np.ndarray | None:
        stream = self.problem.stream
        if stream is None:
            return of_problem.astype(np.int64)
        if stream.is_on_disk:
            return None
        question = MixtureModule.predict
        return evaluate(self.module, self.standardizer, stream.X, question, self.device)

    def share_bounds(self, reducer: Reducer) -> None:
        """Set the bound and the gap to their means over the rows of all processes."""
        weight = float(self.problem.own.sample_weight.sum())
        of_all = reducer.gather((weight, self.lower_bound, self.elbo_gap))
        weights, bounds, gaps = zip(*of_all, strict=True)
        self.lower_bound = float(np.average(bounds, weights=weights))
        self.elbo_gap = float(np.average(gaps, weights=weights))

    def digest(self) -> str:
        """Return a checksum of the model."""
        digest = hashlib.sha256()
        for array in self.module.arrays().values():
            digest.update(array.tobytes())
        return digest.hexdigest()

    @property
    def module(self) -> MixtureModule:
        """The model of standardised rows."""
        return self.candidate.model

    @property
    def standardizer(self) -> Standardizer:
        """Location and scale of the columns."""
        return self.table.standardizer


class Watcher(Protocol):
    """Observes all restarts of a fit."""

    def begin(self, table: TrainingTable, settings: FitSettings) -> None:
        """Receive the rows and the settings, before the first partition."""
        ...

    def end(self, candidate: Candidate) -> None:
        """Receive the best restart."""
        ...

    def restart(
        self, i: int, fitted: Callable[[Candidate], FittedMixture]
    ) -> "RestartMonitor":
        """Return the monitor of restart `i`; `fitted` completes its candidates."""
        ...


class RestartMonitor(Monitor, Protocol):
    """Observes one restart."""

    def begin(self) -> None:
        """Note that the restart begins."""
        ...

    def end(self, candidate: Candidate) -> None:
        """Receive its final candidate."""
        ...


@dataclass
class _Restart:
    """One restart, with everything it needs to run in any process."""

    problem: Problem
    table: TrainingTable
    settings: FitSettings
    start: Start
    responsibilities: np.ndarray
    device: torch.device
    random_state: np.random.RandomState
    monitor: RestartMonitor
    journal: Journal
    reducer: Reducer

    def __call__(self) -> Candidate:
        self.monitor.begin()
        runtime = Runtime(
            self.device, self.random_state, self.monitor, self.journal, self.reducer
        )
        warm: MixtureModule | None = None
        n_flows = self.settings.n_flows_per_component
        if self.start.fitted is not None:
            warm, plain, _ = self.start.fitted
            partition = Partition(self.responsibilities, warm.groups, [], plain)
        else:
            n_first = 1 if n_flows == "auto" else int(n_flows)

            def divided() -> tuple[Partition, np.random.RandomState]:
                shares, groups = divide(
                    self.table, self.responsibilities, n_first, self.random_state
                )
                return self._partition(shares, groups), self.random_state

            partition, self.random_state = self.reducer.from_first(divided)
        with limited_threads(self.settings.threads_to_train(*self.table.x.shape)):
            candidate = fit_candidate(
                self.settings,
                self.table,
                partition,
                runtime,
                warm=warm,
                repartition=self._partition if n_flows == "auto" else None,
            )
        if not self.start.is_given:
            candidate.sort()
        if self.start.is_found:
            candidate.drop_unused(self.table.n_counted)
        candidate.drop_unused_flows(self.table.n_counted)
        self.monitor.end(candidate)
        candidate.stopped = self.monitor.stopped
        return candidate

    def _partition(self, responsibilities: np.ndarray, groups: Groups) -> Partition:
        """Return shares of flows, Gaussians to start them from, and plain Gaussians."""
        table, settings = self.table, self.settings
        leasts = [0.0]
        if settings.n_transforms > 0 and len(table.held_out):
            leasts += least_strengths(
                table.counts[table.train].sum(),
                table.x.shape[1],
                responsibilities.shape[1],
            )
        try:
            data = table.x, table.weights, table.without_far(responsibilities)
            shared = shared_columns(
                *data, self.problem.classes, groups.logsumexp, settings.reg_covar
            )
            fits = Gaussians.fit_each(
                *data,
                settings.reg_covar,
                leasts,
                turned=settings.n_shared_transforms > 0,
                tied=shared,
            )
            for gaussians in fits:
                factors = np.linalg.cholesky(gaussians.covariances)
                if np.diagonal(factors, axis1=1, axis2=2).min() < LEAST_SCALE:
                    raise np.linalg.LinAlgError("too narrow for float32")
        except np.linalg.LinAlgError as error:
            raise _too_flat(settings) from error
        for gaussians in fits:
            gaussians.weights = component_weights(responsibilities, table.weights)
        plain, *starts = fits
        return Partition(responsibilities, groups, starts or [plain], plain)


def fit_mixture(
    problem: Problem,
    start: Start,
    settings: FitSettings,
    *,
    device: torch.device,
    n_jobs: int | None,
    random_state: np.random.RandomState,
    watcher: Watcher,
    journal_of: Callable[[int], Journal] | None = None,
    reducer: Reducer | None = None,
) -> FittedMixture:
    """Fit a mixture of flows.

    Parameters
    ----------
    problem : Problem
        The data.
    start : Start
        Initialisation of the components.
    settings : FitSettings
        How to train.
    device : torch.device
        Where to train.
    n_jobs : int or None
        Number of restarts at a time, as in joblib.
    random_state : RandomState
        Source of all randomness.
    watcher : Watcher
        Observes every epoch of every restart.
    journal_of : callable, optional
        Returns the journal that runs the phases of a restart; by default nothing is
        written.
    reducer : Reducer, optional
        The processes that fit the mixture together. `random_state` must be the same in
        all of them; with several, restarts are trained one after another.

    Returns
    -------
    fitted : FittedMixture
        The best restart by held-out log-likelihood, with bounded gains per row.

    Raises
    ------
    RuntimeError
        If processes do not end with the same parameters.
    """
    reducer = LocalReducer() if reducer is None else reducer
    n_restarts = settings.n_init if start.fitted is None else 1
    # Read first, so that a damaged journal is refused before any computation.
    journals: list[Journal] = [
        NoJournal() if journal_of is None else journal_of(i) for i in range(n_restarts)
    ]
    if start.fitted is not None:
        standardizer = start.fitted[2]
    else:
        standardizer = reducer.from_first(
            lambda: Standardizer.fit(problem.rows, problem.weights)
        )
    table = TrainingTable(
        problem.rows,
        problem.weights,
        standardizer,
        settings.validation_fraction,
        random_state,
        problem.stream,
        problem.numbers,
        problem.inverse,
    )
    if problem.is_sample:
        hold_shard(table, problem.own.rows, problem.own.totals(), reducer)
    if settings.n_transforms > 0:
        table.measure_repeats(settings.repeat_noise)
    watcher.begin(table, settings)

    def propose() -> tuple[Any, ...]:
        proposals = start.responsibilities(problem, table, random_state)
        if start.weights is not None:
            proposals = [
                _weighted(shares, start.weights, table, settings)
                for shares in proposals
            ]
        return proposals, table.allowed, table.path, random_state, vars(start)

    found = reducer.from_first(propose)
    proposals, table.allowed, table.path, random_state, of_start = found
    vars(start).update(of_start)  # calibration uses it again
    n_components = proposals[0].shape[1]
    per_component = settings.n_flows_per_component
    n_flows = n_components * (1 if per_component == "auto" else int(per_component))
    wants_flows = settings.n_transforms > 0 and reducer.rank == 0
    if start.fitted is not None:
        if wants_flows and start.fitted[0].components.n_flow_parameters == 0:
            warn_user(
                "Flows are not trained: the model to continue is a mixture of "
                "Gaussians. Set warm_start=False to fit flows."
            )
    elif wants_flows and not can_train_flows(table, n_flows):
        flows = "" if n_flows == n_components else f" of {per_component} flows each"
        warn_user(
            f"Flows are not trained on {len(table.x)} distinct rows for {n_components} "
            f"components{flows}: too few are held out to judge them, or left to train "
            f"them. The model is a mixture of Gaussians.{problem.why_few}",
        )
    restarts = []
    for i, journal in enumerate(journals):
        responsibilities = proposals[i % len(proposals)]
        fitted = _Completion(problem, table, responsibilities, device)
        restarts.append(
            _Restart(
                problem,
                table,
                settings,
                start,
                responsibilities,
                device,
                np.random.RandomState(random_state.randint(2**31)),
                watcher.restart(i, fitted),
                journal,
                reducer,
            )
        )
    candidates = fit_restarts(restarts, n_jobs, in_turn=reducer.n_ranks > 1)
    place = reducer.broadcast(candidates.index(best_candidate(candidates)))
    best = candidates[place]
    watcher.end(best)
    fitted_mixture = FittedMixture(
        best,
        problem,
        table,
        proposals[place % len(proposals)],
        device,
        sample_seed=int(random_state.randint(2**31)),
    )
    if reducer.n_ranks > 1:
        fitted_mixture.share_bounds(reducer)
        if len(set(reducer.gather(fitted_mixture.digest()))) > 1:
            raise RuntimeError(
                "The processes ended with different parameters. They need the same "
                "versions, number of threads and kind of processor."
            )
    return fitted_mixture


def _weighted(
    shares: np.ndarray,
    weights: np.ndarray,
    table: TrainingTable,
    settings: FitSettings,
) -> np.ndarray:
    """Return responsibilities under Gaussians of initial shares, given weights."""
    try:
        gaussians = Gaussians.fit(
            table.x, table.weights, table.without_far(shares), settings.reg_covar
        )
        gaussians.weights = weights
        return softmax(gaussians.log_joint(table.x), axis=1)
    except np.linalg.LinAlgError as error:
        raise _too_flat(settings) from error


def _too_flat(settings: FitSettings) -> ValueError:
    return ValueError(
        "A component's covariance is not positive definite with reg_covar="
        f"{settings.reg_covar}: its rows are too few or its columns linearly "
        "dependent. Increase reg_covar."
    )


@dataclass
class _Completion:
    """Turns a candidate into a `FittedMixture`."""

    problem: Problem
    table: TrainingTable
    start: np.ndarray
    device: torch.device

    def __call__(self, candidate: Candidate) -> FittedMixture:
        return FittedMixture(
            candidate, self.problem, self.table, self.start, self.device
        )
