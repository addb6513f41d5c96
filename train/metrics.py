"""The names of all metrics, which value of a metric is better, and F1, which several tasks measure."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from bert_jax.tasks import TASKS

METRICS = {name: tuple(metric.name for metric in task.metrics) for name, task in TASKS.items()}
"""Names of the metrics of each task. By default, the first one chooses the best model."""

_EACH = {metric.name: metric for task in TASKS.values() for metric in task.metrics}

ALL_METRICS = tuple(_EACH)

SMALLER_IS_BETTER = frozenset(name for name, metric in _EACH.items() if metric.smaller_is_better)

WORDS = {name: metric.word for name, metric in _EACH.items()}
"""Printed names of metrics."""

Metrics = dict[str, Any]
"""The number of `examples` and the metrics of the task, ready to be written as JSON.

For single and several labels, `f1` is the F1 of each label, in order of label id. For single labels, the F1 of a class
that is neither in the targets nor predicted is None, and `confusion[i][j]` counts the examples of class i that are
predicted as j. For several labels, `threshold` is the probability from which a label is predicted.
"""


def better(name: str, new: float, old: float | None) -> bool:
    """Return whether a value of this metric is better than `old`, the best so far. Any value is better than None."""
    return old is None or (new < old if name in SMALLER_IS_BETTER else new > old)


def f1_scores(
    right: Shaped[np.ndarray, " C"],
    true: Shaped[np.ndarray, " C"],
    predicted: Shaped[np.ndarray, " C"],
    undefined: float,
) -> Float[np.ndarray, " C"]:
    """Return the F1 of each label from its numbers of right predictions, of targets and of predictions."""
    total = true + predicted
    return np.divide(2 * right, total, out=np.full(len(total), undefined, np.float64), where=total > 0)


def known_mean(values: Float[np.ndarray, " C"]) -> float:
    """Return the mean of the values that are not nan, or nan if all of them are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
