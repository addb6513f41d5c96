"""Files read with one clear line when they are wrong, and written whole or not at all."""

import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, TextIO

from bert_jax.errors import UserError

MOST_BYTES = 64 * 2**20
"""A text file of a checkpoint may be so large; those of the largest vocabularies take a third of it."""

_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that git-lfs keeps in the place of another one (git-lfs, docs/spec.md)."""

_MOMENT = 60.0
"""Seconds between making a scratch directory and locking it, at most."""


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def opened(path: Path, *, within: Path | None = None) -> Iterator[BufferedReader]:
    """Open a regular file for reading; everything is to be read, and hashed, through this one descriptor.

    Raises `UserError` where it is missing, unreadable, a pipe or device (which may never end), or what a clone without
    git-lfs has in the place of the file.
    With `within`, a link must not lead out of that directory, but for the hub cache's own.
    """
    try:
        real = path
        if within is not None:
            real, root = path.resolve(strict=True), within.resolve()
            if not real.is_relative_to(root) and not _in_hub_cache(real, root):
                raise UserError(f"{path}: a link out of its directory, to {real}; put the file itself there")
        # Resolved above, a link now has been put there since; without O_NONBLOCK a pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if within else 0)
        file = open(os.open(real, flags), "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except RuntimeError:  # before Python 3.13, links in a circle
        raise UserError(f"{path}: {os.strerror(errno.ELOOP)}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(f"{path}: not a regular file")
        with suppress(OSError):  # which comes again where the file is read
            if file.peek(len(_POINTER)).startswith(_POINTER):
                raise UserError(f"{path}: a pointer of git-lfs, not the file itself; run `git lfs pull` in the clone")
        yield file


def _in_hub_cache(real: Path, root: Path) -> bool:
    """Whether a snapshot of the hub's cache has this file among its blobs, to which its links lead."""
    return root.parent.name == "snapshots" and real.parent == root.parent.parent / "blobs"


def read_bytes(path: Path, *, within: Path | None = None, most: int = MOST_BYTES) -> bytes:
    """A file's content; raises as `opened` does, and where it is larger than `most` bytes."""
    with opened(path, within=within or path.parent) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(f"{path}: {size:,} bytes; expected at most {most:,}")
        return whole(file, size, path)


def whole(file: BufferedReader, size: int, path: Path) -> bytes:
    """The `size` bytes of an open file; `UserError` where it cannot be read, or has fewer by now."""
    try:
        file.seek(0)
        content = file.read(size)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if len(content) != size:
        raise UserError(f"{path}: changed while it was read; try again")
    return content


def decode(content: bytes, path: object) -> str:
    """UTF-8 as text, without a byte order mark; `UserError` with the offset where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def parse_json(content: bytes, path: object) -> dict[str, Any]:
    """A JSON object; `UserError` with line and column where it is not one."""
    try:
        data = json.loads(decode(content, path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: bad JSON at line {error.lineno} column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: bad JSON: nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: bad JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """A file with a JSON object; raises as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path), path)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, in the given order of keys."""
    try:
        content = json.dumps(data, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
        content = json.dumps(data, indent=2).encode()
    write_whole(path, content + b"\n")


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
    with _scratch(path) as scratch:
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


@contextmanager
def new_file(path: Path, *, overwrite: bool = False) -> Iterator[TextIO]:
    """Yield a UTF-8 text file that takes the place of `path` when the block ends well.

    Raises as `new_path` does.
    """
    with new_path(path, overwrite=overwrite) as place, open(place, "w", encoding="utf-8") as file:
        yield file


@contextmanager
def new_path(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield where to write a file that takes the place of `path` when the block ends well.

    Raises `UserError` before anything is written where `path` exists and `overwrite` is false, or
    where it is a directory.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a directory; choose the name of a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists; choose another name or pass --overwrite")
    with replacing(path) as place:
        yield place


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write a file that takes the place of `path` when the block ends well."""
    with _scratch(path) as scratch:
        yield scratch / path.name
        sync(scratch / path.name)
        (scratch / path.name).replace(path)
        sync(path.parent)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A directory beside `path` to write in, gone at the end; what killed processes left there goes first."""
    prefix = f".{path.name}.partial-"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(prefix)}*"):
            _remove_abandoned(left)
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
        descriptor = os.open(scratch, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path}: cannot write there: {error.strerror}") from None
    with suppress(OSError):  # some network file systems have no locks; the directory is then safe for a moment
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield scratch
    finally:
        # What is left under the scratch name is a failed attempt, or the directory replaced.
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(descriptor)


def _remove_abandoned(scratch: Path) -> None:
    """Remove a scratch directory that no process holds, and that is not a moment old."""
    try:
        descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - os.fstat(descriptor).st_mtime > _MOMENT:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError:
        pass  # held
    finally:
        os.close(descriptor)


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
