"""The training loop on toy objectives whose losses and scores are written down."""

import itertools
import math

import pytest
import torch
from processes import in_processes
from small_modules import make_model, rows
from torch import nn

from skflowmix.training.batches import Batch, Noise, TableSource
from skflowmix.training.objectives import ElboObjective, MStepObjective, Temperature
from skflowmix.training.optimizer import (
    DEVIATION_DECAY,
    DEVIATION_RATE,
    AdamW,
    FlatParameters,
)
from skflowmix.training.reducers import LocalReducer
from skflowmix.training.trainer import Outcome, Trainer, TrainingConfig


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def config(**changes):
    settings = {
        "max_epochs": 50,
        "learning_rate": 0.1,
        "patience": 3,
        "tol": 0.5,
        "averaged_epochs": 0,
    }
    return TrainingConfig(**(settings | changes))


class Rows:
    """A source of shuffled row numbers."""

    def __init__(self, n_rows, batch_size, generator):
        self.numbers = TableSource(
            Batch(torch.arange(n_rows), torch.ones(n_rows), torch.ones(n_rows, 1)),
            batch_size,
            generator,
        )
        self.n_batches = self.numbers.n_batches
        self.state_dict = self.numbers.state_dict
        self.load_state_dict = self.numbers.load_state_dict
        self.draw = self.numbers.draw

    def rows(self, index):
        return index


class Steady:
    """An objective whose steps are all alike."""

    generators = ()

    def begin_step(self, starts_epoch):
        return None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        assert not state


def grouped(parameters):
    """Weights of several components, other weights, others; what is not trained."""
    trained = [p for p in parameters if p.requires_grad]
    groups = {
        "pooled": [p for p in trained if p.ndim == 3 and len(p) > 1],
        "decayed": [p for p in trained if p.ndim == 3 and len(p) == 1],
        "plain": [p for p in trained if p.ndim != 3],
    }
    return FlatParameters(groups, [p for p in parameters if not p.requires_grad])


def adam(parameters):
    return AdamW(grouped(parameters))


def make_trainer(objective, optimizer, settings=None, generator=None, batch_size=4):
    source = Rows(objective.n_rows, batch_size, generator or seeded())
    return Trainer(objective, source, optimizer, settings or config())


def train(
    objective,
    optimizer,
    settings,
    generator,
    on_epoch=lambda record: False,
    batch_size=4,
):
    return make_trainer(objective, optimizer, settings, generator, batch_size).run(
        on_epoch
    )


class Scripted(Steady):
    """Scores and losses from a script; the parameter moves down by every step.

    ``scores[0]`` is the score before training, ``scores[e]`` that after epoch e; the
    last one goes on for ever. ``bad_steps`` have a loss that is not finite.
    """

    def __init__(self, scores, n_rows=4, bad_steps=(), bad=math.nan):
        self.n_rows, self.bad_steps, self.bad = n_rows, set(bad_steps), bad
        self.scores = itertools.chain(scores, itertools.repeat(scores[-1]))
        self.weight = nn.Parameter(torch.zeros(2))
        self.step = torch.zeros(())
        self.batches, self.seen, self.starts = [], [], []

    @property
    def parameters(self):
        return [self.weight, self.step]

    def begin_step(self, starts_epoch):
        self.starts.append(starts_epoch)

    def loss(self, rows, step_share=1.0):
        self.batches.append(rows.tolist())
        self.step += 1
        factor = self.bad if len(self.batches) in self.bad_steps else 1.0
        return self.weight.sum() * factor

    def evaluate(self):
        self.seen.append((self.weight.detach().clone(), float(self.step)))
        return {"score": number(next(self.scores))}

    def train(self, seed=0, on_epoch=lambda record: False, batch_size=4, **changes):
        optimizer = adam(self.parameters)
        settings = config(**changes)
        return train(self, optimizer, settings, seeded(seed), on_epoch, batch_size)


class Quadratic(Steady):
    """Least squares, with noise from the choice of rows."""

    n_rows = 40

    def __init__(self):
        self.x = torch.randn(40, 3, generator=seeded(1), dtype=torch.float64)
        self.target = self.x @ torch.tensor([1.0, -2.0, 3.0]).double()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def loss(self, rows, step_share=1.0):
        return (self.x[rows] @ self.weight - self.target[rows]).square().mean()

    def evaluate(self):
        return {"score": -self.loss(slice(None)).detach()}


def test_loss_learns_how_far_the_step_size_has_dropped():
    shares = []

    class Stale(Quadratic):
        def loss(self, rows, step_share=1.0):
            shares.append(step_share)
            return super().loss(rows)

        def evaluate(self):
            return {"score": number(0)}

    objective = Stale()
    train(objective, adam([objective.weight]), config(patience=1, n_drops=2), seeded())
    assert sorted(set(shares), reverse=True) == [1.0, 0.25, 0.0625]


# The best weights.


def test_loss_is_minimised():
    objective = Quadratic()
    outcome = train(objective, adam([objective.weight]), config(tol=1e-6), seeded())
    torch.testing.assert_close(
        objective.weight.detach(),
        torch.tensor([1.0, -2.0, 3.0]).double(),
        rtol=0,
        atol=0.05,
    )
    losses = [record["train_loss"] for record in outcome.history]
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize("best_epoch", [0, 1, 4])
def test_best_weights_are_copied_and_restored(best_epoch):
    """Not the last ones, nor a live state that training goes on changing."""
    scores = [10.0 if epoch == best_epoch else 0.0 for epoch in range(7)]
    objective = Scripted(scores)
    outcome = objective.train(max_epochs=6, patience=100)
    assert len(outcome.history) == 6 and not outcome.converged
    weight, step = objective.seen[best_epoch]
    assert torch.equal(objective.weight, weight)
    assert float(objective.step) == step == best_epoch  # state without gradients too
    others = [seen for seen, _ in objective.seen if not torch.equal(seen, weight)]
    assert len(others) == 6


def test_improvement_below_tol_is_kept_nevertheless():
    objective = Scripted([0.0, 0.1, 0.2, 0.0])
    objective.train(max_epochs=3, patience=100)
    assert torch.equal(objective.weight, objective.seen[2][0])


def test_parameters_stay_the_same_objects():
    objective = Scripted([0.0, 1.0, 0.0])
    weight = objective.weight
    objective.train(max_epochs=4)
    assert objective.weight is weight
    assert weight.requires_grad and weight.grad is None


# Averages.


def test_running_averages_are_judged_and_kept():
    """Of the weights; other state is the latest. Steps of 0.1, two epochs of two."""
    objective = Scripted([0.0, 1.0, 2.0, 3.0], n_rows=8)
    objective.train(max_epochs=3, averaged_epochs=2)
    seen = torch.stack([weight for weight, _ in objective.seen])
    means = torch.tensor([0.0, -0.15, -0.25])  # of one, two; and of one to four
    torch.testing.assert_close(seen[:3], means[:, None].expand(3, 2))
    # From then on a step counts for a quarter.
    last = 0.75 * (0.75 * -0.25 + 0.25 * -0.5) + 0.25 * -0.6
    torch.testing.assert_close(seen[3], torch.full((2,), last))
    torch.testing.assert_close(objective.weight.detach(), seen[3])
    assert [step for _, step in objective.seen] == [0, 2, 4, 6]


def test_averages_start_over_after_a_drop_and_after_a_bad_loss():
    objective = Scripted([0.0, 1.0, 0.0, 0.0, 2.0, 0.0], bad_steps=[3])
    objective.train(max_epochs=4, patience=1, n_drops=1, averaged_epochs=4)
    first = objective.seen[1][0]
    torch.testing.assert_close(objective.seen[4][0], first - 0.1 * 0.25 * 0.1)
    assert objective.weight.isfinite().all()


# Patience, drops and convergence.


def test_step_size_drops_after_stale_epochs_until_converged():
    objective = Scripted([0.0, 1.0, 2.0, 0.0])
    outcome = objective.train(patience=3, n_drops=2, drop=0.25)
    rates = [record["learning_rate"] for record in outcome.history]
    # Two epochs that improve and three that do not; then twice one that sets the mark
    # and half as many, rounded up, that do not surpass it.
    assert rates == 5 * [0.1] + 3 * [0.025] + 3 * [0.00625]
    assert outcome.converged and not outcome.stopped
    assert [record["epoch"] for record in outcome.history] == list(range(1, 12))


@pytest.mark.parametrize(("gain", "n_epochs"), [(0.1, 3), (0.3, 20)])
def test_small_gains_add_up_to_progress(gain, n_epochs):
    """Of `tol` within the patience."""
    objective = Scripted([gain * epoch for epoch in range(50)])
    outcome = objective.train(patience=3, n_drops=0, tol=0.5, max_epochs=20)
    assert len(outcome.history) == n_epochs


@pytest.mark.parametrize(
    ("first", "tol", "n_epochs"),
    [(10.0, 0.5, 20), (1000.0, 0.5, 4), (10.0, 4.0, 4), (200.0, 2.5, 20)],
)
def test_progress_is_a_share_of_all_that_was_gained(first, tol, n_epochs):
    """Or `tol`, where that is more; three nats come within the patience."""
    scores = [0.0, *(first + epoch for epoch in range(50))]
    outcome = Scripted(scores).train(patience=3, n_drops=0, tol=tol, max_epochs=20)
    assert len(outcome.history) == n_epochs


def test_objectives_know_where_an_epoch_starts():
    objective = Scripted([0.0, 1.0], n_rows=12)
    objective.train(max_epochs=2)
    assert objective.starts == 2 * [True, False, False]


def test_a_smaller_step_size_has_to_surpass_itself_only():
    """Noise shrinks with it: the best epoch may be one of a poor beginning."""
    objective = Scripted([9.0, 1.0, 0.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0])
    outcome = objective.train(patience=1, n_drops=1, max_epochs=8, may_keep_start=False)
    rates = [record["learning_rate"] for record in outcome.history]
    assert rates == 2 * [0.1] + 5 * [0.025]
    assert outcome.converged
    assert torch.equal(objective.weight, objective.seen[6][0])


def test_the_start_may_be_what_is_kept():
    scores = [5.0, 1.0, 2.0, 0.0]
    for may_keep_start, best in ((True, 0), (False, 2)):
        objective = Scripted(scores)
        objective.train(max_epochs=3, may_keep_start=may_keep_start)
        assert torch.equal(objective.weight, objective.seen[best][0])


def test_drop_starts_from_the_best_weights():
    objective = Scripted([0.0, 1.0, 0.0])
    objective.train(patience=2, max_epochs=4)
    best = objective.seen[1][0]
    moved = [float((weight - best).abs().max()) for weight, _ in objective.seen]
    # Epochs 2 and 3 went on with steps of 0.1; epoch 4 takes a quarter of one.
    assert moved[2] == pytest.approx(0.1, rel=0.01)
    assert moved[3] == pytest.approx(0.2, rel=0.01)
    assert moved[4] == pytest.approx(0.025, rel=0.01)


def test_improvement_by_tol_resets_patience():
    improving = Scripted([float(i) for i in range(30)])
    outcome = improving.train(patience=1, max_epochs=20)
    assert len(outcome.history) == 20 and not outcome.converged
    creeping = Scripted([0.1 * i for i in range(30)])  # each less than tol
    outcome = creeping.train(patience=2, max_epochs=20)
    # Two at the first step size; then twice one that sets the mark, and one more.
    assert len(outcome.history) == 6 and outcome.converged


@pytest.mark.parametrize(
    ("scores", "rival", "max_epochs", "n_epochs"),
    [
        ([0, 1, 2, 3, 4, 5], 9.9, 10, 10),  # 5 by then, and 1 an epoch
        ([0, 1, 2, 3, 4, 5], 10.1, 10, 5),
        ([0, 1, 2, 3, 5, 4], 4.1, 10, 5),  # it falls, and may go on as it is
        ([0, 1, 2, 3, 5, 4], 3.9, 10, 7),  # until there is no more progress
        ([0, 1, 2, 3, 4, 5], 10.1, 5, 5),
    ],
)
def test_training_ends_where_a_rival_is_out_of_reach(
    scores, rival, max_epochs, n_epochs
):
    settings = {"n_drops": 0, "max_epochs": max_epochs, "rival_score": rival}
    scores = [*scores, *range(6, 20)] if n_epochs == 10 else scores
    outcome = Scripted(scores).train(**settings)
    assert len(outcome.history) == n_epochs
    assert outcome.outrun == (n_epochs == 5 < max_epochs)
    assert not outcome.stopped


def test_epochs_may_run_out():
    outcome = Scripted([0.0]).train(max_epochs=2, patience=3)
    assert len(outcome.history) == 2
    assert not outcome.converged and not outcome.stopped


def test_no_epochs_leave_everything_as_it_is():
    objective = Scripted([0.0])
    assert objective.train(max_epochs=0) == Outcome([])
    assert not objective.weight.any() and not objective.batches


# Losses that are not finite.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_loss_restores_the_best_weights_and_shrinks_the_step(bad):
    """One bad batch of several is enough: it must not be averaged away or skipped."""
    # Two steps an epoch; the first of epoch 3 is bad.
    scores = [0.0, 1.0, 2.0, 100.0, 3.0]
    objective = Scripted(scores, n_rows=8, bad_steps=[5], bad=bad)
    outcome = objective.train(max_epochs=4)
    assert [record["epoch"] for record in outcome.history] == [1, 2, 4]
    rates = [record["learning_rate"] for record in outcome.history]
    assert rates == pytest.approx([0.1, 0.1, 0.01])
    assert objective.weight.isfinite().all()
    best = objective.seen[2][0]
    # Two steps of a tenth of the size, with a fresh optimiser, from the best weights.
    torch.testing.assert_close(objective.weight.detach(), best - 0.02)
    assert all(math.isfinite(r["train_loss"]) for r in outcome.history)


@pytest.mark.parametrize("n_components", [1, 3])
def test_training_recovers_from_a_bad_loss_of_several_components(n_components):
    class Stacked(Scripted):
        def __init__(self):
            super().__init__([0.0, 1.0, 0.0, 2.0], bad_steps=[2])
            self.weight = nn.Parameter(torch.zeros(n_components, 3, 2))

    objective = Stacked()
    outcome = objective.train(max_epochs=4)
    assert [record["epoch"] for record in outcome.history] == [1, 3, 4]
    assert objective.weight.isfinite().all() and objective.weight.any()


def test_bad_score_restores_the_best_weights_too():
    objective = Scripted([0.0, 1.0, math.nan, 0.5])
    outcome = objective.train(max_epochs=3)
    assert [record["epoch"] for record in outcome.history] == [1, 3]
    assert torch.equal(objective.weight, objective.seen[1][0])
    last_before_restart, _ = objective.seen[2]
    assert not torch.equal(last_before_restart, objective.weight)


def test_training_that_keeps_diverging_raises():
    objective = Scripted([0.0], bad_steps=range(3, 100))
    with pytest.raises(FloatingPointError, match=r"learning_rate=0\.1"):
        objective.train(patience=100)
    # Two good epochs, then steps of 0.1, 0.01, 0.001 and 0.0001 that all failed.
    assert len(objective.batches) == 6


def test_three_failures_are_forgiven():
    objective = Scripted([0.0, 1.0, 2.0], bad_steps=[2, 3, 4])
    outcome = objective.train(max_epochs=5, patience=100)
    rates = [record["learning_rate"] for record in outcome.history]
    assert rates == pytest.approx([0.1, 0.0001])


def test_failure_in_every_epoch_that_is_left_keeps_the_best_weights():
    objective = Scripted([0.0, 1.0], bad_steps=[2, 3])
    outcome = objective.train(max_epochs=3)
    assert len(outcome.history) == 1
    assert torch.equal(objective.weight, objective.seen[1][0])


# Requests to stop.


def test_stop_request_keeps_the_best_weights():
    records = []

    def on_epoch(record):
        records.append(record)
        return len(records) == 4

    objective = Scripted([0.0, 1.0, 5.0, 2.0, 3.0])
    outcome = objective.train(patience=100, on_epoch=on_epoch)
    assert outcome.stopped and not outcome.converged
    assert outcome.history == records and len(records) == 4
    assert torch.equal(objective.weight, objective.seen[2][0])


def test_stop_request_after_the_best_epoch_keeps_it():
    objective = Scripted([0.0, 1.0])
    objective.train(on_epoch=lambda record: True)
    assert torch.equal(objective.weight, objective.seen[1][0])
    assert objective.weight.any()


def test_records_hold_what_the_objective_reports():
    objective = Scripted([0.0, 7.0])
    outcome = objective.train(max_epochs=1)
    assert outcome.history == [
        {"epoch": 1, "learning_rate": 0.1, "train_loss": 0.0, "score": 7.0}
    ]


# Batches.


@pytest.mark.parametrize("n_rows, batch_size", [(12, 4), (13, 4), (3, 10), (1, 1)])
def test_every_epoch_visits_every_row_once(n_rows, batch_size):
    """No last batch is dropped, and none is much smaller than the others."""
    objective = Scripted([float(i) for i in range(9)], n_rows=n_rows)
    objective.train(max_epochs=5, batch_size=batch_size)
    n_batches = len(objective.batches) // 5
    assert n_batches == max(n_rows // batch_size, 1)
    epochs = []
    for epoch in range(5):
        batches = objective.batches[epoch * n_batches : (epoch + 1) * n_batches]
        sizes = {len(batch) for batch in batches}
        assert max(sizes) - min(sizes) <= 1
        epochs.append(list(itertools.chain(*batches)))
        assert sorted(epochs[-1]) == list(range(n_rows))
    if n_rows > 3:
        assert epochs[0] != epochs[1]  # shuffled anew


def test_max_steps_cut_epochs_short_and_no_row_is_neglected():
    objective = Scripted([float(i) for i in range(9)], n_rows=40)
    outcome = objective.train(max_epochs=5, batch_size=4, max_steps=2)
    assert len(outcome.history) == 5
    assert len(objective.batches) == 10
    # The next epoch goes on where the last one stopped.
    assert sorted(itertools.chain(*objective.batches)) == list(range(40))


def test_train_loss_is_the_mean_over_the_steps():
    objective = Scripted([0.0], n_rows=12)
    outcome = objective.train(max_epochs=1)
    # Adam's first steps on a linear loss have the size of the learning rate.
    assert outcome.history[0]["train_loss"] == pytest.approx(-0.2, rel=1e-4)


# Reproducibility, and what else the configuration promises.


def test_equal_generators_give_equal_runs():
    def run(seed):
        objective = Quadratic()
        outcome = train(objective, adam([objective.weight]), config(), seeded(seed))
        return objective.weight.detach(), outcome

    (weight, outcome), (same_weight, same_outcome) = run(0), run(0)
    assert torch.equal(weight, same_weight)
    assert outcome == same_outcome
    other_weight, _ = run(1)
    assert not torch.equal(weight, other_weight)


class Curved(Steady):
    """A loss of very uneven curvature, in parameters of all shapes."""

    n_rows = 4

    def __init__(self):
        generator = seeded(3)
        shapes = [(2, 3, 4), (2, 3), (3,), (), (1, 2, 3), (2, 5, 2)]
        self.parameters = [
            nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64))
            for s in shapes
        ]
        self.parameters[2].requires_grad_(False)
        self.n_epochs = 0

    def loss(self, rows, step_share=1.0):
        matrix, vector, _, scalar, single, other = self.parameters
        uneven = (matrix.cos() * 30).sum() + (matrix[0] * matrix[1]).sum()
        rest = scalar.square() + single.sin().sum() + (other[0] - other[1]).cos().sum()
        return uneven + vector.pow(4).sum() + rest

    def evaluate(self):
        self.n_epochs += 1
        return {"score": number(self.n_epochs)}  # the last weights are the best


@pytest.mark.parametrize("max_grad_norm", [1.0, math.inf])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_steps_are_those_of_torchs_adamw(max_grad_norm, weight_decay):
    """After clipping, on a common part and deviations where components are stacked.

    Only matrices (K, n_outputs, n_inputs) decay.
    """
    ours, theirs = Curved(), Curved()
    changes = {"max_grad_norm": max_grad_norm, "weight_decay": weight_decay}
    train(ours, adam(ours.parameters), config(max_epochs=20, **changes), seeded())
    trained = [p for p in theirs.parameters if p.requires_grad]
    stacked = [p for p in trained if p.ndim == 3 and len(p) == 2]
    (single,) = (p for p in trained if p.ndim == 3 and len(p) == 1)
    common = [torch.zeros_like(p[0]) for p in stacked]
    deviations = [p.detach().clone() for p in stacked]
    groups = [
        {"params": [single, *common]},
        {
            "params": deviations,
            "lr": 0.1 * DEVIATION_RATE,
            "weight_decay": weight_decay * DEVIATION_DECAY / DEVIATION_RATE,
        },
        {"params": [p for p in trained if p.ndim != 3], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=weight_decay)
    for _ in range(20):
        theirs.loss(None).backward()
        torch.nn.utils.clip_grad_norm_(trained, max_grad_norm)
        for whole, mean, own in zip(stacked, common, deviations, strict=True):
            mean.grad, own.grad = whole.grad.sum(0), whole.grad
        optimizer.step()
        for whole, mean, own in zip(stacked, common, deviations, strict=True):
            whole.data = mean + own
            whole.grad = None
        optimizer.zero_grad()
    for one, other in zip(ours.parameters, theirs.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours.parameters[2], Curved().parameters[2])


def test_moments_go_on_from_phase_to_phase():
    """Without them the first steps at the minimum are as long as ever."""
    objective = Quadratic()
    optimizer = adam([objective.weight])
    settings = config(max_epochs=200, patience=200)
    train(objective, optimizer, settings, seeded(), batch_size=40)
    moved = []
    for _ in range(2):
        before = objective.weight.detach().clone()
        settings = config(max_epochs=1, may_keep_start=False)
        train(objective, optimizer, settings, seeded(), batch_size=40)
        moved.append(float((objective.weight.detach() - before).abs().max()))
        optimizer.reset()
    assert moved[0] < 0.01 < moved[1]


def test_training_works_where_gradients_are_switched_off():
    objective = Scripted([0.0, 1.0])
    with torch.no_grad():
        objective.train(max_epochs=1)
    assert objective.weight.any()


# Resuming.


def test_state_after_any_epoch_goes_on_bit_for_bit():
    """Through drops of the step size and a loss that is not finite."""

    class Failing(Quadratic):
        """The tenth epoch has a loss that is not finite."""

        def __init__(self):
            super().__init__()
            self.n_steps = 0

        def state_dict(self):
            return {"n_steps": self.n_steps}

        def load_state_dict(self, state):
            self.n_steps = state["n_steps"]

        def loss(self, rows, step_share=1.0):
            self.n_steps += 1
            factor = math.nan if self.n_steps == 95 else 1.0
            return super().loss(rows) * factor

    def start():
        objective = Failing()
        settings = config(tol=1e-4, patience=2, averaged_epochs=3)
        return make_trainer(objective, adam([objective.weight]), settings)

    states = []
    whole = start()
    whole.run(after_epoch=lambda trainer: states.append(trainer.state_dict()))
    assert len(states) == whole.progress.epoch > 12
    assert {state["progress"]["n_drops"] for state in states} == {0, 1, 2}
    assert states[-1]["progress"]["n_failures"] == 1
    for state in states:
        again = start()
        again.load_state_dict(state)
        assert again.run() == whole.outcome
        assert torch.equal(again.flat.values, whole.flat.values)


def test_a_state_is_a_copy():
    objective = Quadratic()
    trainer = make_trainer(objective, adam([objective.weight]), config(max_epochs=3))
    states = []

    def after_epoch(trainer):
        states.append((trainer.state_dict(), trainer.flat.values.clone()))

    trainer.run(after_epoch=after_epoch)
    for state, values in states:
        assert torch.equal(state["optimizer"]["values"], values)
    assert len({float(values[0]) for _, values in states}) == 3


def test_processes_take_steps_along_the_mean_of_their_gradients():
    """And agree on where losses and scores lead, though their rows differ."""

    def trained(reducer, parts):
        objective = Quadratic()
        source = Rows(objective.n_rows, 4, seeded())
        whole = source.draw
        source.draw = lambda: tuple(
            index.tensor_split(parts)[reducer.rank] for index in whole()
        )
        settings = config(max_epochs=8, patience=2)
        optimizer = adam([objective.weight])
        Trainer(objective, source, optimizer, settings, reducer).run()
        return objective.weight.detach().clone()

    one = trained(LocalReducer(), 1)
    first, second = in_processes(2, lambda reducer: trained(reducer, 2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, rtol=1e-9, atol=1e-9)


class Recorder:
    """Replays as a CUDA graph does: the recorded call, on buffers that stay."""

    def __init__(self):
        self.seen, self.records, self.n_replays = set(), {}, 0

    def __call__(self, key, function, *arguments):
        key = (key, *(argument.shape for argument in arguments))
        if key not in self.seen:
            self.seen.add(key)
            return function(*arguments)
        if key not in self.records:
            self.records[key] = function, [a.clone() for a in arguments]
        function, buffers = self.records[key]
        for buffer, argument in zip(buffers, arguments, strict=True):
            buffer.copy_(argument)
        self.n_replays += 1
        return function(*buffers)


@pytest.mark.parametrize("kind", ["quadratic", "elbo", "m-step"])
def test_recorded_steps_are_those_of_the_cpu(kind):
    """What changes from step to step reaches a recorded one through its arguments."""

    def trained(recorder):
        if kind == "quadratic":
            objective = Quadratic()
            settings = config(max_epochs=12, patience=2, tol=1e-4)
            trainer = make_trainer(objective, adam([objective.weight]), settings)
        else:
            trainer = mixture_trainer(kind)
        if recorder:
            trainer._replays = recorder
        trainer.run()
        return trainer.flat.values.clone()

    recorder = Recorder()
    assert torch.equal(trained(recorder), trained(None))
    assert recorder.n_replays > 50


def mixture_trainer(kind):
    model = make_model(n_components=3)
    x = rows(60)
    shares = torch.eye(3).double()[torch.arange(60) % 3]
    table = Batch(x, x.new_ones(60), shares)
    nearest = (torch.arange(60).unsqueeze(1) + torch.tensor([1, 2])) % 60
    source = TableSource(table, 10, seeded(), nearest)
    noise = Noise(0.3, seeded(1))
    if kind == "elbo":
        temperature = Temperature(1.0, 1e-2)
        objective = ElboObjective(model, source, table, temperature, noise=noise)
    else:
        objective = MStepObjective(model, source, table, noise)
    # As on a GPU: shapes are planned an epoch ahead.
    objective.plans_ahead = True
    flat = FlatParameters(model.parameter_groups(), [model.temperature])
    settings = TrainingConfig(10, 0.01, patience=3, tol=1e-3)
    return Trainer(objective, source, AdamW(flat), settings)
