"""Files of plain data: a JSON header and arrays in the safetensors format."""

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from skflowmix._version import __version__

__all__ = ["ModelFileError", "read_file", "write_file"]

FORMAT_VERSION = 1

# Largest header of the safetensors format, in bytes.
MAX_HEADER = 100_000_000

# Dtype kinds that are stored as tensors; other arrays become lists in the header.
ARRAY_KINDS = "biuf"


class ModelFileError(ValueError):
    """A file is not a model or checkpoint, is damaged, or has a later version."""


# Errors that reading an invalid file may raise.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)

# Maps an object to a name and the content to encode, or to None if it has none.
ToPlain = Callable[[Any], tuple[str, Any] | None]

# Maps a name and decoded content back to an object.
FromPlain = Callable[[str, Any], Any]


def _no_objects(name: str, content: Any) -> NoReturn:
    raise ValueError(f"{name} is no plain data")


class _Writer:
    """Encodes objects as JSON and a table of arrays."""

    def __init__(self, to_plain: ToPlain):
        self.to_plain = to_plain
        self.arrays: dict[str, np.ndarray] = {}

    def encode(self, value: Any, where: str) -> Any:
        """Return JSON for a value, which messages call `where`."""
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, np.bool_):
            return bool(value)
        if isinstance(value, (int, np.integer)):
            return int(value)
        if isinstance(value, (float, np.floating)):
            # JSON has no infinities; a hexadecimal number is exact.
            number = float(value)
            return number if math.isfinite(number) else {"float": number.hex()}
        if isinstance(value, np.ndarray):
            return self._array(value, where)
        plain = self.to_plain(value)
        if plain is not None:
            name, content = plain
            return {name: self.encode(content, where)}
        if isinstance(value, tuple):
            return {"tuple": self._items(value, where)}
        if isinstance(value, list):
            return self._items(value, where)
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            items = {k: self.encode(v, f"{where}.{k}") for k, v in value.items()}
            return {"dict": items}
        raise ValueError(
            f"{where} is {value!r}, which a model file cannot hold: numbers, strings "
            "and arrays can. Set it to one of these before saving."
        )

    def _items(self, values: list[Any] | tuple[Any, ...], where: str) -> list[Any]:
        return [self.encode(v, f"{where}[{i}]") for i, v in enumerate(values)]

    def _array(self, array: np.ndarray, where: str) -> dict[str, Any]:
        if array.dtype.kind not in ARRAY_KINDS:
            values = array.ravel()
            if array.dtype.kind in "mM":  # `tolist` would lose the unit
                values = values.astype(np.int64)
            items = [self.encode(v, where) for v in values.tolist()]
            kind = "object" if array.dtype.kind == "O" else array.dtype.str
            return {"items": items, "dtype": kind, "shape": list(array.shape)}
        if array.dtype.itemsize > 8:
            raise ValueError(
                f"{where} has dtype {array.dtype}, which a file cannot hold."
            )
        name = f"{len(self.arrays):05d} {where}"
        little_endian = array.dtype.newbyteorder("<")
        self.arrays[name] = np.ascontiguousarray(array).astype(
            little_endian, copy=False
        )
        return {"array": name, "shape": list(array.shape)}


class _Reader:
    """Decodes JSON and arrays into objects."""

    def __init__(self, arrays: Mapping[str, np.ndarray], from_plain: FromPlain):
        self.arrays, self.from_plain = arrays, from_plain

    def decode(self, value: Any) -> Any:
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
        return tuple(content) if name == "tuple" else self.from_plain(name, content)


def _checksum(header: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Hash the header and all arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _mode_of(path: Path) -> int:
    """Return the permissions of a file or, if it is new, the default ones."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _in_one_order(saved: bytes) -> bytes:
    """Sort the metadata of a safetensors file, whose order is otherwise random."""
    end = 8 + int.from_bytes(saved[:8], "little")
    header = json.loads(saved[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + saved[end:]


def _read_whole(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Read a safetensors file and its header, checking its length by the header."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if not 0 < length <= min(size - 8, MAX_HEADER):
            raise ValueError(f"a header of {length} bytes")
        text = file.read(length)
        header = json.loads(text)
        ends = [
            entry["data_offsets"][1]
            for name, entry in header.items()
            if name != "__metadata__"
        ]
        if 8 + length + max(ends, default=0) != size:
            raise ValueError(f"{size} bytes")
        return start + text + file.read(), header


def write_file(
    path: str | os.PathLike[str],
    kind: str,
    content: Any,
    to_plain: ToPlain = lambda value: None,
    name: str = "",
) -> None:
    """Write plain data to a file, atomically.

    Parameters
    ----------
    path : str or path-like
        Name of the file.
    kind : str
        Kind of the content, "model" for instance.
    content : object
        Numbers, strings, arrays, and lists, tuples and dictionaries of these.
    to_plain : callable, optional
        Maps other objects to a name and such data.
    name : str, default=""
        Name of the content in messages.

    Raises
    ------
    ValueError
        If an object cannot be stored.
    OSError
        If the file cannot be written.
    """
    writer = _Writer(to_plain)
    encoded = writer.encode(content, name)
    description = {
        "format": f"skflowmix {kind}",
        "format_version": FORMAT_VERSION,
        "skflowmix_version": __version__,
        "content": encoded,
    }
    header = json.dumps(description, allow_nan=False)
    metadata = {"skflowmix": header, "checksum": _checksum(header, writer.arrays)}
    # A file needs at least one tensor.
    arrays = writer.arrays or {"empty": np.zeros(0)}
    path = Path(path)
    if not path.parent.exists():
        raise FileNotFoundError(
            errno.ENOENT, "The folder of the file does not exist", str(path.parent)
        )
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_in_one_order(save_tensors(arrays, metadata)))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_of(path))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_file(
    path: str | os.PathLike[str], kind: str, from_plain: FromPlain = _no_objects
) -> Any:
    """Read what `write_file` wrote.

    Parameters
    ----------
    path : str or path-like
        Name of the file.
    kind : str
        Expected kind of the content.
    from_plain : callable, optional
        Maps names and data back to objects.

    Returns
    -------
    content : object
        What was written.

    Raises
    ------
    ModelFileError
        If the file holds something else, is damaged, or has a later version of the
        format.
    OSError
        If the file cannot be read.
    """
    try:
        raw, entries = _read_whole(Path(path))
        arrays = load_tensors(raw)
        metadata = entries["__metadata__"]
        header, checksum = metadata["skflowmix"], metadata["checksum"]
        description = json.loads(header)
        version = description["format_version"]
        is_ours = description["format"] == f"skflowmix {kind}" and type(version) is int
    except DAMAGE as error:
        raise ModelFileError(
            f"{path} is no {kind} file of skflowmix, or it is damaged."
        ) from error
    if not is_ours:
        raise ModelFileError(f"{path} is no {kind} file of skflowmix.")
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
        return _Reader(arrays, from_plain).decode(description["content"])
    except DAMAGE as error:
        raise ModelFileError(f"{path} holds no valid {kind}: {error}") from error
