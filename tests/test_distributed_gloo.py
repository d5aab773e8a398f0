"""Processes of their own that fit one model over gloo, on the loopback interface."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, time
import numpy as np
import torch.distributed as dist
from skflowmix import data_parallel, distributed
from small_models import moons, small

rank, n_ranks, folder, kind = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
distributed.SAMPLE_ROWS = 150
store = dist.FileStore(f"{folder}/store", n_ranks)
dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks)
X = moons(300)[rank::n_ranks].copy()
if kind == "bad" and rank == 1:
    X[0] = np.nan
settings = {"max_iter": 10**6, "n_iter_no_change": 10**6} if kind == "long" else {}

class Begun:
    def setup(self, estimator, context): pass
    def teardown(self, estimator, context): pass
    def on_fit_task_begin(self, estimator, context): pass
    def on_fit_task_end(self, estimator, context):
        print("epoch", flush=True)

with data_parallel():
    model = small(2, **settings).set_callbacks(Begun()).fit(X)
digest = hash(b"".join(a.tobytes() for a in model.module_.arrays().values()))
print("ended", digest, len(model.labels_), flush=True)
dist.destroy_process_group()
"""


def start(n_ranks, folder, kind):
    tests = Path(__file__).parent
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
    }
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    return [
        subprocess.Popen(
            [*command, str(rank), str(n_ranks), str(folder), kind],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n_ranks)
    ]


def finish(processes):
    return [process.communicate(timeout=120) for process in processes]


def test_all_end_with_one_model(tmp_path):
    outputs = finish(start(2, tmp_path, "good"))
    ends = [out.splitlines()[-1] for out, _ in outputs]
    assert ends[0] == ends[1] and ends[0].endswith(" 150")
    assert "epoch" in outputs[0][0] and "epoch" not in outputs[1][0]


def test_a_bad_shard_ends_them_all(tmp_path):
    for _, errors in finish(start(2, tmp_path, "bad")):
        assert "ValueError: In process 1: Input X contains NaN" in errors


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others(killed, tmp_path):
    processes = start(2, tmp_path, "long")
    for _ in range(3):
        assert processes[0].stdout.readline() == "epoch\n"
    processes[killed].send_signal(signal.SIGKILL)
    began = time.monotonic()
    _, errors = processes[1 - killed].communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert processes[1 - killed].returncode != 0 and "RuntimeError" in errors
    processes[killed].communicate(timeout=10)
