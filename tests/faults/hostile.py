"""Hostile repositories: `python -m tests.faults.hostile`. Exit code 1 if any gets its way.

Each is a directory that tries to run code, reach the network, read or write outside itself, or
exhaust the machine. A command is given it with the network off and every file access traced. It
must be refused in one line, or be harmless: then what it brought is left alone.
"""

import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from convert import huggingface
from tests.conftest import random_checkpoint
from tests.faults.attacks import ATTACKS, DATA, MODEL, Attack
from tests.faults.conftest import TINY
from tests.faults.traced import Trace, trace


def main() -> int:
    """Run every attack, print what came of it, and how many got their way."""
    succeeded = 0
    for number, each in enumerate(ATTACKS, 1):
        with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
            begun = time.monotonic()
            found, problems = run(each, Path(scratch))
            succeeded += bool(problems)
            said = found.err.strip().splitlines()[-1][:100] if found.err else "left alone"
            verdict = "; ".join(problems) or "harmless"
            print(f"{number:2} {each.name:<44} {time.monotonic() - begun:4.1f} s  {verdict}  {said!r}", flush=True)
    print(f"{len(ATTACKS)} hostile repositories, {succeeded} of them got their way")
    return 1 if succeeded else 0


def run(each: Attack, scratch: Path) -> tuple[Trace, list[str]]:
    """Give a command the repository; what came of it, and all that is wrong with that."""
    repository, bait, own, arguments = _sound(each.command, scratch)
    each.make(repository, bait)
    before = sorted(own.rglob("*"))
    found = trace(each.command, *arguments, directory=own / "trace")
    problems = []
    if (bait / "executed").exists() or found.programs:
        problems.append(f"ran code {found.programs}")
    if found.sockets:
        problems.append(f"reached for the network {found.sockets}")
    if outside := found.outside(repository, own) - _usual(each.command):
        problems.append(f"went outside: {sorted(outside)[:3]}")
    if found.code != (2 if each.refused else 0):
        problems.append(f"exit code {found.code}")
    if each.refused and found.err.count("\n") != 1:
        problems.append("not one line")
    if each.refused and sorted(own.rglob("*")) != sorted([*before, own / "trace"]):
        problems.append("something was written")
    if not (found.out + found.err).replace("\n", "").isprintable():
        problems.append("control characters were printed")
    return found, problems


def _sound(command: str, scratch: Path) -> tuple[Path, Path, Path, list[object]]:
    """A repository and a bait of sound files, a directory of one's own, and the command's arguments."""
    repository, bait, own = (scratch / name for name in ("repository", "bait", "own"))
    for directory in (repository, bait, own):
        directory.mkdir()
    start = random_checkpoint(TINY, own / "files")
    for directory in (repository, bait):
        huggingface.write(directory, start)
    (bait / "secret.json").write_text((bait / "config.json").read_text())
    if command == MODEL:
        return repository, bait, own, [repository, own / "out"]
    huggingface.write(own / "files", start)
    rows = [f"a {('good', 'bad')[i % 2]} film {i}\t{i % 2}\n" for i in range(20)]
    (repository / "train.tsv").write_text("text\tlabel\n" + "".join(rows))
    options = ["--max-length", 32, "--out", own / "run"]
    return repository, bait, own, ["--model", own / "files", "--data", repository, *options]


@cache
def _usual(command: str) -> set[str]:
    """What the command opens outside of its own places when nobody is hostile."""
    with tempfile.TemporaryDirectory(prefix="sound-") as scratch:
        repository, _, own, arguments = _sound(command, Path(scratch))
        if command == DATA:  # as far as an attack may come: to where all is read and fits
            arguments += ["--labels", "0,1,2,3", "--model-parallel", 7]
        return trace(command, *arguments, directory=own / "trace").outside(repository, own)


if __name__ == "__main__":
    sys.exit(main())
