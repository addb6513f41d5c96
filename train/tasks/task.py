"""What training adds to a task, as a record of plain functions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bert_jax.tasks import Task

from ..metrics import Metrics
from ..rows import Data
from .figures import Figure

Targets = tuple[tuple[str, ...], dict[str, np.ndarray]]
"""Label names in order of id, and the targets of each split, whose first axis is the rows of the split."""

Resampled = Callable[[np.ndarray], Metrics]
"""Function that returns the metrics of the examples with these indices, which may repeat."""


class Mistake(NamedTuple):
    """The target, the prediction and the score of one example, as the report shows them."""

    true: str
    predicted: str
    score: str


class Wording(NamedTuple):
    """Words of the report: how the bootstrap draws, the heading of the worst mistakes, and of their last column."""

    drawn: str
    mistakes: str
    score: str


@dataclass(frozen=True)
class TrainingTask:
    """What training needs to know of a task beyond `task`: labels and targets, metrics, and what people are told.

    Logits and targets are arrays as the functions of the same task return and take them. The rest of training knows
    only that their first axis is the examples. `scores` are the scores of logits in float64 (`Task.scores`).

    Labels:

    - `suggested(sample, columns)` returns whether the label columns of a few records look like this task. If none of
      the tasks does, the task is the default one.
    - `label(name, value, separator)` returns the value of a label column in the form of `Row.label`. It raises
      `ValueError` that says what is wrong with the value.
    - `label_of_columns(record, columns)` does the same for several label columns, each with 0 or 1 for a label.
    - `targets(data, names)` returns the label names, and the targets of each split (`tasks.targets_of`).
    - `by_number(data, names)` returns a warning if labels are matched to `names` by number, or an empty string.

    Options:

    - `class_weights(given, targets, names)` returns the weights that `--class-weights` asks for, or raises `UserError`.
    - `refused` maps other options that the task does not take to the error.

    Metrics:

    - `measure(logits, targets, threshold, undefined)` returns the metrics (`tasks.measure`).
    - `best_threshold(logits, targets, metric)` returns the threshold that `--threshold best` asks for. It is None if
      the task has no threshold, and `--threshold` is then refused.
    - `resampling(logits, targets, threshold)` returns a function that measures resamples of the bootstrap. It is None
      if a resample is measured as the whole is.
    - `strata(targets)` returns an id for each example. The bootstrap draws among examples with the same id.

    Preview:

    - `described(names, targets)` returns lines that describe the targets of a split.
    - `warnings(names, targets)` yields warnings about the labels; `targets` maps the names of splits to their targets.

    Report:

    - `absent(targets, metrics, names)` returns a remark on classes that the targets lack, or an empty string.
    - `stated(scores, targets)` returns the probability of each prediction, and whether it came true. It is None if the
      task has no probabilities.
    - `wrongness(scores, targets, threshold)` returns a number for each example, 0 if it is right and larger for worse.
    - `mistake(scores, target, names, threshold)` describes one example.
    - `figures(scores, targets, metrics, names)` returns the plots of the report. The plot of the calibration, if there
      is one, comes after the first.
    """

    task: Task
    suggested: Callable[[Sequence[dict[str, Any]], Sequence[str]], bool]
    label: Callable[[str, Any, str], Any]
    label_of_columns: Callable[[dict[str, Any], Sequence[str]], Any]
    targets: Callable[[Data, Sequence[str]], Targets]
    by_number: Callable[[Data, Sequence[str]], str]
    class_weights: Callable[[str, np.ndarray, Sequence[str]], np.ndarray]
    measure: Callable[[np.ndarray, np.ndarray, float, float], Metrics]
    strata: Callable[[np.ndarray], np.ndarray]
    described: Callable[[Sequence[str], np.ndarray], list[str]]
    warnings: Callable[[Sequence[str], Mapping[str, np.ndarray]], Iterator[str]]
    absent: Callable[[np.ndarray, Metrics, Sequence[str]], str]
    wrongness: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    mistake: Callable[[np.ndarray, Any, Sequence[str], float], Mistake]
    figures: Callable[[np.ndarray, np.ndarray, Metrics, Sequence[str]], list[Figure]]
    wording: Wording
    best_threshold: Callable[[np.ndarray, np.ndarray, str], float] | None = None
    resampling: Callable[[np.ndarray, np.ndarray, float], Resampled] | None = None
    stated: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
