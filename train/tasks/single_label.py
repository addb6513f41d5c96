"""Training for one class of C for each text. Targets are class ids, int32 (N)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from bert_jax.errors import UserError, some
from bert_jax.tasks.single_label import TASK

from ..metrics import Metrics, f1_scores, known_mean
from ..rows import Data, Split
from . import classes
from .figures import Confusion, Figure, Histogram
from .label_lists import labels_of_columns
from .labels import (
    as_integer,
    as_named,
    chosen_weights,
    class_of,
    has_named_numbers,
    label_ids,
    labels_in,
    matched_by_number,
    names_by_number,
    numbers_in,
)
from .task import Mistake, Targets, TrainingTask

_ALL_DIFFERENT = 10
"""Number of rows from which it is an error that every row has a different label."""


def label(name: str, value: Any, separator: str) -> int | str:
    """Return the class of a row, an integer or a name. Raises `ValueError` for a value that names no class."""
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        raise ValueError(f"{name} is {value}, expected an integer or a name (of numbers, pass --task regression)")
    return class_of(name, value)


def label_of_columns(record: dict[str, Any], columns: Sequence[str]) -> str:
    """Return the name of the column with 1. Raises `ValueError` if no column has 1, or if several have."""
    labels = labels_of_columns(record, columns)
    if len(labels) != 1:
        ones = some(labels, 10) if labels else "none"
        raise ValueError(f"of the columns {some(columns, 10)}, 1 is in {ones}; expected 1 in one (--task single-label)")
    return labels[0]


def targets(data: Data, names: Sequence[str]) -> Targets:
    """Return the names of the classes, and the class ids of each split.

    Raises `UserError` as `as_named` and `label_ids` do, and as `check_classes` does if the data define the classes.
    """
    class_names, ids = label_ids(as_named(data, names), names, check_classes)
    return class_names, {split: np.array(split_ids, np.int32) for split, split_ids in ids.items()}


def check_classes(train: Split, names: Sequence[str], rows: int) -> None:
    """Raise `UserError` for too few classes, or if each of many rows has a class of its own (`_ALL_DIFFERENT`)."""
    if len(names) < 2:
        raise UserError(f"{train.path}: all rows have the label {''.join(names)}; a classifier needs two or more")
    if len(names) == rows >= _ALL_DIFFERENT:
        column = f"column {train.columns.labels[0]}" if train.columns else "this"
        raise UserError(f"{train.path}: each of {rows:,} rows has a label of its own; is {column} that of the labels?")


def by_number(data: Data, names: Sequence[str]) -> str:
    """Return a warning if labels are ids in `names`, and have other names or other numbers in the data."""
    if has_named_numbers(data):
        return matched_by_number(names_by_number(data, names), names)
    numbers = numbers_in(names)
    if not numbers or numbers == list(range(len(names))):
        return ""
    labels = {as_integer(label) for split in data.splits.values() for _, _, label in labels_in(split)}
    if None in labels or labels <= {as_integer(name) for name in names}:
        return ""
    return matched_by_number(sorted(map(str, labels)), names)


def class_weights(given: str, targets: Shaped[np.ndarray, " N"], names: Sequence[str]) -> Float[np.ndarray, " C"]:
    """Return the weights that `--class-weights` asks for.

    `balanced` is N / (C * examples of the class), as in scikit-learn.
    """
    balanced = len(targets) / (len(names) * np.maximum(_counts(targets, names), 1))
    return chosen_weights(given, names, balanced)


def measure(
    logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, " N"], threshold: float, undefined: float
) -> Metrics:
    """Return the loss in nats, the accuracy, the mean F1 and Matthews' correlation coefficient.

    The mean F1 is over the classes that are in the targets or predicted, as in scikit-learn's macro average.
    """
    peak = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
    loss = np.mean(log_sum - logits[np.arange(len(targets)), targets])
    confusion = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
    np.add.at(confusion, (targets, logits.argmax(axis=1)), 1)
    right, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = f1_scores(right, true, predicted, np.nan)
    n = len(targets)
    # Gorodkin's R_K, which is Matthews' correlation for two classes.
    spread = np.sqrt(float(n**2 - (true**2).sum()) * float(n**2 - (predicted**2).sum()))
    mcc = float(right.sum() * n - (true * predicted).sum()) / spread if spread else undefined
    return {
        "loss": float(loss),
        "accuracy": float(right.sum() / n),
        "macro_f1": known_mean(f1),
        "mcc": mcc,
        "f1": [None if np.isnan(value) else value for value in f1.tolist()],
        "confusion": confusion.tolist(),
    }


def described(names: Sequence[str], targets: Shaped[np.ndarray, " N"]) -> list[str]:
    """Return a line with the number and share of the texts of each class."""
    return [classes.listed(names, _counts(targets, names), len(targets))]


def warnings(names: Sequence[str], targets: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield warnings about the names and the numbers of the classes."""
    counts = {split: _counts(split_targets, names) for split, split_targets in targets.items()}
    return classes.warnings(names, counts, len(targets["train"]))


def absent(targets: Shaped[np.ndarray, " N"], metrics: Metrics, names: Sequence[str]) -> str:
    """Return a remark on the classes whose F1 is not defined."""
    unknown = [name for name, f1 in zip(names, metrics["f1"], strict=True) if f1 is None]
    return classes.absent("no text is, or is taken for, {}: not in macro F1", unknown)


def stated(
    scores: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " N"], Shaped[np.ndarray, " N"]]:
    """Return the probability of the predicted class of each text, and whether it is right."""
    return scores.max(axis=1), scores.argmax(axis=1) == targets


def wrongness(
    scores: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, " N"], threshold: float
) -> Float[np.ndarray, " N"]:
    """Return the probability of each wrong prediction, and 0 for each right one."""
    return np.where(scores.argmax(axis=1) != targets, scores.max(axis=1), 0)


def mistake(scores: Float[np.ndarray, " C"], target: Any, names: Sequence[str], threshold: float) -> Mistake:
    """Return the class, the predicted class, and its probability."""
    return Mistake(names[int(target)], names[int(scores.argmax())], f"{scores.max():.3f}")


def figures(
    scores: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, " N"], metrics: Metrics, names: Sequence[str]
) -> list[Figure]:
    """Return the confusion matrix, and a histogram of the scores: of a class, or with more than two, the highest."""
    confusion = Confusion(metrics["confusion"], names)
    if len(names) == 2:
        groups = {names[i]: scores[targets == i, 1] for i in (1, 0)}
        return [confusion, Histogram("Scores", groups, "probability of", (0.0, 1.0), names[1])]
    highest, right = stated(scores, targets)
    groups = {"right": highest[right], "wrong": highest[~right]}
    return [confusion, Histogram("Scores", groups, "highest probability", (0.0, 1.0))]


def _counts(targets: Shaped[np.ndarray, " N"], names: Sequence[str]) -> Int[np.ndarray, " C"]:
    return np.bincount(targets, minlength=len(names))


TRAINING = TrainingTask(
    task=TASK,
    suggested=lambda sample, columns: False,  # the default of labels that look like no other task's
    label=label,
    label_of_columns=label_of_columns,
    targets=targets,
    by_number=by_number,
    class_weights=class_weights,
    measure=measure,
    strata=lambda targets: targets,
    described=described,
    warnings=warnings,
    absent=absent,
    stated=stated,
    wrongness=wrongness,
    mistake=mistake,
    figures=figures,
    wording=classes.WORDING,
)
