"""`DensityDisplay` and `SamplesDisplay`: a fitted density, its regions, its samples."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.utils import check_scalar

from skflowmix.array_api import to_numpy
from skflowmix.classifier import FlowMixtureClassifier
from skflowmix.displays.canvas import (
    GREY,
    MARGIN,
    MAX_NAMED,
    PALE,
    check_kind,
    color_of,
    column_names,
    column_numbers,
    limits_of,
    name_components,
    number_components,
    one_axes,
    pyplot,
    rows_to_draw,
    several_axes,
    without_names,
    wrap_name,
)
from skflowmix.estimator import FlowMixture

__all__ = ["DensityDisplay", "SamplesDisplay"]

# Probability within the shaded highest-density regions and their contours, opacities of
# these regions, and opacity outside them.
SHARES = (0.5, 0.8, 0.95, 0.99)
OPACITIES = (0.75, 0.5, 0.3, 0.14)
OUTSIDE = 0.04

N_BARS = 30
LABEL_WIDTH = 15

# Samples beyond these quantiles do not widen the map.
TAILS = (0.005, 0.995)

# Most steps, each the margin of an axis, by which a side of the map moves outwards to
# have the contours inside.
MAX_STEPS = 10


class DensityDisplay:
    """A fitted density, the regions of its components, and rows.

    For two columns: a map in the colour of the most probable component (class, for a
    classifier), shaded by density, with contours that hold 50, 80, 95 and 99 % of the
    model's probability. For one column: curves of the density and of its components
    over a histogram of the rows. For more columns: scatter plots of all pairs, with
    rows below the diagonal and samples of the model above it.

    Create one with `from_estimator`.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_columns)
        Rows to draw, in data units.
    row_components : ndarray of shape (n_rows,)
        Most probable component of each row, from 0.
    samples : ndarray of shape (n_samples, n_columns)
        Rows drawn from the model.
    sample_components : ndarray of shape (n_samples,)
        The component that each sample was drawn from.
    component_names : list of str
        Names of all components.
    columns : list of str
        Names of the columns.
    grid : tuple of ndarray, default=None
        Points on the axis of each column where the density was evaluated; None where
        it was not.
    log_density : ndarray, default=None
        Log-density on the grid, in nats, of shape (n_points,) for one column and
        (n_points_y, n_points_x) for two.
    grid_components : ndarray, default=None
        For two columns, the most probable component on the grid, of the same shape; for
        one, log p(x, z=k), of shape (n_points, n_components).
    levels : ndarray of shape (4,), default=None
        Log-densities of the contours, in nats, in decreasing order.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn; None where there are several axes.
    axes_ : ndarray of matplotlib Axes
        All axes, of shape (1, 1) or (n_columns, n_columns).
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    SamplesDisplay : Samples of the model by component.
    sklearn.inspection.DecisionBoundaryDisplay : Any response of an estimator as a map.

    References
    ----------
    R. J. Hyndman, Computing and Graphing Highest Density Regions, The American
    Statistician 50, 1996.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skflowmix import DensityDisplay, FlowMixture
    >>> X, y = make_moons(100, noise=0.05, random_state=0)
    >>> model = FlowMixture(2, n_transforms=0, random_state=0).fit(X)
    >>> DensityDisplay.from_estimator(model, X).ax_.get_xlabel()
    'column 0'
    """

    def __init__(
        self,
        *,
        rows: np.ndarray,
        row_components: np.ndarray,
        samples: np.ndarray,
        sample_components: np.ndarray,
        component_names: list[str],
        columns: list[str],
        grid: tuple[np.ndarray, ...] | None = None,
        log_density: np.ndarray | None = None,
        grid_components: np.ndarray | None = None,
        levels: np.ndarray | None = None,
    ):
        self.rows = rows
        self.row_components = row_components
        self.samples = samples
        self.sample_components = sample_components
        self.component_names = component_names
        self.columns = columns
        self.grid: Any = grid
        self.log_density: Any = log_density
        self.grid_components: Any = grid_components
        self.levels: Any = levels

    @classmethod
    def from_estimator(
        cls,
        estimator: FlowMixture | FlowMixtureClassifier,
        X: Any,
        *,
        columns: Sequence[int | str] | None = None,
        grid_resolution: int = 150,
        n_samples: int = 1000,
        random_state: int | np.random.RandomState | None = 0,
        ax: Any = None,
    ) -> Self:
        """Draw the density of a fitted estimator.

        Parameters
        ----------
        estimator : FlowMixture or FlowMixtureClassifier
            Fitted.
        X : array-like of shape (n_rows, n_features)
            Rows to draw, such as the training rows; of more than 2000 a sample.
        columns : list of int or str, default=None
            Columns to draw, by number or name; None selects the first five. A density
            is drawn only if the model has one or two columns and all are selected;
            otherwise rows are compared with samples.
        grid_resolution : int, default=150
            Points at which a density is evaluated along an axis, at least 2.
        n_samples : int, default=1000
            Rows to draw from the model.
        random_state : int, RandomState instance or None, default=0
            Seed of the samples. None continues the estimator's own random stream.
        ax : matplotlib Axes, default=None
            Where to draw; several panels replace the axes.

        Returns
        -------
        display : DensityDisplay
            The drawn display.

        Raises
        ------
        TypeError
            If the display does not support the estimator.
        ValueError
            If `X` or `columns` do not match the estimator.
        ImportError
            If matplotlib is not installed.
        """
        check_kind(cls, estimator, (FlowMixture, FlowMixtureClassifier))
        pyplot()
        check_scalar(grid_resolution, "grid_resolution", Integral, min_val=2)
        data = _draw(estimator, X, columns, n_samples, random_state)
        chosen = data.pop("chosen")
        if estimator.n_features_in_ <= 2 and len(chosen) == estimator.n_features_in_:
            points = np.r_[data["rows"], _without_tails(data["samples"])]
            order = np.argsort(chosen)  # the model expects columns in its own order
            score = without_names(estimator).score_samples
            limits = np.array([limits_of(column) for column in points.T])
            if len(chosen) == 2:
                scores = score(data["samples"][:, order])
                data["levels"] = np.quantile(scores, 1 - np.array(SHARES))
                limits = _with_contours(
                    limits,
                    lambda edge: score(edge[:, order]).max() >= data["levels"][-1],
                    grid_resolution,
                )
            grid = [np.linspace(low, high, grid_resolution) for low, high in limits]
            points = np.stack(np.meshgrid(*grid), -1)
            shape, points = points.shape[:-1], points.reshape(-1, len(grid))
            points = points[:, order]
            data["grid"] = tuple(grid)
            data["log_density"] = score(points).reshape(shape)
            if len(grid) == 1:
                data["grid_components"] = _log_joint(estimator, points)
            else:
                numbers = _most_probable(estimator, points)
                data["grid_components"] = numbers.reshape(shape)
        return cls(**data).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the density.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        self : DensityDisplay
            With `ax_`, `axes_` and `figure_`.
        """
        if self.log_density is None and len(self.columns) > 1:
            self._plot_pairs(ax)
            return self
        self.ax_ = one_axes(ax)
        self.axes_ = np.array([[self.ax_]])
        self.figure_ = self.ax_.figure
        self.ax_.set_xlabel(self.columns[0])
        if len(self.columns) == 1:
            self._plot_curve(self.ax_)
        else:
            self._plot_map(self.ax_)
        return self

    def _plot_map(self, ax: Any) -> None:
        """Draw two columns: shaded regions, contours, rows, component numbers."""
        from matplotlib.colors import to_rgb
        from matplotlib.patches import Patch

        x, y = self.grid
        colors = [to_rgb(color_of(k)) for k in range(len(self.component_names))]
        within = (self.log_density[..., None] >= self.levels).argmax(-1)
        outside = self.log_density < self.levels[-1]
        opacity = np.where(outside, OUTSIDE, np.take(OPACITIES, within))
        image = np.dstack([np.take(colors, self.grid_components, axis=0), opacity])
        half = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
        self.image_ = ax.imshow(
            image,
            extent=(x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1]),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        levels = np.unique(self.levels)
        self.contours_ = ax.contour(
            x,
            y,
            self.log_density,
            levels,
            colors=GREY,
            linewidths=0.6,
            linestyles="solid",
        )
        self.points_ = ax.scatter(
            *self.rows.T, s=5, color="black", alpha=0.45, linewidths=0
        )
        number_components(
            ax,
            _places(self.samples, self.sample_components, len(self.component_names)),
        )
        handles = [
            Patch(color=GREY, alpha=opacity, label=f"{100 * share:.0f} %")
            for share, opacity in zip(SHARES, OPACITIES, strict=True)
        ]
        ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), ylabel=self.columns[1])
        ax.add_artist(
            ax.legend(
                handles=handles,
                title="densest",
                loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
                frameon=False,
            )
        )
        name_components(ax, self.component_names, "lower left", (1.0, 0.0))

    def _plot_curve(self, ax: Any) -> None:
        """Draw one column: a histogram, curves of the density and its components."""
        low, high = limits_of(np.r_[self.rows, self.samples])
        edges = np.linspace(low, high, N_BARS + 1)
        style = {"bins": edges, "density": True}
        ax.hist(self.rows[:, 0], color=PALE, label="rows", **style)
        if self.log_density is None:
            ax.hist(
                self.samples[:, 0],
                histtype="step",
                color=color_of(0),
                label="samples",
                **style,
            )
        else:
            x, names = self.grid[0], self.component_names
            ax.plot(
                x,
                np.exp(self.log_density),
                color=GREY,
                linewidth=3,
                alpha=0.6,
                label="density",
            )
            for k, name in enumerate(names if len(names) > 1 else []):
                label = name if len(names) <= MAX_NAMED else None
                joint = np.exp(self.grid_components[:, k])
                ax.plot(x, joint, "--", color=color_of(k), label=label)
            ax.set_xlim(x[0], x[-1])
        ax.set_ylabel("density")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)

    def _plot_pairs(self, ax: Any) -> None:
        """Draw all pairs: rows below the diagonal, samples above it."""
        n_columns = len(self.columns)
        side = 1.2 + 1.7 * n_columns
        self.axes_ = several_axes(
            ax, n_columns, n_columns, (side + 1.2, side), wspace=0.05, hspace=0.05
        )
        self.ax_ = None
        self.figure_ = self.axes_[0, 0].figure
        limits = [limits_of(column) for column in np.r_[self.rows, self.samples].T]
        names = [wrap_name(name, LABEL_WIDTH) for name in self.columns]
        # Draw no more samples above the diagonal than rows below it.
        some = rows_to_draw(self.samples, len(self.rows))
        for (i, j), panel in np.ndenumerate(self.axes_):
            if i == j:
                edges = np.linspace(*limits[i], N_BARS + 1)
                style = {"bins": edges, "density": True}
                twin = panel.twinx()  # the ticks of the panel are those of its row
                twin.hist(self.rows[:, i], color=PALE, **style)
                twin.hist(self.samples[:, i], histtype="step", color=GREY, **style)
                twin.set_axis_off()
            else:
                points, numbers = self.rows, self.row_components
                if i < j:
                    points, numbers = self.samples[some], self.sample_components[some]
                _scatter(panel, points[:, [j, i]], numbers, size=4)
            panel.set_ylim(limits[i])
            panel.set_xlim(limits[j])
            panel.tick_params(labelsize=7)
            if i < n_columns - 1:
                panel.tick_params(labelbottom=False)
            else:
                panel.set_xlabel(names[j], fontsize="small")
            if j > 0:
                panel.tick_params(labelleft=False)
            else:
                panel.set_ylabel(names[i], fontsize="small")
        self.axes_[0, 0].set_title(
            "below the diagonal: rows\nabove it: samples", loc="left", fontsize="small"
        )
        name_components(
            self.axes_[0, -1], self.component_names, "upper left", (1.0, 1.0)
        )


class SamplesDisplay:
    """Samples of the model, in the colours of their components, over rows.

    Create one with `from_estimator`.

    Parameters
    ----------
    samples : ndarray of shape (n_samples, 2)
        Two columns of rows drawn from the model.
    sample_components : ndarray of shape (n_samples,)
        The component that each sample was drawn from, from 0.
    component_names : list of str
        Names of all components.
    columns : list of str
        Names of the two columns.
    rows : ndarray of shape (n_rows, 2), default=None
        Rows to draw beneath, in grey.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure.
    points_ : list of matplotlib PathCollection
        The samples, by component.

    See Also
    --------
    DensityDisplay : The density, and all pairs of columns.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skflowmix import FlowMixture, SamplesDisplay
    >>> X, y = make_moons(100, noise=0.05, random_state=0)
    >>> model = FlowMixture(2, n_transforms=0, random_state=0).fit(X)
    >>> len(SamplesDisplay.from_estimator(model, X).points_)
    2
    """

    def __init__(
        self,
        *,
        samples: np.ndarray,
        sample_components: np.ndarray,
        component_names: list[str],
        columns: list[str],
        rows: np.ndarray | None = None,
    ):
        self.samples = samples
        self.sample_components = sample_components
        self.component_names = component_names
        self.columns = columns
        self.rows = rows

    @classmethod
    def from_estimator(
        cls,
        estimator: FlowMixture | FlowMixtureClassifier,
        X: Any = None,
        *,
        columns: Sequence[int | str] = (0, 1),
        n_samples: int = 1000,
        random_state: int | np.random.RandomState | None = 0,
        ax: Any = None,
    ) -> Self:
        """Draw samples of a fitted estimator.

        Parameters
        ----------
        estimator : FlowMixture or FlowMixtureClassifier
            Fitted, of at least two columns.
        X : array-like of shape (n_rows, n_features), default=None
            Rows to draw beneath, in grey; of more than 2000 a sample.
        columns : list of int or str, default=(0, 1)
            The two columns to draw, by number or name.
        n_samples : int, default=1000
            Rows to draw from the model.
        random_state : int, RandomState instance or None, default=0
            Seed of the samples. None continues the estimator's own random stream.
        ax : matplotlib Axes, default=None
            Where to draw.

        Returns
        -------
        display : SamplesDisplay
            The drawn display.

        Raises
        ------
        TypeError
            If the display does not support the estimator.
        ValueError
            If `X` or `columns` do not match the estimator.
        ImportError
            If matplotlib is not installed.
        """
        check_kind(cls, estimator, (FlowMixture, FlowMixtureClassifier))
        pyplot()
        if estimator.n_features_in_ < 2:
            raise ValueError(
                "SamplesDisplay draws two columns, but the estimator was fitted to "
                "one. DensityDisplay draws one column."
            )
        if np.size(columns) != 2:
            raise ValueError(f"columns must name two columns, got {columns!r}.")
        data = _draw(estimator, X, columns, n_samples, random_state)
        del data["row_components"], data["chosen"]
        return cls(**data).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the samples.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        self : SamplesDisplay
            With `ax_`, `figure_` and `points_`.
        """
        self.ax_ = one_axes(ax)
        self.figure_ = self.ax_.figure
        every = self.samples
        if self.rows is not None:
            self.ax_.scatter(*self.rows.T, s=5, color=PALE, linewidths=0)
            every = np.r_[every, self.rows]
        self.points_ = _scatter(self.ax_, self.samples, self.sample_components)
        self.ax_.set(
            xlabel=self.columns[0],
            ylabel=self.columns[1],
            xlim=limits_of(every[:, 0]),
            ylim=limits_of(every[:, 1]),
        )
        names = self.component_names
        number_components(
            self.ax_, _places(self.samples, self.sample_components, len(names))
        )
        name_components(
            self.ax_,
            names,
            "upper left",
            (1.0, 1.0),
            with_rows=self.rows is not None,
        )
        return self


def _draw(
    estimator: FlowMixture | FlowMixtureClassifier,
    X: Any,
    columns: Sequence[int | str] | None,
    n_samples: int,
    random_state: int | np.random.RandomState | None,
) -> dict[str, Any]:
    """Return rows and samples of some columns, and their numbers as `chosen`."""
    names = column_names(estimator)
    chosen = column_numbers(columns, names)
    rows = row_components = None
    if X is not None:
        rows = to_numpy(estimator._check_rows(X)).astype(np.float64)
        rows = rows[rows_to_draw(rows)]
        rows = rows[np.isfinite(rows).all(1)]
        row_components = _most_probable(estimator, rows)
        rows = rows[:, chosen]
    samples, drawn_from = estimator.sample(n_samples, random_state=random_state)
    return {
        "rows": rows,
        "row_components": row_components,
        "samples": samples[:, chosen],
        "sample_components": _numbered(estimator, drawn_from),
        "component_names": _component_names(estimator),
        "columns": [names[j] for j in chosen],
        "chosen": chosen,
    }


def _without_tails(samples: np.ndarray) -> np.ndarray:
    return np.clip(samples, *np.quantile(samples, TAILS, axis=0))


def _with_contours(
    limits: np.ndarray, crosses: Callable[[np.ndarray], bool], n_points: int
) -> np.ndarray:
    """Return the limits of a map, wider where a contour crosses an edge."""
    limits = limits.copy()
    steps = MARGIN * np.diff(limits) * [-1, 1]
    for _ in range(MAX_STEPS):
        inside = True
        for j, side in np.ndindex(2, 2):
            edge = np.linspace(limits[:, 0], limits[:, 1], n_points)
            edge[:, j] = limits[j, side]
            if crosses(edge):
                limits[j, side] += steps[j, side]
                inside = False
        if inside:
            break
    return limits


def _component_names(estimator: FlowMixture | FlowMixtureClassifier) -> list[str]:
    if isinstance(estimator, FlowMixtureClassifier):
        return [f"class {name}" for name in estimator.classes_]
    return [f"component {k}" for k in range(estimator.n_components_)]


def _numbered(
    estimator: FlowMixture | FlowMixtureClassifier, labels: np.ndarray
) -> np.ndarray:
    """Return labels of a classifier as indices into `classes_`."""
    classes = getattr(estimator, "classes_", None)
    return labels if classes is None else np.searchsorted(classes, labels)


def _most_probable(
    estimator: FlowMixture | FlowMixtureClassifier, rows: np.ndarray
) -> np.ndarray:
    return _numbered(estimator, without_names(estimator).predict(rows))


def _log_joint(
    estimator: FlowMixture | FlowMixtureClassifier, rows: np.ndarray
) -> np.ndarray:
    """Return log p(x, component) or log p(x, class)."""
    nameless = without_names(estimator)
    if isinstance(estimator, FlowMixtureClassifier):
        return nameless.predict_joint_log_proba(rows)
    weights = estimator.module_.group_weights()
    return nameless.component_log_prob(rows) + np.log(weights)


def _places(
    samples: np.ndarray, drawn_from: np.ndarray, n_components: int
) -> dict[int, np.ndarray]:
    """Return the sample of each component that is nearest to the component's median."""
    places = {}
    for k in range(n_components):
        own = samples[drawn_from == k]
        if len(own):
            off = (own - np.median(own, axis=0)) / (samples.std(0) + 1e-300)
            places[k] = own[(off**2).sum(1).argmin()]
    return places


def _scatter(
    ax: Any, points: np.ndarray, numbers: np.ndarray, size: float = 5
) -> list[Any]:
    """Draw points in the colours of their components; return an artist for each."""
    return [
        ax.scatter(
            *points[numbers == k].T, s=size, color=color_of(k), alpha=0.6, linewidths=0
        )
        for k in range(numbers.max() + 1)
    ]
