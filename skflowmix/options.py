"""`FlowMixtureOptions`: what is rarely set, of the model and of its training."""

from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import Interval, StrOptions

from skflowmix.training.settings import FitSettings

__all__ = ["FlowMixtureOptions", "NameOptions", "OptionsMixin"]


# Parameters of `GaussianMixture` that mean nothing here.
MEANINGLESS = {
    "covariance_type": "components are flows, whose shape is not restricted",
    "precisions_init": "components start from the covariances of their first rows",
}


class NameOptions(StrOptions):
    """Names to choose from, which messages give in one order."""

    def __str__(self) -> str:
        return f"a str among {{{', '.join(map(repr, sorted(self.options)))}}}"


class FlowMixtureOptions(BaseEstimator):
    """Options of model and training that are rarely set.

    All estimators take one as `options`; None stands for these defaults. An estimator
    never changes it: setting ``options__name`` gives it a copy. To search among
    options, give the estimator an object first, as a kernel of a Gaussian process: then
    ``options__input_noise`` and the like are its parameters.

    Parameters
    ----------
    n_common_transforms : int or "auto", default="auto"
        Number of layers before the flows that are the same for all components: they
        learn what the columns have in common, such as steps, bounds and tails, from
        all rows. "auto" is 1, in the classifier 0: with few labels classes can lose.
        None is used without `n_transforms`, nor where rows are rank-deficient (a
        column is constant, or the sum of others).
    n_shared_transforms : int, default=0
        Number of the `n_transforms` layers, the last ones before the base
        distribution, that are the same for all components: for clusters of one shape,
        moved and turned, which then learn it from all rows. From 0, where every
        component has its own shape, to `n_transforms`.
    posterior_units : int or tuple of int, default=(64, 64)
        Widths of the hidden layers of the network of q(z|x), from columns to a logit
        for each flow. Wider ones follow finer borders, in more time; with none, (),
        logits are linear in the columns.
    n_iter_init : int, default=15
        Largest number of epochs of the M-step, in which flows are trained at the first
        responsibilities. It ends early after `n_iter_no_change` epochs without
        progress, so that large numbers change little. With 0 the ELBO starts from
        Gaussians, and ``n_flows_per_component="auto"`` is 1.
    temperature : float, default=1.0
        First temperature of q(z|x). At a step on the ELBO its logits are divided by
        ``max(temperature * exp(-temperature_decay * step), 0.1)``. Large ones let a row
        train all components at first; from 0.1 down q is decided from the start.
    temperature_decay : float, default=1e-3
        Rate of this decay, per step. At 0 the temperature is constant; at 1 it is 0.1
        after three steps.
    label_noise : float, default=0.05
        Assumed error rate e of the first responsibilities r, in (0, 1]. They count in
        the ELBO as noisy labels: a row adds the sum over the K components of
        ``q_k * log((1 - e) * K * r_k + e)``. Towards 0 rows keep their first component
        whatever the densities say; at 1 the sum is 0, as in the paper, and flexible
        components can drift away from a right partition. Among the flows of a component
        rows are free. Labels in the `y` of a classifier are never wrong.
    input_noise : float or "auto", default="auto"
        Noise in training, as a share of distances. A row moves along the lines to its
        two nearest rows, by independent Gaussians: the standard deviation along each is
        ``input_noise / sqrt(2)`` times its length, times the step size over
        `learning_rate`. Values in a spike of their column do not move. "auto" is 0.5,
        in classifier and detector 0. At 0 flows can follow single rows, from 1 on they
        lose detail.
    repeat_noise : float or "auto", default="auto"
        Largest standard deviation of the noise in training on values that repeat in a
        column, as integers do (dequantization), in standard deviations of the column.
        That of a value is ``min(repeat_noise, d / 2)``: within the distance d, on one
        side, other values hold at least half of its weight. Of integers d is mostly 1.
        It does not shrink with the step size. "auto" is 0, in classifier and detector
        0.25. At 0 flows follow such values with spikes: samples then look like the
        data, but the heights of the spikes say little. Large values leave ``d / 2``.
    validation_fraction : float, default=0.15
        Share of the distinct rows, rounded down, held out until the last phase, in
        (0, 1). They say when a phase ends and whether flows are kept. With fewer than 8
        of them flows are not trained. Few judge by chance; with a large share flows and
        Gaussians have few rows to learn from until the last phase.
    batch_size : int or "auto", default="auto"
        Rows of a step. "auto" is a sixteenth of the training rows, rounded to a power
        of two from 128 to 1024. Small batches have noisy gradients, and an epoch is at
        most 256 of them; from the number of training rows on an epoch is one step.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay of the networks' weight matrices, not of biases: a step
        takes the share ``weight_decay * step size`` of a weight. "auto" is
        ``min(1, 500 * columns / rows)``. What sets a component apart from the others
        decays three times as fast as what they have in common. At 0 nothing decays, and
        flows can follow single rows; large values leave maps that do not depend on the
        other columns.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the training; "float64" takes twice the memory. It is float64 in
        any case where a component is tiny: its mean, in standardised columns, more than
        10 000 of its standard deviations from 0. Scores have the precision of the X
        they are for.
    n_threads : int, "auto" or None, default="auto"
        Threads of torch, BLAS and OpenMP during a fit; those before it are restored.
        "auto" is 1, but where a step multiplies large matrices (hundreds of columns),
        and before and after training where the table has more than two million values,
        what the libraries have; None always leaves them what they have. More threads
        gain nothing on small models, and beside other busy programs make a fit
        several times slower.

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

        There training is on the ELBO alone: no M-step, common layers, noise, weight
        decay or noisy labels, and a decaying temperature. 5 % of the rows are held out,
        in place of 15 %, to choose the best parameters by.

        The rest is up to the estimator: ``init_params="random"`` and the paper's flows,
        on its pinwheel ``flow="realnvp"``, ``n_transforms=8``, ``hidden_units=(8,)``
        and ``learning_rate=1e-3``. The paper trains a fixed number of epochs: ``tol=0``
        and an `n_iter_no_change` above `max_iter`.

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
    """An estimator with a parameter `options`.

    `_auto_options` holds what the options' "auto" stands for in it.
    """

    options: FlowMixtureOptions | None

    _auto_options: ClassVar[dict] = {
        "n_common_transforms": 1,
        "input_noise": 0.5,
        "repeat_noise": 0.0,
    }

    def __new__(cls, *args: Any, **parameters: Any) -> Self:
        """Say where a parameter has gone, or why there is none."""
        for name, value in parameters.items():
            if reason := cls._why_no_parameter(name, value):
                raise TypeError(f"{reason}.")
        return super().__new__(cls)

    @classmethod
    def _why_no_parameter(cls, name: str, value: Any) -> str | None:
        """Reason for which a parameter of that name is somewhere else, or nowhere."""
        if name in MEANINGLESS:
            return f"{cls.__name__} has no {name}: {MEANINGLESS[name]}"
        if name in FlowMixtureOptions._parameter_constraints:
            return (
                f"{name} is an option: give {cls.__name__} "
                f"options=FlowMixtureOptions({name}={value!r})"
            )
        return None

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of `options` as ``options__name``.

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
        """Return new options in which nothing depends on the estimator any more."""
        options = FlowMixtureOptions() if self.options is None else self.options
        options._validate_params()
        values = options.get_params(deep=False)
        for name, value in self._auto_options.items():
            if values[name] == "auto":
                values[name] = value
        return FlowMixtureOptions(**values)

    def _settings(self) -> FitSettings:
        """Collect what shapes and trains a model."""
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
            # Unsigned ones of NumPy overflow, and spoil the type of what they touch.
            if isinstance(value, np.integer):
                values[name] = int(value)
        if values["n_shared_transforms"] > values["n_transforms"]:
            raise ValueError(
                "n_shared_transforms must be at most n_transforms="
                f"{values['n_transforms']}, got {values['n_shared_transforms']}."
            )
        return FitSettings(**values)


def widths(name: str, units: Any) -> tuple[int, ...]:
    """Return the widths of hidden layers as a tuple; one number is one layer."""
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
