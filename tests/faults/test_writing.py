"""What is written appears whole or not at all, whenever the writer is killed: rows 9 and 55."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from bert_jax.files import sha256
from convert import huggingface
from tests.conftest import ROOT, random_checkpoint
from tests.faults.conftest import TINY, command
from tests.faults.interrupted import wait
from tests.processes import PATIENCE


def hashes(directory):
    return {str(path.relative_to(directory)): sha256(path) for path in directory.rglob("*") if path.is_file()}


def converting(source, out):
    """A child that converts; forked, so that it is at work at once."""
    child = os.fork()
    if not child:
        try:
            from convert.__main__ import main

            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            main([str(source), str(out), "--overwrite"])
            os._exit(0)
        finally:
            os._exit(99)
    return child


@pytest.mark.fault(9)
@pytest.mark.slow
def test_09_a_conversion_killed_at_any_moment_leaves_the_old_output_or_the_new(tmp_path):
    wide = TINY.replace(hidden_size=256, intermediate_size=1024, num_hidden_layers=4)  # some time goes into writing
    sources = [tmp_path / "first", tmp_path / "second"]
    for number, source in enumerate(sources):
        source.mkdir()
        huggingface.write(source, random_checkpoint(wide, tmp_path / "files", seed=number))
    out, whole = tmp_path / "place" / "out", []
    for source in sources:
        begun = time.monotonic()
        assert wait(converting(source, out)) == 0
        seconds = time.monotonic() - begun
        whole.append(hashes(out))
    generator, killed, number, seen = random.Random(0), 0, 0, set()
    while killed < 50:
        number += 1
        assert number < 500
        child = converting(sources[number % 2], out)
        if number % 7:  # the seventh ends, so that the old output is now one and now the other at any speed
            time.sleep(generator.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        killed += wait(child) == -signal.SIGKILL
        found = hashes(out)
        assert found in whole, f"half of a conversion after kill {number}"
        seen.add(whole.index(found))
    assert seen == {0, 1}
    # What the killed ones left beside it goes with the next conversion, once that is sure to be nobody's.
    left = [path for path in out.parent.iterdir() if path != out]
    assert left
    assert all(path.name.startswith(".out.partial-") for path in left)
    for path in left:
        os.utime(path, (0, 0))
    assert wait(converting(sources[0], out)) == 0
    assert os.listdir(out.parent) == ["out"]


def test_a_scratch_directory_in_use_is_left_alone_however_old_and_a_young_one_too(tmp_path):
    from bert_jax.files import new_directory

    (tmp_path / ".out.partial-young").mkdir()
    with new_directory(tmp_path / "out") as scratch:
        (scratch / "mine").write_text("1")
        os.utime(scratch, (0, 0))
        with new_directory(tmp_path / "out") as other:
            (other / "theirs").write_text("2")
        assert (scratch / "mine").read_text() == "1"
        (tmp_path / "out" / "theirs").unlink()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.partial-young", "out"]


@pytest.mark.fault(55)
def test_55_an_output_file_that_exists_is_refused(classifier, refused, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    arguments = ["--model", classifier, "--output", out, "a film"]
    refused("bert_jax", *arguments, fragments=[out, "exists", "--overwrite"])
    refused("bert_jax", "--model", classifier, "--output", tmp_path, "a film", fragments=["is a directory"])
    assert out.read_text() == "precious"
    assert command("bert_jax", *arguments, "--overwrite").returncode == 0
    assert json.loads(out.read_text())["text"] == "a film"
    assert out.stat().st_mode & 0o777 == 0o644


@pytest.mark.fault(55)
def test_55_predictions_killed_half_way_leave_the_old_file(classifier, tmp_path):
    out = tmp_path / "place" / "out.jsonl"
    out.parent.mkdir()
    out.write_text("old")
    words = [sys.executable, "-m", "bert_jax", "--model", str(classifier), "--output", str(out), "--overwrite"]
    started = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE)
    assert started.stdin
    started.stdin.write(b"a good film\n" * 20_000)
    started.stdin.flush()
    deadline = time.monotonic() + PATIENCE
    while not [path for path in out.parent.glob(".*/out.jsonl") if path.stat().st_size]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.kill()
    started.wait()
    assert out.read_text() == "old"
