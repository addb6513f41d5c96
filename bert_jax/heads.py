"""Heads on top of the model, and the losses of their tasks."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped
from numpy import ndarray

from bert_jax.attention import linear
from bert_jax.config import BertConfig
from bert_jax.dropout import dropout, seeds
from bert_jax.model import Model
from bert_jax.packing import Rows
from bert_jax.tasks import DEFAULT, TASKS, sequence


class SequenceClassifier(nnx.Module):
    """BERT with a linear layer on the pooled [CLS] token: C logits per example.

    Source: BERT paper, 4.1; transformers' `BertForSequenceClassification`.
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
        settings: dict[str, Any] = {"precision": precision, "attention": attention, "remat": remat, "frozen": frozen}
        self.bert = Model(config, dtype=dtype, **settings, rngs=rngs)
        self.classifier = linear(config, config.hidden_size, len(config.labels), self.bert.dtype, precision, rngs)
        rate = config.classifier_dropout
        self.rate = config.hidden_dropout_prob if rate is None else rate

    def __call__(self, rows: Rows, rngs: nnx.Rngs | None = None) -> Float[Array, "N C"]:
        """Return the float32 logits of the N examples in `rows`, in the order of `rows.first_tokens`."""
        hidden = self.bert(rows.input_ids, rows.token_type_ids, rows.position_ids, rows.segment_ids, rngs)
        pooled = self.bert.pool(hidden, rows.first_tokens)
        words = seeds(rngs, 1)
        return self.classifier(dropout(pooled, self.rate, None if words is None else words[0])).astype(jnp.float32)


NETWORKS = {sequence.HEAD.architecture: SequenceClassifier}
"""The networks with a head, by architecture."""


def example_losses(
    logits: Float[Array, "N C"],
    targets: Shaped[Array | ndarray, "N ..."],
    task: str = DEFAULT,
    *,
    smoothing: float = 0.0,
    class_weights: Float[ndarray, " C"] | None = None,
) -> Float[Array, " N"]:
    """Return the loss of each example for `task`, the name of a task (`bert_jax.tasks.Task.loss`).

    The task says what targets are, and what `smoothing` and `class_weights` do. Losses are not divided by the sum of
    the weights, so the loss of an example does not depend on how examples are divided into batches and shards.
    """
    return TASKS[task].loss(logits, jnp.asarray(targets), smoothing=smoothing, class_weights=class_weights)


def cross_entropy(
    logits: Float[Array, "N C"],
    labels: Int[Array | ndarray, " N"],
    weights: Float[Array | ndarray, " N"],
) -> Float[Array, ""]:
    """Return the mean negative log-likelihood of single-label examples, weighted by `weights`, in nats.

    An example of weight 0 does not count. If all weights are 0, the loss is 0.
    """
    return jnp.sum(example_losses(logits, labels) * weights) / jnp.maximum(jnp.sum(jnp.asarray(weights)), 1e-9)
