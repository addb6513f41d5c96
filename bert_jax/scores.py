"""Scores from logits, and the threshold of scores from which a label is predicted. This module does not need JAX."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from bert_jax.config import MULTI_LABEL, REGRESSION
from bert_jax.errors import UserError

HALF = 0.5
"""The default threshold: the probability from which a label is predicted, if the checkpoint gives no threshold."""


def scores_of(logits: Float[np.ndarray, "N C"], task: str) -> Float[np.ndarray, "N C"]:
    """Return the scores of logits for `task`, a `problem_type`.

    Single-label scores are probabilities that sum to 1 (softmax). Multi-label scores are an independent probability
    for each label (sigmoid). Regression scores are the logits themselves.
    """
    if task == REGRESSION:
        return logits
    if task == MULTI_LABEL:
        grown = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1, grown) / (1 + grown)
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def threshold_of(metadata: Mapping[str, str]) -> float:
    """Return the probability from which a label is predicted in multi-label classification.

    The threshold comes from a checkpoint's metadata; without one there, it is `HALF`. Raises `UserError` if the
    metadata's threshold is not a number between 0 and 1, both excluded.
    """
    said = metadata.get("threshold", str(HALF))
    try:
        if 0 < float(said) < 1:
            return float(said)
    except ValueError:
        pass
    raise UserError(f"the checkpoint's threshold is {said!r}; expected a number between 0 and 1")
