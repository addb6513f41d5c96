"""Mutated inputs: row 15, and all kinds by `python -m tests.faults.fuzz`."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.faults import fuzz
from tests.faults.fuzzed import KINDS, Broken, Kind
from tests.processes import PATIENCE


def fuzzed(*arguments):
    command = [sys.executable, "-m", "tests.faults.fuzz", *map(str, arguments)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr == ""
    return found.stdout


@pytest.mark.fault(15)
@pytest.mark.slow
def test_15_a_thousand_mutated_tokenizers_are_refused_or_work():
    said = fuzzed("--cases", 1000, "--kind", "tokenizer", "--seed", 15)
    assert "tokenizer 1,000 (" in said
    assert "tokenizer 1,000 (0 taken)" not in said


@pytest.mark.slow
def test_five_thousand_mutated_files_of_all_kinds():
    said = fuzzed("--cases", 5000)
    assert said.startswith("5,000 cases in ")
    for kind in KINDS:  # each was tried, and some of each were taken, so the checks had something to check
        assert f" {kind} " in said
        assert f"{kind} 0 (" not in said
    assert " (0 taken)" not in said


# --- the harness itself: what it must not let pass


def one(tmp_path, read, check=lambda *_: None):
    kind = Kind(tmp_path, "some.json", lambda rng: b"", read, check)
    return fuzz._one(kind, b"content")[0]


def test_faults_are_found(tmp_path):
    from bert_jax.errors import UserError

    def fails(error):
        def read(path):
            raise error

        return read

    def broken(*_):
        raise Broken("not so")

    assert one(tmp_path, fails(UserError("some.json: bad"))) == "refused"
    assert one(tmp_path, fails(UserError("bad"))) == "wrong messages"
    assert one(tmp_path, fails(KeyError("x"))) == "crashes"
    assert one(tmp_path, lambda path: None) == "taken"
    assert one(tmp_path, lambda path: None, broken) == "over-acceptances"


def test_memory_is_found_in_a_process_that_holds_none_to_give(tmp_path):
    script = f"""
from pathlib import Path
from tests.faults import fuzz
from tests.faults.fuzzed import Kind
kind = Kind(Path({str(tmp_path)!r}), "some.json", lambda rng: b"", lambda path: bytes(100 * 2**20), lambda *_: None)
print(fuzz._one(kind, b"content")[0])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "over memory\n"), done.stderr


@pytest.mark.parametrize(("what", "program"), [("crashes", "os.abort()"), ("hangs", "while True: pass")])
def test_processes_that_die_or_hang_are_counted_and_the_other_cases_tried(what, program, tmp_path):
    script = f"""
import os, sys
from tests.faults import fuzz, fuzzed
def make(directory):
    directory.mkdir()
    def read(path):
        if path.read_bytes() == b"7":
            {program}
    numbers = iter(range(10**6))
    return fuzzed.Kind(directory, "some", lambda rng: str(rng.randrange(20)).encode(), read, lambda *_: None)
fuzz.SECONDS = 0.5
fuzz.KINDS = {{"some": make}}
fuzz.kind_of = lambda number, seed, only: ("some", __import__("random").Random(number))
sys.exit(fuzz.main(["--cases", "40"]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1, done.stderr
    failed = done.stdout.count("the process did not come back")
    assert failed >= 1
    assert f"'{what}': {failed}" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("40 cases in ")
