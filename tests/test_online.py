"""Models that go on learning from rows as they come."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from small_models import answers, moons, small

import skflowmix
from skflowmix import estimator
from skflowmix._arrays import torch_generator
from skflowmix.fitting import Problem
from skflowmix.online import learn
from skflowmix.training.batches import Batch, TableSource
from skflowmix.training.objectives import DENSE_EVERY, ElboObjective, Temperature
from skflowmix.training.optimizer import AdamW, FlatParameters
from skflowmix.training.phases import FINAL_RATE
from skflowmix.training.settings import EPOCH_ROWS
from skflowmix.training.table import TrainingTable
from skflowmix.training.trainer import Trainer

BATCH = 16
OPTIONS = {"batch_size": BATCH, "input_noise": 0.0, "n_iter_init": 1}
PARTS = [moons(100, seed=1 + i) for i in range(3)]


@pytest.fixture(scope="module")
def fitted():
    return small(2, **OPTIONS).partial_fit(moons())


class Given:
    """A source of given batches."""

    n_batches = 1

    def __init__(self):
        self.batches = []

    def draw(self):
        return ()

    def rows(self):
        return self.batches.pop(0)

    def sample(self, n_rows):
        return Batch(torch.zeros(1, 2), torch.ones(1), torch.ones(1, 2) / 2)


def batches_of(model, module, X, random_state):
    """The batches that a call draws, with the model's responsibilities as labels."""
    problem = Problem(X, np.ones(len(X)))
    scales = model._standardizer
    table = TrainingTable(problem.rows, problem.weights, scales, 0.0, random_state)
    x = torch.from_numpy(table.x)
    with torch.no_grad():
        labels = module.responsibilities(x)
    rows = Batch(x.float(), torch.from_numpy(table.weights).float(), labels.float())
    source = TableSource(rows, BATCH, torch_generator(random_state))
    return [source.rows(*source.draw()) for _ in range(source.n_batches)]


def test_calls_are_steps_of_one_trainer_on_their_batches(fitted):
    settings = fitted._settings()
    module, state = fitted.module_, fitted._online
    reference, source = copy.deepcopy(module).float(), Given()
    groups = reference.parameter_groups()
    optimizer = AdamW(FlatParameters(groups, [reference.temperature]))
    hottest = Temperature(float(reference.temperature), settings.temperature_decay)
    objective = ElboObjective(
        reference, source, source.sample(1), hottest, settings.label_noise
    )
    config = settings.training_config(1, 0, BATCH, 2, 1)
    optimizer.prepare(
        config.max_grad_norm, config.weight_decay, 4 * (EPOCH_ROWS // BATCH)
    )
    rate = FINAL_RATE * config.learning_rate
    trainer = Trainer(objective, source, optimizer, replace(config, learning_rate=rate))
    for i, X in enumerate(PARTS):
        source.batches = batches_of(fitted, module, X, np.random.RandomState(i))
        while source.batches:
            trainer.step(rate, starts_epoch=False)
        module, state = learn(
            module,
            fitted._gaussians,
            fitted._standardizer,
            Problem(X, np.ones(len(X))),
            settings,
            state,
            torch.device("cpu"),
            np.random.RandomState(i),
        )
        for name, values in optimizer.state_dict().items():
            own = torch.from_numpy(state.optimizer[name])
            torch.testing.assert_close(own, values, rtol=1e-4, atol=1e-6)
    assert state.n_steps == objective.n_steps > DENSE_EVERY
    assert state.n_counted == fitted._online.n_counted + sum(map(len, PARTS))
    optimizer.flat.trained_values.copy_(optimizer.average)
    for own, averaged in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own.float(), averaged, rtol=1e-4, atol=1e-6)


def test_the_first_call_is_a_fit(fitted):
    model = small(2, **OPTIONS).fit(moons())
    for name, values in answers(model, moons()).items():
        np.testing.assert_array_equal(values, answers(fitted, moons())[name])
    np.testing.assert_array_equal(model.labels_, fitted.labels_)


def test_later_calls_learn_and_keep_scales_and_order(fitted):
    model = copy.deepcopy(fitted)
    X = moons(600, seed=9)
    before = model.score(X)
    for start in range(0, 600, 100):
        assert model.partial_fit(X[start : start + 100]) is model
    assert model.score(X) > before
    assert model._online.n_counted == 150 + 600
    np.testing.assert_array_equal(model.means_, fitted.means_)
    np.testing.assert_allclose(model.weights_, fitted.weights_, atol=0.1)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    assert abs(model.elbo(X[500:]).mean() - model.lower_bound_) < 1e-6
    gap = (model.score_samples(X[500:]) - model.elbo(X[500:])).mean()
    assert abs(gap - model.elbo_gap_) < 1e-6
    with pytest.raises(AttributeError, match="labels_"):
        _ = model.labels_
    # A new fit forgets.
    model.fit(moons())
    np.testing.assert_array_equal(model.score_samples(X), fitted.score_samples(X))


def test_it_goes_on_after_pickle_and_file_as_if_without(fitted, tmp_path):
    X, Z = PARTS[:2]
    model = copy.deepcopy(fitted).partial_fit(X)
    skflowmix.save(model, tmp_path / "model.safetensors")
    others = [
        pickle.loads(pickle.dumps(model)),
        skflowmix.load(tmp_path / "model.safetensors"),
    ]
    expected = model.partial_fit(Z).score_samples(X)
    for other in others:
        np.testing.assert_array_equal(other.partial_fit(Z).score_samples(X), expected)


def test_a_clone_begins_anew(fitted):
    model = clone(copy.deepcopy(fitted).partial_fit(PARTS[0]))
    assert not hasattr(model, "module_")
    again = model.partial_fit(moons())
    np.testing.assert_array_equal(
        again.score_samples(moons()), fitted.score_samples(moons())
    )


def test_weights_within_a_call_are_repetitions(fitted):
    X = PARTS[0]
    weights = np.arange(len(X)) % 3
    by_weight = copy.deepcopy(fitted).partial_fit(X, sample_weight=weights)
    repeated = copy.deepcopy(fitted).partial_fit(np.repeat(X, weights, axis=0))
    np.testing.assert_allclose(
        by_weight.score_samples(X), repeated.score_samples(X), rtol=1e-6
    )


def test_what_it_refuses_leaves_it_as_it_was(fitted):
    model = copy.deepcopy(fitted)
    before = dict(vars(model))
    spoilt = np.where(np.arange(100)[:, None] == 7, np.nan, PARTS[0])
    for X, message in [(PARTS[0][:, :1], "1 feature"), (spoilt, "column")]:
        with pytest.raises(ValueError, match=message):
            model.partial_fit(X)
        assert all(vars(model)[name] is value for name, value in before.items())
    with config_context(assume_finite=True), pytest.raises(ValueError, match="NaN"):
        model.partial_fit(spoilt)


def test_a_first_call_needs_rows_to_go_on_from():
    model = small(3, n_iter_init=1)
    with pytest.raises(ValueError, match=r"first call.*at least 15"):
        model.partial_fit(moons()[:12])
    assert not hasattr(model, "module_")
    # As Gaussians alone they could, having nothing else to learn.
    assert small(3, n_transforms=0).partial_fit(moons()[:12]).n_components_ == 3


def test_a_fitted_model_goes_on_too():
    model = small(2, **OPTIONS).fit(moons())
    before = model.score_samples(moons())
    model.partial_fit(PARTS[0][:1])
    assert np.isfinite(model.score_samples(moons())).all()
    assert (model.score_samples(moons()) != before).any()


def test_components_of_several_flows_go_on():
    model = small(2, n_flows_per_component=2, **OPTIONS).partial_fit(moons())
    model.partial_fit(PARTS[0])
    assert model.n_flows_ == 4 and model.means_.shape == (2, 2)
    by_component = np.bincount(model.flow_components_, model.flow_weights_)
    np.testing.assert_allclose(model.weights_, by_component)
    means = [
        np.average(model.flow_means_[own], axis=0, weights=model.flow_weights_[own])
        for own in (model.flow_components_ == k for k in range(2))
    ]
    np.testing.assert_allclose(model.means_, means)
    assert model.predict_proba(PARTS[0]).shape == (100, 2)


def test_a_call_that_fails_draws_no_seed(fitted, monkeypatch):
    model, other = copy.deepcopy(fitted), copy.deepcopy(fitted)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(estimator, "learn", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(moons())
    monkeypatch.undo()
    assert_array_equal(
        *(m.partial_fit(moons()).score_samples(moons()) for m in (model, other))
    )
