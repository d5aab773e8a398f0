"""Training objectives: the M-step at fixed responsibilities, the ELBO, q(z|x)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from skflowmix._arrays import rows_per_chunk
from skflowmix.model.mixture import MixtureModule, elbo_terms, log_softmax
from skflowmix.model.nn import Recorded
from skflowmix.model.pairs import SPARSE_SHARE, AllPairs, Support
from skflowmix.training.batches import Batch, Noise, RowSource
from skflowmix.training.tracking import TrackedDensities

__all__ = [
    "ElboObjective",
    "MStepObjective",
    "PosteriorObjective",
    "Temperature",
    "clearly_gains",
    "robust_gain",
    "truncated_responsibilities",
]

# Pairs (x, k) with a smaller responsibility or q(k|x) are left out.
MIN_POSTERIOR = 1e-3

# Components with a smaller share are left out of the last fit of q(z|x).
LEAST_SHARE = 1e-4

# Added to log q of pairs that are left out: their share is zero, without infinities,
# whose product with zero would be undefined.
LEFT_OUT = -1e4

# Every `DENSE_EVERY`-th step is dense, so that components that q has abandoned can
# recover. With more than `DENSE_PAIRS` components it is dense for only some rows, with
# `DENSE_PAIRS` pairs per row on average.
DENSE_EVERY = 16
DENSE_PAIRS = 8

# The demand of an epoch is the largest share of a batch for which one component was
# chosen. On a GPU the capacity of the next epoch is `SPARE_CAPACITY` times the demand,
# rounded up to a multiple of 1 / `CAPACITY_STEPS`. It shrinks only to
# `SHRINKING_CAPACITY` of itself or less: each capacity needs its own graph.
SPARE_CAPACITY = 1.1
CAPACITY_STEPS = 32
SHRINKING_CAPACITY = 0.8

# Bound on the gain or loss of each held-out row, in nats per column.
GAIN_BOUND = 5.0

# With this many held-out rows the gain must exceed two standard errors, with many one.
FEW_ROWS_TO_JUDGE = 8

# Largest numbers of rows, and of their values, on which the history's training figures
# are computed.
SAMPLE_SIZE = 128
SAMPLE_VALUES = 25_600


def robust_gain(rows: Batch, log_prob: Tensor, reference: Tensor) -> Tensor:
    """Return the mean gain in log-density over a reference, each row's gain bounded.

    Parameters
    ----------
    rows : Batch
        The N rows.
    log_prob, reference : Tensor of shape (N,)
        Log-densities to compare, in nats.

    Returns
    -------
    gain : Tensor of shape ()
        In nats per row.
    """
    return rows.mean(_bounded_gains(rows, log_prob, reference))


def clearly_gains(rows: Batch, log_prob: Tensor, reference: Tensor) -> bool:
    """Return whether the `robust_gain` exceeds a multiple of its standard error.

    The factor is 1 for many rows and more for few, where the best of many epochs may
    gain by chance.
    """
    gains = _bounded_gains(rows, log_prob, reference)
    mean = rows.mean(gains)
    error = torch.linalg.vector_norm(rows.weights * (gains - mean)) / rows.weights.sum()
    return bool(mean > error * (1 + FEW_ROWS_TO_JUDGE / rows.n_counted))


def _bounded_gains(rows: Batch, log_prob: Tensor, reference: Tensor) -> Tensor:
    bound = GAIN_BOUND * rows.x.shape[1]
    # Models whose Gaussians are ill-conditioned are trained in float64.
    return (log_prob - reference).to(rows.weights.dtype).clamp(-bound, bound)


def _expected_loss(
    logits: Tensor,
    log_q: Tensor,
    log_prob: Tensor,
    pairs: Support | AllPairs,
    log_prior: Tensor,
    weights: Tensor,
) -> Tensor:
    r"""Sum over rows of :math:`w \sum_k q_k (\log q_k - \log p(x|k) - \log p(k))`.

    One autograd function in place of about twenty small ones.

    Parameters
    ----------
    logits : Tensor of shape (N, K)
        Logits of q, which receive its gradient.
    log_q : Tensor of shape (K, N)
        log q(k|x) of these logits, without autograd.
    log_prob : Tensor of shape (K, C)
        log p(x|k) of `pairs`, which include all pairs with positive q in rows of
        positive weight.
    pairs : Support or AllPairs
        The pairs.
    log_prior : Tensor of shape (K, 1) or (K, N)
        log p(k).
    weights : Tensor of shape (N,)
        Weights w.

    Returns
    -------
    loss : Tensor of shape ()
        In nats.
    """

    def record(
        _logits: Tensor, log_prob: Tensor, log_prior: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        q = log_q.softmax(0)  # exp is slow where it underflows
        shares = q * weights
        loss = log_q - log_prior - pairs.scatter(log_prob, len(weights))

        def backward(grad: Tensor) -> tuple[Tensor, ...]:
            on_loss = shares * grad
            on_logits = on_loss * (loss - (q * loss).sum(0))
            on_log_p = on_loss.neg()
            on_prior = on_log_p if log_prior.shape[1] > 1 else on_log_p.sum(1, True)
            return on_logits.T, pairs.gather(on_log_p), on_prior

        return (shares * loss).sum(), backward

    return Recorded.apply(record, logits, log_prob, log_prior)[0]


class _Objective(ABC):
    """Base of M-step and ELBO: the rows, the pairs evaluated, the figures reported.

    On the CPU a support holds all chosen pairs. On a GPU waiting for their number would
    be slow, so `plans_ahead` is set: the capacity is the largest demand of the previous
    epoch plus a margin, and the first epoch is dense. Pairs beyond the capacity are
    left out of the step.
    """

    def __init__(
        self,
        model: MixtureModule,
        source: RowSource,
        held_out: Batch,
        noise: Noise | None = None,
    ):
        self.model, self.source, self.held_out = model, source, held_out
        self.noise = noise
        self.generators: Sequence[torch.Generator] = (
            () if noise is None else (noise.generator,)
        )
        self.plans_ahead = held_out.x.is_cuda
        # Shares of a batch: the capacity of a component, and the largest demand.
        self._capacity, self._demand = 1.0, held_out.x.new_zeros(())
        n_columns = max(held_out.x.shape[1], 1)
        n_sampled = min(SAMPLE_SIZE, max(SAMPLE_VALUES // n_columns, 1))
        self._sample = source.sample(n_sampled)
        self._tracked = TrackedDensities(
            model,
            torch.cat((held_out.x, self._sample.x)),
            *self._tracked_pairs(),
        )
        with torch.no_grad():
            self._reference = self._held_out_log_prob(self._tracked_log_prob()[0])

    def _tracked_pairs(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the `needed` and `allowed` pairs of `TrackedDensities`."""
        return None, None

    def _tracked_log_prob(self) -> tuple[Tensor, ...]:
        """Return log p(x|k) of held-out and of sample rows, as last computed."""
        return self._tracked.log_prob.split((len(self.held_out), len(self._sample)))

    def _move(self, batch: Batch, step_share: float) -> None:
        if self.noise is not None:
            self.noise.move(batch, step_share)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that losses and scores depend on besides the parameters."""
        return {
            "capacity": self._capacity,
            "demand": self._demand.clone(),
            "reference": self._reference.clone(),
            "tracked": self._tracked.state_dict(),
            "generators": [generator.get_state() for generator in self.generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._capacity = state["capacity"]
        self._demand.copy_(state["demand"])
        self._reference.copy_(state["reference"])
        self._tracked.load_state_dict(state["tracked"])
        for generator, own in zip(self.generators, state["generators"], strict=True):
            generator.set_state(own)

    @abstractmethod
    def _held_out_log_prob(self, log_prob: Tensor) -> Tensor:
        """Return the held-out values whose gain is the score, given log p(x|k)."""

    def begin_step(self, starts_epoch: bool) -> Hashable:
        """See `skflowmix.training.trainer.Objective`."""
        if starts_epoch and self.plans_ahead and (demand := float(self._demand)):
            steps = math.ceil(SPARE_CAPACITY * demand * CAPACITY_STEPS)
            capacity = steps / CAPACITY_STEPS
            shrinks = capacity <= SHRINKING_CAPACITY * self._capacity
            if demand > self._capacity or shrinks:
                self._capacity = capacity
            self._demand.zero_()
        return self._capacity

    def _pairs(
        self, chosen: Tensor, is_dense: bool = False
    ) -> tuple[Support | AllPairs, Tensor]:
        """Return the pairs to evaluate, and which `chosen` pairs (N, K) they hold."""
        n_rows = len(chosen)
        if not self.plans_ahead:
            capacity = int(chosen.sum(0).max())
        elif is_dense:
            capacity = n_rows
        else:
            demand = chosen.sum(0).amax() / n_rows
            torch.maximum(self._demand, demand, out=self._demand)
            capacity = math.ceil(self._capacity * n_rows)
        if capacity < SPARSE_SHARE * n_rows:
            support = Support(chosen, capacity)
            return support, support.kept
        return AllPairs(self.model.n_components), chosen

    def _log_prob_of(self, x: Tensor, pairs: Support | AllPairs) -> Tensor:
        """Return log p(x|k) of the pairs: (K, C) or (K, N)."""
        return self.model.training_log_prob(x, pairs)

    def _figures(self, log_prob: Tensor) -> dict[str, Tensor]:
        """Return the figures of the sample, given log p(x|k)."""
        model, rows = self.model, self._sample
        log_q = model.log_posterior(rows.x)
        terms = elbo_terms(log_prob, model.log_weights, log_q)
        names = ("elbo_reconstruction", "elbo_prior", "elbo_entropy")
        figures = {
            name: rows.mean(term) for name, term in zip(names, terms, strict=True)
        }
        log_joint = log_prob + model.log_weights
        weights = model.group_sums(model.log_weights.exp())
        expected_rows = weights * self.source.n_counted
        return {
            "train_log_likelihood": rows.mean(log_joint.logsumexp(1)),
            "elbo": torch.stack([*figures.values()]).double().sum(),
            **figures,
            "temperature": model.temperature,
            "n_components_in_use": (expected_rows >= 1).sum(),
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        """Return log-likelihoods, ELBO and its terms, and the score, in nats per row.

        They are as exact as `skflowmix.training.tracking.TrackedDensities`.
        """
        held_out = self.held_out
        self._tracked.update()
        log_prob, of_sample = self._tracked_log_prob()
        mixture = (log_prob + self.model.log_weights).logsumexp(1)
        gain = robust_gain(held_out, self._held_out_log_prob(log_prob), self._reference)
        return {
            "score": gain,
            "validation_log_likelihood": held_out.mean(mixture),
            **self._figures(of_sample),
        }


class MStepObjective(_Objective):
    r"""Expected complete log-likelihood at fixed responsibilities r.

    .. math:: \sum_k r_k(x) \bigl(\log p(x|k) + \log p(k) + \log q(k|x)\bigr)

    Pairs (x, k) with less than `MIN_POSTERIOR` are left out, and r is renormalised on
    the others: with hard labels a step costs the same for every K. The score is the
    held-out gain of the first term. A pair beyond the capacity on a GPU loses only its
    log p(x|k).

    Parameters
    ----------
    model : MixtureModule
        The model to train.
    source : RowSource
        Rows to train on.
    held_out : Batch
        Rows to evaluate on.
    noise : Noise, optional
        Noise on the training rows.
    """

    def _held_out_log_prob(self, log_prob: Tensor) -> Tensor:
        return (self.held_out.responsibilities * log_prob).sum(1)

    def _tracked_pairs(self) -> tuple[Tensor | None, Tensor | None]:
        rows = (self.held_out.responsibilities, self._sample.responsibilities)
        return torch.cat(rows) >= MIN_POSTERIOR, None

    def loss(self, batch: Batch, step_share: float = 1.0) -> Tensor:
        """Return the negative objective, in nats per row."""
        self._move(batch, step_share)
        r = batch.responsibilities
        chosen = r >= r.amax(1, keepdim=True).clamp(max=MIN_POSTERIOR)
        r = r * chosen
        log_q = self.model.log_posterior(batch.x)
        shares = r * (batch.batch_weights() / r.sum(1)).unsqueeze(1)
        pairs, _ = self._pairs(chosen)
        log_prob = self._log_prob_of(batch.x, pairs)
        expected = (pairs.gather(shares.T) * log_prob).sum()
        return -expected - (shares * (log_q + self.model.log_weights)).sum()


@torch.no_grad()
def truncated_responsibilities(model: MixtureModule, batch: Batch) -> Tensor:
    """Return the responsibilities of components with a share of q or of the start.

    Parameters
    ----------
    model : MixtureModule
        The model.
    batch : Batch
        N rows, with their first responsibilities.

    Returns
    -------
    responsibilities : Tensor of shape (N, K)
        Each row sums to one.
    """
    step = rows_per_chunk(model.floats_per_row, batch.x.device)
    parts = []
    for x, start in zip(
        batch.x.split(step), batch.responsibilities.split(step), strict=True
    ):
        shares = torch.maximum(model.posterior_proba(x), start)
        chosen = shares >= shares.amax(1, keepdim=True).clamp(max=LEAST_SHARE)
        log_prob = model.chosen_log_prob(x, chosen)
        parts.append((log_prob + model.log_weights).softmax(1))
    return torch.cat(parts)


class PosteriorObjective:
    r"""Cross-entropy of q(z|x) to fixed responsibilities.

    .. math:: -\sum_k r_k(x) \log q(k|x)

    Parameters
    ----------
    model : MixtureModule
        The model whose posterior network is trained.
    source : RowSource
        Rows to train on.
    held_out : Batch
        Rows to evaluate on.
    """

    def __init__(self, model: MixtureModule, source: RowSource, held_out: Batch):
        self.model, self.source, self.held_out = model, source, held_out
        self.generators: Sequence[torch.Generator] = ()

    def begin_step(self, starts_epoch: bool) -> Hashable:
        """See `skflowmix.training.trainer.Objective`; all steps are alike."""
        return None

    def _cross_entropy(self, rows: Batch) -> Tensor:
        log_q = self.model.log_posterior(rows.x)
        return -rows.batch_mean((rows.responsibilities * log_q).sum(1))

    def loss(self, batch: Batch, step_share: float = 1.0) -> Tensor:
        """Return the cross-entropy, in nats per row."""
        return self._cross_entropy(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        """Return the score, the negative held-out cross-entropy in nats per row."""
        return {"score": -self._cross_entropy(self.held_out)}


class Temperature:
    """Exponentially decaying temperature of q.

    Parameters
    ----------
    start : float
        Temperature of the first step.
    decay : float
        Decay per step.
    floor : float, default=0.1
        Smallest temperature.
    """

    def __init__(self, start: float, decay: float, floor: float = 0.1):
        self.start, self.decay, self.floor = start, decay, floor

    def __call__(self, step: int) -> float:
        """Return the temperature of a step."""
        return max(self.start * math.exp(-self.decay * step), self.floor)


class ElboObjective(_Objective):
    r"""Evidence lower bound, on only the components to which q gives a share.

    With S(x) the components to which q(z|x) gives at least `MIN_POSTERIOR`, and q
    renormalised on S(x),

    .. math::

        \log p(x) \ge \log \sum_{k \in S} p(x, k)
        \ge \sum_{k \in S} \tilde q_k \bigl(\log p(x, k) - \log \tilde q_k\bigr)

    the first because the terms left out are positive, the second by Jensen's
    inequality: this is still a lower bound, and flows are evaluated only on the pairs
    in S. It remains one when a GPU lacks capacity for some pairs (on the rows that have
    any left). Every `DENSE_EVERY`-th step is dense: for all rows, or for some with
    more than `DENSE_PAIRS` components.

    With the likelihood alone flexible components can drift away from a correct
    partition, so the first responsibilities r can enter as labels with error rate
    :math:`\epsilon`: row x then adds
    :math:`\sum_k q_k \log((1 - \epsilon) K r_k(x) + \epsilon)`, and changes its
    component only if the densities clearly favour it. If components form groups, K is
    the number of groups and a batch holds the responsibility of its group for each
    component: rows can change freely within a group.

    Where a row's class is known, q is restricted to the components of that class: the
    bound is on :math:`\log p(x, y)`, and the row adds :math:`\log q(y|x)`, which trains
    q to predict the class.

    Parameters
    ----------
    model : MixtureModule
        The model to train.
    source : RowSource
        Rows to train on.
    held_out : Batch
        Rows to evaluate on.
    temperature : Temperature
        Schedule over the steps.
    label_noise : float, default=1.0
        Assumed error rate of the first responsibilities; at 1 they do not matter and
        the objective is the ELBO alone.
    noise : Noise, optional
        Noise on the training rows; the bound is that of the noisy rows.

    References
    ----------
    J. Luecke and J. Eggert, Expectation Truncation and the Benefits of Preselection
    in Training Generative Models, JMLR 11, 2010.
    """

    def __init__(
        self,
        model: MixtureModule,
        source: RowSource,
        held_out: Batch,
        temperature: Temperature,
        label_noise: float = 1.0,
        noise: Noise | None = None,
    ):
        super().__init__(model, source, held_out, noise)
        self.temperature = temperature
        self.label_noise = label_noise
        self.n_steps = 0
        self._is_dense = True

    def _held_out_log_prob(self, log_prob: Tensor) -> Tensor:
        return self.held_out.mask(log_prob + self.model.log_weights).logsumexp(1)

    def _tracked_pairs(self) -> tuple[Tensor | None, Tensor | None]:
        allowed, of_sample = self.held_out.allowed, self._sample.allowed
        if allowed is None or of_sample is None:
            return None, None
        return None, torch.cat((allowed, of_sample))

    def begin_step(self, starts_epoch: bool) -> Hashable:
        """See `skflowmix.training.trainer.Objective`; sets the temperature."""
        self.model.temperature.fill_(self.temperature(self.n_steps))
        self._is_dense = self.n_steps % DENSE_EVERY == 0
        self.n_steps += 1
        return self._is_dense, super().begin_step(starts_epoch)

    def state_dict(self) -> dict[str, Any]:
        """See `_Objective`."""
        return {**super().state_dict(), "n_steps": self.n_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `_Objective`."""
        super().load_state_dict(state)
        self.n_steps = state["n_steps"]

    def loss(self, batch: Batch, step_share: float = 1.0) -> Tensor:
        """Return the negative ELBO, in nats per row."""
        model = self.model
        self._move(batch, step_share)
        logits = model.posterior_logits(batch.x)
        log_q = log_softmax(logits.detach())
        log_class = None
        if batch.allowed is not None:
            log_class = batch.mask(log_softmax(logits)).logsumexp(1)
            log_q = batch.mask(log_q - log_class.detach().unsqueeze(1), LEFT_OUT)
        # At least the likeliest, as all may be below the threshold.
        likeliest = log_q.amax(1, keepdim=True)
        # Negated, so that NaN is chosen and reaches the loss, which training checks.
        chosen = ~(log_q < likeliest.clamp(max=math.log(MIN_POSTERIOR)))
        if self._is_dense:
            dense_share = min(DENSE_PAIRS / chosen.shape[1], 1.0)
            dense = range(math.ceil(batch.n_whole * dense_share))
            n_dense = len(dense[batch.part])
            is_possible = ~(log_q[:n_dense] <= LEFT_OUT)
            chosen = torch.cat((is_possible, chosen[n_dense:]))
        pairs, kept = self._pairs(chosen, self._is_dense)
        log_q = log_softmax(log_q.add((~kept).to(log_q), alpha=LEFT_OUT))
        log_prob = self._log_prob_of(batch.x, pairs)
        weights = batch.batch_weights()
        if self.plans_ahead:
            weights = weights * kept.any(1)
        log_weights = model.log_weights
        log_prior = log_weights.unsqueeze(1)
        if self.label_noise < 1:
            agreement = batch.responsibilities * model.groups.n_groups
            odds = (1 - self.label_noise) * agreement + self.label_noise
            log_prior = log_prior + odds.log_().T
        loss = _expected_loss(logits, log_q.T, log_prob, pairs, log_prior, weights)
        if log_class is not None:
            loss = loss - batch.batch_mean(log_class)
        return loss
