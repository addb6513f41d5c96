"""What an evaluation measures, by task, from logits and targets alone."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL

TASKS = {"single-label": SINGLE_LABEL, "multi-label": MULTI_LABEL, "regression": REGRESSION}
"""What `--task` says, and `problem_type` in a config."""

TASK_NAMES = {kind: name for name, kind in TASKS.items()}
"""The same the other way."""

METRICS = {
    SINGLE_LABEL: ("accuracy", "macro_f1", "mcc", "loss"),
    MULTI_LABEL: ("macro_f1", "micro_f1", "map", "exact_match", "loss"),
    REGRESSION: ("spearman", "pearson", "mse", "loss"),
}
"""The figures of each task, the one a best model is chosen by first."""

ALL_METRICS = tuple(dict.fromkeys(name for names in METRICS.values() for name in names))

SMALLER_IS_BETTER = frozenset({"loss", "mse"})

Metrics = dict[str, Any]
"""`examples`, the task's figures, and where there are classes `f1` of each, in order of label id, and for single
labels `confusion`: confusion[i][j] counts examples of class i predicted as j. JSON as it stands."""


def measure(task: str, logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N ..."]) -> Metrics:
    """The metrics of a task (a `problem_type`): loss as trained on but without weights or smoothing.

    `targets` are class ids (N) for single labels, else (N, C): 1 for each label that holds, or numbers.
    """
    found = _MEASURES[task](logits.astype(np.float64), targets)
    return {"examples": len(targets), **found}


def single_label(logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, " N"]) -> Metrics:
    """Loss in nats, accuracy, mean F1 over classes (0 for one never seen or predicted), Matthews' correlation."""
    classes = logits.shape[1]
    peak = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
    loss = np.mean(log_sum - logits[np.arange(len(targets)), targets])
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (targets, logits.argmax(axis=1)), 1)
    right, true, said = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = _f1(right, true, said)
    n = len(targets)
    # Gorodkin's R_K; of two classes it is Matthews' correlation.
    spread = np.sqrt(float(n**2 - (true**2).sum()) * float(n**2 - (said**2).sum()))
    mcc = float(right.sum() * n - (true * said).sum()) / spread if spread else 0.0
    return {
        "loss": float(loss),
        "accuracy": float(right.sum() / n),
        "macro_f1": float(f1.mean()),
        "mcc": mcc,
        "f1": f1.tolist(),
        "confusion": confusion.tolist(),
    }


def multi_label(logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"]) -> Metrics:
    """Mean binary loss in nats; F1 of each label at probability 0.5 and its means; mean average precision.

    Average precision is the mean, over a label's examples, of the precision among all examples that score at
    least as high (scikit-learn's definition); labels that no example has are left out of its mean.
    """
    held = targets > 0.5
    loss = np.mean(np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits))))
    said = logits > 0
    right, true, claimed = (held & said).sum(0), held.sum(0), said.sum(0)
    f1 = _f1(right, true, claimed)
    micro = _f1(*(np.array([counts.sum()]) for counts in (right, true, claimed)))
    precisions = [_average_precision(logits[:, c], held[:, c]) for c in range(logits.shape[1]) if held[:, c].any()]
    return {
        "loss": float(loss),
        "macro_f1": float(f1.mean()),
        "micro_f1": float(micro[0]),
        "map": float(np.mean(precisions)) if precisions else 0.0,
        "exact_match": float((held == said).all(axis=1).mean()),
        "f1": f1.tolist(),
    }


def regression(logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"]) -> Metrics:
    """Mean squared error, and correlations of Pearson and, by ranks, Spearman (0 where either side is constant)."""
    said, true = logits.ravel(), targets.ravel().astype(np.float64)
    mse = float(np.mean((said - true) ** 2))
    return {
        "loss": mse,
        "mse": mse,
        "pearson": _correlation(said, true),
        "spearman": _correlation(_ranks(said), _ranks(true)),
    }


_MEASURES = {SINGLE_LABEL: single_label, MULTI_LABEL: multi_label, REGRESSION: regression}


def better(name: str, new: float, old: float | None) -> bool:
    """Whether a value of this metric is better than the best so far."""
    return old is None or (new < old if name in SMALLER_IS_BETTER else new > old)


def _f1(right: np.ndarray, true: np.ndarray, said: np.ndarray) -> np.ndarray:
    total = true + said
    return np.divide(2 * right, total, out=np.zeros(len(total)), where=total > 0)


def _average_precision(scores: np.ndarray, held: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    scores, held = scores[order], held[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each group of equal scores
    right = np.cumsum(held)[last]
    gained = np.diff(right, prepend=0)
    return float((gained * right / (last + 1)).sum() / right[-1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[group]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size > 0 else 0.0
