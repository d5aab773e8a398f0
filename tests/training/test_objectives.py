"""What is trained: lower bounds of the log-likelihood, however few pairs they take."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_modules import flow_parameters, make_model, rows, seeded

from skflowmix.model.flows import FLOWS
from skflowmix.model.pairs import AllPairs
from skflowmix.training import objectives, tracking
from skflowmix.training.batches import Batch, Noise, TableSource
from skflowmix.training.objectives import (
    ElboObjective,
    MStepObjective,
    Temperature,
    clearly_gains,
    robust_gain,
)

each_family = pytest.mark.parametrize("flow", FLOWS)

N_ROWS = 40


def make_rows(n_components=3, n_rows=N_ROWS, hard=False, seed=3):
    generator = seeded(seed)
    weights = 0.1 + torch.rand(n_rows, generator=generator, dtype=torch.float64)
    shares = torch.rand(n_rows, n_components, generator=generator, dtype=torch.float64)
    if hard:
        shares = torch.eye(n_components).double()[shares.argmax(1)]
    x = rows(n_rows, seed=seed)
    return Batch(x, weights, shares / shares.sum(1, keepdim=True))


def weighted_mean(values, data):
    return (values * data.weights).sum() / data.weights.sum()


def constant_temperature(value=1.0):
    return Temperature(value, 0.0)


def source_of(data, nearest=None):
    return TableSource(data, len(data), seeded(), nearest)


def make_elbo(model, data, temperature=1.0):
    return ElboObjective(
        model, source_of(data), data, constant_temperature(temperature)
    )


def make_m_step(model, data):
    return MStepObjective(model, source_of(data), data)


def decided(model):
    """Scale the logits of q so that some rows are decided and others are not."""
    for parameter in model.posterior.mlp.layers[-1].parameters():
        parameter.data *= 12
    return model


def everything(data):
    return torch.arange(len(data))


def step_loss(objective, index, step_share=1.0, starts_epoch=False):
    objective.begin_step(starts_epoch)
    return objective.loss(objective.source.rows(index), step_share)


def force(monkeypatch, path):
    """Take the sparse path wherever it is correct, or nowhere."""
    share = {"sparse": math.inf, "dense": 0.0}[path]
    monkeypatch.setattr(objectives, "SPARSE_SHARE", share)


def loss_and_gradients(objective, index):
    model = objective.model
    model.zero_grad()
    loss = step_loss(objective, index)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def count_dense_tables(model, monkeypatch):
    """Count evaluations of all pairs in training."""
    calls = []
    original = model.training_log_prob

    def counted(x, pairs):
        if isinstance(pairs, AllPairs):
            calls.append(len(x))
        return original(x, pairs)

    monkeypatch.setattr(model, "training_log_prob", counted)
    return calls


# The ELBO.


@given(
    seed=st.integers(0, 1000),
    n_components=st.integers(1, 5),
    flow=st.sampled_from(list(FLOWS)),
    temperature=st.floats(0.1, 10.0),
    step=st.integers(0, 1),
)
def test_elbo_never_exceeds_the_log_likelihood(
    seed, n_components, flow, temperature, step
):
    """Neither the dense ELBO of step 0, nor the truncated one of step 1."""
    model = decided(make_model(flow, n_components, n_transforms=2, seed=seed))
    data = make_rows(n_components, seed=seed + 1)
    data = Batch(data.x, torch.ones_like(data.weights), data.responsibilities)
    objective = make_elbo(model, data, temperature)
    objective.n_steps = step
    for row in range(5):
        one = torch.tensor([row])
        bound = -step_loss(objective, one)
        assert bound <= model.log_prob(data.x[one]).squeeze() + 1e-9


@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_dense_loss_is_the_textbooks_elbo(n_components, temperature):
    model = decided(make_model(n_components=n_components))
    data = make_rows(n_components)
    loss = step_loss(make_elbo(model, data, temperature), everything(data))
    q = (model.posterior(data.x) / temperature).softmax(1)
    log_joint = model.component_log_prob(data.x) + model.log_weights
    elbo = (q * (log_joint - q.log())).sum(1)
    torch.testing.assert_close(-loss, weighted_mean(elbo, data), rtol=0, atol=1e-10)


def test_loss_of_the_exact_posterior_is_minus_the_log_likelihood(monkeypatch):
    model = make_model()
    data = make_rows()
    log_joint = model.component_log_prob(data.x) + model.log_weights
    monkeypatch.setattr(model, "posterior_logits", lambda x: log_joint)
    loss = step_loss(make_elbo(model, data), everything(data))
    expected = weighted_mean(model.log_prob(data.x), data)
    torch.testing.assert_close(-loss, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("threshold", [1e-3, 0.05, 0.3])
def test_truncated_elbo_is_the_elbo_on_the_support(monkeypatch, path, threshold):
    """With q renormalised where it is at least the threshold, and nothing else."""
    monkeypatch.setattr(objectives, "MIN_POSTERIOR", threshold)
    force(monkeypatch, path)
    model, data = decided(make_model()), make_rows()
    objective = make_elbo(model, data)
    objective.n_steps = 1
    loss = step_loss(objective, everything(data))
    q = model.posterior_logits(data.x).softmax(1)
    q = torch.where(q > threshold, q, 0.0)
    assert (q == 0).any() and (q > 0).sum() > len(q)
    q = q / q.sum(1, keepdim=True)
    log_joint = model.component_log_prob(data.x) + model.log_weights
    terms = torch.where(q > 0, q * (log_joint - q.clamp(min=1e-300).log()), 0.0)
    expected = weighted_mean(terms.sum(1), data)
    torch.testing.assert_close(-loss, expected, rtol=0, atol=1e-10)


@each_family
@pytest.mark.parametrize("threshold", [1e-3, 0.1])
def test_sparse_path_gives_the_values_and_gradients_of_the_dense_one(
    flow, threshold, monkeypatch
):
    monkeypatch.setattr(objectives, "MIN_POSTERIOR", threshold)
    model, data = decided(make_model(flow)), make_rows()
    results = []
    for path in ("sparse", "dense"):
        force(monkeypatch, path)
        objective = make_elbo(model, data)
        objective.n_steps = 1
        with monkeypatch.context() as patch:
            calls = count_dense_tables(model, patch)
            results.append(loss_and_gradients(objective, everything(data)))
        assert len(calls) == (path == "dense")
    (sparse, sparse_gradients), (dense, dense_gradients) = results
    torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-10)
    for one, other in zip(sparse_gradients, dense_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    assert all(p.grad.any() for p in flow_parameters(model))
    assert any(p.grad.any() for p in model.posterior.parameters())


def test_q_that_prefers_no_component_is_not_lost(monkeypatch):
    """Every row keeps its likeliest component, with thousands of components too."""
    monkeypatch.setattr(objectives, "MIN_POSTERIOR", 0.9)
    model, data = make_model(), make_rows()
    objective = make_elbo(model, data)
    objective.n_steps = 1
    loss, gradients = loss_and_gradients(objective, everything(data))
    best = model.posterior_logits(data.x).argmax(1)
    log_joint = model.component_log_prob(data.x) + model.log_weights
    own = log_joint[torch.arange(N_ROWS), best]
    torch.testing.assert_close(-loss, weighted_mean(own, data).detach())
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("n_steps", [0, 1])
@pytest.mark.parametrize("flow", list(FLOWS))
def test_nan_in_q_reaches_the_loss(flow, n_steps):
    """Training watches the loss: an error from within would hide what happened."""
    model, data = make_model(flow=flow), make_rows()
    objective = make_elbo(model, data)
    objective.n_steps = n_steps
    with torch.no_grad():
        model.posterior.mlp.layers[-1].bias.fill_(math.nan)
    assert step_loss(objective, everything(data)).isnan()


def test_sparse_path_is_taken_when_it_saves_pairs(monkeypatch):
    model, data = make_model(n_components=3), make_rows()
    calls = count_dense_tables(model, monkeypatch)
    objective = make_elbo(model, data)
    calls.clear()
    logits = 30 * torch.eye(3).double()[torch.arange(N_ROWS) % 3]
    monkeypatch.setattr(model, "posterior_logits", lambda x: logits)
    monkeypatch.setattr(objectives, "DENSE_EVERY", 4)
    for step in range(9):
        step_loss(objective, everything(data))
        assert len(calls) == 1 + step // 4  # steps 0, 4 and 8 are dense
    # One component takes all rows: a table of three times 40 saves nothing.
    logits = 30 * torch.eye(3).double()[torch.zeros(N_ROWS, dtype=torch.int64)]
    calls.clear()
    step_loss(objective, everything(data))
    assert len(calls) == 1


def test_loss_sees_the_rows_of_its_batch_only():
    model, data = make_model(), make_rows()
    index = torch.tensor([5, 3, 17])
    for make in (make_elbo, make_m_step):
        whole, part = make(model, data), make(model, data[index])
        torch.testing.assert_close(
            step_loss(whole, index), step_loss(part, torch.arange(3))
        )


@given(scale=st.floats(1e-6, 1e6))
def test_scale_of_the_weights_does_not_matter(scale):
    model, data = make_model(n_transforms=1), make_rows()
    scaled = Batch(data.x, scale * data.weights, data.responsibilities)
    for make in (make_elbo, make_m_step):
        one, other = make(model, data), make(model, scaled)
        torch.testing.assert_close(
            step_loss(one, everything(data)), step_loss(other, everything(data))
        )


@pytest.mark.parametrize("path", ["sparse", "dense"])
def test_weight_equals_repetition(monkeypatch, path):
    force(monkeypatch, path)
    model, data = decided(make_model()), make_rows(hard=True)
    counts = 1 + torch.arange(N_ROWS) % 3
    weighted = Batch(data.x, counts.double(), data.responsibilities)
    repeated = Batch(
        data.x.repeat_interleave(counts, 0),
        torch.ones(int(counts.sum()), dtype=torch.float64),
        data.responsibilities.repeat_interleave(counts, 0),
    )
    for make in (make_elbo, make_m_step):
        one, other = make(model, weighted), make(model, repeated)
        one.n_steps = other.n_steps = 1
        torch.testing.assert_close(
            step_loss(one, everything(weighted)), step_loss(other, everything(repeated))
        )
        for key, figure in one.evaluate().items():
            if not key.startswith(("n_", "train", "elbo")):  # of the first rows
                torch.testing.assert_close(figure, other.evaluate()[key])


# Room that is planned ahead, as on a GPU.


def planned(make, model, data):
    objective = make(model, data)
    objective.plans_ahead, objective.n_steps = True, 1
    return objective


@pytest.mark.parametrize("make", [make_elbo, make_m_step])
def test_room_follows_what_the_epoch_before_asked_for(make, monkeypatch):
    """The first one is dense; enough room changes neither loss nor gradients."""
    model, data = make_model(), make_rows(hard=True)
    logits = 30 * data.responsibilities
    monkeypatch.setattr(model, "posterior_logits", lambda x: logits[: len(x)])
    exact, ahead = make(model, data), planned(make, model, data)
    exact.n_steps = 1
    flows = flow_parameters(model)
    expected = step_loss(exact, everything(data))
    expected_gradients = torch.autograd.grad(expected, flows)
    dense = count_dense_tables(model, monkeypatch)
    for _ in range(3):
        loss = step_loss(ahead, everything(data), starts_epoch=True)
        assert len(dense) == 1
        torch.testing.assert_close(loss, expected)
        gradients = torch.autograd.grad(loss, flows)
        torch.testing.assert_close(gradients, expected_gradients)
    share = data.responsibilities.sum(0).max() / N_ROWS
    room = ahead._capacity
    assert share <= room <= share * 1.1 + 1 / 32
    # A little more than what is asked for stays, much more does not.
    for former, present in ((share - 0.1, room), (room * 1.1, room * 1.1), (1, room)):
        ahead._capacity = former
        step_loss(ahead, everything(data))
        step_loss(ahead, everything(data), starts_epoch=True)
        assert ahead._capacity == present


def test_room_is_that_of_the_epochs_largest_demand(monkeypatch):
    """It changes where an epoch starts; dense steps neither ask for it nor need it."""
    model, data = make_model(), make_rows(n_rows=64)
    objective = planned(make_elbo, model, data)
    monkeypatch.setattr(objectives, "DENSE_EVERY", 4)
    dense = count_dense_tables(model, monkeypatch)
    row = torch.arange(64)
    epochs = [[36, 22, 22, 64], [22, 22, 22, 64], [22, 30, 22, 64], [22, 22, 22, 64]]
    for counts, room, n_dense in zip(
        epochs, [1.0, 20 / 32, 13 / 32, 17 / 32], [4, 5, 6, 7], strict=True
    ):
        for step, count in enumerate(counts):
            labels = torch.where(row < count, 0, 1 + row % 2)
            logits = 90 * torch.eye(3).double()[labels]
            monkeypatch.setattr(model, "posterior_logits", lambda _, q=logits: q)
            kind = objective.begin_step(starts_epoch=step == 0)
            assert kind == (step == 3, room)
            objective.loss(objective.source.rows(everything(data)))
        assert len(dense) == n_dense


def test_bound_stays_one_where_room_is_short():
    """It is that of the pairs with room; rows without any have no say."""
    model, data = decided(make_model()), make_rows()
    data = Batch(data.x, torch.ones_like(data.weights), data.responsibilities)
    objective = planned(make_elbo, model, data)
    objective._capacity = 0.25
    loss, gradients = loss_and_gradients(objective, everything(data))
    q = model.posterior_logits(data.x).softmax(1)
    chosen = q >= objectives.MIN_POSTERIOR
    kept = chosen & (chosen.cumsum(0) <= N_ROWS / 4)
    assert (kept.sum(0) < chosen.sum(0)).any() and not kept.any(1).all()
    q = torch.where(kept, q, 0.0)[kept.any(1)]
    q = q / q.sum(1, keepdim=True)
    log_prob = model.log_prob(data.x)[kept.any(1)]
    log_joint = model.component_log_prob(data.x) + model.log_weights
    terms = q * (log_joint[kept.any(1)] - q.clamp(min=1e-300).log())
    bounds = terms.sum(1)
    assert (bounds <= log_prob + 1e-9).all()
    torch.testing.assert_close(-loss, bounds.sum().detach() / N_ROWS)
    assert all(gradient.isfinite().all() for gradient in gradients)


# The M-step.


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("hard", [True, False])
def test_m_step_is_the_expected_complete_log_likelihood(monkeypatch, path, hard):
    """With hard labels: the mean of each row's own component's log p(x, z)."""
    force(monkeypatch, path)
    model, data = make_model(), make_rows(hard=hard)
    loss = step_loss(MStepObjective(model, source_of(data), data), everything(data))
    log_q = model.posterior_logits(data.x).log_softmax(1)
    table = model.component_log_prob(data.x) + model.log_weights + log_q
    if hard:
        own = table[torch.arange(N_ROWS), data.responsibilities.argmax(1)]
    else:
        own = (data.responsibilities * table).sum(1)
    torch.testing.assert_close(-loss, weighted_mean(own, data), rtol=0, atol=1e-10)


@each_family
def test_sparse_m_step_has_the_gradients_of_the_dense_one(flow, monkeypatch):
    model, data = make_model(flow), make_rows(hard=True)
    results = []
    for path in ("sparse", "dense"):
        force(monkeypatch, path)
        model.zero_grad()
        step_loss(
            MStepObjective(model, source_of(data), data), everything(data)
        ).backward()
        results.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
        assert one.any()


def test_m_step_with_hard_labels_evaluates_each_row_once(monkeypatch):
    model, data = make_model(n_components=3), make_rows(hard=True)
    shares = torch.eye(3).double()[torch.arange(N_ROWS) % 3]
    objective = MStepObjective(model, source_of(data), data)
    objective.source = source_of(Batch(data.x, data.weights, shares))
    dense = count_dense_tables(model, monkeypatch)
    supports = []
    original = model.training_log_prob

    def recorded(x, support):
        supports.append(support)
        return original(x, support)

    monkeypatch.setattr(model, "training_log_prob", recorded)
    step_loss(objective, everything(data))
    assert not dense
    assert int(supports[0].valid.sum()) == N_ROWS
    assert supports[0].rows.shape == (3, math.ceil(N_ROWS / 3))


def test_m_step_leaves_out_what_hardly_counts():
    model, hard = make_model(), make_rows(hard=True)
    least = objectives.MIN_POSTERIOR
    for share, is_same in ((0.4 * least, True), (least, False)):
        shares = hard.responsibilities * (1 - 3 * share) + share
        soft = Batch(hard.x, hard.weights, shares)
        one, other = (make_m_step(model, data) for data in (hard, soft))
        losses = [step_loss(o, everything(hard)).detach() for o in (one, other)]
        assert torch.isclose(*losses, rtol=0, atol=1e-10) == is_same


# Noise.


def two_after(data):
    """Numbers of the two rows after each, for neighbours."""
    after = torch.arange(len(data)).unsqueeze(1) + torch.tensor([1, 2])
    return after % len(data)


def noisy(make, model, data, scale, seed=0):
    noise = Noise(scale, seeded(seed))
    source = source_of(data, two_after(data) if data.repeat_widths is None else None)
    if make is MStepObjective:
        return MStepObjective(model, source, data, noise)
    return ElboObjective(model, source, data, constant_temperature(), noise=noise)


@pytest.mark.parametrize("make", [MStepObjective, ElboObjective])
@pytest.mark.parametrize("path", ["sparse", "dense"])
def test_noise_is_in_the_loss_and_shrinks_with_the_step(make, path, monkeypatch):
    force(monkeypatch, path)
    model, data = decided(make_model()), make_rows(hard=True)

    def loss(scale, step_share, seed=0):
        objective = noisy(make, model, data, scale, seed)
        return float(step_loss(objective, everything(data), step_share).detach())

    without = loss(0.0, 1.0)
    assert loss(0.5, 1.0) != without
    assert loss(0.5, 1.0) == loss(0.5, 1.0) != loss(0.5, 1.0, seed=1)
    torch.testing.assert_close(loss(0.5, 0.5), loss(0.25, 1.0))
    assert loss(0.5, 0.0) == without


def test_noise_moves_rows_along_the_lines_to_their_neighbours():
    """Its covariance is the mean of the outer products of these lines."""
    rows = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 2.0], [0.0, 4.0, 6.0]]).double()
    neighbors = torch.tensor([[1, 2], [0, 2], [0, 1]])
    source = source_of(Batch(rows, rows[:, 0], rows[:, :1]), neighbors)
    batch = source.rows(torch.zeros(50_000, dtype=torch.int64))
    Noise(0.5, seeded()).move(batch, 0.8)
    ways = rows[1:] - rows[0]
    torch.testing.assert_close(batch.x.mean(0), rows[0], rtol=0, atol=0.02)
    covariance = 0.4**2 * ways.T @ ways / 2
    torch.testing.assert_close(batch.x.T.cov(), covariance, rtol=0.02, atol=0.01)


def test_noise_leaves_values_where_they_may_not_move():
    data = make_rows()
    movable = torch.ones_like(data.x)
    movable[::2, 0] = 0.0
    data.movable = movable
    batch = source_of(data, two_after(data)).rows(everything(data))
    Noise(0.5, seeded()).move(batch, 1.0)
    assert torch.equal(batch.x == data.x, movable == 0)


def test_noise_fills_a_plane_of_some_thickness():
    """Where flows make it thinner, it is the thinner component that rows go to."""
    x = torch.ones(50_000, 2, dtype=torch.float64)
    neighbors = torch.zeros(50_000, 2, dtype=torch.int64)
    expected = torch.tensor([0.1, 3.0], dtype=x.dtype)
    data = Batch(
        x,
        x[:, 0],
        x[:, :1],
        movable=0 * x,
        thickness=expected.expand_as(x),
    )
    batch = source_of(data, neighbors).rows(torch.arange(50_000))
    Noise(0.5, seeded()).move(batch, 0.8)
    torch.testing.assert_close(batch.x.std(0), expected, rtol=0.02, atol=0)


def test_noise_keeps_rows_in_their_plane():
    x = rows(N_ROWS)
    x = torch.column_stack((x, x.sum(1), torch.full((N_ROWS,), 2.0)))
    data = Batch(x, x[:, 0], x[:, :1])
    batch = source_of(data, two_after(data)).rows(everything(data))
    Noise(0.5, seeded()).move(batch, 1.0)
    assert not torch.equal(batch.x, data.x)
    torch.testing.assert_close(batch.x[:, :2].sum(1), batch.x[:, 2])
    torch.testing.assert_close(batch.x[:, 3], data.x[:, 3])


@pytest.mark.parametrize("make", [MStepObjective, ElboObjective])
def test_figures_and_scores_have_no_noise(make):
    model, data = make_model(), make_rows()
    assert noisy(make, model, data, 5.0).evaluate() == (
        noisy(make, model, data, 0.0).evaluate()
    )


@pytest.mark.parametrize("make", [MStepObjective, ElboObjective])
def test_noise_on_repeated_values_does_not_shrink(make):
    model, data = make_model(), make_rows()
    widths = torch.zeros_like(data.x)
    widths[:, 0] = 0.2
    spread = Batch(data.x, data.weights, data.responsibilities, repeat_widths=widths)

    def loss(rows, step_share=1.0, seed=0):
        objective = noisy(make, model, rows, 0.0, seed)
        return float(step_loss(objective, everything(data), step_share).detach())

    assert loss(spread) != loss(data)
    assert loss(spread) == loss(spread, 0.1) != loss(spread, seed=1)
    without = Batch(
        data.x, data.weights, data.responsibilities, repeat_widths=0 * widths
    )
    assert loss(without) == loss(data)


def test_noise_on_repeated_values_is_as_wide_as_they_ask():
    x = torch.ones(50_000, 3, dtype=torch.float64)
    widths = torch.tensor([0.0, 0.1, 0.25], dtype=x.dtype).expand_as(x)
    data = Batch(x, x[:, 0], x[:, :1], repeat_widths=widths)
    batch = data.take(torch.arange(len(x)))
    Noise(0.3, seeded()).move(batch, 0.5)
    assert torch.equal(data.x, torch.ones_like(x))
    assert torch.equal(batch.x[:, 0], x[:, 0])
    torch.testing.assert_close(batch.x.mean(0), x[0], rtol=0, atol=5e-3)
    torch.testing.assert_close(batch.x.std(0), widths[0], rtol=0.02, atol=0)


def test_noise_on_repeated_values_stays_in_the_plane_of_the_rows():
    x = torch.ones(100, 3, dtype=torch.float64)
    data = Batch(x, x[:, 0], x[:, :1], repeat_widths=0.2 * x)
    plane = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    batch = data.take(torch.arange(len(x)))
    Noise(0.3, seeded(), plane.double()).move(batch, 0.5)
    torch.testing.assert_close(batch.x[:, 0], batch.x[:, 1])
    assert len(batch.x.unique()) == 200


# Figures and scores.


def test_temperature_decays_to_its_floor():
    temperature = Temperature(2.0, 0.01, floor=0.3)
    assert temperature(0) == 2.0
    assert temperature(50) == pytest.approx(2.0 * math.exp(-0.5))
    assert temperature(10_000) == 0.3


def test_temperature_decays_with_every_step():
    model, data = make_model(), make_rows()
    objective = ElboObjective(model, source_of(data), data, Temperature(2.0, 0.1))
    for step in range(4):
        step_loss(objective, torch.arange(5))
        assert float(model.temperature) == pytest.approx(2.0 * math.exp(-0.1 * step))


@pytest.mark.parametrize("kind", ["elbo", "m-step"])
def test_figures_are_what_they_are_called(kind):
    model, train, held_out = make_model(), make_rows(), make_rows(seed=8)
    if kind == "elbo":
        objective = ElboObjective(
            model, source_of(train), held_out, constant_temperature()
        )
    else:
        objective = MStepObjective(model, source_of(train), held_out)
    figures = objective.evaluate()
    assert float(figures["score"]) == pytest.approx(0.0, abs=1e-12)
    terms = [figures[f"elbo_{t}"] for t in ("reconstruction", "prior", "entropy")]
    assert figures["elbo"] == pytest.approx(sum(terms))
    dense = step_loss(make_elbo(model, train), everything(train)).detach()
    assert figures["elbo"] == pytest.approx(-float(dense))
    assert figures["train_log_likelihood"] == pytest.approx(
        float(weighted_mean(model.log_prob(train.x).detach(), train))
    )
    assert figures["validation_log_likelihood"] == pytest.approx(
        float(weighted_mean(model.log_prob(held_out.x).detach(), held_out))
    )
    assert figures["temperature"] == float(model.temperature)
    assert figures["n_components_in_use"] == 3
    model.weight_logits.data[0] = -100.0
    assert objective.evaluate()["n_components_in_use"] == 2


@pytest.mark.parametrize("kind", ["elbo", "m-step"])
def test_score_is_the_held_out_gain_over_the_start(monkeypatch, kind):
    """Of the log-likelihood, or of the rows' own components in the M-step."""
    monkeypatch.setattr(tracking, "DENSE_EVERY", 1)
    model, train, held_out = make_model(), make_rows(), make_rows(seed=8)

    def judged():
        if kind == "elbo":
            return model.log_prob(held_out.x)
        table = model.component_log_prob(held_out.x)
        return (held_out.responsibilities * table).sum(1)

    if kind == "elbo":
        objective = ElboObjective(
            model, source_of(train), held_out, constant_temperature()
        )
    else:
        objective = MStepObjective(model, source_of(train), held_out)
    before = judged().detach()
    generator = seeded(4)
    with torch.no_grad():
        for p in flow_parameters(model):
            p += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        model.weight_logits += torch.tensor([1.0, 0.0, -1.0])
    gain = (judged().detach() - before).clamp(-10, 10)  # 5 nats per column
    assert gain.abs().max() > 0.1
    score = objective.evaluate()["score"]
    assert score == pytest.approx(float(weighted_mean(gain, held_out)))


def test_one_row_cannot_decide_a_gain():
    data = Batch(torch.zeros(100, 2), torch.ones(100), torch.ones(100, 1))
    reference = torch.zeros(100)
    better = torch.full((100,), 0.2)
    better[0] = -1e30
    assert robust_gain(data, better, reference) > 0.05
    worse = torch.full((100,), -0.2)
    worse[0] = 1e30
    assert robust_gain(data, worse, reference) < -0.05


@pytest.mark.parametrize("other", [torch.float32, torch.float64])
def test_models_of_other_dtypes_are_compared(other):
    data = Batch(torch.zeros(100, 2), torch.ones(100), torch.ones(100, 1))
    better, worse = torch.full((100,), 0.2), torch.zeros(100)
    for log_prob, reference in ((better.to(other), worse), (better, worse.to(other))):
        assert robust_gain(data, log_prob, reference) == pytest.approx(0.2)
        assert clearly_gains(data, log_prob, reference)
        assert not clearly_gains(data, reference, log_prob)


def test_batches_add_up_to_all_rows_however_heavy_one_is():
    """Weight equals repetition for gradients too, not only for row counts."""
    model, data = make_model("maf", 3, 2), make_rows(n_rows=64)
    data.weights[3] = data.weights.sum()
    objective = MStepObjective(model, source_of(data), data)
    whole = step_loss(objective, torch.arange(64))
    parts = [step_loss(objective, part) for part in torch.arange(64).split(16)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


@pytest.mark.parametrize(("n", "factor"), [(8, 2.0), (16, 1.5), (40, 1.2)])
def test_a_gain_is_clear_beyond_its_standard_error(n, factor):
    """By more where few rows are there to tell."""
    data = make_rows()[:n]
    noise = torch.randn(len(data), generator=seeded(3), dtype=data.x.dtype)
    noise -= data.mean(noise)
    error = (data.weights * noise).square().sum().sqrt() / data.weights.sum()
    error *= factor
    reference = torch.zeros_like(noise)
    assert clearly_gains(data, noise + 1.01 * error, reference)
    assert not clearly_gains(data, noise + 0.99 * error, reference)
    assert not clearly_gains(data, reference, reference)


def test_of_many_components_a_dense_step_is_dense_for_a_part_of_the_rows(monkeypatch):
    model, data = decided(make_model(n_components=16)), make_rows(16)
    counts = []
    choose = ElboObjective._pairs

    def count(self, chosen, is_dense=False):
        counts.append(chosen.sum(1))
        return choose(self, chosen, is_dense)

    monkeypatch.setattr(ElboObjective, "_pairs", count)
    objective = make_elbo(model, data)
    objective.begin_step(starts_epoch=True)
    objective.loss(data)
    assert (counts[0] == 16).sum() == N_ROWS / 2
