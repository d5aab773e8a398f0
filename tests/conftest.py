"""One thread, no windows, reproducible examples, untouched global generators."""

import os
import signal

# Before NumPy and torch are imported, here and by the workers: one thread each.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# scikit-learn checks array API input only with this, set before SciPy is imported.
os.environ["SCIPY_ARRAY_API"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from joblib import parallel_config

# Sums depend on the number of threads in the last bits; so would the tests.
torch.set_num_threads(1)

settings.register_profile(
    "ci",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough", parent=settings.get_profile("ci"), max_examples=500
)
# A --hypothesis-profile on the command line is loaded later and wins.
settings.load_profile("ci")


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def handler():
    """What answers interrupts, also where the tests run without them."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, former)


@pytest.fixture(autouse=True, scope="session")
def _workers_wait():
    """Keep joblib's worker processes for all tests, not for 300 idle seconds.

    A call that came just when they ended by themselves has waited forever.
    """
    with parallel_config(backend="loky", idle_worker_timeout=3600):
        yield


def _global_rng_states(cuda):
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    states = {
        "NumPy": (name, keys.tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if cuda:
        states["torch CUDA"] = [
            state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()
        ]
    return states


@pytest.fixture(autouse=True)
def _global_rng_is_left_alone(request):
    """Fail a test that moves a global generator and is not marked to do so."""
    if request.node.get_closest_marker("touches_global_rng"):
        yield
        return
    cuda = request.node.get_closest_marker("cuda") is not None
    before = _global_rng_states(cuda)
    yield
    after = _global_rng_states(cuda)
    moved = [name for name in before if before[name] != after[name]]
    assert not moved, f"the test moved the global generator of {' and '.join(moved)}"
