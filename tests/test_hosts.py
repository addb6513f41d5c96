"""Two real processes over loopback are one run."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from bert_jax.checkpoint import write
from bert_jax.errors import UserError
from bert_jax.files import new_directory
from tests.conftest import PRIMES, ROOT, random_checkpoint
from train.config import parse

NAMES = (
    "jit 8x1, windows, streamed",
    "jit 4x2, parameters sharded, micro-batches",
    "pmap 8, windows, micro-batches, streamed",
)


def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def together(commands, **environment):
    """Run the commands at once; the code, standard output and standard error of each."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "PROCESS": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, command in enumerate(commands)
    ]
    try:
        found = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(started, found, strict=True)]


@pytest.fixture(scope="module")
def found():
    command = [sys.executable, "-m", "tests.curves"]
    flags = "--xla_force_host_platform_device_count="
    both = together([[*command, *NAMES]] * 2, XLA_FLAGS=f"{flags}4", ADDRESS=address())
    assert [code for code, _, _ in both] == [0, 0], both[0][2] + both[1][2]
    first, second = (json.loads(out.splitlines()[-1]) for _, out, _ in both)
    [(code, out, err)] = together([[*command, "one device"]])
    assert code == 0, err
    return json.loads(out.splitlines()[-1])["one device"], first, second


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_have_the_curve_and_evaluation_of_one_device(found, name):
    expected, first, second = found
    assert first[name] == second[name]
    np.testing.assert_allclose(first[name]["curve"], expected["curve"], atol=1e-5)
    assert first[name]["evaluation"]["confusion"] == expected["evaluation"]["confusion"]
    assert first[name]["evaluation"]["loss"] == pytest.approx(expected["evaluation"]["loss"], abs=1e-5)


# --- the command


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """The command line of a small run without dropout."""
    directory = tmp_path_factory.mktemp("hosts")
    config = PRIMES.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, labels=("0", "1"))
    with new_directory(directory / "model") as scratch:
        write(scratch, random_checkpoint(config, directory / "source"))
    for name, count in (("train", 50), ("dev", 21), ("test", 13)):
        lines = [f"the {'very ' * (i % 7)}{('bad', 'good')[i % 2]} film\t{i % 2}\n" for i in range(count)]
        (directory / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    paths = ["--model", str(directory / "model"), "--data", str(directory)]
    return [sys.executable, "-m", "train", *paths, "--epochs", "2", "--batch-size", "8", "--max-length", "32"]


def joining(where, *more):
    return [["--coordinator", where, "--num-processes", "2", "--process-id", str(i), *more] for i in range(2)]


def test_the_command_runs_as_two_processes_of_which_one_writes(train, tmp_path):
    outs = [tmp_path / name for name in ("first", "second", "alone")]
    where = address()
    both = together([[*train, *joining(where)[i], "--out", str(outs[i])] for i in range(2)])
    [alone] = together([[*train, "--out", str(outs[2])]])
    assert [code for code, _, _ in (*both, alone)] == [0, 0, 0], both[0][2] + both[1][2] + alone[2]
    assert "2 x 1 (data x model)" in both[0][1]
    # The library behind the CPU's collectives greets on standard output.
    assert [line for line in both[1][1].splitlines() if not line.startswith("[Gloo]")] == []
    assert not outs[1].exists()
    logs = [[json.loads(line) for line in (out / "metrics.jsonl").open()] for out in (outs[0], outs[2])]
    assert len(logs[0]) == len(logs[1]) == 2 * 7 + 2
    for ours, theirs in zip(*logs, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours.get("confusion") == theirs.get("confusion")
    records = [json.loads((out / "run.json").read_text()) for out in (outs[0], outs[2])]
    assert records[0]["device"]["processes"] == 2
    assert records[0]["best"]["test"]["confusion"] == records[1]["best"]["test"]["confusion"]


def test_processes_that_disagree_are_refused(train, tmp_path):
    where = address()
    commands = [[*train, *joining(where)[i], "--out", str(tmp_path / "run"), "--seed", str(i)] for i in range(2)]
    for code, _, err in together(commands):
        assert code == 2, err
        assert "error: process 1 has other options than process 0; start all with the same options" in err
    assert not (tmp_path / "run").exists()


def test_a_failure_of_the_first_process_ends_all(train, tmp_path):
    (tmp_path / "file").write_text("in the way")
    where = address()
    both = together([[*train, *joining(where)[i], "--out", str(tmp_path / "file" / "run")] for i in range(2)])
    assert [code for code, _, _ in both] == [2, 2], both
    assert "cannot write there" in both[0][2]
    assert "process 0 could not go on" in both[1][2]


def test_options_of_processes():
    with pytest.raises(UserError, match="--coordinator, --num-processes and --process-id are given together"):
        parse(["--coordinator", "localhost:1234"])
    with pytest.raises(UserError, match="--coordinator is localhost; expected HOST:PORT"):
        parse(["--coordinator", "localhost", "--num-processes", "2", "--process-id", "0"])
    with pytest.raises(UserError, match="--process-id is 2; expected 0 to 1"):
        parse([*joining("localhost:1234")[0][:4], "--process-id", "2"])


def test_without_a_cluster_joining_is_refused(train, tmp_path):
    [(code, _, err)] = together([[*train, "--distributed", "--out", str(tmp_path / "run")]])
    assert code == 2
    assert "--distributed found no Slurm, Kubernetes, Open MPI or TPU job to join" in err.splitlines()[-1]


@pytest.mark.fault(47)
def test_47_a_signal_to_one_process_stops_all_at_the_same_step_and_both_go_on(train, tmp_path):
    where, log = address(), tmp_path / "run" / "metrics.jsonl"
    long = [*train, "--epochs", "200", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen([*long, *joining(where)[i]], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    try:
        deadline = time.monotonic() + 120
        while not log.exists() or log.stat().st_size == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started[1].terminate()
        first, _ = [process.communicate(timeout=60)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [143, 143]
    step = int(first.split("SIGTERM: saved at step ")[1].split(";")[0])
    assert step < 7 * 200
    where = address()
    epochs = str(step // 7 + 1)
    both = together([[*long, "--epochs", epochs, *joining(where)[i]] for i in range(2)])
    assert [code for code, _, _ in both] == [0, 0], both[0][2] + both[1][2]
    assert f"resumed  at step {step} of {7 * int(epochs)}" in both[0][1]
    steps = [json.loads(line)["step"] for line in log.open() if "grad_norm" in line]
    assert steps == list(range(1, 7 * int(epochs) + 1))
