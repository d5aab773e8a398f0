"""`save` and `load`: an estimator as one file, without pickle."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from skflowmix._arrays import LockedSeeds
from skflowmix.array_api import as_numpy
from skflowmix.classifier import FlowMixtureClassifier
from skflowmix.distance_to_measure import NeighborDensity
from skflowmix.estimator import FlowMixture
from skflowmix.files import ModelFileError, read_file, write_file
from skflowmix.model.groups import Groups
from skflowmix.model.mixture import MixtureModule
from skflowmix.online import OnlineState
from skflowmix.options import FlowMixtureOptions
from skflowmix.outlier import FlowMixtureOutlierDetector
from skflowmix.prediction import OF_CALLBACKS
from skflowmix.starts.gaussians import Gaussians
from skflowmix.starts.preprocessing import Standardizer
from skflowmix.starts.shrinkage import Shrinkage

__all__ = ["load", "save"]

# Estimators that a file can hold.
ESTIMATORS = {
    cls.__name__: cls
    for cls in (FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector)
}

# Other objects, identified by class name and stored as their attributes.
PLAIN_OBJECTS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        FlowMixtureOptions,
        Gaussians,
        Groups,
        NeighborDensity,
        OnlineState,
        Standardizer,
    )
}

OBJECTS: dict[str, Any] = {**ESTIMATORS, **PLAIN_OBJECTS}

# Largest number of layers that a file may request.
MAX_LAYERS = 10_000


def _to_plain(value: Any) -> tuple[str, Any] | None:
    """See `skflowmix.files.write_file`."""
    name = type(value).__name__
    if OBJECTS.get(name) is type(value):
        return name, _state(value)
    if isinstance(value, Shrinkage):
        return name, list(value)
    if isinstance(value, np.random.RandomState):
        # The states of other bit generators cannot be stored.
        if value.get_state(legacy=False)["bit_generator"] != "MT19937":
            return None
        return name, value.get_state()
    if isinstance(value, (LockedSeeds, MixtureModule)):
        return name, value.__getstate__()
    return None


def _from_plain(name: str, content: Any) -> Any:
    """See `skflowmix.files.read_file`."""
    if name == "Shrinkage":
        return Shrinkage(*content)
    if name == "RandomState":
        random_state = np.random.RandomState()
        random_state.set_state(_generator_state(content))
        return random_state
    if name == "LockedSeeds":
        seeds = LockedSeeds(0)
        seeds.__setstate__(_generator_state(content))
        return seeds
    if name == "MixtureModule":
        return _module(content["spec"], content["arrays"])
    if "mixture_" in content:
        _share_parameters(content, content["mixture_"])
    cls = OBJECTS[name]
    instance = cls.__new__(cls)
    instance.__dict__.update(content)
    return instance


def _share_parameters(own: Mapping[str, Any], inner: Any) -> None:
    """Make equal parameters of an estimator and its mixture the same object.

    They were the same when saved, and joblib's hash tells two equal objects from one.
    """
    for name, value in own.items():
        other = getattr(inner, name, None)
        if isinstance(value, FlowMixtureOptions) and type(other) is type(value):
            _share_parameters(vars(value), other)
        elif isinstance(value, (tuple, list)) and type(other) is type(value):
            setattr(inner, name, value if value == other else other)


def _generator_state(state: Any) -> tuple[str, np.ndarray, int, int, float]:
    """Validate the state of a generator, which NumPy accepts unchecked."""
    name, key, position, has_gauss, gauss = state
    if (
        name != "MT19937"
        or key.shape != (624,)
        or key.dtype != np.uint32
        or not 0 <= int(position) <= 624
        or has_gauss not in (0, 1)
    ):
        raise ValueError("the state of a generator")
    return name, key, int(position), has_gauss, float(gauss)


def _state(value: object) -> dict[str, Any]:
    """Return an object's attributes except callbacks and metadata routing.

    Tensors become NumPy arrays, which every machine can load.
    """
    return {
        name: as_numpy(own)
        for name, own in vars(value).items()
        if not name.startswith((*OF_CALLBACKS, "_metadata_request"))
    }


def _module(spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> MixtureModule:
    """Rebuild a module, checking first that it is no larger than its arrays."""
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
    sizes = spec["group_sizes"]
    if min(sizes) < 1 or sum(sizes) != shape[0]:
        raise ValueError("sizes of groups")
    if len(layers) != 4 or not 0 <= min(layers) <= sum(layers) <= MAX_LAYERS:
        raise ValueError("numbers of layers")
    if sum(layers) > len(arrays) or any(not 0 < width <= n_values for width in widths):
        raise ValueError("widths of layers")
    largest = max([1, *widths]) * max([1, *widths, shape[1]])
    if len(widths) > 1 and largest > n_values:
        raise ValueError("widths of layers")
    return MixtureModule.from_spec(spec, arrays)


def _check_path(path: Any) -> None:
    """Refuse what is not the name of a file."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"path must be the name of a file, a str or path-like, got {path!r}."
        )
    if not os.fspath(path):
        raise ValueError("path must be the name of a file, got ''.")
    if Path(path).is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "path must be the name of a file, not a folder", str(path)
        )


def save(
    model: FlowMixture | FlowMixtureClassifier | FlowMixtureOutlierDetector,
    path: str | os.PathLike[str],
) -> None:
    """Write an estimator, fitted or not, to one file.

    The file is in the safetensors format: arrays, and a JSON header with parameters and
    attributes. Reading it runs no code. It is written atomically, and replaces an
    existing file.

    Parameters
    ----------
    model : FlowMixture, FlowMixtureClassifier or FlowMixtureOutlierDetector
        The estimator.
    path : str or path-like
        Name of the file.

    Raises
    ------
    TypeError
        If `model` is not an estimator of this library, or `path` is no path.
    ValueError
        If a parameter is an object that a file cannot hold, such as a clusterer as
        `init_params`, or `path` is empty.
    OSError
        If the file cannot be written.

    See Also
    --------
    load : Read the file.

    Notes
    -----
    Callbacks and metadata requests are not saved.

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
        hint = ""
        if isinstance(model, Pipeline):
            hint = " Save its last step, or use joblib for all steps."
        raise TypeError(
            f"model must be one of {', '.join(sorted(ESTIMATORS))}, got {name}.{hint}"
        )
    _check_path(path)
    write_file(path, "model", model, _to_plain, name)


def load(path: str | os.PathLike[str]) -> Any:
    """Read an estimator that `save` wrote.

    Parameters
    ----------
    path : str or path-like
        Name of the file.

    Returns
    -------
    model : FlowMixture, FlowMixtureClassifier or FlowMixtureOutlierDetector
        The same estimator. One fitted on a GPU falls back to the CPU if the GPU is
        missing.

    Raises
    ------
    ModelFileError
        If the file is not a model, is damaged, or has a later version of the format.
    TypeError
        If `path` is no path.
    ValueError
        If `path` is empty.
    OSError
        If the file cannot be read.
    """
    _check_path(path)
    model = read_file(path, "model", _from_plain)
    if type(model) not in ESTIMATORS.values():
        raise ModelFileError(f"{path} holds no estimator.")
    return model
