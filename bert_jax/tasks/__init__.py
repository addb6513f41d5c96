"""The tasks, a file each: what the outputs of a head mean, in losses, scores and answers.

A new task is a file beside `single_label` with a `Task`, and its entry in `TASKS`. Outside this package, nothing asks
which task it deals with: it takes what it needs from the task's record.
"""

from bert_jax.tasks import multi_label, regression, single_label
from bert_jax.tasks.multi_label import MULTI_LABEL
from bert_jax.tasks.regression import REGRESSION
from bert_jax.tasks.single_label import SINGLE_LABEL
from bert_jax.tasks.task import Head, Metric, Task

__all__ = [
    "DEFAULT",
    "HEADS",
    "MULTI_LABEL",
    "REGRESSION",
    "SINGLE_LABEL",
    "TASKS",
    "Head",
    "Metric",
    "Task",
    "task_of",
]

TASKS: dict[str, Task] = {task.name: task for task in (single_label.TASK, multi_label.TASK, regression.TASK)}
"""The tasks by name, in the order in which messages list them."""

HEADS: dict[str, Head] = {task.architecture: task.head for task in TASKS.values()}
"""The heads by architecture."""

DEFAULT = SINGLE_LABEL
"""The name of the task that a function assumes if it is given none."""


def task_of(architecture: str, problem_type: str | None) -> Task | None:
    """Return the task of a config with these fields, or None for an encoder alone."""
    for task in TASKS.values():
        if task.architecture == architecture and task.problem_type in (None, problem_type):
            return task
    return None
