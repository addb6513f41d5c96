"""Dropout as in PyTorch: every element drawn on its own, the rest scaled up."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_LEVELS = 2**16


def dropout(x: Float[Array, "*shape"], rate: float, rngs: nnx.Rngs | None) -> Float[Array, "*shape"]:
    """Zero each element of `x` with probability `rate`; without `rngs`, return `x` as it is.

    The rate is rounded to a multiple of 2^-16, because drawing 16 bits an element costs half of
    what 32 do; survivors are scaled by the rounded rate, so the expected value is exactly `x`.
    """
    dropped = round(rate * _LEVELS)
    if rngs is None or dropped == 0:
        return x
    bits = jax.random.bits(rngs.dropout(), x.shape, jnp.uint16)
    return jnp.where(bits >= dropped, x * (_LEVELS / (_LEVELS - dropped)), 0).astype(x.dtype)
