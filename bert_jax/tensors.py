"""Files of tensors in the safetensors format, read strictly and without a copy.

The reader refuses everything that the format's description (huggingface/safetensors, README.md) rules out. The
safetensors library's own reader accepts the same name twice. It also opens the file by itself, so the bytes that were
hashed might not be the bytes that it reads.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy

from bert_jax.errors import UserError
from bert_jax.files import opened, whole

MOST_HEADER = 2 * 2**20
"""Maximum size in bytes of the JSON header that describes the tensors; BERT-large's header takes 50,000."""

_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    **{f"{kind}{size}": f"<{kind.lower()}{size // 8}" for kind in "UI" for size in (8, 16, 32, 64)},
    **{f"F{size}": f"<f{size // 8}" for size in (16, 32, 64)},
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


class TensorFile(NamedTuple):
    """The tensors of a file, its metadata, and the SHA-256 of the bytes that were read (empty if not asked for)."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    sha256: str


class _Entry(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def read_tensors(path: Path, *, hashed: bool = True) -> TensorFile:
    """Read all tensors of a safetensors file, as read-only views of one copy of the file in memory.

    `sha256` of the result is empty unless `hashed`. Raises `UserError` if the file is damaged, breaks the format, is a
    link out of its directory or is larger than this machine's memory.
    """
    with opened(path, within=path.parent) as file:
        size = os.fstat(file.fileno()).st_size
        entries, metadata, start = _header(file, size, path)
        if size > (memory := physical_memory()):
            raise UserError(f"{path}: {size:,} bytes, more than this machine's memory of {memory:,}")
        content = whole(file, size, path)
    return TensorFile(_views(content, entries, start), metadata, hashlib.sha256(content).hexdigest() if hashed else "")


def parse_tensors(content: bytes, path: Path) -> TensorFile:
    """Return the tensors in the content of the safetensors file `path`, without a hash.

    Raises `UserError` if the content is damaged or breaks the format.
    """
    entries, metadata, start = _header(io.BytesIO(content), len(content), path)
    return TensorFile(_views(content, entries, start), metadata, "")


def _views(content: bytes, entries: Mapping[str, "_Entry"], start: int) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(content, dtype, math.prod(shape), start + offset).reshape(shape)
        for name, (dtype, shape, offset, _) in entries.items()
    }


def physical_memory() -> int:
    """Return the size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file, without its tensors; raise `UserError` as `read_tensors` does."""
    with opened(path, within=path.parent) as file:
        return _header(file, os.fstat(file.fileno()).st_size, path)[1]


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; arrays may be views in any memory order."""
    # safetensors writes an array's buffer as it is, so a transposed view must be copied to C order first.
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    safetensors.numpy.save_file(arrays, path, metadata=dict(metadata))
    path.chmod(0o644)  # the library makes the file private
    with open(path, "r+b") as file:  # the library's order of the metadata changes each time
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(content) <= size:
            file.seek(8)
            file.write(content.ljust(size))


def _header(file: BinaryIO, size: int, path: Path) -> tuple[dict[str, _Entry], dict[str, str], int]:
    """Return the entries by name, the metadata and the offset of the data, all checked against the file's size."""
    try:
        return _parse(file, size)
    except RecursionError:
        reason = "the header is nested too deeply"
    except ValueError as error:  # errors of JSON and UTF-8 too
        reason = str(error)
    raise UserError(f"{path}: not a sound safetensors file ({size:,} bytes): {reason}")


def _parse(file: BinaryIO, size: int) -> tuple[dict[str, _Entry], dict[str, str], int]:
    if size < 8:
        raise ValueError("the length of the header alone takes 8")
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, MOST_HEADER):
        raise ValueError(f"the header claims {length:,} bytes, {min(size - 8, MOST_HEADER):,} are possible")
    content = file.read(length)
    if not content.startswith(b"{"):
        raise ValueError("the header is no JSON object")
    header = json.loads(content.decode(), object_pairs_hook=_once, parse_int=_whole)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ holds something other than strings")
    entries = {name: _entry(name, described) for name, described in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.start != end:
            raise ValueError(f"{name} begins at byte {entry.start:,} of the data, where the one before ends at {end:,}")
        end = entry.end
    if end != size - 8 - length:
        raise ValueError(f"tensors end at byte {end:,} of the data, which are {size - 8 - length:,} bytes")
    return entries, metadata, 8 + length


def _entry(name: str, described: Any) -> _Entry:
    """Return the checked entry of one tensor; raise `ValueError` if the header describes it wrongly."""
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise ValueError(f"{name} has dtype {str(kind)[:40]}; expected one of {', '.join(_DTYPES)}")
    for numbers in (shape, offsets):
        # A bool is an int in Python. The limits are numpy's: on elements, and on axes (checked below).
        if not isinstance(numbers, list) or not all(type(n) is int and n < 2**63 for n in numbers):
            raise ValueError(f"shape and data_offsets of {name} are not lists of whole numbers")
    dtype = np.dtype(_DTYPES[kind])
    if len(offsets) != 2 or len(shape) > 32 or math.prod(n for n in shape if n) >= 2**63:
        raise ValueError(f"shape or data_offsets of {name} have too many numbers or too large ones")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{name} has {offsets[1] - offsets[0]:,} bytes, its shape takes {math.prod(shape) * dtype.itemsize:,}"
        )
    return _Entry(dtype, tuple(shape), *offsets)


def _whole(text: str) -> int:
    if text.startswith("-"):  # which refuses -0 too
        raise ValueError(f"{text[:20]} is no size")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{name} is there twice")
        f"{name}{value if isinstance(value, str) else ''}".encode()  # ValueError for half of a surrogate pair
        members[name] = value
    return members
