"""bert_jax.Embedder, from raw text."""

import numpy as np

import bert_jax

from ..workload import Job
from .ours_prediction import computed, versions

__all__ = ["Contender", "versions"]


class Contender:
    """Embeds texts as a user of the library would."""

    def __init__(self, job: Job, argument: str):
        self.notes: list[str] = []
        self._texts, self._examples = job.texts(), job.examples("train")
        self._embedder = bert_jax.Embedder.load(job.native)
        self._found = np.empty(0)

    def embed(self, count: int) -> None:
        """Embed the first texts, and keep what comes out."""
        self._found = self._embedder(self._texts[:count])

    def vectors(self, count: int) -> list[list[float]]:
        """The first of the embeddings that were kept."""
        return self._found[:count].tolist()

    def computed(self, count: int) -> list[int]:
        """Batches and tokens computed for the first texts, padding included."""
        return computed(self._examples, 0, count)
