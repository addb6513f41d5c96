"""A plain float32 matrix product: the rate this machine can reach."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from ..workload import Job

SIZE = 2048
"""Rows and columns: large enough that more gives no higher rate on CPU."""


class Contender:
    """Multiplies two square matrices."""

    def __init__(self, job: Job, argument: str):
        self.notes: list[str] = []
        size = SIZE if jax.default_backend() == "cpu" else 4 * SIZE
        matrix = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
        self._matrix, self._flops = jnp.asarray(matrix), 2 * size**3
        self._multiply = jax.jit(jnp.matmul)
        self._multiply(self._matrix, self._matrix).block_until_ready()

    def rate(self, seconds: float) -> float:
        """FLOP/s of the fastest of the products that fit into so many seconds."""
        best, end = float("inf"), time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            self._multiply(self._matrix, self._matrix).block_until_ready()
            best = min(best, time.perf_counter() - start)
        return self._flops / best


def versions() -> dict[str, str]:
    """What it runs on."""
    return {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
