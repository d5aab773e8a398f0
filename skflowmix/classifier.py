"""`FlowMixtureClassifier`: one or more flows per class, labels for some or all rows."""

import warnings
from numbers import Integral
from typing import ClassVar

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.neighbors import NearestNeighbors
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from skflowmix.delegation import fit_with_callbacks, mixture_of, shared_constraints
from skflowmix.estimator import FlowMixture
from skflowmix.parameter_checks import check_weights
from skflowmix.starts.knn import N_NEIGHBORS, normalized_graph
from skflowmix.starts.partitions import (
    INIT_METHODS,
    nearest_mean_responsibilities,
    rescale_columns,
)
from skflowmix.starts.preprocessing import merge_identical_rows
from skflowmix.starts.proposals import propose_starts
from skflowmix.validation import check_rows, warn_of_codes

__all__ = ["FlowMixtureClassifier", "spread_labels"]

# In `y`, a row without a label.
UNLABELLED = -1

# Labels spread over at most this many rows: with few labels, neighbours decide.
MAX_SPREAD_ROWS = 20_000

# Share of a row's label that comes from its neighbours, and rounds of spreading.
SPREADING = 0.97
N_ROUNDS = 500

# Labels that decide on the temperature of calibration, and folds that they make.
MAX_CALIBRATION_ROWS = 4096
N_FOLDS = 5

# Logarithms of the temperatures among which calibration chooses, and the share of
# labels that it takes to be wrong.
LOG_TEMPERATURES = np.linspace(-2.0, 6.0, 161)
WRONG_LABELS = 1e-3


def spread_labels(x, classes, n_classes, random_state):
    r"""Spread labels over a graph of nearest neighbours.

    .. math::

        F \leftarrow \alpha D^{-1/2} W D^{-1/2} F + (1 - \alpha) Y

    with locally scaled weights W, then every row of F is normalised. Rows beyond a
    sample take the mean of their three nearest neighbours in it.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Rows in units in which distances mean something.
    classes : ndarray of shape (n_samples,)
        Number of each row's class, -1 where it is unknown.
    n_classes : int
        Number of classes.
    random_state : RandomState
        Draws the sample.

    Returns
    -------
    shares : ndarray of shape (n_samples, n_classes)
        Rows sum to one; those of labelled rows are one-hot.

    References
    ----------
    D. Zhou, O. Bousquet, T. Lal, J. Weston and B. Schoelkopf, Learning with Local and
    Global Consistency, NIPS 2003.

    L. Zelnik-Manor and P. Perona, Self-Tuning Spectral Clustering, NIPS 2004.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.r_[np.linspace(0, 1, 20), np.linspace(5, 6, 20)].reshape(-1, 1)
    >>> classes = np.full(40, -1)
    >>> classes[[0, 39]] = 0, 1
    >>> shares = spread_labels(x, classes, 2, np.random.RandomState(0))
    >>> shares.argmax(1)[[19, 20]]
    array([0, 1])
    """
    known = np.flatnonzero(classes >= 0)
    shares = np.full((len(x), n_classes), 1 / n_classes)
    unknown = np.flatnonzero(classes < 0)
    if len(unknown):
        sample = np.concatenate(
            [
                random_state.permutation(known)[: MAX_SPREAD_ROWS // 2],
                random_state.permutation(unknown),
            ]
        )[:MAX_SPREAD_ROWS]
        start = np.zeros((len(sample), n_classes))
        is_known = classes[sample] >= 0
        start[is_known, classes[sample[is_known]]] = 1.0
        spread = start
        n_neighbors = min(N_NEIGHBORS, len(sample) - 1)
        index = NearestNeighbors(n_neighbors=n_neighbors).fit(x[sample])
        graph, _ = normalized_graph(*index.kneighbors())
        transition = SPREADING * graph
        for _ in range(N_ROUNDS):
            spread = transition @ spread + (1 - SPREADING) * start
        total = spread.sum(1, keepdims=True)
        reached = total[:, 0] > 1e-12
        shares[sample[reached]] = spread[reached] / total[reached]
        rest = np.setdiff1d(unknown, sample)
        if len(rest):
            index = NearestNeighbors(n_neighbors=3).fit(x[sample])
            nearest = index.kneighbors(x[rest], return_distance=False)
            shares[rest] = shares[sample][nearest].mean(1)
    shares[known] = np.eye(n_classes)[classes[known]]
    return shares


def calibration_temperature(log_joint, classes, weights):
    r"""Temperature at which class probabilities fit labels best.

    Minimises the log-loss of :math:`p(y|x) \propto p(x, y)^{1/T}`, where a label counts
    as noise in one case of a thousand, plus :math:`(\ln T)^2 / 2`, as if one more label
    had asked for :math:`T = 1`. Neither a row that is hopelessly wrong nor the lack of
    labels then decides.

    Parameters
    ----------
    log_joint : ndarray of shape (n_samples, n_classes)
        log p(x, y), in nats, of rows that the densities have not seen.
    classes : ndarray of shape (n_samples,)
        Numbers of their classes.
    weights : ndarray of shape (n_samples,)
        Positive weights.

    Returns
    -------
    temperature : float
        Above one where the densities are too sure of themselves.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On Calibration of Modern Neural
    Networks, ICML 2017, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> log_joint = np.array([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    >>> right, wrong = np.array([0, 1, 0]), np.array([0, 1, 1])
    >>> calibration_temperature(log_joint, wrong, np.ones(3)) > 2
    True
    >>> calibration_temperature(log_joint, right, np.ones(3)) < 1.5
    True
    """

    def loss(log_temperature):
        proba = softmax(log_joint * np.exp(-log_temperature), axis=1)
        of_label = proba[np.arange(len(classes)), classes]
        of_label = (1 - WRONG_LABELS) * of_label + WRONG_LABELS / log_joint.shape[1]
        return 0.5 * log_temperature**2 - weights @ np.log(of_label)

    # Not convex: a search among all of them cannot miss the lowest.
    return float(np.exp(min(LOG_TEMPERATURES, key=loss)))


class _ClassMixture(FlowMixture):
    """A mixture whose components belong to classes, known of some training rows.

    `classes` (n_samples,) holds the class of every row, or -1; each class has
    `n_per_class` consecutive components.
    """

    def _know(self, classes, n_per_class):
        self._classes, self._n_per_class = classes, n_per_class
        self._folds = None
        return self

    def _merge_rows(self, X, sample_weight):
        """Merge rows only where their labels agree."""
        labelled = np.column_stack([X, self._classes])
        rows, weights, inverse = merge_identical_rows(labelled, sample_weight)
        self._classes = rows[:, -1].astype(int)
        return np.ascontiguousarray(rows[:, :-1]), weights, inverse

    def _start_is_given(self):
        """Components keep the order of the classes."""
        return True

    def _first_responsibilities(self, rows, standardizer, kept, inverse, random_state):
        """Spread the labels, then divide each class among its components."""
        classes, n_per_class = self._classes, self._n_per_class
        n_classes = self.n_components // n_per_class
        unknown = (classes < 0)[:, None]
        component_class = np.repeat(np.arange(n_classes), n_per_class)
        rows.allowed = unknown | (classes[:, None] == component_class)
        x = rescale_columns(rows.x, rows.weights, standardizer.scale, rows.far)
        shares = spread_labels(x, classes, n_classes, random_state)
        # Shares say little beyond the likeliest class: all of them are near uniform.
        best = shares.max(1, keepdims=True)
        shares = np.where(best > 1.001 / n_classes, shares == best, shares)
        shares = shares / shares.sum(1, keepdims=True)
        if n_per_class == 1:
            self._shares = shares
            return [shares]
        parts = []
        for k, share in enumerate(shares.T):
            own = np.flatnonzero(shares.argmax(1) == k)
            within = np.full((len(share), n_per_class), 1 / n_per_class)
            if len(own):
                proposal = propose_starts(
                    rows.x[own],
                    rows.weights[own],
                    standardizer,
                    n_per_class,
                    self.init_params,
                    random_state,
                )[0]
                mass = rows.weights[own] @ proposal
                weighted = (proposal * rows.weights[own, None]).T @ rows.x[own]
                means = weighted / np.maximum(mass, 1e-10)[:, None]
                within = nearest_mean_responsibilities(rows.x, means)
                within[own] = proposal
            parts.append(share[:, None] * within)
        self._shares = np.concatenate(parts, axis=1)
        return [self._shares]

    def _fitted_attributes(self, candidate, rows):
        attributes = super()._fitted_attributes(candidate, rows)
        temperature = 1.0
        if self.n_components > self._n_per_class:
            temperature = self._calibrate(candidate, rows)
        attributes["_calibration_temperature"] = temperature
        return attributes

    def _calibrate(self, candidate, rows):
        """Temperature by the labels, each under Gaussians refitted without its row.

        The flows and the labels spread to other rows have seen it, which is less: in
        many columns it is the Gaussians that are too sure of themselves.
        """
        folds = self._folds_of(candidate.gaussians, rows)
        if not folds:
            return 1.0
        parts = []
        for own, gaussians in folds:
            model = candidate.model.whitened_by(gaussians)
            with torch.no_grad():
                log_prob = model.component_log_prob(torch.from_numpy(rows.x[own]))
                parts.append((log_prob + model.log_weights).numpy())
        labelled = np.concatenate([own for own, _ in folds])
        of_classes = np.concatenate(parts).reshape(len(labelled), -1, self._n_per_class)
        log_joint = logsumexp(of_classes, axis=2)
        finite = np.isfinite(log_joint).all(1)
        labelled, log_joint = labelled[finite], log_joint[finite]
        return calibration_temperature(
            log_joint, self._classes[labelled], rows.weights[labelled]
        )

    def _folds_of(self, gaussians, rows):
        """Refit once for all epochs of a start, of which a fit can have several."""
        if self._folds is None or self._folds[0] is not gaussians:
            self._folds = gaussians, self._refit_without_folds(gaussians, rows)
        return self._folds[1]

    def _refit_without_folds(self, gaussians, rows):
        """Pairs of labelled rows and Gaussians of all others."""
        labelled = np.flatnonzero(self._classes >= 0)[:MAX_CALIBRATION_ROWS]
        moments = rows.without_far(self._shares)
        folds = []
        for own in (labelled[fold::N_FOLDS] for fold in range(N_FOLDS)):
            others = np.setdiff1d(np.arange(len(rows.x)), own)
            if not (len(own) and len(others)):
                continue
            refitted = gaussians.refit(
                rows.x[others], rows.weights[others], moments[others]
            )
            # Without these rows a column may be constant, which reg_covar=0 allows.
            if np.linalg.eigvalsh(refitted.covariances).min() > 0:
                folds.append((own, refitted))
        return folds

    def as_flow_mixture(self):
        """Return the same fitted model, no longer tied to labels."""
        mixture = FlowMixture(**self.get_params(deep=False))
        only_here = {
            *vars(mixture),
            "_classes",
            "_n_per_class",
            "_shares",
            "_folds",
            "_calibration_temperature",
        }
        for name, value in vars(self).items():
            if name not in only_here:
                setattr(mixture, name, value)
        return mixture


class FlowMixtureClassifier(ClassifierMixin, CallbackSupportMixin, BaseEstimator):
    r"""Generative classifier with normalizing flows, for labels of some or all rows.

    Every class is one normalizing flow, or a mixture of several, and all are trained
    together on :math:`\log p(x, y)` of the labelled rows and a lower bound of
    :math:`\log p(x)` of the others. `predict_proba` is Bayes' rule, calibrated, and
    `score_samples` is low for rows that belong to no class.

    Parameters
    ----------
    n_components_per_class : int, default=1
        Number of flows per class.
    flow : {"realnvp", "maf", "nsf", "nsf-ar"}, default="nsf-ar"
        Family of the flows.
    n_transforms : int, default=3
        Layers of each flow. With 0 classes are Gaussian, or mixtures of Gaussians.
    n_common_transforms : int, default=0
        Further layers between the columns and the flows, the same for all components:
        they learn what the columns have in common, such as steps, bounds and tails,
        from all rows. Densities gain by them, but with few labels classes can lose.
        Without `n_transforms` there are none.
    n_shared_transforms : int, default=0
        How many of the `n_transforms` layers, those next to the base distribution, are
        one and the same for all components: for clusters of the same shape, moved and
        turned, which then learn it from all rows. At most `n_transforms`.
    hidden_units : tuple of int, default=(64, 64)
        Widths of the hidden layers of every conditioner.
    posterior_units : tuple of int, default=(64, 64)
        Widths of the hidden layers of the network of q(z|x).
    init_params : str or clusterer, default="auto"
        How a class is divided among its components, where it has several; see
        `FlowMixture`.
    reg_covar : float, default=1e-6
        Added to the variances of every component, as a share of these; where a column
        is constant in a component, of the others' variances. At 0 a constant or
        duplicated column is an error, from 0.01 on correlations are lost.
    temperature : float, default=1.0
        The logits of q(z|x) are divided by a temperature that starts here.
    temperature_decay : float, default=1e-3
        Exponential decay of the temperature per mini-batch, down to 0.1.
    label_noise : float, default=0.05
        The labels that unlabelled rows get from their neighbours count as wrong with
        this probability. Labels in `y` are never wrong.
    input_noise : float, default=0.0
        Noise in training, in distances to the nearest rows, see `FlowMixture`.
    repeat_noise : float, default=0.25
        Noise on values that repeat in a column, in standard deviations of the column,
        see `FlowMixture`. Without, heights of spikes decide the class.
    max_iter : int, default=200
        Largest number of epochs on the ELBO.
    n_iter_init : int, default=15
        Largest number of epochs of the M-step.
    tol : float, default=1e-3
        Progress is a gain in held-out log-likelihood of more than this, in nats per
        row, and of more than a hundredth of what the phase has gained.
    n_iter_no_change : int, default=8
        Epochs without progress after which the learning rate drops, half as many
        after that; the third time, training has converged. Each rate counts anew.
    validation_fraction : float, default=0.15
        Share of the distinct rows held out until the last phase; with fewer than 8
        the flows are not trained.
    batch_size : int or "auto", default="auto"
        Rows per step; "auto" grows with the data from 128 to 1024.
    learning_rate : float, default=5e-3
        First step size of Adam.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay of the networks' weight matrices, three times as fast
        for what sets a component apart from the others; for "auto" see `FlowMixture`.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the training. Scores have the precision of the X they are for.
    device : str, default="cpu"
        "cpu", "cuda", "cuda:N" or "auto". A fitted model whose GPU is missing works
        on the CPU.
    random_state : int, RandomState instance or None, default=None
        Seed of everything random. Global generators are not touched.
    verbose : int, default=0
        1 prints a line every `verbose_interval` epochs.
    verbose_interval : int, default=10
        Epochs between two lines.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels in `y`, without the -1 of unlabelled rows.
    mixture_ : FlowMixture
        The fitted mixture. Component ``k`` belongs to class
        ``k // n_components_per_class``.
    calibration_temperature_ : float
        What log-densities are divided by in `predict_proba`: the temperature at which
        probabilities fit the labels best, each under Gaussians refitted without its
        row. 1 where there is nothing to calibrate.
    n_iter_ : int
        Epochs on the ELBO.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had any.

    See Also
    --------
    FlowMixture : Clustering and density estimation, without labels.
    sklearn.semi_supervised.LabelSpreading : Labels spread over a graph.
    sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis : One Gaussian per
        class.

    Notes
    -----
    Unlabelled rows start with labels spread over a graph of nearest neighbours; the
    flows and q(z|x) are fitted to these first, then all is trained together. Where a
    label is known, q(z|x) is restricted to its class and learns it by cross-entropy.

    Class shares are estimated from all rows, labelled or not.

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
        **shared_constraints(),
        "init_params": [StrOptions(set(INIT_METHODS)), HasMethods("fit_predict")],
    }

    def __init__(
        self,
        n_components_per_class=1,
        *,
        flow="nsf-ar",
        n_transforms=3,
        n_common_transforms=0,
        n_shared_transforms=0,
        hidden_units=(64, 64),
        posterior_units=(64, 64),
        init_params="auto",
        reg_covar=1e-6,
        temperature=1.0,
        temperature_decay=1e-3,
        label_noise=0.05,
        input_noise=0.0,
        repeat_noise=0.25,
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
        random_state=None,
        verbose=0,
        verbose_interval=10,
    ):
        self.n_components_per_class = n_components_per_class
        self.flow = flow
        self.n_transforms = n_transforms
        self.n_common_transforms = n_common_transforms
        self.n_shared_transforms = n_shared_transforms
        self.hidden_units = hidden_units
        self.posterior_units = posterior_units
        self.init_params = init_params
        self.reg_covar = reg_covar
        self.temperature = temperature
        self.temperature_decay = temperature_decay
        self.label_noise = label_noise
        self.input_noise = input_noise
        self.repeat_noise = repeat_noise
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
        self.random_state = random_state
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the classifier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,)
            Their labels, -1 for unlabelled rows. To mark rows among string labels, use
            an array of dtype object.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A weight of zero leaves the row out; an integer
            weight equals repeating the row.

        Returns
        -------
        self : FlowMixtureClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If no row has a label, or the data or a parameter is not what it should
            be.
        """
        seen = {"X": X, "y": y, "metadata": {}}
        if sample_weight is not None:
            seen["metadata"]["sample_weight"] = sample_weight
        X, y = check_rows(self, X, y, dtype=[np.float64, np.float32], fitted=False)
        sample_weight = check_weights(sample_weight, X)
        kept = sample_weight > 0
        X, y, sample_weight = X[kept], y[kept], sample_weight[kept]
        classes, numbers = _number_classes(y)
        warn_of_codes(self, X, sample_weight)
        context = self._init_callback_context(max_subtasks=1)
        context.call_on_fit_task_begin(estimator=self, **seen)
        mixture = mixture_of(
            self, _ClassMixture, n_components=len(classes) * self.n_components_per_class
        )._know(numbers, self.n_components_per_class)

        def attributes(mixture):
            return {
                "classes_": classes,
                "mixture_": mixture.as_flow_mixture(),
                "calibration_temperature_": mixture._calibration_temperature,
                "n_iter_": mixture.n_iter_,
            }

        mixture, _ = fit_with_callbacks(
            self, mixture, X, sample_weight, context, seen, attributes
        )
        for name, value in attributes(mixture).items():
            setattr(self, name, value)
        context.call_on_fit_task_end(
            estimator=self, reconstruction_attributes=dict, **seen
        )
        return self

    def _check_rows(self, X):
        check_is_fitted(self)
        return check_rows(self, X, dtype=[np.float64, np.float32], fitted=True)

    def _by_class(self, values):
        """Group component values (N, K) by class: (N, n_classes, K // n_classes)."""
        return values.reshape(len(values), len(self.classes_), -1)

    def class_log_prob(self, X):
        """Joint log-density of every row with every class.

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
        log_weights = np.log(self.mixture_.weights_).astype(log_prob.dtype)
        return np.logaddexp.reduce(self._by_class(log_prob + log_weights), axis=2)

    def _log_joint(self, X, tempered):
        """`class_log_prob`, but the class shares where rows are not finite."""
        log_joint = self.class_log_prob(X)
        if tempered:
            log_joint /= self.calibration_temperature_
        shares = self._by_class(self.mixture_.weights_[None]).sum(2)
        log_joint[np.isneginf(log_joint).all(axis=1)] = np.log(shares)
        return log_joint

    def predict_log_proba(self, X):
        """Logarithms of the class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; dtype of X.
        """
        log_joint = self._log_joint(X, tempered=True)
        return log_joint - np.logaddexp.reduce(log_joint, axis=1, keepdims=True)

    def predict_proba(self, X):
        r"""Class probabilities by Bayes' rule, calibrated.

        Densities in many columns are surer than they are right. Here they count as
        :math:`p(x, y)^{1/T}` with `calibration_temperature_`, which changes no
        prediction; `class_log_prob` has them as they are.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; in the order of `classes_`; dtype of X.
        """
        proba = np.exp(self.predict_log_proba(X))
        return proba / proba.sum(1, keepdims=True)

    def posterior_proba(self, X):
        """Amortised class probabilities q(y|x): one small network, no flow.

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
        return self._by_class(q).sum(2)

    def predict(self, X):
        """Most probable class of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Elements of `classes_`.
        """
        best = self._log_joint(X, tempered=False).argmax(1)
        return self.classes_[best]

    def score_samples(self, X):
        """Log-density of every row, whatever its class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            log p(x), in nats, for densities in data units; dtype of X. Low values
            belong to no class.
        """
        X = self._check_rows(X)
        return self.mixture_.score_samples(X)

    def sample(self, n_samples=1, *, random_state=None):
        """Draw rows and their labels.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            None goes on with the estimator's own stream, so that two calls differ;
            an int gives the same rows every time.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows, those of one class after those of another.
        y : ndarray of shape (n_samples,)
            Their labels.
        """
        check_is_fitted(self)
        X, component = self.mixture_.sample(n_samples, random_state=random_state)
        n_per_class = self.mixture_.n_components // len(self.classes_)
        return X, self.classes_[component // n_per_class]


def _number_classes(y):
    """Labels without the mark of unlabelled rows, and their numbers, -1 for these."""
    strings = y.astype(str) if y.dtype.kind in "US" else y
    if y.dtype.kind in "USO" and (strings == str(UNLABELLED)).any():
        raise ValueError(
            "y holds the string '-1'. To mark unlabelled rows among string labels, "
            "give y as an array with dtype=object and the number -1 in it."
        )
    # A comparison with -1 is not defined for arrays of strings.
    unlabelled = y == UNLABELLED if y.dtype.kind in "iufO" else np.zeros(len(y), bool)
    if unlabelled.all():
        raise ValueError(
            "No row has a label: y is -1, the mark of unlabelled rows, wherever "
            "sample_weight is positive. To cluster without labels use FlowMixture."
        )
    check_classification_targets(y[~unlabelled])
    classes, known = np.unique(y[~unlabelled], return_inverse=True)
    if len(classes) == 1 and unlabelled.any():
        warnings.warn(
            f"All labels are {classes[0]}: -1 marks rows without a label. If it is a "
            "class, give it another name.",
            stacklevel=4,
        )
    numbers = np.full(len(y), UNLABELLED)
    numbers[~unlabelled] = known
    return classes, numbers
