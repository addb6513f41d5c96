"""From logits to scores, and from scores to the labels that hold; no part of it needs JAX."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from bert_jax.config import MULTI_LABEL, REGRESSION
from bert_jax.errors import UserError

HALF = 0.5
"""The probability from which on a label holds, of a model that says nothing else."""


def scores_of(logits: Float[np.ndarray, "N C"], task: str) -> Float[np.ndarray, "N C"]:
    """What logits say: probabilities that sum to 1, probabilities each for itself, or the numbers themselves."""
    if task == REGRESSION:
        return logits
    if task == MULTI_LABEL:
        grown = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1, grown) / (1 + grown)
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def threshold_of(metadata: Mapping[str, str]) -> float:
    """From which probability on each of several labels holds, as a checkpoint's metadata say.

    Raises `UserError` where they say something else than a number between 0 and 1.
    """
    said = metadata.get("threshold", str(HALF))
    try:
        if 0 < float(said) < 1:
            return float(said)
    except ValueError:
        pass
    raise UserError(f"the checkpoint's threshold is {said!r}; expected a number between 0 and 1")
