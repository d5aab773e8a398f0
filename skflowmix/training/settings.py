"""The parameters of an estimator that shape and train one model."""

from dataclasses import dataclass

import numpy as np

from skflowmix.model.flows import FlowFamily
from skflowmix.training.trainer import TrainingConfig

__all__ = [
    "ALL_ROWS",
    "ELBO",
    "EPOCH_ROWS",
    "M_STEP",
    "FitSettings",
]

# Rows per column beyond which the automatic weight decay falls below 1.
ROWS_TO_DECAY = 500

# The phases of training, as the history names them. The last one has `FINAL_EPOCHS`
# epochs or, if small steps found the best model and it is more, `FINAL_SHARE` of the
# epochs on the ELBO, at most `MAX_FINAL_EPOCHS`.
M_STEP, ELBO, ALL_ROWS = "m-step", "elbo", "all rows"
FINAL_EPOCHS, MAX_FINAL_EPOCHS = 8, 32
FINAL_SHARE = 0.25

# Most fits take fewer epochs on the ELBO than this.
USUAL_EPOCHS = 40

# Largest numbers of rows and steps per epoch: how many a large table needs until
# held-out rows stop gaining hardly grows with its size.
EPOCH_ROWS = 65_536
MAX_STEPS = 256

# Below these numbers of multiplications, per batch and component, and of table values
# one thread is as fast as several, which wait for each other when other programs run.
# A spline has `MAP_PARAMETERS` parameters.
PRODUCTS_TO_SHARE = 2e8
VALUES_TO_SHARE = 2e6
MAP_PARAMETERS = 23


@dataclass(frozen=True)
class FitSettings:
    """The estimator's parameters that shape and train a model.

    Named and documented as in `skflowmix.FlowMixture` and `FlowMixtureOptions`.
    """

    flow: str | FlowFamily
    n_transforms: int
    n_common_transforms: int
    n_shared_transforms: int
    n_flows_per_component: int | str
    hidden_units: tuple[int, ...]
    posterior_units: tuple[int, ...]
    temperature: float
    temperature_decay: float
    label_noise: float
    input_noise: float
    repeat_noise: float
    max_iter: int
    n_iter_init: int
    tol: float
    n_iter_no_change: int
    n_init: int
    reg_covar: float
    validation_fraction: float
    batch_size: int | str
    learning_rate: float
    weight_decay: float | str
    dtype: str
    n_threads: int | str | None

    def most_epochs_of(self, phase: str) -> int:
        """Return the largest number of epochs of a phase."""
        return {
            M_STEP: self.n_iter_init,
            ELBO: self.max_iter,
            ALL_ROWS: min(MAX_FINAL_EPOCHS, self.max_iter),
        }[phase]

    def final_epochs(self, n_epochs: int, *, in_small_steps: bool) -> int:
        """Return the number of epochs on all rows, after `n_epochs` on the ELBO."""
        wanted = FINAL_EPOCHS
        if in_small_steps:
            wanted = max(wanted, int(FINAL_SHARE * n_epochs))
        return min(wanted, self.most_epochs_of(ALL_ROWS))

    def most_epochs(self) -> int:
        """Return the largest number of epochs of a candidate.

        It may have two starts, twice as many if components are divided, and a restart.
        """
        m_step, elbo, all_rows = (
            self.most_epochs_of(phase) for phase in (M_STEP, ELBO, ALL_ROWS)
        )
        n_m_steps = 5 if self.n_flows_per_component == "auto" else 3
        return n_m_steps * m_step + 2 * elbo + all_rows

    def usual_epochs(self) -> int:
        """Return a number of epochs that most candidates do not exceed."""
        m_step, elbo, all_rows = (
            self.most_epochs_of(phase) for phase in (M_STEP, ELBO, ALL_ROWS)
        )
        return m_step + min(elbo, USUAL_EPOCHS) + min(all_rows, FINAL_EPOCHS)

    def batch_size_for(self, n_rows: int) -> int:
        """Return the number of rows of a batch, out of `n_rows`."""
        if self.batch_size == "auto":
            return int(2 ** np.clip(np.round(np.log2(n_rows / 16)), 7, 10))
        return int(self.batch_size)

    def threads_to_train(self, n_rows: int, n_columns: int) -> int | None:
        """Return the number of threads for training; None where libraries decide."""
        return self._threads(self._steps_are_large(n_rows, n_columns))

    def threads_to_fit(self, n_rows: int, n_columns: int) -> int | None:
        """Return the number of threads for the work before and after training."""
        is_large = n_rows * n_columns > VALUES_TO_SHARE
        return self._threads(is_large or self._steps_are_large(n_rows, n_columns))

    def _steps_are_large(self, n_rows: int, n_columns: int) -> bool:
        # The largest matrix product is of hidden units and spline parameters.
        widest = max((1, *self.hidden_units))
        n_products = self.batch_size_for(n_rows) * widest * n_columns * MAP_PARAMETERS
        return n_products > PRODUCTS_TO_SHARE

    def _threads(self, is_large: bool) -> int | None:
        if self.n_threads == "auto":
            return None if is_large else 1
        return None if self.n_threads is None else int(self.n_threads)

    def training_config(
        self,
        max_epochs: int,
        n_drops: int,
        n_rows: int,
        n_columns: int,
        n_counted: float,
    ) -> TrainingConfig:
        """Return the settings of one training phase.

        The `n_rows` rows of the table stand for `n_counted` rows, see `row_counts`.
        """
        weight_decay = self.weight_decay
        if weight_decay == "auto":
            weight_decay = min(1.0, ROWS_TO_DECAY * n_columns / n_counted)
        return TrainingConfig(
            max_epochs=max_epochs,
            learning_rate=self.learning_rate,
            patience=self.n_iter_no_change,
            tol=self.tol,
            weight_decay=float(weight_decay),
            n_drops=n_drops,
            max_steps=min(max(EPOCH_ROWS // self.batch_size_for(n_rows), 1), MAX_STEPS),
        )
