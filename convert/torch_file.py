"""Read torch's pickle files with an unpickler that can build nothing but arrays.

A pickle is a program: it may name any function of any module and have it called. This unpickler replaces the few names
that a state dict needs by functions of this module, and any other name is an error. The format is that of
torch/serialization.py: a zip file from torch 1.6 on, and a sequence of pickles and storages before 1.6.
"""

import hashlib
import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bert_jax.errors import UserError
from bert_jax.files import read_bytes
from bert_jax.tensors import TensorFile

_MOST_BYTES = 2**36

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
"""Magic number and version at the start of a file from before torch 1.6."""

_STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Kind(NamedTuple):
    """The dtype that the name of a storage class in the pickle stands for."""

    dtype: Any


def read(path: Path) -> TensorFile:
    """Read the tensors of a `pytorch_model.bin`, without torch.

    Raises `UserError` for a damaged file, and for a file that asks for anything but arrays. Such a file is read up to
    that point, and nothing in it is executed.
    """
    content = read_bytes(path, most=_MOST_BYTES)
    try:
        tensors = _checked(_read_zip(content) if content.startswith(b"PK") else _read_old(content))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"{path}: not a sound file of torch's ({len(content):,} bytes): {reason}") from None
    return TensorFile(tensors, {}, hashlib.sha256(content).hexdigest())


def _checked(data: Any) -> dict[str, np.ndarray]:
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise ValueError("not a dictionary of names")
    if odd := [name for name, value in data.items() if not isinstance(value, np.ndarray)]:
        raise ValueError(f"{odd[0]} is not a tensor")
    return dict(data)


def _read_zip(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("an entry is compressed, which torch never does")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("entries lie over each other")
        programs = [entry.filename for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(programs) != 1:
            raise ValueError(f"{len(programs)} entries data.pkl; expected one")
        folder = programs[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("not in little-endian order")

        def storage(key: str, dtype: np.dtype, _: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)

        return _Unpickler(io.BytesIO(archive.read(programs[0])), storage).load()


def _read_old(content: bytes) -> Any:
    """Read a file from before torch 1.6, which consists of five pickles and then the storages.

    The pickles hold a magic number, a version, the writer's system, the tensors, and the names of the storages. Each
    storage has its number of elements in 8 bytes, followed by the elements.
    """
    file, storages, bytes_left = io.BytesIO(content), {}, len(content)

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        nonlocal bytes_left
        if type(count) is not int or not 0 <= count * dtype.itemsize <= bytes_left:
            raise ValueError(f"storage {key} has more elements than the file has bytes")
        bytes_left -= count * dtype.itemsize
        storages[key] = np.zeros(count, dtype)
        return storages[key]

    try:
        magic = _Unpickler(file, storage).load()
    except Exception:
        magic = None
    if magic != _MAGIC:
        raise ValueError("it begins neither as a zip file nor as those of torch before 1.6")
    version, system = (_Unpickler(file, storage).load() for _ in range(2))
    if version != _VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError(f"version {str(version)[:20]}, or not in little-endian order")
    data, keys = (_Unpickler(file, storage).load() for _ in range(2))
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise ValueError("the list of storages is not that of the tensors")
    for key in keys:
        array = storages[key]
        if (count := int.from_bytes(file.read(8), "little")) != len(array):
            raise ValueError(f"storage {key} has {count} elements, the pickle says {len(array)}")
        array[:] = np.frombuffer(file.read(array.nbytes), array.dtype)
    if file.read(1):
        raise ValueError("more bytes than storages")
    return data


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, storage: Callable[[str, np.dtype, int], np.ndarray]):
        super().__init__(file)
        self._storage = storage
        self._read: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return this module's replacement for a name in the pickle; raise `UserError` for any other name."""
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor":
                return _tensor
            case "torch._utils", "_rebuild_parameter":
                return _parameter
            case "torch", _ if name in _STORAGES:
                return _Kind(_STORAGES[name])
        raise UserError(
            f"the pickle asks for {module}.{name}, and nothing but arrays is read from one; "
            "save the checkpoint as safetensors"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Return the array of a storage.

        `pid` is ("storage", kind, key, device, number of elements). In old files, a view of the storage follows; only
        None is accepted for it. Raises `ValueError` for any other `pid`.
        """
        tag, kind, key, _, count, *part = pid
        if tag != "storage" or not isinstance(kind, _Kind) or not isinstance(key, str) or part not in ([], [None]):
            raise ValueError(f"unknown reference {str(pid)[:80]}")
        if key not in self._read:
            self._read[key] = self._storage(key, np.dtype(kind.dtype), count)
        array = self._read[key]
        if array.dtype != kind.dtype or len(array) != count:
            raise ValueError(f"storage {key} has {len(array)} elements of {array.dtype.name}, the pickle says {count}")
        return array


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """Return a read-only view of a storage; raise `ValueError` for a view larger than the storage or beyond its end."""
    sizes = [offset, *size, *stride]
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or not all(type(n) is int and n >= 0 for n in sizes):
        raise ValueError("a tensor of no storage, or of sizes that are no whole numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > len(storage) or (math.prod(size) and last >= len(storage)):
        raise ValueError("a tensor larger than its storage")
    width = storage.dtype.itemsize
    return np.lib.stride_tricks.as_strided(storage[offset:], size, [step * width for step in stride], writeable=False)


def _parameter(data: Any, *_: Any) -> Any:
    return data
