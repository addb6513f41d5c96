"""Evaluation: every example once, whatever the batch size."""

from collections.abc import Callable, Sequence

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from bert_jax.packing import Rows, Tokens
from bert_jax.predict import packed_logits

from .metrics import Metrics, classification


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
