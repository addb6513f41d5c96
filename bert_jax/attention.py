"""Multi-head self-attention over packed rows."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt32
from numpy import ndarray

from bert_jax.config import BertConfig
from bert_jax.dropout import dropout


def linear(config: BertConfig, inputs: int, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense layer with a bias, initialised as BERT's: kernel normal(0, initializer_range)."""
    return nnx.Linear(
        inputs,
        outputs,
        dtype=dtype,
        param_dtype=jnp.float32,
        kernel_init=nnx.initializers.normal(config.initializer_range),
        rngs=rngs,
    )


def segment_mask(segment_ids: Int[Array | ndarray, "B T"]) -> Bool[Array, "B 1 T T"]:
    """True where query and key belong to the same example of a row.

    Padding (segment 0) sees padding only, so no row of the mask is empty and every softmax is
    finite, while no example sees padding.
    """
    segment_ids = jnp.asarray(segment_ids)
    return (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]


class Attention(nnx.Module):
    """Scaled dot-product attention with H heads and its output projection, without residual.

    Source: "Attention is all you need", 3.2; transformers' `BertSelfAttention`.
    """

    def __init__(self, config: BertConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        size = config.hidden_size
        self.query = linear(config, size, size, dtype, rngs)
        self.key = linear(config, size, size, dtype, rngs)
        self.value = linear(config, size, size, dtype, rngs)
        self.output = linear(config, size, size, dtype, rngs)
        self.heads, self.head_size = config.num_attention_heads, config.head_size
        self.rate = config.attention_probs_dropout_prob

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B 1 T T"],
        words: UInt32[Array, "2"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Mix the tokens that `mask` lets see each other; the softmax is float32."""
        # One product for all three: stacked along a new axis, so that heads can be sharded.
        parts = (self.query, self.key, self.value)
        kernel = jnp.stack([part.kernel[...] for part in parts], axis=1).astype(x.dtype)
        bias = jnp.stack([part.bias[...] for part in parts]).astype(x.dtype)
        projected = jnp.einsum("btd,dne->btne", x, kernel) + bias
        query, key, value = jnp.moveaxis(projected.reshape(*x.shape[:2], 3, self.heads, self.head_size), 2, 0)
        scores = jnp.einsum("bthk,bshk->bhts", query, key).astype(jnp.float32) * self.head_size**-0.5
        # A finite value: with -inf, a fully masked row would be NaN.
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        weights = dropout(jax.nn.softmax(scores, axis=-1), self.rate, words).astype(x.dtype)
        return self.output(jnp.einsum("bhts,bshk->bthk", weights, value).reshape(x.shape))
