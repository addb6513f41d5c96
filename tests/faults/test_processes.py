"""Faults of several processes: rows 45, 47 to 49 and 61."""

import json
import socket
import time
from pathlib import Path

import pytest

from tests.processes import PATIENCE, address, ended, joining, small_run, start, together
from train.step.hosts import HEARTBEAT


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("processes"))


# --- meeting


def one_line(found):
    """Of a process that was refused."""
    [(code, out, err)] = ended([found])
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.fault(45)
def test_45_nobody_at_the_coordinators_address(train, tmp_path):
    where, alone = address(), address()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        other = f"127.0.0.1:{silent.getsockname()[1]}"
        more = ["--out", str(tmp_path / "run"), "--join-timeout", "2"]
        nobody, someone, first = (
            start([*train, *joining(there, *more)[i]]) for there, i in ((where, 1), (other, 1), (alone, 0))
        )
        assert f"error: --coordinator {where}: nobody answers there after 2 s (Connection refused)" in one_line(nobody)
        assert f"error: --coordinator {other}: not all 2 processes came within 2 s" in one_line(someone)
        assert f"error: --coordinator {alone}: not all 2 processes came within 2 s" in one_line(first)
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(45)
def test_45_no_such_address(train, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        cases = [
            ("nowhere.invalid:8476", 1, "no such host"),
            ("192.0.2.1:8476", 0, "process 0 cannot listen there: Cannot assign requested address"),
            (here, 0, "process 0 cannot listen there: Address already in use"),
        ]
        started = [start([*train, *joining(where, "--out", str(tmp_path / "run"))[i]]) for where, i, _ in cases]
        for process, (where, _, reason) in zip(started, cases, strict=True):
            assert f"error: --coordinator {where}: {reason}" in one_line(process)


@pytest.mark.fault(45)
@pytest.mark.slow
def test_45_processes_may_come_in_any_order_and_late(train, tmp_path):
    where = address()
    commands = [[*train, *joining(where, count=3)[i], "--seed", str(i // 2)] for i in range(3)]
    second = start(commands[1])
    time.sleep(2)
    first = start(commands[0])
    time.sleep(HEARTBEAT + 1)
    assert first.poll() is second.poll() is None
    for code, _, err in ended([first, second, start(commands[2])]):  # that they have met shows in what they say
        assert code == 2
        assert err.startswith("error: process 2 has other options than process 0"), err


# --- together


@pytest.mark.fault(47)
@pytest.mark.slow
def test_47_a_signal_to_one_process_stops_all_at_the_same_step_and_both_go_on(train, tmp_path):
    where, log = address(), tmp_path / "run" / "metrics.jsonl"
    long = [*train, "--epochs", "200", "--out", str(tmp_path / "run")]
    started = [start([*long, *joining(where)[i]]) for i in range(2)]
    try:
        deadline = time.monotonic() + PATIENCE
        while not log.exists() or log.stat().st_size == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started[1].terminate()
        first, _ = [process.communicate(timeout=PATIENCE)[0] for process in started]
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


@pytest.mark.fault(48)
def test_48_processes_of_other_options_are_refused(train, tmp_path):
    where = address()
    commands = [[*train, *joining(where)[i], "--out", str(tmp_path / "run"), "--seed", str(i)] for i in range(2)]
    for code, _, err in together(commands):
        assert code == 2, err
        assert err == ("error: process 1 has other options than process 0; start all with the same options and files\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(48)
@pytest.mark.slow
def test_48_one_of_four_processes_with_other_data_is_refused(train, tmp_path):
    data = Path(train[train.index("--data") + 1])
    (tmp_path / "data").mkdir()
    for name in ("train", "dev", "test"):
        content = (data / f"{name}.tsv").read_text()
        (tmp_path / "data" / f"{name}.tsv").write_text(content.replace("good", "bad", 1))
    every = [[*train, *each, "--out", str(tmp_path / "run")] for each in joining(address(), count=4)]
    every[2][every[2].index("--data") + 1] = str(tmp_path / "data")
    for code, _, err in together(every):
        assert code == 2, err
        assert err == "error: process 2 has other data than process 0; start all with the same options and files\n"
    assert not (tmp_path / "run").exists()


# --- to the end


def listening(port):
    """The addresses of this machine on which something listens at the port, as the kernel writes them."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            if state == "0A" and int(local.split(":")[1], 16) == port:
                found.add(local.split(":")[0])
    return found


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run of two processes, the directory of each, and the addresses on which it listened meanwhile."""
    where, outs, found = address(), [tmp_path_factory.mktemp("whole") / name for name in ("first", "second")], set()
    started = [start([*train, *joining(where)[i], "--out", str(outs[i])]) for i in range(2)]
    while any(process.poll() is None for process in started):
        found |= listening(int(where.split(":")[1]))
        time.sleep(0.05)
    return ended(started), outs, found


@pytest.mark.fault(49)
def test_49_two_processes_end_with_code_0_and_one_of_them_has_written(train, whole, tmp_path):
    both, outs, _ = whole
    [alone] = together([[*train, "--out", str(tmp_path / "alone")]])
    assert [code for code, _, _ in (*both, alone)] == [0, 0, 0], both[0][2] + both[1][2] + alone[2]
    assert "2 x 1 (data x model)" in both[0][1]
    # The library behind the CPU's collectives greets on standard output.
    assert [line for line in both[1][1].splitlines() if not line.startswith("[Gloo]")] == []
    assert [err for _, _, err in both] == ["", ""]
    assert not outs[1].exists()
    logs = [[json.loads(line) for line in (out / "metrics.jsonl").open()] for out in (outs[0], tmp_path / "alone")]
    assert len(logs[0]) == len(logs[1]) == 2 * 7 + 2
    for ours, theirs in zip(*logs, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours.get("confusion") == theirs.get("confusion")
    records = [json.loads((out / "run.json").read_text()) for out in (outs[0], tmp_path / "alone")]
    assert records[0]["device"]["processes"] == 2
    assert records[0]["best"]["test"]["confusion"] == records[1]["best"]["test"]["confusion"]


@pytest.mark.fault(61)
def test_61_the_coordinator_listens_on_the_address_given_alone(whole):
    assert whole[2]
    assert whole[2] <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, as IPv4 and as IPv6 write it
