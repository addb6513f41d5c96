"""Metrics of single-label classification, from counts alone."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Metrics(NamedTuple):
    """Means over all examples; `confusion[i][j]` counts examples of class i predicted as j."""

    examples: int
    loss: float
    accuracy: float
    macro_f1: float
    confusion: list[list[int]]


def classification(logits: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> Metrics:
    """Loss in nats, accuracy, F1 averaged over classes (0 for a class never seen or predicted)."""
    classes = logits.shape[1]
    exact = logits.astype(np.float64)
    peak = exact.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(exact - peak).sum(axis=1)) + peak[:, 0]
    loss = float(np.mean(log_sum - exact[np.arange(len(labels)), labels]))
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    right = np.diag(confusion)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = np.divide(2 * right, total, out=np.zeros(classes), where=total > 0)
    return Metrics(len(labels), loss, float(right.sum() / len(labels)), float(f1.mean()), confusion.tolist())
