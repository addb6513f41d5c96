"""The GPU benchmark: its cases and drawn examples, its budget, and the whole command on a CPU with tiny stand-ins."""

import importlib.util
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import gpu, gpu_table, worker
from benchmarks.contenders import ours
from benchmarks.driver import Entry, Failed, Worker
from benchmarks.gpu_cases import ATTENTION, CASES, CHECKPOINT, INPUTS, Case, make_job, sst2_lengths
from bert_jax import checkpoint, files
from bert_jax.checkpoint import Checkpoint
from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from tests.conftest import ROOT, VOCABULARY, random_checkpoint
from tests.processes import PATIENCE

BY_NAME = {case.name: case for case in CASES}
SMALL = BY_NAME["base sst2 32 bfloat16 ours"]

# What a machine that has jax and torch need not have: imports of these fail, and so does every connection.
BARE = """
import socket, sys
for name in ("datasets", "tyro", "beartype", "matplotlib", "jinja2", "tensorboardX", "pytest"):
    sys.modules[name] = None
def refuse(self, address, *more):
    raise OSError(f"no network here, not even for {address}")
socket.socket.connect = refuse
"""


def command(tmp_path, *options, minutes="9"):
    """Run the command where only what the benchmark may need can be imported; its output and its JSON."""
    (tmp_path / "sitecustomize.py").write_text(BARE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    out = tmp_path / "found" / "gpu.json"
    arguments = ["-m", "benchmarks.gpu", "--json", str(out), "--minutes", minutes, "--seconds", "0.1", *options]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    sys.stderr.write(done.stdout + done.stderr)  # shown where a test fails
    return done, json.loads(out.read_text()) if out.exists() else None


# --- cases


def test_cases_are_what_was_asked_for():
    assert len(BY_NAME) == len(CASES)
    assert {case.model for case in CASES} == {"base", "large", "minilm", CHECKPOINT}
    assert {case.inputs for case in CASES} == {"sst2", "128", "512", CHECKPOINT}
    assert {case.dtype for case in CASES} == {"float32", "bfloat16"}
    assert {32, 1024} <= {case.batch_size for case in CASES}
    assert sum(case.seconds for case in CASES[:7]) < 450
    for case in CASES:  # beside each of torch's stands ours of the same work
        if case.kind == "torch":
            assert f"{case.name.partition(' torch')[0]} ours" in BY_NAME


def test_the_table_asks_for_cases_that_there_are():
    asked = [row["why"].rsplit(": ", 1) for row in gpu_table.table(gpu_table.empty("", tiny=False))]
    names = {name for why, _ in asked for name in why.split(": not asked for; ")}
    assert names <= set(BY_NAME)
    assert len(asked) > 10


def test_drawn_lengths_are_like_those_of_sst2():
    inputs = INPUTS["sst2"]
    lengths = sst2_lengths(inputs.examples, seed=0)
    assert lengths.mean() == pytest.approx(897_039 / 67_349, rel=0.01)
    assert (lengths.min(), lengths.max()) == (3, 66)
    batches = lengths[: len(lengths) // 32 * 32].reshape(-1, 32)
    assert lengths.sum() / (batches.max(1).sum() * 32) == pytest.approx(0.33, abs=0.01)
    assert np.array_equal(lengths, sst2_lengths(inputs.examples, seed=0))
    assert 1280 * lengths.mean() > 16_000


def test_a_job_needs_no_checkpoint(tmp_path):
    job = make_job(tmp_path / "job", SMALL, True, 0, None)
    examples = job.examples("train")
    assert len(examples) == 67_349 // 64
    assert all(examples[i][0] == 101 and examples[i][-1] == 102 for i in (0, 7, len(examples) - 1))
    contender = ours.Contender(job, "packed")
    (count,) = contender.batches.shapes.row_counts
    # One shape takes every step of the epoch, and no smaller one would.
    starts = range(0, contender.batches.steps_per_epoch, contender.batches.window)
    needed = [contender.batches.plan(first, contender.batches.window_at(first))[1] for first in starts]
    assert set(needed) == {count}
    assert any(
        count == len(contender.batches._placed(first, contender.batches.shapes.row_length)[0]) for first in starts
    )
    contender.prepare(0, 4)
    assert contender.train(0, 4) >= examples.lengths[np.concatenate([examples.indices(i) for i in range(4)])].sum()
    assert ours.classifier(job).bert.dtype.name == "bfloat16"


# --- the budget


def test_a_worker_past_its_limit_is_killed(tmp_path):
    (tmp_path / "job.json").write_text("{}")
    process = Worker(Entry("x", "product", ""), tmp_path, sys.stderr.buffer, wait=False)
    process.ready()
    process.ready()  # again, as for a process that came up while another was measured
    assert process.versions.keys() >= {"jax", "device"}
    process.limit(1.0)
    with pytest.raises(Failed, match="took longer than 1 s"):
        process.ask("rate", seconds=2 * PATIENCE)
    process.kill()


def test_what_does_not_fit_is_named(tmp_path):
    done, found = command(tmp_path, "--tiny", minutes="0.02")
    assert done.returncode == 0, done.stderr
    assert found["cases"] == {}
    assert set(BY_NAME) <= set(found["not_run"])
    assert "were left" in found["not_run"][SMALL.name]
    assert all("not run" in done.stdout and name in done.stdout for name in BY_NAME)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "somewhere"], "--checkpoint and --data go together"),
        (["--checkpoint", "nowhere", "--data", "nothing"], "nowhere: no such directory"),
        (["--cases", "elephant"], "--cases elephant: no such case"),
        (["--repeats", "0"], "at least 1"),
    ],
)
def test_bad_options(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        gpu.main([*options, "--json", str(tmp_path / "gpu.json")])


def test_without_a_gpu_it_says_so(tmp_path):
    done, _ = command(tmp_path, "--cases", SMALL.name)
    assert done.returncode == 2
    assert done.stderr == "error: jax sees no GPU here, only a CPU; with --tiny, small stand-ins are run on it\n"


# --- the whole command


@pytest.mark.slow
def test_ours_and_the_kernels(tmp_path):
    (tmp_path / "empty").mkdir()
    broken = ["--checkpoint", str(tmp_path / "empty"), "--data", str(tmp_path / "empty")]
    names = f"{CHECKPOINT},{SMALL.name},{ATTENTION.name}"
    done, found = command(tmp_path, "--tiny", "--cases", names, "--repeats", "2", *broken)
    assert done.returncode == 0, done.stderr
    # What fails says why, and the others go on.
    ((name, reason),) = found["not_run"].items()
    assert name.startswith(CHECKPOINT)
    assert "no train.tsv" in reason
    assert found["device"] == "cpu"
    assert set(found["products"]) == {"bfloat16", "float32"}
    entry = found["cases"][SMALL.name]
    assert len(entry["seconds"]) == 2
    assert 0 < entry["share_of_peak"] < entry["share_of_peak_with_padding"] < 1
    assert entry["epoch_seconds"] == pytest.approx(entry["epoch_steps"] * entry["step_seconds"])
    rows = found["cases"][ATTENTION.name]["rows"]
    assert set(rows) == {"packed rows of 128", "rows of 512"}
    for kernels in rows.values():
        assert set(kernels["seconds"]) == {"plain", "fused", "plain whole", "fused whole", "jax xla"}
        assert set(kernels["failed"]) == {"jax cudnn"}  # there is none on a CPU
        for difference in kernels["differences"].values():
            assert 0 < difference["fused"] < 2 * difference["plain"] < 0.1
    assert "tiny stand-ins" in done.stdout
    assert not (tmp_path / "found" / "gpu.part").exists()
    assert not list((tmp_path / "found").glob(".*"))  # nor what a file is written to before it takes its name


def test_windows_as_loops_of_known_length(tmp_path):
    names = SMALL.name, "base sst2 32 bfloat16 scanned", "base sst2 32 bfloat16 scanned by 4"
    assert [BY_NAME[name].scan for name in names] == [None, 1, 4]
    done, found = command(tmp_path, "--tiny", "--cases", ",".join(names), "--repeats", "1")
    assert done.returncode == 0, done.stderr
    assert set(found["cases"]) == set(names)
    rows = [row for row in found["table"] if "times the steps/s of a while loop" in row["what"]]
    loop = found["cases"][SMALL.name]["step_seconds"]
    for row, name in zip(rows, names[1:], strict=True):
        assert float(row["answer"]) == pytest.approx(loop / found["cases"][name]["step_seconds"], abs=0.006)
    job = make_job(tmp_path / "job", BY_NAME[names[2]], True, 0, None)
    contender = ours.Contender(job, "packed")
    assert contender.batches.window == 4
    assert contender._trainer.scan == 4


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
@pytest.mark.slow
def test_beside_torch(tmp_path):
    names = SMALL.name, "base sst2 32 bfloat16 torch longest", "base sst2 512 float32 torch longest"
    done, found = command(tmp_path, "--tiny", "--cases", ",".join(names), "--repeats", "2")
    assert done.returncode == 0, done.stderr
    assert set(found["cases"]) == set(names)
    assert found["versions"].keys() >= {"jax", "torch", "transformers"}
    mine, theirs = (found["cases"][name]["step_seconds"] for name in names[:2])
    row = next(row for row in found["table"] if "torch, eager, padded" in row["what"])
    assert float(row["answer"]) == pytest.approx(theirs / mine, abs=0.006)


@pytest.mark.slow
def test_accuracy_of_a_checkpoint_of_16_bits(tmp_path):
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=128,
    )
    start = random_checkpoint(config, tmp_path / "files")
    halves = {name: array.astype(np.float16) for name, array in start.tensors.items()}
    with files.new_directory(tmp_path / "model") as scratch:
        checkpoint.write(scratch, Checkpoint(config, halves, start.files, start.metadata))
    for name, count in (("train", 96), ("dev", 10)):
        rows = [f"a {'very ' * (i % 7)}{('good', 'bad')[i % 2]} film\t{i % 2}" for i in range(count)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    options = ["--checkpoint", str(tmp_path / "model"), "--data", str(tmp_path), "--cases", CHECKPOINT]
    done, found = command(tmp_path, "--tiny", *options)
    assert done.returncode == 0, done.stderr
    (entry,) = found["cases"].values()
    assert entry["epoch_measured"] is True
    assert entry["dev_accuracy"] * 10 == pytest.approx(round(entry["dev_accuracy"] * 10))


@pytest.mark.slow
def test_a_run_that_is_cut_off_leaves_what_it_found(tmp_path):
    out = tmp_path / "gpu.json"
    options = ["--tiny", "--seconds", "0.1", "--repeats", "1", "--json", str(out)]
    names = f"{SMALL.name},base sst2 256 bfloat16 ours"
    cut = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu", *options, "--cases", names], cwd=ROOT)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and cut.poll() is None:
        if out.exists() and json.loads(out.read_text())["cases"]:
            break
        time.sleep(0.05)
    assert cut.poll() is None
    cut.kill()
    cut.wait()
    assert set(json.loads(out.read_text())["cases"]) == {SMALL.name}


def test_memory_is_known_where_no_peak_is_kept(monkeypatch):
    monkeypatch.setattr(worker.Path, "read_text", lambda path: "VmRSS:  5 kB\n")
    assert worker.peak_memory() > 2**20


def test_a_line_says_what_was_cut_short():
    case = Case("ours", "ours", "packed", "base", "sst2", 32, "bfloat16", 1)
    entry = {"case": {"name": case.name}, "step_seconds": 0.5, "useful_tokens_per_second": 1000.0, "padding": 0.1}
    entry |= {"epoch_measured": False, "epoch_seconds": 3.0, "prepare_seconds": 2.0, "notes": ["rows of 96"]}
    words = gpu_table.line({**entry, "cut_short": "after 3 repeats: took longer than 9 s"})
    assert "2.00 steps/s" in words
    assert "after 3 repeats" in words
