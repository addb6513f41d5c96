"""Dropout as in PyTorch: elements are dropped independently, and the rest is scaled up. A hash gives the bits."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, UInt32


def seeds(rngs: nnx.Rngs | None, count: int) -> UInt32[Array, "{count} 2"] | None:
    """Return two random words for each of `count` uses of dropout, from the `dropout` stream of `rngs`.

    Returns None if `rngs` is None.
    """
    return None if rngs is None else jax.random.bits(rngs.dropout(), (count, 2), jnp.uint32)


def kept(
    places: UInt32[Array, "*shape"], rate: float, words: UInt32[Array, "2"] | tuple[UInt32[Array, ""], ...]
) -> Bool[Array, "*shape"]:
    """Return True with probability 1 - `rate` for each place, from a hash of the place and two random words.

    The hash takes a dozen integer operations per element and has no state. Compilers fuse it into the kernel that
    uses the bits, and `dropout` repeats it in the backward pass, so the bits are not stored. The mixing constants are
    those of Wellons' "lowbias32" and of Knuth's multiplicative hash.
    """
    x = places * jnp.uint32(0x9E3779B9) + words[0]
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = ((x ^ (x >> 15)) + words[1]) * jnp.uint32(0x846CA68B)
    return (x ^ (x >> 16)) >= jnp.uint32(round(rate * 2**32))


def places(shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """Return the index of each element in the array, modulo 2^32.

    Where the array is sharded, indices still count through the whole array, so that the number of devices does not
    change which elements are dropped.
    """
    out, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        out += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return out


def dropout(x: Float[Array, "*shape"], rate: float, words: UInt32[Array, "2"] | None) -> Float[Array, "*shape"]:
    """Zero each element of `x` with probability `rate`, and multiply the other elements by 1 / (1 - `rate`).

    Without `words` (see `seeds`), `x` is returned unchanged.
    """
    if words is None or rate == 0:
        return x
    return _drop(x, rate, words)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(x, rate, words):
    return jnp.where(kept(places(x.shape), rate, words), x * (1 / (1 - rate)), 0).astype(x.dtype)


def _forward(x, rate, words):
    return _drop(x, rate, words), words


def _backward(rate, words, gradient):
    # The barrier hides from the compiler that the forward pass computes the same bits. Without it, the compiler would
    # store the bits of the forward pass instead of computing them again.
    return _drop(gradient, rate, lax.optimization_barrier(words)), None


_drop.defvjp(_forward, _backward)
