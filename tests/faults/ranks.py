"""Processes of a run killed, stopped and stuck: `python -m tests.faults.ranks --runs 20`.

Of two or four processes, one is killed (SIGKILL), stopped (SIGSTOP) or stuck in Python, at a random
step. All others must end by themselves within 15 s, and not with code 0; so must the stopped one once
it continues. Then the same commands must go on and finish, with each step once in the log. Prints one
line; exit code 1 if any run does otherwise.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import HURRIED, ROOT
from tests.processes import PATIENCE, address, joining, small_run

WITHIN = 15.0
"""Seconds in which all have to end."""

KINDS = ("killed", "stopped", "stuck")

STEPS = 42
"""Of a whole run: 6 epochs."""

OPTIONS = "--epochs 6 --checkpoint-every 10".split()

DISTURBED = """
import os, signal, threading
from pathlib import Path
from bert_jax.command import run
from train.run.stepping import Stepping
from train.__main__ import main
dispatch = Stepping.dispatch
def stuck(self, step, aside):
    if step >= {step} and not Path({sign!r}).exists():
        Path({sign!r}).touch()
        {how}
    return dispatch(self, step, aside)
Stepping.dispatch = stuck
run(main)
"""
"""What happens comes from within, at its step exactly: from outside, a fast machine could be at its end before."""

HOW = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "stuck": "threading.Event().wait()",
}


@contextlib.contextmanager
def started(
    command: list[str], count: int, where: str, scratch: Path, disturbed: tuple[int, str] | None = None
) -> Iterator[list[subprocess.Popen]]:
    """That many processes of one run, killed in the end; what they print is appended to files in `scratch`.

    `disturbed` is a process, and the program that it runs instead.
    """
    processes, environment = [], {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": HURRIED}
    try:
        for i in range(count):
            words = [*command, *joining(where, count=count)[i]]
            if disturbed and i == disturbed[0]:
                words[1:3] = ["-c", disturbed[1]]
            with open(scratch / f"out{i}", "ab") as out, open(scratch / f"err{i}", "ab") as err:
                processes.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=out, stderr=err))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def until(condition, seconds: float, what: str) -> float:
    """Seconds until the condition holds; AssertionError after so many."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - begun


def steps(run: Path) -> list[int]:
    """Those in the log."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return [json.loads(line)["step"] for line in lines if "grad_norm" in line and line.endswith("}")]


def disturb(
    command: list[str], run: Path, scratch: Path, count: int, kind: str, victim: int, step: int, within: float = WITHIN
) -> list[float]:
    """Have it happen at that step, and the run go on; seconds until all the others had ended."""
    command, where, sign = [*command, *OPTIONS, "--out", str(run)], address(), scratch / "disturbed"
    program = DISTURBED.format(step=step, sign=str(sign), how=HOW[kind])
    with started(command, count, where, scratch, (victim, program)) as processes:
        until(sign.exists, PATIENCE, "training")
        others = [p for i, p in enumerate(processes) if i != victim or kind == "stuck"]
        seconds = [until(lambda: all(p.poll() is not None for p in others), within, "the end of all others")]
        if kind == "stopped":
            processes[victim].send_signal(signal.SIGCONT)
            seconds.append(until(lambda: processes[victim].poll() is not None, within, "the end of the stopped one"))
        codes = [process.wait() for process in processes]
        assert 0 not in codes, codes
    saved = list((run / "checkpoints").glob("*.json"))
    with started(command, count, where, scratch) as processes:
        until(lambda: all(p.poll() is not None for p in processes), PATIENCE, "the run that goes on")
        assert [p.returncode for p in processes] == [0] * count, [p.returncode for p in processes]
    assert bool(saved) == ("resumed  at step" in (scratch / "out0").read_text())
    assert steps(run) == list(range(1, STEPS + 1))
    return seconds


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.ranks")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    # Every one of these comes before any comes twice.
    every = list(itertools.product((2, 4), KINDS, (False, True)))
    generator = random.Random(options.seed)
    generator.shuffle(every)
    slowest, wrong = [0.0], 0
    with tempfile.TemporaryDirectory() as top:
        directory = Path(top)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(directory / "compiled"))
        (directory / "input").mkdir()
        command = small_run(directory / "input")
        for number, (count, kind, first) in zip(range(options.runs), itertools.cycle(every), strict=False):
            victim, step = 0 if first else generator.randrange(1, count), generator.randrange(18, 36)
            scratch = directory / f"run{number}"
            scratch.mkdir()
            name = f"run {number}: process {victim} of {count} {kind} at step {step}"
            try:
                seconds = disturb(command, scratch / "run", scratch, count, kind, victim, step)
            except AssertionError as error:
                wrong += 1
                print(f"{name}: {error}")
                for path in sorted(scratch.glob("err*")):
                    print(path.name, path.read_text()[-3000:])
            else:
                slowest += seconds
                print(f"{name}: all ended after {' and '.join(f'{s:.1f}' for s in seconds)} s", file=sys.stderr)
    print(
        f"{options.runs} runs of 2 or 4 processes, one of them killed, stopped or stuck: {options.runs - wrong} ended "
        f"within {WITHIN:g} s (the slowest in {max(slowest):.1f} s) and then went on to a log with each step once"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
