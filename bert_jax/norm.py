"""LayerNorm over D. Of the arrays with D features per row, only the input is stored for the backward pass."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    x: Float[Array, "*rows D"], scale: Float[Array, " D"], bias: Float[Array, " D"], epsilon: float
) -> Float[Array, "*rows D"]:
    """Return (x - mean) / sqrt(variance + epsilon) * scale + bias, in float32 rounded to the dtype of `x`."""
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.square(wide - mean).mean(axis=-1, keepdims=True) + epsilon)
    y = (wide - mean) * (rstd * scale) + bias
    return y.astype(x.dtype), (x, mean, rstd, scale)


def _backward(epsilon, saved, gradient):
    # The barrier makes the compiler read the saved mean and rstd. Without it, the compiler recomputes mean and rstd
    # within the sums over rows, and then cannot fuse these sums with the terms that they add.
    x, mean, rstd, scale = jax.lax.optimization_barrier(saved)
    gradient = gradient.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * rstd
    rows = tuple(range(x.ndim - 1))
    scaled = gradient * scale
    along, across = scaled.mean(axis=-1, keepdims=True), (scaled * normal).mean(axis=-1, keepdims=True)
    dx = rstd * (scaled - along - normal * across)
    return dx.astype(x.dtype), (gradient * normal).sum(rows), gradient.sum(rows)


normalize.defvjp(_forward, _backward)


class LayerNorm(nnx.Module):
    """BERT's LayerNorm over D, with the exact variance and in float32 throughout."""

    def __init__(self, size: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(size, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(size, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalise each row; the result keeps the dtype of `x`."""
        return normalize(x, self.scale[...], self.bias[...], self.epsilon)
