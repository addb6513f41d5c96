"""Vectors of tokens: word, token-type and position tables, LayerNorm and dropout."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32
from numpy import ndarray

from bert_jax.attention import initial
from bert_jax.config import BertConfig
from bert_jax.dropout import dropout
from bert_jax.norm import LayerNorm


class Embeddings(nnx.Module):
    """Sum of three table look-ups, normalised (BERT paper, figure 2; transformers' `BertEmbeddings`)."""

    def __init__(self, config: BertConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        def table(rows: int) -> nnx.Embed:
            return nnx.Embed(
                rows,
                config.hidden_size,
                dtype=jnp.float32,
                embedding_init=initial(config),
                rngs=rngs,
            )

        self.word_embeddings = table(config.vocab_size)
        self.token_type_embeddings = table(config.type_vocab_size)
        self.position_embeddings = table(config.max_position_embeddings)
        self.layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.pad_token_id = config.pad_token_id
        self.rate = config.hidden_dropout_prob
        self.dtype = dtype

    def __call__(
        self,
        input_ids: Int[Array | ndarray, "B T"],
        token_type_ids: Int[Array | ndarray, "B T"],
        position_ids: Int[Array | ndarray, "B T"],
        words: UInt32[Array, "2"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Return one vector per token, in the compute dtype.

        An id past the end of its table gives NaN, unless the table has a single row. `words` are the random words for
        dropout (`bert_jax.dropout.seeds`).
        """
        x = self.word_embeddings(jnp.asarray(input_ids))
        if self.pad_token_id is not None:
            # As with torch's padding_idx, the [PAD] row is part of the sum but gets no gradient.
            is_pad = jnp.equal(input_ids, self.pad_token_id)[..., None]
            x = jnp.where(is_pad, jax.lax.stop_gradient(x), x)
        x = x + self.token_type_embeddings(jnp.asarray(token_type_ids))
        x = x + self.position_embeddings(jnp.asarray(position_ids))
        x = self.layer_norm(x).astype(self.dtype)
        return dropout(x, self.rate, words)
