"""The model: components, their weights, and the amortised posterior."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skflowmix.model.components import FEW_ROWS, Components, FlowComponents
from skflowmix.model.groups import Groups
from skflowmix.model.nn import PosteriorNet
from skflowmix.model.pairs import SPARSE_SHARE, AllPairs, Support
from skflowmix.starts.gaussians import Gaussians

__all__ = [
    "MixtureModule",
    "elbo_terms",
    "log_softmax",
]

# Standardised rows are clipped to +-this for the posterior network.
POSTERIOR_BOUND = 10.0

# Lower bound, in nats, of the Gaussians' log-posterior that the network corrects.
LEAST_LOG_POSTERIOR = -10.0


def log_softmax(logits: Tensor) -> Tensor:
    """Return the log-softmax of each row; transposed, since short rows are slow."""
    return logits.T.log_softmax(0).T


def elbo_terms(
    log_prob: Tensor, log_prior: Tensor, log_posterior: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the reconstruction, prior and entropy terms of the ELBO, each (N,).

    .. math::

        \sum_k q_k \log p(x|k), \quad \sum_k q_k \log p(k), \quad
        -\sum_k q_k \log q_k

    Their sum is at most :math:`\log p(x)`, by Jensen's inequality.

    Parameters
    ----------
    log_prob : Tensor of shape (N, K)
        Component log-densities log p(x|k), in nats.
    log_prior : Tensor of shape (K,)
        Log-weights log p(k).
    log_posterior : Tensor of shape (N, K)
        log q(k|x).

    Returns
    -------
    reconstruction, prior, entropy : Tensor of shape (N,)
        In nats.
    """
    q = log_posterior.exp()
    return (
        (q * log_prob).sum(1),
        (q * log_prior).sum(1),
        -(q * log_posterior).sum(1),
    )


class MixtureModule(nn.Module):
    r"""Mixture of K components with an amortised posterior.

    .. math:: p(x) = \sum_k \pi_k \, p(x|k)

    All methods take standardised rows. Several components can form a group, such as the
    flows of one component of an estimator: its responsibilities and weight are sums
    over them, its density their weighted mean.

    Parameters
    ----------
    components : Components
        The densities p(x|k).
    posterior : PosteriorNet
        Logits of q(z|x).
    weights : ndarray of shape (K,)
        The initial weights :math:`\pi_k`.
    groups : Groups, optional
        The groups of components; by default, each component is its own group.

    References
    ----------
    G. G. P. Freitas Pires and M. A. T. Figueiredo, Variational Mixture of
    Normalizing Flows, ESANN 2020, arXiv:2009.00585.
    """

    temperature: Tensor

    def __init__(
        self,
        components: Components,
        posterior: PosteriorNet,
        weights: np.ndarray,
        groups: Groups | None = None,
    ):
        super().__init__()
        self.components, self.posterior = components, posterior
        self.groups = Groups.singles(len(weights)) if groups is None else groups
        self.double()
        self.weight_logits = nn.Parameter(torch.from_numpy(np.log(weights)))
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    @classmethod
    def of_flows(
        cls,
        gaussians: Gaussians,
        *,
        posterior_units: Sequence[int],
        generator: torch.Generator,
        groups: Groups | None = None,
        **flows: Any,
    ) -> "MixtureModule":
        """Make a mixture of flows that starts as a mixture of Gaussians.

        Parameters
        ----------
        gaussians : Gaussians
            Where the components start, with their weights.
        posterior_units : sequence of int
            Widths of the hidden layers of q(z|x).
        generator : torch.Generator
            Source of the initial network weights.
        groups : Groups, optional
            The groups of components; by default, each component is its own group.
        **flows : dict
            Further parameters of `FlowComponents`.

        Returns
        -------
        mixture : MixtureModule
            In float64, on the CPU.
        """
        components = FlowComponents(gaussians, generator=generator, **flows)
        posterior = PosteriorNet(
            components.n_features,
            components.n_components,
            posterior_units,
            generator=generator,
        )
        return cls(components, posterior, gaussians.weights, groups)

    def spec(self) -> dict[str, Any]:
        """Return what `from_spec` needs to rebuild the mixture, except its tensors."""
        return {
            "components": self.components.spec(),
            "posterior_units": self.posterior.hidden_units,
            "group_sizes": self.groups.sizes.tolist(),
        }

    @classmethod
    def from_spec(
        cls, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> "MixtureModule":
        """Make a mixture of flows, in float64 on the CPU, from its parts.

        Parameters
        ----------
        spec : mapping
            What `spec` returned.
        arrays : mapping of str to ndarray
            What `arrays` returned.

        Returns
        -------
        mixture : MixtureModule
            The same model.

        Raises
        ------
        RuntimeError
            If an array is missing or has another shape.
        """
        with torch.device("cpu"):  # whatever the default device is
            components = FlowComponents.from_spec(spec["components"])
            n_components = components.n_components
            posterior = PosteriorNet(
                components.n_features,
                n_components,
                spec["posterior_units"],
                generator=torch.Generator(),
            )
            groups = Groups(spec["group_sizes"])
            mixture = cls(components, posterior, np.ones(n_components), groups)
            tensors = {name: torch.from_numpy(a.copy()) for name, a in arrays.items()}
            mixture.load_state_dict(tensors)
        return mixture

    def arrays(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters and buffers, by name."""
        state = self.state_dict()
        return {name: state[name].numpy(force=True).copy() for name in sorted(state)}

    def __getstate__(self) -> dict[str, Any]:
        """Return a state without torch objects: equal models have equal pickles."""
        return {"spec": self.spec(), "arrays": self.arrays()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(self.from_spec(state["spec"], state["arrays"]).__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> "MixtureModule":
        """Copy the module as it is, in its dtype and on its device."""
        other = self.__class__.__new__(self.__class__)
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    @property
    def architecture(self) -> dict:
        """Parameters that cannot change once the model is built."""
        units = {"posterior_units": self.posterior.hidden_units}
        return {**self.components.architecture, **units}

    @property
    def floats_per_row(self) -> int:
        """Approximate working memory of an evaluation per row, in floats."""
        return self.components.floats_per_row

    @property
    def n_components(self) -> int:
        """Number K of components."""
        return self.components.n_components

    @property
    def n_features(self) -> int:
        """Number D of columns."""
        return self.components.n_features

    def with_gaussians(self, gaussians: Gaussians) -> "MixtureModule":
        """Return a copy whose components whiten by other Gaussians; CPU only."""
        other = copy.deepcopy(self)
        other.components = self.components.with_gaussians(gaussians)
        return other

    @torch.no_grad()
    def with_parameters_of(self, other: "MixtureModule") -> "MixtureModule":
        """Return a copy with the parameters of a model of another dtype or device."""
        model = copy.deepcopy(self)
        pairs = zip(model.parameters(), other.parameters(), strict=True)
        for kept, new in pairs:
            kept.copy_(new)
        model.temperature.copy_(other.temperature)
        return model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """See `skflowmix.model.components.Components`."""
        groups = self.components.parameter_groups()
        return {
            "pooled": groups["pooled"],
            "decayed": [*self.posterior.weights, *groups["decayed"]],
            "plain": [*self.posterior.biases, self.weight_logits, *groups["plain"]],
        }

    def flow_weights(self) -> np.ndarray:
        """Return the mixture weights of the flows."""
        return self.log_weights.detach().exp().cpu().numpy()

    def group_weights(self) -> np.ndarray:
        """Return the mixture weights of the groups of flows."""
        return self.groups.sum(self.flow_weights()[None])[0]

    @property
    def log_weights(self) -> Tensor:
        """Log mixture weights, of shape (K,)."""
        return self.weight_logits.log_softmax(0)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of every component at every row.

        Parameters
        ----------
        x : Tensor of shape (N, D)
            Standardised rows.

        Returns
        -------
        log_prob : Tensor of shape (N, K)
            log p(x|k), in nats.
        """
        return self.components.log_prob_of_all(x)

    def chosen_log_prob(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Return the log-densities of chosen pairs of rows and components.

        Parameters
        ----------
        x : Tensor of shape (N, D)
            Standardised rows.
        chosen : Tensor of shape (N, K), bool
            The pairs.

        Returns
        -------
        log_prob : Tensor of shape (N, K)
            log p(x|k), in nats; -inf elsewhere.
        """
        capacity = int(chosen.sum(0).max())
        if capacity == 0:
            return torch.full_like(chosen, -math.inf, dtype=x.dtype)
        if capacity >= SPARSE_SHARE * len(x):
            log_prob = self.component_log_prob(x)
        else:
            support = Support(chosen, capacity)
            entries = self.components.log_prob(x, support)
            log_prob = support.scatter(entries, len(x)).T
        return log_prob.masked_fill(~chosen, -math.inf)

    def training_log_prob(self, x: Tensor, pairs: Support | AllPairs) -> Tensor:
        """Return log-densities (K, C) of `pairs`, with gradients for training.

        In the gradients, the flow's share of a row is at least its prior share of the
        component, even if the row is much likelier under the base distribution. With
        the exact gradient, a flow that a few steps have moved off its rows would not
        return to them.
        """
        return self.components.log_prob(x, pairs, trains=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) of the mixture, in nats: (N, D) to (N,)."""
        return (self.component_log_prob(x) + self.log_weights).logsumexp(1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Return the exact p(z=k|x), by Bayes' rule: (N, D) to (N, K)."""
        return (self.component_log_prob(x) + self.log_weights).softmax(1)

    def group_sums(self, values: Tensor) -> Tensor:
        """Add up over the components of each group: (..., K) to (..., G)."""
        if self.groups.are_single:
            return values
        return torch.stack([own.sum(-1) for own in self.groups.parts(values)], -1)

    def group_logsumexp(self, values: Tensor) -> Tensor:
        """Return the logarithm of the sum of exponentials over each group."""
        if self.groups.are_single:
            return values
        parts = self.groups.parts(values)
        return torch.stack([own.logsumexp(-1) for own in parts], -1)

    def group_log_joint(self, x: Tensor) -> Tensor:
        """Return log p(x, group), in nats: (N, D) to (N, G)."""
        return self.group_logsumexp(self.component_log_prob(x) + self.log_weights)

    def group_log_prob(self, x: Tensor) -> Tensor:
        """Return log-densities of all groups at rows, in nats: (N, D) to (N, G)."""
        log_prob = self.component_log_prob(x)
        if self.groups.are_single:
            return log_prob
        log_joint = self.group_logsumexp(log_prob + self.log_weights)
        return log_joint - self.group_logsumexp(self.log_weights)

    def group_responsibilities(self, x: Tensor) -> Tensor:
        """Return the exact responsibilities of the groups: (N, D) to (N, G)."""
        return self.group_sums(self.responsibilities(x))

    def group_posterior_proba(self, x: Tensor) -> Tensor:
        """Return the amortised posterior of the groups: (N, D) to (N, G)."""
        return self.group_sums(self.posterior_proba(x))

    def predict(self, x: Tensor) -> Tensor:
        """Return the most probable group of each row: (N, D) to (N,).

        Flows are evaluated only where bounds leave two groups possible.
        """
        # On a GPU, waiting for the number of such rows would be slow.
        if x.is_cuda or len(x) <= FEW_ROWS:
            return self.group_log_joint(x).argmax(1)
        bounds = self.components.log_prob_bounds(x)
        lower, upper = (self.group_logsumexp(b + self.log_weights) for b in bounds)
        least, labels = lower.max(1, keepdim=True)
        others = upper.scatter(1, labels, -math.inf).amax(1, keepdim=True)
        is_open = ~(least > others).squeeze(1)  # negated, so that NaN is open
        labels = labels.squeeze(1)
        if is_open.any():
            labels[is_open] = self.group_log_joint(x[is_open]).argmax(1)
        return labels

    def label_bound_and_log_prob(self, x: Tensor) -> Tensor:
        """Return group, ELBO and log p(x) of each row: (N, D) to (N, 3)."""
        log_prob = self.component_log_prob(x)
        log_joint = log_prob + self.log_weights
        log_q = self.log_posterior(x)
        elbo = torch.stack(elbo_terms(log_prob, self.log_weights, log_q)).sum(0)
        labels = self.group_logsumexp(log_joint).argmax(1).to(elbo)
        return torch.stack((labels, elbo, log_joint.logsumexp(1)), 1)

    def elbo(self, x: Tensor) -> Tensor:
        """Return the evidence lower bound, in nats: (N, D) to (N,)."""
        return self.label_bound_and_log_prob(x)[:, 1]

    def posterior_proba(self, x: Tensor) -> Tensor:
        """Return the amortised q(z=k|x): (N, D) to (N, K)."""
        return self.posterior_logits(x).softmax(1)

    def posterior_logits(self, x: Tensor) -> Tensor:
        """Return logits of q(z|x): (N, D) to (N, K).

        The network's logits, divided by the temperature. If the components provide
        Gaussian log-densities, the log-posterior of these Gaussians is added, divided
        by the temperature where that is above 1: it is no sharper than Bayes' rule.
        """
        bounded = x.clamp(-POSTERIOR_BOUND, POSTERIOR_BOUND)
        logits = self.posterior(bounded) / self.temperature
        with torch.no_grad():
            log_prob = self.components.gaussian_log_prob(x)
            if log_prob is None:
                return logits
            log_joint = log_prob + self.log_weights.unsqueeze(1)
            log_prior = log_joint.log_softmax(0).clamp(min=LEAST_LOG_POSTERIOR).T
            log_prior = log_prior / self.temperature.clamp(min=1.0)
        return logits + log_prior

    def log_posterior(self, x: Tensor) -> Tensor:
        """Return the amortised log q(z=k|x): (N, D) to (N, K)."""
        return log_softmax(self.posterior_logits(x))

    def sample(self, component: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one standardised row from each of the given components.

        Parameters
        ----------
        component : Tensor of shape (N,), int64
            Component of every row.
        generator : torch.Generator
            Source of the draws. A CPU generator draws the same for every device.

        Returns
        -------
        x : Tensor of shape (N, D)
            The rows.
        """
        return self.components.sample(component, generator)

    def select_(self, index: Tensor) -> None:
        """Reorder the components, or keep some of them, in place.

        Components of a group must stay adjacent.
        """
        self.groups = self.groups.select(index.numpy(force=True))
        self.components.select_(index)
        self.posterior.permute_(index)
        self.weight_logits.data = self.weight_logits.data[index]
