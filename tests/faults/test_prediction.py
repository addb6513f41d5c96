"""Faults of prediction: rows 50 to 54; row 55 is in test_writing.py."""

import json
import shlex
import subprocess
import sys

import pytest

from bert_jax import checkpoint, files
from bert_jax.long_texts import Cutting
from tests.conftest import ROOT
from tests.faults.conftest import command
from tests.processes import PATIENCE


def shell(line, **options):
    return subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, timeout=PATIENCE, **options)


@pytest.fixture
def predict(classifier):
    """The command for the shell."""
    return shlex.join([sys.executable, "-m", "bert_jax", "--model", str(classifier)])


@pytest.mark.fault(50)
def test_50_n_lines_in_n_rows_out_in_order(classifier):
    texts = ["" if i % 7 == 0 else f"film {'very ' * (i % 30)}{i}" for i in range(1102)]
    for ending in ("", "\n"):  # with and without a newline after the last line
        done = command("bert_jax", "--model", classifier, input=("\n".join(texts) + ending).encode())
        assert done.returncode == 0, done.stderr.decode()
        rows = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
        assert [row["text"] for row in rows] == texts
        assert all(row["label"] in ("negative", "positive") for row in rows)


@pytest.mark.fault(53)
def test_53_standard_input_closed(classifier, predict, without_jax):
    done = shell(f"{predict} <&-", env=without_jax)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode() == "error: standard input is closed; give texts, or --input FILE\n"


@pytest.mark.fault(53)
def test_53_empty_standard_input(classifier):
    done = command("bert_jax", "--model", classifier, input=b"")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.fault(54)
@pytest.mark.parametrize("reader", ["head -n 1", "true"])
def test_54_reader_gone(reader, predict, tmp_path):
    (tmp_path / "in.txt").write_text("a good film\n" * 5000)
    done = shell(f"{{ {predict} --input {tmp_path}/in.txt; echo $? >{tmp_path}/code; }} | {reader}")
    assert done.stderr == b""
    assert (tmp_path / "code").read_text() == "141\n"
    assert len(done.stdout.splitlines()) == (1 if reader.startswith("head") else 0)


@pytest.mark.fault(51)
def test_51_a_long_line_is_cut_and_flagged_in_bounded_memory(classifier):
    def peak(text):
        words = [sys.executable, "-c", PEAK, "--model", str(classifier)]
        done = subprocess.run(words, input=text, cwd=ROOT, capture_output=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout), int(done.stderr)

    short, usual = peak(b"a good film\n")
    long, most = peak(b"very good " * 100_000)
    assert "truncated" not in short
    assert long["truncated"]
    assert long["text"] == ("very good " * 100_000)
    assert most - usual < 300 * 2**10, "kilobytes for a line of 1 MB"


PEAK = """
import resource, sys
from bert_jax.__main__ import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def test_a_pair_needs_five_tokens(classifier, refused):
    for length, long_texts in ((3, "windows"), (4, "head")):
        options = ("--pairs", "--max-length", length, "--long-texts", long_texts)
        said = f"--max-length is {length}; this model takes 5 to "
        refused("bert_jax", "--model", classifier, *options, "a good film", "very bad", fragments=[said])


def test_a_stride_that_no_longer_fits_is_said_in_a_line(classifier, tmp_path):
    found = checkpoint.read(classifier)
    found.metadata.update(Cutting(32, "windows", 20).said)
    with files.new_directory(tmp_path / "model") as scratch:
        checkpoint.write(scratch, found)
    done = command("bert_jax", "--model", tmp_path / "model", "--max-length", 12, "a good film " * 8)
    assert done.returncode == 0
    assert done.stderr.decode() == (
        "warning: windows began 20 tokens apart in training, and 12 tokens at once leave 10 to a window: "
        "they begin 5 apart\n"
    )


@pytest.mark.fault(52)
def test_52_a_nul_byte_is_kept_and_escaped(classifier):
    done = command("bert_jax", "--model", classifier, input=b"a \0 film\n\0\n")
    assert done.returncode == 0, done.stderr.decode()
    assert b"\0" not in done.stdout
    assert b"\\u0000" in done.stdout
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["a \0 film", "\0"]


@pytest.mark.fault(52)
def test_52_bad_utf_8_is_said_with_its_line(classifier):
    done = command("bert_jax", "--model", classifier, input=b"fine\ncaf\xe9\nfine\n")
    assert done.returncode == 2
    assert done.stderr.decode() == "error: standard input: line 2 is not UTF-8 at its byte 3\n"
