"""Functions recorded once as CUDA graphs, and replayed."""

import threading
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Replays"]

# Number of graphs that are kept, the latest ones.
MAX_GRAPHS = 8


# Two threads must not record at the same time on the one stream of a device.
_recording = threading.Lock()


@cache
def _stream_of(device: torch.device) -> "torch.cuda.Stream":
    """Return the one stream to record on, since each stream keeps its own memory."""
    return torch.cuda.Stream(device)


class _Record(NamedTuple):
    graph: "torch.cuda.CUDAGraph"
    arguments: list[Tensor]
    result: Any


class Replays:
    """Calls functions; on a CUDA device, each is launched as one graph.

    A step with small layers consists of hundreds of kernels, which the GPU executes
    faster than the CPU launches them. The first call of a function runs it, the second
    records it, and all others replay the record. A result is valid until the next call
    of any function.

    What functions read and write besides their arguments must keep its memory address,
    and functions must not wait for tensor values: recording would fail.

    Parameters
    ----------
    device : torch.device
        Where functions run. On the CPU they are simply called.
    generators : sequence of torch.Generator, default=()
        Generators that functions draw from.
    """

    def __init__(
        self, device: torch.device, generators: Sequence[torch.Generator] = ()
    ):
        self.device, self.generators = device, generators
        self.is_cuda = device.type == "cuda"
        self._seen: set[Hashable] = set()
        self._records: dict[Hashable, _Record] = {}

    def __call__(
        self, key: Hashable, function: Callable[..., Any], *arguments: Tensor
    ) -> Any:
        """Return what a function returns.

        Parameters
        ----------
        key : hashable
            Identifies the function, together with the shapes of the arguments.
        function : callable
            The function.
        *arguments : Tensor
            Its arguments.
        """
        if not self.is_cuda:
            return function(*arguments)
        key = (key, *(argument.shape for argument in arguments))
        if key not in self._seen:
            self._seen.add(key)
            return self._on_own_stream(lambda: function(*arguments))
        if key not in self._records:
            self._record(key, function, arguments)
        record = self._records[key]
        for own, given in zip(record.arguments, arguments, strict=True):
            own.copy_(given)
        record.graph.replay()
        return record.result

    def _on_own_stream(self, function: Callable[[], Any]) -> Any:
        """Call a function on the recording stream, where libraries get initialised."""
        current = torch.cuda.current_stream(self.device)
        own = _stream_of(current.device)
        with _recording:
            own.wait_stream(current)
            with torch.cuda.stream(own):
                result = function()
            current.wait_stream(own)
        return result

    def _record(
        self, key: Hashable, function: Callable[..., Any], arguments: Sequence[Tensor]
    ) -> None:
        # All graphs share one memory pool: no result outlives the next call.
        records = iter(self._records.values())
        pool = next((record.graph.pool() for record in records), None)
        if pool is None:
            # Cached memory cannot be released while recording.
            torch.cuda.empty_cache()
        while len(self._records) >= MAX_GRAPHS:
            del self._records[next(iter(self._records))]
        graph, own = torch.cuda.CUDAGraph(), [a.clone() for a in arguments]
        for generator in self.generators:
            graph.register_generator_state(generator)

        def record() -> Any:
            # Other threads may train at the same time.
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                return function(*own)
            finally:
                graph.capture_end()

        result = self._on_own_stream(record)
        self._records[key] = _Record(graph, own, result)
