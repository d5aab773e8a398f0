"""What of an estimator's parameters shapes and trains one model."""

from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from skflowmix.training.trainer import TrainingConfig

__all__ = ["FitSettings"]

# With more rows per column than this, weights decay less.
ROWS_TO_DECAY = 500


@dataclass(frozen=True)
class FitSettings:
    """The estimator's parameters that shape and train a model.

    Named and documented as in `skflowmix.FlowMixture`.
    """

    flow: str
    n_transforms: int
    n_common_transforms: int
    n_shared_transforms: int
    hidden_units: tuple[int, ...]
    posterior_units: tuple[int, ...]
    temperature: float
    temperature_decay: float
    label_noise: float
    input_noise: float
    repeat_noise: float
    weight_concentration_prior: float | None
    max_iter: int
    n_iter_init: int
    tol: float
    n_iter_no_change: int
    batch_size: int | str
    learning_rate: float
    weight_decay: float | str
    dtype: str

    @classmethod
    def of(cls, estimator) -> "FitSettings":
        """Take the settings among an estimator's parameters."""
        values = {field.name: getattr(estimator, field.name) for field in fields(cls)}
        for name in ("hidden_units", "posterior_units"):
            values[name] = tuple(int(width) for width in values[name])
        return cls(**values)

    def training_config(
        self, max_epochs: int, n_drops: int, x: Tensor, n_counted: float | None = None
    ) -> TrainingConfig:
        """Return the settings of one training phase on rows x.

        They may stand for more rows, `n_counted`.
        """
        n_rows, n_columns = x.shape
        batch_size, weight_decay = self.batch_size, self.weight_decay
        if batch_size == "auto":
            batch_size = int(2 ** np.clip(np.round(np.log2(n_rows / 16)), 7, 10))
        if weight_decay == "auto":
            weight_decay = min(1.0, ROWS_TO_DECAY * n_columns / (n_counted or n_rows))
        return TrainingConfig(
            max_epochs=max_epochs,
            batch_size=int(batch_size),
            learning_rate=self.learning_rate,
            patience=self.n_iter_no_change,
            tol=self.tol,
            weight_decay=float(weight_decay),
            n_drops=n_drops,
        )
