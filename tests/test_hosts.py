"""Two real processes over loopback are one run."""

import fcntl
import json
import os
import sys

import numpy as np
import pytest

from bert_jax.errors import UserError
from tests.processes import address, joining, small_run, together
from train.config import parse

NAMES = (
    "jit 8x1, windows, streamed",
    "jit 4x2, parameters sharded, micro-batches",
    "pmap 8, windows, micro-batches, streamed",
)


@pytest.fixture(scope="module")
def found():
    command = [sys.executable, "-m", "tests.curves"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    both = together([[*command, *NAMES]] * 2, XLA_FLAGS=flags, ADDRESS=address())
    assert [code for code, _, _ in both] == [0, 0], both[0][2] + both[1][2]
    first, second = (json.loads(out.splitlines()[-1]) for _, out, _ in both)
    [(code, out, err)] = together([[*command, "one device"]])
    assert code == 0, err
    return json.loads(out.splitlines()[-1])["one device"], first, second


@pytest.mark.slow
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
    return small_run(tmp_path_factory.mktemp("hosts"))


def test_a_failure_of_the_first_process_ends_all(train, tmp_path):
    out, where = tmp_path / "run", address()
    out.mkdir()
    with (out / "lock").open("w") as lock:  # as another run would
        fcntl.flock(lock, fcntl.LOCK_EX)
        both = together([[*train, *joining(where)[i], "--out", str(out)] for i in range(2)])
    assert [code for code, _, _ in both] == [2, 2], both
    assert "in use by process" in both[0][2]
    assert "process 0 could not go on" in both[1][2]


def test_options_of_processes():
    with pytest.raises(UserError, match="--coordinator, --num-processes and --process-id are given together"):
        parse(["--coordinator", "localhost:1234"])
    with pytest.raises(UserError, match="--coordinator is localhost; expected HOST:PORT"):
        parse(["--coordinator", "localhost", "--num-processes", "2", "--process-id", "0"])
    with pytest.raises(UserError, match="--join-timeout is 0; expected at least 1"):
        parse(["--join-timeout", "0"])
    with pytest.raises(UserError, match="--process-id is 2; expected 0 to 1"):
        parse([*joining("localhost:1234")[0][:4], "--process-id", "2"])


def test_without_a_cluster_joining_is_refused(train, tmp_path):
    [(code, _, err)] = together([[*train, "--distributed", "--out", str(tmp_path / "run")]])
    assert code == 2
    assert "--distributed found no Slurm, Kubernetes, Open MPI or TPU job to join" in err.splitlines()[-1]
