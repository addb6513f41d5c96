"""Keep the memory that one step frees for the next step, where the C library allows it."""

import ctypes
import importlib.util
import os
import resource
from importlib.metadata import entry_points

# Options of mallopt, from glibc's malloc.h, and their values. A step's temporaries are one block of hundreds of
# megabytes. By default, each such block is mapped anew, and the kernel clears its pages, tens of thousands per step.
_NO_BLOCK_MAPPED_APART = (-4, 0)  # M_MMAP_MAX
_NOTHING_HANDED_BACK = (-1, -1)  # M_TRIM_THRESHOLD
_ONE_ARENA = (-8, 1)  # M_ARENA_MAX; the arenas of other threads hold 64 MB, and map larger blocks anew

_kept = False


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the whole process, for training on a CPU, and return whether glibc keeps it now.

    A command calls this function before it starts other threads. A library should not decide this for its users.
    Nothing changes if JAX has the plugin of an accelerator (unless JAX_PLATFORMS is "cpu"), if the user has set
    GLIBC_TUNABLES or a variable of malloc (MALLOC_...), or if the C library is not glibc.

    If the address space is limited (`ulimit -v`), no freed memory is kept, because pieces of it would be in the way of
    the next large block. But all threads then share one arena, so that no thread takes 64 MB of the address space for
    an arena of its own.
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
    except (AttributeError, OSError, ValueError):  # musl and others lack this name, or this function
        return False
    global _kept
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        mallopt(*_ONE_ARENA)
        return False
    options = _NO_BLOCK_MAPPED_APART, _NOTHING_HANDED_BACK, _ONE_ARENA
    _kept = sum(mallopt(*option) for option in options) == len(options)
    return _kept


def hand_back() -> None:
    """Give kept memory that is free now back to the system, so that this process holds only the memory that it uses.

    Does nothing unless `keep_freed_memory` has returned True.
    """
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)
