"""The stack of L transformer layers."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt32

from bert_jax.attention import Attention, linear
from bert_jax.config import BertConfig
from bert_jax.dropout import dropout
from bert_jax.embeddings import layer_norm

_tanh_gelu = functools.partial(jax.nn.gelu, approximate=True)

# hidden_act -> function; Hugging Face's "gelu" is the exact form, jax's default is not.
ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


class Layer(nnx.Module):
    """Attention, then feed-forward, each with dropout, residual and LayerNorm after it.

    Source: BERT paper, section 3; transformers' `BertLayer` (post-norm).
    """

    def __init__(self, config: BertConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.attention_norm = layer_norm(config, rngs)
        self.intermediate = linear(config, config.hidden_size, config.intermediate_size, dtype, rngs)
        self.output = linear(config, config.intermediate_size, config.hidden_size, dtype, rngs)
        self.output_norm = layer_norm(config, rngs)
        self.activation = config.hidden_act
        self.rate = config.hidden_dropout_prob

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B 1 T T"],
        words: UInt32[Array, "3 2"] | None = None,
    ) -> Float[Array, "B T D"]:
        """One layer; the result keeps the dtype of `x`. `words` are for its three uses of dropout."""
        inside, after, last = (None, None, None) if words is None else words
        attended = dropout(self.attention(x, mask, inside), self.rate, after)
        x = self.attention_norm(attended + x).astype(x.dtype)
        grown = ACTIVATIONS[self.activation](self.intermediate(x))
        shrunk = dropout(self.output(grown), self.rate, last)
        return self.output_norm(shrunk + x).astype(x.dtype)


class Encoder(nnx.Module):
    """The layers in order."""

    def __init__(self, config: BertConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.layers = nnx.List([Layer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_hidden_layers)])

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B 1 T T"],
        words: UInt32[Array, "_ 2"] | None = None,
    ) -> list[Float[Array, "B T D"]]:
        """Every layer's output, first to last; under `jax.jit`, unused ones cost nothing."""
        outputs = []
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, None if words is None else words[3 * i : 3 * i + 3])
            outputs.append(x)
        return outputs
