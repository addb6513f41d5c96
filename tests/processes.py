"""Small runs of several processes, for tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from bert_jax.checkpoint import write
from bert_jax.files import new_directory
from tests.conftest import HURRIED, PRIMES, ROOT, random_checkpoint, write_reviews

PATIENCE = 600.0
"""Seconds after which something hangs: no machine that is only slow, or busy with other things, takes so long."""


def address() -> str:
    """A free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def one_core() -> int:
    """A core that this process may use; each worker of a test session has another one, if there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % len(cores)]


def joining(where: str, *more: str, count: int = 2) -> list[list[str]]:
    """The options of each process."""
    there = ["--coordinator", where, "--num-processes", str(count), "--process-id"]
    return [[*there, str(i), *more] for i in range(count)]


def start(command: list[str], **environment: str) -> subprocess.Popen:
    """Start a process whose outputs are read as text."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": HURRIED, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(started: list[subprocess.Popen], seconds: float = PATIENCE) -> list[tuple[int, str, str]]:
    """The code, standard output and standard error of each, once all have ended."""
    try:
        found = [process.communicate(timeout=seconds) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(started, found, strict=True)]


def together(commands: list[list[str]], **environment: str) -> list[tuple[int, str, str]]:
    """Run the commands at once; the code, standard output and standard error of each."""
    return ended([start(command, **environment, PROCESS=str(number)) for number, command in enumerate(commands)])


def small_run(directory: Path) -> list[str]:
    """The command line of a run of a model of one layer, without dropout: two epochs of seven steps."""
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = PRIMES.replace(num_hidden_layers=1, labels=("0", "1"), **dropout)
    with new_directory(directory / "model") as scratch:
        write(scratch, random_checkpoint(config, directory / "source"))
    write_reviews(directory, train=50, dev=21, test=13)
    paths = ["--model", str(directory / "model"), "--data", str(directory)]
    return [sys.executable, "-m", "train", *paths, "--epochs", "2", "--batch-size", "8", "--max-length", "32"]
