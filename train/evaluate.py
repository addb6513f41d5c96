"""Evaluation: every example once, whatever the batch size."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from bert_jax.packing import Rows, Tokens
from bert_jax.predict import packed_logits

from .metrics import Metrics, classification


def make_apply(graphdef: nnx.GraphDef) -> Callable[[nnx.State, Rows], Float[Array, "N C"]]:
    """The compiled forward pass of a classifier, without dropout."""
    return jax.jit(lambda params, rows: nnx.merge(graphdef, params)(rows))


def evaluate(
    apply: Callable[[nnx.State, Rows], Float[Array, "N C"]],
    params: nnx.State,
    examples: Sequence[Tokens],
    labels: Sequence[int],
    num_labels: int,
) -> Metrics:
    """Metrics over all examples; rows are packed and padded, examples never dropped."""
    logits = packed_logits(lambda rows: apply(params, rows), examples, num_labels)
    return classification(logits, np.asarray(labels))
