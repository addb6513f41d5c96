"""Choose the examples of each step and their places in the batch, as a pure function of (seed, step).

The examples are one compact `TokenSet` of integers. A batch is a `Plan`: the indices of its examples, and the place of
each example. The compiled step gathers its rows from the token set by the plan (`assemble`), so a step needs only the
plan from the host.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from bert_jax.packing import assign

from ..data.token_set import TokenSet
from .shapes import Shapes, fewest_rows

_ROW_LENGTHS = (64, 96, 128, 192, 256, 384, 512)

# Number of batches from which the shapes are chosen. More batches change the choice by under 0.1% of the padding.
_SAMPLE = 500


class Plan(NamedTuple):
    """The examples of batches and their places. The leading axes are steps, micro-batches and shards of a batch.

    The last axis is an axis of slots, one for each example of a shard. `examples` are indices into the token set, in
    the order of their places. `places` are the indices of their first tokens among the tokens of the shard, counted row
    after row. Padding slots come last. They have the example of length 0 and a place past the last token of the shard.
    """

    examples: Int[Any, "*parts N"]
    places: Int[Any, "*parts N"]


def shuffled(count: int, seed: int, epoch: int) -> Int[np.ndarray, " M"]:
    """Return the order of `count` examples in an epoch, a permutation that depends only on (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(count)


class Batches:
    """The training examples, divided into batches of exactly `batch_size` examples.

    Only the last batch of an epoch may have fewer examples. The order of examples is a function of (seed, epoch), and a
    batch is a function of (seed, step), so resuming needs only the step number. Each batch is divided into `micro`
    micro-batches of `shards` shards each. Up to `window` steps of one epoch share a dispatch and a shape. The row
    length is a multiple of `multiple` tokens.
    """

    def __init__(
        self,
        data: TokenSet,
        *,
        batch_size: int,
        seed: int,
        packed: bool = True,
        micro: int = 1,
        shards: int = 1,
        window: int = 1,
        multiple: int = 8,
    ):
        self.data, self.batch_size, self.seed, self.packed = data, batch_size, seed, packed
        self.micro, self.shards = micro, shards
        self.slots = -(-batch_size // (micro * shards))
        self.lengths = data.lengths[:-1]
        self.steps_per_epoch = -(-len(self.lengths) // batch_size)
        self.window = min(window, self.steps_per_epoch)
        self._order = functools.lru_cache(maxsize=2)(functools.partial(shuffled, len(self.lengths), seed))
        self.shapes = self._choose_shapes(multiple)

    def indices(self, step: int) -> Int[np.ndarray, " N"]:
        """Return the indices of the examples that a step trains on."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def window_at(self, step: int) -> int:
        """Return how many steps, from `step` on, share a dispatch. They end with their epoch at the latest."""
        return min(self.window, self.steps_per_epoch - step % self.steps_per_epoch)

    def plan(self, first: int, count: int = 1) -> tuple[Plan, int]:
        """Return the plan of `count` steps from `first` on, and the number of rows of each shard.

        The arrays of the plan have shape (window, micro, shards, slots). Steps past `count` have only padding slots.
        """
        row_length = self.shapes.row_length
        placed = [self._placed(step, row_length) for step in range(first, first + count)]
        num_rows = self.shapes.round_up(max(len(rows) for parts in placed for rows in parts))
        shape = (self.window, self.micro * self.shards, self.slots)
        examples = np.full(shape, len(self.lengths), np.int32)
        places = np.full(shape, num_rows * row_length, np.int32)
        for step, parts in enumerate(placed):
            for part, rows in enumerate(parts):
                if not rows:  # the batch has fewer examples than parts
                    continue
                members = [i for row in rows for i in row]
                sizes = self.lengths[members]
                starts = np.cumsum(sizes) - sizes
                counts = [len(row) for row in rows]
                leaders = np.cumsum([0, *counts[:-1]])
                offsets = np.arange(len(rows)) * row_length - starts[leaders]
                examples[step, part, : len(members)] = members
                places[step, part, : len(members)] = starts + np.repeat(offsets, counts)
        split = (self.window, self.micro, self.shards, self.slots)
        return Plan(examples.reshape(split), places.reshape(split)), num_rows

    def streamed(self, plan: Plan, shards: Sequence[int]) -> tuple[TokenSet, Plan]:
        """Return a token set with only the examples of a plan, and a plan that indexes this set.

        This is for a token set that is too large for the device. The arrays of the returned set have a leading axis of
        these `shards`. For the same number of shards, the sizes are the same for every plan, so the step is not
        compiled again.
        """
        longest = int(self.lengths.max())
        sets = []
        for shard in shards:
            flat = plan.examples[:, :, shard].reshape(-1)
            sets.append(self.data.only(flat, len(flat) * longest))
        window, micro, count, slots = plan.examples.shape
        indices = np.arange(window * micro * slots, dtype=np.int32).reshape(window, micro, 1, slots)
        data = TokenSet(*(np.stack(arrays) for arrays in zip(*sets, strict=True)))
        return data, Plan(np.broadcast_to(indices, (window, micro, count, slots)), plan.places)

    def computed(self, num_rows: int) -> tuple[int, int]:
        """Return the number of rows of a whole step, and the tokens in a row, if each shard has `num_rows` rows."""
        return self.micro * self.shards * num_rows, self.shapes.row_length

    def useful_tokens(self, first: int, count: int = 1) -> int:
        """Return the number of tokens in `count` steps, from `first` on, that are not padding."""
        return sum(int(self.lengths[self.indices(step)].sum()) for step in range(first, first + count))

    def _placed(self, step: int, row_length: int) -> list[list[list[int]]]:
        """Return the examples of each row, for each part (a shard of a micro-batch) of a step's batch."""
        indices = self.indices(step)
        parts = self.micro * self.shards
        if parts == 1:
            dealt = [indices]
        else:
            # The longest examples are dealt first, and every second round goes backwards, so that all parts get about
            # the same number of examples and tokens.
            order = indices[np.argsort(-self.lengths[indices], kind="stable")]
            padded = np.full(self.slots * parts, -1)
            padded[: len(order)] = order
            table = padded.reshape(self.slots, parts)
            table[1::2] = table[1::2, ::-1].copy()
            dealt = [column[column >= 0] for column in table.T]
        return [self._rows(part, row_length) for part in dealt]

    def _rows(self, part: Int[np.ndarray, " N"], row_length: int) -> list[list[int]]:
        if not self.packed:
            return [[int(i)] for i in part]
        return [[int(part[i]) for i in row] for row in assign(self.lengths[part].tolist(), row_length)]

    def _choose_shapes(self, multiple: int) -> Shapes:
        """Return the row length and row counts with the least cost: computed tokens, plus a charge for compilations."""
        longest = -(-int(self.lengths.max()) // multiple) * multiple
        if not self.packed:
            return Shapes(longest, (self.slots,))
        lengths = {longest}
        lengths |= {t for t in _ROW_LENGTHS if longest <= t <= max(4 * longest, 64) and t % multiple == 0}
        sampled = max(1, min(self.steps_per_epoch, _SAMPLE) // self.window)
        choices = []
        for row_length in sorted(lengths):
            needs = [
                max(len(rows) for step in range(first, first + self.window) for rows in self._placed(step, row_length))
                for first in range(0, sampled * self.window, self.window)
            ]
            scale = self.steps_per_epoch / (sampled * self.window)
            row_counts, rows = fewest_rows(Counter(needs), scale, self.window)
            choices.append((rows * row_length, Shapes(row_length, row_counts)))
        return min(choices)[1]
