"""transformers on torch, from raw text: its pipeline, or batches sorted by length by hand."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from ..workload import Job
from .torch_training import versions

__all__ = ["Contender", "versions"]

_SWEEP = (1, 4, 8, 16, 32, 64)
_SWEEP_TEXTS = 192


class Contender:
    """`argument` is `pipeline`, whose batch size is sought while it warms up, or `sorted-SIZE`."""

    def __init__(self, job: Job, argument: str):
        self.notes: list[str] = []
        self._texts, self._lengths = job.texts(), job.examples("train").lengths
        self._max_length = job.settings["max_length"]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(job.huggingface)
        model: Any = transformers.BertForSequenceClassification.from_pretrained(
            job.huggingface, attn_implementation="sdpa", dtype=torch.float32
        )
        self._model = model.to(self._device).eval()
        self._labels = [self._model.config.id2label[i] for i in range(self._model.config.num_labels)]
        self._sorted = argument.startswith("sorted")
        self._batch_size = int(argument.split("-")[1]) if self._sorted else _SWEEP[0]
        if not self._sorted:
            self._pipeline = transformers.pipeline(
                "text-classification", model=self._model, tokenizer=self._tokenizer, device=self._device, top_k=None
            )

    def prepare(self, first: int, count: int) -> None:
        """Warm up; for the pipeline, find its best batch size."""
        count = min(count, _SWEEP_TEXTS)
        self.predict(first, count)
        if self._sorted:
            return
        rates: dict[int, float] = {}
        for size in _SWEEP * 2:
            self._batch_size = size
            start = time.perf_counter()
            self.predict(first, count)
            rates[size] = max(rates.get(size, 0.0), count / (time.perf_counter() - start))
        self._batch_size = max(rates, key=rates.__getitem__)
        swept = ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items())
        self.notes = [f"batches of {self._batch_size}, the best of (sentences/s) {swept}"]

    def predict(self, first: int, count: int) -> list[list[float]]:
        """Scores of every label of these texts."""
        texts = self._texts[first : first + count]
        return self._by_hand(texts) if self._sorted else self._by_pipeline(texts)

    def computed(self, first: int, count: int) -> list[int]:
        """Batches and tokens computed for these texts, padding included."""
        lengths = self._lengths[first : first + count]
        if self._sorted:
            lengths = np.sort(lengths)
        batches = [lengths[i : i + self._batch_size] for i in range(0, len(lengths), self._batch_size)]
        return [len(batches), sum(int(batch.max()) * len(batch) for batch in batches)]

    def _by_pipeline(self, texts: Sequence[str]) -> list[list[float]]:
        found: Any = self._pipeline(
            list(texts), batch_size=self._batch_size, truncation=True, max_length=self._max_length
        )
        scores = [{entry["label"]: entry["score"] for entry in entries} for entries in found]
        return [[entry[label] for label in self._labels] for entry in scores]

    def _by_hand(self, texts: Sequence[str]) -> list[list[float]]:
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._max_length)["input_ids"]
        lengths = np.array([len(one) for one in ids])
        order = np.argsort(lengths, kind="stable")
        out = torch.empty(len(ids), len(self._labels))
        with torch.inference_mode():
            for start in range(0, len(order), self._batch_size):
                members = order[start : start + self._batch_size]
                mask = np.arange(lengths[members].max()) < lengths[members][:, None]
                padded = np.zeros(mask.shape, np.int64)
                padded[mask] = np.concatenate([ids[i] for i in members])
                out[members] = self.logits(padded, mask.astype(np.int64)).softmax(-1).cpu()
        return out.tolist()

    def logits(self, ids: np.ndarray, mask: np.ndarray) -> torch.Tensor:
        """Of one padded batch."""
        inputs = (torch.from_numpy(array).to(self._device) for array in (ids, mask))
        return self._model(*inputs).logits
