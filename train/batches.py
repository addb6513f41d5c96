"""Examples to packed batches of few shapes, as a pure function of (seed, step)."""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bert_jax.packing import Rows, Tokens, assign, pack

_ROW_LENGTHS = (64, 96, 128, 192, 256, 384, 512)

# What one more compilation is worth in steps: on this project's CPU and GPU timings, a step of a
# new shape costs 15 to 30 steps' time once.
_COMPILATION_STEPS = 20

# Batches looked at to choose the shapes; more change the choice by under 0.1% of the padding.
_SAMPLE = 500


class Batch(NamedTuple):
    """One step's examples: packed rows, label ids, and weight 0 for slots that are padding."""

    rows: Rows
    labels: Int[Any, " N"]
    weights: Float[Any, " N"]


class Shapes(NamedTuple):
    """Row length T, and the row counts B that batches are rounded up to, ascending."""

    row_length: int
    row_counts: tuple[int, ...]

    def round_up(self, rows: int) -> int:
        """The row count a batch that needs `rows` rows is given."""
        return next((count for count in self.row_counts if count >= rows), rows)


class Batches:
    """The training examples, cut into batches of exactly `batch_size` examples.

    Only an epoch's last batch may hold fewer. The order of examples is a function of (seed,
    epoch), a batch of (seed, step), so resuming needs a step number and nothing else.
    """

    def __init__(
        self, examples: Sequence[Tokens], labels: Sequence[int], *, batch_size: int, seed: int, packed: bool = True
    ):
        self.examples, self.labels = examples, np.asarray(labels, np.int32)
        self.batch_size, self.seed, self.packed = batch_size, seed, packed
        self.lengths = np.array([len(tokens.input_ids) for tokens in examples])
        self.steps_per_epoch = -(-len(examples) // batch_size)
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)
        self.shapes = self._choose_shapes()

    def indices(self, step: int) -> Int[np.ndarray, " N"]:
        """Which examples a step trains on."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def batch(self, step: int) -> Batch:
        """The arrays of a step; the loss does not depend on how its examples are packed."""
        indices = self.indices(step)
        rows = self._assign(indices, self.shapes.row_length)
        num_rows = self.shapes.round_up(len(rows))
        packed = pack([self.examples[i] for i in indices], rows, self.shapes.row_length, num_rows, self.batch_size)
        padding = (0, self.batch_size - len(indices))
        weights = np.pad(np.ones(len(indices), np.float32), padding)
        return Batch(packed, np.pad(self.labels[indices], padding), weights)

    def useful_tokens(self, step: int) -> int:
        """Tokens of a step that are not padding."""
        return int(self.lengths[self.indices(step)].sum())

    def _shuffled(self, epoch: int) -> Int[np.ndarray, " M"]:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.examples))

    def _assign(self, indices: Int[np.ndarray, " N"], row_length: int) -> list[list[int]]:
        if not self.packed:
            return [[i] for i in range(len(indices))]
        return assign(self.lengths[indices].tolist(), row_length)

    def _choose_shapes(self) -> Shapes:
        """The row length and counts that compute the fewest tokens, compilations counted in."""
        longest = -(-int(self.lengths.max()) // 8) * 8
        if not self.packed:
            return Shapes(longest, (self.batch_size,))
        lengths = {longest, *(t for t in _ROW_LENGTHS if longest <= t <= max(4 * longest, 64))}
        sample = range(min(self.steps_per_epoch, _SAMPLE))
        choices = []
        for row_length in sorted(lengths):
            counts = Counter(len(self._assign(self.indices(step), row_length)) for step in sample)
            row_counts, rows = fewest_rows(counts, self.steps_per_epoch / len(sample))
            choices.append((rows * row_length, Shapes(row_length, row_counts)))
        return min(choices)[1]


def fewest_rows(counts: Counter[int], scale: float = 1.0) -> tuple[tuple[int, ...], float]:
    """Row counts to round up to, so that rows computed and compilations together cost least.

    `counts` says how many batches need how many rows, each standing for `scale` batches; a
    compilation is charged as `_COMPILATION_STEPS` batches of average size. Returns the counts and
    the cost in rows. Exact, by dynamic programming over the largest count of each class.
    """
    needs = sorted(counts)
    mean = sum(need * n for need, n in counts.items()) / counts.total()
    # cost[i] is the least cost of the batches that need at most needs[i - 1] rows.
    cost, choice = [0.0], [0]
    for i, top in enumerate(needs, 1):
        options = []
        for j in range(i):
            batches = sum(counts[need] for need in needs[j:i])
            options.append((cost[j] + top * batches * scale + _COMPILATION_STEPS * mean, j))
        least, j = min(options)
        cost.append(least)
        choice.append(j)
    kept, i = [], len(needs)
    while i:
        kept.append(needs[i - 1])
        i = choice[i]
    return tuple(reversed(kept)), cost[-1]
