"""Freed memory that is kept for the next step."""

import subprocess
import sys

import pytest

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
    import os

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_thread_gets_the_pages_it_freed_again():
    usual, _ = faults("plain", JAX_PLATFORMS="cpu")
    kept, said = faults("keep", JAX_PLATFORMS="cpu")
    if said == ["False"]:
        pytest.skip("another C library")
    # NumPy asks for huge pages where a system has them: some 50 faults for 100 MB, and 25,600 where not.
    assert kept < usual / 10


def test_what_the_user_has_set_stays():
    assert faults("keep", JAX_PLATFORMS="cpu", MALLOC_ARENA_MAX="4")[1] == ["False"]
    assert faults("keep", JAX_PLATFORMS="cpu", GLIBC_TUNABLES="glibc.malloc.check=0")[1] == ["False"]
