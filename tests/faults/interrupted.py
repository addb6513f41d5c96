"""A small run to interrupt: its command, and whether two such runs ended the same."""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from bert_jax.checkpoint import write
from bert_jax.files import new_directory
from tests.conftest import PRIMES, random_checkpoint, write_reviews
from tests.processes import PATIENCE, one_core

HOOKS = ("compiling", "later compiling", "evaluation", "checkpoint files", "manifest", "best model")
"""Moments at which a run can ask itself to stop; in the first three the main thread hangs then, as in the compiler."""

SAVES = ("checkpoint files", "manifest", "manifest in place", "old checkpoints", "best model", "results")
"""Moments inside saves at which a run can kill itself."""


def make(directory: Path, layers: int = 1) -> list[str]:
    """Model and data of a run of 35 steps, evaluated five times; the arguments of `python -m train`."""
    with new_directory(directory / "model") as scratch:
        write(
            scratch,
            random_checkpoint(PRIMES.replace(labels=("0", "1"), num_hidden_layers=layers), directory / "source"),
        )
    write_reviews(directory, train=54, dev=21, test=13)
    options = "--epochs 5 --batch-size 8 --max-length 32 --learning-rate 3e-3 --checkpoint-every 3"
    return ["--model", str(directory / "model"), "--data", str(directory), *options.split()]


def ends(run: Path) -> dict[str, object]:
    """What must be the same, bit for bit, however often a run was interrupted."""
    newest = max((run / "checkpoints").glob("*.json"), key=lambda path: int(path.stem))
    manifest = json.loads(newest.read_text())
    from train.run.checkpoints import Checkpoints

    with Checkpoints(run / "checkpoints", print) as checkpoints:
        found = checkpoints.newest()
    assert found is not None
    return {
        "facts": manifest["facts"],
        "arrays": {name: array.tobytes() for name, array in found[1].items()},
        "log": (run / "metrics.jsonl").read_bytes(),
        "best": (run / "best" / "model.safetensors").read_bytes(),
        "results": json.loads((run / "run.json").read_text())["best"],
    }


def start(arguments: list[str], log: Path, kill: str | None = None, seed: int = 0, number: int = signal.SIGKILL) -> int:
    """Run the command in a child of this process, which must not have used JAX yet; its process id.

    The child has one core, so that its floats are the same every time. With `kill`, it ends
    itself by signal `number` at a moment of `SAVES` or `HOOKS`, which of them `seed` decides.
    """
    child = os.fork()
    if child:
        return child
    try:
        os.sched_setaffinity(0, {one_core()})
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        from bert_jax.command import run
        from train.__main__ import main

        if kill:
            first = kill in ("best model", "results", "compiling")
            which = (2, 3) if kill == "later compiling" else (1,) if first else (1, 2, 3, 4)  # with a step to save
            _arm(kill, random.Random(seed).choice(which), number, log.with_suffix(".sent"))
        run(lambda: main(arguments))
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(99)


def wait(child: int, seconds: float = PATIENCE) -> int:
    """The child's exit code, or minus the signal that ended it; AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"still running after {seconds} s")


def _arm(kill: str, which: int, number: int, sent: Path) -> None:
    """Have the process send itself signal `number` at the moment `kill`, when that comes for the `which`-th time.

    `sent` is made then.
    """
    import train.run.checkpoints
    import train.run.record
    import train.step.evaluator
    import train.step.trainer

    def send() -> None:
        sent.touch()
        os.kill(os.getpid(), number)
        if kill in HOOKS[:3]:
            time.sleep(60)

    def at(module, name: str, chosen=lambda *_: True, after: bool = False) -> None:
        original, seen = getattr(module, name), [0]

        def wrapped(*args, **kwargs):
            if not chosen(*args):
                return original(*args, **kwargs)
            seen[0] += 1
            if seen[0] == which and not after:
                send()
            result = original(*args, **kwargs)
            if seen[0] == which and after:
                send()
            return result

        setattr(module, name, wrapped)

    def to_manifest(path, *_) -> bool:
        return path.parent.name == "checkpoints"

    match kill:
        case "compiling" | "later compiling":
            at(train.step.trainer.Trainer, "__call__")
        case "evaluation":
            at(train.step.evaluator.Evaluator, "logits")
        case "checkpoint files":  # written, none of them on the disk for sure, no manifest
            at(train.run.checkpoints, "sync")
        case "manifest":
            at(train.run.checkpoints, "write_whole", to_manifest)
        case "manifest in place":
            at(train.run.checkpoints, "write_whole", to_manifest, after=True)
        case "old checkpoints":
            at(train.run.checkpoints.shutil, "rmtree")
        case "best model":  # written, not in place
            at(train.run.record.checkpoint, "write", after=True)
        case "results":
            import train.run.finish

            at(train.run.finish, "write_json")
