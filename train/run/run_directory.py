"""A run's directory: whose it is, whether the run in it goes on or another begins, its log."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bert_jax.errors import UserError
from bert_jax.files import read_json, write_json

from ..report.events import Events
from .opening import LOCK, refuse_others


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Have what the system says against writing there, such as a full disk, be a `UserError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot write: {reason}; what was saved before stands") from None


class RunDirectory:
    """The directory, held by one process until the end of its `with`.

    `record` is what will be in run.json. An earlier run there goes on, unless `restart` is true; `earlier` is its
    record, and None where a run begins. Raises `UserError` where another process holds it, where it cannot be
    written, or where `record` has other options, model or data than the run there.
    """

    def __init__(self, path: Path, record: dict[str, Any], *, restart: bool = False):
        self.path = path
        self.earlier: dict[str, Any] | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{path}: cannot write there: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip()
            self._lock.close()
            raise UserError(f"{path}: in use by process {owner}; wait for it, or choose another --out") from None
        try:
            with writing(path):
                os.ftruncate(self._lock.fileno(), 0)
                os.write(self._lock.fileno(), f"{os.getpid()}\n".encode())
                self._begin(record, restart)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *details: object) -> None:
        self._lock.close()  # which frees it, as the end of the process would

    def _begin(self, record: dict[str, Any], restart: bool) -> None:
        run = self.path / "run.json"
        before = read_json(run) if run.is_file() and not restart else {}
        if before and not before.get("clearing"):
            refuse_others(self.path, before, record)
            self.earlier = before
            for left in self.path.glob(".best.partial-*"):  # by a process killed while it wrote there
                shutil.rmtree(left, ignore_errors=True)
        else:
            # What is killed in here is begun anew, and never taken for a run of the new record.
            write_json(run, record | {"clearing": True})
            for path in self.path.iterdir():
                if path.name not in (LOCK, run.name):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        write_json(run, record)


class MetricsLog:
    """metrics.jsonl, or nothing where `path` is None: a JSON object a line, and with `events` TensorBoard's files."""

    def __init__(self, path: Path | None, size: int = 0, *, events: bool = False):
        self._path, self._events = path or Path(os.devnull), None
        with writing(self._path):
            self._file = open(self._path, "a+b")  # noqa: SIM115
            if path is not None:
                self._file.truncate(size)  # lines after the checkpoint will be written again
                self._events = Events(path.parent) if events else None

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *details: object) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been said
            self._file.close()
            if self._events is not None:
                self._events.close()

    def write(self, **values: Any) -> None:
        """Append a line."""
        with writing(self._path):
            self._file.write(json.dumps(values).encode() + b"\n")
            self._file.flush()
            if self._events is not None:
                self._events.add(values)

    def sync(self) -> int:
        """Have the system write all lines to the disk, and return the file's size in bytes."""
        with writing(self._path):
            os.fsync(self._file.fileno()) if self._path != Path(os.devnull) else None
        return self._file.tell()
