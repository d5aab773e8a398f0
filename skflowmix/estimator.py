"""`FlowMixture`: the scikit-learn face of the variational mixture of flows."""

import copy
import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import DensityMixin, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skflowmix._arrays import limited_threads, numpy_generator, resolve_device
from skflowmix.array_api import in_kind, to_numpy
from skflowmix.attributes import attributes_of_fit, attributes_of_model
from skflowmix.checkpoints import Checkpoint
from skflowmix.distributed import active_reducer, rows_of_all
from skflowmix.evaluation import evaluate
from skflowmix.fitting import FittedMixture, Problem, Start, Watcher, fit_mixture
from skflowmix.given_rows import n_rows_given, state_problem
from skflowmix.initialization import (
    FittedStart,
    GivenMeans,
    GivenResponsibilities,
    ProposedStart,
)
from skflowmix.model.flows import FlowFamily
from skflowmix.model.mixture import MixtureModule
from skflowmix.monitor import (
    CallbackWatcher,
    FirstWatcher,
    begin_fit,
    shown_to_callbacks,
)
from skflowmix.online import learn
from skflowmix.options import FlowMixtureOptions, NameOptions, OptionsMixin
from skflowmix.parameter_checks import (
    check_clusterer_and_checkpoint,
    check_model,
    check_responsibilities,
    check_start,
    check_warm_start,
    check_weights,
)
from skflowmix.prediction import FittedMethods, all_or_none
from skflowmix.starts.partitions import INIT_METHODS
from skflowmix.training.candidate import LEAST_ROWS_PER_COMPONENT
from skflowmix.training.settings import FitSettings
from skflowmix.user_warnings import warn_user
from skflowmix.validation import check_rows, warn_of_codes

__all__ = [
    "FlowMixture",
    "fitted_flow_mixture",
    "run_fit",
    "shared_constraints",
    "warn_unless_converged",
]

# Parameters that mean the same in estimators around a mixture.
SHARED_PARAMETERS = (
    "flow",
    "n_transforms",
    "hidden_units",
    "init_params",
    "reg_covar",
    "max_iter",
    "tol",
    "n_iter_no_change",
    "learning_rate",
    "device",
    "random_state",
    "verbose",
    "verbose_interval",
    "options",
)


# Rows of a table on disk that `fit_predict` labels at a time.
PREDICTED_ROWS = 65_536

# Rows of a call of `partial_fit` whose bound it reports.
SUMMED_UP = 4096


class FlowMixture(FittedMethods, CallbackSupportMixin, DensityMixin, OptionsMixin):
    """Mixture of normalizing flows, trained by variational inference.

    The `GaussianMixture` for clusters that are not Gaussian: every component is a
    normalizing flow with an exact density, or a mixture of several where its shape
    asks for them, and all are trained together on the evidence lower bound.

    Fitting finds first responsibilities with an ordinary clusterer, fits every
    component to its share (an M-step), divides it among several flows if that is
    clearly better, then trains flows, weights and the amortised
    posterior q(z|x) on the ELBO until the log-likelihood of held-out rows stops
    growing, and ends with a few epochs on all rows. Columns are standardised inside;
    all densities are in data units.

    Parameters
    ----------
    n_components : int or "auto", default=1
        Number of components, at least 1. "auto" finds it: groups of rows are
        different components where the density between them has a valley deeper than
        chance makes it, see `n_components_path_`; components that come to expect less
        than one row are dropped. `means_init`, `weights_init`, an array or
        a clusterer as `init_params` say it themselves.
    n_flows_per_component : int or "auto", default="auto"
        Number of flows of every component, at least 1. One flow from one Gaussian does
        not follow a long spiral, a comb or a ring with gaps; a mixture of several,
        which start from parts of the component's rows, does. "auto" divides a component
        where held-out rows clearly prefer it; where several processes fit one model it
        stands for 1. A component has fewer flows where it has
        fewer rows, and those that come to expect less than one row are dropped.
    flow : {"realnvp", "maf", "nsf", "nsf-ar"} or FlowFamily, default="nsf-ar"
        Family of the flows. Coupling layers (`"realnvp"`, `"nsf"`) sample in one
        pass, autoregressive ones (`"maf"`, `"nsf-ar"`) need one pass per column;
        splines (`"nsf"`, `"nsf-ar"`) bend further than affine maps. A
        `skflowmix.model.flows.FlowFamily` is one of your own.
    n_transforms : int, default=3
        Layers of each flow. More of them bend further, in more time. With 0 the
        components stay the Gaussians of the first partition, which EM does not refine,
        and ``n_flows_per_component="auto"`` is 1.
    hidden_units : int or tuple of int, default=(64, 64)
        Widths of the hidden layers of every conditioner, the network that gives a
        column's map from the columns that it sees. Wider ones follow finer dependence,
        in more time and memory; with none, (), what it gives is linear in these.
    init_params : str, clusterer or array-like of shape (n_samples, n_components), \
            default="auto"
        Where the components start.

        - "auto": the best of several partitions (spectral, tree linkage, and Gaussian
          mixtures that start from these, from k-means and from merged groups) of the
          rows, in which noise has spread values that repeat in a column;
        - "kmeans", "k-means++", "gmm", "spectral", "linkage", "random",
          "random_from_data": a partition by that method, those of the last two by
          random responsibilities and by the nearest of random rows;
        - any scikit-learn clusterer, which is cloned and sees the rows standardised;
          its `n_clusters`, where it has that, is set to `n_components`;
        - an array of responsibilities, rows summing to one.
    n_init : int, default=1
        Number of restarts, each from another first partition where there are several;
        the one with the largest held-out log-likelihood is kept, where no single row
        may decide. Each trains a whole model: time grows in proportion, but for the
        partitions, which are found once.
    weights_init : array-like of shape (n_components,), default=None
        Initial mixture weights, positive and summing to one: first responsibilities
        are those of Gaussians with these weights.
    means_init : array-like of shape (n_components, n_features), default=None
        Initial means, in data units: rows start in the component of the nearest one.
        Overrides `init_params`.
    reg_covar : float, default=1e-6
        Added to the variances of every component, as a share of these; where a column
        is constant in a component, of the others' variances. At 0 a constant or
        duplicated column is an error, from 0.01 on correlations are lost.
    max_iter : int, default=200
        Largest number of epochs on the ELBO. An epoch visits at most 65 536 rows, in
        at most 256 steps: where there are more it is less than a pass over them. The
        epochs of the M-step (`n_iter_init` of the options) and the last ones on all
        rows, 8 to 32 but no more than `max_iter`, do not count. With 0 the model is
        that of the M-step, and ``fit`` warns.
    tol : float, default=1e-3
        Least progress: since there last was any, held-out log-likelihood has to grow by
        more than ``max(tol, 0.01 * gain)``, in nats per row, with the gain of the phase
        so far. At 0 the hundredth alone counts; large values end training early.
    n_iter_no_change : int, default=8
        Epochs without progress after which the step size falls to a quarter. Half as
        many, rounded up, make it fall again, and as many once more are convergence.
        The M-step ends the first time, and so does the ELBO where the M-step has left
        flows clearly worse than their Gaussians. Small numbers end training early,
        large ones cost epochs.
    learning_rate : float, default=5e-3
        First step size of Adam, later a quarter and a sixteenth of it. With large ones
        training can diverge: where a loss is not finite it goes on with a tenth, three
        times, then fails. With small ones progress stays below `tol` and training ends
        early.
    device : str, default="cpu"
        "cpu", "cuda", "cuda:N" or "auto". A fitted model whose GPU is missing works
        on the CPU.
    n_jobs : int, default=None
        Number of restarts that are trained at a time, through joblib: None is 1, or
        what `joblib.parallel_config` says, -1 as many as there are cores. With
        ``n_init=1`` it changes nothing. Each takes the memory of a fit.
    random_state : int, RandomState instance or None, default=None
        Seed of everything random. Global generators are not touched.
    warm_start : bool, default=False
        If True, `fit` goes on training the model of the last one, on the ELBO, instead
        of starting anew. Its scales and Gaussians stay: rows that have moved far need a
        new fit. There is no M-step, and `n_init` and the first partition do not count.
    verbose : int, default=0
        0 prints nothing. 1 prints when training begins and ends, and a line after an
        epoch where five seconds have passed since the last one: time, phase, epoch,
        held-out log-likelihood in data units, and how long the phase can take. 2 prints
        one for every `verbose_interval` epochs.
    verbose_interval : int, default=1
        Epochs between two lines where `verbose` is 2.
    max_components : int, default=20
        The largest number that ``n_components="auto"`` finds, groups of far rows among
        them. Where there are more clusters those with the shallowest valleys between
        are joined; at 1 nothing is counted.
    options : FlowMixtureOptions, default=None
        What is rarely set, of the model and of its training. None stands for the
        defaults of `FlowMixtureOptions`.

    Attributes
    ----------
    n_components_ : int
        Number of components.
    n_components_in_use_ : int
        Number of components that expect at least one of the training rows.
    n_components_path_ : list of dict
        How ``n_components="auto"`` counted: the valleys of the density between two
        groups of rows, those that were passed over first, the shallowest of all first;
        empty where the number was given. Joining the two groups of each record in turn
        leaves one cluster. A record holds `n_components`, the number of clusters
        where this valley and all later ones are counted; `valley`, the density in it
        over that of the lower of the two modes, 0 where groups do not touch; `limit`,
        below which it is deeper than chance makes it; `share`, that of the smaller
        group in the rows; and `counted`, whether the valley separates clusters.
        Groups of far rows, which are clusters without a look at valleys, have the
        valley 0 and the limit 1. A valley that equals its limit, 0 and 0 say, cuts off
        too few rows to count. `max_components` can leave some out.
    weights_ : ndarray of shape (n_components_,)
        Mixture weights, decreasing unless the start was given.
    means_ : ndarray of shape (n_components_, n_features)
        Means of the Gaussians that the components whiten by, or of the mixture of
        these where there are several, in data units.
    covariances_ : ndarray of shape (n_components_, n_features, n_features)
        Their covariances, in data units.
    n_flows_ : int
        Number of flows of all components.
    flow_components_ : ndarray of shape (n_flows_,)
        Component of each flow. Those of a component stand next to each other, by
        decreasing weight unless the start was given.
    flow_weights_ : ndarray of shape (n_flows_,)
        Mixture weights of the flows, which add up to those of the components.
    flow_means_ : ndarray of shape (n_flows_, n_features)
        Means of the Gaussians that the flows whiten by, in data units.
    flow_covariances_ : ndarray of shape (n_flows_, n_features, n_features)
        Their covariances, in data units.
    labels_ : ndarray of shape (n_samples,)
        Component of every training row; missing where these were read piece by piece,
        and after `partial_fit` has gone on.
    converged_ : bool
        True when the ELBO phase ended before `max_iter`, without progress.
    n_iter_ : int
        Epochs on the ELBO.
    lower_bound_ : float
        ELBO of the training rows, in nats per row.
    lower_bounds_ : list of float
        The ELBO after every epoch of its phase, on a sample of the training rows.
    elbo_gap_ : float
        Mean of log p(x) - ELBO(x) over the training rows, in nats: how far q(z|x) is
        from the exact responsibilities.
    history_ : list of dict
        Figures of every epoch of the start that was kept: `phase` ("m-step", "elbo"
        or "all rows"), `epoch`, `learning_rate`, `train_loss`,
        `train_log_likelihood`, `validation_log_likelihood`, `elbo` with its terms
        `elbo_reconstruction`, `elbo_prior` and `elbo_entropy`, `temperature`,
        `n_components_in_use` (expecting at least one row) and `score`, the
        held-out gain. All but the loss are those of the parameters' running average.
        Log-likelihoods are those of standardised rows, in nats; in the last phase
        training has seen the validation rows.
    module_ : torch.nn.Module
        The fitted model of standardised rows, in float64 on the CPU. Its components
        are the flows.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had any.

    See Also
    --------
    sklearn.mixture.GaussianMixture : Elliptical components, fitted by EM.

    Notes
    -----
    Identical rows are merged into weights first: weighting a row equals repeating
    it. Rows are counted in units of the greatest common divisor of these weights, so
    that neither their scale nor a table given twice makes a fit surer; where there is
    none, by the number of distinct rows.

    Memory maps, and other tables with slices of rows, of more than 80 000 rows are read
    piece by piece, and so are arrays in memory of more than 500 000 rows or 100 million
    values: scales, first partition, how components are divided among flows, Gaussians
    and held-out rows are those of a random sample of 80 000 rows (in tables of more
    than 100 columns of 8 million values, at least 20 000 rows), batches those of all
    rows. The last phase is then one pass over them. Identical rows are merged, and
    weights equal repetition, within the sample only.

    Up to a quarter of a column's values may be far from the others, as codes for
    missing values are: location, scale and first partition are those of the others.
    Groups of far rows have components of their own where these suffice; other far rows
    lie in the tails of the nearest component.

    scikit-learn's callbacks are called after every epoch; one that asks to stop ends
    the whole fit and keeps the best weights; before the last phase flows belong to
    Gaussians that have not seen the held-out rows. Until a restart ends, components
    are in the order of its start. Where `fit` got no `y` callbacks see zeros in its
    place: scikit-learn's `ScoringMonitor` skips the scores where `y` is None.

    References
    ----------
    G. G. P. Freitas Pires and M. A. T. Figueiredo, Variational Mixture of
    Normalizing Flows, ESANN 2020, https://arxiv.org/abs/2009.00585

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skflowmix import FlowMixture
    >>> X, y = make_moons(500, noise=0.05, random_state=0)
    >>> model = FlowMixture(n_components=2, random_state=0)
    >>> labels = model.fit_predict(X)
    >>> labels.shape, model.score_samples(X).shape
    ((500,), (500,))
    >>> new_X, component = model.sample(10)
    >>> new_X.shape
    (10, 2)
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "n_flows_per_component": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "flow": [str, FlowFamily],
        "n_transforms": [Interval(Integral, 0, None, closed="left")],
        "hidden_units": ["array-like", Interval(Integral, 1, None, closed="left")],
        "init_params": [
            NameOptions(set(INIT_METHODS)),
            HasMethods("fit_predict"),
            "array-like",
        ],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0.0, None, closed="neither")],
        "device": [str],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "max_components": [Interval(Integral, 1, None, closed="left")],
        "options": [FlowMixtureOptions, None],
    }

    def __init__(
        self,
        n_components: int | Literal["auto"] = 1,
        *,
        n_flows_per_component: int | Literal["auto"] = "auto",
        flow: str | FlowFamily = "nsf-ar",
        n_transforms: int = 3,
        hidden_units: int | Sequence[int] = (64, 64),
        init_params: Any = "auto",
        n_init: int = 1,
        weights_init: Any = None,
        means_init: Any = None,
        reg_covar: float = 1e-6,
        max_iter: int = 200,
        tol: float = 1e-3,
        n_iter_no_change: int = 8,
        learning_rate: float = 5e-3,
        device: str = "cpu",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 1,
        max_components: int = 20,
        options: FlowMixtureOptions | None = None,
    ):
        self.n_components = n_components
        self.n_flows_per_component = n_flows_per_component
        self.flow = flow
        self.n_transforms = n_transforms
        self.hidden_units = hidden_units
        self.init_params = init_params
        self.n_init = n_init
        self.weights_init = weights_init
        self.means_init = means_init
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.learning_rate = learning_rate
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.max_components = max_components
        self.options = options

    @all_or_none
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, at least two and as many as components. A memory map, or
            any table with `shape`, `dtype` and slices of rows (h5py, zarr), may be
            larger than memory, see Notes of the class; not so where several processes
            fit one model.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A weight of zero leaves the row out; an integer
            weight equals repeating the row.
        checkpoint : str or path-like, default=None
            A folder for checkpoints, written every 30 seconds: a fit that was killed,
            and is run again with the same data, parameters and folder, goes on and ends
            the same, to the last bit on a CPU with as many threads. It is deleted when
            the fit has ended.

        Returns
        -------
        self : FlowMixture
            The fitted estimator.

        Warns
        -----
        UserWarning
            If a column seems to hold a code for missing values.

        Raises
        ------
        ValueError
            If the data or a parameter is not what it should be.
        FloatingPointError
            If training diverges in spite of smaller steps.
        MemoryError
            If the model cannot fit in memory.
        """
        fitted = self._fit(X, y, sample_weight, checkpoint)
        warn_unless_converged(self, fitted)
        return self

    @all_or_none
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Go on learning from rows as they come.

        The first call is a `fit`: scales, Gaussians and the number of components are
        those of its rows, which are at least five for every component. Later calls, and
        the first one after a `fit`, take steps on the ELBO, one pass over their rows at
        a constant rate, a quarter of `learning_rate`; Adam's moments go on. The model
        is the running mean of the parameters. Of a later call no rows are held out,
        and identical rows are merged within it only.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The next rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, which count within a call.

        Returns
        -------
        self : FlowMixture
            The estimator. `labels_` is no more after a later call, `lower_bound_` and
            `elbo_gap_` are those of at most 4096 of its rows, `history_` stays that of
            the first one.

        Raises
        ------
        ValueError
            If a first call has too few rows, or a later one other columns; within
            `data_parallel` with several processes.
        FloatingPointError
            If training diverges; the estimator is left as it was.
        """
        if active_reducer().n_ranks > 1:
            raise ValueError(
                "partial_fit is not supported within data_parallel with several "
                "processes. Call fit, or partial_fit in one process."
            )
        if hasattr(self, "module_"):
            self._learn(X, sample_weight)
        else:
            self._begin(X, sample_weight)
        return self

    def _begin(self, X: Any, sample_weight: Any) -> None:
        """Fit, if rows suffice to go on from."""
        self._fit(X, None, sample_weight, None)
        if self.module_.architecture["n_transforms"] < self.n_transforms:
            raise ValueError(
                "The first call of partial_fit needs more distinct rows, at least "
                f"{LEAST_ROWS_PER_COMPONENT * self.n_flows_} and held-out ones."
            )

    def _learn(self, X: Any, sample_weight: Any) -> None:
        """Go on from the fitted attributes."""
        with config_context(assume_finite=False):
            X = check_rows(self, X, dtype=[np.float64, np.float32], fitted=True)
        sample_weight = check_weights(sample_weight, X, n_positive=1)
        settings, device = self._settings(), resolve_device(self.device)
        # A call that fails draws no seed.
        seeds = copy.deepcopy(self._sample_seeds)
        with limited_threads(settings.threads_to_train(*X.shape)):
            module, state = learn(
                self.module_,
                self._gaussians,
                self._standardizer,
                Problem(X, sample_weight),
                settings,
                self._online,
                device,
                np.random.RandomState(seeds.next()),
            )
        kept = np.flatnonzero(sample_weight)[:SUMMED_UP]
        bounds, weights = (
            evaluate(
                module,
                self._standardizer,
                X[kept],
                MixtureModule.label_bound_and_log_prob,
                device,
            )[:, 1:],
            sample_weight[kept],
        )
        elbo, log_prob = np.average(bounds, axis=0, weights=weights).tolist()
        self.__dict__.pop("labels_", None)
        self.__dict__.update(
            attributes_of_model(
                module, self._gaussians, self._standardizer, state.n_counted
            ),
            lower_bound_=elbo - self._log_scale,
            elbo_gap_=log_prob - elbo,
            _online=state,
            _sample_seeds=seeds,
        )

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        checkpoint: str | os.PathLike[str] | None,
    ) -> FittedMixture:
        seen = shown_to_callbacks(X, y, sample_weight)
        reducer = active_reducer()
        with reducer.together():
            check_clusterer_and_checkpoint(self.init_params, checkpoint)
            own = state_problem(
                self,
                X,
                sample_weight,
                has_shares=not _is_method(self.init_params),
                n_processes=reducer.n_ranks,
            )
        if own.stream is not None and own.stream.is_on_disk:
            seen = shown_to_callbacks(own.X, None, own.sample_weight)
        if seen["y"] is None:
            seen["y"] = np.zeros(n_rows_given(own), dtype=int)
        problem = rows_of_all(own, reducer)
        with reducer.together():
            settings, device = self._settings(), resolve_device(self.device)
            start = self._start(settings, problem)
            warn_of_codes(self, own.X[own.kept], own.sample_weight[own.kept])
            context = begin_fit(self, seen, self.n_init, reducer.rank)
        fitted = run_fit(
            self,
            problem,
            start,
            settings,
            device,
            context,
            seen,
            attributes_of_fit,
            checkpoint,
            n_jobs=self.n_jobs,
        )
        if fitted.labels is None:
            self.__dict__.pop("labels_", None)
        return fitted

    def _start(self, settings: FitSettings, problem: Problem) -> Start:
        """Where the components start, checked against the rows."""
        n_rows, n_features = problem.X.shape
        n_kept = int(problem.kept.sum())
        n_components = None if self.n_components == "auto" else int(self.n_components)
        weights = means = shares = None
        if self.weights_init is not None:
            weights = check_start("weights_init", self.weights_init, (n_components,))
            if (weights <= 0).any() or not np.isclose(weights.sum(), 1):
                raise ValueError("weights_init must be positive and sum to one.")
            n_components = len(weights)
        if self.means_init is not None:
            shape = (n_components, n_features)
            means = check_start("means_init", self.means_init, shape)
            n_components = len(means)
        init = self.init_params
        if means is None and not _is_method(init):
            if problem.shard is not None:
                raise ValueError(
                    "init_params must be no array where rows are sharded. Give all "
                    "processes all rows, within data_parallel(sharded=False)."
                )
            shares = check_responsibilities(init, (n_rows, n_components))
            n_components = shares.shape[1]
        largest = min(self.max_components, n_kept)
        if n_components is not None:
            largest = n_components
        least = 1 if n_components is None else n_components
        check_model(self, settings, least, n_kept, n_features, largest)
        if self.warm_start and hasattr(self, "module_"):
            check_warm_start(self.module_, settings, n_components, n_features)
            return FittedStart(self.module_, self._gaussians, self._standardizer)
        if means is not None:
            return GivenMeans(means, weights)
        if shares is not None:
            return GivenResponsibilities(shares, weights)
        return ProposedStart(
            n_components, self.max_components, init, self.n_init, weights
        )

    @in_kind
    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the mixture and return the component of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            The same as ``fit(X).predict(X)``.
        """
        self.fit(X, y, sample_weight=sample_weight)
        if hasattr(self, "labels_"):
            return self.labels_
        X, size = to_numpy(X), PREDICTED_ROWS
        parts = [self.predict(X[i : i + size]) for i in range(0, X.shape[0], size)]
        return np.concatenate(parts)

    def __getattr__(self, name: str) -> Any:
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name == "labels_" and "module_" in vars(self):
            message += (
                ": rows that are read piece by piece are too many to keep a label for "
                "each. Call predict, on slices of them."
            )
        raise AttributeError(message, name=name, obj=self)


def _is_method(init: Any) -> bool:
    """Tell whether `init_params` finds a partition, and is none itself."""
    return isinstance(init, str) or hasattr(init, "fit_predict")


def run_fit(
    estimator: Any,
    problem: Problem,
    start: Start,
    settings: FitSettings,
    device: torch.device,
    context: Any,
    seen: dict[str, Any],
    attributes: Callable[[FittedMixture], dict[str, Any]],
    checkpoint: str | os.PathLike[str] | None,
    n_jobs: int | None = 1,
) -> FittedMixture:
    """Fit a mixture for an estimator and assign the attributes that follow, at once.

    Parameters
    ----------
    estimator : estimator
        The one that is fitted.
    problem : Problem
        Rows, weights, classes.
    start : Start
        Where the components start.
    settings : FitSettings
        How to train.
    device : torch.device
        Where.
    context : CallbackContext
        Its task that stands for the fit.
    seen : dict
        What callbacks see as `X`, `y` and `metadata`.
    attributes : callable
        Maps a `FittedMixture` to fitted attributes.
    checkpoint : str, path-like or None
        Folder to write where the fit stands.
    n_jobs : int or None, default=1
        Restarts at a time.

    Returns
    -------
    fitted : FittedMixture
        What came of it.
    """
    reducer = active_reducer()
    own = numpy_generator(estimator.random_state)
    random_state = reducer.broadcast(own)
    written = None
    if checkpoint is not None:
        written = Checkpoint(checkpoint, estimator, problem.own, random_state, reducer)
        random_state = written.random_state
    watcher: Watcher = CallbackWatcher(estimator, context, seen, attributes)
    if reducer.n_ranks > 1:
        watcher = FirstWatcher(watcher, reducer)
    with limited_threads(settings.threads_to_fit(*problem.X.shape)):
        fitted = fit_mixture(
            problem,
            start,
            settings,
            device=device,
            n_jobs=n_jobs,
            random_state=random_state,
            watcher=watcher,
            journal_of=None if written is None else written.journal,
            reducer=reducer,
        )
        estimator.__dict__.update(attributes(fitted))
    context.call_on_fit_task_end(
        estimator=estimator, reconstruction_attributes=dict, **seen
    )
    if random_state is not own or reducer.n_ranks > 1:
        # One that the caller gave goes on as without a checkpoint, or other processes.
        own.set_state(reducer.broadcast(random_state.get_state()))
    if written is not None:
        written.remove()
    return fitted


def shared_constraints() -> dict[str, list]:
    """Constraints of the shared parameters, for `_parameter_constraints`."""
    constraints = FlowMixture._parameter_constraints
    return {name: constraints[name] for name in SHARED_PARAMETERS}


def fitted_flow_mixture(estimator: Any, fitted: FittedMixture) -> FlowMixture:
    """Make the fitted mixture that an estimator is built around."""
    shared = {name: getattr(estimator, name) for name in SHARED_PARAMETERS}
    shared["options"] = estimator._resolved_options()
    n_flows = fitted.module.n_components
    mixture = FlowMixture(n_flows, n_flows_per_component=1, **shared)
    mixture.__dict__.update(attributes_of_fit(fitted))
    mixture.n_features_in_ = fitted.module.n_features
    return mixture


def warn_unless_converged(estimator: Any, fitted: FittedMixture) -> None:
    """Warn, in the name of the caller of `fit`, that epochs ran out."""
    candidate = fitted.candidate
    if active_reducer().rank > 0:
        return
    if not (candidate.converged or candidate.stopped):
        warn_user(
            f"Training did not converge within max_iter={estimator.max_iter} epochs. "
            "Increase max_iter or tol.",
            ConvergenceWarning,
        )
