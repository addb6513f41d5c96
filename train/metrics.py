"""Metrics of each task, computed from logits and targets alone."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from bert_jax.scores import HALF, scores_of
from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

TASKS = {"single-label": SINGLE_LABEL, "multi-label": MULTI_LABEL, "regression": REGRESSION}
"""Map from the values of `--task` to those of `problem_type` in a config."""

TASK_NAMES = {kind: name for name, kind in TASKS.items()}
"""Map from the values of `problem_type` to those of `--task`."""

METRICS = {
    SINGLE_LABEL: ("accuracy", "macro_f1", "mcc", "loss"),
    MULTI_LABEL: ("macro_f1", "micro_f1", "map", "exact_match", "loss"),
    REGRESSION: ("spearman", "pearson", "mse", "loss"),
}
"""Names of the metrics of each task. By default, the first one chooses the best model."""

ALL_METRICS = tuple(dict.fromkeys(name for names in METRICS.values() for name in names))

SMALLER_IS_BETTER = frozenset({"loss", "mse"})

Metrics = dict[str, Any]
"""The number of `examples` and the metrics of the task, ready to be written as JSON.

For single and several labels, `f1` is the F1 of each label, in order of label id. For single labels, the F1 of a class
that is neither in the targets nor predicted is None, and `confusion[i][j]` counts the examples of class i that are
predicted as j. For several labels, `threshold` is the probability from which a label is predicted.
"""


def measure(
    task: str,
    logits: Float[np.ndarray, "N C"],
    targets: Shaped[np.ndarray, "N ..."],
    *,
    threshold: float = HALF,
    undefined: float = 0.0,
) -> Metrics:
    """Return the metrics of a task (a `problem_type`).

    The loss is the training loss without class weights and label smoothing. `targets` are class ids (N) for single
    labels, else (N, C): 1 for each label that an example has, or numbers. Each of several labels is predicted from the
    probability `threshold` on. `undefined` is the value of what these examples do not define: a correlation with a
    constant side, the F1 of a label that is neither in the targets nor predicted, and the average precision of a label
    that is not in the targets. The value 0 is as in scikit-learn, and nan is left out of means.
    """
    numbers = logits.astype(np.float64)
    if task == MULTI_LABEL:
        found = multi_label(numbers, targets, threshold, undefined)
    else:
        found = (single_label if task == SINGLE_LABEL else regression)(numbers, targets, undefined)
    return {"examples": len(targets), **found}


def single_label(logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, " N"], undefined: float) -> Metrics:
    """Return the loss in nats, the accuracy, the mean F1 and Matthews' correlation coefficient.

    The mean F1 is over the classes that are in the targets or predicted, as in scikit-learn's macro average.
    """
    classes = logits.shape[1]
    peak = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
    loss = np.mean(log_sum - logits[np.arange(len(targets)), targets])
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (targets, logits.argmax(axis=1)), 1)
    right, true, said = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = _f1(right, true, said, np.nan)
    n = len(targets)
    # Gorodkin's R_K, which is Matthews' correlation for two classes.
    spread = np.sqrt(float(n**2 - (true**2).sum()) * float(n**2 - (said**2).sum()))
    mcc = float(right.sum() * n - (true * said).sum()) / spread if spread else undefined
    return {
        "loss": float(loss),
        "accuracy": float(right.sum() / n),
        "macro_f1": _mean(f1),
        "mcc": mcc,
        "f1": [None if np.isnan(value) else value for value in f1.tolist()],
        "confusion": confusion.tolist(),
    }


def multi_label(
    logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], threshold: float, undefined: float
) -> Metrics:
    """Return the mean binary loss in nats, the F1 of each label at the threshold and its means, and the mean AP.

    The average precision (AP) of a label is the mean, over the examples with the label, of the precision among all
    examples that score at least as high. If `undefined` is 0, a label without examples counts as 0 in both the macro F1
    and the mean AP. These are the definitions of scikit-learn. The share of exact matches is returned too.
    """
    held = targets > 0.5
    loss = np.mean(np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits))))
    said = scores_of(logits, MULTI_LABEL) >= threshold
    right, true, claimed = (held & said).sum(0), held.sum(0), said.sum(0)
    f1 = _f1(right, true, claimed, undefined)
    micro = _micro(right, true, claimed, undefined)
    precisions = np.full(len(true), undefined, np.float64)
    for label in np.flatnonzero(true):
        precisions[label] = _average_precision(logits[:, label], held[:, label])
    return {
        "loss": float(loss),
        "macro_f1": _mean(f1),
        "micro_f1": micro,
        "map": _mean(precisions),
        "exact_match": float((held == said).all(axis=1).mean()),
        "threshold": threshold,
        "f1": f1.tolist(),
    }


def best_threshold(logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], metric: str) -> float:
    """Return the threshold with the best macro F1, or with the best micro F1 if `metric` is `micro_f1`.

    The thresholds are 0.01, 0.02 to 0.99. Of several best thresholds, the one nearest to 0.5 is returned.
    """
    held, scores = targets > 0.5, scores_of(logits.astype(np.float64), MULTI_LABEL)

    def quality(threshold: float) -> float:
        said = scores >= threshold
        right, true, claimed = (held & said).sum(0), held.sum(0), said.sum(0)
        return _micro(right, true, claimed, 0.0) if metric == "micro_f1" else _mean(_f1(right, true, claimed, 0.0))

    found = {hundredths / 100: quality(hundredths / 100) for hundredths in range(1, 100)}
    return max(found, key=lambda threshold: (found[threshold], -abs(threshold - HALF)))


def regression(logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], undefined: float) -> Metrics:
    """Return the mean squared error, which is also the loss, and the correlations of Pearson and Spearman."""
    said, true = logits.ravel(), targets.ravel().astype(np.float64)
    mse = float(np.mean((said - true) ** 2))
    return {
        "loss": mse,
        "mse": mse,
        "pearson": _correlation(said, true, undefined),
        "spearman": _correlation(_ranks(said), _ranks(true), undefined),
    }


def better(name: str, new: float, old: float | None) -> bool:
    """Return whether a value of this metric is better than `old`, the best so far. Any value is better than None."""
    return old is None or (new < old if name in SMALLER_IS_BETTER else new > old)


def _f1(right: np.ndarray, true: np.ndarray, said: np.ndarray, undefined: float) -> np.ndarray:
    total = true + said
    return np.divide(2 * right, total, out=np.full(len(total), undefined, np.float64), where=total > 0)


def _micro(right: np.ndarray, true: np.ndarray, said: np.ndarray, undefined: float) -> float:
    total = int(true.sum() + said.sum())
    return float(2 * right.sum() / total) if total else undefined


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not nan, or nan if all of them are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _average_precision(scores: np.ndarray, held: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    scores, held = scores[order], held[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # last place of each group of equal scores
    right = np.cumsum(held)[last]
    gained = np.diff(right, prepend=0)
    return float((gained * right / (last + 1)).sum() / right[-1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values, from 0. Equal values get the mean of their ranks."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[group]


def _correlation(a: np.ndarray, b: np.ndarray, undefined: float) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return undefined
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size > 0 else undefined
