"""Task heads on top of the model, and their losses."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from numpy import ndarray

from bert_jax.attention import linear
from bert_jax.config import BertConfig
from bert_jax.dropout import dropout, seeds
from bert_jax.model import Model
from bert_jax.packing import Rows


class SequenceClassifier(nnx.Module):
    """BERT with a linear layer on the pooled [CLS]: C logits an example.

    Source: BERT paper, 4.1; transformers' `BertForSequenceClassification`.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        attention: str = "auto",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.bert = Model(config, dtype=dtype, attention=attention, remat=remat, rngs=rngs)
        self.classifier = linear(config, config.hidden_size, len(config.labels), self.bert.dtype, rngs)
        rate = config.classifier_dropout
        self.rate = config.hidden_dropout_prob if rate is None else rate

    def __call__(self, rows: Rows, rngs: nnx.Rngs | None = None) -> Float[Array, "N C"]:
        """Logits of the N examples in `rows`, in their order, as float32."""
        hidden = self.bert(rows.input_ids, rows.token_type_ids, rows.position_ids, rows.segment_ids, rngs)
        pooled = self.bert.pool(hidden, rows.first_tokens)
        words = seeds(rngs, 1)
        return self.classifier(dropout(pooled, self.rate, None if words is None else words[0])).astype(jnp.float32)


def cross_entropy(
    logits: Float[Array, "N C"],
    labels: Int[Array | ndarray, " N"],
    weights: Float[Array | ndarray, " N"],
) -> Float[Array, ""]:
    """Mean over examples, by weight, of the negative log-likelihood, in nats.

    An example of weight 0 counts for nothing; if all are, the loss is 0.
    """
    log_likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(labels)[:, None], axis=1)[:, 0]
    return -jnp.sum(log_likelihood * weights) / jnp.maximum(jnp.sum(jnp.asarray(weights)), 1e-9)
