"""`FlowMixture`: what its answers mean, and what leaves them unchanged."""

import json
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax
from scipy.stats import ortho_group
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering, KMeans
from sklearn.datasets import make_blobs, make_moons
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr
from small_models import (
    answers,
    assert_same_answers,
    each_flow_slowly,
    make,
    moons,
    small,
    trained,
)

from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOptions,
    FlowMixtureOutlierDetector,
    _arrays,
    fitting,
    load,
    monitor,
    prediction,
    save,
)
from skflowmix.model.flows import FLOWS
from skflowmix.model.groups import Groups
from skflowmix.starts.partitions import INIT_METHODS
from skflowmix.training import candidate as candidate_module
from skflowmix.training.phases import ModelFit
from skflowmix.training.trainer import Trainer

each_flow = pytest.mark.parametrize("flow", FLOWS)


@pytest.fixture(scope="module", params=FLOWS)
def model(request):
    """Three components of each family, trained; not to be changed."""
    return trained(3, flow=request.param).fit(moons())


def blobs(n_samples=90, seed=0):
    """Rows of three blobs far apart, and which one each is from."""
    centers = [[0, 0], [20, 0], [0, 20]]
    return make_blobs(n_samples, centers=centers, random_state=seed)


# The number of components that is found.


@pytest.fixture(scope="module")
def found():
    """A model of three blobs that was not told their number."""
    X, _ = blobs(150)
    return trained("auto").fit(X)


def test_the_number_of_components_is_found(found):
    _, y = blobs(150)
    assert found.n_components == "auto"
    assert found.n_components_ == found.module_.n_components == 3
    assert found.n_components_in_use_ == 3
    assert adjusted_rand_score(y, found.labels_) == 1
    assert_allclose(found.weights_, 1 / 3, atol=0.02)
    assert found.weights_.sum() == pytest.approx(1)
    assert (np.diff(found.weights_) <= 0).all()


@pytest.mark.filterwarnings("ignore:.ic counts every weight")
def test_answers_have_the_number_that_was_found(found):
    X, _ = blobs(50, seed=1)
    for table in (found.predict_proba(X), found.posterior_proba(X)):
        assert table.shape == (50, 3)
        assert_allclose(table.sum(1), 1)
    log_prob = found.component_log_prob(X)
    assert log_prob.shape == (50, 3) and np.isfinite(log_prob).all()
    whole = logsumexp(log_prob + np.log(found.weights_), axis=1)
    assert_allclose(found.score_samples(X), whole)
    assert found.means_.shape == (3, 2) and found.covariances_.shape == (3, 2, 2)
    assert set(found.sample(200, random_state=0)[1]) == {0, 1, 2}
    with pytest.raises(ValueError, match="component must be an integer from 0 to 2"):
        found.sample(component=3)
    assert np.isfinite([found.bic(X), found.aic(X), found.score(X)]).all()


def test_the_evidence_for_the_number_is_kept(found, tmp_path):
    path = found.n_components_path_
    assert [r["n_components"] for r in path] == list(range(len(path) + 1, 1, -1))
    counted = [record for record in path if record["counted"]]
    assert len(counted) == 2
    for record in counted:
        assert record["valley"] < record["limit"] <= 1
        assert record["share"] == pytest.approx(1 / 3, abs=0.02)
    save(found, tmp_path / "model")
    assert load(tmp_path / "model").n_components_path_ == path
    assert small(2).fit(moons()).n_components_path_ == []


@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_criteria_of_flows_warn(found, criterion):
    X, _ = blobs()
    with pytest.warns(UserWarning, match=f"{criterion} counts every weight"):
        getattr(found, criterion)(X)


def test_training_goes_on_with_the_number_that_was_found():
    X, y = blobs(150)
    model = trained("auto", warm_start=True).fit(X)
    module = model.module_
    model.fit(X)
    assert model.module_ is not module
    assert model.n_components_ == 3 and model.weights_.shape == (3,)
    assert "m-step" not in {record["phase"] for record in model.history_}
    assert adjusted_rand_score(y, model.predict(X)) == 1


@pytest.mark.parametrize("max_components", [1, 2, 3, 20])
def test_no_more_components_than_allowed_are_found(max_components):
    X, _ = blobs()
    model = small("auto", max_components=max_components, n_transforms=0).fit(X)
    assert model.n_components_ == len(model.weights_) == min(max_components, 3)


def test_more_components_may_be_allowed_than_there_are_rows():
    X, _ = blobs()
    assert small("auto", max_components=1000).fit(X[:8]).n_components_ <= 8


STARTS_OF_FIVE = {
    "weights": {"weights_init": np.full(5, 1 / 5)},
    "means": {"means_init": blobs()[0][:5]},
    "both": {"weights_init": np.full(5, 1 / 5), "means_init": blobs()[0][:5]},
    "responsibilities": {"init_params": np.eye(5)[np.arange(90) % 5]},
    "clusterer": {"init_params": KMeans(5, n_init=1, random_state=0)},
}


@pytest.mark.parametrize("start", STARTS_OF_FIVE.values(), ids=STARTS_OF_FIVE)
def test_a_start_says_the_number_of_components_itself(start):
    X, _ = blobs()
    model = small("auto", max_components=2, n_transforms=0, **start).fit(X)
    assert model.n_components_ == len(model.weights_) == 5
    assert model.component_log_prob(X).shape == (90, 5)


def test_starts_that_say_different_numbers_are_refused():
    X, _ = blobs()
    with pytest.raises(ValueError, match=r"means_init must have shape \(3, 2\)"):
        small("auto", weights_init=[0.2, 0.3, 0.5], means_init=X[:4]).fit(X)


def test_a_number_that_is_given_is_kept():
    X, _ = blobs()
    model = small(5).fit(X)
    assert model.n_components_ == model.n_components_in_use_ == 5
    assert (model.weights_ > 0).all()


def test_components_that_expect_no_row_are_dropped_where_the_number_is_found():
    """Without an exact unit of the weights, the last row is a hundredth of one."""
    X = np.r_[blobs()[0], [[300.0, 300.0]]]
    weights = np.r_[np.random.RandomState(0).uniform(1, 2, 90), 0.01]
    clusterer = KMeans(4, n_init=3, random_state=0)
    given = small(4, init_params=clusterer).fit(X, sample_weight=weights)
    assert given.n_components_ == 4 and given.n_components_in_use_ == 3
    assert 0 < given.weights_[3] < 1 / 91
    dropped = small("auto", init_params=clusterer).fit(X, sample_weight=weights)
    assert dropped.n_components_ == dropped.n_components_in_use_ == 3
    assert_allclose(dropped.weights_, given.weights_[:3] / given.weights_[:3].sum())
    assert_allclose(dropped.means_, given.means_[:3])
    assert_allclose(
        dropped.component_log_prob(X), given.component_log_prob(X)[:, :3], rtol=1e-9
    )
    assert set(dropped.labels_) == {0, 1, 2}


# The answers fit together.


def test_responsibilities_are_bayes_rule(model):
    X = moons(seed=1)
    log_joint = model.component_log_prob(X) + np.log(model.weights_)
    log_prob = logsumexp(log_joint, axis=1)
    assert_allclose(model.score_samples(X), log_prob, rtol=1e-12)
    expected = np.exp(log_joint - log_prob[:, None])
    assert_allclose(model.predict_proba(X), expected, rtol=1e-9, atol=1e-300)
    assert_array_equal(model.predict(X), log_joint.argmax(axis=1))


def test_responsibilities_sum_to_one(model):
    far = np.r_[moons(), 1e6 * moons()]
    for shares in (model.predict_proba(far), model.posterior_proba(far)):
        assert shares.shape == (len(far), 3)
        assert (shares >= 0).all()
        assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)


def test_elbo_is_a_lower_bound(model):
    X = np.r_[moons(), moons(seed=1), 100 * moons()]
    gap = model.score_samples(X) - model.elbo(X)
    assert (gap >= -1e-9).all()
    assert gap.max() > 0


@pytest.mark.slow
@each_flow
def test_the_posterior_network_knows_the_responsibilities(flow):
    """Also where the best flows are those of an early epoch, as of easy blobs."""
    for X in (moons(300), blobs(300)[0]):
        model = trained(3, flow=flow, posterior_units=(64, 64), n_iter_no_change=6)
        model.fit(X)
        assert model.elbo_gap_ < 0.3
        agreement = model.posterior_proba(X).argmax(axis=1) == model.predict(X)
        assert agreement.mean() > 0.9


def test_bound_of_the_training_rows(model):
    X = moons()
    assert_allclose(model.lower_bound_, model.elbo(X).mean())
    gap = model.score_samples(X) - model.elbo(X)
    assert_allclose(model.elbo_gap_, gap.mean(), rtol=1e-9)
    assert model.elbo_gap_ >= 0
    assert len(model.lower_bounds_) == model.n_iter_


def test_fitted_attributes(model):
    assert model.weights_.shape == (3,)
    assert_allclose(model.weights_.sum(), 1)
    assert (np.diff(model.weights_) <= 0).all()
    assert model.means_.shape == (3, 2)
    assert model.covariances_.shape == (3, 2, 2)
    assert_allclose(model.covariances_, model.covariances_.transpose(0, 2, 1))
    assert (np.linalg.eigvalsh(model.covariances_) > 0).all()
    assert_array_equal(model.labels_, model.predict(moons()))
    assert model.n_features_in_ == 2
    assert model.converged_ is True
    assert isinstance(model.module_, torch.nn.Module)


def test_score_is_the_mean(model):
    X = moons(seed=1)
    log_prob = model.score_samples(X)
    assert_allclose(model.score(X), log_prob.mean())
    weights = np.random.RandomState(0).randint(0, 3, len(X))
    repeated = np.repeat(X, weights, axis=0)
    assert_allclose(model.score(X, sample_weight=weights), model.score(repeated))
    assert_allclose(
        model.score(X, sample_weight=weights * 8e307), model.score(repeated)
    )


def test_history_has_a_record_per_epoch(model):
    history = json.loads(json.dumps(model.history_))
    assert history == model.history_
    names = {
        "phase",
        "epoch",
        "learning_rate",
        "train_loss",
        "train_log_likelihood",
        "validation_log_likelihood",
        "elbo",
        "elbo_reconstruction",
        "elbo_prior",
        "elbo_entropy",
        "temperature",
        "n_components_in_use",
        "score",
    }
    for phase in ("m-step", "elbo"):
        records = [record for record in history if record["phase"] == phase]
        assert [record["epoch"] for record in records] == [*range(1, len(records) + 1)]
        for record in records:
            assert names <= set(record)
            terms = ("elbo_reconstruction", "elbo_prior", "elbo_entropy")
            assert_allclose(record["elbo"], sum(record[term] for term in terms))
            assert record["elbo"] <= record["train_log_likelihood"] + 1e-5
            assert type(record["n_components_in_use"]) is int
    assert len(records) == model.n_iter_
    temperatures = [record["temperature"] for record in records]
    assert temperatures[0] <= 1 and (np.diff(temperatures) < 0).all()


def test_one_flow_needs_no_m_step():
    history = small(1, n_flows_per_component=1).fit(moons()).history_
    assert "m-step" not in {record["phase"] for record in history}


def test_all_rows_are_learnt_from_in_the_end():
    """Also those that judged until then, but no longer than the user allows."""
    model = trained(2).fit(moons(300))
    phases = [record["phase"] for record in model.history_]
    assert phases[-1] == "all rows"
    assert phases.count("elbo") == model.n_iter_
    assert phases == sorted(phases, key=["m-step", "elbo", "all rows"].index)
    with pytest.warns(ConvergenceWarning):
        short = trained(2, max_iter=3).fit(moons(300))
    phases = [record["phase"] for record in short.history_]
    assert phases.count("all rows") <= 3


def test_every_phase_has_its_noise_and_its_neighbors(monkeypatch):
    """The last one has all rows, and no more noise than the best epoch had."""
    trainers, has_moments = [], []
    run = Trainer.run

    def watched(trainer, *others):
        trainers.append(trainer)
        groups = trainer.optimizer.groups
        moments = (part.first for parts, _, _ in groups for part in parts)
        has_moments.append({bool(first.any()) for first in moments})
        return run(trainer, *others)

    monkeypatch.setattr(Trainer, "run", watched)
    model = trained(3, input_noise=0.4, n_flows_per_component=1).fit(moons(400))
    m_step, elbo, last, _ = trainers
    optimizers = [trainer.optimizer for trainer in trainers]
    # Adam goes on from the M-step to the ELBO, and starts from none in the end.
    assert optimizers[0] is optimizers[1] is optimizers[2] is not optimizers[3]
    assert has_moments == [{False}, {True}, {False}, {False}]
    assert not m_step.config.may_keep_start and elbo.config.may_keep_start
    records = [record for record in model.history_ if record["phase"] == "elbo"]
    best = max(records, key=lambda record: record["score"])
    share = best["learning_rate"] / model.learning_rate
    assert share < 1
    scales = [phase.objective.noise.scale for phase in (m_step, elbo, last)]
    assert scales == [0.4, 0.4, 0.4 * share]
    numbers = [phase.source.n_rows for phase in (m_step, elbo, last)]
    assert numbers[0] == numbers[1] < numbers[2] == 400
    for phase in (m_step, elbo, last):
        rows = phase.source.rows(torch.arange(phase.source.n_rows))
        distances = torch.cdist(rows.x, rows.x).fill_diagonal_(torch.inf)
        nearest = distances.topk(2, largest=False).indices
        assert torch.equal(phase.source.nearest.sort(1).values, nearest.sort(1).values)
        assert torch.equal(rows.neighbors, rows.x[phase.source.nearest])
        assert rows.movable.all()


def test_gaussians_are_those_of_all_rows_in_the_end():
    X, y = blobs()
    model = trained(3, init_params=np.eye(3)[y]).fit(X)
    means = [X[y == k].mean(0) for k in range(3)]
    assert_allclose(np.sort(model.means_, 0), np.sort(means, 0), atol=1e-6)


@pytest.mark.slow
def test_spikes_survive_the_gaussians_of_all_rows():
    """Zeros stay on the spike that flows have for them."""
    rng = np.random.RandomState(0)

    def draw(n):
        X = np.exp(rng.normal(size=(n, 4))) * (rng.uniform(size=(n, 4)) < 0.5)
        X[:, 0] += 3 * (np.arange(n) % 2)
        return X

    X, new = draw(400), draw(2000)
    parameters = {"n_common_transforms": 0, "init_params": "kmeans", "random_state": 0}
    model = make(FlowMixture, 2, **parameters).fit(X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelFit, "set_gaussians_of_all_rows", lambda fit: None)
        as_judged = clone(model).fit(X)
    assert model.score(new) > as_judged.score(new) - 0.1


def test_small_tables_with_few_rows_per_column_have_two_starts():
    X = np.random.RandomState(0).standard_t(5, size=(90, 6))

    def leaning_much(X, **parameters):
        rows = SimpleNamespace(
            x=X,
            weights=np.ones(len(X)),
            counts=np.ones(len(X)),
            train=np.arange(len(X) - 10),
            held_out=np.arange(10),
            without_far=lambda shares: shares,
        )
        shares = np.eye(2)[np.arange(len(X)) % 2]
        restart = SimpleNamespace(
            table=rows,
            settings=trained(2, **parameters)._settings(),
            start=SimpleNamespace(weights=None),
            problem=SimpleNamespace(classes=None),
        )
        partition = fitting._Restart._partition(restart, shares, Groups([1, 1]))
        strengths = [start.shrinkage.strength for start in partition.starts]
        assert partition.plain.shrinkage.strength <= min(strengths)
        return [strength >= 10 * X.shape[1] for strength in strengths]

    assert len(leaning_much(X)) == 2 and leaning_much(X)[-1]
    assert len(leaning_much(np.tile(X, (4, 1)))) == 1
    assert len(leaning_much(X, n_transforms=0)) == 1


@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("worse", [0, 1])
def test_of_two_starts_the_better_one_goes_on(n_components, worse, monkeypatch):
    """The other one costs an M-step, which one component needs only for this."""
    started, shrinkages, trained_on = [], set(), []
    m_step, train = ModelFit.train_by_responsibilities, ModelFit.train

    def spoiling_m_step(fit, *args):
        m_step(fit, *args)
        if len(started) == worse:
            fit.working.components.means += 3.0
        started.append(fit)
        shrinkages.add(fit.gaussians.shrinkage)

    def recording_train(fit, *args, **kwargs):
        trained_on.append(fit)
        train(fit, *args, **kwargs)

    monkeypatch.setattr(ModelFit, "train_by_responsibilities", spoiling_m_step)
    monkeypatch.setattr(ModelFit, "train", recording_train)
    quick = {"max_iter": 20, "tol": 10.0, "n_iter_no_change": 1}
    X = np.random.RandomState(0).standard_t(5, size=(90, 6)).cumsum(1)
    trained(n_components, **quick).fit(X)
    assert len(shrinkages) == len(started) >= 2
    assert trained_on[0] is started[1 - worse]
    assert started[worse] not in trained_on


def test_weights_decay_less_where_rows_are_many():
    def decay(n_rows, n_columns, **parameters):
        chosen = make(FlowMixture, 3, **parameters)._settings()
        configs = (
            chosen.training_config(1, 0, n_distinct, n_columns, n_rows)
            for n_distinct in (n_rows, 20)
        )
        merged, counted = (config.weight_decay for config in configs)
        assert merged == counted
        return merged

    assert decay(50, 2) == decay(1000, 2) == decay(5000, 10) == 1
    assert decay(10_000, 2) == pytest.approx(0.1)
    assert decay(10_000, 10) == pytest.approx(0.5)
    assert decay(10_000, 2, weight_decay=0.7) == decay(50, 2, weight_decay=0.7) == 0.7


@pytest.mark.parametrize(
    "reg_covar",
    [1e-6, *(pytest.param(r, marks=pytest.mark.slow) for r in (1e-5, 1e-4))],
)
@pytest.mark.parametrize("sd", [0.0, 0.01])
def test_a_column_that_is_nearly_a_sum_costs_no_flows(sd, reg_covar):
    def draw(seed):
        x = make_moons(300, noise=0.05, random_state=seed)[0]
        noise = sd * np.random.RandomState(seed).randn(300)
        return np.column_stack([x, x.sum(axis=1) + noise])

    model = trained(2, flow="nsf-ar", reg_covar=reg_covar).fit(draw(0))
    gaussians = clone(model).set_params(n_transforms=0).fit(draw(0))
    assert model.score(draw(1)) > gaussians.score(draw(1)) + 0.3


@pytest.mark.filterwarnings("ignore:.ic counts every weight")
def test_information_criteria(model):
    X = moons(seed=1)
    n_gaussian = 3 * (2 + 3) + 2
    layers = model.module_.state_dict().items()
    of_flows = {name: p for name, p in layers if "conditioner" in name}
    masks = {name: p for name, p in of_flows.items() if name.endswith("mask")}
    n_flow = sum(p.numel() for n, p in of_flows.items() if n not in masks)
    for name, mask in masks.items():
        n_flows = len(of_flows[name.replace("mask", "weight")])
        n_flow -= n_flows * int((mask == 0).sum())
    assert n_flow > 0
    n_parameters = n_gaussian + n_flow
    total = model.score_samples(X).sum()
    assert_allclose(model.aic(X), -2 * total + 2 * n_parameters)
    assert_allclose(model.bic(X), -2 * total + n_parameters * np.log(len(X)))


# With no transforms it is scikit-learn's Gaussian mixture.


@pytest.mark.parametrize("n_components", [1, 3])
def test_without_transforms_it_is_a_gaussian_mixture(n_components):
    X, _ = blobs()
    model = small(n_components, n_transforms=0, dtype="float64").fit(X)
    peer = GaussianMixture(n_components)
    peer.weights_, peer.means_ = model.weights_, model.means_
    peer.covariances_ = model.covariances_
    precisions = np.linalg.inv(model.covariances_)
    peer.precisions_cholesky_ = np.linalg.cholesky(precisions)
    grid = np.random.RandomState(0).uniform(-30, 50, size=(500, 2))
    assert_allclose(model.score_samples(grid), peer.score_samples(grid), rtol=1e-6)
    assert_allclose(model.predict_proba(grid), peer.predict_proba(grid), atol=1e-6)
    assert_array_equal(model.predict(X), peer.predict(X))
    assert_allclose(model.bic(X), peer.bic(X), rtol=1e-6)
    assert_allclose(model.aic(X), peer.aic(X), rtol=1e-6)


# Far from the data.


def in_all_directions(X, distances, n_directions=100):
    """Points (distance, direction, column), in standard deviations from the mean."""
    directions = np.random.RandomState(0).normal(size=(n_directions, X.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    steps = np.reshape(distances, (-1, 1, 1)) * directions * X.std(axis=0)
    return X.mean(axis=0) + steps


def heavy_tailed():
    return np.random.RandomState(0).standard_t(2, size=(300, 3))


@each_flow_slowly
@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("X", [moons(300), heavy_tailed()], ids=["moons", "t"])
def test_density_falls_far_from_the_data(flow, n_components, X):
    model = trained(n_components, flow=flow).fit(X)
    far = in_all_directions(X, 10.0 ** np.arange(1, 7))
    log_prob = model.score_samples(far.reshape(-1, X.shape[1])).reshape(6, -1)
    assert np.isfinite(log_prob).all()
    assert (np.diff(log_prob, axis=0) < 0).all()
    assert log_prob[0].max() < np.quantile(model.score_samples(X), 0.05)
    single = model.score_samples(far.reshape(-1, X.shape[1]).astype(np.float32))
    assert single.dtype == np.float32
    assert_allclose(single.reshape(6, -1), log_prob, rtol=1e-2)


def test_every_finite_row_has_finite_answers(model):
    directions = in_all_directions(moons(), [1.0])[0]
    largest = {np.float32: 3e38, np.float64: 1e308}
    for dtype, limit in largest.items():
        for size in (1e10, 1e20, 1e30, 1e100, 1e300, limit):
            if size <= limit:
                far = (size * directions / 10).astype(dtype)
                for name, answer in answers(model, far).items():
                    assert np.isfinite(answer).all(), (name, size)


# The same row has the same score, whatever surrounds it.


def assert_same_rows_same_answers(model, X, rtol):
    expected = answers(model, X)
    order = np.random.RandomState(0).permutation(len(X))
    for name, answer in answers(model, X[order]).items():
        assert answer.dtype == (X.dtype if name != "predict" else int)
        assert_allclose(answer, expected[name][order], rtol=rtol, atol=rtol)
    for size in (1, 2, 7, 64):
        for name, answer in answers(model, X[:size]).items():
            assert_allclose(answer, expected[name][:size], rtol=rtol, atol=rtol)


def test_scores_depend_on_no_other_row(model):
    assert_same_rows_same_answers(model, moons(seed=1), 1e-7)
    rtol = 1e-4 if model.flow.startswith("nsf") else 1e-5
    assert_same_rows_same_answers(model, moons(seed=1).astype(np.float32), rtol)


def test_scores_do_not_depend_on_the_chunks(model, monkeypatch):
    X = moons(seed=1)
    expected = answers(model, X)
    monkeypatch.setitem(_arrays.CHUNK_FLOATS, "cpu", 1)
    for name, answer in answers(model, X).items():
        assert_allclose(answer, expected[name], rtol=1e-7, err_msg=name)


def test_each_dtype_is_scored_in_itself(model):
    X = moons(seed=1).astype(np.float32)
    for name, answer in answers(model, X).items():
        expected = answers(model, X.astype(np.float64))[name]
        if name == "predict":
            assert (answer == expected).mean() > 0.98
        else:
            assert answer.dtype == np.float32 and expected.dtype == np.float64
            assert_allclose(answer, expected, rtol=1e-3, atol=1e-3)
            assert (answer != expected).any()


@pytest.mark.filterwarnings("ignore:.ic counts every weight")
def test_asking_changes_nothing(model):
    before = {name: id(value) for name, value in vars(model).items()}
    weights = [p.clone() for p in model.module_.parameters()]
    answers(model, moons())
    model.score(moons()), model.bic(moons()), model.sample(3)
    assert {name: id(value) for name, value in vars(model).items()} == before
    for weight, then in zip(model.module_.parameters(), weights, strict=True):
        assert torch.equal(weight, then)
        assert weight.dtype == torch.float64


# Sample weights.


@pytest.mark.parametrize("n_components", [1, 3])
def test_a_weight_is_a_repetition(n_components):
    X = moons()
    weights = np.random.RandomState(0).randint(0, 4, len(X))
    repeated = np.repeat(X, weights, axis=0)
    weighted = small(n_components).fit(X, sample_weight=weights)
    for other in (
        small(n_components).fit(repeated),
        small(n_components).fit(X[weights > 0], sample_weight=weights[weights > 0]),
        small(n_components).fit(X, sample_weight=7 * weights),
        small(n_components).fit(X, sample_weight=2.0**1020 * weights),
    ):
        assert_same_answers(weighted, other, X)
        assert_allclose(weighted.lower_bound_, other.lower_bound_)
    unweighted = small(n_components).fit(X)
    assert (weighted.score_samples(X) != unweighted.score_samples(X)).all()


@pytest.mark.slow
@settings(max_examples=10)
@given(st.floats(1e-300, 1e308))
def test_equal_weights_are_none(factor):
    X = moons()
    model = small(2).fit(X, sample_weight=np.full(len(X), factor))
    assert_same_answers(model, small(2).fit(X), X)


@pytest.mark.slow
def test_weights_reach_every_start():
    """A clusterer without weights of its own sees the rows as often as they weigh."""
    X = moons()
    weights = np.random.RandomState(0).randint(1, 4, len(X))
    for init in (*INIT_METHODS, AgglomerativeClustering(2)):
        model = small(2, init_params=init).fit(X, sample_weight=weights)
        repeated = np.repeat(X, weights, axis=0)
        other = small(2, init_params=init).fit(repeated)
        assert_same_answers(model, other, X)


@pytest.mark.parametrize(
    "weights",
    [
        np.zeros(150),
        np.r_[-1.0, np.ones(149)],
        np.r_[np.nan, np.ones(149)],
        np.r_[np.inf, np.ones(149)],
        np.ones(149),
        np.ones((150, 1)),
        0.0,
        -1.0,
        np.nan,
        np.inf,
    ],
    ids=lambda w: f"{np.shape(w)}{np.ravel(w)[0]}",
)
def test_bad_weights(weights):
    match = "(?i)sample.?weight|negative"
    with pytest.raises(ValueError, match=match):
        small(2).fit(moons(), sample_weight=weights)
    with pytest.raises(ValueError, match=match):
        small(2).fit(moons()).score(moons(), sample_weight=weights)


def few_values(kind, n_rows=10_000):
    """Rows of two groups with few distinct values."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, n_rows)
    if kind == "ages":
        ages = rng.normal(np.array([25, 70])[group], np.array([4, 12])[group])
        return np.rint(ages[:, None] / 5) * 5
    if kind == "counts":
        return rng.poisson(np.array([2, 15])[group])[:, None].astype(float)
    if kind == "two columns":
        means, sds = np.array([[3, 8], [12, 6]]), np.array([[1, 2], [3, 1.5]])
        return np.rint(rng.normal(means[group], sds[group]))
    colours = np.array([[200, 60, 50], [40, 120, 180]])[group]
    return np.rint(rng.normal(colours, 12) / 8) * 8


@pytest.mark.parametrize(
    ("kind", "weighted"),
    [
        ("ages", True),
        ("colours", False),
        pytest.param("ages", False, marks=pytest.mark.slow),
        pytest.param("colours", True, marks=pytest.mark.slow),
        *(
            pytest.param(kind, weighted, marks=pytest.mark.slow)
            for kind in ("counts", "two columns")
            for weighted in (False, True)
        ),
    ],
)
def test_covariances_of_many_rows_of_few_values_are_theirs(kind, weighted):
    X = few_values(kind)
    model = FlowMixture(2, n_transforms=0, tol=10.0, random_state=0)
    if weighted:
        values, counts = np.unique(X, axis=0, return_counts=True)
        model.fit(values, sample_weight=0.1 * counts)
    else:
        model.fit(X)
    expected = GaussianMixture(2, random_state=0).fit(X)
    scales = [
        np.sqrt(np.diagonal(fitted.covariances_, axis1=1, axis2=2))[
            np.argsort(fitted.means_[:, 0])
        ]
        for fitted in (model, expected)
    ]
    assert_allclose(*scales, rtol=0.1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sd", [1e-2, 1e-5])
def test_a_component_may_be_narrow_where_others_are_wide(sd, turned):
    rng = np.random.default_rng(0)
    y = np.arange(800) % 2
    X = rng.normal(size=(800, 3)) + 6.0 * y[:, None]
    X[y == 0, 0] *= sd
    if turned:
        X = X @ ortho_group.rvs(3, random_state=0)
    model = trained(2, reg_covar=1e-12).fit(X[:600])
    peer = GaussianMixture(2, reg_covar=1e-12, random_state=0).fit(X[:600])
    assert model.score(X[600:]) > peer.score(X[600:]) - 0.05


@pytest.mark.parametrize("n_rows", [1000, 10_000])
def test_three_groups_of_few_values_are_found(n_rows):
    """Values so near to each other that rows of one could pass for a cluster."""
    rng = np.random.default_rng(1)
    group = rng.integers(0, 3, n_rows)
    values = rng.normal(np.array([20, 50, 90])[group], np.array([3, 6, 12])[group])
    X = np.rint(values / 5)[:, None] * 5
    model = FlowMixture(3, n_transforms=0, tol=10.0, random_state=0)
    assert adjusted_rand_score(group, model.fit_predict(X)) > 0.9


def test_components_in_use_expect_a_row_of_those_that_are_merged():
    """A hundredth of ten thousand rows, but less than one of ten distinct ones."""
    X = np.r_[np.arange(9901) % 9, np.full(100, 100)][:, None].astype(float)
    for n_components in (2, "auto"):
        model = small(n_components, init_params=KMeans(2)).fit(X)
        assert model.n_components_ == model.n_components_in_use_ == 2


def test_distinct_rows_are_evaluated_once(monkeypatch):
    X = np.r_[moons(30), moons(30), moons(40)]
    weights = np.ones(100)
    weights[[0, 99]] = 0
    evaluated = []
    evaluate = fitting.evaluate

    def recording(module, standardizer, X, *others):
        evaluated.append(len(X))
        return evaluate(module, standardizer, X, *others)

    monkeypatch.setattr(fitting, "evaluate", recording)
    model = small(2).fit(X, sample_weight=weights)
    distinct = len(np.unique(X[weights > 0], axis=0))
    assert evaluated == [distinct + 2]
    assert_array_equal(model.labels_, model.predict(X))
    assert model.lower_bound_ == pytest.approx(
        np.average(model.elbo(X), weights=weights)
    )


def test_components_of_few_rows_have_no_flows():
    X = moons(100)
    flows = [
        trained(k, init_params="kmeans").fit(X).module_.architecture["n_transforms"]
        for k in (2, 30)
    ]
    assert flows[0] > 0 == flows[1]


# What else leaves the model unchanged.


def test_y_is_ignored():
    X = moons()
    expected = small(2).fit(X)
    for y in (np.arange(len(X)), ["a"] * len(X), np.full(len(X), np.nan), [1]):
        assert_same_answers(small(2).fit(X, y), expected, X)
        assert_array_equal(small(2).fit_predict(X, y), expected.labels_)
        assert expected.score(X, y) == expected.score(X)


@pytest.mark.parametrize("init_params", INIT_METHODS)
def test_order_of_the_rows_does_not_matter(init_params):
    X = moons()
    order = np.random.RandomState(1).permutation(len(X))
    model = small(3, init_params=init_params).fit(X)
    other = small(3, init_params=init_params).fit(X[order])
    assert_same_answers(model, other, X)
    assert_array_equal(model.labels_[order], other.labels_)


def test_fit_predict_is_predict():
    model = small(3)
    labels = model.fit_predict(moons())
    assert labels.dtype == int
    assert_array_equal(labels, model.labels_)
    assert_array_equal(labels, model.predict(moons()))
    weights = np.arange(len(moons()))
    labels = model.fit_predict(moons(), sample_weight=weights)
    other = small(3).fit(moons(), sample_weight=weights)
    assert_array_equal(labels, other.labels_)


@pytest.mark.parametrize(
    "random_state", [0, pytest.param(np.random.RandomState, marks=pytest.mark.slow)]
)
def test_a_seed_repeats(random_state):
    def fitted():
        seed = random_state if random_state == 0 else random_state(5)
        return small(3, random_state=seed, n_init=2, init_params="random").fit(moons())

    first, second = fitted(), fitted()
    assert_same_answers(first, second, moons())
    assert first.history_ == second.history_
    assert_array_equal(first.sample(20)[0], second.sample(20)[0])


def test_rows_without_weight_are_not_counted():
    weights = np.arange(150) < 2
    with pytest.raises(ValueError, match=r"got n_samples=2 and n_components=3"):
        small(3).fit(moons(), sample_weight=weights)
    small(2).fit(moons(), sample_weight=weights)


@pytest.mark.parametrize("heavy", [pytest.param(1e17, marks=pytest.mark.slow), 1e60])
def test_a_row_may_outweigh_all_others(heavy):
    """Also so far that the others' weights are beyond float32."""
    X = np.random.RandomState(0).randn(60, 2)
    weights = np.r_[heavy, np.ones(59)]
    model = trained(3, init_params="auto").fit(X, sample_weight=weights)
    assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.parametrize("repeat_noise", [0.0, 1.0])
@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_a_common_factor_of_weights_changes_nothing_on_integers(factor, repeat_noise):
    rng = np.random.RandomState(4)
    X = np.round(20 * rng.standard_t(3, size=(400, 1)))
    weights = rng.randint(1, 4, 400)
    model = small(2, init_params="auto", repeat_noise=repeat_noise)
    model.fit(X, sample_weight=weights)
    other = clone(model).fit(X, sample_weight=factor * weights)
    assert_allclose(other.score_samples(X), model.score_samples(X), rtol=1e-6)


@pytest.mark.parametrize("init_params", ["linkage", "spectral", "k-means++"])
def test_a_common_factor_of_weights_breaks_no_ties(init_params):
    X = np.round(3 * moons(200))
    for seed in range(4):
        weights = np.random.RandomState(seed).randint(0, 4, 200)
        model = small(3, init_params=init_params, n_transforms=0)
        scores = [
            clone(model).fit(X, sample_weight=factor * weights).score(X)
            for factor in (1, 3.7, 0.1)
        ]
        assert_allclose(scores, scores[0], rtol=1e-9)


@each_flow
def test_a_seed_repeats_whatever_the_default_dtype_is(flow):
    first = trained(2, flow=flow, tol=10.0).fit(moons())
    torch.set_default_dtype(torch.float64)
    try:
        second = trained(2, flow=flow, tol=10.0).fit(moons())
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_answers(first, second, moons())


def test_no_seed_does_not():
    """Even where NumPy's global generator is in the same state."""
    scores = [
        small(3, random_state=None, init_params="random").fit(moons()).score(moons())
        for _ in range(3)
    ]
    assert len(set(scores)) == 3


def test_where_flows_do_not_pay_the_plain_gaussians_are_the_model(monkeypatch):
    """Not those that flows started from, even if held-out rows like them better."""

    def drop(fit):
        torch._foreach_copy_(list(fit.working.parameters()), fit.start)

    monkeypatch.setattr(ModelFit, "drop_flows_without_gain", torch.no_grad()(drop))
    monkeypatch.setattr(ModelFit, "clearly_better_than", lambda *_: True)
    rng = np.random.RandomState(0)
    X = rng.normal(size=(120, 5))
    X = np.c_[X, X.sum(axis=1) + 1e-3 * rng.normal(size=120)]
    X[:2] += [[0, 0, 0, 0, 0, 30], [0, 0, 0, 0, 9, 33]]
    start = np.eye(2)[(np.arange(120) < 2).astype(int)]
    model = trained(2, init_params=start).fit(X)
    plain = clone(model).set_params(n_transforms=0).fit(X)
    assert_allclose(model.covariances_, plain.covariances_)
    assert_allclose(model.weights_, plain.weights_)
    inliers = X[2:]
    log_prob = plain.score_samples(inliers)
    assert np.median(np.abs(model.score_samples(inliers) - log_prob)) < 0.1


def test_another_seed_is_another_model():
    first, second = (small(2, random_state=seed).fit(moons(300)) for seed in (0, 1))
    assert first.score(moons(300)) != second.score(moons(300))


@pytest.mark.parametrize("random_state", [None, 0])
def test_global_generators_stay(random_state):
    """As in every test here, by a fixture in conftest.py; said once more."""
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    model = small(2, random_state=random_state, n_init=2, init_params="auto")
    model.fit(moons()).sample(10)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_import_leaves_no_trace():
    code = """
import sys, warnings
import joblib, sklearn.mixture, scipy.sparse.linalg, torch
import numpy as np
warnings.simplefilter("error")
np.random.seed(1), torch.manual_seed(1)
states = np.random.get_state()[1].copy(), torch.get_rng_state()
settings = torch.get_default_dtype(), torch.get_num_threads()
before = set(sys.modules)
import skflowmix
assert (np.random.get_state()[1] == states[0]).all()
assert torch.equal(torch.get_rng_state(), states[1])
assert settings == (torch.get_default_dtype(), torch.get_num_threads())
assert torch.is_grad_enabled()
new = set(sys.modules) - before
for name in ("matplotlib", "rich", "pandas"):
    assert name not in new, name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Samples.


def test_sample(model):
    X, labels = model.sample(1000, random_state=0)
    assert X.shape == (1000, 2) and labels.shape == (1000,)
    assert X.dtype == np.float64 and labels.dtype == np.int64
    assert (np.diff(labels) >= 0).all()
    expected = 1000 * model.weights_
    counts = np.bincount(labels, minlength=3)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    X, labels = model.sample()
    assert X.shape == (1, 2) and labels.shape == (1,)
    # Rows look like those of the fit.
    log_prob = model.score_samples(model.sample(1000, random_state=0)[0])
    assert abs(np.median(log_prob) - np.median(model.score_samples(moons()))) < 0.7


def test_sample_of_one_component(model):
    for k in range(3):
        X, labels = model.sample(200, component=k, random_state=0)
        assert X.shape == (200, 2)
        assert (labels == k).all()
        assert (model.predict(X) == k).mean() > 0.5
        expected = model.component_log_prob(X)[:, k].mean()
        others = np.delete(model.component_log_prob(X), k, axis=1).mean(axis=0)
        assert (expected > others).all()


def test_labels_of_a_sample_belong_to_its_rows():
    model = small(3).fit(blobs()[0])
    new, labels = model.sample(300, random_state=0)
    assert_array_equal(model.predict(new), labels)


def test_a_large_sample_has_all_components(model, monkeypatch):
    """Drawn in chunks."""
    monkeypatch.setattr(prediction, "SAMPLE_CHUNK", 100)
    X, labels = model.sample(1050, random_state=0)
    assert np.isfinite(X).all()
    whole = model.score_samples(X)
    monkeypatch.undo()
    once = model.score_samples(model.sample(1050, random_state=0)[0])
    assert_array_equal(labels, model.sample(1050, random_state=0)[1])
    assert abs(np.median(whole) - np.median(once)) < 0.3


def test_random_state_of_a_sample():
    model = small(2).fit(moons())
    draw = model.sample
    assert_array_equal(draw(5, random_state=3)[0], draw(5, random_state=3)[0])
    assert (draw(5, random_state=3)[0] != draw(5, random_state=4)[0]).all()
    generator = np.random.RandomState(3)
    first = draw(5, random_state=generator)[0]
    assert_array_equal(first, draw(5, random_state=3)[0])
    assert (first != draw(5, random_state=generator)[0]).all()
    assert (draw(5)[0] != draw(5)[0]).all()


def test_threads_draw_different_rows():
    model = small(2).fit(moons())
    start = threading.Barrier(8)
    draws = []

    def draw():
        start.wait()
        draws.extend(model.sample(1)[0].tolist() for _ in range(10))

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(np.unique(np.concatenate(draws), axis=0)) == 80


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_samples", 0),
        ("n_samples", -1),
        ("n_samples", 1.5),
        ("n_samples", "many"),
        ("n_samples", None),
        ("component", 2),
        ("component", -1),
        ("component", 0.5),
        ("component", "a"),
        ("random_state", "seed"),
        ("random_state", -1),
    ],
)
def test_bad_arguments_of_sample(name, value):
    model = small(2).fit(moons())
    message = f"{name} must be .* {'int' if name == 'random_state' else 'integer'}"
    with pytest.raises(ValueError, match=message):
        model.sample(**{name: value})


# Where components start.


@pytest.mark.parametrize(
    "init",
    [
        *(name for name in INIT_METHODS if not name.startswith("random")),
        KMeans(3, n_init=3),
        AgglomerativeClustering(3),
        HDBSCAN(min_cluster_size=10, copy=True),
    ],
    ids=str,
)
def test_every_start_finds_blobs(init):
    X, y = blobs()
    X = np.r_[X, [[300.0, 300.0]]]  # noise to HDBSCAN
    model = small(3, init_params=init).fit(X)
    found = np.zeros((3, 3), dtype=int)
    np.add.at(found, (y, model.labels_[:-1]), 1)
    assert (np.sort(found, axis=1) == [0, 0, 30]).all()


def test_random_rows_are_a_start():
    """Two may be of one blob: the best of several restarts finds all three."""
    X, y = blobs()
    model = small(3, init_params="random_from_data", n_init=8, n_transforms=0).fit(X)
    assert adjusted_rand_score(y, model.labels_) == 1


def test_responsibilities_as_a_start():
    X, y = blobs()
    start = np.eye(3)[y]
    for array in (start, start.tolist(), start.astype(np.float32)):
        model = small(3, init_params=array).fit(X)
        assert_array_equal(model.labels_, y)
    order = [2, 0, 1]  # the components stay in the order that was given
    relabelled = small(3, init_params=start[:, order]).fit(X)
    assert_array_equal(np.take(order, relabelled.labels_), y)
    assert_allclose(relabelled.score(X), model.score(X), atol=0.05)


def test_responsibilities_of_identical_rows_are_averaged():
    """By their weights."""
    X, y = blobs()
    twice = np.r_[X, X]
    start = np.r_[np.eye(3)[y], np.full((len(X), 3), 1 / 3)]
    for weights, share in ((None, 1 / 2), (np.repeat([3.0, 1.0], 90), 3 / 4)):
        model = small(3, init_params=start).fit(twice, sample_weight=weights)
        mean = share * np.eye(3)[y] + (1 - share) / 3
        other = small(3, init_params=mean).fit(X)
        assert_allclose(model.score_samples(X), other.score_samples(X), rtol=1e-9)


def test_means_as_a_start():
    X, y = blobs()
    means = [[0, 21], [1, 0], [19, 0]]
    model = small(3, means_init=means).fit(X)
    assert_array_equal(np.array([1, 2, 0])[y], model.labels_)
    assert_allclose(model.means_, means, atol=1.5)


def test_weights_as_a_start():
    """First responsibilities are those of Gaussians with these weights."""
    X, y = moons(300), (moons(300)[:, 0] > 0.5).astype(int)
    plain = {"n_transforms": 0, "max_iter": 0, "init_params": np.eye(2)[y]}
    weights = np.array([0.1, 0.9])
    with pytest.warns(ConvergenceWarning):
        gaussians = small(2, **plain).fit(X)
        model = small(2, weights_init=weights, **plain).fit(X)
    expected = softmax(gaussians.component_log_prob(X) + np.log(weights), axis=1)
    assert_allclose(model.weights_, expected.mean(axis=0), rtol=1e-5)
    assert model.weights_[1] > gaussians.weights_[1] + 0.05


X, y = blobs()
BAD_STARTS = {
    "init_params": [
        np.eye(3)[y][:-1],
        np.ones((90, 2)) / 2,
        np.full((90, 3), 0.5),
        np.tile([1.5, -0.5, 0.0], (90, 1)),
        np.tile([np.nan, 0.5, 0.5], (90, 1)),
        y,
        np.ones((90, 3, 1)) / 3,
        [["a", "b", "c"]] * 90,
        "nearest",
        KMeans,
        StandardScaler(),
    ],
    "means_init": [
        [[0, 0], [20, 0]],
        np.zeros((3, 3)),
        np.full((3, 2), np.nan),
        [["a", "b"]] * 3,
        "kmeans",
        np.zeros(6),
    ],
    "weights_init": [
        [0.5, 0.5],
        [0.5, 0.5, 0.0],
        [1.5, -0.3, -0.2],
        [0.5, 0.5, 0.5],
        [np.nan, 0.5, 0.5],
        [[0.2, 0.3, 0.5]],
        "equal",
        1.0,
    ],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}-{i}")
        for name, values in BAD_STARTS.items()
        for i, value in enumerate(values)
    ],
)
def test_bad_starts_are_named(name, value):
    X, _ = blobs()
    with pytest.raises(ValueError, match=name):
        small(3, **{name: value}).fit(X)


def test_too_many_clusters_are_an_error():
    X, _ = blobs()
    clusterer = AgglomerativeClustering(None, distance_threshold=2.0)
    with pytest.raises(ValueError, match="found 3 clusters, more than n_components=2"):
        small(2, init_params=clusterer).fit(X)


class OnlyFitPredict(BaseEstimator):
    """The least that counts as a clusterer."""

    def fit_predict(self, X):
        return (X[:, 0] > np.median(X[:, 0])).astype(int)


def test_too_few_clusters_are_split():
    X, _ = blobs()
    model = small(3, init_params=OnlyFitPredict()).fit(X)
    assert (model.weights_ > 0.1).all()


class Returns(BaseEstimator):
    """A clusterer that returns the same, whatever it gets."""

    def __init__(self, labels):
        self.labels = labels

    def fit_predict(self, X):
        return self.labels


BAD_LABELS = {
    "NaN": (np.r_[np.nan, np.zeros(149)], "it returned NaN, infinity or fractions"),
    "fractions": (np.arange(150) / 2, "it returned NaN, infinity or fractions"),
    "too few": (np.arange(149) % 2, r"an array of shape \(149,\) for 150 rows"),
    "a table": (np.eye(2)[np.arange(150) % 2], r"shape \(150, 2\) for 150 rows"),
    "words": (["a", "b"] * 75, "labels of dtype <U1"),
    "nothing": (None, r"an array of shape \(\) for 150 rows"),
}


@pytest.mark.parametrize(("labels", "match"), BAD_LABELS.values(), ids=BAD_LABELS)
@pytest.mark.parametrize("n_components", [2, "auto"])
def test_labels_that_are_no_integers_are_an_error(n_components, labels, match):
    with pytest.raises(ValueError, match=f"init_params must return one .*{match}"):
        small(n_components, init_params=Returns(labels)).fit(moons())


@pytest.mark.parametrize(
    "clusterer",
    [
        make_pipeline(StandardScaler(), AgglomerativeClustering(2)),
        make_pipeline(StandardScaler(), KMeans(2)),
        OnlyFitPredict(),
        DBSCAN(0.5),
    ],
    ids=["pipeline", "pipeline that predicts", "fit_predict", "DBSCAN"],
)
def test_any_clusterer_is_a_start(clusterer):
    for weights in (None, 1 + np.arange(150) % 3):
        model = small(2, init_params=clusterer).fit(moons(), sample_weight=weights)
        assert np.isfinite(model.score(moons()))


def test_a_search_sets_the_clusterers_number():
    X, _ = blobs()
    clusterer = make_pipeline(StandardScaler(), KMeans())
    model = small(init_params=clusterer, n_transforms=0)
    grid = {"n_components": [1, 3]}
    search = GridSearchCV(model, grid, cv=3, error_score="raise").fit(X)
    best = search.best_estimator_
    assert search.best_params_ == {"n_components": 3} and best.n_components_ == 3
    assert clusterer[-1].n_clusters == best.init_params[-1].n_clusters == 8


def test_clusterer_is_not_changed():
    clusterer = KMeans(3)
    before = dict(vars(clusterer))
    model = small(3, init_params=clusterer).fit(moons())
    assert vars(clusterer) == before
    assert model.init_params is clusterer
    assert_same_answers(
        model, small(3, init_params=KMeans(3)).fit(moons()), moons(seed=1)
    )


def test_parameters_are_not_changed():
    X, y = blobs()
    parameters = {
        "init_params": np.eye(3)[y],
        "means_init": [[0, 21], [1, 0], [19, 0]],
        "weights_init": [0.2, 0.3, 0.5],
        "hidden_units": [4, 4],
        "posterior_units": np.array([4]),
    }
    copies = {name: np.copy(value) for name, value in parameters.items()}
    model = small(3, **parameters).fit(X)
    for name, value in parameters.items():
        owner = model if hasattr(model, name) else model.options
        assert getattr(owner, name) is value
        assert_array_equal(value, copies[name])


# Options.


def test_options_come_and_go():
    options = FlowMixtureOptions(input_noise=0.1, batch_size=64)
    assert repr(options) == "FlowMixtureOptions(batch_size=64, input_noise=0.1)"
    assert set(options.get_params()) == set(FlowMixtureOptions._parameter_constraints)
    model = FlowMixture(options=options)
    copied = clone(model).options
    assert type(copied) is FlowMixtureOptions and copied is not options
    assert copied.get_params() == options.get_params()
    assert repr(options) in repr(model)
    assert model.get_params()["options__input_noise"] == 0.1
    # Those of others that were given the same object stay as they were.
    model.set_params(options__input_noise=0.2)
    assert model.options.input_noise == 0.2 and model.options.batch_size == 64
    assert options.input_noise == 0.1
    # An object and what to set of it, together.
    model = FlowMixture().set_params(
        options=FlowMixtureOptions(), options__dtype="float64"
    )
    assert model.options.dtype == "float64"
    with pytest.raises(ValueError, match="Invalid parameter 'noise' for estimator Fl"):
        model.set_params(options__noise=1.0)
    with pytest.raises(TypeError, match="noise"):
        FlowMixtureOptions(noise=1.0)


@pytest.mark.parametrize(
    "cls", [FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector]
)
def test_options_that_are_none_say_what_to_do(cls):
    match = "options__input_noise cannot be set while options is None.*FlowMixtureOpt"
    model = cls()
    assert model.options is None
    with pytest.raises(ValueError, match=match):
        model.set_params(options__input_noise=0.1)
    with pytest.raises(ValueError, match=match):
        cls(options=FlowMixtureOptions()).set_params(
            options=None, options__input_noise=0.1
        )
    grid = {"options__input_noise": [0.1]}
    search = GridSearchCV(model, grid, scoring="accuracy", error_score="raise")
    with pytest.raises(ValueError, match=match):
        search.fit(moons(), np.arange(150) % 2)


def test_grid_search_over_options():
    search = GridSearchCV(
        small(2), {"options__input_noise": [0.0, 0.5]}, cv=2, error_score="raise"
    )
    search.fit(moons())
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and scores[0] != scores[1]
    best = search.best_params_["options__input_noise"]
    assert search.best_estimator_.options.input_noise == best


@pytest.mark.parametrize(
    "cls", [FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector]
)
def test_a_fit_does_not_change_options(cls):
    model = make(cls, 2, n_transforms=0, posterior_units=[8], tol=1e9, random_state=0)
    options = model.options
    before = dict(vars(options))
    model.fit(moons(), np.arange(150) % 2)
    assert model.options is options
    assert vars(options) == before
    # That of the mixture within says what "auto" was.
    within = getattr(model, "mixture_", model).options
    assert (within is options) == (cls is FlowMixture)
    if within is not options:
        assert within.input_noise == 0.0 and within.repeat_noise == 0.25


def test_default_options_are_none():
    X, quick = moons(), {"tol": 10.0, "n_iter_no_change": 1, "hidden_units": 8}
    model = FlowMixture(2, init_params="kmeans", random_state=0, **quick).fit(X)
    assert model.options is None
    explicit = FlowMixtureOptions(
        n_common_transforms=1, input_noise=0.5, repeat_noise=0.0
    )
    for options in (FlowMixtureOptions(), explicit):
        other = clone(model).set_params(options=options).fit(X)
        assert_same_answers(other, model, X)


def test_options_of_the_paper():
    options = FlowMixtureOptions.paper()
    assert type(options) is FlowMixtureOptions
    assert FlowMixtureOptions.paper() is not options
    model = FlowMixture(
        2, init_params="random", tol=10.0, n_iter_no_change=2, options=options
    )
    model.fit(moons())
    assert {record["phase"] for record in model.history_} <= {"elbo", "all rows"}
    temperatures = [record["temperature"] for record in model.history_]
    assert temperatures[0] <= 1 and (np.diff(temperatures) <= 0).all()
    assert model.module_.architecture["n_common_transforms"] == 0
    settings = model._settings()
    assert settings.label_noise == 1.0
    assert settings.weight_decay == settings.input_noise == settings.repeat_noise == 0


@pytest.mark.parametrize("name", ["hidden_units", "posterior_units"])
def test_one_width_is_one_layer(name):
    model = small(2, **{name: 5}).fit(moons())
    assert_same_answers(small(2, **{name: (5,)}).fit(moons()), model, moons())
    for units in (5, [5], np.int64(5), np.array([5])):
        assert small(2, **{name: units})._settings() == model._settings()
    assert getattr(model._settings(), name) == (5,)


# Restarts.


@pytest.mark.slow
@pytest.mark.parametrize("random_state", range(3))
def test_restarts_keep_the_best(random_state, monkeypatch):
    """The largest likelihood of held-out rows, the same ones for all."""
    seen = []

    def best_candidate(candidates):
        seen.extend(candidates)
        return candidate_module.best_candidate(candidates)

    monkeypatch.setattr(fitting, "best_candidate", best_candidate)
    model = small(3, init_params="random", n_init=4, random_state=random_state)
    model.fit(moons())
    assert len(seen) == 4
    for candidate in seen:
        assert torch.equal(candidate.held_out.x, seen[0].held_out.x)
    scores = [float(candidate.held_out_log_prob.mean()) for candidate in seen]
    assert len(set(scores)) == 4
    assert model.history_ == seen[int(np.argmax(scores))].history
    n_epochs = sum(record["phase"] == "elbo" for record in model.history_)
    assert model.n_iter_ == n_epochs


@pytest.mark.slow
def test_parallel_restarts_are_the_same():
    parameters = {"n_init": 2, "init_params": "random"}
    alone = small(3, **parameters).fit(moons())
    together = small(3, n_jobs=2, **parameters).fit(moons())
    assert_same_answers(together, alone, moons())
    assert alone.history_ == together.history_
    threads = small(3, n_jobs=2, **parameters)
    with joblib.parallel_backend("threading"):
        threads.fit(moons())
    assert_same_answers(threads, alone, moons())
    # A backend that hands over its results all at once.
    with joblib.parallel_config("multiprocessing", n_jobs=1):
        at_once = small(3, **parameters).fit(moons())
    assert_same_answers(at_once, alone, moons())


def test_warm_start_goes_on():
    X = moons(300)
    model = trained(2, max_iter=30).fit(X)
    module, score = model.module_, model.score(X)
    model.set_params(warm_start=True).fit(X)
    assert model.module_ is not module
    assert model.score(X) > score - 0.05
    assert "m-step" not in {record["phase"] for record in model.history_}
    # Going on from a fitted model is quick where starting again would not be.
    model.set_params(max_iter=0)
    with pytest.warns(ConvergenceWarning):
        unchanged = clone(model).set_params(warm_start=False).fit(X)
    before = model.score_samples(X)
    with pytest.warns(ConvergenceWarning):
        model.fit(X)
    assert_allclose(model.score_samples(X), before, rtol=1e-5)
    assert (unchanged.score_samples(X) != before).all()


def test_warm_start_on_other_rows():
    model = trained(2, max_iter=40, warm_start=True).fit(moons(300))
    shifted = moons(300, seed=1) + 0.1
    before = model.score(shifted)
    model.fit(shifted)
    assert model.score(shifted) > before - 0.05


def test_warm_start_needs_the_same_shape():
    model = small(2, warm_start=True).fit(moons())
    with pytest.raises(ValueError, match=r"warm_start .* n_components=2, got 3"):
        model.set_params(n_components=3).fit(moons())
    model.set_params(n_components=2)
    with pytest.raises(ValueError, match=r"warm_start .* 2 columns"):
        model.fit(np.c_[moons(), moons()])


def test_without_warm_start_a_fit_starts_again():
    model = small(2).fit(moons())
    before = answers(model, moons())
    model.fit(moons(seed=1)[:, :1]).fit(moons())
    for name, answer in answers(model, moons()).items():
        assert_array_equal(answer, before[name])


# Convergence.


def test_convergence_warning():
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        model = trained(2, max_iter=2, n_iter_init=2).fit(moons())
    assert model.converged_ is False
    assert model.n_iter_ == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = trained(2).fit(moons())
    assert model.converged_ is True
    assert model.n_iter_ < model.max_iter


def test_nothing_is_printed(capfd):
    small(2, n_init=2).fit(moons()).sample(3)
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_verbose_prints_lines(capsys, monkeypatch):
    """In data units; with 1 a few seconds apart, with 2 one for so many epochs."""
    X = 100 * moons()
    model = small(2, verbose=2, n_flows_per_component=1).fit(X)
    first, start, *epochs, last = capsys.readouterr().out.splitlines()
    assert first.startswith("[FlowMixture] 0:0")
    assert first.endswith("first partition of 150 distinct rows, 2 columns")
    assert "init 0: training" in start
    n_epochs = len(model.history_)
    assert f"converged after {n_epochs} epochs in all phases; last evaluation" in last
    for line, record in zip(epochs, model.history_, strict=True):
        assert f"init 0: {record['phase']} epoch {record['epoch']} of at most" in line
        shown = float(line.split("held-out log-likelihood ")[1].split()[0])
        expected = record["validation_log_likelihood"] - model._log_scale
        assert shown == pytest.approx(expected, abs=1e-4)
    small(2, verbose=2, verbose_interval=2, n_flows_per_component=1).fit(X)
    lines = capsys.readouterr().out.splitlines()
    n_shown = sum(record["epoch"] % 2 == 0 for record in model.history_)
    assert len(lines) == 3 + n_shown and n_shown > 0
    for seconds, n_shown in ((np.inf, 0), (0.0, n_epochs)):
        monkeypatch.setattr(monitor, "SECONDS_BETWEEN_LINES", seconds)
        small(2, verbose=1, verbose_interval=2, n_flows_per_component=1).fit(X)
        assert len(capsys.readouterr().out.splitlines()) == 3 + n_shown


# Among scikit-learn's tools.


def test_pipeline():
    X, y = blobs()
    pipeline = make_pipeline(StandardScaler(), small(3))
    labels = pipeline.fit_predict(X * [1e6, 1e-6])
    assert_array_equal(labels, pipeline.predict(X * [1e6, 1e-6]))
    assert len(set(zip(labels, y, strict=True))) == 3
    assert np.isfinite(pipeline.score(X * [1e6, 1e-6]))
    assert np.isfinite(pipeline.score_samples(X * [1e6, 1e-6])).all()


@pytest.mark.slow
def test_grid_search_by_held_out_score():
    X, _ = blobs()
    search = GridSearchCV(
        small(), {"n_components": [1, 2, 3]}, cv=3, error_score="raise"
    )
    search.fit(X)
    assert search.best_params_ == {"n_components": 3}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@each_flow
def test_cross_validation(flow):
    scores = cross_val_score(small(2, flow=flow), moons(), cv=3, error_score="raise")
    assert np.isfinite(scores).all()


def test_set_output_is_harmless():
    names = ["east", "north"]
    X = pd.DataFrame(moons(), columns=names)
    pipeline = make_pipeline(StandardScaler(), small(2)).set_output(transform="pandas")
    pipeline.fit(X)
    assert_array_equal(pipeline[-1].feature_names_in_, names)
    assert isinstance(pipeline.predict(X), np.ndarray)
    with config_context(transform_output="pandas"):
        assert isinstance(small(2).fit(X).score_samples(X), np.ndarray)


def test_column_names():
    X = pd.DataFrame(moons(), columns=["east", "north"])
    model = small(2).fit(X)
    assert_array_equal(model.feature_names_in_, ["east", "north"])
    assert_array_equal(model.predict(X), small(2).fit(moons()).labels_)
    with pytest.raises(ValueError, match="same order"):
        model.predict(X[["north", "east"]])
    with pytest.raises(ValueError, match="unseen at fit time"):
        model.score_samples(X.rename(columns={"east": "west"}))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(moons())
    with pytest.raises(ValueError, match="3 features, but FlowMixture is expecting 2"):
        small(2).fit(moons()).predict(np.zeros((1, 3)))


def parameters_of(model):
    """All parameters; those of `options` one by one, which have no equality."""
    parameters = model.get_params()
    return {name: parameters[name] for name in parameters if name != "options"}


def test_parameters_come_and_go():
    model = FlowMixture()
    parameters = model.get_params()
    assert set(parameters) == set(FlowMixture._parameter_constraints)
    assert FlowMixture(**parameters).get_params() == parameters
    for name in parameters:
        value = object()
        assert getattr(clone(model).set_params(**{name: value}), name) is value
    with pytest.raises(ValueError, match="n_clusters"):
        model.set_params(n_clusters=2)
    assert parameters_of(clone(small(3))) == parameters_of(small(3))


def test_clone_is_unfitted():
    fitted = small(2).fit(moons())
    with pytest.raises(NotFittedError):
        clone(fitted).predict(moons())
    assert_same_answers(clone(fitted).fit(moons()), fitted, moons())


def test_representations():
    for model in (FlowMixture(n_components=3), small(2).fit(moons())):
        assert "FlowMixture" in estimator_html_repr(model)
        assert f"n_components={model.n_components}" in repr(model)
        assert "text/html" in model._repr_mimebundle_()


def test_weights_are_routed():
    X, _ = blobs()
    weights = np.random.RandomState(0).randint(0, 3, len(X))
    with config_context(enable_metadata_routing=True):
        model = small(2).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, model).fit(X, sample_weight=weights)
        scaled = StandardScaler().fit_transform(X)
        direct = small(2).fit(scaled, sample_weight=weights)
        assert_array_equal(pipeline.score_samples(X), direct.score_samples(scaled))
        routed = cross_validate(
            model, X, params={"sample_weight": weights}, cv=3, error_score="raise"
        )
        parallel = small(2, n_init=2, n_jobs=2).fit(X, sample_weight=weights)
        assert np.isfinite(parallel.score(X))
    unweighted = cross_validate(small(2), X, cv=3)
    assert (routed["test_score"] != unweighted["test_score"]).all()


def test_fit_within_inference_mode():
    X = moons()
    expected = small(2).fit(X).score_samples(X)
    with torch.inference_mode():
        found = small(2).fit(X).score_samples(X)
    assert_allclose(found, expected, rtol=1e-9)


@contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "setting",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: default_device("meta"),
    ],
    ids=["autocast", "default device"],
)
def test_what_is_set_for_other_models_does_not_count(setting):
    X = moons().astype(np.float32)
    expected = small(2).fit(X)
    with setting():
        found = small(2).fit(X)
        assert_same_answers(found, expected, X)
        assert_array_equal(found.sample(5)[0], expected.sample(5)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("column", ["constant", "copy", "sum"])
def test_columns_that_say_nothing_new_cost_no_flows(column):
    """Flows leave the plane of such rows at the first step if they come first."""
    x, y = make_moons(500, noise=0.06, random_state=0)
    new = {"constant": np.ones(500), "copy": x[:, 1], "sum": x.sum(axis=1)}
    X = np.column_stack([x, new[column]])
    model = FlowMixture(2, random_state=0, max_iter=40, hidden_units=(32,)).fit(X)
    assert adjusted_rand_score(y, model.predict(X)) > 0.85
    gaussians = FlowMixture(2, random_state=0, n_transforms=0).fit(X)
    assert model.score(X) > gaussians.score(X) + 0.3


# Components of several flows.


def lines(n_samples=240):
    """Rows of two zigzags, one above the other."""
    rng = np.random.RandomState(0)
    t, y = rng.uniform(0, 6, n_samples), np.arange(n_samples) % 2
    height = np.abs(t % 2 - 1) + 2.5 * y
    return np.column_stack([t, height]) + 0.05 * rng.randn(n_samples, 2), y


@pytest.fixture(scope="module")
def divided():
    X, y = lines()
    shares = np.eye(2)[y]
    return small(
        2, n_flows_per_component=3, init_params=shares, n_transforms=2, max_iter=20
    ).fit(X)


def test_a_component_is_the_mixture_of_its_flows(divided):
    X, y = lines()
    assert_array_equal(divided.flow_components_, [0, 0, 0, 1, 1, 1])
    assert divided.n_components_ == 2 and divided.n_flows_ == 6
    assert_array_equal(divided.labels_, y)
    log_joint = divided.component_log_prob(X) + np.log(divided.weights_)
    assert_allclose(divided.score_samples(X), logsumexp(log_joint, axis=1))
    assert_allclose(divided.predict_proba(X), softmax(log_joint, axis=1))
    assert_array_equal(divided.predict(X), log_joint.argmax(1))
    assert_allclose(divided.posterior_proba(X).sum(1), 1)
    assert (divided.elbo(X) <= divided.score_samples(X) + 1e-9).all()
    for k in range(2):
        own = divided.flow_components_ == k
        shares = divided.flow_weights_[own] / divided.weights_[k]
        assert shares.sum() == pytest.approx(1)
        means, covariances = divided.flow_means_[own], divided.flow_covariances_[own]
        mean = shares @ means
        second = covariances + np.einsum("fi,fj->fij", means, means)
        covariance = np.tensordot(shares, second, axes=1) - np.outer(mean, mean)
        assert_allclose(divided.means_[k], mean)
        assert_allclose(divided.covariances_[k], covariance)
    assert_allclose(
        divided.precisions_ @ divided.covariances_,
        np.eye(2)[None].repeat(2, 0),
        atol=1e-9,
    )


def test_samples_of_a_component_come_from_all_its_flows(divided):
    X, labels = divided.sample(20_000, random_state=0)
    assert_allclose(np.bincount(labels) / 20_000, divided.weights_, atol=0.02)
    assert (divided.predict(X) == labels).mean() > 0.99
    own, labels = divided.sample(5000, component=1, random_state=0)
    assert set(labels) == {1}
    # From one end of its zigzag to the other.
    assert_allclose(np.quantile(own[:, 0], [0.1, 0.9]), [0.6, 5.4], atol=0.4)
    with pytest.raises(ValueError, match="from 0 to 1"):
        divided.sample(component=2)


def test_a_component_of_several_flows_has_mass_one():
    rng = np.random.RandomState(0)
    X = np.r_[rng.randn(80), 3 + rng.rand(80), 9 + 0.2 * rng.randn(40)][:, None]
    model = small(2, n_flows_per_component=2, init_params="kmeans").fit(X)
    assert model.n_flows_ > 2
    grid = np.linspace(-60, 70, 200_001)
    density = np.exp(model.component_log_prob(grid[:, None]))
    assert_allclose(np.trapezoid(density, grid, axis=0), 1, atol=0.02)


def test_components_and_their_flows_are_ordered_by_weight():
    model = small(3, n_flows_per_component=2).fit(moons())
    assert (np.diff(model.weights_) <= 0).all()
    for k in range(3):
        assert (np.diff(model.flow_weights_[model.flow_components_ == k]) <= 0).all()
    assert_allclose(
        np.bincount(model.flow_components_, model.flow_weights_), model.weights_
    )


def test_a_component_has_no_more_flows_than_rows():
    X = np.r_[moons(), [[5.0, 5.0]]]
    shares = np.eye(2)[np.r_[np.zeros(150, dtype=int), 1]]
    model = small(2, n_flows_per_component=3, init_params=shares).fit(X)
    assert_array_equal(np.bincount(model.flow_components_), [3, 1])


def test_a_fit_of_several_flows_goes_on(divided):
    X, _ = lines()
    model = clone(divided).fit(X)
    assert_same_answers(model, divided, X)
    again = model.set_params(warm_start=True, n_flows_per_component="auto").fit(X)
    assert again.n_flows_ == 6 and again.n_components_ == 2
    with pytest.raises(ValueError, match="n_flows_per_component"):
        model.set_params(n_flows_per_component=2).fit(X)


@pytest.mark.parametrize("n_flows", [0, "two", 1.5])
def test_the_number_of_flows_is_checked(n_flows):
    with pytest.raises(ValueError, match="n_flows_per_component"):
        small(n_flows_per_component=n_flows).fit(moons())


def test_a_component_is_divided_where_a_flow_does_not_follow_it():
    """And only there: the other one is round."""
    rng = np.random.RandomState(0)
    t = np.sqrt(rng.uniform(0.05, 1, 500))
    coil = 8 * t[:, None] * np.column_stack([np.cos(12 * t), np.sin(12 * t)])
    X = np.r_[coil + 0.15 * rng.randn(500, 2), 2 * rng.randn(300, 2) + [20, 0]]
    y = np.repeat([0, 1], [500, 300])
    model = small(2, n_iter_init=3, init_params=np.eye(2)[y]).fit(X)
    assert_array_equal(model.labels_, y)
    n_flows = np.bincount(model.flow_components_)
    assert n_flows[0] >= 4 and n_flows[1] == 1
    whole = clone(model).set_params(n_flows_per_component=1).fit(X)
    assert model.score(X) > whole.score(X) + 0.2


def test_without_an_m_step_no_component_is_divided():
    X, y = lines()
    assert small(2, n_iter_init=0, init_params=np.eye(2)[y]).fit(X).n_flows_ == 2
