"""Methods of fitted mixtures: densities, responsibilities, samples."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.linalg import solve_triangular
from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skflowmix._arrays import (
    own_arithmetic,
    resolve_device,
    torch_generator,
)
from skflowmix._version import __version__
from skflowmix.array_api import Method, as_numpy, in_kind, like, own_errors, to_numpy
from skflowmix.evaluation import evaluate, module_on
from skflowmix.model.mixture import MixtureModule
from skflowmix.parameter_checks import check_weights
from skflowmix.user_warnings import warn_user
from skflowmix.validation import check_rows, rows_not_finite

__all__ = ["FittedMethods", "all_or_none"]

# Number of rows drawn at a time.
SAMPLE_CHUNK = 16384


# Attributes in which scikit-learn keeps an estimator's callbacks.
OF_CALLBACKS = ("_callback", "_skl")


def all_or_none(fit: Method) -> Method:
    """Decorate `fit` so that a failed fit leaves the estimator as it was.

    This includes errors of a callback's teardown, after `fit` itself.
    """

    @functools.wraps(fit)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            with own_errors():
                return fit(self, *args, **kwargs)
        except BaseException:
            state = vars(self)
            for name in state.keys() | before.keys():
                if name.startswith(OF_CALLBACKS):
                    continue
                if name in before:
                    state[name] = before[name]
                else:
                    del state[name]
            raise

    return wrapper  # type: ignore[return-value]


class FittedMethods(BaseEstimator):
    """Methods of estimators with a fitted `module_` and `_standardizer`."""

    def _set_kind(self, X: Any) -> None:
        """Make fitted arrays of the kind, and on the device, of the training rows."""
        arrays = {
            name: like(X, value)
            for name, value in vars(self).items()
            if name.endswith("_") and not name.startswith("_")
        }
        self.__dict__.update(arrays)

    def _check_rows(self, X: Any) -> Any:
        check_is_fitted(self)
        return check_rows(self, X, dtype=[np.float64, np.float32], fitted=True)

    @property
    def _log_scale(self) -> float:
        """Log-Jacobian of the standardisation, subtracted from log-densities."""
        return self._standardizer.log_scale

    def _evaluate(
        self,
        X: np.ndarray,
        question: Callable[..., Any],
        of_others: float | np.ndarray = -np.inf,
    ) -> np.ndarray:
        """Evaluate a method of the module on checked rows, in the dtype of X.

        Rows that are not finite, which scikit-learn's `assume_finite` lets through, get
        the value `of_others`.
        """
        device = resolve_device(self.device, fitted=True)
        answers = evaluate(self.module_, self._standardizer, X, question, device)
        answers[rows_not_finite(X)] = of_others
        return answers

    @in_kind
    def component_log_prob(self, X: Any) -> Any:
        """Compute the log-density of every row under every component.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_prob : ndarray of shape (n_samples, n_components)
            log p(x|z=k), in nats, for densities in data units; dtype of X.
        """
        X = self._check_rows(X)
        return self._evaluate(X, MixtureModule.group_log_prob) - self._log_scale

    @in_kind
    def score_samples(self, X: Any) -> Any:
        """Compute the log-likelihood of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            log p(x), in nats, for densities in data units; dtype of X. Low values
            are anomalies.
        """
        X = self._check_rows(X)
        return self._evaluate(X, MixtureModule.log_prob) - self._log_scale

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Compute the mean log-likelihood of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the mean.

        Returns
        -------
        log_likelihood : float
            In nats per row.
        """
        log_prob = to_numpy(self.score_samples(X))
        sample_weight = check_weights(sample_weight, log_prob, n_positive=1)
        kept = sample_weight > 0  # zero times -inf would be NaN
        return float(np.average(log_prob[kept], weights=sample_weight[kept]))

    @in_kind
    def elbo(self, X: Any) -> Any:
        """Compute the evidence lower bound (ELBO) of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        elbo : ndarray of shape (n_samples,)
            In nats, for densities in data units; never above `score_samples`.
        """
        X = self._check_rows(X)
        return self._evaluate(X, MixtureModule.elbo) - self._log_scale

    @in_kind
    def predict_proba(self, X: Any) -> Any:
        """Compute the exact responsibilities p(z=k|x).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        responsibilities : ndarray of shape (n_samples, n_components)
            Rows sum to one; dtype of X.
        """
        X = self._check_rows(X)
        # A row that is not finite gets the mixture weights.
        weights = self.module_.group_weights()
        return self._evaluate(X, MixtureModule.group_responsibilities, weights)

    @in_kind
    def posterior_proba(self, X: Any) -> Any:
        """Compute the amortised posterior q(z=k|x), by one small network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        q : ndarray of shape (n_samples, n_components)
            Rows sum to one; dtype of X.
        """
        X = self._check_rows(X)
        weights = self.module_.group_weights()
        return self._evaluate(X, MixtureModule.group_posterior_proba, weights)

    @in_kind
    def predict(self, X: Any) -> Any:
        """Predict the most probable component of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Integers from 0 to ``n_components_ - 1``.
        """
        X = self._check_rows(X)
        heaviest = int(self.module_.group_weights().argmax())
        return self._evaluate(X, MixtureModule.predict, heaviest)

    def sample(
        self,
        n_samples: int = 1,
        *,
        component: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows from the fitted density.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        component : int, default=None
            Draw from this component only.
        random_state : int, RandomState instance or None, default=None
            None continues the estimator's own random stream, so that two calls differ;
            an int gives the same rows every time.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows, grouped by component.
        labels : ndarray of shape (n_samples,)
            Their components.

        Raises
        ------
        ValueError
            If `n_samples` is not positive or there is no such component.
        """
        check_is_fitted(self)
        flows, of_flow = None, self.module_.groups.of_flow
        if component is not None:
            n_components = self.module_.groups.n_groups
            if not (
                isinstance(component, (int, np.integer))
                and type(component) is not bool
                and 0 <= component < n_components
            ):
                raise ValueError(
                    f"component must be an integer from 0 to {n_components - 1} or "
                    f"None, got {component!r}."
                )
            flows = np.flatnonzero(of_flow == component)
        rows, flows = self._sample(n_samples, flows, random_state)
        return like(self.means_, rows), like(self.means_, of_flow[flows])

    def _sample(
        self,
        n_samples: int,
        flows: np.ndarray | None,
        random_state: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw from some or all flows, in proportion to their weights."""
        check_is_fitted(self)
        if type(n_samples) is bool or not (
            isinstance(n_samples, (int, np.integer)) and n_samples >= 1
        ):
            raise ValueError(
                f"n_samples must be a positive integer, got {n_samples!r}."
            )
        n_samples = int(n_samples)
        if random_state is None:
            random_state = self._sample_seeds.next()
        try:
            random_state = check_random_state(random_state)
        except ValueError as error:
            raise ValueError(
                "random_state must be an int from 0 to 2**32 - 1, a RandomState or "
                f"None, got {random_state!r}."
            ) from error
        if flows is None:
            flows = np.arange(self.module_.n_components)
        if len(flows) == 1:
            labels = np.full(n_samples, flows[0])
        else:
            weights = self.module_.flow_weights()[flows]
            counts = random_state.multinomial(n_samples, weights / weights.sum())
            labels = np.repeat(flows, counts)
        generator = torch_generator(random_state)
        device = resolve_device(self.device, fitted=True)
        model = module_on(self.module_, device, torch.float64)
        rows = np.empty((n_samples, self.n_features_in_))
        n_chunks = -(-n_samples // SAMPLE_CHUNK)
        with own_arithmetic(), torch.no_grad():
            # Strided, so that every chunk holds a share of every component.
            for part in (slice(i, None, n_chunks) for i in range(n_chunks)):
                component = torch.from_numpy(labels[part]).to(device)
                rows[part] = model.sample(component, generator).cpu().numpy()
        return self._standardizer.inverse_transform(rows), labels

    def _n_parameters(self) -> int:
        """Return the number of free parameters of the density, without q(z|x)."""
        n_components, n_features = self.module_.n_components, self.n_features_in_
        of_flows = self.module_.components.n_flow_parameters
        of_gaussians = n_components * (n_features + n_features * (n_features + 1) // 2)
        return of_flows + of_gaussians + n_components - 1

    def _warn_of_criterion(self, name: str) -> None:
        check_is_fitted(self)
        if self.module_.components.n_flow_parameters:
            warn_user(
                f"{name} counts every weight of the flows' networks as a parameter and "
                "so favours few components. Compare models by score on held-out rows.",
            )

    def bic(self, X: Any) -> float:
        """Compute the Bayesian information criterion; lower is better.

        Every weight of the networks counts as a parameter, thousands per component,
        although early stopping limits their freedom. So with flows the smallest
        `n_components` nearly always wins. Choose by a held-out `score` instead, or
        count clusters with ``n_components="auto"``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        bic : float
            In nats, doubled.

        Warns
        -----
        UserWarning
            If the components are flows, not Gaussians.
        """
        self._warn_of_criterion("bic")
        log_prob = to_numpy(self.score_samples(X))
        return float(-2 * log_prob.sum() + self._n_parameters() * np.log(len(log_prob)))

    def aic(self, X: Any) -> float:
        """Compute the Akaike information criterion; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        aic : float
            In nats, doubled. See `bic` for its limits.

        Warns
        -----
        UserWarning
            If the components are flows, not Gaussians.
        """
        self._warn_of_criterion("aic")
        return float(-2 * self.score_samples(X).sum() + 2 * self._n_parameters())

    @property
    def precisions_(self) -> np.ndarray:
        """Inverses of `covariances_`: (n_components_, n_features, n_features).

        Infinite where they exceed the largest float.
        """
        factors, scale = self._precisions_cholesky()
        precisions = factors @ factors.transpose(0, 2, 1)
        # Powers of two apart, since a product of two scales could overflow.
        parts, powers = np.frexp(scale)
        precisions /= parts[:, None] * parts
        with np.errstate(over="ignore", under="ignore"):
            precisions = np.ldexp(precisions, -powers[:, None] - powers)
        return like(self.means_, precisions)

    @property
    def precisions_cholesky_(self) -> np.ndarray:
        """Upper triangular factors U of the precisions, each being U @ U.T.

        Defined as in `sklearn.mixture.GaussianMixture` with full covariances.
        """
        factors, scale = self._precisions_cholesky()
        with np.errstate(over="ignore", under="ignore"):
            return like(self.means_, factors / scale[:, None])

    def _precisions_cholesky(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the factors in units of the columns' scales, and these scales.

        Squares neither overflow nor underflow in these units.
        """
        check_is_fitted(self)
        scale = self._standardizer.scale
        of_components = self._gaussians.of_groups(
            self.module_.groups, self.module_.flow_weights()
        )
        lower = np.linalg.cholesky(of_components.covariances)
        identity = np.eye(len(scale))
        factors = [solve_triangular(own, identity, lower=True).T for own in lower]
        return np.stack(factors), scale

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "module_")

    def __getstate__(self) -> dict[str, Any]:
        # NumPy arrays in place of tensors, which not every machine could load.
        state = {n: as_numpy(value) for n, value in super().__getstate__().items()}
        return {**state, "_skflowmix_version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        version = state.pop("_skflowmix_version", None)
        if version not in (None, __version__):
            warnings.warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=__version__,
                    original_sklearn_version=version,
                ),
                stacklevel=2,
            )
        super().__setstate__(state)
