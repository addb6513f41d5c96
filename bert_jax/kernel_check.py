"""Check that the fused attention kernel agrees with the plain formula on this device: compared once, then cached."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bert_jax import __version__, compilation
from bert_jax.command import printable
from bert_jax.errors import UserError
from bert_jax.files import read_json, write_json

_RATE = 0.1
_WIDTH = 256  # size of all heads together, large enough for several programs per row on every backend

_SOURCES = ("fused_attention.py", "attention.py", "dropout.py", "kernel_check.py")
"""Files that the comparison depends on; after a change in one of them, the kernel is compared again."""


class _Case(NamedTuple):
    """Rows to compare on, and the bound on the largest difference from the plain formula.

    The bound is relative to the largest absolute value of the plain formula's result.
    """

    dtype: Any
    length: int
    head_size: int
    bound: float


# The cases cover rows of one tile and of several tiles, both dtypes, and both head sizes of the usual checkpoints. The
# plain formula is computed in float32. The bounds suit the dtypes: bfloat16 has 8 bits, and float32 that is really TF32
# would differ by 5e-4.
_CASES = (_Case(jnp.bfloat16, 128, 64, 2e-2), _Case(jnp.float32, 192, 32, 3e-5))


@functools.cache
def agrees(kernel: str) -> bool:
    """Return whether the fused kernel for the backend `kernel` agrees with the plain formula on this process's device.

    The check compares results without dropout, and results and all gradients with dropout, on rows of several examples
    and padding. The answer is stored in the directory of the compilation cache, for each kind of device, driver,
    versions and source of the kernel. Without a private cache, every process makes the comparison. If the kernel
    differs or fails, one line on standard error says so.
    """
    # The caller may be tracing, on a mesh, or under a transfer guard. JAX keeps this state per thread, so a new thread
    # has none of it.
    with ThreadPoolExecutor(1, "bert_jax-check") as pool:
        reason = pool.submit(_reason, kernel).result()
    if reason:
        print(f"attention: plain, because the fused kernel {printable(reason)}", file=sys.stderr)
    return not reason


def _reason(kernel: str) -> str:
    """Return why the kernel must not be used on this device, or an empty string if the kernel agrees.

    Only the outcome of a comparison is stored, not a failure to make one.
    """
    try:
        device = jax.local_devices()[0]
        facts = _facts(kernel, device)
        directory = compilation.directory()
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        place = None if directory is None else directory / f"attention-{digest[:16]}.json"
        difference = None if place is None else _remembered(place, facts)
        if difference is None:
            with jax.default_device(device):
                difference = _difference(kernel)
            if place is not None:
                with contextlib.suppress(OSError):  # the next process will try again
                    write_json(place, facts | {"difference": difference})
    except Exception as error:  # anything that a moved module, a compiler or a driver raises
        lines = str(error).strip().splitlines() or [""]
        return f"fails here: {type(error).__name__}: {lines[0][:200]}"
    return f"differs on {facts['device']}: {difference}" if difference else ""


def _facts(kernel: str, device: Any) -> dict[str, str]:
    """Return everything that the answer depends on."""
    source = hashlib.sha256()
    for name in _SOURCES:
        source.update(Path(__file__).with_name(name).read_bytes())
    return {
        "kernel": kernel,
        "device": device.device_kind,
        "driver": device.client.platform_version,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "bert_jax": __version__,
        "source": source.hexdigest(),
    }


def _remembered(place: Path, facts: dict[str, str]) -> str | None:
    """Return the stored outcome of an earlier comparison: the difference, or an empty string for none.

    Returns None if there is no file, or if the file does not hold these facts and an outcome.
    """
    try:
        stored = read_json(place)
    except UserError:
        return None
    difference = stored.pop("difference", None)
    return difference if stored == facts and isinstance(difference, str) else None


def _difference(kernel: str) -> str:
    """Describe the first result that is too far from the plain formula's; return an empty string if there is none."""
    for case in _CASES:
        arrays, segments, words = _inputs(case)
        exact = [array.astype(jnp.float32) for array in arrays]
        for drop_words, condition in ((None, "without dropout"), (words, "with dropout")):
            heads = _WIDTH // case.head_size
            expected = _results(functools.partial(_plain, heads=heads), exact, segments, drop_words)
            results = _results(functools.partial(_fused, kernel, heads=heads), arrays, segments, drop_words)
            for name, reference in expected.items():
                difference = np.abs(results[name] - reference).max() / np.abs(reference).max()
                if not difference <= case.bound:  # NaN is refused too
                    where = f"{jnp.dtype(case.dtype).name}, rows of {case.length}, heads of {case.head_size}"
                    return f"{name} {condition} by {difference:.1e} ({where}; at most {case.bound:.0e} is allowed)"
    return ""


def _inputs(case: _Case) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """Return three arrays (products, biases, the gradient of the result), the segments, and two words for dropout.

    The three rows of segments hold examples and padding, padding alone, and examples without padding.
    """
    generator, length = np.random.default_rng(0), case.length
    shapes = (3, length, 3, _WIDTH), (3, _WIDTH), (3, length, _WIDTH)
    arrays = [jnp.asarray(generator.standard_normal(shape), case.dtype) for shape in shapes]
    segments = np.zeros((3, length), np.int32)
    for row, unused in ((0, 21), (2, 0)):
        segments[row, : length - unused] = np.arange(length - unused) // 37 + 1
    return arrays, jnp.asarray(segments), jnp.asarray(generator.integers(0, 2**32, 2, dtype=np.uint32))


def _results(mix: Any, arrays: list[jax.Array], segments: jax.Array, words: jax.Array | None) -> dict[str, np.ndarray]:
    """Return the result by name, as float64; with dropout, as in training, return the gradients as well."""

    def compute(arrays: list[jax.Array], segments: jax.Array, words: jax.Array | None) -> tuple[jax.Array, ...]:
        qkv, biases, gradient = arrays
        if words is None:
            return (mix(qkv, biases, segments, words),)
        out, pull = jax.vjp(lambda qkv, biases: mix(qkv, biases, segments, words), qkv, biases)
        d_qkv, d_biases = pull(gradient)
        return out, *jnp.moveaxis(d_qkv, 2, 0), d_biases

    names = ("the result", *(f"the gradient of the {name}" for name in ("queries", "keys", "values", "biases")))
    results = jax.jit(compute)(arrays, segments, words)
    return {name: np.asarray(x, np.float64) for name, x in zip(names, results, strict=False)}


def _plain(qkv: Any, biases: Any, segments: Any, words: Any, heads: int) -> jax.Array:
    from bert_jax.attention import plain_attention

    query, key, value = jnp.moveaxis((qkv + biases).reshape(*qkv.shape[:3], heads, -1), 2, 0)
    out = plain_attention(query, key, value, segments, words, _RATE, lax.Precision.HIGHEST)
    return out.reshape(*segments.shape, -1)


def _fused(kernel: Any, qkv: Any, biases: Any, segments: Any, words: Any, heads: int) -> jax.Array:
    from bert_jax import fused_attention  # imported in this function, because the module may fail to import

    rows, length = segments.shape
    places = (jnp.arange(rows * heads, dtype=jnp.uint32) * jnp.uint32(length**2)).reshape(rows, heads)
    precision = lax.Precision.HIGHEST if qkv.dtype == jnp.float32 else None
    return fused_attention.fused_attention(
        qkv, biases, segments, places, words, rate=_RATE, backend=kernel, precision=precision
    )
