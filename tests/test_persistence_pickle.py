"""Fitted models survive pickle, joblib, copy and another process."""

import copy
import io
import os
import pickle
import subprocess
import sys
from functools import cache

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning
from small_models import assert_same_answers, moons, small

from skflowmix import FlowMixture, FlowMixtureOptions
from skflowmix.model.flows import FLOWS


def through_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


def through_skops(model):
    skops = pytest.importorskip("skops.io")
    content = skops.dumps(model)
    return skops.loads(content, trusted=skops.get_untrusted_types(data=content))


ROUND_TRIPS = {
    "skops": through_skops,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "oldest protocol": lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
    "joblib": through_joblib,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@cache
def fitted(flow):
    return small(3, flow=flow).fit(moons())


def parameters_of(model):
    """All parameters; those of `options` one by one, which have no equality."""
    parameters = model.get_params()
    return {name: parameters[name] for name in parameters if name != "options"}


each_round_trip = pytest.mark.parametrize(
    "round_trip", ROUND_TRIPS.values(), ids=ROUND_TRIPS
)


@each_round_trip
@pytest.mark.parametrize("flow", FLOWS)
def test_round_trip(round_trip, flow):
    model = fitted(flow)
    again = round_trip(model)
    assert type(again) is FlowMixture
    assert parameters_of(again) == parameters_of(model)
    assert vars(again).keys() == vars(model).keys()
    assert_same_answers(again, model, moons(seed=1))
    for name in ("weights_", "means_", "covariances_", "labels_", "lower_bounds_"):
        assert_array_equal(getattr(again, name), getattr(model, name))
    assert again.history_ == model.history_
    assert again.score(moons()) == model.score(moons())


@each_round_trip
def test_options(round_trip):
    options = FlowMixtureOptions(batch_size=64, posterior_units=[4, 4])
    again = round_trip(options)
    assert type(again) is FlowMixtureOptions
    assert again.get_params() == options.get_params()
    assert repr(again) == repr(options)


@pytest.mark.parametrize("round_trip", [ROUND_TRIPS["pickle"], copy.deepcopy])
def test_the_stream_of_samples_goes_on(round_trip):
    model = small(2).fit(moons())
    model.sample(3)
    again = round_trip(model)
    assert_array_equal(model.sample(3)[0], again.sample(3)[0])


@each_round_trip
def test_unfitted(round_trip):
    model = small(3, hidden_units=[4, 4])
    again = round_trip(model)
    assert parameters_of(again) == parameters_of(model)
    assert_same_answers(again.fit(moons()), model.fit(moons()), moons())


def test_a_copy_is_independent():
    model = small(2).fit(moons())
    again = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in again.module_.parameters():
            parameter.fill_(0.1)
    assert (model.score_samples(moons()) != again.score_samples(moons())).all()


def test_clone_and_refit():
    model = small(3).fit(moons())
    assert_same_answers(clone(model).fit(moons()), model, moons(seed=1))


def test_a_pickled_model_can_go_on():
    model = small(2, warm_start=True).fit(moons())
    again = pickle.loads(pickle.dumps(model))
    assert_same_answers(again.fit(moons()), model.fit(moons()), moons())


def in_another_process(tmp_path, model, code, **environment):
    """Run code there, with the unpickled model and X; its stdout as an array."""
    with open(tmp_path / "model.pkl", "wb") as file:
        pickle.dump(model, file)
    np.save(tmp_path / "X.npy", moons(seed=1))
    prologue = """
import pickle, sys, warnings
import numpy as np
warnings.simplefilter("error")
folder = sys.argv[1]
with open(f"{folder}/model.pkl", "rb") as file:
    model = pickle.load(file)
X = np.load(f"{folder}/X.npy")
"""
    epilogue = '\nnp.save(f"{folder}/answer.npy", answer)'
    subprocess.run(
        [sys.executable, "-c", prologue + code + epilogue, str(tmp_path)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return np.load(tmp_path / "answer.npy")


@pytest.mark.slow
def test_in_another_process(tmp_path):
    model = small(3).fit(moons())
    answer = in_another_process(tmp_path, model, "answer = model.score_samples(X)")
    assert_array_equal(answer, model.score_samples(moons(seed=1)))


@pytest.mark.slow
def test_a_model_from_a_gpu_works_without_one(tmp_path):
    model = small(3).fit(moons())
    expected = model.score_samples(moons(seed=1))
    model.set_params(device="cuda")
    code = """
import torch
assert not torch.cuda.is_available()
assert model.device == "cuda"
model.predict(X), model.sample(5), model.posterior_proba(X)
answer = model.score_samples(X)
"""
    answer = in_another_process(tmp_path, model, code, CUDA_VISIBLE_DEVICES="")
    assert_array_equal(answer, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_fitted_model_without_its_gpu(device):
    model = small(3).fit(moons())
    moved = copy.deepcopy(model).set_params(device=device)
    assert_same_answers(moved, model, moons())
    assert_array_equal(
        moved.sample(4, random_state=0)[0], model.sample(4, random_state=0)[0]
    )
    with pytest.raises(ValueError, match="does not exist: torch sees 0 CUDA devices"):
        moved.fit(moons())


def test_weights_lie_on_the_cpu():
    model = small(3, dtype="float32").fit(moons())
    for tensor in model.module_.state_dict().values():
        assert tensor.device.type == "cpu"
        assert not tensor.is_floating_point() or tensor.dtype == torch.float64


def test_another_version_warns(monkeypatch):
    model = small(2).fit(moons())
    monkeypatch.setattr("skflowmix.prediction.__version__", "0.0.0")
    pickled = pickle.dumps(model)
    monkeypatch.undo()
    with pytest.warns(InconsistentVersionWarning, match=r"FlowMixture .* 0\.0\.0") as w:
        again = pickle.loads(pickled)
    assert w[0].message.original_sklearn_version == "0.0.0"
    assert_same_answers(again, model, moons())
    # The same version, as in all other tests here, does not.
    assert pickle.loads(pickle.dumps(again)) is not None
