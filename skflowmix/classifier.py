"""`FlowMixtureClassifier`: one or more flows per class, partly labelled rows."""

import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)

from skflowmix._arrays import resolve_device
from skflowmix.array_api import in_kind, like, to_numpy
from skflowmix.calibration import Calibration
from skflowmix.distributed import rows_of_all, rows_of_one
from skflowmix.estimator import (
    fitted_flow_mixture,
    run_fit,
    shared_constraints,
    warn_unless_converged,
)
from skflowmix.fitting import FittedMixture, Problem
from skflowmix.initialization import LabelStart, unlabelled_rows_help
from skflowmix.model.flows import FlowFamily
from skflowmix.model.groups import Groups
from skflowmix.monitor import begin_fit, shown_to_callbacks
from skflowmix.options import FlowMixtureOptions, NameOptions, OptionsMixin
from skflowmix.parameter_checks import (
    check_clusterer_and_checkpoint,
    check_model,
    check_weights,
)
from skflowmix.prediction import all_or_none
from skflowmix.starts.class_probabilities import log_proba_with_noise
from skflowmix.starts.partitions import INIT_METHODS
from skflowmix.user_warnings import warn_user
from skflowmix.validation import (
    UNLABELLED,
    check_rows,
    column_of_labels,
    is_unlabelled,
    known_labels,
    warn_of_codes,
)

__all__ = ["FlowMixtureClassifier"]


class FlowMixtureClassifier(ClassifierMixin, CallbackSupportMixin, OptionsMixin):
    r"""Generative classifier with normalizing flows, for rows with or without labels.

    Every class is one normalizing flow, or a mixture of several. All flows are trained
    together on :math:`\log p(x, y)` of the labelled rows and a lower bound of
    :math:`\log p(x)` of the unlabelled ones. `predict_proba` applies Bayes' rule and
    is calibrated; `score_samples` is low for rows that belong to no class.

    Parameters
    ----------
    n_components_per_class : int, default=1
        Number of flows of every class, at least 1, see `FlowMixture`. One flow fits a
        class of one connected shape; several fit a class of several groups, and each
        of them takes time and needs rows.
    unlabeled_weight : "auto" or float, default="auto"
        Factor applied to the weights of unlabelled rows, in [0, 1]. At 0 the model is
        fitted to the labelled rows only; at 1 unlabelled rows count as much as labelled
        ones. "auto" is 1 if unlabelled rows help to predict the labels, otherwise 0:
        if classes overlap, densities of all rows can fit groups that are not the
        classes. The Notes have the criterion.
    flow : {"realnvp", "maf", "nsf", "nsf-ar"} or FlowFamily, default="nsf-ar"
        Family of the flows, see `FlowMixture`: splines are more flexible than affine
        maps, and coupling layers sample faster than autoregressive ones.
    n_transforms : int, default=3
        Number of layers of each flow. More layers are more flexible but slower. With 0
        classes are Gaussian, or mixtures of Gaussians.
    hidden_units : int or tuple of int, default=(64, 64)
        Widths of the hidden layers of every conditioner, the network that computes the
        parameters of a column's map from other columns. Wider layers can model finer
        dependence but take more time and memory; with ``()`` a conditioner is linear.
    init_params : str or clusterer, default="auto"
        How a class is divided among its components, if it has several; see
        `FlowMixture`.
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
    classes_ : ndarray of shape (n_classes,)
        The labels in `y`, without the marks of unlabelled rows.
    mixture_ : FlowMixture
        The fitted mixture. Component ``k`` belongs to class
        ``k // n_components_per_class``.
    calibration_temperature_ : float
        Divisor of the log-densities in `predict_proba`, chosen so that the
        probabilities fit the labels best. For this fit each label is predicted by
        Gaussians refitted without its row, and what the flows have gained by training
        on the row is subtracted. 1 if there is nothing to calibrate.
    class_log_prior_ : ndarray of shape (n_classes,)
        Logarithms of the class shares in `predict_proba`: the shares among the labels,
        corrected to fit the labels best. Labels are assumed to be missing at random,
        independently of the class.
    unlabeled_weight_ : float
        The weight of unlabelled rows; 1 if there are none.
    n_iter_ : int
        Number of epochs on the ELBO.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X had any.

    See Also
    --------
    FlowMixture : Clustering and density estimation, without labels.
    sklearn.semi_supervised.LabelSpreading : Label propagation over a graph.
    sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis : One Gaussian per
        class.

    Notes
    -----
    After a fit on tensors, with scikit-learn's array API dispatch, the arrays of
    `mixture_` and samples are tensors on the same device; `classes_` and
    `class_log_prior_` stay NumPy arrays.

    `n_components_per_class` replaces the parameters `n_components` and
    `n_flows_per_component` of `FlowMixture`. Its parameters `n_init`, `weights_init`,
    `means_init`, `n_jobs`, `warm_start` and `max_components` do not exist here, and
    `init_params` cannot be an array.

    Unlabelled rows of positive weight get first labels by label propagation over a
    graph of nearest neighbours. Flows and q(z|x) are trained on these first, then
    everything is trained together. If a row has a label, q(z|x) is restricted to its
    class and learns the class by cross-entropy.

    With ``unlabeled_weight="auto"`` each label is predicted from the labels of the
    other folds in four ways: by label propagation over all rows and over the labelled
    rows only, and by Gaussians fitted to all rows and to the labelled rows only. Each
    is calibrated by a temperature, and their mean log-losses are compared. Unlabelled
    rows are used if all of the following hold:

    - propagation over all rows has a log-loss below half of the labels' entropy, and
      below 80 % of the log-loss of propagation over the labelled rows;
    - it beats both predictions from the labelled rows only, by propagation and by
      Gaussians, by 1.645 standard errors each (a one-sided level of 5 %);
    - Gaussians of all rows are at most one standard error worse than Gaussians of the
      labelled rows.

    They are also used if the labels cannot decide: there is only one class, there are
    fewer labels than flows, or fewer than two classes have two labels.

    Columns in which one value has more than 75 % of the weight in every class, such as
    rare flags, have one covariance in the Gaussians of all classes, and none with other
    columns, unless there are more columns than rows. All columns have one covariance if
    labels of other folds are predicted significantly better so (5 % level). Flows are
    dropped if held-out labels (at least 20) have a log-loss that is lower by more than
    .002 nats under the Gaussians that the flows started from, both calibrated by a
    temperature; where all columns share a covariance, unless it is higher by a standard
    error. `score_samples` and `sample` are then those of Gaussians.

    The mixture weights, which `predict_joint_log_proba`, `score_samples` and `sample`
    use, are those of the rows that were fitted.

    References
    ----------
    G. G. P. Freitas Pires and M. A. T. Figueiredo, Variational Mixture of
    Normalizing Flows, ESANN 2020, https://arxiv.org/abs/2009.00585

    D. P. Kingma, D. J. Rezende, S. Mohamed and M. Welling, Semi-Supervised Learning
    with Deep Generative Models, NIPS 2014, equations 6 to 9.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_moons
    >>> from skflowmix import FlowMixtureClassifier
    >>> X, y = make_moons(300, noise=0.05, random_state=0)
    >>> some = np.where(np.arange(300) < 30, y, -1)
    >>> model = FlowMixtureClassifier(tol=0.1, n_iter_no_change=2, random_state=0)
    >>> model = model.fit(X, some)
    >>> model.classes_
    array([0, 1])
    >>> bool(model.score(X, y) > 0.9)
    True

    Rows of no class have a low density:

    >>> bool(model.score_samples([[10.0, 10.0]])[0] < model.score_samples(X).min())
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components_per_class": [Interval(Integral, 1, None, closed="left")],
        "unlabeled_weight": [
            StrOptions({"auto"}),
            Interval(Real, 0, 1, closed="both"),
        ],
        **shared_constraints(),
        "init_params": [NameOptions(set(INIT_METHODS)), HasMethods("fit_predict")],
    }

    _auto_options: ClassVar[dict] = {
        "n_common_transforms": 0,
        "input_noise": 0.0,
        "repeat_noise": 0.25,
    }

    def __init__(
        self,
        n_components_per_class: int = 1,
        *,
        unlabeled_weight: float | Literal["auto"] = "auto",
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
        self.n_components_per_class = n_components_per_class
        self.unlabeled_weight = unlabeled_weight
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
        y: Any,
        sample_weight: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit the classifier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,)
            Labels; -1, NaN, None, NA or NaT mark unlabelled rows. To use -1 among
            string labels, give an array of dtype object.
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
        self : FlowMixtureClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If no row has a label, or the data or a parameter is invalid.
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
        reducer, y = rows_of_one(self), column_of_labels(y)
        with reducer.together():
            check_clusterer_and_checkpoint(self.init_params, checkpoint)
            X, y = check_rows(self, X, y, dtype=[np.float64, np.float32], fitted=False)
            sample_weight = check_weights(sample_weight, X)
            kept = sample_weight > 0
            X, y, sample_weight = X[kept], y[kept], sample_weight[kept]
            classes, numbers = _number_classes(y)
            groups = Groups([int(self.n_components_per_class)] * len(classes))
            settings, device = self._settings(), resolve_device(self.device)
            check_model(self, settings, groups.n_flows, *X.shape)
            warn_of_codes(self, X, sample_weight)
            problem, weight = self._problem(X, sample_weight, numbers, groups)
        problem = rows_of_all(problem, reducer)
        with reducer.together():
            context = begin_fit(self, seen, 1, reducer.rank)
        start = LabelStart(groups, self.init_params)
        calibrate = Calibration(groups, start)

        def attributes(fitted: FittedMixture) -> dict[str, Any]:
            mixture, calibrated = fitted_flow_mixture(self, fitted), calibrate(fitted)
            return {
                "classes_": classes,
                "mixture_": mixture,
                "calibration_temperature_": calibrated.temperature,
                "class_log_prior_": calibrated.log_prior,
                "unlabeled_weight_": weight,
                "n_iter_": mixture.n_iter_,
                "_groups": groups,
            }

        fitted = run_fit(
            self,
            problem,
            start,
            settings,
            device,
            context,
            seen,
            attributes,
            checkpoint,
        )
        self.mixture_._set_kind(given)
        return fitted

    def _problem(
        self,
        X: np.ndarray,
        sample_weight: np.ndarray,
        numbers: np.ndarray,
        groups: Groups,
    ) -> tuple[Problem, float]:
        """Return the rows to fit with their weights, and `unlabeled_weight_`."""
        problem, weight = Problem(X, sample_weight, numbers), self.unlabeled_weight
        unlabelled = numbers < 0
        if not unlabelled.any():
            return problem, 1.0
        if weight == "auto":
            enough = np.count_nonzero(~unlabelled) >= groups.n_flows
            can_do_without = enough and groups.n_groups > 1
            is_left_out = can_do_without and not unlabelled_rows_help(problem, groups)
            weight = 0.0 if is_left_out else 1.0
        if weight < 1:
            weights = np.where(unlabelled, weight * sample_weight, sample_weight)
            kept = weights > 0
            problem = Problem(X[kept], weights[kept], numbers[kept])
            if not kept.all():
                problem.why_few = (
                    f" {np.count_nonzero(~kept)} rows without a label are left out "
                    "(unlabeled_weight_ is 0); with unlabeled_weight=1 they are not."
                )
        return problem, float(weight)

    def _check_rows(self, X: Any) -> Any:
        check_is_fitted(self)
        return check_rows(self, X, dtype=[np.float64, np.float32], fitted=True)

    @in_kind
    def predict_joint_log_proba(self, X: Any) -> Any:
        """Compute the joint log-density of every row and every class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_prob : ndarray of shape (n_samples, n_classes)
            log p(x, y), in nats, for densities in data units; classes in the order of
            `classes_`; dtype of X.
        """
        X = self._check_rows(X)
        log_prob = self.mixture_.component_log_prob(X)
        weights = self.mixture_.module_.group_weights()
        log_weights = np.log(weights).astype(log_prob.dtype)
        return self._groups.logsumexp(log_prob + log_weights)

    def _logits(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return tempered log-densities plus log-shares, and uninformative rows."""
        log_joint = to_numpy(self.predict_joint_log_proba(X))
        shares = self._groups.sum(self.mixture_.module_.group_weights()[None])
        log_prior = self.class_log_prior_.astype(log_joint.dtype)
        log_joint -= np.log(shares).astype(log_joint.dtype)
        log_joint /= self.calibration_temperature_
        log_joint += log_prior
        tell_nothing = np.isneginf(log_joint).all(axis=1)
        log_joint[tell_nothing] = log_prior
        return log_joint, tell_nothing

    @in_kind
    def predict_log_proba(self, X: Any) -> Any:
        """Compute the logarithms of the class probabilities, see `predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; dtype of X.
        """
        logits, tell_nothing = self._logits(X)
        log_proba = log_proba_with_noise(logits)
        log_proba[tell_nothing] = self.class_log_prior_
        return log_proba

    @in_kind
    def predict_proba(self, X: Any) -> Any:
        r"""Compute calibrated class probabilities by Bayes' rule.

        Densities in many columns are overconfident. They enter here as
        :math:`p(x|y)^{1/T}` with T = `calibration_temperature_`, and the class shares
        are those of `class_log_prior_`; `predict_joint_log_proba` uses the densities
        and weights of the model unchanged. One label in a thousand is assumed to be
        wrong, so that no probability is below 0.001 / n_classes. Rows whose density is
        zero under every class get the class shares.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; in the order of `classes_`; dtype of X.
        """
        proba = np.exp(to_numpy(self.predict_log_proba(X)))
        return proba / proba.sum(1, keepdims=True)

    @in_kind
    def posterior_proba(self, X: Any) -> Any:
        """Compute the amortised class probabilities q(y|x), by one small network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; in the order of `classes_`; dtype of X.
        """
        X = self._check_rows(X)
        q = self.mixture_.posterior_proba(X)
        return self._groups.sum(q)

    @in_kind
    def predict(self, X: Any) -> Any:
        """Predict the most probable class of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Elements of `classes_`.
        """
        logits, _ = self._logits(X)
        return self.classes_[logits.argmax(1)]

    @in_kind
    def score_samples(self, X: Any) -> Any:
        """Compute the log-density of every row, regardless of its class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            log p(x), in nats, for densities in data units; dtype of X. Rows with low
            values belong to no class.
        """
        X = self._check_rows(X)
        return self.mixture_.score_samples(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the accuracy on the rows that have a label.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,)
            Labels; rows marked as unlabelled, as in `fit`, do not count.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        accuracy : float
            Share of correct predictions, from 0 to 1.
        """
        y = column_or_1d(column_of_labels(y), warn=True)
        check_consistent_length(X, y)
        right = to_numpy(self.predict(X)) == y
        weights = check_weights(sample_weight, right, n_positive=1)
        weights = np.where(is_unlabelled(y), 0.0, weights)
        if not weights.any():
            raise ValueError("No row of positive weight has a label in y.")
        return float(np.average(right, weights=weights))

    def sample(
        self,
        n_samples: int = 1,
        *,
        y: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows and their labels.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        y : label, default=None
            Draw from this class only.
        random_state : int, RandomState instance or None, default=None
            None continues the estimator's own random stream, so that two calls differ;
            an int gives the same rows every time.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows, grouped by class.
        y : ndarray of shape (n_samples,)
            Their labels.

        Raises
        ------
        ValueError
            If `n_samples` is not positive or `y` is no class.
        """
        check_is_fitted(self)
        flows = None
        if y is not None:
            flows = np.flatnonzero(self._groups.of_flow == self._number_of(y))
        X, component = self.mixture_._sample(n_samples, flows, random_state)
        y = self.classes_[self._groups.of_flow[component]]
        return like(self.mixture_.means_, X), like(self.mixture_.means_, y)

    def _number_of(self, label: Any) -> int:
        """Return the position of a label in `classes_`."""
        numbers = np.empty(0, dtype=int)
        try:
            if np.ndim(label) == 0:
                numbers = np.flatnonzero(self.classes_ == label)
        except (TypeError, ValueError):  # a comparison with NA has no truth value
            pass
        if len(numbers) != 1:
            raise ValueError(
                f"y must be one of the classes {self.classes_.tolist()}, got {label!r}."
            )
        return int(numbers[0])


def _number_classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes, and the class number of every row, -1 if unlabelled."""
    unlabelled = is_unlabelled(y)
    if unlabelled.all():
        raise ValueError(
            "No row has a label: y is missing or -1, the mark of unlabelled rows, "
            "wherever sample_weight is positive. To cluster without labels use "
            "FlowMixture."
        )
    labels = known_labels(y, unlabelled)
    # Repeated, because it warns of many classes in few rows.
    check_classification_targets(np.resize(labels, len(y)))
    classes, known = np.unique(labels, return_inverse=True)
    if len(classes) == 1 and unlabelled.any():
        warn_user(
            f"All labels are {classes[0]}: -1 marks rows without a label. If it is a "
            "class, give it another name.",
        )
    numbers = np.full(len(y), UNLABELLED)
    numbers[~unlabelled] = known
    return classes, numbers
