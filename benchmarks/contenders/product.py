"""A plain matrix product: the rate this machine can reach. A GPU's float32 product is TF32."""

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
        on_cpu = jax.default_backend() == "cpu"
        size = SIZE if on_cpu else 4 * SIZE
        matrix = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
        self._matrix, self._flops = jnp.asarray(matrix), 2 * size**3
        # Elsewhere, what lies between two products would show in a time of 1.4 ms.
        self._together = 1 if on_cpu else 10
        self._multiply = jax.jit(jnp.matmul)
        self._multiply(self._matrix, self._matrix).block_until_ready()

    def rate(self, seconds: float, dtype: str = "float32") -> float:
        """FLOP/s of the fastest of the products that fit into so many seconds."""
        matrix = self._matrix.astype(dtype)
        self._multiply(matrix, matrix).block_until_ready()
        best, end = float("inf"), time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            results = [self._multiply(matrix, matrix) for _ in range(self._together)]
            jax.block_until_ready(results)
            best = min(best, (time.perf_counter() - start) / self._together)
        return self._flops / best


def versions() -> dict[str, str]:
    """What it runs on."""
    return {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
