"""A run's directory: whose it is, whether the run in it goes on or another begins, its log."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bert_jax.errors import UserError
from bert_jax.files import read_json, write_json

from .config import TrainConfig
from .events import Events
from .metrics import ALL_METRICS

LOCK = "lock"
_OURS = frozenset({LOCK, ".run.json.new"})  # what a run killed before its run.json was there leaves

MAY_CHANGE = frozenset(
    "out run_directory restart epochs checkpoint_every parallel model_parallel shard_parameters "
    "distributed coordinator num_processes process_id join_timeout patience tensorboard inspect".split()
)
"""Options that may differ when a run goes on: how long, how often it saves, on which devices.

Model and data may lie elsewhere; what is in them is compared by hash.
"""


def finished(config: TrainConfig) -> str | None:
    """What to say where the run has been done already, and None where there is something to do.

    Raises `UserError` where the directory is not a run's, or that of a run with other options.
    """
    out = config.run_directory
    if not os.path.exists(out) or (out.is_dir() and not set(os.listdir(out)) - _OURS):
        return None
    if not (out / "run.json").is_file():
        raise UserError(f"{out}: exists and is not a run (no run.json); choose another --out")
    record = read_json(out / "run.json")
    if config.restart or record.get("clearing"):
        return None
    _refuse_others(out, record.get("config", {}), vars(config))
    if "best" not in record:
        return None
    dev = record["best"]["dev"]
    figure = next((name for name in ALL_METRICS if name in dev), "loss")
    return f"{out}: this run is finished (dev {figure.replace('_', ' ')} {dev[figure]:.4f}); --restart starts it over"


def check_writable(out: Path) -> None:
    """Raise `UserError` where `out` could not be made or written; nothing is made."""
    place = Path(os.path.abspath(out))
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{out}: {place} is not a directory; choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{out}: cannot write there: {place} is read-only; choose another --out")


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

    `record` is what will be in run.json. An earlier, unfinished run there goes on (`resumes`) unless
    `restart` is true. Raises `UserError` where another process holds it, where it cannot be
    written, or where `record` has other options, model or data than the run there.
    """

    def __init__(self, path: Path, record: dict[str, Any], *, restart: bool = False):
        self.path, self.resumes = path, False
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
            _refuse_others(self.path, before.get("config", {}), record["config"])
            for name, what in (("source", "the model"), ("data", "the data")):
                if _hashes(before.get(name, {})) != _hashes(record[name]):
                    raise UserError(
                        f"{self.path}: the run there had other contents of {what}; choose another --out or --restart"
                    )
            self.resumes = True
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


def _refuse_others(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(now, default=str))
    names = (set(before) | set(now)) - MAY_CHANGE - {"model", "data", "revision"}
    different = [
        f"--{n.replace('_', '-')} {before.get(n)}, now {now.get(n)}" for n in names if before.get(n) != now.get(n)
    ]
    if different:
        raise UserError(
            f"{out}: the run there has {'; '.join(sorted(different))}; choose another --out, or --restart starts over"
        )


def _hashes(facts: Mapping[str, Any]) -> list[str]:
    """The SHA-256 sums among some facts, in order, whatever the files are called."""
    return sorted(value for value in facts.values() if isinstance(value, str) and len(value) == 64)
