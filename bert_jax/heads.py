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
        how: dict[str, Any] = {"precision": precision, "attention": attention, "remat": remat, "frozen": frozen}
        self.bert = Model(config, dtype=dtype, **how, rngs=rngs)
        self.classifier = linear(config, config.hidden_size, len(config.labels), self.bert.dtype, precision, rngs)
        rate = config.classifier_dropout
        self.rate = config.hidden_dropout_prob if rate is None else rate

    def __call__(self, rows: Rows, rngs: nnx.Rngs | None = None) -> Float[Array, "N C"]:
        """Return the float32 logits of the N examples in `rows`, in the order of `rows.first_tokens`."""
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
    """Return the loss of each example for `task`, a `problem_type`.

    Single-label: targets are N class ids, and the loss is the negative log-likelihood in nats.
    Multi-label: targets are N x C numbers, 0 or 1, and the loss is the mean of C binary negative log-likelihoods.
    Regression: targets are N x C numbers, and the loss is the mean squared error.

    `smoothing` spreads this share of a target over all classes (single-label) or over both answers (multi-label).
    `class_weights` multiply the loss term of each class (single-label) or the positive term of each label
    (multi-label). Losses are not divided by the sum of the weights, so the loss of an example does not depend on how
    examples are divided into batches and shards. Regression uses neither option.
    Source: torch's cross_entropy (label_smoothing, weight), binary_cross_entropy_with_logits (pos_weight) and mse_loss.
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
    """Return the mean negative log-likelihood of single-label examples, weighted by `weights`, in nats.

    An example of weight 0 does not count. If all weights are 0, the loss is 0.
    """
    return jnp.sum(example_losses(logits, labels) * weights) / jnp.maximum(jnp.sum(jnp.asarray(weights)), 1e-9)
