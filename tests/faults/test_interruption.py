"""Runs that are interrupted: by SIGKILL anywhere, by SIGTERM and Ctrl-C, by damage to what they left."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.faults.interrupted import ends, make
from tests.processes import PATIENCE, one_core

# On one core, so that floats are the same every time; Ctrl-C as at a terminal, even in a background job.
SHELL = f"""
import os, runpy, signal, sys
os.sched_setaffinity(0, {{{one_core()}}})
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("train", run_name="__main__", alter_sys=True)
"""

# A signal in the middle of a run, however fast the machine: once ten steps are done.
SIGNALLED = """
from train.run.stepping import Stepping
dispatch = Stepping.dispatch
def signalled(self, step, aside):
    if step >= 10:
        Stepping.dispatch = dispatch
        os.kill(os.getpid(), {number})
    return dispatch(self, step, aside)
Stepping.dispatch = signalled
"""


def command(arguments, out, *more, shell=SHELL):
    return [sys.executable, "-c", shell, *arguments, "--out", str(out), *more]


def done(arguments, out, *more, code=0):
    """Run the command to its end, on one core; standard output, or standard error where the code is not 0."""
    found = subprocess.run(command(arguments, out, *more), cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == code, found.stderr
    return found.stdout if code == 0 else found.stderr


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return make(tmp_path_factory.mktemp("interrupted"))


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done(arguments, out)
    return out


@pytest.fixture
def half(undisturbed, tmp_path):
    """The run as it was when its last checkpoint but one was the newest."""
    out = tmp_path / "half"
    shutil.copytree(undisturbed, out)
    last = max((out / "checkpoints").glob("*.json"), key=lambda path: int(path.stem))
    last.unlink()
    record = json.loads((out / "run.json").read_text())
    del record["best"], record["figures"]
    (out / "run.json").write_text(json.dumps(record))
    return out


@pytest.mark.fault(27)
@pytest.mark.slow
def test_27_twenty_runs_killed_anywhere_end_as_if_nothing_had_been():
    found = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", "--runs", "20"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "ended otherwise than undisturbed: 0" in found.stdout


@pytest.mark.fault(28)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_28_a_run_that_is_asked_to_stop_saves_and_goes_on_later(arguments, undisturbed, tmp_path, number, code):
    out = tmp_path / "run"
    shell = SHELL.replace("runpy.run", f"{SIGNALLED.format(number=int(number))}\nrunpy.run")
    words = command(arguments, out, "--checkpoint-every", "1000", shell=shell)
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == code, found.stderr
    assert "saved at step" in found.stdout
    step = int(found.stdout.split("saved at step ")[1].split(";")[0])
    assert step in (10, 11)  # the step in hand is finished, and no other one begun
    logged = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert max(line["step"] for line in logged) == step  # 0 completed steps lost
    assert f"resumed  at step {step} of 35" in done(arguments, out)
    assert ends(out) == ends(undisturbed)


@pytest.mark.fault(28)
@pytest.mark.slow
def test_28_six_runs_that_are_asked_to_stop_in_the_compiler_in_evaluation_in_a_save_and_anywhere():
    words = f"--signal TERM --runs 6 --seed 9 --within {PATIENCE}"
    found = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "6 runs, 6 answered" in found.stdout
    assert "ended otherwise than undisturbed: 0" in found.stdout


@pytest.mark.fault(28)
@pytest.mark.parametrize(("inside", "signals"), [("contextlib.nullcontext()", 2), ("asked.aside(leave)", 1)])
def test_28_in_a_call_that_lets_no_handler_run(inside, signals):
    """The second signal ends the process, the first one where nothing is to be saved."""
    program = f"""
import contextlib, hashlib
from train.run.stopping import Signals, leave
with Signals() as asked, {inside}:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # more than five minutes on any machine
"""
    started = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    for number in range(signals):
        time.sleep(0.3)
        assert started.poll() is None, number
        started.terminate()
    try:
        assert started.wait(240) == 143
    finally:
        started.kill()


@pytest.mark.fault(36)
@pytest.mark.slow
def test_36_a_damaged_checkpoint_is_passed_over_whatever_the_damage(arguments, undisturbed, half, tmp_path):
    from train.run.checkpoints import Checkpoints

    newest, before = sorted((int(p.stem) for p in (undisturbed / "checkpoints").glob("*.json")), reverse=True)[:2]
    files = sorted(p for p in (undisturbed / "checkpoints" / str(newest)).rglob("*") if p.is_file())
    assert len(files) > 5
    for file in [*files, undisturbed / "checkpoints" / f"{newest}.json"]:
        content = file.read_bytes()
        for damage in ("cut", "empty", "delete", "flip"):
            broken = tmp_path / "broken"
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(undisturbed / "checkpoints", broken)
            victim = broken / file.relative_to(undisturbed / "checkpoints")
            if damage == "delete":
                victim.unlink()
            else:
                middle = len(content) // 2
                flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else b"x"
                victim.write_bytes({"cut": content[:middle], "empty": b"", "flip": flipped}[damage])
                if victim.read_bytes() == content:
                    continue  # an empty file cannot be cut
            said: list[str] = []
            with Checkpoints(broken, said.append) as checkpoints:
                found = checkpoints.newest()
            where = f"{damage} of {victim.name}"
            assert found is not None, where
            assert found[0]["step"] == before, where
            listed = damage == "delete" and victim.suffix == ".json" and victim.parent == broken
            assert listed or f"checkpoint {newest} is damaged" in said[0], where
    # Through the command: it goes on from the one before, and ends the same.
    assert f"resumed  at step {before} of 35" in done(arguments, half)
    assert ends(half) == ends(undisturbed)


@pytest.mark.fault(37)
def test_37_where_every_checkpoint_is_damaged_nothing_starts_over_in_silence(arguments, half):
    for manifest in (half / "checkpoints").glob("*.json"):
        manifest.write_text(manifest.read_text()[:-5])
    kept = {path: path.read_bytes() for path in half.rglob("*") if path.is_file() and path.suffix == ".safetensors"}
    err = done(arguments, half, code=2)
    assert "every checkpoint is damaged; --restart starts over" in err.splitlines()[-1]
    assert all(path.read_bytes() == content for path, content in kept.items())


@pytest.mark.fault(33)
@pytest.mark.slow
def test_33_other_options_are_refused_with_the_difference_and_more_epochs_are_not(arguments, half):
    err = done(arguments, half, "--learning-rate", "1e-4", code=2)
    assert "--learning-rate 0.003, now 0.0001" in err
    assert "step 42/42" in done(arguments, half, "--epochs", "6")


@pytest.mark.fault(34)
def test_34_other_data_are_refused(arguments, half, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "dev", "test"):
        shutil.copy(f"{arguments[3]}/{name}.tsv", data)
    with (data / "train.tsv").open("a") as file:
        file.write("the very last film\t1\n")
    err = done(["--model", arguments[1], "--data", str(data), *arguments[4:]], half, code=2)
    assert "the run there had other contents of the data" in err


@pytest.mark.fault(35)
@pytest.mark.slow
def test_35_two_runs_in_one_directory(arguments, half):
    import fcntl

    with open(half / "lock", "a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.truncate(0)
        held.write("4711\n")
        held.flush()
        err = done(arguments, half, code=2)
        assert "in use by process 4711" in err
    done(arguments, half)  # a lock that nobody holds is no hindrance


@pytest.mark.fault(38)
def test_38_the_newest_is_the_one_of_the_highest_step_whatever_the_clock_says(undisturbed, tmp_path):
    from train.run.checkpoints import Checkpoints

    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    steps = sorted(int(path.stem) for path in (tmp_path / "checkpoints").glob("*.json"))
    for path in (tmp_path / "checkpoints").rglob(f"*{steps[-1]}*"):
        os.utime(path, (0, 0))
    with Checkpoints(tmp_path / "checkpoints", print) as checkpoints:
        assert checkpoints.newest()[0]["step"] == steps[-1]


@pytest.mark.fault(40)
def test_40_a_save_that_fails_ends_the_run_and_is_not_listed(arguments, tmp_path):
    out = tmp_path / "run"
    program = f"""
import resource, signal
from bert_jax.command import run
from train.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write that goes too far is an error then
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))  # the embeddings take more
run(lambda: main({[*arguments, "--out", str(out)]!r}))
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    assert found.returncode == 2, found.stdout + found.stderr
    (line,) = found.stderr.splitlines()
    assert "checkpoints: cannot write a checkpoint: File too large; those before it stand" in line
    assert not list((out / "checkpoints").glob("*.json"))


def test_a_finished_run_says_so_and_starts_over_in_words_alone(arguments, undisturbed, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "this run is finished (dev accuracy" in done(arguments, out)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    done(arguments, out, "--restart")
    assert ends(out) == ends(undisturbed)


def test_starting_over_may_be_interrupted_too(arguments, undisturbed, tmp_path):
    from train.run.run_directory import RunDirectory

    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"clearing": True}))
    (out / ".best.killed").mkdir()
    with RunDirectory(out, record) as directory:  # not a run of this record, whatever lies there
        assert directory.earlier is None
        assert {path.name for path in out.iterdir()} == {"lock", "run.json"}
    for name in ("lock", ".run.json.new"):  # killed before there was a run.json
        fresh = tmp_path / f"fresh{name}"
        fresh.mkdir()
        (fresh / name).write_text("")
        with RunDirectory(fresh, record) as directory:
            assert directory.earlier is None


def test_a_directory_that_is_not_a_run_is_left_alone(arguments, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    for more in ((), ("--restart",)):
        assert "exists and is not a run" in done(arguments, tmp_path / "precious", *more, code=2)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_run_killed_after_its_last_step_is_finished(arguments, undisturbed, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    record = json.loads((out / "run.json").read_text())
    del record["best"], record["figures"]
    (out / "run.json").write_text(json.dumps(record))
    assert "resumed  at step 35 of 35" in done(arguments, out)
    assert ends(out) == ends(undisturbed)


@pytest.mark.parametrize("more", [("--steps-per-dispatch", "4"), ("--accumulate", "2")])
@pytest.mark.slow
def test_in_the_middle_of_windows_and_of_parts(arguments, tmp_path, more):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    done(arguments, whole, *more)
    started = subprocess.Popen(command(arguments, parted, *more), cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list((parted / "checkpoints").glob("*.json")) if (parted / "checkpoints").exists() else True:
        time.sleep(0.005)
    time.sleep(random.Random(0).uniform(0, 0.2))
    started.kill()
    started.wait()
    done(arguments, parted, *more)
    assert ends(parted) == ends(whole)
