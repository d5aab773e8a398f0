"""The interface between NumPy and torch: dtype, device, chunks, seeds."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from threadpoolctl import ThreadpoolController
from torch import Tensor

from skflowmix.cuda_graphs import Replays

__all__ = [
    "LockedSeeds",
    "evaluate_in_chunks",
    "limited_threads",
    "numpy_generator",
    "own_arithmetic",
    "require_memory",
    "resolve_device",
    "rows_per_chunk",
    "torch_generator",
]

# Working memory of one chunk of an evaluation, in floats: what caches hold or, on a
# GPU, what keeps it busy.
CHUNK_FLOATS = {"cpu": 10_000_000, "cuda": 250_000_000}


def resolve_device(device: str, *, fitted: bool = False) -> torch.device:
    """Return the torch device for the `device` parameter of an estimator.

    Parameters
    ----------
    device : str
        "cpu", "cuda", "cuda:N" or "auto" (CUDA if available).
    fitted : bool, default=False
        Whether to fall back to the CPU if the GPU is missing, as fitted models do.

    Returns
    -------
    device : torch.device
        An available device.

    Raises
    ------
    ValueError
        If `device` does not exist, is not supported or has no float64 arithmetic.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    allowed = "Allowed are 'cpu', 'cuda', 'cuda:N' and 'auto'."
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not a device. {allowed}") from error
    if resolved.type == "cpu":
        return resolved
    if resolved.type == "mps":
        raise ValueError(
            f"device={device!r} has no float64 arithmetic, which scores need. {allowed}"
        )
    if resolved.type != "cuda":
        raise ValueError(f"device={device!r} is not supported. {allowed}")
    n_devices = torch.cuda.device_count()
    if n_devices > (resolved.index or 0):
        return resolved
    if fitted:
        return torch.device("cpu")
    raise ValueError(
        f"device={device!r} does not exist: torch sees {n_devices} CUDA devices. "
        f"{allowed}"
    )


def numpy_generator(
    random_state: int | np.random.RandomState | None,
) -> np.random.RandomState:
    """Return the NumPy generator of a `random_state`; None takes fresh entropy.

    For None, scikit-learn's `check_random_state` would take NumPy's global generator.
    """
    if random_state is None:
        return np.random.RandomState()
    return check_random_state(random_state)


def torch_generator(
    random_state: np.random.RandomState, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a torch generator seeded by one draw from a NumPy generator."""
    generator = torch.Generator(device=device)
    return generator.manual_seed(int(random_state.randint(2**31)))


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Turn off autocast and default devices that the caller set for other models."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


class _SharedLimit:
    """Limits the threads of BLAS, a setting that all threads of a process share.

    Of overlapping contexts, the first one sets its limit, and the last one to exit
    restores the original limit.
    """

    def __init__(self) -> None:
        self._lock, self._n_within = threading.Lock(), 0

    @contextmanager
    def __call__(self, number: int) -> Iterator[None]:
        with self._lock:
            if self._n_within == 0:
                self._limit = _pools("blas").limit(limits=number)
            self._n_within += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_within -= 1
                if self._n_within == 0:
                    self._limit.restore_original_limits()


_limit_of_blas = _SharedLimit()


@cache
def _pools(of: str) -> ThreadpoolController:
    """Return thread pools of the loaded libraries; finding them takes a while."""
    return ThreadpoolController().select(user_api=of)


@contextmanager
def limited_threads(number: int | None) -> Iterator[None]:
    """Limit the threads of torch, BLAS and OpenMP; None changes nothing.

    Parameters
    ----------
    number : int or None
        Largest number of threads within the context.
    """
    if number is None:
        yield
        return
    before = torch.get_num_threads()
    with _limit_of_blas(number), _pools("openmp").limit(limits=number):
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _take_one_thread() -> None:
    torch.set_num_threads(1)


# In a forked child, OpenMP would wait for threads that only the parent has.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_take_one_thread)


def rows_per_chunk(floats_per_row: int, device: torch.device) -> int:
    """Return the rows per chunk of an evaluation, given its memory per row."""
    return int(np.clip(CHUNK_FLOATS[device.type] // floats_per_row, 16, 65536))


def evaluate_in_chunks(
    function: Callable[[Tensor], Tensor],
    prepare: Callable[[np.ndarray], np.ndarray],
    X: np.ndarray,
    *,
    floats_per_row: int,
    dtype: torch.dtype,
    device: torch.device,
) -> np.ndarray:
    """Evaluate a function of rows chunk by chunk, in bounded memory.

    Parameters
    ----------
    function : callable
        Maps a tensor of shape (N, D) to one with N rows.
    prepare : callable
        Applied first to every chunk, in NumPy.
    X : ndarray of shape (n_samples, n_features)
        The rows; may be a memory map.
    floats_per_row : int
        Working memory of the function per row, in floats.
    dtype : torch.dtype
        Dtype of the evaluation.
    device : torch.device
        Device of the evaluation.

    Returns
    -------
    output : ndarray with n_samples rows
        The function's values, in its dtype.
    """
    n_rows, replays = len(X), Replays(device)
    step = rows_per_chunk(floats_per_row, device)
    output = np.empty(0)
    with own_arithmetic(), torch.inference_mode():
        for start in range(0, n_rows, step):
            chunk = torch.from_numpy(prepare(X[start : start + step]))
            part = replays("chunk", function, chunk.to(device=device, dtype=dtype))
            part = part.cpu().numpy()
            if start == 0:
                output = np.empty((n_rows, *part.shape[1:]), part.dtype)
            output[start : start + step] = part
    return output


class LockedSeeds:
    """A stream of seeds that is thread-safe and can be pickled.

    Parameters
    ----------
    seed : int
        Seed of the stream.
    """

    def __init__(self, seed: int):
        self._random_state = np.random.RandomState(seed)
        self._lock = threading.Lock()

    def next(self) -> int:
        """Draw the next seed."""
        with self._lock:
            return int(self._random_state.randint(2**31))

    def __getstate__(self) -> Any:
        with self._lock:
            return self._random_state.get_state()

    def __setstate__(self, state: Any) -> None:
        self._random_state = np.random.RandomState()
        self._random_state.set_state(state)
        self._lock = threading.Lock()


def require_memory(n_bytes: float, what: str) -> None:
    """Raise an error if something cannot fit into this machine's memory.

    Parameters
    ----------
    n_bytes : float
        Estimated need, in bytes.
    what : str
        What needs it and how to reduce it, for the message.

    Raises
    ------
    MemoryError
        If the need exceeds the physical memory.
    """
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not available on every system
        return
    if n_bytes > physical:
        n_bytes = min(n_bytes, 1e300)  # an integer may overflow a float
        raise MemoryError(
            f"{what} This takes about {n_bytes / 2**30:.1f} GiB; the machine has "
            f"{physical / 2**30:.1f} GiB."
        )
