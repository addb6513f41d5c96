"""Compilation of programs: the compiler's options, and the cache that saves the next run from compiling again."""

import functools
import hashlib
import os
import stat
import sys
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError

_MOST_BYTES = 4 * 2**30  # above this size, the least recently used programs are removed
_LEAST_SECONDS = 0.1  # of compile time; a program that compiles faster is not worth a file

# XLA's option for what YNNPACK computes on a CPU, and its values, best first: sums alone, which are fast in YNNPACK, or
# nothing. In a matrix product, YNNPACK adds the terms one after the other. Without YNNPACK, Eigen computes the products
# with smaller errors (RECORDS.md).
_YNN_OPTION, _YNN_VALUES = "xla_cpu_experimental_ynn_fusion_type", ("LIBRARY_FUSION_TYPE_REDUCE", "")


def compiler_options() -> dict[str, Any]:
    """Return the `compiler_options` of `jax.jit` for a forward pass or a step: on a CPU, options for exact products.

    An option that this version of jaxlib does not know is left out; each option is tried once on a small program. The
    options do not affect other programs, or other users of JAX in the process. `jax.pmap` accepts no such options.
    """
    import jax

    return _options_for(jax.default_backend())


@functools.cache
def _options_for(backend: str) -> dict[str, Any]:
    import jax

    for value in _YNN_VALUES if backend == "cpu" else ():
        options = {_YNN_OPTION: value}
        try:
            # The program is compiled but not run, because the caller may forbid transfers to a device.
            jax.jit(lambda x: x + 1, compiler_options=options).lower(jax.ShapeDtypeStruct((), "float32")).compile()
        except (jax.errors.JaxRuntimeError, ValueError):
            continue
        return options
    return {}


def use_cache() -> Path | None:
    """Make JAX cache compiled programs in a private directory, and return the directory.

    Call this function before anything compiles. The directory is JAX_COMPILATION_CACHE_DIR, or bert_jax/compiled under
    XDG_CACHE_HOME or ~/.cache, with a subdirectory for each kind of processor. Returns None, after one warning on
    standard error, if no such directory can be written. Returns None also with JAX_ENABLE_COMPILATION_CACHE=false.
    Raises `UserError` if others could write to the directory, because its files hold machine code that will be run.
    """
    import jax

    if not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    try:
        directory = _private(_place())
    except (OSError, RuntimeError) as error:  # no home directory is a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"warning: no compilation cache ({reason}); JAX_COMPILATION_CACHE_DIR can name one", file=sys.stderr)
        # JAX has read JAX_COMPILATION_CACHE_DIR by itself, and would warn about every program.
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    return directory


def directory() -> Path | None:
    """Return the directory of the compilation cache that JAX uses now.

    Returns None if JAX uses none, or if the path is not a directory, or if others can write to it.
    """
    import jax

    path = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if not path or not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    try:
        return Path(path) if Path(path).is_dir() and _is_ours(Path(path)) else None
    except OSError:
        return None


def _is_ours(path: Path) -> bool:
    """Return whether this user and root are the only ones who can write to `path`."""
    status = path.stat()
    return not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and status.st_uid in (os.geteuid(), 0)


def _place() -> Path:
    if configured := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path must be ignored.
    home = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return home / "bert_jax" / "compiled"


def _private(top: Path) -> Path:
    """Make the directory and its subdirectory for this processor, and return the subdirectory.

    Raises `UserError` if others can write to either, and `OSError` if the subdirectory cannot be made or written.
    """
    directory = top / _processor()
    for path in (top, directory):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(path):
            raise UserError(
                f"{path}: others can write to this compilation cache, which holds programs that will be run; "
                f"chmod go-w it if it is yours, or name another by JAX_COMPILATION_CACHE_DIR"
            )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(13, f"{directory} is not writable")
    return directory


def _processor() -> str:
    """Return a name for the instruction set of this processor.

    Code that was compiled for a processor with more instructions would crash on this one.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{os.uname().machine}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"
