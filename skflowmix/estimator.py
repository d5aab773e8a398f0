"""`FlowMixture`: the scikit-learn face of the variational mixture of flows."""

import copy
import warnings
from functools import partial
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skflowmix._arrays import (
    LockedSeeds,
    evaluate_in_chunks,
    numpy_generator,
    resolve_device,
)
from skflowmix.fitting import best_candidate, fit_candidate
from skflowmix.model.flows import FLOWS
from skflowmix.model.mixture import MixtureOfFlows
from skflowmix.parameter_checks import check_parameters, check_start, check_weights
from skflowmix.prediction import FittedMixture
from skflowmix.restarts import fit_restarts
from skflowmix.starts.cluster_count import count_clusters
from skflowmix.starts.gaussians import Gaussians, component_weights, least_strengths
from skflowmix.starts.partitions import INIT_METHODS, nearest_mean_responsibilities
from skflowmix.starts.preprocessing import (
    SCORING_BOUND,
    Standardizer,
    different_rows,
    merge_identical_rows,
)
from skflowmix.starts.proposals import propose_starts
from skflowmix.training.settings import FitSettings
from skflowmix.training.table import TrainingRows
from skflowmix.validation import check_rows, warn_of_codes

__all__ = ["FlowMixture"]


class FlowMixture(FittedMixture, CallbackSupportMixin, DensityMixin, BaseEstimator):
    """Mixture of normalizing flows, trained by variational inference.

    The `GaussianMixture` for clusters that are not Gaussian: every component is a
    normalizing flow with an exact density, and all components are trained together
    on the evidence lower bound.

    Fitting finds first responsibilities with an ordinary clusterer, fits every
    component to its share (an M-step), then trains flows, weights and the amortised
    posterior q(z|x) on the ELBO until the log-likelihood of held-out rows stops
    growing, and ends with a few epochs on all rows. Columns are standardised inside;
    all densities are in data units.

    Parameters
    ----------
    n_components : int, default=1
        Number of components; with `weight_concentration_prior` the most there can be.
    flow : {"realnvp", "maf", "nsf", "nsf-ar"}, default="nsf-ar"
        Family of the flows. Coupling layers (`"realnvp"`, `"nsf"`) sample in one
        pass, autoregressive ones (`"maf"`, `"nsf-ar"`) need one pass per column;
        splines (`"nsf"`, `"nsf-ar"`) bend further than affine maps.
    n_transforms : int, default=3
        Layers of each flow. With 0 the components stay the Gaussians of the first
        partition, which EM does not refine.
    n_common_transforms : int, default=1
        Further layers between the columns and the flows, the same for all components:
        they learn what the columns have in common, such as steps, bounds and tails,
        from all rows. Without `n_transforms` there are none, nor where rows lie in a
        plane (a column is constant, or the sum of others).
    n_shared_transforms : int, default=0
        How many of the `n_transforms` layers, those next to the base distribution, are
        one and the same for all components: for clusters of the same shape, moved and
        turned, which then learn it from all rows. At most `n_transforms`.
    hidden_units : tuple of int, default=(64, 64)
        Widths of the hidden layers of every conditioner.
    posterior_units : tuple of int, default=(64, 64)
        Widths of the hidden layers of the network of q(z|x).
    init_params : str, clusterer or array-like of shape (n_samples, n_components), \
            default="auto"
        Where the components start.

        - "auto": the best of several partitions (spectral, tree linkage, and Gaussian
          mixtures that start from these, from k-means and from merged groups) of the
          rows, in which noise has spread values that repeat in a column;
        - "kmeans", "k-means++", "gmm", "spectral", "linkage", "random": a partition
          by that method;
        - any scikit-learn clusterer, which is cloned and sees the rows standardised;
        - an array of responsibilities, rows summing to one.
    n_init : int, default=1
        Number of restarts; the one with the largest held-out log-likelihood is kept,
        where no single row may decide.
    weights_init : array-like of shape (n_components,), default=None
        Initial mixture weights.
    means_init : array-like of shape (n_components, n_features), default=None
        Initial means, in data units: rows start in the component of the nearest one.
        Overrides `init_params`.
    reg_covar : float, default=1e-6
        Added to the variances of every component, as a share of these; where a column
        is constant in a component, of the others' variances. At 0 a constant or
        duplicated column is an error, from 0.01 on correlations are lost.
    temperature : float, default=1.0
        The logits of q(z|x) are divided by a temperature that starts here.
    temperature_decay : float, default=1e-3
        Exponential decay of the temperature per mini-batch, never below 0.1.
    label_noise : float, default=0.05
        The first partition counts as labels that are wrong with this probability:
        likelihood alone lets flexible components drift away from a right partition.
        At 1 it is only where training starts, as in the paper.
    input_noise : float, default=0.5
        Noise in training: flows that cannot follow single rows are better on others.
        Rows move along the lines to their two nearest rows, or away from these, by so
        many of their distances. It shrinks with the step size. 0 adds none.
    repeat_noise : float, default=0.0
        Noise in training on values that repeat in a column, as integers do, as if these
        were rounded: so many standard deviations of the column, but at most half the
        distance within which other values on one side are half as frequent. It does not
        shrink. At 0 flows follow such values with spikes: samples then look like the
        data, but the heights of the spikes say little. 0.25 smooths them.
    weight_concentration_prior : float or None, default=None
        None uses all `n_components`. A number makes them the most there can be: the
        number of clusters is found by merging groups that no valley separates, the
        weights have a Dirichlet prior of this concentration (below 1 small components
        shrink), and components that expect less than one row are dropped.
        With a clusterer as `init_params` clusters are not counted, and where the start
        is given only the prior acts.
    max_iter : int, default=200
        Largest number of epochs on the ELBO. An epoch has at most 256 steps, less
        than a pass over more than 262 144 rows.
    n_iter_init : int, default=15
        Largest number of epochs of the M-step.
    tol : float, default=1e-3
        Progress is a gain in held-out log-likelihood of more than this, in nats per
        row, and of more than a hundredth of what the phase has gained.
    n_iter_no_change : int, default=8
        Epochs without progress after which the learning rate drops, half as many
        after that; the third time, training has converged. Each rate counts anew.
    validation_fraction : float, default=0.15
        Share of the distinct rows held out until the last phase. Where that makes
        fewer than 8 rows, or leaves fewer than five per component, the flows are not
        trained and the model stays a Gaussian mixture.
    batch_size : int or "auto", default="auto"
        Rows per step; "auto" grows with the data from 128 to 1024.
    learning_rate : float, default=5e-3
        First step size of Adam.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay of the networks' weight matrices; "auto" is 500 times
        the columns over the rows it is trained on, but at most 1. What sets a component
        apart from the others decays three times as fast as what they have in common.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the training. Scores have the precision of the X they are for.
    device : str, default="cpu"
        "cpu", "cuda", "cuda:N" or "auto". A fitted model whose GPU is missing works
        on the CPU.
    n_jobs : int, default=None
        Number of restarts to train in parallel, through joblib.
    random_state : int, RandomState instance or None, default=None
        Seed of everything random. Global generators are not touched.
    warm_start : bool, default=False
        Go on training the fitted model instead of starting anew. Its scales and
        Gaussians stay: rows that have moved far need a new fit.
    verbose : int, default=0
        1 prints a line every `verbose_interval` epochs.
    verbose_interval : int, default=10
        Epochs between two lines.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Mixture weights, decreasing unless the start was given. Zero for components
        that are not in use: these come last.
    n_components_in_use_ : int
        Number of components with a weight, see `weight_concentration_prior`. The
        others are not evaluated.
    means_ : ndarray of shape (n_components, n_features)
        Means of the Gaussians that the components whiten by, in data units; of all
        rows for components that are not in use.
    covariances_ : ndarray of shape (n_components, n_features, n_features)
        Their covariances, in data units.
    labels_ : ndarray of shape (n_samples,)
        Component of every training row.
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
        The fitted model of standardised rows, in float64 on the CPU.
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

    Up to a quarter of a column's values may be far from the others, as codes for
    missing values are: location, scale and first partition are those of the others.
    Groups of far rows have components of their own where these suffice; other far rows
    lie in the tails of the nearest component.

    scikit-learn's callbacks are called after every epoch; one that asks to stop ends
    the whole fit and keeps the best weights; before the last phase flows belong to
    Gaussians that have not seen the held-out rows. Until a restart ends, components
    are in the order of its start. Callbacks see zeros for `y` where `fit` got none,
    since `ScoringMonitor` scores nothing without.

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
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "flow": [StrOptions(set(FLOWS))],
        "n_transforms": [Interval(Integral, 0, None, closed="left")],
        "n_common_transforms": [Interval(Integral, 0, None, closed="left")],
        "n_shared_transforms": [Interval(Integral, 0, None, closed="left")],
        "hidden_units": ["array-like"],
        "posterior_units": ["array-like"],
        "init_params": [
            StrOptions(set(INIT_METHODS)),
            HasMethods("fit_predict"),
            "array-like",
        ],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "temperature": [Interval(Real, 0.0, 1e30, closed="neither")],
        "temperature_decay": [Interval(Real, 0.0, None, closed="left")],
        "label_noise": [Interval(Real, 0.0, 1.0, closed="right")],
        "input_noise": [Interval(Real, 0.0, None, closed="left")],
        "repeat_noise": [Interval(Real, 0.0, None, closed="left")],
        "weight_concentration_prior": [
            None,
            Interval(Real, 0.0, None, closed="neither"),
        ],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_iter_init": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0.0, 1.0, closed="neither")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate": [Interval(Real, 0.0, None, closed="neither")],
        "weight_decay": [
            StrOptions({"auto"}),
            Interval(Real, 0.0, None, closed="left"),
        ],
        "dtype": [StrOptions({"float32", "float64"})],
        "device": [str],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components=1,
        *,
        flow="nsf-ar",
        n_transforms=3,
        n_common_transforms=1,
        n_shared_transforms=0,
        hidden_units=(64, 64),
        posterior_units=(64, 64),
        init_params="auto",
        n_init=1,
        weights_init=None,
        means_init=None,
        reg_covar=1e-6,
        temperature=1.0,
        temperature_decay=1e-3,
        label_noise=0.05,
        input_noise=0.5,
        repeat_noise=0.0,
        weight_concentration_prior=None,
        max_iter=200,
        n_iter_init=15,
        tol=1e-3,
        n_iter_no_change=8,
        validation_fraction=0.15,
        batch_size="auto",
        learning_rate=5e-3,
        weight_decay="auto",
        dtype="float32",
        device="cpu",
        n_jobs=None,
        random_state=None,
        warm_start=False,
        verbose=0,
        verbose_interval=10,
    ):
        self.n_components = n_components
        self.flow = flow
        self.n_transforms = n_transforms
        self.n_common_transforms = n_common_transforms
        self.n_shared_transforms = n_shared_transforms
        self.hidden_units = hidden_units
        self.posterior_units = posterior_units
        self.init_params = init_params
        self.n_init = n_init
        self.weights_init = weights_init
        self.means_init = means_init
        self.reg_covar = reg_covar
        self.temperature = temperature
        self.temperature_decay = temperature_decay
        self.label_noise = label_noise
        self.input_noise = input_noise
        self.repeat_noise = repeat_noise
        self.weight_concentration_prior = weight_concentration_prior
        self.max_iter = max_iter
        self.n_iter_init = n_iter_init
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, at least two and as many as components.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A weight of zero leaves the row out; an integer
            weight equals repeating the row.

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
        seen = {"X": X, "y": y, "metadata": {}}
        if sample_weight is not None:
            seen["metadata"]["sample_weight"] = sample_weight
        X = check_rows(self, X, dtype=[np.float64, np.float32], fitted=False)
        if y is None:
            seen["y"] = np.zeros(len(X), dtype=int)
        sample_weight = check_weights(sample_weight, X)
        kept = sample_weight > 0
        check_parameters(self, int(kept.sum()), X.shape[1])
        device = resolve_device(self.device)
        if self._warns_of_codes:
            warn_of_codes(self, X[kept], sample_weight[kept])
        context = self._init_callback_context(
            max_subtasks=self.n_init, sequential_subtasks=False
        )
        context.call_on_fit_task_begin(estimator=self, **seen)

        random_state = numpy_generator(self.random_state)
        distinct, weights, inverse = self._merge_rows(X[kept], sample_weight[kept])
        warm = self.warm_start and hasattr(self, "module_")
        standardizer = (
            self._standardizer if warm else Standardizer.fit(distinct, weights)
        )
        rows = TrainingRows(
            distinct, weights, standardizer, self.validation_fraction, random_state
        )
        if self.n_transforms > 0:
            rows.measure_repeats(self.repeat_noise)
        if warm:
            starts = [
                evaluate_in_chunks(
                    self.module_.responsibilities,
                    np.asarray,
                    rows.x,
                    floats_per_row=self.module_.floats_per_row,
                    dtype=torch.float64,
                    device=torch.device("cpu"),
                )
            ]
        else:
            starts = self._first_responsibilities(
                rows, standardizer, kept, inverse, random_state
            )
        everything = (*different_rows(X, kept, inverse), sample_weight)
        restarts = [
            (
                starts[i % len(starts)],
                np.random.RandomState(random_state.randint(2**31)),
                context.subcontext(f"init {i}", task_id=i, max_subtasks=None),
            )
            for i in range(1 if warm else self.n_init)
        ]
        fit_one = partial(self._fit_candidate, rows, everything, seen, warm, device)
        candidates = fit_restarts(fit_one, restarts, self.n_jobs)
        best = best_candidate(candidates)
        for name, value in self._fitted_attributes(best, rows).items():
            setattr(self, name, value)
        self._sample_seeds = LockedSeeds(int(random_state.randint(2**31)))
        for name, value in self._summary(*everything).items():
            setattr(self, name, value)
        context.call_on_fit_task_end(
            estimator=self, reconstruction_attributes=dict, **seen
        )
        if not (best.converged or best.stopped):
            warnings.warn(
                f"Training did not converge within max_iter={self.max_iter} epochs. "
                "Increase max_iter or tol.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    # An estimator around a mixture has warned of its columns, by their names.
    _warns_of_codes = True

    # The classifier's mixture replaces this: there labels are part of a row.
    _merge_rows = staticmethod(merge_identical_rows)

    def _counts_components(self):
        """Whether the number of clusters is found: a start says it by itself."""
        return (
            self.weight_concentration_prior is not None
            and isinstance(self.init_params, str)
            and not self._start_is_given()
        )

    def _start_is_given(self):
        return (
            self.means_init is not None
            or self.weights_init is not None
            or not (
                isinstance(self.init_params, str)
                or hasattr(self.init_params, "fit_predict")
            )
        )

    def _first_responsibilities(self, rows, standardizer, kept, inverse, random_state):
        """One array of shape (n_distinct, n_components) per start."""
        init = self.init_params
        if self.means_init is not None:
            means = standardizer.transform(
                np.asarray(self.means_init, dtype=np.float64),
                SCORING_BOUND[rows.x.dtype],
            )
            return [nearest_mean_responsibilities(rows.x, means)]
        if isinstance(init, str) or hasattr(init, "fit_predict"):
            n_components = self.n_components
            # Not surer where values repeat: a cluster must not be one of them.
            weights = rows.weights / rows.weights.mean()
            if self._counts_components():
                n_components = count_clusters(
                    rows.x, weights, n_components, random_state, standardizer.scale
                )
            return propose_starts(
                rows.x,
                weights,
                standardizer,
                n_components,
                init,
                random_state,
                self.n_init,
            )
        given = check_start("init_params", init, (len(kept), self.n_components))
        if (given < 0).any() or not np.allclose(given.sum(1), 1, atol=1e-4):
            raise ValueError(
                "init_params must hold non-negative responsibilities whose rows sum "
                "to one."
            )
        merged = np.zeros((len(rows.x), self.n_components))
        np.add.at(merged, inverse, given[kept])
        return [merged / merged.sum(1, keepdims=True)]

    def _first_gaussians(self, rows, responsibilities):
        """Where flows may start, and the likeliest Gaussians by themselves."""
        leasts = [0.0]
        if self.n_transforms > 0 and len(rows.held_out):
            n_rows, n_columns = rows.counts[rows.train].sum(), rows.x.shape[1]
            leasts += least_strengths(n_rows, n_columns, responsibilities.shape[1])
        fits = Gaussians.fit_each(
            rows.x,
            rows.weights,
            rows.without_far(responsibilities),
            self.reg_covar,
            leasts,
            turned=self.n_shared_transforms > 0,
        )
        for gaussians in fits:
            np.linalg.cholesky(gaussians.covariances)
            gaussians.weights = component_weights(responsibilities, rows.weights)
            if self.weights_init is not None:
                gaussians.weights = np.asarray(self.weights_init, dtype=np.float64)
        plain, *starts = fits
        return starts or [plain], plain

    def _fit_candidate(
        self, rows, everything, seen, warm, device, start, random_state, context
    ):
        """Train one restart; its epochs are the tasks that callbacks see."""
        context.call_on_fit_task_begin(estimator=self, **seen)
        if warm:
            starts, plain = [], self._gaussians
        else:
            try:
                starts, plain = self._first_gaussians(rows, start)
            except np.linalg.LinAlgError as error:
                raise ValueError(
                    "A component's covariance is not positive definite with reg_covar="
                    f"{self.reg_covar}: its rows are too few or lie in a plane. "
                    "Increase reg_covar."
                ) from error

        def attributes(candidate):
            fitted = self._fitted_attributes(candidate, rows)
            shown = copy.copy(self)
            shown.__dict__.update(fitted)
            return fitted | shown._summary(*everything)

        def on_epoch(record, make_candidate):
            epoch = context.subcontext(f"{record['phase']} epoch")
            epoch.call_on_fit_task_begin(estimator=self, **seen)
            if self.verbose and record["epoch"] % self.verbose_interval == 0:
                print(
                    f"  {record['phase']} epoch {record['epoch']}: validation "
                    f"log-likelihood {record['validation_log_likelihood']:.5f}"
                )
            return epoch.call_on_fit_task_end(
                estimator=self,
                reconstruction_attributes=lambda: attributes(make_candidate()),
                **seen,
            )

        candidate = fit_candidate(
            FitSettings.of(self),
            rows,
            start,
            starts,
            plain,
            warm=copy.deepcopy(self.module_) if warm else None,
            random_state=random_state,
            device=device,
            on_epoch=on_epoch,
        )
        if not (warm or self._start_is_given()):
            candidate.sort()
            if self.weight_concentration_prior is not None:
                candidate.drop_unused(rows.counts.sum())
        candidate.stopped |= context.call_on_fit_task_end(
            estimator=self,
            reconstruction_attributes=lambda: attributes(candidate),
            **seen,
        )
        return candidate

    def _fitted_attributes(self, candidate, rows):
        standardizer, gaussians = rows.standardizer, candidate.gaussians
        elbo = [record for record in candidate.history if record["phase"] == "elbo"]
        weights = candidate.model.log_weights.detach().exp().numpy()
        n_unused = self.n_components - len(weights)
        means, covariances = gaussians.means, gaussians.covariances
        if n_unused:
            mean = np.average(rows.x, axis=0, weights=rows.weights)
            covariance = np.atleast_2d(np.cov(rows.x.T, ddof=0, aweights=rows.weights))
            weights = np.pad(weights, (0, n_unused))
            means = np.concatenate([means, np.tile(mean, (n_unused, 1))])
            covariances = np.concatenate(
                [covariances, np.tile(covariance, (n_unused, 1, 1))]
            )
        scale = standardizer.scale
        with np.errstate(over="ignore"):
            covariances = covariances * scale[:, None] * scale
        return {
            "module_": candidate.model,
            "weights_": weights,
            "n_components_in_use_": candidate.model.n_components,
            "means_": standardizer.inverse_transform(means),
            "covariances_": covariances,
            "converged_": candidate.converged,
            "history_": copy.deepcopy(candidate.history),
            "n_iter_": len(elbo),
            "lower_bounds_": [
                record["elbo"] - standardizer.log_scale for record in elbo
            ],
            "_gaussians": gaussians,
            "_standardizer": standardizer,
            "_sample_seeds": LockedSeeds(0),
        }

    def _summary(self, different, places, sample_weight):
        """Labels and the bound on all training rows, in one pass."""
        answers = self._evaluate(different, MixtureOfFlows.label_bound_and_log_prob)
        labels, elbo, log_prob = answers[places].astype(np.float64).T
        bound = float(np.average(elbo, weights=sample_weight))
        return {
            "labels_": labels.astype(np.int64),
            "elbo_gap_": float(np.average(log_prob - elbo, weights=sample_weight)),
            "lower_bound_": bound - self._log_scale,
        }

    def fit_predict(self, X, y=None, sample_weight=None):
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
        return self.fit(X, sample_weight=sample_weight).labels_
