"""`TrainingHistoryDisplay` and `ResponsibilityDisplay`: training curves, q and p."""

from typing import Any, Self

import numpy as np

from skflowmix.array_api import to_numpy
from skflowmix.classifier import FlowMixtureClassifier
from skflowmix.displays.canvas import (
    GREY,
    check_kind,
    color_of,
    mixture_of,
    name_components,
    one_axes,
    pyplot,
    rows_to_draw,
    several_axes,
)
from skflowmix.estimator import FlowMixture
from skflowmix.outlier import FlowMixtureOutlierDetector

__all__ = ["ResponsibilityDisplay", "TrainingHistoryDisplay"]

# The curves of each panel: key in a record of `history_`, label, line style.
LIKELIHOODS = (
    ("train_log_likelihood", "log-likelihood, training rows", "-"),
    ("validation_log_likelihood", "log-likelihood, held-out rows", "-"),
    ("elbo", "ELBO, training rows", "--"),
)
TERMS = (
    ("elbo_reconstruction", "E log p(x|z)", "-"),
    ("elbo_prior", "E log p(z)", "--"),
    ("elbo_entropy", "entropy of q(z|x)", ":"),
)

# Inches for each letter of a phase's name; names that do not fit are tilted.
LETTER = 0.075


class TrainingHistoryDisplay:
    """Training curves of a fit, epoch by epoch.

    Three panels: log-likelihoods of training and held-out rows with the evidence lower
    bound; the terms of the bound; the number of components that expect at least one
    row. Vertical lines separate the phases.

    Create one with `from_estimator`.

    Parameters
    ----------
    history : list of dict
        `FlowMixture.history_`: a record for every epoch.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, of shape (3,)
        Log-likelihoods, terms of the bound, components in use.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skflowmix import FlowMixture, TrainingHistoryDisplay
    >>> X, y = make_moons(100, noise=0.05, random_state=0)
    >>> model = FlowMixture(2, tol=0.1, n_iter_no_change=2, random_state=0).fit(X)
    >>> TrainingHistoryDisplay.from_estimator(model).axes_.shape
    (3,)
    """

    def __init__(self, *, history: list[dict[str, Any]]):
        self.history = history

    @classmethod
    def from_estimator(
        cls,
        estimator: FlowMixture | FlowMixtureClassifier | FlowMixtureOutlierDetector,
        *,
        ax: Any = None,
    ) -> Self:
        """Draw the history of a fitted estimator.

        Parameters
        ----------
        estimator : FlowMixture, FlowMixtureClassifier or FlowMixtureOutlierDetector
            Fitted.
        ax : matplotlib Axes, default=None
            Axes to replace by the panels.

        Returns
        -------
        display : TrainingHistoryDisplay
            The drawn display.

        Raises
        ------
        TypeError
            If the display does not support the estimator.
        ValueError
            If nothing was trained.
        ImportError
            If matplotlib is not installed.
        """
        kinds = (FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector)
        check_kind(cls, estimator, kinds)
        pyplot()
        return cls(history=mixture_of(estimator).history_).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to replace by the panels; None makes a figure.

        Returns
        -------
        self : TrainingHistoryDisplay
            With `axes_` and `figure_`.
        """
        if not self.history:
            raise ValueError("Nothing was trained: the history has no epochs.")
        axes = several_axes(ax, 3, 1, (7.0, 6.4), height_ratios=(3, 2, 1))[:, 0]
        self.axes_, self.figure_ = axes, axes[0].figure
        epochs = np.arange(1, len(self.history) + 1)
        for panel, curves, first in ((axes[0], LIKELIHOODS, 0), (axes[1], TERMS, 3)):
            for n, (key, name, style) in enumerate(curves):
                values = [record[key] for record in self.history]
                panel.plot(epochs, values, style, color=color_of(first + n), label=name)
            panel.legend(loc="best", fontsize="x-small", framealpha=0.6)
            panel.set_ylabel("nats per row")
            panel.tick_params(labelbottom=False)
        in_use = [record["n_components_in_use"] for record in self.history]
        axes[2].step(epochs, in_use, where="mid", color=color_of(0))
        axes[2].set(xlabel="epoch", ylabel="components\nin use")
        axes[2].set_ylim(0, max(in_use) + 1)
        axes[2].yaxis.get_major_locator().set_params(integer=True)
        self._mark_phases()
        return self

    def _mark_phases(self) -> None:
        """Separate the phases by lines, and name them on top."""
        phases = [record["phase"] for record in self.history]
        starts = [n for n in range(len(phases)) if n == 0 or phases[n] != phases[n - 1]]
        for panel in self.axes_:
            panel.set_xlim(0.5, len(phases) + 0.5)
            for start in starts[1:]:
                panel.axvline(start + 0.5, color=GREY, linewidth=0.8)
        ends = [*starts[1:], len(phases)]
        width = self.axes_[0].get_window_extent().width / self.figure_.dpi
        tilted = any(
            len(phases[start]) * LETTER > width * (end - start) / len(phases)
            for start, end in zip(starts, ends, strict=True)
        )
        for start, end in zip(starts, ends, strict=True):
            self.axes_[0].annotate(
                phases[start],
                ((start + end + 1) / 2, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                fontsize="small",
                ha="left" if tilted else "center",
                rotation=45 if tilted else 0,
                rotation_mode="anchor",
            )


class ResponsibilityDisplay:
    """The amortised posterior q(z|x) against the exact responsibilities p(z|x).

    One point for every row and component; on the diagonal q is exact. The title gives
    the mean Kullback-Leibler divergence of q from p, in nats: the gap between the
    log-likelihood and the evidence lower bound.

    Create one with `from_estimator`.

    Parameters
    ----------
    responsibilities : ndarray of shape (n_rows, n_components)
        p(z|x), as returned by `predict_proba`.
    q : ndarray of shape (n_rows, n_components)
        q(z|x), as returned by `posterior_proba`.
    gap : float
        Mean of log p(x) - ELBO(x), in nats.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure.
    points_ : list of matplotlib PathCollection
        Points by component.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skflowmix import FlowMixture, ResponsibilityDisplay
    >>> X, y = make_moons(100, noise=0.05, random_state=0)
    >>> model = FlowMixture(2, n_transforms=0, random_state=0).fit(X)
    >>> ResponsibilityDisplay.from_estimator(model, X).ax_.get_xlabel()
    'exact p(z|x)'
    """

    def __init__(self, *, responsibilities: np.ndarray, q: np.ndarray, gap: float):
        self.responsibilities = responsibilities
        self.q = q
        self.gap = gap

    @classmethod
    def from_estimator(cls, estimator: FlowMixture, X: Any, *, ax: Any = None) -> Self:
        """Draw the responsibilities that a fitted estimator gives to rows.

        Parameters
        ----------
        estimator : FlowMixture
            Fitted.
        X : array-like of shape (n_rows, n_features)
            Rows; of more than 2000 a sample is drawn.
        ax : matplotlib Axes, default=None
            Where to draw.

        Returns
        -------
        display : ResponsibilityDisplay
            The drawn display.

        Raises
        ------
        TypeError
            If the display does not support the estimator.
        ValueError
            If `X` does not match the estimator.
        ImportError
            If matplotlib is not installed.
        """
        check_kind(cls, estimator, (FlowMixture,))
        pyplot()
        responsibilities = to_numpy(estimator.predict_proba(X))
        drawn = rows_to_draw(responsibilities)
        gap = to_numpy(estimator.score_samples(X)) - to_numpy(estimator.elbo(X))
        return cls(
            responsibilities=responsibilities[drawn],
            q=to_numpy(estimator.posterior_proba(X))[drawn],
            gap=float(np.mean(gap)),
        ).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        self : ResponsibilityDisplay
            With `ax_`, `figure_` and `points_`.
        """
        self.ax_ = one_axes(ax, (5.6, 4.8))
        self.figure_ = self.ax_.figure
        self.ax_.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, zorder=0)
        self.points_ = [
            self.ax_.scatter(p, q, s=10, alpha=0.6, color=color_of(k), linewidths=0)
            for k, (p, q) in enumerate(
                zip(self.responsibilities.T, self.q.T, strict=True)
            )
        ]
        self.ax_.set(
            xlabel="exact p(z|x)",
            ylabel="amortised q(z|x)",
            title=f"mean divergence {self.gap:.3g} nats",
            aspect="equal",
        )
        names = [f"component {k}" for k in range(self.q.shape[1])]
        name_components(self.ax_, names, "upper left", (1.0, 1.0))
        return self
