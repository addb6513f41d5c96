"""bert_jax.TextClassifier, from raw text.

All that the benchmark knows of prediction's interface is here.
"""

from collections.abc import Sequence

import jax
import numpy as np

import bert_jax
from bert_jax.logits import batch_tokens
from bert_jax.packing import Tokens, prediction_batches

from ..workload import Examples, Job


class Contender:
    """Labels texts as a user of the library would."""

    def __init__(self, job: Job, argument: str):
        self.notes: list[str] = []
        self._texts, self._examples = job.texts(), job.examples("train")
        self._classifier = bert_jax.TextClassifier.load(job.native)
        self._max_length = job.settings["max_length"]

    def prepare(self, first: int, count: int) -> None:
        """Compile for the shapes that so many texts ask for."""
        self.predict(first, count)

    def predict(self, first: int, count: int) -> list[list[float]]:
        """Scores of every label of these texts."""
        found = self._classifier(self._texts[first : first + count], max_length=self._max_length)
        return [list(prediction.scores.values()) for prediction in found]

    def computed(self, first: int, count: int) -> list[int]:
        """Batches and tokens computed for these texts, padding included."""
        return computed(self._examples, first, count)


def computed(examples: Examples, first: int, count: int) -> list[int]:
    """Batches and tokens computed for `count` examples from `first`, padding included."""
    chosen: Sequence[np.ndarray] = [examples[i] for i in range(first, first + count)]
    tokens = [Tokens(ids, ids * 0) for ids in chosen]
    shapes = [rows.input_ids.size for rows, _ in prediction_batches(tokens, batch_tokens=batch_tokens())]
    return [len(shapes), sum(shapes)]


def versions() -> dict[str, str]:
    """What it runs on."""
    return {"bert_jax": bert_jax.__version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind}
