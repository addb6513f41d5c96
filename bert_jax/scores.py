"""Scores from logits, and the threshold of scores from which a label is predicted. This module does not need JAX."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from bert_jax.errors import UserError
from bert_jax.tasks import TASKS

HALF = 0.5
"""The default threshold: the probability from which a label is predicted, if the checkpoint gives no threshold."""


def scores_of(logits: Float[np.ndarray, "N C"], task: str) -> Float[np.ndarray, "N C"]:
    """Return the scores of logits for `task`, the name of a task (`bert_jax.tasks.Task.scores`)."""
    return TASKS[task].scores(logits)


def threshold_of(metadata: Mapping[str, str]) -> float:
    """Return the probability from which a label is predicted in multi-label classification.

    The threshold comes from a checkpoint's metadata; without one there, it is `HALF`. Raises `UserError` if the
    metadata's threshold is not a number between 0 and 1, both excluded.
    """
    threshold = metadata.get("threshold", str(HALF))
    try:
        if 0 < float(threshold) < 1:
            return float(threshold)
    except ValueError:
        pass
    raise UserError(f"the checkpoint's threshold is {threshold!r}; expected a number between 0 and 1")
