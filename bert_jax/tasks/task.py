"""What a task is: the meaning of a head's outputs, as a record of plain functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bert_jax.config import BertConfig
    from bert_jax.predict import Prediction


class Metric(NamedTuple):
    """A figure that training measures: its name in options and records, and its names elsewhere.

    `word` is its name in print, `title` its name in a model card, and `hub` its type on the Hugging Face hub.
    """

    name: str
    word: str
    title: str
    hub: str
    smaller_is_better: bool = False


@dataclass(frozen=True)
class Head:
    """The layers on top of an encoder, as configs and checkpoints know them; the network is in `bert_jax.heads`.

    `architecture` is the class of transformers with the same head. A `pooled` head needs the encoder's pooler, and the
    outputs of a `labelled` head have names. `shapes` maps the names of the head's parameters to their shapes.
    """

    architecture: str
    pooled: bool
    labelled: bool
    shapes: Callable[["BertConfig"], Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Task:
    """What the outputs of a head mean: all that prediction and conversion need to know of a task.

    No function needs JAX until a loss is computed. Outputs and targets are arrays whose first axis is the examples.

    - `name` is unique, and `option` is the value of `--task`.
    - `problem_type` is the value of that field in the config, or None if the head's architecture has only this task.
    - `fewest_labels` is the smallest number of labels that the task makes sense with. `supposed` returns whether
      transformers supposes this task if a config gives this number of labels and no `problem_type`.
    - `loss(outputs, targets, smoothing=, class_weights=)` returns the loss of each example, as JAX computes it.
    - `scores` returns the scores of outputs: numbers that people can read, such as probabilities.
    - `best` returns the label id of each example whose score is a prediction's `score`, and `predicted(scores,
      threshold)` all predicted label ids of each example.
    - `answer` returns the part of a prediction's JSON object that differs by task, and `columns` the columns that a
      table gets for the prediction.
    - `metrics` are measured on dev and test. By default, the first one chooses the best model.
    - `pipeline` is the pipeline of transformers for the task. `activation` is the class with which CrossEncoder turns
      outputs into scores, or None if no CrossEncoder takes the model. `gives` and `scoring` say in a model card what
      the model gives, and what its outputs mean.
    """

    name: str
    option: str
    head: Head
    problem_type: str | None
    fewest_labels: int
    supposed: Callable[[int], bool]
    loss: Callable[..., Any]
    scores: Callable[[np.ndarray], np.ndarray]
    best: Callable[[np.ndarray], list[int]]
    predicted: Callable[[np.ndarray, float], list[list[int]]]
    answer: Callable[["Prediction"], dict[str, Any]]
    columns: Callable[["Prediction"], dict[str, Any]]
    metrics: tuple[Metric, ...]
    pipeline: str
    activation: str | None
    gives: str
    scoring: str

    @property
    def architecture(self) -> str:
        """The class of transformers for the task."""
        return self.head.architecture
