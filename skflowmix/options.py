"""`FlowMixtureOptions`: rarely set options of the model and of its training."""

from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import Interval, StrOptions

from skflowmix.training.settings import FitSettings

__all__ = ["N_JOBS", "FlowMixtureOptions", "NameOptions", "OptionsMixin"]


# What `n_jobs` may be, as in joblib.
N_JOBS = [
    Interval(Integral, None, -1, closed="right"),
    Interval(Integral, 1, None, closed="left"),
    None,
]

# Parameters of `GaussianMixture` that do not exist here, and why.
MEANINGLESS = {
    "covariance_type": "components are flows, whose shape is not restricted",
    "precisions_init": "components start from the covariances of their first rows",
}


class NameOptions(StrOptions):
    """String options that error messages list in sorted order."""

    def __str__(self) -> str:
        return f"a str among {{{', '.join(map(repr, sorted(self.options)))}}}"


class FlowMixtureOptions(BaseEstimator):
    """Options of model and training that are rarely set.

    All estimators take such an object as `options`; None means these defaults. An
    estimator never changes the object: setting ``options__name`` replaces it by a
    changed copy. To search among options, give the estimator an object first, like the
    kernel of a Gaussian process: then it has parameters like ``options__input_noise``.

    Parameters
    ----------
    n_common_transforms : int or "auto", default="auto"
        Number of layers before the flows that are the same for all components. They
        learn features that all components share, such as steps, bounds and tails of
        columns, from all rows. "auto" is 1, but 0 in the classifier, where with few
        labels they can lower the accuracy. There are none if `n_transforms` is 0, or if
        a component is rank-deficient (a column is constant or the sum of others) or its
        standard deviation in a column is below a hundredth of that of all rows.
    n_shared_transforms : int, default=0
        How many of the `n_transforms` layers, counted from the base distribution, are
        the same for all components. For clusters of one shape, shifted and rotated,
        which is then learnt from all rows. From 0 (every component has its own shape)
        to `n_transforms`.
    posterior_units : int or tuple of int, default=(64, 64)
        Widths of the hidden layers of the network of q(z|x), which maps the columns to
        a logit for each flow. Wider layers model finer boundaries but take more time;
        with ``()`` the logits are linear in the columns. With more than eight flows or
        500 columns the logits correct the posterior of Gaussians.
    n_iter_init : int, default=15
        Maximum number of epochs of the M-step, in which flows are trained with the
        first responsibilities held fixed. It ends early after `n_iter_no_change` epochs
        without progress, so large numbers change little. With 0 training on the ELBO
        starts from Gaussians, and ``n_flows_per_component="auto"`` means 1.
    temperature : float, default=1.0
        Initial temperature of q(z|x). In a step on the ELBO its logits are divided by
        ``max(temperature * exp(-temperature_decay * step), 0.1)``. With large values a
        row trains all components at first; with 0.1 or less q is sharp from the start.
        With more than eight flows or 500 columns, or components a hundredth as wide as
        the data, the logits include the log-posterior of the Gaussians, which only
        temperatures above 1 divide.
    temperature_decay : float, default=1e-3
        Decay rate of the temperature, per step. At 0 the temperature is constant; at 1
        it falls from 1 to 0.1 within three steps.
    label_noise : float, default=0.05
        Assumed error rate e of the first responsibilities r, in (0, 1]. They enter the
        ELBO as noisy labels: a row adds the sum over the K components of
        ``q_k * log((1 - e) * K * r_k + e)``. Near 0 rows keep their first component
        whatever the densities say; at 1 the sum is 0, as in the paper, and flexible
        components can drift away from a correct partition. The sum does not depend on
        how a row is divided among the flows of a component. Labels in the `y` of a
        classifier are taken to be correct.
    input_noise : float or "auto", default="auto"
        Noise on the rows in training, relative to distances between rows. A row is
        moved along the lines to its two nearest rows by independent Gaussian steps,
        whose standard deviation is ``input_noise / sqrt(2)`` times the length of the
        line, times the current step size divided by `learning_rate`. Values in a spike
        of their column do not move. "auto" is 0.5, but 0 in the classifier and the
        detector. At 0 flows can overfit single rows; from 1 on they lose detail.
    repeat_noise : float or "auto", default="auto"
        Dequantization: largest standard deviation of the noise that training adds to
        values that repeat in a column, as integers do, in standard deviations of the
        column. The noise of a value is ``min(repeat_noise, d / 2)``, where d is the
        distance within which other values on one side have at least half of its weight
        (for integers mostly their spacing). It does not shrink with the step size.
        "auto" is 0, but 0.25 in the classifier and the detector. At 0 flows fit spikes
        at such values: samples look like the data, but the heights of the spikes mean
        little. With large values the noise is ``d / 2``.
    validation_fraction : float, default=0.15
        Share of the distinct rows that is held out until the last phase, in (0, 1); the
        number is rounded down. Held-out rows decide when a phase ends and whether flows
        are kept. With fewer than 8 of them flows are not trained. With a small share
        these decisions are noisy; with a large one few rows are left for training until
        the last phase.
    batch_size : int or "auto", default="auto"
        Number of rows in a step. "auto" is a sixteenth of the training rows, rounded to
        a power of two from 128 to 1024. Small batches have noisy gradients, and an
        epoch has at most 256 of them. If `batch_size` is at least the number of
        training rows, an epoch is one step.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay of the networks' weight matrices, not of biases: a step
        subtracts the share ``weight_decay * step size`` of a weight. "auto" is
        ``min(1, 500 * columns / rows)``. The weights of a component are a common part
        plus a deviation, which decays three times as fast. At 0 nothing decays, and
        flows can overfit single rows; with large values the map of a column does not
        depend on the other columns.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the training; "float64" takes twice the memory. Training is in
        float64 in any case if a component is tiny: in a standardised column, its mean
        is more than 10 000 of its standard deviations from 0. Scores have the precision
        of the X they are computed for.
    n_threads : int, "auto" or None, default="auto"
        Number of threads of torch, BLAS and OpenMP during a fit; afterwards it is
        restored. "auto" is 1, except where it leaves the libraries' own setting: if
        training steps multiply large matrices (hundreds of columns), and before and
        after training if the table has more than two million values. None always leaves
        the libraries' setting. More threads do not speed up small models, and beside
        other busy programs they make a fit several times slower.

    Examples
    --------
    >>> from skflowmix import FlowMixture, FlowMixtureOptions
    >>> model = FlowMixture(3, options=FlowMixtureOptions(batch_size=256))
    >>> model.set_params(options__input_noise=0.0).options
    FlowMixtureOptions(batch_size=256, input_noise=0.0)
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_common_transforms": [
            StrOptions({"auto"}),
            Interval(Integral, 0, None, closed="left"),
        ],
        "n_shared_transforms": [Interval(Integral, 0, None, closed="left")],
        "posterior_units": ["array-like", Interval(Integral, 1, None, closed="left")],
        "n_iter_init": [Interval(Integral, 0, None, closed="left")],
        "temperature": [Interval(Real, 0.0, 1e30, closed="neither")],
        "temperature_decay": [Interval(Real, 0.0, None, closed="left")],
        "label_noise": [Interval(Real, 0.0, 1.0, closed="right")],
        "input_noise": [StrOptions({"auto"}), Interval(Real, 0.0, None, closed="left")],
        "repeat_noise": [
            StrOptions({"auto"}),
            Interval(Real, 0.0, None, closed="left"),
        ],
        "validation_fraction": [Interval(Real, 0.0, 1.0, closed="neither")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "weight_decay": [
            StrOptions({"auto"}),
            Interval(Real, 0.0, None, closed="left"),
        ],
        "dtype": [NameOptions({"float32", "float64"})],
        "n_threads": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
    }

    def __init__(
        self,
        *,
        n_common_transforms: int | Literal["auto"] = "auto",
        n_shared_transforms: int = 0,
        posterior_units: int | Sequence[int] = (64, 64),
        n_iter_init: int = 15,
        temperature: float = 1.0,
        temperature_decay: float = 1e-3,
        label_noise: float = 0.05,
        input_noise: float | Literal["auto"] = "auto",
        repeat_noise: float | Literal["auto"] = "auto",
        validation_fraction: float = 0.15,
        batch_size: int | Literal["auto"] = "auto",
        weight_decay: float | Literal["auto"] = "auto",
        dtype: Literal["float32", "float64"] = "float32",
        n_threads: int | Literal["auto"] | None = "auto",
    ):
        self.n_common_transforms = n_common_transforms
        self.n_shared_transforms = n_shared_transforms
        self.posterior_units = posterior_units
        self.n_iter_init = n_iter_init
        self.temperature = temperature
        self.temperature_decay = temperature_decay
        self.label_noise = label_noise
        self.input_noise = input_noise
        self.repeat_noise = repeat_noise
        self.validation_fraction = validation_fraction
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.n_threads = n_threads

    @classmethod
    def paper(cls) -> Self:
        """Return the options of the paper's experiments.

        The paper trains on the ELBO only: with a decaying temperature, but without
        M-step, common layers, noise, weight decay or noisy labels. Here 5 % of the
        rows, instead of 15 %, are held out to choose the best parameters.

        The other settings are parameters of the estimator: ``init_params="random"`` and
        the paper's flows, for its pinwheel ``flow="realnvp"``, ``n_transforms=8``,
        ``hidden_units=(8,)`` and ``learning_rate=1e-3``. For a fixed number of epochs,
        as in the paper, set ``tol=0`` and an `n_iter_no_change` above `max_iter`.

        Returns
        -------
        options : FlowMixtureOptions
            A new object.

        References
        ----------
        G. G. P. Freitas Pires and M. A. T. Figueiredo, Variational Mixture of
        Normalizing Flows, ESANN 2020, https://arxiv.org/abs/2009.00585
        """
        return cls(
            n_common_transforms=0,
            n_iter_init=0,
            label_noise=1.0,
            input_noise=0.0,
            repeat_noise=0.0,
            validation_fraction=0.05,
            weight_decay=0.0,
        )


class OptionsMixin(BaseEstimator):
    """Mixin for estimators with a parameter `options`.

    `_auto_options` holds the values that "auto" stands for in the estimator.
    """

    options: FlowMixtureOptions | None

    _auto_options: ClassVar[dict] = {
        "n_common_transforms": 1,
        "input_noise": 0.5,
        "repeat_noise": 0.0,
    }

    def __new__(cls, *args: Any, **parameters: Any) -> Self:
        """Raise an error for options, and for parameters that do not exist, by name."""
        for name, value in parameters.items():
            if reason := cls._why_no_parameter(name, value):
                raise TypeError(f"{reason}.")
        return super().__new__(cls)

    @classmethod
    def _why_no_parameter(cls, name: str, value: Any) -> str | None:
        """Say why the estimator has no parameter of this name; None if unknown."""
        if name in MEANINGLESS:
            return f"{cls.__name__} has no {name}: {MEANINGLESS[name]}"
        if name in FlowMixtureOptions._parameter_constraints:
            return (
                f"{name} is an option: give {cls.__name__} "
                f"options=FlowMixtureOptions({name}={value!r})"
            )
        return None

    def set_params(self, **params: Any) -> Self:
        """Set parameters; set those of `options` by ``options__name``.

        Parameters
        ----------
        **params : dict
            Values by name.

        Returns
        -------
        self : estimator
            The same estimator.
        """
        for name, value in params.items():
            if reason := self._why_no_parameter(name, value):
                hint = f", or set options__{name} where it has options"
                raise ValueError(f"{reason}{'' if name in MEANINGLESS else hint}.")
        nested = [name for name in params if name.startswith("options__")]
        if nested and params.get("options", self.options) is None:
            raise ValueError(
                f"{nested[0]} cannot be set while options is None. Give the estimator "
                "an object first: options=FlowMixtureOptions()."
            )
        known = FlowMixtureOptions._parameter_constraints
        if nested and all(name.split("__")[1] in known for name in nested):
            params["options"] = clone(params.get("options", self.options))
        return super().set_params(**params)

    def _resolved_options(self) -> FlowMixtureOptions:
        """Return a copy of the options with this estimator's values for "auto"."""
        options = FlowMixtureOptions() if self.options is None else self.options
        options._validate_params()
        values = options.get_params(deep=False)
        for name, value in self._auto_options.items():
            if values[name] == "auto":
                values[name] = value
        return FlowMixtureOptions(**values)

    def _settings(self) -> FitSettings:
        """Collect the settings of the model and its training."""
        options = self._resolved_options()
        values: dict[str, Any] = {}
        for field in fields(FitSettings):
            owner = options if hasattr(options, field.name) else self
            values[field.name] = getattr(owner, field.name, None)
        for name in ("hidden_units", "posterior_units"):
            values[name] = widths(name, values[name])
        for name in ("n_init", "n_flows_per_component"):
            if values[name] is None:
                values[name] = 1
        for name, value in values.items():
            # NumPy's unsigned integers overflow, and change the type of results.
            if isinstance(value, np.integer):
                values[name] = int(value)
        if values["n_shared_transforms"] > values["n_transforms"]:
            raise ValueError(
                "n_shared_transforms must be at most n_transforms="
                f"{values['n_transforms']}, got {values['n_shared_transforms']}."
            )
        return FitSettings(**values)


def widths(name: str, units: Any) -> tuple[int, ...]:
    """Return the widths of hidden layers as a tuple; an integer means one layer."""
    if isinstance(units, (int, np.integer)):
        units = (units,)
    try:
        layers = tuple(units)
    except TypeError:
        layers = (None,)
    if not all(isinstance(u, (int, np.integer)) and u > 0 for u in layers):
        raise ValueError(
            f"{name} must hold positive integers, one per hidden layer, got {units!r}."
        )
    return tuple(int(u) for u in layers)
