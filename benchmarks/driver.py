"""Worker processes, kept warm and asked one at a time."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).parent.parent

# Thread pools spin for a moment after their work; the next contender should not pay for that.
_SETTLE_SECONDS = 0.3


class Entry(NamedTuple):
    """A contender: its name in the tables, what runs it (`worker.CONTENDERS`), and with what argument."""

    name: str
    kind: str
    argument: str
    python: str = sys.executable


class Failed(Exception):
    """A contender cannot go on; the message says why."""


class Worker:
    """One contender's process, started at once. Raises `Failed` where it does not come up.

    With `wait=False` it comes up by itself meanwhile, and `ready` has to be called before anything is asked.
    """

    def __init__(self, entry: Entry, directory: Path, log: IO[bytes], *, wait: bool = True):
        self.entry, self.peak_memory, self.notes = entry, 0, []
        self.versions: dict[str, str] = {}
        self.started = time.monotonic()
        self._timer: threading.Timer | None = None
        self._late = 0.0
        command = [entry.python, "-m", "benchmarks.worker", entry.kind, entry.argument, str(directory)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        try:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        except OSError as error:
            raise Failed(f"{entry.python}: {error.strerror}") from None
        if wait:
            self.ready()

    def ready(self) -> None:
        """Wait until it has come up, unless that is so already; what it runs on is then in `versions`."""
        if self.versions:
            return
        try:
            self.versions = self._answer()["result"]
        except Failed:
            self.close()
            raise

    @property
    def age(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self.started

    def ask(self, do: str, **arguments: Any) -> tuple[Any, float]:
        """Have one thing done; returns its result and the seconds it took there."""
        time.sleep(_SETTLE_SECONDS)
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed("its process has ended") from None
        found = self._answer()
        self.peak_memory, self.notes = found["peak_memory"], found["notes"]
        return found["result"], found["seconds"]

    def limit(self, seconds: float) -> None:
        """Have the process killed in so many seconds, which fails what it is asked for; the last limit counts."""

        def end() -> None:
            self._late = seconds
            self._process.kill()

        self._lift()
        self._timer = threading.Timer(seconds, end)
        self._timer.daemon = True
        self._timer.start()

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            # What it was asked last may not have reached it.
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        self._lift()
        if self._process.stdout:
            self._process.stdout.close()

    def _lift(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise Failed(
                f"took longer than {self._late:.0f} s" if self._late else f"its process ended with code {code}"
            )
        found = json.loads(line)
        if "error" in found:
            raise Failed(found["error"])
        return found


class Pool:
    """The warm workers of a run, and why those that are not in it are not. Close it by `with`."""

    def __init__(self, directory: Path, log: IO[bytes]):
        self._directory, self._log = directory, log
        self.workers: dict[str, Worker] = {}
        self.absent: dict[str, str] = {}
        self.first_seconds: dict[str, float] = {}
        self.versions: dict[str, dict[str, str]] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *details: object) -> None:
        for name in list(self.workers):
            self.close(name)

    def start(self, entry: Entry, do: str, **arguments: Any) -> None:
        """Start a contender and have it do a first thing, timed from the start of its process."""
        if entry.name in self.workers or entry.name in self.absent:
            return
        try:
            worker = self.workers[entry.name] = Worker(entry, self._directory, self._log)
            self.versions[entry.name] = worker.versions
            worker.ask(do, **arguments)
            self.first_seconds[entry.name] = worker.age
        except Failed as failure:
            self.drop(entry.name, str(failure))

    def ask(self, name: str, do: str, **arguments: Any) -> tuple[Any, float] | None:
        """`Worker.ask`; None where the contender has failed, now or before."""
        if name not in self.workers:
            return None
        try:
            return self.workers[name].ask(do, **arguments)
        except Failed as failure:
            self.drop(name, str(failure))
            return None

    def drop(self, name: str, reason: str) -> None:
        """Leave a contender out from here on, and say why."""
        self.absent[name] = reason
        self.close(name)

    def close(self, name: str) -> None:
        """End a contender that is not needed any more."""
        if worker := self.workers.pop(name, None):
            worker.close()
