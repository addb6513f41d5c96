"""Task heads on top of the model, and their losses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped
from numpy import ndarray

from bert_jax.attention import linear
from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL, BertConfig
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
        precision: str = "highest",
        attention: str = "auto",
        remat: bool = False,
        frozen: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.config = config
        how: dict[str, Any] = {"precision": precision, "attention": attention, "remat": remat, "frozen": frozen}
        self.bert = Model(config, dtype=dtype, **how, rngs=rngs)
        self.classifier = linear(config, config.hidden_size, len(config.labels), self.bert.dtype, precision, rngs)
        rate = config.classifier_dropout
        self.rate = config.hidden_dropout_prob if rate is None else rate

    def __call__(self, rows: Rows, rngs: nnx.Rngs | None = None) -> Float[Array, "N C"]:
        """Logits of the N examples in `rows`, in their order, as float32."""
        hidden = self.bert(rows.input_ids, rows.token_type_ids, rows.position_ids, rows.segment_ids, rngs)
        pooled = self.bert.pool(hidden, rows.first_tokens)
        words = seeds(rngs, 1)
        return self.classifier(dropout(pooled, self.rate, None if words is None else words[0])).astype(jnp.float32)


def example_losses(
    logits: Float[Array, "N C"],
    targets: Shaped[Array | ndarray, "N ..."],
    task: str = SINGLE_LABEL,
    *,
    smoothing: float = 0.0,
    class_weights: Float[ndarray, " C"] | None = None,
) -> Float[Array, " N"]:
    """The loss of each example, by task (a `problem_type`).

    Single labels (class ids, N): negative log-likelihood in nats. Several labels (0 or 1, N x C): the mean of C
    binary ones. Regression (numbers, N x C): the mean square. `smoothing` spreads that share of a target over all
    classes, or over both answers. `class_weights` multiply each class's term, or that of a label that holds; they
    are not divided out again, so that a loss is the same however a batch is dealt. Source: torch's cross_entropy
    (label_smoothing, weight), binary_cross_entropy_with_logits (pos_weight) and mse_loss.
    """
    weights = np.ones(logits.shape[1], np.float32) if class_weights is None else class_weights
    targets = jnp.asarray(targets)
    if task == SINGLE_LABEL:
        losses = -jax.nn.log_softmax(logits) * weights
        chosen = jnp.take_along_axis(losses, targets[:, None], axis=1)[:, 0]
        return chosen if not smoothing else (1 - smoothing) * chosen + smoothing * losses.mean(axis=1)
    if task == MULTI_LABEL:
        held = targets * (1 - smoothing) + smoothing / 2
        return jnp.mean(weights * held * jax.nn.softplus(-logits) + (1 - held) * jax.nn.softplus(logits), axis=1)
    assert task == REGRESSION, task
    return jnp.mean((logits - targets) ** 2, axis=1)


def cross_entropy(
    logits: Float[Array, "N C"],
    labels: Int[Array | ndarray, " N"],
    weights: Float[Array | ndarray, " N"],
) -> Float[Array, ""]:
    """Mean over examples, by weight, of the negative log-likelihood, in nats.

    An example of weight 0 counts for nothing; if all are, the loss is 0.
    """
    return jnp.sum(example_losses(logits, labels) * weights) / jnp.maximum(jnp.sum(jnp.asarray(weights)), 1e-9)
