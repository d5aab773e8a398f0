"""`FlowMixture` on a CUDA device agrees with the CPU; skipped without one."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_moons
from sklearn.metrics import roc_auc_score
from small_models import answers, assert_same_answers, moons, small, trained

from skflowmix import FlowMixtureClassifier, FlowMixtureOutlierDetector, _arrays
from skflowmix.cuda_graphs import Replays
from skflowmix.model.flows import FLOWS
from skflowmix.training.trainer import Trainer

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("flow", FLOWS)
def test_same_answers_on_both(flow, dtype):
    X = moons().astype(dtype)
    model = trained(3, flow=flow, max_iter=20, tol=0.1).fit(X)
    expected = answers(model, X)
    model.set_params(device="cuda")
    rtol = 1e-9 if dtype == np.float64 else 1e-3
    for name, answer in answers(model, X).items():
        if name == "predict":
            assert (answer == expected[name]).mean() > 0.98
        else:
            assert answer.dtype == dtype
            assert_allclose(answer, expected[name], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("flow", FLOWS)
def test_fit_on_cuda(flow):
    model = trained(2, flow=flow, device="cuda").fit(moons())
    peer = trained(2, flow=flow).fit(moons())
    assert model.converged_
    assert abs(model.score(moons()) - peer.score(moons())) < 0.3
    for tensor in model.module_.state_dict().values():
        assert tensor.device.type == "cpu"


def test_the_largest_scores_are_finite_and_fall():
    model = trained(3, device="cuda").fit(moons())
    far = 10.0 ** np.arange(1, 7)[:, None] * [[1.0, 1.0]]
    log_prob = model.score_samples(far)
    assert np.isfinite(log_prob).all()
    assert (np.diff(log_prob) < 0).all()
    for dtype, size in ((np.float64, 1e300), (np.float32, 1e38)):
        assert np.isfinite(model.score_samples(np.full((1, 2), size, dtype))).all()


def test_a_seed_repeats_and_global_generators_stay():
    """The fixture in conftest.py watches torch.cuda's generators, too."""
    first, second = (
        small(3, device="cuda", n_init=2, init_params="random").fit(moons())
        for _ in range(2)
    )
    assert_allclose(
        first.score_samples(moons()), second.score_samples(moons()), rtol=1e-3
    )
    assert_array_equal(
        first.sample(5, random_state=0)[1], second.sample(5, random_state=0)[1]
    )


def test_auto_is_cuda():
    model = small(2, device="auto", n_init=1)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    model.fit(moons())
    assert torch.cuda.max_memory_allocated() > before


def test_asking_does_not_move_the_model():
    model = small(2, device="cuda").fit(moons())
    module = model.module_
    answers(model, moons()), model.sample(3)
    assert model.module_ is module
    assert next(module.parameters()).device.type == "cpu"


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_restarts(n_jobs):
    """Worker processes share the device."""
    model = small(2, device="cuda", n_init=2, n_jobs=n_jobs).fit(moons())
    assert np.isfinite(model.score(moons()))


def test_a_device_that_is_not_there():
    n_devices = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"sees {n_devices} CUDA devices"):
        small(2, device=f"cuda:{n_devices}").fit(moons())


def test_warm_start_from_the_cpu():
    model = small(2).fit(moons())
    before = model.score(moons())
    model.set_params(device="cuda", warm_start=True).fit(moons())
    assert model.score(moons()) > before - 0.1


def test_pickled_here_and_loaded_without_a_gpu(tmp_path):
    model = small(3, device="cuda").fit(moons())
    assert_same_answers(pickle.loads(pickle.dumps(model)), model, moons())
    with open(tmp_path / "model.pkl", "wb") as file:
        pickle.dump(model, file)
    np.save(tmp_path / "X.npy", moons())
    code = """
import os, pickle, sys
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import numpy as np, torch
assert not torch.cuda.is_available()
folder = sys.argv[1]
with open(f"{folder}/model.pkl", "rb") as file:
    model = pickle.load(file)
X = np.load(f"{folder}/X.npy")
np.save(f"{folder}/answer.npy", model.score_samples(X))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    answer = np.load(tmp_path / "answer.npy")
    assert_allclose(answer, model.score_samples(moons()), rtol=1e-9)


def test_replayed_steps_are_the_steps(monkeypatch):
    """Dense and sparse ones, with noise, of several sizes."""
    scores, n_recorded = [], []
    original = Replays._record

    def recorded(self, *arguments):
        n_recorded.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(Replays, "_record", recorded)
    for replayed in (True, False):
        if not replayed:
            monkeypatch.setattr(Replays, "__call__", lambda _, key, f, *a: f(*a))
        model = small(
            3,
            device="cuda",
            dtype="float64",
            n_iter_init=20,
            n_iter_no_change=2,
            max_iter=30,
            tol=0.1,
            batch_size=64,
        )
        model.fit(moons(600))
        assert len({record["learning_rate"] for record in model.history_}) > 1
        scores.append(model.score_samples(moons(600)))
    assert len(n_recorded) > 6
    assert_allclose(*scores, rtol=1e-4, atol=1e-4)


def test_no_step_waits_for_the_gpu(monkeypatch):
    step, n_steps = Trainer.step, []

    def watched(self, step_size, starts_epoch):
        n_steps.append(1)
        torch.cuda.set_sync_debug_mode("default" if starts_epoch else "error")
        try:
            step(self, step_size, starts_epoch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "step", watched)
    small(3, device="cuda", n_iter_init=3, max_iter=3, batch_size=32).fit(moons())
    assert len(n_steps) > 30


def test_samples_are_those_of_the_cpu():
    model = trained(3, max_iter=20, tol=0.1).fit(moons())
    X, labels = model.sample(20_000, random_state=0)
    model.set_params(device="cuda")
    other, same = model.sample(20_000, random_state=0)
    assert_array_equal(labels, same)
    assert_allclose(other, X, rtol=1e-6, atol=1e-6)


def test_many_chunks(monkeypatch):
    """The second one is recorded, others replay it; the last one is shorter."""
    model = small(3).fit(moons())
    expected = answers(model, moons())
    monkeypatch.setitem(_arrays.CHUNK_FLOATS, "cuda", 40 * model.module_.floats_per_row)
    model.set_params(device="cuda")
    for name, answer in answers(model, moons()).items():
        assert_allclose(answer, expected[name], rtol=1e-9, atol=1e-9)


def test_classifier_with_few_labels():
    X, y = make_moons(600, noise=0.1, random_state=0)
    seen = np.where(np.arange(600) % 10, -1, y)
    model = FlowMixtureClassifier(device="cuda", random_state=0).fit(X, seen)
    assert model.score(X, y) > 0.98


def test_outlier_detector():
    X = np.vstack([moons(600), np.random.RandomState(0).uniform(-4, 4, (30, 2))])
    model = FlowMixtureOutlierDetector(device="cuda", random_state=0).fit(X)
    peer = FlowMixtureOutlierDetector(random_state=0).fit(X)
    is_outlier = np.arange(630) >= 600
    areas = [roc_auc_score(is_outlier, -m.score_samples(X)) for m in (model, peer)]
    assert areas[0] > areas[1] - 0.02
