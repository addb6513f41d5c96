"""Files read with one clear line when they are wrong, and written whole or not at all."""

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from bert_jax.errors import UserError


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """A UTF-8 text file; `UserError` where it is missing, unreadable or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read_lines(path: Path, newline: str = "") -> Iterator[str]:
    """The lines of a UTF-8 text file with their ends, one at a time; raises as `read_text` does.

    They end where `newline` says, as in `open`.
    """
    try:
        with open(path, encoding="utf-8-sig", newline=newline) as file:
            yield from file
    except UnicodeDecodeError:
        read_text(path)  # this one was told of a part of the file; that one counts bytes from the start
        raise
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; `UserError` with line and column where it is not one."""
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: bad JSON at line {error.lineno} column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: bad JSON: nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: bad JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, in the given order of keys."""
    try:
        content = json.dumps(data, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
        content = json.dumps(data, indent=2).encode()
    write_whole(path, content + b"\n")


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a safetensors file, bfloat16 included, and its metadata."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise UserError(f"{path}: not a sound safetensors file ({size:,} bytes): {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; arrays may be views in any memory order."""
    # safetensors writes the buffer as it lies, so a transposed view must be laid out anew first.
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    safetensors.numpy.save_file(whole, path, metadata=dict(metadata))
    path.chmod(0o644)  # the library makes it private
    with open(path, "r+b") as file:  # and puts the metadata into an order of its own each time
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(content) <= size:
            file.seek(8)
            file.write(content.ljust(size))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it holds what it held or all of `content`, even if the machine stops."""
    scratch = path.with_name(f".{path.name}.new")
    with open(scratch, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    sync(path.parent)


@contextmanager
def new_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a scratch directory that takes the place of `path` when the block ends well.

    `path` appears whole or not at all: the scratch directory lies beside it and is renamed into
    place, in exchange for the old directory where there is one. Raises `UserError` before
    anything is written where `path` exists and `overwrite` is false, or where it is a file.
    """
    path = Path(path)
    check_new_directory(path, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(f"{path}: cannot write there: {error.strerror}") from None
    try:
        scratch.chmod(0o755)
        yield scratch
        for file in scratch.rglob("*"):
            sync(file)
        sync(scratch)
        if path.exists():
            _exchange(scratch, path)
        else:
            scratch.rename(path)
        sync(path.parent)
    finally:
        # What is left under the scratch name is a failed attempt, or the directory replaced.
        shutil.rmtree(scratch, ignore_errors=True)


def check_new_directory(path: Path, *, overwrite: bool = False) -> None:
    """Raise `UserError` if `new_directory` would refuse `path`."""
    if path.name in ("", ".."):
        raise UserError(f"{path}: not the name of a new directory; choose one")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: exists and is not a directory; choose another name")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UserError(f"{path}: exists; choose another directory or pass --overwrite")


def sync(path: Path) -> None:
    """Have the system write a file, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories in one step where the system can (Linux), else in two renames."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        at_cwd, exchange = -100, 2
        if libc.renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
            return
    aside = Path(tempfile.mkdtemp(prefix=f".{old.name}.", dir=old.parent))
    old.rename(aside / old.name)
    try:
        new.rename(old)
    except OSError:
        (aside / old.name).rename(old)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
