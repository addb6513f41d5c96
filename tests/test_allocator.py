"""Freed memory that is kept for the next step."""

import os
import subprocess
import sys

import pytest

from bert_jax import allocator
from tests.conftest import ROOT

COUNT_FAULTS = """
import resource, sys, threading
from bert_jax.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())
import numpy as np

def fault(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.full(megabytes * 2**18, 1, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = []
thread = threading.Thread(target=lambda: found.append((fault(100), fault(100))[1]))
thread.start()
thread.join()
print(found[0])
"""


def faults(how, **environment):
    """Page faults of a thread that asks ten times for 100 MB, and what was printed before."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, how],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *said, count = done.stdout.split()
    return int(count), said


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()), reason="another C library")
def test_a_thread_gets_the_pages_it_freed_again():
    usual, _ = faults("plain", JAX_PLATFORMS="cpu")
    kept, said = faults("keep", JAX_PLATFORMS="cpu")
    assert said == ["True"]
    # NumPy asks for huge pages where a system has them: some 50 faults for 100 MB, and 25,600 where not.
    assert kept < usual / 10


def test_what_the_user_has_set_stays():
    assert faults("keep", JAX_PLATFORMS="cpu", MALLOC_ARENA_MAX="4")[1] == ["False"]
    assert faults("keep", JAX_PLATFORMS="cpu", GLIBC_TUNABLES="glibc.malloc.check=0")[1] == ["False"]


def test_nothing_is_changed_beside_an_accelerators_plugin(monkeypatch):
    for name in [*os.environ]:
        if name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "JAX_PLATFORMS"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(allocator, "entry_points", lambda group: [group])
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the allocator was changed"))
    assert not allocator.keep_freed_memory()


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()), reason="another C library")
def test_memory_that_is_kept_is_not_counted_as_taken():
    code = """
from bert_jax.allocator import keep_freed_memory
assert keep_freed_memory()
import numpy as np
from train.step.memory import limit
before = limit()
blocks = [np.ones(2**18, np.float32) for _ in range(400)]
del blocks
print(before - limit())
"""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    environment = clean | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100 * 2**20


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()), reason="another C library")
def test_where_the_address_space_is_limited_nothing_is_kept_and_threads_share_one_arena():
    code = """
import ctypes, resource, threading
from pathlib import Path
from bert_jax.allocator import keep_freed_memory
resource.setrlimit(resource.RLIMIT_AS, (2**46, 2**46))
assert not keep_freed_memory()
import numpy as np

def taken():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

allocate = ctypes.CDLL(None).malloc
allocate.argtypes, allocate.restype = [ctypes.c_size_t], ctypes.c_void_p
before, found = taken(), []
threading.stack_size(2**20)
thread = threading.Thread(target=lambda: (allocate(1000), found.append(taken())))
thread.start()
thread.join()
blocks = [np.ones(2**25, np.float32), bytes(10)]
blocks.pop(0)
print(found[0] - before, taken() - before)
"""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    environment = clean | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    thread, freed = map(int, done.stdout.split())
    assert thread < 32 * 2**20
    assert freed < 32 * 2**20


@pytest.mark.parametrize(("argument", "times"), [("--help", 1), ("--inspect", 0)])
def test_the_command_that_trains_keeps_memory_from_its_start(argument, times):
    code = f"""
import runpy, sys
from bert_jax import allocator
allocator.keep_freed_memory = lambda: print("kept")
sys.argv = ["train", "{argument}", "--data", "nowhere"]
runpy.run_module("train", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines().count("kept") == times
