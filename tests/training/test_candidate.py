"""A candidate: which Gaussians it starts from, and what becomes of its flows."""

from itertools import cycle

import numpy as np
import pytest
from small_models import small

from skflowmix.starts.gaussians import Gaussians
from skflowmix.training import candidate, phases


def groups_of_other_shapes(n=600):
    """Rows of two groups, of covariances that a common prior does not suit."""
    X = np.random.RandomState(0).randn(n, 6)
    X[::2] *= [1, 0.1, 1, 0.1, 1, 0.1]
    X[::2] += 5.0
    return X


@pytest.mark.parametrize(
    "large, tol", [(None, 10.0), ("WIDE", 0.01), ("EPOCH_ROWS", 0.01), ("WIDE", 10.0)]
)
def test_large_tables_are_trained_once(large, tol, monkeypatch):
    """From the plain Gaussians where they are ahead by more than `tol`."""
    strengths = []
    m_step = candidate.ModelFit.train_by_responsibilities

    def spoiling_m_step(fit, rival=None):
        m_step(fit)
        fit.working.components.means += 3.0
        strengths.append(fit.gaussians.shrinkage.strength)

    monkeypatch.setattr(
        candidate.ModelFit, "train_by_responsibilities", spoiling_m_step
    )
    if large:
        monkeypatch.setattr(candidate, large, 5)
    small(2, tol=tol, max_iter=100).fit(groups_of_other_shapes())
    assert len(strengths) == (1 if large else 2)
    assert (strengths[0] < 6) == (large is not None and tol < 1)


@pytest.mark.parametrize("answers", [(False, True), (True, False, False)])
@pytest.mark.parametrize("parameters", [{}, {"n_flows_per_component": "auto"}])
def test_models_in_float64_compete_with_others(answers, parameters, monkeypatch):
    answer = cycle(answers)
    monkeypatch.setattr(Gaussians, "need_float64", lambda _: next(answer))
    X = groups_of_other_shapes()
    model = small(2, n_iter_init=2, n_init=2, dtype="float32", **parameters).fit(X)
    assert np.isfinite(model.score(X))


def attempts_of(model, X, monkeypatch):
    """Names of the trainings on the ELBO, in their order, and their step sizes."""
    names, drops = [], []
    train, config = candidate.ModelFit.train, candidate.ModelFit.config

    def recorded_train(fit, **kwargs):
        names.append(fit.name)
        train(fit, **kwargs)

    def recorded_config(fit, max_epochs, n_drops, source):
        drops.append(n_drops)
        return config(fit, max_epochs, n_drops, source)

    monkeypatch.setattr(candidate.ModelFit, "train", recorded_train)
    monkeypatch.setattr(candidate.ModelFit, "config", recorded_config)
    model.fit(X)
    return names, drops


@pytest.mark.parametrize("plain_is_ahead", [False, True])
@pytest.mark.parametrize("n_iter_init", [0, 2])
def test_plain_gaussians_that_are_ahead_after_the_m_step_go_on_alone(
    plain_is_ahead, n_iter_init, monkeypatch
):
    def clearly_better(fit, log_prob):
        return fit.name == "plain" and plain_is_ahead

    monkeypatch.setattr(candidate.ModelFit, "clearly_better_than", clearly_better)
    model = small(2, n_iter_init=n_iter_init, n_flows_per_component=1)
    names, _ = attempts_of(model, groups_of_other_shapes(), monkeypatch)
    alone = plain_is_ahead and n_iter_init > 0
    assert names == (["plain"] if alone else ["start 0", "plain"])


@pytest.mark.parametrize("ahead", [-1e3, 1e3])
def test_plain_gaussians_out_of_reach_are_trained_alone(ahead, monkeypatch):
    """An M-step that cannot come so far ends early."""
    epochs = {}
    m_step = candidate.ModelFit.train_by_responsibilities

    def recorded(fit, rival=None):
        m_step(fit, rival)
        epochs[fit.name] = len(fit.history)

    monkeypatch.setattr(candidate.ModelFit, "train_by_responsibilities", recorded)
    monkeypatch.setattr(candidate.ModelFit, "_gain_of", lambda fit, rival: ahead)
    model = small(
        2, n_iter_init=9, n_flows_per_component=1, n_iter_no_change=9, max_iter=100
    )
    names, _ = attempts_of(model, groups_of_other_shapes(), monkeypatch)
    if ahead > 0:
        assert names == ["plain"]
        assert epochs == {"start 0": 5, "plain": 9}
    else:
        assert names[0] == "start 0"
        assert epochs["start 0"] == 9


@pytest.mark.parametrize("loses", [False, True])
def test_flows_that_lose_by_the_m_step_have_one_step_size(loses, monkeypatch):
    monkeypatch.setattr(phases, "clearly_gains", lambda *_: loses)
    model = small(2, n_flows_per_component=1)
    _, drops = attempts_of(model, groups_of_other_shapes(), monkeypatch)
    assert (2 in drops) == (not loses)


@pytest.mark.parametrize("smallest", [False, True])
def test_small_steps_that_helped_go_on(smallest, monkeypatch):
    """With Adam's moments; otherwise these start anew."""
    counts = []
    run = candidate.ModelFit.run

    def recorded_run(fit, phase, objective, source, config):
        if phase == "all rows":
            counts.append((float(fit.optimizer.n_steps), config.learning_rate))
        run(fit, phase, objective, source, config)
        if phase == "elbo":
            for record in fit.history:
                record["score"] = 0.5
                record["learning_rate"] *= 0.01 if smallest else 1.0

    monkeypatch.setattr(candidate.ModelFit, "run", recorded_run)
    monkeypatch.setattr(candidate.ModelFit, "clearly_better_than", lambda *_: True)
    small(2, n_flows_per_component=1, learning_rate=0.01).fit(groups_of_other_shapes())
    ((n_steps, rate),) = counts
    assert (n_steps > 0) == smallest
    assert rate == pytest.approx(0.0001 if smallest else 0.0025)
