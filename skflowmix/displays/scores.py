"""`AnomalyScoreDisplay` and `ReliabilityDisplay`: anomaly scores, calibration."""

from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.utils import check_scalar

from skflowmix.array_api import to_numpy
from skflowmix.classifier import FlowMixtureClassifier
from skflowmix.displays.canvas import (
    GREY,
    PALE,
    check_kind,
    color_of,
    one_axes,
    pyplot,
    several_axes,
)
from skflowmix.estimator import FlowMixture
from skflowmix.outlier import FlowMixtureOutlierDetector
from skflowmix.scorers import outliers_in
from skflowmix.validation import column_of_labels, is_unlabelled, known_labels

__all__ = ["AnomalyScoreDisplay", "ReliabilityDisplay"]

# Scores below this quantile by more than half its distance to the highest score are
# counted in the first bar, unless the threshold is further down.
TAIL = 0.02
N_BARS = 40


class AnomalyScoreDisplay:
    """Histograms of the scores of training rows and new rows, with the threshold.

    Bars are shares of the rows. Scores far below the others are counted in the first
    bar, which is then marked, for example by "≤ -11".

    Create one with `from_estimator`.

    Parameters
    ----------
    scores : dict of str to ndarray
        Scores in nats, by the name of the rows; low scores are anomalies.
    threshold : float, default=None
        Rows below it are outliers.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    sklearn.metrics.RocCurveDisplay : ``from_predictions(is_outlier, -scores)``.

    Examples
    --------
    >>> import numpy as np
    >>> from skflowmix import AnomalyScoreDisplay, FlowMixtureOutlierDetector
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = FlowMixtureOutlierDetector(n_transforms=0, random_state=0).fit(X)
    >>> display = AnomalyScoreDisplay.from_estimator(model, X, X + 3.0)
    >>> list(display.scores)
    ['training rows', 'new rows']
    """

    def __init__(
        self, *, scores: dict[str, np.ndarray], threshold: float | None = None
    ):
        self.scores = scores
        self.threshold = threshold

    @classmethod
    def from_estimator(
        cls,
        estimator: FlowMixtureOutlierDetector | FlowMixture | FlowMixtureClassifier,
        X: Any,
        X_new: Any = None,
        *,
        y_new: Any = None,
        ax: Any = None,
    ) -> Self:
        """Draw the scores that a fitted estimator gives to rows.

        Parameters
        ----------
        estimator : FlowMixtureOutlierDetector, FlowMixture or FlowMixtureClassifier
            Fitted. Only a detector has a threshold.
        X : array-like of shape (n_rows, n_features)
            Training rows.
        X_new : array-like of shape (n_new, n_features), default=None
            New rows.
        y_new : array-like of shape (n_new,), default=None
            Which of the new rows are known to be outliers: -1 for outliers and 1 for
            inliers, or 1 (True) and 0 (False).
        ax : matplotlib Axes, default=None
            Where to draw.

        Returns
        -------
        display : AnomalyScoreDisplay
            The drawn display.

        Raises
        ------
        TypeError
            If the display does not support the estimator.
        ValueError
            If `X`, `X_new` or `y_new` are invalid.
        ImportError
            If matplotlib is not installed.
        """
        kinds = (FlowMixtureOutlierDetector, FlowMixture, FlowMixtureClassifier)
        check_kind(cls, estimator, kinds)
        pyplot()
        scores = {"training rows": to_numpy(estimator.score_samples(X))}
        if X_new is not None:
            new = to_numpy(estimator.score_samples(X_new))
            if y_new is None:
                scores["new rows"] = new
            else:
                is_outlier = outliers_in(y_new, "y_new")
                if len(is_outlier) != len(new):
                    raise ValueError(
                        f"y_new must have a mark for each of the {len(new)} rows of "
                        f"X_new, got {len(is_outlier)}."
                    )
                scores["new rows, inliers"] = new[~is_outlier]
                scores["new rows, outliers"] = new[is_outlier]
        elif y_new is not None:
            raise ValueError("y_new needs X_new, whose rows it marks.")
        threshold = getattr(estimator, "offset_", None)
        return cls(scores=scores, threshold=threshold).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the histograms.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        self : AnomalyScoreDisplay
            With `ax_` and `figure_`.
        """
        self.ax_ = one_axes(ax, (7.4, 4.0))
        self.figure_ = self.ax_.figure
        every = np.concatenate(list(self.scores.values()))
        every = every[np.isfinite(every)]
        if self.threshold is not None:
            every = np.r_[every, self.threshold]
        low, high = np.quantile(every, TAIL), every.max()
        low = max(every.min(), low - (high - low) / 2)
        if self.threshold is not None:
            low = min(low, self.threshold - 0.2 * (high - self.threshold))
        edges = np.linspace(low, high if high > low else low + 1.0, N_BARS + 1)
        first_bar = 0.0
        for n, (name, scores) in enumerate(self.scores.items()):
            if len(scores):
                heights, _, _ = self.ax_.hist(
                    np.maximum(scores, low),
                    edges,
                    weights=np.full(len(scores), 1 / len(scores)),
                    histtype="stepfilled" if n == 0 else "step",
                    color=PALE if n == 0 else color_of(2 * n - 2),
                    linewidth=1.5,
                    label=name,
                )
                first_bar = max(first_bar, heights[0])
        if self.threshold is not None:
            self.ax_.axvline(
                self.threshold, color=GREY, linestyle="--", label="threshold"
            )
        if any((scores < low).any() for scores in self.scores.values()):
            _mark_first_bar(self.ax_, edges, first_bar)
        self.ax_.set(xlabel="score in nats, low for anomalies", ylabel="share of rows")
        self.ax_.legend(loc="best", framealpha=0.6)
        return self


class ReliabilityDisplay:
    """Reliability diagram of a classifier: accuracy by predicted probability.

    Rows are put into bins of equal size by the probability of their predicted class.
    The share of right predictions in each bin, with its standard error (a bar that ends
    at 0 and 1), is drawn over the bin's mean probability; calibrated probabilities lie
    on the diagonal. The second curve shows the probabilities, and the classes they
    predict, before calibration; the lower panel has histograms of both.

    Create one with `from_estimator`.

    Parameters
    ----------
    confidence : dict of str to ndarray of shape (n_rows,)
        Highest class probability of each row, by name of the curve.
    right : dict of str to ndarray of bool of shape (n_rows,)
        Which classes of that probability are right, by name of the curve.
    n_bins : int, default=10
        Number of bins, at least 1.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, of shape (2,)
        The curves, the histograms.
    figure_ : matplotlib Figure
        The figure.
    curves_ : dict of str to ndarray of shape (n_bins, 3)
        Mean probability, share of right predictions and its standard error, by name.

    See Also
    --------
    sklearn.calibration.CalibrationDisplay : The same for one of two classes.

    References
    ----------
    C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skflowmix import FlowMixtureClassifier, ReliabilityDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = FlowMixtureClassifier(n_transforms=0, random_state=0)
    >>> model = model.fit(X[::2], y[::2])
    >>> ReliabilityDisplay.from_estimator(model, X[1::2], y[1::2]).axes_.shape
    (2,)
    """

    def __init__(
        self,
        *,
        confidence: dict[str, np.ndarray],
        right: dict[str, np.ndarray],
        n_bins: int = 10,
    ):
        self.confidence = confidence
        self.right = right
        self.n_bins = n_bins

    @classmethod
    def from_estimator(
        cls,
        estimator: FlowMixtureClassifier,
        X: Any,
        y: Any,
        *,
        n_bins: int = 10,
        ax: Any = None,
    ) -> Self:
        """Draw the reliability of a fitted classifier.

        Parameters
        ----------
        estimator : FlowMixtureClassifier
            Fitted.
        X : array-like of shape (n_rows, n_features)
            Rows that it was not fitted to.
        y : array-like of shape (n_rows,)
            Their labels; unlabelled rows, marked as in `fit`, are ignored.
        n_bins : int, default=10
            Number of bins, at least 1.
        ax : matplotlib Axes, default=None
            Axes to replace by the panels.

        Returns
        -------
        display : ReliabilityDisplay
            The drawn display.

        Raises
        ------
        TypeError
            If the display does not support the estimator.
        ValueError
            If no row has a label, a label is no class of the estimator, or `X`, `y` or
            `n_bins` are invalid.
        ImportError
            If matplotlib is not installed.
        """
        check_kind(cls, estimator, (FlowMixtureClassifier,))
        pyplot()
        y = np.asarray(column_of_labels(y))
        calibrated = to_numpy(estimator.predict_proba(X))
        if y.shape != calibrated.shape[:1]:
            raise ValueError(
                f"y must have a label for each of the {len(calibrated)} rows of X, got "
                f"shape {y.shape}."
            )
        labelled = ~is_unlabelled(y)
        if not labelled.any():
            raise ValueError("No row has a label in y.")
        y, classes = known_labels(y, ~labelled), estimator.classes_
        unknown = y[~(y[:, None] == classes).any(1)].tolist()
        if unknown:
            raise ValueError(
                f"y must hold the classes {classes.tolist()}, got {unknown[0]!r}."
            )
        check_scalar(n_bins, "n_bins", Integral, min_val=1)
        log_joint = to_numpy(estimator.predict_joint_log_proba(X))
        raw = np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=1, keepdims=True))
        proba = {
            "calibrated": calibrated[labelled],
            "as the densities say": raw[labelled],
        }
        return cls(
            confidence={name: own.max(1) for name, own in proba.items()},
            right={name: classes[own.argmax(1)] == y for name, own in proba.items()},
            n_bins=int(n_bins),
        ).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to replace by the panels; None makes a figure.

        Returns
        -------
        self : ReliabilityDisplay
            With `axes_`, `figure_` and `curves_`.
        """
        axes = several_axes(ax, 2, 1, (5.6, 5.6), height_ratios=(3, 1))[:, 0]
        self.axes_, self.figure_ = axes, axes[0].figure
        self.curves_ = {
            name: _reliability(sure, self.right[name], self.n_bins)
            for name, sure in self.confidence.items()
        }
        low = min(sure.min() for sure in self.confidence.values())
        low = min(low, *(curve[:, 1].min() for curve in self.curves_.values()))
        low = max(0.0, low - 0.05)
        axes[0].plot([low, 1], [low, 1], color=GREY, linewidth=0.8)
        edges = np.linspace(low, 1, 31)
        for n, (name, curve) in enumerate(self.curves_.items()):
            style = {"color": color_of(n), "label": name}
            sure_mean, share, error = curve.T
            axes[0].errorbar(
                sure_mean,
                share,
                [np.minimum(error, share), np.minimum(error, 1 - share)],
                fmt="o-" if n == 0 else "s--",
                markersize=4,
                capsize=2,
                **style,
            )
            sure = self.confidence[name]
            shares = np.full(len(sure), 1 / len(sure))
            axes[1].hist(sure, edges, weights=shares, histtype="step", **style)
        axes[0].set(ylabel="share of right predictions", xlim=(low, 1.02))
        axes[0].tick_params(labelbottom=False)
        axes[0].legend(loc="upper left", frameon=False)
        axes[1].set(
            xlabel="probability of the predicted class",
            ylabel="share of rows",
            xlim=(low, 1.02),
        )
        return self


def _mark_first_bar(ax: Any, edges: np.ndarray, height: float) -> None:
    """Write over the first bar that it holds all scores up to its upper edge."""
    decimals = max(0, int(np.ceil(-np.log10(edges[1] - edges[0]))))
    ax.annotate(
        f"≤ {edges[1]:.{decimals}f}".replace("-", "\N{MINUS SIGN}"),
        (edges[0], height),
        xytext=(0, 2),
        textcoords="offset points",
        fontsize="x-small",
    )


def _reliability(sure: np.ndarray, right: np.ndarray, n_bins: int) -> np.ndarray:
    """Return mean probability, accuracy and its standard error, in equal-sized bins."""
    order = np.argsort(sure, kind="stable")
    bins = np.array_split(order, min(n_bins, len(order)))
    sizes = np.array([len(rows) for rows in bins])
    share = np.array([right[rows].mean() for rows in bins])
    # Laplace smoothing keeps the error positive in a bin where all are right.
    smoothed = (share * sizes + 1) / (sizes + 2)
    error = np.sqrt(smoothed * (1 - smoothed) / sizes)
    return np.c_[[sure[rows].mean() for rows in bins], share, error]
