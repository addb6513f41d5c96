"""Training for any number of C labels for each text. Targets are 1 for each label of a text, else 0: float32 (N, C)."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from bert_jax.errors import UserError
from bert_jax.scores import HALF
from bert_jax.tasks.multi_label import TASK

from ..metrics import Metrics, f1_scores, known_mean
from ..rows import Data, Split
from . import classes
from .figures import Bars, Figure, Histogram
from .label_lists import bit, labels_of_cell, labels_of_columns, listed, vector_length
from .labels import as_named, chosen_weights, label_ids, matched_by_number, names_by_number
from .task import Mistake, Resampled, Targets, TrainingTask


def suggested(sample: Sequence[dict[str, Any]], columns: Sequence[str]) -> bool:
    """Return whether there are several label columns, or lists in at least half of the records."""
    if len(columns) > 1:
        return True
    lists = 0
    for record in sample:
        with contextlib.suppress(ValueError):
            lists += listed(columns[0], record.get(columns[0])) is not None
    return 2 * lists >= len(sample)


def targets(data: Data, names: Sequence[str]) -> Targets:
    """Return the names of the labels, and which labels each row has.

    Raises `UserError` as `as_named`, `vector_length` and `label_ids` do, as `check_classes` does if the data define the
    labels, and for `names` that do not fit lists of zeros and ones.
    """
    data = as_named(data, names)
    if width := vector_length(data):
        names = tuple(names) or data.names or tuple(map(str, range(width)))
        if len(names) != width:
            raise UserError(f"labels are lists of {width} zeros and ones, and {len(names)} labels are named")
        vectors = {name: [list(map(bit, row.label)) for row in split.rows] for name, split in data.splits.items()}
        return names, {name: np.array(rows, np.float32) for name, rows in vectors.items()}
    names, ids = label_ids(data, names, check_classes)
    matrices = {}
    for name, split in data.splits.items():
        matrix = matrices[name] = np.zeros((len(split.rows), len(names)), np.float32)
        owners = [i for i, row in enumerate(split.rows) for _ in row.label]
        matrix[owners, ids[name]] = 1
    return names, matrices


def check_classes(train: Split, names: Sequence[str], rows: int) -> None:
    """Raise `UserError` if no row has a label."""
    if not names:
        raise UserError(f"{train.path}: no row has a label")


def by_number(data: Data, names: Sequence[str]) -> str:
    """Return a warning if labels are ids in `names`, and have other names in the data."""
    return matched_by_number(names_by_number(data, names), names)


def class_weights(given: str, targets: Shaped[np.ndarray, "N C"], names: Sequence[str]) -> Float[np.ndarray, " C"]:
    """Return the weights that `--class-weights` asks for. A weight applies to the examples with the label.

    `balanced` is the ratio of examples without the label to examples with it.
    """
    counts = targets.sum(axis=0)
    return chosen_weights(given, names, (len(targets) - counts) / np.maximum(counts, 1))


def measure(
    logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], threshold: float, undefined: float
) -> Metrics:
    """Return the mean binary loss in nats, the F1 of each label at the threshold and its means, and the mean AP.

    The average precision (AP) of a label is the mean, over the examples with the label, of the precision among all
    examples that score at least as high. If `undefined` is 0, a label without examples counts as 0 in both the macro F1
    and the mean AP. These are the definitions of scikit-learn. The share of exact matches is returned too.
    """
    has = targets > 0.5
    loss = np.mean(np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits))))
    predicted = TASK.scores(logits) >= threshold
    counts = _counts(has, predicted)
    f1 = f1_scores(*counts, undefined)
    precisions = np.full(has.shape[1], undefined, np.float64)
    for label in np.flatnonzero(has.any(axis=0)):
        precisions[label] = _average_precision(logits[:, label], has[:, label])
    return {
        "loss": float(loss),
        "macro_f1": known_mean(f1),
        "micro_f1": _micro(*counts, undefined),
        "map": known_mean(precisions),
        "exact_match": float((has == predicted).all(axis=1).mean()),
        "threshold": threshold,
        "f1": f1.tolist(),
    }


def best_threshold(logits: Float[np.ndarray, "N C"], targets: Float[np.ndarray, "N C"], metric: str) -> float:
    """Return the threshold with the best macro F1, or with the best micro F1 if `metric` is `micro_f1`.

    The thresholds are 0.01, 0.02 to 0.99. Of several best thresholds, the one nearest to 0.5 is returned.
    """
    has, scores = targets > 0.5, TASK.scores(logits.astype(np.float64))

    def quality(threshold: float) -> float:
        counts = _counts(has, scores >= threshold)
        return _micro(*counts, 0.0) if metric == "micro_f1" else known_mean(f1_scores(*counts, 0.0))

    qualities = {hundredths / 100: quality(hundredths / 100) for hundredths in range(1, 100)}
    return max(qualities, key=lambda threshold: (qualities[threshold], -abs(threshold - HALF)))


def resampling(logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], threshold: float) -> Resampled:
    """Return a function that measures resamples. Labels without examples count as 0 in each of them."""
    present, numbers = targets.any(axis=0), logits.astype(np.float64)

    def resampled(indices: np.ndarray) -> Metrics:
        metrics = measure(numbers[indices], targets[indices], threshold, np.nan)
        if present.any() and not present.all():
            of_present = measure(numbers[indices][:, present], targets[indices][:, present], threshold, np.nan)
            metrics |= {name: present.mean() * of_present[name] for name in ("macro_f1", "map")}
        return metrics

    return resampled


def strata(targets: Shaped[np.ndarray, "N C"]) -> Int[np.ndarray, " N"]:
    """Return the rarest label of each text, or C for a text without labels."""
    has = targets > 0.5
    counts = np.where(has, has.sum(axis=0), len(targets) + 1)
    return np.where(has.any(axis=1), counts.argmin(axis=1), targets.shape[1])


def described(names: Sequence[str], targets: Shaped[np.ndarray, "N C"]) -> list[str]:
    """Return lines with the number and share of the texts of each label, and with the labels of a text."""
    labels = targets.sum(axis=1)
    return [
        classes.listed(names, targets.sum(axis=0).astype(int), len(targets)),
        f"labels a text: mean {labels.mean():.2f}, most {labels.max():g}, none {int((labels == 0).sum()):,}",
    ]


def warnings(names: Sequence[str], targets: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield warnings about the names of the labels and the numbers of their texts."""
    counts = {split: split_targets.sum(axis=0) for split, split_targets in targets.items()}
    return classes.warnings(names, counts, len(targets["train"]))


def absent(targets: Shaped[np.ndarray, "N C"], metrics: Metrics, names: Sequence[str]) -> str:
    """Return a remark on the labels that no text has."""
    unknown = [name for name, count in zip(names, (targets > 0.5).sum(axis=0), strict=True) if not count]
    return classes.absent("no text has {}: 0 in macro F1 and mAP", unknown)


def stated(
    scores: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"]
) -> tuple[Float[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """Return the probability of every label of each text, and whether the text has the label."""
    return scores.ravel(), targets.ravel() > 0.5


def wrongness(
    scores: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], threshold: float
) -> Float[np.ndarray, " N"]:
    """Return the probability of the wrong answer summed over all labels, for each text with a wrong label, else 0."""
    has = targets > 0.5
    return np.where((has == (scores >= threshold)).all(axis=1), 0, np.abs(has - scores).sum(axis=1))


def mistake(scores: Float[np.ndarray, " C"], target: Any, names: Sequence[str], threshold: float) -> Mistake:
    """Return the labels, the predicted labels, and the largest probability of a wrong answer."""
    has = target > 0.5
    true, predicted = (", ".join(np.array(names, object)[mask]) or "none" for mask in (has, scores >= threshold))
    return Mistake(true, predicted, f"{np.abs(has - scores).max():.3f}")


def figures(
    scores: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], metrics: Metrics, names: Sequence[str]
) -> list[Figure]:
    """Return the F1 of each label, and a histogram of the scores of the labels that hold and that do not."""
    has = targets > 0.5
    groups = {"hold": scores[has], "do not": scores[~has]}
    return [
        Bars("F1 of each label", metrics["f1"], names, "F1"),
        Histogram("Scores", groups, "probability of labels", (0.0, 1.0)),
    ]


def _counts(
    has: Bool[np.ndarray, "N C"], predicted: Bool[np.ndarray, "N C"]
) -> tuple[Int[np.ndarray, " C"], Int[np.ndarray, " C"], Int[np.ndarray, " C"]]:
    """Return the numbers of right predictions, of targets, and of predictions of each label."""
    return (has & predicted).sum(0), has.sum(0), predicted.sum(0)


def _micro(right: np.ndarray, true: np.ndarray, predicted: np.ndarray, undefined: float) -> float:
    total = int(true.sum() + predicted.sum())
    return float(2 * right.sum() / total) if total else undefined


def _average_precision(scores: np.ndarray, has: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    scores, has = scores[order], has[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # last place of each group of equal scores
    right = np.cumsum(has)[ends]
    gained = np.diff(right, prepend=0)
    return float((gained * right / (ends + 1)).sum() / right[-1])


TRAINING = TrainingTask(
    task=TASK,
    suggested=suggested,
    label=labels_of_cell,
    label_of_columns=labels_of_columns,
    targets=targets,
    by_number=by_number,
    class_weights=class_weights,
    measure=measure,
    best_threshold=best_threshold,
    resampling=resampling,
    strata=strata,
    described=described,
    warnings=warnings,
    absent=absent,
    stated=stated,
    wrongness=wrongness,
    mistake=mistake,
    figures=figures,
    wording=classes.WORDING,
)
