"""The stack of L transformer layers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32
from numpy import ndarray

from bert_jax.activations import ACTIVATIONS
from bert_jax.attention import Attention, linear
from bert_jax.config import BertConfig
from bert_jax.dropout import dropout
from bert_jax.norm import LayerNorm


class Layer(nnx.Module):
    """One layer: attention, then feed-forward, each followed by dropout, residual and LayerNorm.

    Source: BERT paper, section 3; transformers' `BertLayer` (post-norm).
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        dtype: jnp.dtype,
        precision: str = "highest",
        attention: str = "auto",
        rngs: nnx.Rngs,
    ):
        self.attention = Attention(config, dtype=dtype, precision=precision, attention=attention, rngs=rngs)
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.intermediate = linear(config, config.hidden_size, config.intermediate_size, dtype, precision, rngs)
        self.output = linear(config, config.intermediate_size, config.hidden_size, dtype, precision, rngs)
        self.output_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        activation = ACTIVATIONS[config.hidden_act]
        # The backward pass recomputes the activation from the product. Of all the arrays that the activation is
        # computed from, each as wide as intermediate_size, only the product is stored.
        self._activate = jax.checkpoint(lambda product, bias: activation(product + bias))
        self.rate = config.hidden_dropout_prob

    def __call__(
        self,
        x: Float[Array, "B T D"],
        segment_ids: Int[Array | ndarray, "B T"],
        words: UInt32[Array, "3 2"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Return the layer's output, in the dtype of `x`.

        `words` are the random words for the layer's three uses of dropout (`bert_jax.dropout.seeds`): on the weights of
        attention, on its output, and on the feed-forward output.
        """
        weights_words, attention_words, output_words = (None, None, None) if words is None else words
        attended = dropout(self.attention(x, segment_ids, weights_words), self.rate, attention_words)
        x = self.attention_norm(attended + x)
        kernel = self.intermediate.kernel[...].astype(x.dtype)
        product = jnp.matmul(x, kernel, precision=self.intermediate.precision)
        bias = self.intermediate.bias
        assert bias is not None  # `linear` always makes a bias
        grown = self._activate(product, bias[...].astype(x.dtype))
        shrunk = dropout(self.output(grown), self.rate, output_words)
        return self.output_norm(shrunk + x)


class Encoder(nnx.Module):
    """The L layers in order.

    With `remat`, a backward pass recomputes each layer from the layer's input. No gradient flows into the first
    `frozen` layers or the embeddings; with `frozen=None`, nothing is frozen.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        dtype: jnp.dtype,
        precision: str = "highest",
        attention: str = "auto",
        remat: bool = False,
        frozen: int | None = None,
        rngs: nnx.Rngs,
    ):
        count = config.num_hidden_layers
        settings: dict[str, Any] = {"dtype": dtype, "precision": precision, "attention": attention}
        self.layers = nnx.List([Layer(config, **settings, rngs=rngs) for _ in range(count)])
        self.remat, self.frozen = remat, frozen

    def __call__(
        self,
        x: Float[Array, "B T D"],
        segment_ids: Int[Array | ndarray, "B T"],
        words: UInt32[Array, "_ 2"] | None = None,
    ) -> list[Float[Array, "B T D"]]:
        """Return the output of every layer, first to last; under `jax.jit`, unused outputs cost nothing."""
        outputs = []
        if self.frozen == 0:
            x = jax.lax.stop_gradient(x)
        for i, layer in enumerate(self.layers):
            layer_words = None if words is None else words[3 * i : 3 * i + 3]
            run = functools.partial(layer, segment_ids=segment_ids, words=layer_words)
            x = jax.checkpoint(run)(x) if self.remat else run(x)
            if self.frozen == i + 1:
                x = jax.lax.stop_gradient(x)
            outputs.append(x)
        return outputs
