"""`make demo` with a stand-in for Python: which steps it takes, and how it ends."""

import os
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def demo(folder, parity_code: int) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the demo where every command succeeds but parity, which exits with this code; the modules it ran."""
    (folder / "bin").mkdir()
    (folder / "runs").mkdir()
    (folder / ".package").touch()
    python = folder / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\necho "$2" >> {folder}/ran\n[ "$2" = convert.parity ] && exit {parity_code}\nexit 0\n'
    )
    python.chmod(0o755)
    command = ["make", "demo", f"VENV={folder}", f"RUNS={folder / 'runs'}"]
    # The variables of a make that runs these tests, PYTHON among them, are not this make's.
    outer = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "PYTHON"}
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    return done, (folder / "ran").read_text().split()


def test_all_steps(tmp_path):
    done, ran = demo(tmp_path, 0)
    assert done.returncode == 0
    assert ran == ["convert", "convert.parity", "train", "bert_jax"]


def test_a_miss_of_parity_is_said_at_the_end(tmp_path):
    done, ran = demo(tmp_path, 1)
    assert ran == ["convert", "convert.parity", "train", "bert_jax"]
    assert "parity was missed" in done.stderr.splitlines()[0]
    assert done.returncode != 0


def test_a_command_that_fails_ends_the_demo(tmp_path):
    done, ran = demo(tmp_path, 2)
    assert ran == ["convert", "convert.parity"]
    assert done.returncode != 0
