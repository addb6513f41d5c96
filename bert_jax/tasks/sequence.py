"""What the tasks of a sequence classifier share: the head, the columns of its scores, and two metrics."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from bert_jax.tasks.task import Head, Metric

if TYPE_CHECKING:
    from bert_jax.config import BertConfig
    from bert_jax.predict import Prediction

PIPELINE = "text-classification"

LOSS = Metric("loss", "loss", "Loss", "loss", smaller_is_better=True)
MACRO_F1 = Metric("macro_f1", "macro F1", "Macro F1", "f1")


def _shapes(config: "BertConfig") -> Mapping[str, tuple[int, ...]]:
    size, labels = config.hidden_size, len(config.labels)
    return {"classifier.kernel": (size, labels), "classifier.bias": (labels,)}


HEAD = Head("BertForSequenceClassification", pooled=True, labelled=True, shapes=_shapes)
"""The head of `bert_jax.heads.SequenceClassifier`: C logits for each text or pair of texts."""


def most_probable(scores: Float[np.ndarray, "N C"]) -> list[int]:
    """Return the id of the most probable class or label of each example."""
    return scores.argmax(1).tolist()


def score_columns(prediction: "Prediction") -> dict[str, float]:
    """Return a column with the score of each label."""
    return {f"score_{name}": score for name, score in prediction.scores.items()}
