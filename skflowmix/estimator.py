"""`FlowMixture`: the variational mixture of flows as a scikit-learn estimator."""

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
from skflowmix.options import N_JOBS, FlowMixtureOptions, NameOptions, OptionsMixin
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

# Parameters that the classifier and the detector have in common with `FlowMixture`.
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


# Number of rows of a table on disk that `fit_predict` labels at a time.
PREDICTED_ROWS = 65_536

# `partial_fit` reports the ELBO of at most this many rows of a call.
SUMMED_UP = 4096


class FlowMixture(FittedMethods, CallbackSupportMixin, DensityMixin, OptionsMixin):
    """Mixture of normalizing flows, trained by variational inference.

    A `GaussianMixture` for clusters that are not Gaussian: every component is a
    normalizing flow with an exact density, or a mixture of several flows if its shape
    needs them. All are trained together on the evidence lower bound (ELBO).

    Fitting finds first responsibilities with an ordinary clusterer and trains the flow
    of every component on its share of the rows (an M-step). Components are divided
    among several flows if that is clearly better. Then flows, weights and the amortised
    posterior q(z|x) are trained on the ELBO until the log-likelihood of held-out rows
    stops growing, and finally for a few epochs on all rows. Columns are standardised
    internally; all densities are in data units.

    Parameters
    ----------
    n_components : int or "auto", default=1
        Number of components, at least 1. "auto" counts them: two groups of rows are
        different components if the density between them has a valley deeper than
        expected by chance, see `n_components_path_`. Components with an expected number
        of rows below one are then dropped. With `means_init`, `weights_init`, or an
        array or a clusterer as `init_params`, "auto" takes the number from these.
    n_flows_per_component : int or "auto", default="auto"
        Number of flows of every component, at least 1. One flow from one Gaussian
        cannot follow a long spiral, a comb or a ring with gaps; a mixture of several,
        each started from a part of the component's rows, can. "auto" divides a
        component if held-out rows clearly prefer that; it means 1 if several processes
        fit one model. A component with fewer rows than this gets fewer flows, and flows
        with an expected number of rows below one are dropped.
    flow : {"realnvp", "maf", "nsf", "nsf-ar"} or FlowFamily, default="nsf-ar"
        Family of the flows. Coupling layers (`"realnvp"`, `"nsf"`) sample in one
        pass, autoregressive ones (`"maf"`, `"nsf-ar"`) need one pass per column;
        splines (`"nsf"`, `"nsf-ar"`) are more flexible than affine maps. A family of
        your own is a `skflowmix.model.flows.FlowFamily`.
    n_transforms : int, default=3
        Number of layers of each flow. More layers are more flexible but slower. With 0
        the components are the Gaussians of the first partition, which EM does not
        refine, and ``n_flows_per_component="auto"`` means 1.
    hidden_units : int or tuple of int, default=(64, 64)
        Widths of the hidden layers of every conditioner, the network that computes the
        parameters of a column's map from other columns. Wider layers can model finer
        dependence but take more time and memory; with ``()`` a conditioner is linear.
    init_params : str, clusterer or array-like of shape (n_samples, n_components), \
            default="auto"
        How the first responsibilities are found.

        - "auto": the best of several partitions (spectral clustering, tree linkage, and
          Gaussian mixtures that start from these, from k-means and from merged groups).
          Noise is added first to values that repeat in a column (dequantization), and
          skewed columns are replaced by their cube roots or logarithms where Gaussians
          are then clearly likelier;
        - "kmeans", "k-means++", "gmm", "spectral", "linkage", "random",
          "random_from_data": by that method; "random" draws responsibilities, and
          "random_from_data" assigns rows to the nearest of randomly drawn rows;
        - any scikit-learn clusterer, which is cloned and fitted to standardised rows;
          its `n_clusters`, if it has one, is set to `n_components`;
        - an array of responsibilities, rows summing to one.
    n_init : int, default=1
        Number of restarts, each from another first partition if there are several. The
        one with the largest held-out log-likelihood is kept, with the influence of each
        row bounded. Each restart trains a whole model, so time grows in proportion,
        except for the partitions, which are found once.
    weights_init : array-like of shape (n_components,), default=None
        Initial mixture weights, positive and summing to one: the first responsibilities
        are those under Gaussians with these weights.
    means_init : array-like of shape (n_components, n_features), default=None
        Initial means, in data units: each row starts in the component of the nearest
        mean. Overrides `init_params`.
    reg_covar : float, default=1e-6
        Added to the variances of every component, as a share of each variance; if a
        column is constant within a component, as a share of the pooled variance. At 0
        a constant or duplicated column is an error; from 0.01 on strong correlations
        are lost. It must be below 1e30.
    max_iter : int, default=200
        Maximum number of epochs on the ELBO. An epoch visits at most 65 536 rows, in
        at most 256 steps: in larger tables it is less than one pass. The epochs of the
        M-step (option `n_iter_init`) and of the last phase, on all rows (8 to 32, at
        most `max_iter`), do not count. With 0 the model is that of the M-step, and
        ``fit`` warns.
    tol : float, default=1e-3
        Minimum progress, in nats per row: the held-out log-likelihood has to exceed its
        value at the last progress by more than ``max(tol, 0.01 * gain)``, where `gain`
        is what it has gained in the phase so far. At 0 only the second term counts;
        large values end training early.
    n_iter_no_change : int, default=8
        Number of epochs without progress after which the step size is divided by four.
        After half as many (rounded up) it is divided again, and after as many once more
        training has converged. The M-step already ends where the step size would first
        be divided, and so does the ELBO phase if the M-step has left the flows clearly
        worse than their Gaussians. Small values end training early, large values cost
        epochs.
    learning_rate : float, default=5e-3
        Initial step size of Adam; later a quarter and a sixteenth of it. If it is too
        large, training can diverge: after a loss that is not finite, training continues
        with a tenth of the step size, at most three times, and then fails. If it is too
        small, progress stays below `tol` and training ends early.
    device : str, default="cpu"
        "cpu", "cuda", "cuda:N" or "auto" (a GPU if there is one). If the GPU of a
        fitted model is missing, it is evaluated on the CPU.
    n_jobs : int, default=None
        Number of restarts trained in parallel, through joblib: None means 1 unless
        `joblib.parallel_config` sets it, -1 means one per core. No effect with
        ``n_init=1``. Each restart takes the memory of a fit.
    random_state : int, RandomState instance or None, default=None
        Seed of all random numbers. Global generators are not touched.
    warm_start : bool, default=False
        If True, `fit` continues training the model of the last `fit`, on the ELBO,
        instead of starting anew. Standardisation and Gaussians are kept, so rows that
        have moved far need a new fit. There is no M-step, and `n_init` and the initial
        values have no effect.
    verbose : int, default=0
        0 prints nothing. 1 prints when training begins and ends, and after an epoch if
        the last line is at least five seconds old: time, phase, epoch, held-out
        log-likelihood in data units, and how much longer the phase can take. 2 prints
        a line every `verbose_interval` epochs.
    verbose_interval : int, default=1
        Number of epochs between two lines if `verbose` is 2.
    max_components : int, default=20
        Maximum number that ``n_components="auto"`` finds, including groups of outlying
        rows (see Notes). If there are more clusters, those separated by the shallowest
        valleys are joined; at 1 nothing is counted.
    options : FlowMixtureOptions, default=None
        Options of the model and of its training that are rarely set. None means the
        defaults of `FlowMixtureOptions`.

    Attributes
    ----------
    n_components_ : int
        Number of components.
    n_components_in_use_ : int
        Number of components whose expected number of training rows is at least one.
    n_components_path_ : list of dict
        How ``n_components="auto"`` counted: one record for each valley of the density
        between two groups of rows. Valleys that are not counted come first, at most
        ten, then the counted ones, each sorted from shallow to deep; empty if the
        number was given. Joining the two groups of each record in turn leaves one
        cluster. A record holds `n_components`, the number of clusters if this valley
        and all later ones are counted; `valley`, the density in it divided by that of
        the lower of the two modes; `limit`, below which a valley is deeper than
        expected by chance; `share`, the share of the rows in the smaller group; and
        `counted`, whether the valley separates clusters. The limit depends on the
        number of neighbours, or of rows near the valley, from which the density is
        estimated; 0 means that these are too few to tell the valley from chance. A
        valley that equals a limit above 0 has too small a group beside it to be
        counted. Groups of outlying rows (see Notes) are clusters without such a test;
        they have the valley 0 and the limit 1. Valleys joined because of
        `max_components` are missing.
    weights_ : ndarray of shape (n_components_,)
        Mixture weights, decreasing unless the start was given.
    means_ : ndarray of shape (n_components_, n_features)
        Means of the Gaussians by which the components are whitened, in data units; for
        a component of several flows, the mean of the mixture of their Gaussians.
    covariances_ : ndarray of shape (n_components_, n_features, n_features)
        Covariances of these Gaussians or mixtures, in data units; infinite where they
        exceed the largest float.
    n_flows_ : int
        Number of flows of all components together.
    flow_components_ : ndarray of shape (n_flows_,)
        Component of each flow. The flows of a component are adjacent, sorted by
        decreasing weight unless the start was given.
    flow_weights_ : ndarray of shape (n_flows_,)
        Mixture weights of the flows, which add up to those of the components.
    flow_means_ : ndarray of shape (n_flows_, n_features)
        Means of the Gaussians by which the flows are whitened, in data units.
    flow_covariances_ : ndarray of shape (n_flows_, n_features, n_features)
        Covariances of these Gaussians, in data units.
    labels_ : ndarray of shape (n_samples,)
        Component of every training row. Missing if the rows were read from disk piece
        by piece, and after `partial_fit` has continued training.
    converged_ : bool
        True if the ELBO phase ended for lack of progress, not because of `max_iter`.
    n_iter_ : int
        Number of epochs on the ELBO.
    lower_bound_ : float
        ELBO of the training rows, in nats per row.
    lower_bounds_ : list of float
        The ELBO after every epoch of its phase, on a sample of the training rows.
    elbo_gap_ : float
        Mean of log p(x) - ELBO(x) over the training rows, in nats: how far q(z|x) is
        from the exact responsibilities.
    history_ : list of dict
        One record per epoch of the start that was kept: `phase` ("m-step", "elbo"
        or "all rows"), `epoch`, `learning_rate`, `train_loss`,
        `train_log_likelihood`, `validation_log_likelihood`, ``elbo`` with its terms
        `elbo_reconstruction`, `elbo_prior` and `elbo_entropy`, `temperature`,
        `n_components_in_use` (expecting at least one row) and ``score``, the
        held-out gain in the phase. All but the loss are computed with the running
        average of the parameters. Log-likelihoods are those of standardised rows, in
        nats; in the last phase training has seen the validation rows.
    module_ : torch.nn.Module
        The fitted model of standardised rows, in float64 on the CPU. What it calls
        components are the flows.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X had any.

    See Also
    --------
    sklearn.mixture.GaussianMixture : Elliptical components, fitted by EM.

    Notes
    -----
    After a fit on tensors, with scikit-learn's array API dispatch, fitted arrays are
    tensors on the same device, as in `GaussianMixture`, and so are samples while
    dispatch is on. In files, pickles and copies they are NumPy arrays.

    Identical rows are merged first and their weights added: weighting a row equals
    repeating it. The number of rows is counted in units of the greatest common divisor
    of the weights, so neither scaling the weights nor giving a table twice changes the
    fit. If there is no such divisor, it is the number of distinct rows.

    Memory maps and other tables with slices of rows are read piece by piece if they
    have more than 80 000 rows, and so are arrays in memory of more than 500 000 rows or
    100 million values. Scales, first partition, the division of components among flows,
    Gaussians and held-out rows then come from a random sample of 80 000 rows (in tables
    of more than 100 columns, of 8 million values but at least 20 000 rows), and batches
    from all rows. The last phase is one pass over all rows. Identical rows are merged,
    and weights equal repetition, only within the sample.

    Up to a quarter of a column's values may be outlying, that is, far from all others,
    as codes for missing values are. Location, scale and first partition are computed
    from the other values. Groups of outlying rows get components of their own if there
    are enough; other outlying rows lie in the tails of the nearest component.

    scikit-learn's callbacks are called after every epoch. A callback that asks to stop
    ends the whole fit, and the best weights are kept; before the last phase the
    Gaussians of the flows have not seen the held-out rows. Until a restart ends, its
    components are in the order of the first partition. If `fit` gets no `y`, callbacks
    get zeros, because scikit-learn's `ScoringMonitor` skips scores if `y` is None.

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
        "reg_covar": [Interval(Real, 0.0, 1e30, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0.0, None, closed="neither")],
        "device": [str],
        "n_jobs": N_JOBS,
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
            Training rows, at least two and at least as many as components. A memory
            map, or any table with `shape`, `dtype` and slices of rows (h5py, zarr), may
            be larger than memory, unless several processes fit one model; see the Notes
            of the class.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A weight of zero leaves the row out; an integer
            weight equals repeating the row.
        checkpoint : str or path-like, default=None
            Folder for checkpoints, which are written every 30 seconds. A fit that was
            killed continues from there if it is run again with the same data,
            parameters and folder, and its result is the same as without the crash: to
            the last bit on a CPU with the same number of threads. The folder is deleted
            when the fit has ended.

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
            If the data or a parameter is invalid.
        FloatingPointError
            If training diverges in spite of reduced step sizes.
        MemoryError
            If the model cannot fit in memory.
        """
        fitted = self._fit(X, y, sample_weight, checkpoint)
        warn_unless_converged(self, fitted)
        return self

    @all_or_none
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Continue training on further rows.

        The first call is a `fit`: its rows set scales, Gaussians and the number of
        components, and there must be at least five for every component. Later calls,
        and the first one after a `fit`, make one pass over their rows, on the ELBO with
        a constant step size, a quarter of `learning_rate`; Adam's moments are kept
        between calls. The model is the running mean of the parameters. Later calls hold
        out no rows, and merge identical rows only within the call.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The next rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, relative to the other rows of the call.

        Returns
        -------
        self : FlowMixture
            The estimator. After a later call there is no `labels_`, `lower_bound_` and
            `elbo_gap_` are those of at most 4096 of its rows, and `history_` is still
            that of the first call.

        Raises
        ------
        ValueError
            If the first call has too few rows or a later one other columns, or within
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
        """Fit, and refuse fewer than five training rows per flow."""
        self._fit(X, None, sample_weight, None)
        if self.module_.architecture["n_transforms"] < self.n_transforms:
            raise ValueError(
                "The first call of partial_fit needs more distinct rows, at least "
                f"{LEAST_ROWS_PER_COMPONENT * self.n_flows_} and held-out ones."
            )

    def _learn(self, X: Any, sample_weight: Any) -> None:
        """Train the fitted model on further rows and update the attributes."""
        given = X
        with config_context(assume_finite=False):
            X = check_rows(self, X, dtype=[np.float64, np.float32], fitted=True)
        sample_weight = check_weights(sample_weight, X, n_positive=1)
        settings, device = self._settings(), resolve_device(self.device)
        # A copy, so that a call that fails draws no seed.
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
        self._set_kind(given)

    @all_or_none
    @_fit_context(prefer_skip_nested_validation=True)
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
        self._set_kind(X)
        return fitted

    def _start(self, settings: FitSettings, problem: Problem) -> Start:
        """Return how the components start, checked against the rows."""
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
        largest = min(int(self.max_components), n_kept)
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
            n_components, int(self.max_components), init, self.n_init, weights
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
    """Tell whether `init_params` is a method or clusterer, not an array."""
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
    """Fit a mixture for an estimator and set all fitted attributes at once.

    Parameters
    ----------
    estimator : estimator
        The estimator that is fitted.
    problem : Problem
        Rows, weights, classes.
    start : Start
        Where the components start.
    settings : FitSettings
        Settings of model and training.
    device : torch.device
        Device to train on.
    context : CallbackContext
        Callback context of the fit.
    seen : dict
        What callbacks see as `X`, `y` and `metadata`.
    attributes : callable
        Maps a `FittedMixture` to fitted attributes.
    checkpoint : str, path-like or None
        Folder for checkpoints.
    n_jobs : int or None, default=1
        Number of restarts trained in parallel.

    Returns
    -------
    fitted : FittedMixture
        The fitted mixture.
    """
    reducer = active_reducer()
    own = numpy_generator(estimator.random_state)
    random_state = reducer.broadcast(own)
    written = None
    if checkpoint is not None:
        written = Checkpoint(checkpoint, estimator, problem.own, random_state, reducer)
        random_state = written.random_state
    resumes = written is not None and written.resumes
    watcher: Watcher = CallbackWatcher(estimator, context, seen, attributes, resumes)
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
        # The caller's generator ends as without a checkpoint and other processes.
        own.set_state(reducer.broadcast(random_state.get_state()))
    if written is not None:
        written.remove()
    return fitted


def shared_constraints() -> dict[str, list]:
    """Return the constraints of the shared parameters, by name."""
    constraints = FlowMixture._parameter_constraints
    return {name: constraints[name] for name in SHARED_PARAMETERS}


def fitted_flow_mixture(estimator: Any, fitted: FittedMixture) -> FlowMixture:
    """Make the `FlowMixture` that a classifier or detector is built around."""
    shared = {name: getattr(estimator, name) for name in SHARED_PARAMETERS}
    shared["options"] = estimator._resolved_options()
    n_flows = fitted.module.n_components
    mixture = FlowMixture(n_flows, n_flows_per_component=1, **shared)
    mixture.__dict__.update(attributes_of_fit(fitted))
    mixture.n_features_in_ = fitted.module.n_features
    return mixture


def warn_unless_converged(estimator: Any, fitted: FittedMixture) -> None:
    """Warn, at the line that called `fit`, if `max_iter` ended training."""
    candidate = fitted.candidate
    if active_reducer().rank > 0:
        return
    if not (candidate.converged or candidate.stopped):
        warn_user(
            f"Training did not converge within max_iter={estimator.max_iter} epochs. "
            "Increase max_iter or tol.",
            ConvergenceWarning,
        )
