"""Log-densities of fixed rows, updated every epoch without evaluating all pairs."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from skflowmix.model.mixture import MixtureModule

__all__ = ["TrackedDensities"]

# A pair (row, component) is recomputed while its share of the row's density is more
# than this divided by the number of components.
LEAST_SHARE = 1e-4

# Every `DENSE_EVERY`-th update recomputes all pairs.
DENSE_EVERY = 8


class TrackedDensities:
    r"""Component log-densities of fixed rows while a model trains.

    An update recomputes the pairs that dominate the rows' densities, and keeps the last
    values of the others, which together make up less than `LEAST_SHARE` of a row's
    density by these values. Every `DENSE_EVERY`-th update, and on a GPU every update,
    recomputes all pairs. :math:`\log p(x)` is then off by less than `LEAST_SHARE` nats,
    unless a pair that was kept has grown by several nats since.

    Parameters
    ----------
    model : MixtureModule
        The model.
    x : Tensor of shape (N, D)
        The standardised rows.
    needed : Tensor of shape (N, K), bool, optional
        Pairs that are always recomputed.
    allowed : Tensor of shape (N, K), bool, optional
        Pairs that the rows' known classes allow: pairs that dominate the density
        restricted to these are recomputed as well.

    Attributes
    ----------
    log_prob : Tensor of shape (N, K)
        log p(x|k) as last computed, in nats.
    """

    def __init__(
        self,
        model: MixtureModule,
        x: Tensor,
        needed: Tensor | None = None,
        allowed: Tensor | None = None,
    ):
        self.model, self.x, self.needed, self.allowed = model, x, needed, allowed
        self.margin = math.log(model.n_components / LEAST_SHARE)
        self.n_updates = 0
        with torch.no_grad():
            self.log_prob = model.component_log_prob(x)

    @torch.no_grad()
    def update(self) -> Tensor:
        """Update `log_prob` and return it."""
        self.n_updates += 1
        # On a GPU, waiting for the number of pairs would be slow.
        if self.x.is_cuda or self.n_updates % DENSE_EVERY == 0:
            self.log_prob = self.model.component_log_prob(self.x)
        else:
            chosen = self._chosen()
            anew = self.model.chosen_log_prob(self.x, chosen)
            self.log_prob = torch.where(chosen, anew, self.log_prob)
        return self.log_prob

    def _chosen(self) -> Tensor:
        log_joint = self.log_prob + self.model.log_weights
        # Negated, so that NaN is recomputed.
        chosen = ~(log_joint < log_joint.amax(1, keepdim=True) - self.margin)
        if self.allowed is not None:
            of_class = log_joint.masked_fill(~self.allowed, -math.inf)
            chosen |= self.allowed & ~(
                log_joint < of_class.amax(1, keepdim=True) - self.margin
            )
        return chosen if self.needed is None else chosen | self.needed

    def state_dict(self) -> dict[str, Any]:
        """Return the state that updates depend on besides the model."""
        return {"log_prob": self.log_prob.clone(), "n_updates": self.n_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.log_prob = state["log_prob"].clone()
        self.n_updates = state["n_updates"]
