"""How programs are compiled: what the compiler is told, and the cache that spares the next run compiling."""

import functools
import hashlib
import os
import stat
import sys
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError

_MOST_BYTES = 4 * 2**30  # then what was used longest ago goes
_LEAST_SECONDS = 0.1  # of compiling; what takes less is not worth a file

# Values of XLA's option for what YNNPACK computes on a CPU, best first: its sums, which are fast, or nothing. It adds
# the terms of a product one after the other. Without it products are Eigen's, whose errors are smaller (RECORDS.md).
_YNN_OPTION, _YNN_VALUES = "xla_cpu_experimental_ynn_fusion_type", ("LIBRARY_FUSION_TYPE_REDUCE", "")


def compiler_options() -> dict[str, Any]:
    """What `jax.jit` is told of a forward pass or a step (`compiler_options`): on a CPU, exact products.

    An option that this version of jaxlib does not know is left out: each is tried once on a small program. Nothing is
    set for other programs, or for other users of JAX in the process. `jax.pmap` takes no such options.
    """
    import jax

    return _options_for(jax.default_backend())


@functools.cache
def _options_for(backend: str) -> dict[str, Any]:
    import jax

    for value in _YNN_VALUES if backend == "cpu" else ():
        options = {_YNN_OPTION: value}
        try:
            # Compiled and not run, as the caller may be where nothing may be sent to a device.
            jax.jit(lambda x: x + 1, compiler_options=options).lower(jax.ShapeDtypeStruct((), "float32")).compile()
        except (jax.errors.JaxRuntimeError, ValueError):
            continue
        return options
    return {}


def use_cache() -> Path | None:
    """Have JAX keep compiled programs in a private directory, and return it; call before anything compiles.

    The directory is JAX_COMPILATION_CACHE_DIR, or bert_jax/compiled under XDG_CACHE_HOME or ~/.cache,
    with a part for each kind of processor. Where none can be written, one warning says so and the
    return is None, as it is with JAX_ENABLE_COMPILATION_CACHE=false. Raises `UserError` where others
    could write there: the files hold machine code that will be run.
    """
    import jax

    if not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    try:
        directory = _private(_place())
    except (OSError, RuntimeError) as error:  # no home directory is a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"warning: no compilation cache ({reason}); JAX_COMPILATION_CACHE_DIR can name one", file=sys.stderr)
        # JAX has read the variable by itself, and would warn of every program.
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    return directory


def directory() -> Path | None:
    """The compilation cache that JAX uses now, if it is a directory that nobody else can write to."""
    import jax

    named = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if not named or not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    try:
        return Path(named) if Path(named).is_dir() and _is_ours(Path(named)) else None
    except OSError:
        return None


def _is_ours(path: Path) -> bool:
    """Whether nobody else but the system's own user can write there."""
    found = path.stat()
    return not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and found.st_uid in (os.geteuid(), 0)


def _place() -> Path:
    if given := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored, says the XDG specification.
    home = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return home / "bert_jax" / "compiled"


def _private(top: Path) -> Path:
    """Make the directory and the part of it for this processor; `UserError` where others may write to them."""
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
    """A name for the instructions this processor has: code compiled for more of them would crash on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{os.uname().machine}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"
