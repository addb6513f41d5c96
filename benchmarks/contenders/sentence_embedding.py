"""sentence-transformers on torch, from raw text."""

import numpy as np
import sentence_transformers
import torch

from ..workload import Job
from . import torch_training


class Contender:
    """Embeds texts with `encode`; `argument` is its batch size."""

    def __init__(self, job: Job, argument: str):
        self.notes: list[str] = []
        self._texts, self._lengths = job.texts(), job.examples("train").lengths
        self._batch_size = int(argument)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = sentence_transformers.SentenceTransformer(str(job.huggingface), device=device)
        self._found = np.empty(0)

    def embed(self, count: int) -> None:
        """Embed the first texts, and keep what comes out."""
        self._found = self._model.encode(self._texts[:count], batch_size=self._batch_size, show_progress_bar=False)

    def vectors(self, count: int) -> list[list[float]]:
        """The first of the embeddings that were kept."""
        return self._found[:count].tolist()

    def computed(self, count: int) -> list[int]:
        """Batches and tokens computed for the first texts, padding included; it sorts them by their characters."""
        order = np.argsort([-len(text) for text in self._texts[:count]])
        batches = [self._lengths[order[i : i + self._batch_size]] for i in range(0, count, self._batch_size)]
        return [len(batches), sum(int(batch.max()) * len(batch) for batch in batches)]


def versions() -> dict[str, str]:
    """What it runs on."""
    return {"sentence-transformers": sentence_transformers.__version__, **torch_training.versions()}
