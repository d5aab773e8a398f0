"""Fits that end early go on from their checkpoint, and end the same."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from small_models import make, moons, small

from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOutlierDetector,
    ModelFileError,
    checkpoints,
    row_stream,
)
from skflowmix.training import phases

NETWORKS = {
    "hidden_units": (8,),
    "posterior_units": (8,),
    "init_params": "kmeans",
    "n_iter_init": 1,
    "max_iter": 2,
    "random_state": 0,
}
LABELS = np.where(np.arange(len(moons())) % 3, moons()[:, 0] > 0.5, -1)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def _written_every_epoch(monkeypatch):
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    monkeypatch.setattr(phases, "POSTERIOR_EPOCHS", 3)


class Killed(BaseException):
    """What no library catches."""


@pytest.fixture
def kill_after(monkeypatch):
    """Let writing raise from the n-th time on."""

    def set_limit(n):
        written = []
        original = checkpoints.FileJournal._write

        def write(journal):
            original(journal)
            written.append(journal)
            if len(written) >= n:
                raise Killed

        monkeypatch.setattr(checkpoints.FileJournal, "_write", write)
        return lambda: monkeypatch.setattr(checkpoints.FileJournal, "_write", original)

    return set_limit


FITS = {
    "mixture": (FlowMixture, {"n_components": 2, "n_init": 2}, ()),
    "entropy": (FlowMixture, {"n_components": 2, "warm_start": True}, ()),
    "classifier": (FlowMixtureClassifier, {"n_components_per_class": 2}, (LABELS,)),
    "detector": (FlowMixtureOutlierDetector, {}, ()),
}


@pytest.mark.parametrize(
    "name",
    [
        "mixture",
        pytest.param("classifier", marks=pytest.mark.slow),
        pytest.param("entropy", marks=pytest.mark.slow),
        pytest.param("detector", marks=pytest.mark.slow),
    ],
)
def test_a_fit_killed_after_every_epoch_ends_the_same(name, kill_after, tmp_path):
    cls, parameters, labels = FITS[name]
    expected = make(cls, **NETWORKS, **parameters).fit(moons(), *labels)
    folder = tmp_path / "checkpoint"
    n_kills = 0
    while n_kills < 60:
        model = make(cls, **NETWORKS, **parameters)
        survive = kill_after(1)
        try:
            model.fit(moons(), *labels, checkpoint=folder)
        except Killed:
            assert not hasattr(model, "n_iter_")
            n_kills += 1
            continue
        finally:
            survive()
        break
    assert 1 < n_kills < 60
    assert_array_equal(model.score_samples(moons()), expected.score_samples(moons()))
    history = getattr(model, "mixture_", model).history_
    assert history == getattr(expected, "mixture_", expected).history_
    assert not folder.exists()


def test_a_fit_to_rows_on_disk_goes_on(kill_after, tmp_path, monkeypatch):
    monkeypatch.setattr(row_stream, "SAMPLE_ROWS", 128)
    np.save(tmp_path / "X.npy", moons(500))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    parameters = {"n_components": 2, "n_flows_per_component": 2, **NETWORKS}
    expected = make(FlowMixture, **parameters).fit(X)
    folder = tmp_path / "checkpoint"
    for n_written in (2, 3):
        survive = kill_after(n_written)
        with pytest.raises(Killed):
            make(FlowMixture, **parameters).fit(X, checkpoint=folder)
        survive()
    model = make(FlowMixture, **parameters).fit(X, checkpoint=folder)
    assert_array_equal(model.score_samples(moons()), expected.score_samples(moons()))
    assert model.history_ == expected.history_


def test_without_a_seed_the_first_one_counts(kill_after, tmp_path):
    survive = kill_after(2)
    model = make(FlowMixture, 2, **{**NETWORKS, "random_state": None})
    with pytest.raises(Killed):
        model.fit(moons(), checkpoint=tmp_path / "one")
    survive()
    for name in ("fit", "restart-0"):
        (tmp_path / "two").mkdir(exist_ok=True)
        content = (tmp_path / "one" / f"{name}.safetensors").read_bytes()
        (tmp_path / "two" / f"{name}.safetensors").write_bytes(content)
    scores = [
        model.fit(moons(), checkpoint=tmp_path / folder).score_samples(moons())
        for folder in ("one", "two")
    ]
    assert_array_equal(*scores)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"max_iter": 5}, "the parameter max_iter"),
        ({"options__input_noise": 0.1}, "the parameter options__input_noise"),
        ({"random_state": 1}, "the parameter random_state"),
        ({}, "the data X"),
    ],
)
def test_other_fits_are_refused(change, named, kill_after, tmp_path):
    survive = kill_after(1)
    model = make(FlowMixture, 2, **NETWORKS)
    with pytest.raises(Killed):
        model.fit(moons(), checkpoint=tmp_path)
    survive()
    X = moons() if change else moons() + 1e-9
    with pytest.raises(ValueError, match=named):
        model.set_params(**change).fit(X, checkpoint=tmp_path)


def test_how_a_fit_is_watched_may_change(kill_after, tmp_path, capsys):
    survive = kill_after(1)
    model = make(FlowMixture, 2, **NETWORKS)
    with pytest.raises(Killed):
        model.fit(moons(), checkpoint=tmp_path)
    survive()
    model.set_params(verbose=1, n_jobs=1).fit(moons(), checkpoint=tmp_path)
    assert "resuming from the checkpoint" in capsys.readouterr().out
    assert_array_equal(
        model.predict(moons()), make(FlowMixture, 2, **NETWORKS).fit_predict(moons())
    )
    model.fit(moons(), checkpoint=tmp_path)
    assert "resuming" not in capsys.readouterr().out


def test_damaged_checkpoints_are_refused(kill_after, tmp_path):
    survive = kill_after(1)
    model = small(2)
    with pytest.raises(Killed):
        model.fit(moons(), checkpoint=tmp_path)
    survive()
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(ModelFileError, match=path.name):
            model.fit(moons(), checkpoint=tmp_path)
        path.write_bytes(content)
    assert not hasattr(model, "module_")


KILLED_FROM_OUTSIDE = """
import sys, torch
torch.set_num_threads(1)
import skflowmix.checkpoints
skflowmix.checkpoints.INTERVAL = 0.0
from small_models import moons, small
model = small(2, n_init=3, n_jobs=2, tol=0.01, max_iter=30, init_params="random")
model.fit(moons(), checkpoint=sys.argv[1] if len(sys.argv) > 1 else None)
print(model.score_samples(moons()).tobytes().hex())
"""


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path):
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", KILLED_FROM_OUTSIDE]
    environment = os.environ | {"PYTHONPATH": path}

    def start(*arguments):
        return subprocess.Popen(
            [*command, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    expected = start().communicate()[0]
    folder = tmp_path / "checkpoint"
    for _ in range(3):
        process = start(str(folder))
        deadline = time.monotonic() + 120
        before = {p: p.stat().st_mtime_ns for p in folder.glob("restart*")}
        while process.poll() is None and time.monotonic() < deadline:
            now = {p: p.stat().st_mtime_ns for p in folder.glob("restart*")}
            if now != before:
                break
            time.sleep(0.05)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert start(str(folder)).communicate()[0] == expected


def test_a_link_to_a_folder_that_does_not_exist_is_followed(tmp_path):
    link, target = tmp_path / "link", tmp_path / "other" / "folder"
    link.symlink_to(target)
    small(2, n_transforms=0).fit(moons(), checkpoint=link)
    assert link.is_symlink() and not list(target.iterdir())


def test_other_files_in_the_folder_are_kept(tmp_path):
    own = tmp_path / "restart-best.safetensors", tmp_path / "restart-7.safetensors"
    for path in own:
        path.write_text("mine")
    make(FlowMixture, n_components=2, **NETWORKS).fit(moons(), checkpoint=tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(own)
