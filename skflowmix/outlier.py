"""`FlowMixtureOutlierDetector`: a threshold on the sum of two log-densities."""

import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import OutlierMixin, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skflowmix._arrays import resolve_device
from skflowmix.array_api import in_kind, to_numpy
from skflowmix.distance_to_measure import NeighborDensity
from skflowmix.distributed import rows_of_all, rows_of_one
from skflowmix.estimator import (
    fitted_flow_mixture,
    run_fit,
    shared_constraints,
    warn_unless_converged,
)
from skflowmix.fitting import FittedMixture, Problem
from skflowmix.initialization import ProposedStart
from skflowmix.model.flows import FlowFamily
from skflowmix.monitor import begin_fit, shown_to_callbacks
from skflowmix.options import FlowMixtureOptions, NameOptions, OptionsMixin
from skflowmix.parameter_checks import (
    check_clusterer_and_checkpoint,
    check_model,
    check_weights,
)
from skflowmix.prediction import all_or_none
from skflowmix.starts.partitions import INIT_METHODS
from skflowmix.starts.robust import weighted_quantile
from skflowmix.validation import check_rows, warn_of_codes

__all__ = ["FlowMixtureOutlierDetector"]

# With contamination="auto": largest share of outliers among the training rows, and the
# share of inliers that are flagged as outliers.
ASSUMED_CONTAMINATION = 0.1
FALSE_ALARMS = 0.01

# The exponential tail of the scores is extrapolated from this quantile.
TAIL_BEGIN = 0.2
MAX_ROUNDS = 50

# The threshold is at most this many scales of the inliers' tail below their lowest
# score.
GAP_TAILS = 3.0

# Share of the rows in a neighbourhood: this factor times the share of outliers, but at
# most half of the rows.
NEIGHBORHOOD = 1.5
LARGEST_NEIGHBORHOOD = 0.5


class FlowMixtureOutlierDetector(OutlierMixin, CallbackSupportMixin, OptionsMixin):
    r"""Outlier detection by the log-density of a mixture of normalizing flows.

    The training rows may contain outliers. Flows learn groups of outliers that lie
    close together as dense regions. So the score adds a second density, estimated by
    the distance to a measure over a neighbourhood with more rows than all outliers
    together: there such groups remain rare.

    Parameters
    ----------
    n_components : int, default=1
        Number of components, at least 1, see `FlowMixture`; "auto" is not supported.
        More components than clusters divide clusters, and cost time.
    contamination : "auto" or float, default="auto"
        Share of outliers in the training rows, in (0, 0.5]. This share of the rows has
        scores below the threshold, and the neighbourhood of a row holds the share
        ``min(1.5 * contamination, 0.5)`` of all rows. Small values flag the lowest
        scores only and accept small tight groups as inliers; at 0.5 half of the rows
        are outliers.

        "auto" estimates the share from the scores, within [0.01, 0.1]. It assumes that
        the scores of inliers have an exponential lower tail, as for a Gaussian in two
        columns. The tail goes through the median and the 20 % quantile of the current
        inliers; outliers are the rows below the score where 1 % of such inliers would
        be, and the two steps are repeated. Tight groups of more than about 4 % of the
        rows can pass as inliers: give a number there. The neighbourhood is 15 % of all
        rows.
    flow : {"realnvp", "maf", "nsf", "nsf-ar"} or FlowFamily, default="nsf-ar"
        Family of the flows, see `FlowMixture`: splines are more flexible than affine
        maps, and coupling layers sample faster than autoregressive ones.
    n_transforms : int, default=3
        Number of layers of each flow. More layers are more flexible but slower. With 0
        components are Gaussian.
    hidden_units : int or tuple of int, default=(64, 64)
        Widths of the hidden layers of every conditioner, the network that computes the
        parameters of a column's map from other columns. Wider layers can model finer
        dependence but take more time and memory; with ``()`` a conditioner is linear.
    init_params : str or clusterer, default="auto"
        How the first responsibilities are found, see `FlowMixture`.
    reg_covar : float, default=1e-6
        Added to the variances of every component, as a share of each variance; if a
        column is constant within a component, as a share of the pooled variance. At 0
        a constant or duplicated column is an error; from 0.01 on strong correlations
        are lost. It must be below 1e30.
    max_iter : int, default=200
        Maximum number of epochs on the ELBO, of at most 65 536 rows each. The epochs of
        the M-step and of the last phase, on all rows, do not count, see `FlowMixture`.
        With 0 the model is that of the M-step, and ``fit`` warns.
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
    random_state : int, RandomState instance or None, default=None
        Seed of all random numbers. Global generators are not touched.
    verbose : int, default=0
        0 prints nothing. 1 prints when training begins and ends, and after an epoch if
        the last line is at least five seconds old: time, phase, epoch, held-out
        log-likelihood in data units, and how much longer the phase can take. 2 prints
        a line every `verbose_interval` epochs.
    verbose_interval : int, default=1
        Number of epochs between two lines if `verbose` is 2.
    options : FlowMixtureOptions, default=None
        Options of the model and of its training that are rarely set. None means the
        defaults of `FlowMixtureOptions`.

    Attributes
    ----------
    offset_ : float
        Threshold on `score_samples`, in nats.
    mixture_ : FlowMixture
        The fitted mixture.
    neighbors_ : NeighborDensity
        The density estimated by the distance to a measure.
    excess_ : float
        Largest difference between the log-densities of `mixture_` and `neighbors_` that
        counts in the score, in nats.
    n_iter_ : int
        Number of epochs on the ELBO.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X had any.

    See Also
    --------
    FlowMixture : The density alone.
    sklearn.ensemble.IsolationForest : Outliers by random splits.

    Notes
    -----
    After a fit on tensors, with scikit-learn's array API dispatch, the arrays of
    `mixture_` are tensors on the same device.

    The parameters `n_flows_per_component`, `n_init`, `weights_init`, `means_init`,
    `n_jobs`, `warm_start` and `max_components` of `FlowMixture` do not exist here, and
    `init_params` cannot be an array. A component is one flow.

    The score is

    .. math::

        \log q(x) + \min\{\log p(x), \log q(x) + c\}

    with the density p of the mixture and a density q estimated by the distance to a
    measure [1]_: the root mean squared distance to the nearest rows, whose share of all
    rows is 1.5 times the share of outliers. A smaller group cannot fill a
    neighbourhood, however tight it is, so q stays low there. Its p may be high, but
    log p counts only up to log q + c, where c (`excess_`) is the quantile of
    log p - log q that the share of outliers exceeds. For other scores by neighbours see
    [2]_.

    A training row is its own nearest neighbour and the mixture was trained on it, so
    more than `contamination` of new rows can lie below the threshold: slightly more
    where rows are many, several times as many where a few hundred rows have many
    columns or several clusters. Set `offset_` by the scores of other rows then.

    References
    ----------
    .. [1] F. Chazal, D. Cohen-Steiner and Q. Merigot, Geometric Inference for
       Probability Measures, Foundations of Computational Mathematics 11, 2011.
    .. [2] G. O. Campos et al., On the Evaluation of Unsupervised Outlier Detection,
       Data Mining and Knowledge Discovery 30, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_moons
    >>> from skflowmix import FlowMixtureOutlierDetector
    >>> X = make_moons(300, noise=0.05, random_state=0)[0]
    >>> X[:15] = np.random.default_rng(0).uniform(-3, 3, (15, 2))
    >>> model = FlowMixtureOutlierDetector(
    ...     2, contamination=0.05, tol=0.1, n_iter_no_change=2, random_state=0
    ... )
    >>> int((model.fit_predict(X) == -1).sum())
    15

    If some outliers are known, parameters can be chosen by the area under the ROC
    curve:

    >>> from sklearn.model_selection import GridSearchCV, StratifiedKFold
    >>> from skflowmix import outlier_auc_scorer
    >>> is_outlier = np.arange(300) < 15
    >>> grid, folds = {"n_transforms": [0, 1]}, StratifiedKFold(2)
    >>> search = GridSearchCV(model, grid, scoring=outlier_auc_scorer, cv=folds)
    >>> bool(search.fit(X, is_outlier).best_score_ > 0.8)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "contamination": [
            StrOptions({"auto"}),
            Interval(Real, 0, 0.5, closed="right"),
        ],
        **shared_constraints(),
        "init_params": [NameOptions(set(INIT_METHODS)), HasMethods("fit_predict")],
    }

    _auto_options: ClassVar[dict] = {
        "n_common_transforms": 1,
        "input_noise": 0.0,
        "repeat_noise": 0.25,
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        contamination: float | Literal["auto"] = "auto",
        flow: str | FlowFamily = "nsf-ar",
        n_transforms: int = 3,
        hidden_units: int | Sequence[int] = (64, 64),
        init_params: Any = "auto",
        reg_covar: float = 1e-6,
        max_iter: int = 200,
        tol: float = 1e-3,
        n_iter_no_change: int = 8,
        learning_rate: float = 5e-3,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        verbose_interval: int = 1,
        options: FlowMixtureOptions | None = None,
    ):
        self.n_components = n_components
        self.contamination = contamination
        self.flow = flow
        self.n_transforms = n_transforms
        self.hidden_units = hidden_units
        self.init_params = init_params
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.options = options

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit the densities and the threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, which may contain outliers.
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
        self : FlowMixtureOutlierDetector
            The fitted estimator.
        """
        fitted = self._fit(X, y, sample_weight, checkpoint)
        warn_unless_converged(self, fitted)
        return self

    @all_or_none
    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        checkpoint: str | os.PathLike[str] | None,
    ) -> FittedMixture:
        given, seen = X, shown_to_callbacks(X, y, sample_weight)
        reducer = rows_of_one(self)
        with reducer.together():
            check_clusterer_and_checkpoint(self.init_params, checkpoint)
            X = check_rows(self, X, dtype=np.float64, fitted=False)
            if y is None:
                seen["y"] = np.zeros(len(X), dtype=int)
            sample_weight = check_weights(sample_weight, X)
            kept = sample_weight > 0
            X, sample_weight = X[kept], sample_weight[kept]
            settings, device = self._settings(), resolve_device(self.device)
            check_model(self, settings, int(self.n_components), *X.shape)
            warn_of_codes(self, X, sample_weight)
            problem = Problem(X, sample_weight)
        problem = rows_of_all(problem, reducer)
        with reducer.together():
            context = begin_fit(self, seen, 1, reducer.rank)
        share = self.contamination
        if share == "auto":
            share = ASSUMED_CONTAMINATION
        neighborhood = min(NEIGHBORHOOD * share, LARGEST_NEIGHBORHOOD)
        neighbors = NeighborDensity.fit(X, sample_weight, neighborhood)
        wide = neighbors.log_prob(X)

        def attributes(fitted: FittedMixture) -> dict[str, Any]:
            mixture = fitted_flow_mixture(self, fitted)
            log_prob = mixture.score_samples(X)
            (excess,) = weighted_quantile(log_prob - wide, sample_weight, [1 - share])
            scores = _scores(log_prob, wide, excess)
            return {
                "mixture_": mixture,
                "neighbors_": neighbors,
                "excess_": float(excess),
                "offset_": _threshold(scores, sample_weight, self.contamination),
                "n_iter_": mixture.n_iter_,
            }

        fitted = run_fit(
            self,
            problem,
            ProposedStart(int(self.n_components), None, self.init_params, 1),
            settings,
            device,
            context,
            seen,
            attributes,
            checkpoint,
        )
        self.mixture_._set_kind(given)
        return fitted

    @in_kind
    def score_samples(self, X: Any) -> Any:
        """Compute the score of every row, the sum of two log-densities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            Sum of the log-densities of `mixture_` and `neighbors_`, in nats, for
            densities in data units. The first exceeds the second by at most `excess_`.
            Low values are outliers.
        """
        check_is_fitted(self)
        X = check_rows(self, X, dtype=np.float64, fitted=True)
        log_prob = self.mixture_.score_samples(X)
        return _scores(log_prob, self.neighbors_.log_prob(X), self.excess_)

    @in_kind
    def decision_function(self, X: Any) -> Any:
        """Compute the scores relative to the threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        decision : ndarray of shape (n_samples,), float64
            ``score_samples(X) - offset_``, in nats; negative for outliers.
        """
        return self.score_samples(X) - self.offset_

    @in_kind
    def predict(self, X: Any) -> Any:
        """Predict whether rows are outliers or inliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        marks : ndarray of shape (n_samples,)
            -1 for outliers, 1 for inliers.
        """
        return np.where(to_numpy(self.decision_function(X)) < 0, -1, 1)


def _scores(log_prob: np.ndarray, wide: np.ndarray, excess: float) -> np.ndarray:
    """Add two log-densities, the first clipped to the second plus `excess`."""
    return wide + np.minimum(log_prob, wide + excess)


def _threshold(
    scores: np.ndarray,
    sample_weight: np.ndarray,
    contamination: float | Literal["auto"],
) -> float:
    """Return the threshold, which the share of outliers lies below."""
    share: Any = contamination
    if contamination == "auto":
        share = _share_of_outliers(scores, sample_weight)
    (last,) = weighted_quantile(scores, sample_weight, [share])
    # Rows of equal score are flagged together or not at all, whichever is nearer the
    # share.
    tie = 1e-9 * max(1.0, abs(last))
    below, above = scores < last - tie, scores > last + tie
    with_ties = np.average(~above, weights=sample_weight)
    without_ties = np.average(below, weights=sample_weight)
    if with_ties - share <= share - without_ties + 1e-9:
        threshold = last
        if above.any():
            # New rows in between are outliers, except for a tail of the inliers.
            least = scores[above].min()
            tail = GAP_TAILS * _tail_scale(scores[above], sample_weight[above], 0.0)
            half = (least - last) / 2
            threshold = least - (min(tail, half) if tail > 0 else half)
    else:
        threshold = (last + scores[below].max()) / 2 if below.any() else last - tie
    return float(threshold)


def _tail_scale(scores: np.ndarray, sample_weight: np.ndarray, share: float) -> float:
    """Return the scale of the exponential tail of the scores above a share, in nats."""
    levels = share + (1 - share) * np.array([TAIL_BEGIN, 0.5])
    begin, median = weighted_quantile(scores, sample_weight, levels)
    return (median - begin) / np.log(0.5 / TAIL_BEGIN)


def _share_of_outliers(scores: np.ndarray, sample_weight: np.ndarray) -> float:
    """Estimate the share of outliers: rows beyond the exponential tail."""
    beyond, share = 0.0, ASSUMED_CONTAMINATION
    for _ in range(MAX_ROUNDS):  # the tail is that of the current inliers
        (median,) = weighted_quantile(scores, sample_weight, [0.5 + share / 2])
        scale = _tail_scale(scores, sample_weight, share)
        end = median - scale * np.log(0.5 / FALSE_ALARMS)
        beyond = float(np.average(scores < end, weights=sample_weight))
        former = share
        share = float(np.clip(beyond - FALSE_ALARMS, 0, ASSUMED_CONTAMINATION))
        if share == former:
            break
    return float(np.clip(beyond, FALSE_ALARMS, ASSUMED_CONTAMINATION))
