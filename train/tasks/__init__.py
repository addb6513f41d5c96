"""Training for each task, a file each: targets, metrics, and what preview and report say of them.

A new task is a file beside `single_label` with a `TrainingTask`, and its entry in `TASKS`. The functions below take the
name of a task. Outside this package, nothing asks which task it deals with.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from bert_jax.scores import HALF
from bert_jax.tasks import DEFAULT

from ..metrics import Metrics
from ..rows import Data
from . import multi_label, regression, single_label
from .task import Targets, TrainingTask

TASKS: dict[str, TrainingTask] = {
    one.task.name: one for one in (single_label.TRAINING, multi_label.TRAINING, regression.TRAINING)
}
"""The tasks by name, in the order in which they are asked whether labels look like theirs."""


def task_of(sample: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return the name of the task that the label columns of a few records suggest, or else of the default task."""
    return next((name for name, training in TASKS.items() if training.suggested(sample, columns)), DEFAULT)


def label_of(task: str | None, record: dict[str, Any], columns: Sequence[str], separator: str) -> Any:
    """Return a record's label in the form of `Row.label`; None stands for the default task.

    Raises `ValueError` that says what is wrong with the label, and `UserError` if the task has one label column.
    """
    training = TASKS[task or DEFAULT]
    if len(columns) > 1:
        return training.label_of_columns(record, columns)
    (name,) = columns
    return training.label(name, record[name], separator)


def targets_of(data: Data, names: Sequence[str] = ()) -> Targets:
    """Return the label names in order of id, and the targets of each split.

    `names` are the label names to use in place of the data's own. Raises `UserError` with the row of a label that is
    unknown or can be read in two ways, and for `names` that do not fit the data.
    """
    return TASKS[data.task].targets(data, names)


def by_number(data: Data, names: Sequence[str]) -> str:
    """Return a warning if labels are matched to `names` by number, and have other names or numbers in the data.

    Return an empty string if there is nothing to warn of.
    """
    return TASKS[data.task].by_number(data, names) if names else ""


def class_weights(given: str | None, task: str, targets: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    """Return the weight of each class in the loss, float32 (C), or None if `--class-weights` is not given.

    `given` is the value of `--class-weights`, and `targets` has one target for each training example. A window is an
    example. Raises `UserError` for a task without classes, and for weights that do not fit the classes.
    """
    return None if given is None else TASKS[task].class_weights(given, targets, names)


def measure(
    task: str,
    logits: Float[np.ndarray, "N ..."],
    targets: Shaped[np.ndarray, "N ..."],
    *,
    threshold: float = HALF,
    undefined: float = 0.0,
) -> Metrics:
    """Return the metrics of a task.

    The loss is the training loss without class weights and label smoothing. Each of several labels is predicted from
    the probability `threshold` on. `undefined` is the value of what these examples do not define: a correlation with a
    constant side, the F1 of a label that is neither in the targets nor predicted, and the average precision of a label
    that is not in the targets. The value 0 is as in scikit-learn, and nan is left out of means.
    """
    return {"examples": len(targets), **TASKS[task].measure(logits.astype(np.float64), targets, threshold, undefined)}
