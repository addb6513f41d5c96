"""As a library, training is a guest: Ctrl-C stops it and is passed on, and the process is left as it was."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from jax._src import monitoring

from bert_jax import compilation
from bert_jax.errors import UserError
from tests import test_hub_data
from tests.conftest import ROOT, write_random
from tests.processes import PATIENCE
from tests.test_going_on import ROWS, log
from tests.test_recipe import CONFIG
from train import fine_tune
from train.run import evaluation, finish, loop, stopping
from train.run.saving import Saving
from train.run.stepping import Stepping
from train.run.stopping import Interrupts, Stopped
from train.step import trainer

DATA = {"train": ROWS, "dev": ROWS[:9]}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    model = write_random(CONFIG.replace(num_hidden_layers=1), tmp_path_factory.mktemp("encoder"))
    return {"model": model, "epochs": 2, "batch_size": 8, "max_length": 32, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def as_at_a_terminal():
    """Ctrl-C raises `KeyboardInterrupt`, also where the tests run in the background."""
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def process():
    """What a guest leaves as it was."""
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return {
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "wakeup": wakeup,
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "levels": {name: logging.getLogger(name).level for name in ("", "absl", "jax", "orbax")},
        "listeners": (monitoring.get_event_listeners(), monitoring.get_event_duration_listeners()),
        "settings": dict(jax.config.values),
    }


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """What an undisturbed run finds; what that imports is imported then."""
    return fine_tune(DATA, out=tmp_path_factory.mktemp("whole") / "run", quiet=True, **options)


@pytest.fixture
def left_as_it_was(whole, monkeypatch):
    logging.getLogger("absl").setLevel(logging.INFO)  # whatever an earlier run left
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    before = process()
    yield
    assert process() == before


hub = test_hub_data.hub


@pytest.mark.fault(74)
def test_every_way_leaves_the_process_as_it_was(options, hub, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    environment = {name: value for name, value in environment.items() if not name.startswith(("HF_", "CRC32C"))}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "tests.guest", str(options["model"]), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert len(found) == 7
    assert {way: names for way, names in found.items() if names} == {}


def interrupted(monkeypatch, owner, name, which, times=1):
    """Have Ctrl-C pressed while `owner.name` is called for the `which`-th time."""
    original, calls = getattr(owner, name), []

    def pressed(*arguments, **more):
        calls.append(1)
        for _ in range(times if len(calls) == which else 0):
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **more)

    monkeypatch.setattr(owner, name, pressed)


@pytest.mark.fault(74)
@pytest.mark.parametrize(
    ("owner", "name", "which", "steps"),
    [
        (Saving, "start", 1, 0),
        (trainer.Trainer, "__call__", 1, 1),  # as it compiles
        (trainer.Trainer, "__call__", 7, 7),
        (evaluation, "measure", 1, 5),
        (evaluation, "save_best", 1, 5),
        (evaluation, "measure", 3, 10),  # of the best model, when all steps are done
    ],
    ids=["beginning", "compiling", "training", "evaluation", "saving", "the end"],
)
def test_ctrl_c_stops_a_run_that_is_saved_and_goes_on(
    owner, name, which, steps, options, whole, left_as_it_was, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupted(patched, owner, name, which)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(DATA, out=out, **options)
    said = capsys.readouterr().out
    where = f"saved at step {steps}" if steps else "no step was done"
    assert f"SIGINT: {where}; the same again goes on from there" in said or steps == 10
    assert [line["step"] for line in log(out) if "grad_norm" in line] == list(range(1, steps + 1))
    found = fine_tune(DATA, out=out, **options)
    said = capsys.readouterr().out
    assert f"resumed  at step {steps} of 10" in said or not steps or "this run is finished" in said
    assert [line["step"] for line in log(out) if "grad_norm" in line] == list(range(1, 11))
    assert found["dev"]["loss"] == pytest.approx(whole["dev"]["loss"], abs=1e-5)


def test_ctrl_c_that_came_too_late_to_stop_the_run_is_passed_on(options, left_as_it_was, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        interrupted(patched, finish, "closing_table", 1)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(DATA, out=tmp_path / "run", **options)
    assert fine_tune(DATA, out=tmp_path / "run", **options)["dev"]
    assert "this run is finished" in capsys.readouterr().out


def test_the_second_ctrl_c_does_not_wait(options, left_as_it_was, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        interrupted(patched, trainer.Trainer, "__call__", 4, times=2)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(DATA, out=tmp_path / "run", quiet=True, checkpoint_every=2, **options)
    assert fine_tune(DATA, out=tmp_path / "run", quiet=True, **options)["dev"]  # from step 2
    assert [line["step"] for line in log(tmp_path / "run") if "grad_norm" in line] == list(range(1, 11))


def test_an_error_leaves_the_process_as_it_was_too(options, left_as_it_was, tmp_path):
    with pytest.raises(UserError, match="the loss is nan at step"):
        fine_tune(DATA, out=tmp_path / "run", quiet=True, **{**options, "learning_rate": 1e30})


def test_handlers_of_the_caller_are_its_own(options, tmp_path, monkeypatch):
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    mine = signal.getsignal(signal.SIGINT)
    interrupted(monkeypatch, trainer.Trainer, "__call__", 3)
    assert fine_tune(DATA, out=tmp_path / "run", quiet=True, **options)["dev"]
    assert heard == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is mine


def test_in_a_thread_there_are_no_handlers(options, left_as_it_was, tmp_path, monkeypatch):
    found, seen = [], []
    dispatch = Stepping.dispatch

    def noted(self, *arguments):
        seen.append(signal.getsignal(signal.SIGINT))
        return dispatch(self, *arguments)

    monkeypatch.setattr(Stepping, "dispatch", noted)
    work = threading.Thread(target=lambda: found.append(fine_tune(DATA, out=tmp_path / "run", quiet=True, **options)))
    work.start()
    work.join()
    assert np.isfinite(found[0]["dev"]["loss"])
    assert set(seen) == {signal.default_int_handler}


def test_what_ends_the_process_is_for_the_command_alone(options, tmp_path, monkeypatch):
    def never(*arguments, **more):
        raise AssertionError("of the command")

    for owner, name in (
        (compilation, "use_cache"),
        (stopping.Signals, "__init__"), (stopping.os, "_exit"),
        (loop.Watchdog, "__enter__"), (loop.Training, "_rescue"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, never)
    fine_tune(DATA, out=tmp_path / "run", quiet=True, **options)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        UserError, match="fine_tune is for one process, and this is one of several; use python -m train"
    ):
        fine_tune(DATA, out=tmp_path / "other", quiet=True, **options)
    assert not (tmp_path / "other").exists()


def test_interrupts_alone():
    with Interrupts() as signals:
        assert not signals.asked
        signals.check()
        with pytest.raises(Stopped, match="SIGINT"):
            asked(signals)
        signals._number = 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt), Interrupts() as signals:
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), Interrupts() as signals:  # an error goes first
        1 / asked(signals, check=False)


def asked(signals, check=True):
    signal.raise_signal(signal.SIGINT)
    assert signals.asked
    signals.check() if check else None
    return 0


def test_inspecting_trains_nothing(options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "run", None)
    assert fine_tune(DATA, inspect=True, **options) == {}
    said = capsys.readouterr().out
    assert "task     single-label: no, yes" in said
    assert "40 examples" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(74)
@pytest.mark.slow
def test_a_notebooks_stop_button(options, tmp_path):
    manager = pytest.importorskip("jupyter_client").KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT), env={**os.environ, "PYTHONPATH": str(ROOT)})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        call = f"fine_tune({DATA!r}, out={str(tmp_path / 'run')!r}, **{ {**options, 'model': str(options['model'])}!r}"
        setup = "from train import fine_tune; import train.run.loop; mine = 42"
        assert client.execute_interactive(setup, timeout=PATIENCE)["content"]["status"] == "ok"

        def pressed(message):
            if "epoch 1/" in message["content"].get("text", "") and not texts:
                texts.append(message)
                manager.interrupt_kernel()

        texts = []
        long = f"{call} | {{'epochs': 10_000}})"
        reply = client.execute_interactive(long, timeout=PATIENCE, output_hook=pressed)["content"]
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        steps = max(line["step"] for line in log(tmp_path / "run"))
        assert steps >= 5
        again = f"assert mine == 42; found = {call} | {{'epochs': {steps // 5 + 1}}})"
        assert client.execute_interactive(again, timeout=PATIENCE, output_hook=print)["content"]["status"] == "ok"
        assert [line["step"] for line in log(tmp_path / "run") if "grad_norm" in line][-1] == 5 * (steps // 5 + 1)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
