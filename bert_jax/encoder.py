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
    """Attention, then feed-forward, each with dropout, residual and LayerNorm after it.

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
        # Backwards the activation is computed again from the product: of all the arrays of F
        # features it is made of, only that one is kept.
        self._activate = jax.checkpoint(lambda product, bias: activation(product + bias))
        self.rate = config.hidden_dropout_prob

    def __call__(
        self,
        x: Float[Array, "B T D"],
        segment_ids: Int[Array | ndarray, "B T"],
        words: UInt32[Array, "3 2"] | None = None,
    ) -> Float[Array, "B T D"]:
        """One layer; the result keeps the dtype of `x`. `words` are for its three uses of dropout."""
        inside, after, last = (None, None, None) if words is None else words
        attended = dropout(self.attention(x, segment_ids, inside), self.rate, after)
        x = self.attention_norm(attended + x)
        kernel = self.intermediate.kernel[...].astype(x.dtype)
        product = jnp.matmul(x, kernel, precision=self.intermediate.precision)
        bias = self.intermediate.bias
        assert bias is not None  # `linear` makes one
        grown = self._activate(product, bias[...].astype(x.dtype))
        shrunk = dropout(self.output(grown), self.rate, last)
        return self.output_norm(shrunk + x)


class Encoder(nnx.Module):
    """The layers in order; with `remat`, a backward pass computes each anew from its input.

    None goes below the first `frozen` layers.
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
        how: dict[str, Any] = {"dtype": dtype, "precision": precision, "attention": attention}
        self.layers = nnx.List([Layer(config, **how, rngs=rngs) for _ in range(count)])
        self.remat, self.frozen = remat, frozen

    def __call__(
        self,
        x: Float[Array, "B T D"],
        segment_ids: Int[Array | ndarray, "B T"],
        words: UInt32[Array, "_ 2"] | None = None,
    ) -> list[Float[Array, "B T D"]]:
        """Every layer's output, first to last; under `jax.jit`, unused ones cost nothing."""
        outputs = []
        if self.frozen == 0:
            x = jax.lax.stop_gradient(x)
        for i, layer in enumerate(self.layers):
            here = None if words is None else words[3 * i : 3 * i + 3]
            run = functools.partial(layer, segment_ids=segment_ids, words=here)
            x = jax.checkpoint(run)(x) if self.remat else run(x)
            if self.frozen == i + 1:
                x = jax.lax.stop_gradient(x)
            outputs.append(x)
        return outputs
