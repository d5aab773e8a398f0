"""`ComponentCountDisplay`: how the number of components was found."""

from typing import Any, Self

from skflowmix.displays.canvas import GREY, check_kind, color_of, one_axes, pyplot
from skflowmix.estimator import FlowMixture

__all__ = ["ComponentCountDisplay"]


class ComponentCountDisplay:
    """The valleys from which ``n_components="auto"`` finds the number of components.

    Every valley of the density between two groups of rows is a point. It is drawn at
    the number of clusters if it and all later valleys of `path` were counted. Its
    height is the density in the valley relative to the lower of the two modes: 0 where
    groups do not touch, 1 where there is no valley. A bar marks the limit below which a
    valley is deeper than chance would make it. Counted valleys are left of the dashed
    line, valleys that are not counted right of it.

    Create one with `from_estimator`.

    Parameters
    ----------
    path : list of dict
        `FlowMixture.n_components_path_`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> from skflowmix import ComponentCountDisplay
    >>> valley = {"n_components": 2, "valley": 0.1, "limit": 0.6, "counted": True}
    >>> ComponentCountDisplay(path=[valley]).plot().ax_.get_xlabel()
    'clusters'
    """

    def __init__(self, *, path: list[dict[str, Any]]):
        self.path = path

    @classmethod
    def from_estimator(cls, estimator: FlowMixture, *, ax: Any = None) -> Self:
        """Draw the valleys from which an estimator found its number of components.

        Parameters
        ----------
        estimator : FlowMixture
            Fitted with ``n_components="auto"``.
        ax : matplotlib Axes, default=None
            Where to draw.

        Returns
        -------
        display : ComponentCountDisplay
            The drawn display.

        Raises
        ------
        TypeError
            If the display does not support the estimator.
        ValueError
            If `n_components` was a number, or there were too few rows to find it.
        ImportError
            If matplotlib is not installed.
        """
        check_kind(cls, estimator, (FlowMixture,))
        pyplot()
        path = getattr(estimator, "n_components_path_", [])
        return cls(path=path).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the valleys.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        self : ComponentCountDisplay
            With `ax_` and `figure_`.
        """
        if not self.path:
            raise ValueError(
                "There was nothing to count: n_components_path_ is empty, as where "
                "n_components is a number, or rows are few."
            )
        self.ax_ = one_axes(ax)
        self.figure_ = self.ax_.figure
        for counted, color, name in (
            (True, color_of(0), "counted"),
            (False, GREY, "not counted"),
        ):
            records = [r for r in self.path if r["counted"] is counted]
            numbers = [record["n_components"] for record in records]
            self.ax_.plot(
                numbers,
                [record["valley"] for record in records],
                "o" if counted else "s",
                color=color,
                label=name,
            )
            self.ax_.plot(
                numbers,
                [record["limit"] for record in records],
                "_",
                markersize=18,
                markeredgewidth=1.5,
                color=color_of(3),
                zorder=3,  # in front of the points
                label=None if counted else "limit",
            )
        found = 1 + sum(record["counted"] for record in self.path)
        self.ax_.axvline(
            found + 0.5,
            color=GREY,
            linewidth=0.8,
            linestyle="--",
            label="end of the counted valleys",
        )
        self.ax_.set(
            xlabel="clusters",
            ylabel="density in the valley, relative to the lower mode",
            ylim=(-0.05, 1.1),
            title=f"{found} cluster{'s' if found > 1 else ''}",
        )
        self.ax_.xaxis.get_major_locator().set_params(integer=True)
        self.ax_.legend(loc="best", framealpha=0.6)
        return self
