"""Helpers of all displays: matplotlib on demand, axes, colours, rows to draw."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skflowmix.array_api import to_numpy

__all__ = [
    "DRAWN_ROWS",
    "GREY",
    "MARGIN",
    "MAX_NAMED",
    "PALE",
    "PALETTE",
    "check_kind",
    "color_of",
    "column_names",
    "column_numbers",
    "limits_of",
    "mixture_of",
    "name_components",
    "number_components",
    "one_axes",
    "pyplot",
    "rows_to_draw",
    "several_axes",
    "without_names",
    "wrap_name",
]

# M. Okabe and K. Ito, Color Universal Design, 2008; the pale yellow and black are last.
PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
    "#000000",
)
GREY = "#595959"
PALE = "#C8C8C8"

# Most components that a legend lists.
MAX_NAMED = 8

# A pair plot of more columns would have panels too small to see.
MAX_COLUMNS = 8
DEFAULT_COLUMNS = 5

# Most rows to draw, a random sample of larger tables: more would hide each other.
DRAWN_ROWS = 2000

# Axes extend beyond these quantiles by at most half the distance between them, plus a
# margin as a share of the axis.
RANGE = (0.01, 0.99)
MARGIN = 0.08


def pyplot() -> Any:
    """Import matplotlib, or say how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Displays need matplotlib. Install it, or the extra: skflowmix[plot]."
        ) from error
    return plt


def one_axes(ax: Any, figsize: tuple[float, float] = (6.4, 4.8)) -> Any:
    """Return the axes to draw on, new ones where none are given."""
    if ax is None:
        _, ax = pyplot().subplots(figsize=figsize, layout="constrained")
    elif not hasattr(ax, "get_subplotspec"):
        raise TypeError(f"ax must be a matplotlib Axes or None, got {ax!r}.")
    return ax


def several_axes(
    ax: Any, n_rows: int, n_columns: int, figsize: tuple[float, float], **options: Any
) -> np.ndarray:
    """Return an array of axes, (n_rows, n_columns), in the place of `ax` if given.

    `options` are those of a `matplotlib.gridspec.GridSpec`. The replaced axes stay in
    the figure without a frame and keep their title.
    """
    if ax is None:
        figure = pyplot().figure(figsize=figsize, layout="constrained")
        grid = figure.add_gridspec(n_rows, n_columns, **options)
    else:
        one_axes(ax)
        if ax.get_subplotspec() is None:
            raise ValueError(
                "ax must be part of a grid, as of plt.subplots(): this picture has "
                "several panels, which take its place."
            )
        figure = ax.figure
        ax.set_axis_off()
        grid = ax.get_subplotspec().subgridspec(n_rows, n_columns, **options)
    return np.array(
        [
            [figure.add_subplot(grid[i, j]) for j in range(n_columns)]
            for i in range(n_rows)
        ]
    )


def check_kind(display: type, estimator: Any, kinds: tuple[type, ...]) -> None:
    """Refuse estimators that a display cannot draw or that are not fitted.

    Parameters
    ----------
    display : type
        The display.
    estimator : object
        The estimator to draw.
    kinds : tuple of type
        Types that the display can draw.
    """
    if not isinstance(estimator, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"{display.__name__} draws a fitted {names}, got "
            f"{type(estimator).__name__}. Of a pipeline take the last step, "
            "pipeline[-1], and rows that the others have transformed; of a search its "
            "best_estimator_; of a detector its mixture_."
        )
    check_is_fitted(estimator)


def mixture_of(estimator: Any) -> Any:
    """Return the fitted `FlowMixture` of an estimator: itself, or its `mixture_`."""
    return getattr(estimator, "mixture_", estimator)


def column_names(estimator: Any) -> list[str]:
    """Return the names of the columns that an estimator was fitted to."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return [f"column {j}" for j in range(estimator.n_features_in_)]
    return [str(name) for name in names]


def column_numbers(columns: Any, names: list[str]) -> list[int]:
    """Return columns, given by number or name, as numbers."""
    if columns is None:
        return list(range(min(len(names), DEFAULT_COLUMNS)))
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        columns = [columns]
    numbers = []
    for column in columns:
        is_integer = isinstance(column, (int, np.integer)) and type(column) is not bool
        if is_integer and 0 <= column < len(names):
            numbers.append(int(column))
        elif isinstance(column, str) and column in names:
            numbers.append(names.index(column))
        else:
            raise ValueError(
                f"columns must be names of columns, or numbers from 0 to "
                f"{len(names) - 1}, got {column!r}."
            )
    if len(set(numbers)) != len(numbers) or not 1 <= len(numbers) <= MAX_COLUMNS:
        raise ValueError(
            f"columns must be 1 to {MAX_COLUMNS} different columns, got {columns!r}."
        )
    return numbers


def without_names(estimator: Any) -> Any:
    """Return a shallow copy that takes arrays without a warning on feature names."""
    nameless = copy.copy(estimator)
    vars(nameless).pop("feature_names_in_", None)
    return nameless


def rows_to_draw(rows: Any, n_drawn: int = DRAWN_ROWS) -> np.ndarray:
    """Return the row numbers of a fixed sample of at most `n_drawn` rows."""
    n_rows = len(to_numpy(rows))
    if n_rows <= n_drawn:
        return np.arange(n_rows)
    chosen = np.random.default_rng(0).choice(n_rows, n_drawn, replace=False)
    return np.sort(chosen)


def limits_of(values: np.ndarray) -> tuple[float, float]:
    """Return the limits of an axis, so that a few outlying values do not widen it."""
    low, high = np.quantile(values, RANGE)
    room = (high - low) / 2
    low, high = max(values.min(), low - room), min(values.max(), high + room)
    if high == low:
        return float(low - 0.5), float(high + 0.5)
    margin = MARGIN * (high - low)
    return float(low - margin), float(high + margin)


def wrap_name(name: str, width: int) -> str:
    """Break a name into lines after spaces, underscores and hyphens.

    Words that are longer than `width` are cut and end in an ellipsis.
    """
    lines = [""]
    for word in re.findall(r"[^\s_-]*[\s_-]+|[^\s_-]+", name):
        if lines[-1] and len((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    lines = [line.rstrip() for line in lines]
    return "\n".join(
        line if len(line) <= width else line[: width - 1] + "…" for line in lines
    )


def color_of(number: int) -> str:
    """Return the colour of a component; colours repeat from the ninth on."""
    return PALETTE[number % len(PALETTE)]


def number_components(
    ax: Any, places: Mapping[int, Sequence[float] | np.ndarray]
) -> None:
    """Label components by number at their places, if a legend would be too long.

    Parameters
    ----------
    ax : matplotlib Axes
        Where to write.
    places : dict of int to (float, float)
        A point of each component.
    """
    from matplotlib.patheffects import withStroke

    if len(places) <= MAX_NAMED:
        return
    for k, (x, y) in places.items():
        ax.text(
            x,
            y,
            str(k),
            ha="center",
            va="center",
            fontweight="bold",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def name_components(
    ax: Any,
    names: Sequence[str],
    place: str,
    corner: tuple[float, float],
    with_rows: bool = False,
) -> None:
    """Add a legend of component colours, unless there are too many components."""
    from matplotlib.lines import Line2D

    entries = [(PALE, "rows")] if with_rows else []
    if len(names) <= MAX_NAMED:
        entries += [(color_of(k), name) for k, name in enumerate(names)]
    handles = [
        Line2D([], [], color=color, marker="o", linestyle="", label=label)
        for color, label in entries
    ]
    if handles:
        ax.legend(handles=handles, loc=place, bbox_to_anchor=corner, frameon=False)
