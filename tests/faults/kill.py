"""Real signals: `python -m tests.faults.kill --runs 200`. Prints what came of them; exit code 1 if any run differs.

Each run is killed up to three times, at random moments or inside saves, goes on by the same command
and must end as one that nobody disturbed: parameters, optimizer, log, best model, results. With
`--signal TERM` it is asked to stop instead, once, and must do so within 10 s (`--within`), all its steps saved.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.interrupted import HOOKS, SAVES, ends, make, start, wait


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--within", type=float, default=10.0, metavar="SECONDS")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory / "compiled")
        os.environ["JAX_PLATFORMS"] = "cpu"
        arguments, log = make(directory / "input"), directory / "log"
        import train.run.loop  # noqa: F401  before the children are made, which then need not import it

        expected, seconds = [], 0.0
        for number in range(2):  # the second one is the control, and finds the programs compiled
            begun = time.monotonic()
            assert wait(start([*arguments, "--out", str(directory / f"control{number}")], log)) == 0, log.read_text()
            seconds = time.monotonic() - begun
            expected.append(directory / f"control{number}")
        # Reading checkpoints starts JAX's threads, so it is left to children, too.
        term = options.signal == "TERM"
        kills = dict.fromkeys(("anywhere", *(HOOKS if term else SAVES)), 0)
        slowest = 0.0
        wrong = [] if _same(*expected) else ["control"]
        for number in range(options.runs):
            generator, run = random.Random(f"{options.seed} {number}"), directory / f"run{number}"
            log = directory / f"log{number}"
            command = [*arguments, "--out", str(run)]
            if term:
                taken = _stopped(command, run, log, seconds, generator, kills)
                assert taken < options.within, f"{taken:.1f} s: {log.read_text()}"
                slowest = max(slowest, taken)
                code = wait(start(command, log))
            else:
                code = _ended(command, log, seconds, generator, kills)
            if code != 0 or not _same(expected[0], run):
                wrong.append(str(number))
                print(f"run {number} ended with code {code}; what it printed:\n{log.read_text()}")
            shutil.rmtree(run)
        inside = sum(kills.values()) - kills["anywhere"]
        if term:
            print(f"{options.runs} runs, {sum(kills.values())} answered, the slowest after {slowest:.1f} s: {kills}")
        else:
            print(f"{options.runs} runs, {sum(kills.values())} kills, {inside} of them inside saves: {kills}")
        print(f"ended otherwise than undisturbed: {len(wrong)} {wrong if wrong else ''}")
    return 1 if wrong else 0


def _ended(arguments: list[str], log: Path, seconds: float, generator: random.Random, kills: dict[str, int]) -> int:
    """Start the run, up to three times with a kill on the way, until it ends by itself; its exit code then."""
    for _ in range(3):
        if generator.random() < 0.5:
            where = generator.choice(SAVES)
            code = wait(start(arguments, log, where, generator.randrange(10**6)))
        else:
            where, child = "anywhere", start(arguments, log)
            time.sleep(generator.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            code = wait(child)
        if code != -signal.SIGKILL:
            return code
        kills[where] += 1
    return wait(start(arguments, log))


def _stopped(
    arguments: list[str], run: Path, log: Path, seconds: float, generator: random.Random, kills: dict[str, int]
) -> float:
    """Start the run and ask it to stop on the way; the seconds it took. AssertionError where a step is lost."""
    where = generator.choice(HOOKS) if generator.random() < 0.5 else "anywhere"
    if where == "anywhere":
        child = start(arguments, log)
        time.sleep(generator.uniform(0, seconds))
        sent = time.time()
        os.kill(child, signal.SIGTERM)
        code = wait(child)
    else:
        code = wait(start(arguments, log, where, generator.randrange(10**6), signal.SIGTERM))
        sent = log.with_suffix(".sent").stat().st_mtime
    taken, said = time.time() - sent, log.read_text()
    log_of_run = run / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in log_of_run.open()] if log_of_run.exists() else []
    if code == -signal.SIGTERM:  # the run had not begun
        assert not steps, said
    elif code == 128 + signal.SIGTERM and "SIGTERM: " in said:
        saved = "0" if "SIGTERM: no step was done" in said else said.split("SIGTERM: saved at step ")[1].split(";")[0]
        assert int(saved) == max(steps, default=0), said
    else:  # nothing was done, or all
        assert code == 0 or (code == 128 + signal.SIGTERM and max(steps, default=0) in (0, 35)), said
    kills[where] += 1
    return taken


def _same(one: Path, other: Path) -> bool:
    """Whether two runs ended the same."""
    child = os.fork()
    if not child:
        try:
            a, b = ends(one), ends(other)
            for name in a:
                if a[name] != b[name]:
                    print(f"{other.name}: {name} differs", file=sys.stderr, flush=True)
            os._exit(a != b)
        finally:
            os._exit(99)
    return wait(child) == 0


if __name__ == "__main__":
    sys.exit(main())
