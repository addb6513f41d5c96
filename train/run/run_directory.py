"""The directory of a run: its lock, the choice between resuming its run and starting a new one, and its log."""

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
from bert_jax.run_files import BEST, CLEARING, LOCK, RECORD

from ..report.events import Events
from .opening import refuse_others


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors of writing `path` within the block, such as a full disk, into `UserError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot write: {reason}; what was saved before stands") from None


class RunDirectory:
    """The directory of a run, locked by one process until the end of its `with` block.

    `record` is written to run.json. An earlier run in the directory is resumed, unless `restart` is true. The attribute
    `earlier` is the record of the earlier run, or None if a new run begins. Raises `UserError` if another process has
    locked the directory, if the directory cannot be written to, or if `record` has other options, another model or
    other data than the earlier run.
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
        self._lock.close()  # closing the file releases the lock, as the end of the process would

    def _begin(self, record: dict[str, Any], restart: bool) -> None:
        record_path = self.path / RECORD
        before = read_json(record_path) if record_path.is_file() and not restart else {}
        if before and not before.get(CLEARING):
            refuse_others(self.path, before, record)
            self.earlier = before
            for partial in self.path.glob(f".{BEST}.partial-*"):  # by a process that was killed as it wrote the model
                shutil.rmtree(partial, ignore_errors=True)
        else:
            # If the process is killed here, the next run starts over, and never resumes old files under the new record.
            write_json(record_path, record | {CLEARING: True})
            for path in self.path.iterdir():
                if path.name not in (LOCK, record_path.name):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        write_json(record_path, record)


class MetricsLog:
    """The log of a run: metrics.jsonl at `path`, with one JSON object per line. If `path` is None, nothing is written.

    The file is truncated to its first `size` bytes. With `events`, TensorBoard event files are written, too.
    """

    def __init__(self, path: Path | None, size: int = 0, *, events: bool = False):
        self._path, self._events = path or Path(os.devnull), None
        with writing(self._path):
            self._file = open(self._path, "a+b")  # noqa: SIM115
            if path is not None:
                self._file.truncate(size)  # the resumed run writes the lines after the checkpoint again
                self._events = Events(path.parent) if events else None

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *details: object) -> None:
        with contextlib.suppress(OSError):  # an error of writing has been reported before
            self._file.close()
            if self._events is not None:
                self._events.close()

    def write(self, **values: Any) -> None:
        """Append a line with these values."""
        with writing(self._path):
            self._file.write(json.dumps(values).encode() + b"\n")
            self._file.flush()
            if self._events is not None:
                self._events.add(values)

    def sync(self) -> int:
        """Flush all lines to the disk, and return the size of the file in bytes."""
        with writing(self._path):
            os.fsync(self._file.fileno()) if self._path != Path(os.devnull) else None
        return self._file.tell()
