"""Numbers on other processors, by emulation: what holds on one may be missed on another."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

QEMU = shutil.which("qemu-x86_64")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(QEMU is None, reason="needs qemu-x86_64 (Debian's qemu-user)"),
]


def emulated(processor: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # One thread: emulation gains nothing from more.
    environment = os.environ | {
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    if processor == "Nehalem":  # else numpy's OpenBLAS may take kernels of the processor beneath, and crash
        environment["OPENBLAS_CORETYPE"] = "NEHALEM"
    command = [QEMU, "-cpu", processor, sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def holds_on_avx2(*names: str) -> None:
    done = emulated("max", "-m", "tests.emulated", *names)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name for name, *_ in found} == set(names)
    assert not [one for one in found if not one[2]]


def test_odd_checkpoints_on_avx2_without_avx512():
    holds_on_avx2("gelu_pytorch_tanh", "silu", "one_head")


def test_minilm_on_avx2_without_avx512(minilm):
    holds_on_avx2("minilm")


def test_a_processor_without_avx_is_told_in_one_line():
    done = emulated("Nehalem", "-m", "train", "--epochs", "1", "--out", os.devnull + "/run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
