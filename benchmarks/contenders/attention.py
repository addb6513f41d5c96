"""Attention alone, forwards and backwards: ours in XLA's operations and in one kernel, and JAX's own."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.attention import plain_attention
from bert_jax.dropout import places
from bert_jax.fused_attention import fused_attention

from ..workload import Job
from .ours import versions

__all__ = ["Contender", "versions"]

_RATE = 0.1


class _Inputs(NamedTuple):
    """Query, key and value as one product gives them, (B, T, 3, H, K); the gradient of the result, (B, T, H, K).

    Then segments (B, T) and words of dropout. A pytree, handed to compiled functions whole: what they
    closed over would be folded at compile time.
    """

    qkv: jax.Array
    gradient: jax.Array
    segments: jax.Array
    words: jax.Array


class Contender:
    """Times kernels at a batch of the job's `tokens`, `heads`, `head_size` and `dtype`.

    `plain` and `fused` are ours, with `whole` after them without dropout; `jax xla` and `jax cudnn`
    are JAX's own, with neither dropout nor segments. Packed rows hold as many of the job's examples as
    fit, others one example from end to end.
    """

    def __init__(self, job: Job, argument: str):
        self.notes: list[str] = []
        self._settings, self._lengths = job.settings, job.examples("train").lengths
        self._inputs = functools.cache(self._drawn)

    def time(self, kernel: str, length: int, packed: bool, seconds: float) -> float:
        """Seconds of one call forwards and backwards at rows of `length` tokens: the median of five rounds."""
        inputs, both = self._inputs(length, packed), jax.jit(functools.partial(_results, _function(kernel)))
        return _seconds(lambda: both(inputs), seconds)

    def differences(self, length: int, packed: bool) -> dict[str, dict[str, float]]:
        """How far plain and fused are from the plain formula in float32: result and gradients.

        Each is the largest difference, over the largest number of the float32 one; padding is left out.
        """
        inputs = self._inputs(length, packed)
        useful = np.asarray(inputs.segments != 0)[:, :, None]
        exact = inputs._replace(qkv=inputs.qkv.astype(jnp.float32), gradient=inputs.gradient.astype(jnp.float32))
        with jax.default_matmul_precision("highest"):
            expected = _each("plain", exact)
        out: dict[str, dict[str, float]] = {}
        for kernel in ("plain", "fused"):
            for name, array in _each(kernel, inputs).items():
                reference = expected[name] * useful
                difference = float(np.abs(array * useful - reference).max() / np.abs(reference).max())
                out.setdefault(name, {})[kernel] = difference
        return out

    def _drawn(self, length: int, packed: bool) -> _Inputs:
        settings = self._settings
        rows = max(1, settings["tokens"] // length)
        one = (settings["heads"], settings["head_size"])
        generator = np.random.default_rng(settings["seed"])
        qkv, gradient = (generator.standard_normal((rows, length, *shape)) for shape in ((3, *one), one))
        segments = np.ones((rows, length), np.int32)
        for row in range(rows if packed else 0):
            segments[row] = _segments(np.roll(self._lengths, -length * row), length)
        words = generator.integers(0, 2**32, 2, dtype=np.uint32)
        qkv, gradient = (jnp.asarray(array, settings["dtype"]) for array in (qkv, gradient))
        return _Inputs(qkv, gradient, jnp.asarray(segments), jnp.asarray(words))


def _segments(lengths: np.ndarray, row_length: int) -> np.ndarray:
    """One row of as many whole examples as fit; what is left is padding."""
    ends = np.cumsum(lengths[:row_length])
    count = int(np.searchsorted(ends, row_length, side="right"))
    filled = np.repeat(np.arange(1, count + 1, dtype=np.int32), lengths[:count])
    return np.pad(filled, (0, row_length - len(filled)))


def _function(kernel: str) -> Callable[[jax.Array, _Inputs], jax.Array]:
    """The kernel as a function of query, key and value, and of inputs that say what else it needs."""
    name, _, how = kernel.partition(" ")
    if name == "jax":
        implementation: Any = how
        return lambda qkv, _: jax.nn.dot_product_attention(
            qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], implementation=implementation
        )
    if name == "plain":
        return lambda qkv, inputs: plain_attention(
            qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], inputs.segments, None if how else inputs.words, _RATE
        )
    backend: Any = {"gpu": "triton", "tpu": "mosaic"}.get(jax.default_backend(), "interpret")

    def fused(qkv: jax.Array, inputs: _Inputs) -> jax.Array:
        rows, length, _, heads, size = qkv.shape
        first = places((rows, heads)) * jnp.uint32(length * length)
        words, biases = None if how else inputs.words, jnp.zeros((3, heads * size), qkv.dtype)
        flat = qkv.reshape(rows, length, 3, -1)
        mixed = fused_attention(flat, biases, inputs.segments, first, words, rate=_RATE, backend=backend)
        return mixed.reshape(rows, length, heads, size)

    return fused


def _results(mix: Callable[..., jax.Array], inputs: _Inputs) -> tuple[jax.Array, ...]:
    out, pull = jax.vjp(lambda qkv: mix(qkv, inputs), inputs.qkv)
    return out, *pull(inputs.gradient)


def _each(kernel: str, inputs: _Inputs) -> dict[str, np.ndarray]:
    out, gradients = jax.jit(functools.partial(_results, _function(kernel)))(inputs)
    names = ("result", "gradient of query", "gradient of key", "gradient of value")
    found = (np.asarray(array, np.float64) for array in (out, *jnp.moveaxis(gradients, 2, 0)))
    return {name: array.reshape(*array.shape[:2], -1) for name, array in zip(names, found, strict=True)}


def _seconds(call: Callable[[], Any], seconds: float) -> float:
    """Of one call among many given to the device together: the median of five rounds in so many seconds."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready([call(), call()])
    count = max(1, int(seconds / 5 / ((time.perf_counter() - start) / 2)))
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count - 1):
            call()
        jax.block_until_ready(call())
        rounds.append((time.perf_counter() - start) / count)
    return statistics.median(rounds)
