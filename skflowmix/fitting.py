"""The engine: rows, a start and settings in, a fitted mixture out.

It knows rows, weights, classes and who watches, but no estimator.
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


# Rows of a large table on which its bound is reported.
SUMMED_UP = 16_384

# Standard deviations of a component, of standardised rows: float32 would not hold the
# square of what divides by a smaller one.
LEAST_SCALE = 1e-18


class Problem:
    """What a mixture is fitted to.

    Rows are merged where they, and their classes, are identical.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows in data units, float32 or float64.
    sample_weight : ndarray of shape (n_samples,)
        Non-negative; rows of weight zero are evaluated only.
    classes : ndarray of shape (n_samples,), int, optional
        Number of each row's class, -1 where it is unknown.
    stream : RowStream, optional
        The table that these rows are a sample of.
    numbers : ndarray of shape (n_samples,), int, optional
        Their numbers there, increasing.

    Attributes
    ----------
    rows : ndarray of shape (n_distinct, n_features)
        Distinct rows of positive weight, float64.
    weights : ndarray of shape (n_distinct,)
        Their weights, one on average.
    inverse : ndarray of shape (n_kept,)
        Index into `rows` of every row of positive weight.
    kept : ndarray of shape (n_samples,), bool
        Which these are.
    classes : ndarray of shape (n_distinct,) or None
        Classes of the distinct rows.
    shard : Problem or None
        What this process alone holds, where these are the rows of several.
    is_sample : bool
        Whether there are more rows than these, all together.
    """

    shard: "Problem | None" = None
    is_sample: bool = False

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
        """What this process holds."""
        return self if self.shard is None else self.shard

    def totals(self) -> np.ndarray:
        """Return the weights of `rows` in the unit of `sample_weight`."""
        total = self.sample_weight[self.kept].sum()
        return self.weights * (total / len(self.rows))


class Start(ABC):
    """Where the components start.

    Attributes
    ----------
    is_given : bool
        Whether components keep their order; otherwise they come to be sorted by weight.
    is_found : bool
        Whether their number was found: those without rows are then dropped.
    weights : ndarray of shape (K,) or None
        First weights, where they are given.
    fitted : tuple of MixtureModule, Gaussians and Standardizer, or None
        What to go on with, if anything.
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
        """First responsibilities (n_distinct, K), one or several proposals.

        May set the table's `allowed` and `path`.
        """


@dataclass
class FittedMixture:
    """What came of a fit, or of an epoch of it.

    Parameters
    ----------
    candidate : Candidate
        The model and its history.
    problem : Problem
        What it was fitted to, of which this process holds a part or all.
    table : TrainingTable
        The rows as training saw them.
    start : ndarray of shape (n_distinct, K)
        First responsibilities.
    device : torch.device
        Where to evaluate.
    sample_seed : int
        Seed of the samples that are drawn without one.
    labels : ndarray of shape (n_samples,) or None
        Component of every row; none where they are too many for memory.
    lower_bound, elbo_gap : float
        Mean ELBO, in data units, and of log p(x) - ELBO, in nats per row, of the rows
        that this process holds; of a table read piece by piece those of a sample.
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
            # A sample of a sample: means of fewer rows are as good.
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
        """Let the bound and the gap be those of the rows of all processes."""
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
    """Watches all restarts of a fit."""

    def begin(self, table: TrainingTable, settings: FitSettings) -> None:
        """Receive the rows and the settings, before the first partition."""
        ...

    def end(self, candidate: Candidate) -> None:
        """Receive the restart that was best."""
        ...

    def restart(
        self, i: int, fitted: Callable[[Candidate], FittedMixture]
    ) -> "RestartMonitor":
        """Return the monitor of a restart; `fitted` completes its candidates."""
        ...


class RestartMonitor(Monitor, Protocol):
    """Watches one restart."""

    def begin(self) -> None:
        """Receive that the restart begins."""
        ...

    def end(self, candidate: Candidate) -> None:
        """Receive what it has come to."""
        ...


@dataclass
class _Restart:
    """One restart: everything that it needs, wherever it runs."""

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
        """Shares of flows, where these may start, and Gaussians by themselves."""
        table, settings = self.table, self.settings
        leasts = [0.0]
        if settings.n_transforms > 0 and len(table.held_out):
            leasts += least_strengths(
                table.counts[table.train].sum(),
                table.x.shape[1],
                responsibilities.shape[1],
            )
        try:
            fits = Gaussians.fit_each(
                table.x,
                table.weights,
                table.without_far(responsibilities),
                settings.reg_covar,
                leasts,
                turned=settings.n_shared_transforms > 0,
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
        Rows, weights, classes.
    start : Start
        Where the components start.
    settings : FitSettings
        How to train.
    device : torch.device
        Where.
    n_jobs : int or None
        Restarts at a time, as joblib counts.
    random_state : RandomState
        Source of everything random.
    watcher : Watcher
        Sees every epoch of every restart.
    journal_of : callable, optional
        Returns the journal that runs the phases of a restart; by default nothing is
        written.
    reducer : Reducer, optional
        The processes that fit it together. The random state is the same in all of
        them, and restarts are trained in turn.

    Returns
    -------
    fitted : FittedMixture
        The best restart by held-out log-likelihood.

    Raises
    ------
    RuntimeError
        If processes do not end with the same parameters.
    """
    reducer = LocalReducer() if reducer is None else reducer
    n_restarts = settings.n_init if start.fitted is None else 1
    # Read before anything is computed: a damaged one is refused at once.
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
    vars(start).update(of_start)  # it may be asked again, when labels calibrate
    n_components = proposals[0].shape[1]
    per_component = settings.n_flows_per_component
    n_flows = n_components * (1 if per_component == "auto" else int(per_component))
    too_few = settings.n_transforms > 0 and not can_train_flows(table, n_flows)
    if too_few and reducer.rank == 0:
        flows = "" if n_flows == n_components else f" of {per_component} flows each"
        warn_user(
            f"Flows are not trained on {len(table.x)} distinct rows for {n_components} "
            f"components{flows}: too few are held out to judge them, or left to train "
            "them. The model is a mixture of Gaussians.",
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
    """Responsibilities under Gaussians of first shares, with given weights."""
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
        f"{settings.reg_covar}: its rows are too few or lie in a plane. Increase "
        "reg_covar."
    )


@dataclass
class _Completion:
    """Makes a `FittedMixture` of a candidate."""

    problem: Problem
    table: TrainingTable
    start: np.ndarray
    device: torch.device

    def __call__(self, candidate: Candidate) -> FittedMixture:
        return FittedMixture(
            candidate, self.problem, self.table, self.start, self.device
        )
