"""Training for a number for each text. Targets are the numbers, float32 (N, 1)."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from bert_jax.errors import UserError, some
from bert_jax.tasks.regression import TASK
from bert_jax.text_columns import shown

from ..metrics import Metrics
from ..rows import Data
from .figures import Figure, Histogram, Scatter
from .task import Mistake, Targets, TrainingTask, Wording

_FRACTION = re.compile(r"\s*[-+]?\d*\.\d+([eE][-+]?\d+)?\s*")


def suggested(sample: Sequence[dict[str, Any]], columns: Sequence[str]) -> bool:
    """Return whether at least half of the labels are fractions, not all of them whole numbers."""
    values = [record.get(columns[0]) for record in sample]
    fractions = [value for value in values if _is_fraction(value)]
    all_whole = all(float(value or 0).is_integer() for value in fractions)
    return bool(fractions) and not all_whole and 2 * len(fractions) >= len(values)


def label(name: str, value: Any, separator: str) -> float:
    """Return the number of a row. Raises `ValueError` for a value that is no number of float32's range."""
    try:
        number = math.nan if isinstance(value, bool | None) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < 3e38:
        raise ValueError(f"{name} is {shown(value)}, expected a number" if value != "" else f"{name} is empty")
    return number


def label_of_columns(record: dict[str, Any], columns: Sequence[str]) -> float:
    """Raise `UserError`: a text has one number."""
    raise UserError(f"a regression has one number, and {len(columns)} label columns are named: {some(columns, 10)}")


def targets(data: Data, names: Sequence[str]) -> Targets:
    """Return the name of the number, and the numbers of each split. Raises `UserError` for more than one name."""
    if len(names) > 1:
        raise UserError(f"a regression has one number, named {', '.join(names)} here; name one, or none")
    numbers = {name: np.array([[row.label] for row in split.rows], np.float32) for name, split in data.splits.items()}
    return tuple(names) or data.names or ("score",), numbers


def class_weights(given: str, targets: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Raise `UserError`: there are no classes."""
    raise UserError("--class-weights is for classes, and this is a regression; leave it out")


def measure(
    logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], threshold: float, undefined: float
) -> Metrics:
    """Return the mean squared error, which is also the loss, and the correlations of Pearson and Spearman."""
    predicted, true = logits.ravel(), targets.ravel().astype(np.float64)
    mse = float(np.mean((predicted - true) ** 2))
    return {
        "loss": mse,
        "mse": mse,
        "pearson": _correlation(predicted, true, undefined),
        "spearman": _correlation(_ranks(predicted), _ranks(true), undefined),
    }


def strata(targets: Shaped[np.ndarray, "N C"]) -> Int[np.ndarray, " N"]:
    """Return one stratum for all texts."""
    return np.zeros(len(targets), np.int64)


def described(names: Sequence[str], targets: Shaped[np.ndarray, "N C"]) -> list[str]:
    """Return a line with the range, the mean and the deviation of the numbers."""
    values = targets[:, 0]
    return [f"{names[0]}: {values.min():g} to {values.max():g}, mean {values.mean():.4g}, sd {values.std():.4g}"]


def wrongness(
    scores: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], threshold: float
) -> Float[np.ndarray, " N"]:
    """Return the largest error of each text."""
    return np.abs(scores - targets).max(axis=1)


def mistake(scores: Float[np.ndarray, " C"], target: Any, names: Sequence[str], threshold: float) -> Mistake:
    """Return the number, the predicted number, and their difference."""
    return Mistake(*(f"{value:.3g}" for value in (target[0], scores[0], scores[0] - target[0])))


def figures(
    scores: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N C"], metrics: Metrics, names: Sequence[str]
) -> list[Figure]:
    """Return the predicted against the true numbers, and a histogram of the errors."""
    predicted, true = scores[:, 0], targets[:, 0]
    largest_error = np.abs(predicted - true).max()
    return [
        Scatter("Predicted and true", predicted, true, names[0]),
        Histogram("Errors", {"": predicted - true}, "predicted less true", (-largest_error, largest_error + 1e-9)),
    ]


def _is_fraction(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) and bool(_FRACTION.fullmatch(value))


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


TRAINING = TrainingTask(
    task=TASK,
    suggested=suggested,
    label=label,
    label_of_columns=label_of_columns,
    targets=targets,
    by_number=lambda data, names: "",
    class_weights=class_weights,
    refused={
        "label_smoothing": "--label-smoothing is for classes, and this is a regression; leave it out",
    },
    measure=measure,
    strata=strata,
    described=described,
    warnings=lambda names, targets: iter(()),
    absent=lambda targets, metrics, names: "",
    wrongness=wrongness,
    mistake=mistake,
    figures=figures,
    wording=Wording(drawn="", mistakes="Largest errors", score="off by"),
)
