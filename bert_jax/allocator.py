"""Memory that is freed after one step and asked for again by the next: kept, where the C library lets us."""

import ctypes
import importlib.util
import os
import resource
from importlib.metadata import entry_points

# glibc's malloc.h: options of mallopt, and their values. A step's temporaries are one block of hundreds of megabytes.
# By default each such block is mapped anew, and the kernel clears its pages, tens of thousands a step.
_NO_BLOCK_MAPPED_APART = (-4, 0)  # M_MMAP_MAX
_NOTHING_HANDED_BACK = (-1, -1)  # M_TRIM_THRESHOLD
_ONE_ARENA = (-8, 1)  # M_ARENA_MAX; other threads' own arenas hold 64 MB, and map what is larger

_kept = False


def keep_freed_memory() -> bool:
    """Have glibc keep memory that is freed, for the whole process, where a CPU trains; whether it does now.

    For a command, before it starts other threads: it is not for a library to decide. Nothing is changed where JAX has
    an accelerator's plugin, where the user has set GLIBC_TUNABLES or a variable of malloc's (MALLOC_...), or where the
    C library is another one. Where the address space is limited (`ulimit -v`), nothing is kept, as pieces of what was
    freed would stay in the way of the next large block; but threads share one arena, so that none takes 64 MB of what
    is there for itself.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return False
    if os.environ.get("JAX_PLATFORMS") != "cpu" and (
        entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu")
    ):
        return False
    try:
        if not os.confstr("CS_GNU_LIBC_VERSION"):
            return False
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, ValueError):  # musl and others have no such name, or no such function
        return False
    global _kept
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        mallopt(*_ONE_ARENA)
        return False
    options = _NO_BLOCK_MAPPED_APART, _NOTHING_HANDED_BACK, _ONE_ARENA
    _kept = sum(mallopt(*option) for option in options) == len(options)
    return _kept


def hand_back() -> None:
    """Give the system what is kept and free now, so that what this process holds is what it uses."""
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)
