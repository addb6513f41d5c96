"""Read files, with one clear error line for each fault, and write files whole or not at all."""

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
"""Maximum size of a checkpoint's text file in bytes; the files of the largest vocabularies take a third of it."""

_POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of a pointer file, which git-lfs keeps in place of the real file (git-lfs, docs/spec.md)."""

_MOMENT = 60.0
"""Maximum number of seconds between the creation of a scratch directory and its lock."""


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def opened(path: Path, *, within: Path | None = None) -> Iterator[BufferedReader]:
    """Open a regular file for reading; callers must read and hash the file through this one descriptor.

    With `within`, a symbolic link must not lead out of that directory. The links of the hub's cache are an exception.
    Raises `UserError` for a file that is missing or unreadable, for a pipe or device (which may never end), and for the
    pointer file that a clone without git-lfs has in place of the file.
    """
    try:
        real_path = path
        if within is not None:
            real_path, root = path.resolve(strict=True), within.resolve()
            if not real_path.is_relative_to(root) and not _in_hub_cache(real_path, root):
                raise UserError(f"{path}: a link out of its directory, to {real_path}; put the file itself there")
        # With `within`, links are resolved above, so a link found now was put there since: O_NOFOLLOW refuses it.
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if within else 0)
        file = open(os.open(real_path, flags), "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except RuntimeError:  # how Python before 3.13 reports links in a circle
        raise UserError(f"{path}: {os.strerror(errno.ELOOP)}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(f"{path}: not a regular file")
        with suppress(OSError):  # the same error comes again when the caller reads the file
            if file.peek(len(_POINTER)).startswith(_POINTER):
                raise UserError(f"{path}: a pointer of git-lfs, not the file itself; run `git lfs pull` in the clone")
        yield file


def _in_hub_cache(real_path: Path, root: Path) -> bool:
    """Return whether `root` is a snapshot in the hub's cache, and `real_path` is a blob that its links lead to."""
    return root.parent.name == "snapshots" and real_path.parent == root.parent.parent / "blobs"


def read_bytes(path: Path, *, within: Path | None = None, most: int = MOST_BYTES) -> bytes:
    """Return a file's content.

    `within` is the file's directory by default. Raises `UserError` as `opened` does, and for a file of more than
    `most` bytes.
    """
    with opened(path, within=within or path.parent) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(f"{path}: {size:,} bytes; expected at most {most:,}")
        return whole(file, size, path)


def whole(file: BufferedReader, size: int, path: Path) -> bytes:
    """Return the `size` bytes of an open file; raise `UserError` if it cannot be read or is shorter by now."""
    try:
        file.seek(0)
        content = file.read(size)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if len(content) != size:
        raise UserError(f"{path}: changed while it was read; try again")
    return content


def decode(content: bytes, path: object) -> str:
    """Decode UTF-8 and drop a byte order mark; raise `UserError` with the offset of a byte that is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def parse_json(content: bytes, path: object) -> dict[str, Any]:
    """Parse a JSON object; raise `UserError` for anything else, with the line and column of a syntax error."""
    try:
        data = json.loads(decode(content, path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: bad JSON at line {error.lineno} column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: bad JSON: nested too deeply") from None
    except ValueError as error:  # Python refuses a number of thousands of digits
        raise UserError(f"{path}: bad JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object; raise `UserError` as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path), path)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, with its keys in the given order."""
    try:
        content = json.dumps(data, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write only as an escape
        content = json.dumps(data, indent=2).encode()
    write_whole(path, content + b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it holds either its old content or all of `content`, even if the machine stops."""
    scratch = path.with_name(f".{path.name}.new")
    with open(scratch, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    sync(path.parent)


@contextmanager
def new_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a scratch directory that replaces `path` if the block ends without an error.

    `path` appears whole or not at all. The scratch directory lies beside `path` and is renamed to `path` at the end; an
    old directory is exchanged for it. Raises `UserError` before anything is written if `check_new_directory` refuses
    `path`: if `path` is a file or a link, or a directory that is not empty while `overwrite` is false.
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
    """Yield a UTF-8 text file, open for writing, that replaces `path` if the block ends without an error.

    Raises `UserError` as `new_path` does.
    """
    with new_path(path, overwrite=overwrite) as place, open(place, "w", encoding="utf-8") as file:
        yield file


@contextmanager
def new_path(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path to write to; the file there replaces `path` if the block ends without an error.

    Raises `UserError` before anything is written if `path` exists and `overwrite` is false, or if `path` is a
    directory.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a directory; choose the name of a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists; choose another name or pass --overwrite")
    with replacing(path) as place:
        yield place


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file there replaces `path` if the block ends without an error."""
    with _scratch(path) as scratch:
        yield scratch / path.name
        sync(scratch / path.name)
        (scratch / path.name).replace(path)
        sync(path.parent)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Yield a scratch directory beside `path`, and remove it at the end.

    Scratch directories of `path` that killed processes left behind are removed first. Raises `UserError` if the
    directory cannot be created.
    """
    prefix = f".{path.name}.partial-"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in path.parent.glob(f"{glob.escape(prefix)}*"):
            _remove_abandoned(abandoned)
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
        descriptor = os.open(scratch, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path}: cannot write there: {error.strerror}") from None
    # Some network file systems have no locks. There, `_remove_abandoned` cannot lock the directory and leaves it alone.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield scratch
    finally:
        # By now the scratch directory is either a failed attempt or the old directory that was exchanged for it.
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(descriptor)


def _remove_abandoned(scratch: Path) -> None:
    """Remove a scratch directory that no process has locked and that is older than `_MOMENT` seconds."""
    try:
        descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - os.fstat(descriptor).st_mtime > _MOMENT:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError:
        pass  # another process has locked it, or the file system has no locks
    finally:
        os.close(descriptor)


def check_new_directory(path: Path, *, overwrite: bool = False) -> None:
    """Raise `UserError` if `path` is not free for `new_directory`."""
    if path.name in ("", ".."):
        raise UserError(f"{path}: not the name of a new directory; choose one")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: exists and is not a directory; choose another name")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UserError(f"{path}: exists; choose another directory or pass --overwrite")


def sync(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(new: Path, old: Path) -> None:
    """Put directory `new` in place of directory `old`.

    The two are swapped in one step where the system can (Linux). Elsewhere two renames do it, and `old` is removed.
    """
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
