"""Faults of several devices, simulated ones: rows 41 to 43."""

import json
import signal
import sys

import pytest

from tests.conftest import HURRIED
from tests.faults.dealing import SAVERS
from tests.faults.ranks import steps as steps_of
from tests.faults.ranks import until
from tests.processes import PATIENCE, ended, small_run, start, together


def devices(count):
    return f"{HURRIED} --xla_force_host_platform_device_count={count}"


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("devices"))


def log(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def one_device(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    [(code, text, err)] = together([[*train, "--epochs", "1", "--batch-size", "10", "--out", str(out)]])
    assert code == 0, err
    assert "padded" not in text
    return log(out)


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            [],
            "10 examples over 4 devices: 2 have 3, 2 have 2 (8 or 12 would divide evenly)",
        ),
        (
            ["--parallel", "pmap", "--accumulate", "3"],
            "10 examples over 12 parts: 10 have 1, 2 have 0 (12 would divide evenly)",
        ),
    ],
    ids=["jit", "pmap"],
)
def test_41_a_batch_that_the_devices_do_not_divide_is_padded_and_the_run_says_so(
    train, one_device, tmp_path, more, said
):
    command = [*train, "--epochs", "1", "--batch-size", "10", "--out", str(tmp_path / "run"), *more]
    [(code, out, err)] = together([command], XLA_FLAGS=devices(4))
    assert code == 0, err
    assert f"padded {said}" in " ".join(out.split())
    assert len(log(tmp_path / "run")) == len(one_device) == 5 + 1
    for ours, theirs in zip(log(tmp_path / "run"), one_device, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours.get("confusion") == theirs.get("confusion")


def dealing(what, count):
    [(code, out, err)] = together([[sys.executable, "-m", "tests.faults.dealing", what]], XLA_FLAGS=devices(count))
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.fault(42)
@pytest.mark.slow
def test_42_of_1_to_64_examples_8_devices_have_the_metrics_of_one():
    found = dealing("evaluation", 8)
    assert [here["every"]["examples"] for here in found] == list(range(1, 65))
    for number, here in enumerate(found, 1):
        assert sum(map(sum, here["every"]["confusion"])) == number
        assert here["every"]["confusion"] == here["one"]["confusion"]
        assert here["every"]["loss"] == pytest.approx(here["one"]["loss"], abs=1e-6)


@pytest.mark.fault(43)
@pytest.mark.slow
def test_43_a_state_is_the_same_on_however_many_devices_it_was_and_is():
    assert dealing("state", 4) == {name: [] for name in SAVERS}


@pytest.mark.fault(43)
@pytest.mark.slow
def test_43_a_run_goes_on_with_more_devices_and_with_fewer(train, tmp_path):
    run = tmp_path / "run"
    step, long = 0, [*train, "--epochs", "300", "--out", str(run)]
    for count in (1, 2):
        process = start(long, XLA_FLAGS=devices(count))
        until(lambda: len(steps_of(run)) > step, PATIENCE, "training")  # noqa: B023
        process.send_signal(signal.SIGTERM)
        [(code, out, err)] = ended([process])
        assert code == 143, err
        assert not step or f"resumed  at step {step} of" in out
        step = int(out.split("SIGTERM: saved at step ")[1].split(";")[0])
    steps = 7 * (step // 7 + 1)
    [(code, out, err)] = together([[*long, "--epochs", str(steps // 7)]], XLA_FLAGS=devices(4))
    assert code == 0, err
    assert f"resumed  at step {step} of {steps}" in out
    assert "4 x 1 (data x model)" in out
    assert "padded " not in out
    assert steps_of(run) == list(range(1, steps + 1))
