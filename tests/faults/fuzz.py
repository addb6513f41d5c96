"""Mutated inputs, under limits of time and memory: `python -m tests.faults.fuzz --cases 100000`.

Exit code 1 if any fails. Each case is a function of the seed and its number (`--only N` runs one).
It must be refused by a `UserError` of one line that names the file, or be taken for what it is, as
independent readers see it. Anything else is a failure: another exception, a panic or a signal (a
crash), more than two seconds (a hang), more memory than the file and 64 MB, a file taken that breaks
its format.
"""

import argparse
import collections
import contextlib
import mmap
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bert_jax.command import printable
from bert_jax.errors import UserError
from tests.faults.fuzzed import KINDS, Broken, Kind

SECONDS, PATIENCE, MEGABYTES = 2.0, 600.0, 64
"""Of processor time for a case, as a busy machine proves nothing; of any time, for one that waits; of memory."""

BATCH = 250


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=tuple(KINDS))
    parser.add_argument("--only", type=int, metavar="N")
    options = parser.parse_args(argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would reserve memory of their own
    counts: collections.Counter[str] = collections.Counter()
    begun = time.monotonic()
    # Memory for files where there is such a place: a disk would set the pace.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        kinds = {name: make(Path(scratch) / name) for name, make in KINDS.items()}
        numbers = range(options.cases) if options.only is None else [options.only]
        todo = [numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)]
        failures = _run(todo, kinds, options.kind, options.seed, counts)
    for line in failures:
        print(line)
    taken = ", ".join(f"{name} {counts[name]:,} ({counts[f'{name} taken']:,} taken)" for name in kinds)
    bad = {name: counts[name] for name in ("crashes", "hangs", "over memory", "wrong messages", "over-acceptances")}
    print(f"{sum(counts[name] for name in kinds):,} cases in {time.monotonic() - begun:.0f} s: {taken}; {bad}")
    return 1 if failures else 0


def kind_of(number: int, seed: int, only: str | None) -> tuple[str, random.Random]:
    """Which kind a case is of, and the generator that makes it."""
    rng = random.Random(f"{seed} {number}")
    weights = (10, 2, 3, 2, 1, 1, 1)
    return only or rng.choices(list(KINDS), weights)[0], rng


def _run(
    todo: list[Any], kinds: dict[str, Kind], only: str | None, seed: int, counts: collections.Counter[str]
) -> list[str]:
    """All cases, in as many workers as there are cores; what failed, in words."""
    failures, running = [], []
    todo = todo[::-1]
    while todo or running:
        while todo and len(running) < (os.cpu_count() or 1):
            running.append(_Worker(todo.pop(), kinds, only, seed))
        for worker in list(running):
            if not worker.over():
                continue
            running.remove(worker)
            found, failed, rest = worker.result()
            counts.update(found)
            failures += failed
            if rest:
                todo.append(rest)
        time.sleep(0.01)
    return failures


class _Worker:
    """A child that goes through some cases, with a note of the one it is at."""

    def __init__(self, numbers: Any, kinds: dict[str, Kind], only: str | None, seed: int):
        self.numbers = numbers
        self._note = mmap.mmap(-1, 24)  # the case's place in the list, when it began, and at what processor time
        self._note[:] = struct.pack("<qdd", -1, 0, 0)
        self._end, end = multiprocessing.Pipe(False)
        self.child = os.fork()
        if not self.child:
            try:
                end.send(_cases(numbers, kinds, only, seed, self._note))
                os._exit(0)
            finally:
                os._exit(99)
        end.close()
        self._only, self._seed, self._sent, self._hung = only, seed, None, False

    def over(self) -> bool:
        """Whether it has ended, or has been ended for taking too long over one case."""
        if self._end.poll():
            with contextlib.suppress(EOFError):
                self._sent = self._end.recv()
        else:
            at, begun, used = struct.unpack("<qdd", self._note)
            idle = time.monotonic() - begun > PATIENCE
            if at < 0 or not (idle or _cpu_seconds(self.child) - used > SECONDS):
                return False
            os.kill(self.child, signal.SIGKILL)
            self._hung = True
        os.waitpid(self.child, 0)
        return True

    def result(self) -> tuple[collections.Counter[str], list[str], Any]:
        """Counts, failures, and the cases that are left because it did not get to its end."""
        if self._sent is not None:
            return (*self._sent, None)
        at = max(0, struct.unpack("<qdd", self._note)[0])
        number = self.numbers[at]
        name, _ = kind_of(number, self._seed, self._only)
        what = "hangs" if self._hung else "crashes"
        # What it found before is lost with it, so those cases are gone through again, without this one.
        return (
            collections.Counter({name: 1, what: 1}),
            [f"case {number} ({name}): {what}: the process did not come back"],
            [n for n in self.numbers if n != number],
        )


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cases(
    numbers: Any, kinds: dict[str, Kind], only: str | None, seed: int, note: mmap.mmap
) -> tuple[collections.Counter[str], list[str]]:
    counts, failures = collections.Counter(), []
    own = Path(tempfile.mkdtemp(dir=next(iter(kinds.values())).directory.parent))
    errors = os.open(own / "stderr", os.O_RDWR | os.O_CREAT)
    os.dup2(errors, 2)
    mine = {name: kind.here(own / name) for name, kind in kinds.items()}
    for at, number in enumerate(numbers):
        name, rng = kind_of(number, seed, only)
        note[:] = struct.pack("<qdd", at, time.monotonic(), time.process_time())
        content = mine[name].mutated(rng)
        before = os.fstat(errors).st_size
        what, reason = _one(mine[name], content)
        if os.fstat(errors).st_size != before and not reason:
            what, reason = "crashes", "something was printed on standard error"
        counts[name] += 1
        counts[f"{name} taken"] += what == "taken"
        if reason:
            counts[what] += 1
            failures.append(f"case {number} ({name}): {what}: {reason}")
    note[:] = struct.pack("<qdd", -1, 0, 0)
    shutil.rmtree(own)
    return counts, failures


def _one(kind: Kind, content: bytes) -> tuple[str, str]:
    """Try one input: what came of it, and what is wrong with that, if anything."""
    kind.path.write_bytes(content)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + len(content) + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        found = kind.read()
    except UserError as error:
        text = printable(str(error))
        wrong = "\n" in text or kind.path.name not in text
        return ("wrong messages", text[:200]) if wrong else ("refused", "")
    except MemoryError:
        return "over memory", f"more than {MEGABYTES} MB beside the file's {len(content)} bytes"
    except BaseException as error:  # a panic of Rust's is no Exception
        return "crashes", f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        kind.check(content, found)
    except Broken as broken:
        return "over-acceptances", str(broken)[:200]
    return "taken", ""


if __name__ == "__main__":
    sys.exit(main())
