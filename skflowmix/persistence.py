"""`save` and `load`: one safetensors file, a JSON header, no pickle."""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from skflowmix._arrays import LockedSeeds
from skflowmix._version import __version__
from skflowmix.classifier import FlowMixtureClassifier
from skflowmix.distance_to_measure import NeighborDensity
from skflowmix.estimator import FlowMixture
from skflowmix.model.groups import Groups
from skflowmix.model.mixture import MixtureModule
from skflowmix.options import FlowMixtureOptions
from skflowmix.outlier import FlowMixtureOutlierDetector
from skflowmix.starts.gaussians import Gaussians, Shrinkage
from skflowmix.starts.preprocessing import Standardizer

__all__ = ["ModelFileError", "load", "save"]

FORMAT, FORMAT_VERSION = "skflowmix model", 1

# Estimators that a file can hold.
ESTIMATORS = {
    cls.__name__: cls
    for cls in (FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector)
}

# Further objects, told by their name and stored as their attributes.
PLAIN_OBJECTS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (FlowMixtureOptions, Gaussians, Groups, NeighborDensity, Standardizer)
}

# Kinds of arrays that a file can hold.
ARRAY_KINDS = "biuf"

# Layers and networks that no file may ask for more of.
MAX_LAYERS = 10_000


class ModelFileError(ValueError):
    """A file is no model of this library, or is damaged, or of a later version."""


class _Writer:
    """Turns objects into JSON and a table of arrays."""

    def __init__(self):
        self.arrays: dict[str, np.ndarray] = {}

    def encode(self, value, where: str) -> Any:
        """Return JSON for a value; `where` names it in messages."""
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (int, np.integer)):
            return int(value)
        if isinstance(value, (float, np.floating)):
            return self._float(float(value))
        if isinstance(value, np.ndarray):
            return self._array(value, where)
        if isinstance(value, Shrinkage):
            return {"Shrinkage": [self._float(float(v)) for v in value]}
        if isinstance(value, tuple):
            return {"tuple": self._items(value, where)}
        if isinstance(value, list):
            return self._items(value, where)
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            items = {k: self.encode(v, f"{where}.{k}") for k, v in value.items()}
            return {"dict": items}
        if isinstance(value, np.random.RandomState):
            return {"RandomState": self.encode(value.get_state(), where)}
        if isinstance(value, LockedSeeds):
            return {"LockedSeeds": self.encode(value.__getstate__(), where)}
        if isinstance(value, MixtureModule):
            return {"MixtureModule": self.encode(value.__getstate__(), where)}
        name = type(value).__name__
        if {**ESTIMATORS, **PLAIN_OBJECTS}.get(name) is type(value):
            return {name: self.encode(_state(value), where)}
        raise ValueError(
            f"{where} is {value!r}, which a model file cannot hold: numbers, strings "
            "and arrays can. Set it to one of these before saving."
        )

    def _items(self, values, where):
        return [self.encode(v, f"{where}[{i}]") for i, v in enumerate(values)]

    @staticmethod
    def _float(value):
        # JSON has no infinities; a hexadecimal number is exact.
        return value if math.isfinite(value) else {"float": value.hex()}

    def _array(self, array, where):
        if array.dtype.kind not in ARRAY_KINDS:
            items = [self.encode(v, where) for v in array.ravel().tolist()]
            kind = array.dtype.str if array.dtype.kind in "US" else "object"
            return {"items": items, "dtype": kind, "shape": list(array.shape)}
        name = f"{len(self.arrays):05d} {where}"
        self.arrays[name] = np.ascontiguousarray(array)
        return {"array": name, "shape": list(array.shape)}


class _Reader:
    """Turns JSON and arrays back into objects."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    def decode(self, value) -> Any:
        """Return the object that was encoded."""
        if isinstance(value, list):
            return [self.decode(v) for v in value]
        if not isinstance(value, dict):
            return value
        if "array" in value:
            return self.arrays[value["array"]].reshape(value["shape"])
        if "items" in value:
            array = np.empty(len(value["items"]), dtype=value["dtype"])
            array[:] = [self.decode(v) for v in value["items"]]
            return array.reshape(value["shape"])
        ((name, content),) = value.items()
        if name == "float":
            return float.fromhex(content)
        if name == "dict":
            return {key: self.decode(v) for key, v in content.items()}
        content = self.decode(content)
        if name == "tuple":
            return tuple(content)
        if name == "Shrinkage":
            return Shrinkage(*content)
        if name == "RandomState":
            random_state = np.random.RandomState()
            random_state.set_state(content)
            return random_state
        if name == "LockedSeeds":
            seeds = LockedSeeds(0)
            seeds.__setstate__(content)
            return seeds
        if name == "MixtureModule":
            return _module(content["spec"], content["arrays"])
        cls: Any = {**ESTIMATORS, **PLAIN_OBJECTS}[name]
        instance = cls.__new__(cls)
        instance.__dict__.update(content)
        return instance


def _state(value) -> dict[str, Any]:
    """Attributes of an object, without what scikit-learn keeps of callbacks."""
    return {
        name: own
        for name, own in vars(value).items()
        if not name.startswith(("_callback", "_skl"))
    }


def _module(spec, arrays) -> MixtureModule:
    """Make a module no larger than the arrays that were read for it."""
    components = spec["components"]
    n_values = sum(array.size for array in arrays.values())
    widths = [
        *components["architecture"]["hidden_units"],
        *spec["posterior_units"],
    ]
    shape = (components["n_components"], components["n_features"])
    layers = components["layers"]
    if arrays["components.means"].shape != shape:
        raise ValueError("numbers of components and columns")
    if len(layers) != 4 or not 0 <= min(layers) <= sum(layers) <= MAX_LAYERS:
        raise ValueError("numbers of layers")
    if sum(layers) > len(arrays) or any(not 0 < width <= n_values for width in widths):
        raise ValueError("widths of layers")
    largest = max([1, *widths]) * max([1, *widths, shape[1]])
    if len(widths) > 1 and largest > n_values:
        raise ValueError("widths of layers")
    return MixtureModule.from_spec(spec, arrays)


def _checksum(header: str, arrays: dict[str, np.ndarray]) -> str:
    """Hash of the header and of all arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save(model, path) -> None:
    """Write an estimator, fitted or not, to one file.

    The file is in the safetensors format: arrays, and a JSON header with parameters and
    attributes. Reading it runs no code. It appears at once or not at all, under the
    name of a file that may exist.

    Parameters
    ----------
    model : FlowMixture, FlowMixtureClassifier or FlowMixtureOutlierDetector
        The estimator.
    path : str or path-like
        Name of the file.

    Raises
    ------
    TypeError
        If it is no estimator of this library.
    ValueError
        If a parameter is an object that a file cannot hold, such as a clusterer as
        `init_params`.
    OSError
        If the file cannot be written.

    See Also
    --------
    load : Read it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import skflowmix
    >>> model = skflowmix.FlowMixture(3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "model.safetensors"
    ...     skflowmix.save(model, path)
    ...     skflowmix.load(path)
    FlowMixture(n_components=3)
    """
    name = type(model).__name__
    if ESTIMATORS.get(name) is not type(model):
        raise TypeError(
            f"model must be one of {', '.join(sorted(ESTIMATORS))}, got {name}."
        )
    writer = _Writer()
    content = writer.encode(model, name)
    header = json.dumps(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "skflowmix_version": __version__,
            "model": content,
        },
        allow_nan=False,
    )
    checksum = _checksum(header, writer.arrays)
    metadata = {"skflowmix": header, "checksum": checksum}
    # The format has no files without tensors.
    arrays = writer.arrays or {"empty": np.zeros(0)}
    write_at_once(path, save_tensors(arrays, metadata))


def write_at_once(path, content: bytes) -> None:
    """Write a file that is complete whenever it can be seen under its name."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path):
    """Read an estimator that `save` wrote.

    Parameters
    ----------
    path : str or path-like
        Name of the file.

    Returns
    -------
    model : FlowMixture, FlowMixtureClassifier or FlowMixtureOutlierDetector
        The same estimator, on any machine: one fitted on a GPU that is missing works on
        the CPU.

    Raises
    ------
    ModelFileError
        If the file is no model, was damaged, or is of a later version of the format.
    OSError
        If the file cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        arrays = load_tensors(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        header, checksum = metadata["skflowmix"], metadata["checksum"]
        description = json.loads(header)
        version = description["format_version"]
        is_ours = description["format"] == FORMAT and type(version) is int
    except (SafetensorError, *_DAMAGE) as error:
        raise ModelFileError(
            f"{path} is no model file of skflowmix, or it is damaged."
        ) from error
    if not is_ours:
        raise ModelFileError(f"{path} is no model file of skflowmix.")
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has version {version} of the format, of skflowmix "
            f"{description.get('skflowmix_version')}; this is {__version__}, which "
            f"reads versions up to {FORMAT_VERSION}. Update skflowmix."
        )
    arrays.pop("empty", None)
    if _checksum(header, arrays) != checksum:
        raise ModelFileError(f"{path} is damaged: its checksum is wrong.")
    try:
        model = _Reader(arrays).decode(description["model"])
    except _DAMAGE as error:
        raise ModelFileError(f"{path} holds no valid model: {error}") from error
    if type(model) not in ESTIMATORS.values():
        raise ModelFileError(f"{path} holds no estimator.")
    return model


# What reading what is no model may raise.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
