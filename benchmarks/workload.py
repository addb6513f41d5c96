"""What every contender works on, as plain files: examples, their order, the settings.

Workers of other interpreters import this too, so it needs numpy alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

MEGABATCH = 50
"""Batches whose examples are sorted together when grouping by length, as transformers' Trainer does."""


class Examples:
    """Tokenised examples with labels; a step's examples are a function of (seed, step), as in `train`."""

    def __init__(self, ids: np.ndarray, lengths: np.ndarray, labels: np.ndarray, *, batch_size: int, seed: int):
        self.lengths, self.labels, self.batch_size, self.seed = lengths, labels, batch_size, seed
        self._ids, self._ends = ids, np.cumsum(lengths)
        self.steps_per_epoch = -(-len(lengths) // batch_size)
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._ids[self._ends[index] - self.lengths[index] : self._ends[index]]

    def indices(self, step: int) -> np.ndarray:
        """Which examples a step trains on."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._orders:
            self._orders[epoch] = np.random.default_rng((self.seed, epoch)).permutation(len(self))
        return self._orders[epoch][place * self.batch_size : (place + 1) * self.batch_size]

    def batches(self, layout: str, first: int, steps: int) -> Iterator[tuple[np.ndarray, int]]:
        """The examples and the padded length of each batch of `steps` steps from `first`.

        `layout` is `longest` (of the batch), `grouped` (by length, within `MEGABATCH` batches,
        these then in random order), or the length itself.
        """
        chosen = [self.indices(step) for step in range(first, first + steps)]
        if layout == "grouped":
            chosen = self._grouped(chosen, first)
        for indices in chosen:
            yield indices, int(layout) if layout.isdecimal() else int(self.lengths[indices].max())

    def in_order(self, count: int) -> Iterator[tuple[np.ndarray, int]]:
        """The first `count` examples in batches of 64, and the longest length of each."""
        count = min(count, len(self))
        for start in range(0, count, 64):
            indices = np.arange(start, min(start + 64, count))
            yield indices, int(self.lengths[indices].max())

    def padded(self, indices: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids and attention mask, one example a row, and labels; all int64."""
        ids = np.zeros((len(indices), length), np.int64)
        mask = np.arange(length) < self.lengths[indices][:, None]
        ids[mask] = np.concatenate([self[i] for i in indices])
        return ids, mask.astype(np.int64), self.labels[indices].astype(np.int64)

    def _grouped(self, chosen: list[np.ndarray], seed: int) -> list[np.ndarray]:
        out = []
        for start in range(0, len(chosen), MEGABATCH):
            together = np.concatenate(chosen[start : start + MEGABATCH])
            together = together[np.argsort(-self.lengths[together], kind="stable")]
            out += [together[i : i + self.batch_size] for i in range(0, len(together), self.batch_size)]
        return [out[i] for i in np.random.default_rng((self.seed, seed)).permutation(len(out))]


class Job:
    """A directory with a checkpoint in both layouts (`hf`, `native`), settings and data."""

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        self.settings: dict[str, Any] = json.loads((self.directory / "job.json").read_text(encoding="utf-8"))
        self.huggingface, self.native = self.directory / "hf", self.directory / "native"

    def examples(self, split: str) -> Examples:
        """The tokenised examples of `train` or `dev`."""
        with np.load(self.directory / f"{split}.npz") as arrays:
            return Examples(**arrays, batch_size=self.settings["batch_size"], seed=self.settings["seed"])

    def texts(self) -> list[str]:
        """The raw texts to predict on."""
        return json.loads((self.directory / "texts.json").read_text(encoding="utf-8"))


def learning_rate(settings: dict[str, Any], step: int) -> float:
    """Linear warm-up from 0, then linear decay to 0, as `bert_jax.optimizer.linear_schedule`."""
    steps, warmup = settings["schedule_steps"], settings["warmup_steps"]
    share = step / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))
    return settings["learning_rate"] * share
