"""Checkpoints: interrupted fits resume where they stopped."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from torch import Tensor

from skflowmix._version import __version__
from skflowmix.files import ModelFileError, read_file, write_file
from skflowmix.fitting import Problem
from skflowmix.training.reducers import Reducer
from skflowmix.training.trainer import Outcome, Trainer

__all__ = ["Checkpoint", "FileJournal"]

# Least number of seconds between two writes.
INTERVAL = 30.0

# Parts of a trainer's state that differ between processes.
OWN_STATE = ("source", "objective")

# Prefix of the names of data in the description of a fit.
OF_DATA = "the data"

# The file of the fit, and of each restart, in the folder of a checkpoint.
OF_FIT, OF_RESTART = "fit.safetensors", "restart-{}.safetensors"


class FileJournal:
    """Runs the phases of a restart, saves their progress, and resumes saved ones.

    Parameters
    ----------
    path : Path
        Name of the journal's file.
    identity : str
        Identifies the fit; a file with another identity is ignored.
    reducer : Reducer
        The processes of the fit, of which the first one reads and writes.
    """

    def __init__(self, path: Path, identity: str, reducer: Reducer):
        self.path, self.identity, self.reducer = path, identity, reducer
        self.written = time.monotonic()
        # States by key of the phase: of finished phases, and of the current one.
        self.finished, self.present = reducer.from_first(self._read)

    def _read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.path.exists():
            content = read_file(self.path, "checkpoint")
            if content["identity"] == self.identity:
                return content["finished"], content["present"]
        return {}, {}

    def phase(
        self, key: str, trainer: Trainer, on_epoch: Callable[[dict[str, Any]], bool]
    ) -> Outcome:
        """See `skflowmix.training.journal.Journal`."""
        former = self.finished.get(key, self.present.get(key))
        if former is not None:
            trainer.load_state_dict(self._own_state(former))
        if key in self.finished:
            return trainer.run(on_epoch)

        def after_epoch(trainer: Trainer) -> None:
            is_due = time.monotonic() - self.written >= INTERVAL
            if self.reducer.broadcast(is_due):
                self.present = {key: self._state(trainer)}
                if self.reducer.rank == 0:
                    self._write()

        outcome = trainer.run(on_epoch, after_epoch)
        # A fit that a callback ends is not resumed.
        if not outcome.stopped:
            self.finished[key], self.present = self._state(trainer), {}
        return outcome

    def _state(self, trainer: Trainer) -> dict[str, Any]:
        """Return a run's state, with the process-specific parts of all processes."""
        state = _map(trainer.state_dict(), lambda t: t.numpy(force=True).copy(), Tensor)
        if self.reducer.n_ranks > 1:
            own = {name: state.pop(name) for name in OWN_STATE}
            state["processes"] = self.reducer.gather(own)
        return state

    def _own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        if self.reducer.n_ranks > 1:
            state = state | state["processes"][self.reducer.rank]
        return _map(state, torch.from_numpy, np.ndarray)

    def _write(self) -> None:
        content = {
            "identity": self.identity,
            "finished": self.finished,
            "present": self.present,
        }
        write_file(self.path, "checkpoint", content, name="checkpoint")
        self.written = time.monotonic()


def _map(tree: Any, convert: Callable[[Any], Any], kind: type) -> Any:
    """Convert all leaves of type `kind` in nested dictionaries and lists."""
    if isinstance(tree, Mapping):
        return {key: _map(value, convert, kind) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_map(value, convert, kind) for value in tree]
    return convert(tree) if isinstance(tree, kind) else tree


class Checkpoint:
    """Folder with the saved progress of a fit.

    Parameters
    ----------
    folder : str or path-like
        Its name; it is created if missing.
    estimator : estimator
        The estimator that is fitted.
    problem : Problem
        Its data.
    random_state : RandomState
        The fit's source of randomness, before it is used.
    reducer : Reducer
        The processes of the fit.

    Attributes
    ----------
    random_state : RandomState
        The source of randomness to use, restored if the fit is resumed.
    resumes : bool
        Whether epochs of the same fit are saved in the folder.

    Raises
    ------
    ValueError
        If the folder holds a fit of other data, parameters or versions.
    ModelFileError
        If its files are damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        estimator: Any,
        problem: Problem,
        random_state: np.random.RandomState,
        reducer: Reducer,
    ):
        self.reducer = reducer
        first, *others = reducer.gather(_identity(estimator, problem))
        for rank, other in enumerate(others, start=1):
            first |= {
                f"{name} in process {rank}": value
                for name, value in other.items()
                if name.startswith(OF_DATA)
            }
        self.random_state, self.resumes = reducer.from_first(
            lambda: self._open(folder, first, random_state)
        )
        self.folder = Path(folder)
        key = self.random_state.get_state(legacy=False)["state"]["key"]
        digest = hashlib.sha256(repr(sorted(first.items())).encode())
        digest.update(key.tobytes())
        self.digest = digest.hexdigest()
        self.names = [OF_FIT]

    @staticmethod
    def _open(
        name: str | os.PathLike[str],
        present: dict[str, str],
        random_state: np.random.RandomState,
    ) -> tuple[np.random.RandomState, bool]:
        state = random_state.get_state(legacy=False)
        if state["bit_generator"] != "MT19937":
            raise ValueError(
                "With a checkpoint random_state must be an int, None, or a RandomState "
                f"on MT19937, got one on {state['bit_generator']}."
            )
        if not str(name):
            raise ValueError("checkpoint must be the name of a folder, got ''.")
        folder, own = Path(name), np.random.RandomState()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"checkpoint={str(name)!r} must be a folder, not a file.")
        # Resolved, since a link to a folder that does not exist can be followed.
        folder.resolve().mkdir(parents=True, exist_ok=True)
        path = folder / OF_FIT
        resumes = False
        if path.exists():
            resumes = any(folder.glob(OF_RESTART.format("*")))
            former = read_file(path, "checkpoint")
            try:
                others = _differences(former["identity"], present)
                own.set_state(former["random_state"])
            except (LookupError, TypeError, ValueError) as error:
                raise ModelFileError(f"{path} holds no fit: {error}") from error
            if others:
                raise ValueError(
                    f"checkpoint={str(name)!r} belongs to another fit: it differs in "
                    f"{', '.join(others)}. Give another folder, or delete this one."
                )
        else:
            own.set_state(state)
            content = {"identity": present, "random_state": state}
            write_file(path, "checkpoint", content, name="checkpoint")
        return own, resumes

    def journal(self, i: int) -> FileJournal:
        """Return the journal of a restart."""
        name = OF_RESTART.format(i)
        self.names.append(name)
        return FileJournal(self.folder / name, self.digest, self.reducer)

    def remove(self) -> None:
        """Delete the files of a fit that has ended, and the folder if it can be."""
        if self.reducer.rank > 0:
            return
        # A kill in the middle of a write leaves a temporary file.
        for name in [*self.names, *(f".{name}.*" for name in self.names)]:
            for path in self.folder.glob(name):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        # A folder that cannot be removed (a link, a mount point) must not fail the fit.
        with suppress(OSError):
            self.folder.rmdir()


def _identity(estimator: Any, problem: Problem) -> dict[str, str]:
    """Describe, by name, everything that must be equal for a fit to resume."""
    arrays = {
        "X": problem.X,
        "sample_weight": problem.sample_weight,
        "y": problem.classes,
    }
    parameters = {
        f"the parameter {name}": _describe(value)
        for name, value in estimator.get_params(deep=True).items()
        if name not in ("n_jobs", "verbose", "verbose_interval", "random_state")
    }
    seed = estimator.random_state
    if isinstance(seed, np.random.RandomState):
        seed = seed.get_state(legacy=False)["state"]["key"]
    parameters["the parameter random_state"] = _describe(seed)
    if getattr(estimator, "warm_start", False) and hasattr(estimator, "module_"):
        tensors = estimator.module_.arrays()
        arrays |= {f"of the fitted model {k}": own for k, own in tensors.items()}
    versions = {
        "skflowmix": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
    return {
        "the estimator": type(estimator).__name__,
        **{f"{OF_DATA} {name}": _describe(array) for name, array in arrays.items()},
        **parameters,
        **{f"the version of {name}": version for name, version in versions.items()},
    }


def _describe(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if hasattr(value, "__array__"):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        content = np.ascontiguousarray(value)
        digest = hashlib.sha256(content.tobytes()).hexdigest()
        return f"{value.dtype} {value.shape} {digest}"
    if isinstance(value, np.ndarray):
        return f"objects {[repr(v) for v in value.ravel()]}"
    # Memory addresses differ between processes.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _differences(former: dict[str, str], present: dict[str, str]) -> list[str]:
    names = [*present, *(name for name in former if name not in present)]
    return [name for name in names if former.get(name) != present.get(name)]
