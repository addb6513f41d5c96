"""BERT: a model that maps packed rows of tokens to one vector per token."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from numpy import ndarray

from bert_jax.activations import tanh
from bert_jax.attention import linear
from bert_jax.config import BertConfig
from bert_jax.dropout import seeds
from bert_jax.embeddings import Embeddings
from bert_jax.encoder import Encoder


class Model(nnx.Module):
    """Embeddings, encoder and, where the config has one, the pooler.

    Parameters are float32. Matrix products are computed in `dtype` (float32 or bfloat16). `precision` (one of
    `config.PRECISIONS`) sets how exactly float32 products are computed. `attention` is one of `config.ATTENTION`.
    With `remat`, a backward pass takes more time and less memory. The embeddings and the first `frozen` layers get no
    gradient and no backward pass; with `frozen=None`, nothing is frozen.

    A call for training needs `rngs` with a `dropout` stream. Without `rngs`, nothing is dropped.
    Source: BERT paper, section 3; transformers' `BertModel`.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        precision: str = "highest",
        attention: str = "auto",
        remat: bool = False,
        frozen: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.embeddings = Embeddings(config, dtype=self.dtype, rngs=rngs)
        settings: dict[str, Any] = {"precision": precision, "attention": attention, "remat": remat, "frozen": frozen}
        self.encoder = Encoder(config, dtype=self.dtype, **settings, rngs=rngs)
        size = config.hidden_size
        self.pooler = linear(config, size, size, self.dtype, precision, rngs) if config.add_pooling_layer else None

    def hidden_states(
        self,
        input_ids: Int[Array | ndarray, "B T"],
        token_type_ids: Int[Array | ndarray, "B T"],
        position_ids: Int[Array | ndarray, "B T"],
        segment_ids: Int[Array | ndarray, "B T"],
        rngs: nnx.Rngs | None = None,
    ) -> list[Float[Array, "B T D"]]:
        """Return the embeddings and the output of every layer: L+1 arrays, in the order of transformers."""
        words = seeds(rngs, 1 + 3 * self.config.num_hidden_layers)
        embeddings_words, encoder_words = (None, None) if words is None else (words[0], words[1:])
        embedded = self.embeddings(input_ids, token_type_ids, position_ids, embeddings_words)
        return [embedded, *self.encoder(embedded, segment_ids, encoder_words)]

    def __call__(
        self,
        input_ids: Int[Array | ndarray, "B T"],
        token_type_ids: Int[Array | ndarray, "B T"],
        position_ids: Int[Array | ndarray, "B T"],
        segment_ids: Int[Array | ndarray, "B T"],
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B T D"]:
        """Return the last hidden state of packed rows (`bert_jax.packing.Rows` holds the four arrays).

        Values at padding (segment 0) are finite but have no meaning.
        """
        return self.hidden_states(input_ids, token_type_ids, position_ids, segment_ids, rngs)[-1]

    def pool(
        self,
        hidden: Float[Array, "B T D"],
        first_tokens: Int[Array | ndarray, "*S n"],
    ) -> Float[Array, "N D"]:
        """Return tanh(dense) of the first token, [CLS], of each example.

        `first_tokens` holds indices into the B*T tokens of `hidden`, counted row after row. With a leading axis of S
        shards, each index counts within the tokens of its shard of B/S rows, and N is S*n. Raises `ValueError` if
        the model has no pooler.
        """
        if self.pooler is None:
            raise ValueError("this model has no pooler (add_pooling_layer is false)")
        size, slots = hidden.shape[-1], first_tokens.shape[-1]
        shards = jnp.asarray(first_tokens).reshape(-1, slots, 1)
        # The gather has a batch axis of shards: where rows are sharded, each shard reads only its own tokens.
        vectors = jnp.take_along_axis(hidden.reshape(len(shards), -1, size), shards, axis=1)
        return tanh(self.pooler(vectors.reshape(-1, size)))
