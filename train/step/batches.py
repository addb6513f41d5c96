"""Which examples a step trains on and where they lie, as a pure function of (seed, step).

Examples are one compact `TokenSet` of integers; a batch is a `Plan` of which examples lie where, from
which the compiled step gathers its rows (`assemble`). So a plan is all that a step needs from the host.
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

# Batches looked at to choose the shapes; more change the choice by under 0.1% of the padding.
_SAMPLE = 500


class Plan(NamedTuple):
    """Which examples lie where: leading axes are steps, micro-batches and shards of a batch.

    `examples` are indices into the token set, in the order of their places; `places` are indices
    into a shard's tokens laid in one line. Slots that are left over come last: they hold the
    example of length 0, at a place outside.
    """

    examples: Int[Any, "*parts N"]
    places: Int[Any, "*parts N"]


def shuffled(count: int, seed: int, epoch: int) -> Int[np.ndarray, " M"]:
    """The order in which an epoch goes through `count` examples."""
    return np.random.default_rng((seed, epoch)).permutation(count)


class Batches:
    """The training examples, cut into batches of exactly `batch_size` examples.

    Only an epoch's last batch may hold fewer. The order of examples is a function of (seed,
    epoch), a batch of (seed, step), so resuming needs a step number and nothing else. A batch is
    dealt to `micro` micro-batches of `shards` shards each, and up to `window` steps of one epoch
    share a shape. Rows are a multiple of `multiple` tokens long.
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
        """Which examples a step trains on."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def window_at(self, step: int) -> int:
        """How many steps from this one on share a dispatch: they end with their epoch at the latest."""
        return min(self.window, self.steps_per_epoch - step % self.steps_per_epoch)

    def plan(self, first: int, count: int = 1) -> tuple[Plan, int]:
        """The plan of `count` steps, in arrays (window, micro, shards, slots), and the rows of a shard."""
        row_length = self.shapes.row_length
        placed = [self._placed(step, row_length) for step in range(first, first + count)]
        num_rows = self.shapes.round_up(max(len(rows) for parts in placed for rows in parts))
        shape = (self.window, self.micro * self.shards, self.slots)
        examples = np.full(shape, len(self.lengths), np.int32)
        places = np.full(shape, num_rows * row_length, np.int32)
        for step, parts in enumerate(placed):
            for part, rows in enumerate(parts):
                if not rows:  # fewer examples are left than there are parts
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
        """The examples of a plan alone, and the plan to match, for a set that the device cannot hold.

        Arrays have a leading axis of these `shards`, and their sizes depend on nothing but this
        object, so nothing is compiled anew.
        """
        longest = int(self.lengths.max())
        sets = []
        for shard in shards:
            flat = plan.examples[:, :, shard].reshape(-1)
            sets.append(self.data.only(flat, len(flat) * longest))
        window, micro, count, slots = plan.examples.shape
        here = np.arange(window * micro * slots, dtype=np.int32).reshape(window, micro, 1, slots)
        data = TokenSet(*(np.stack(arrays) for arrays in zip(*sets, strict=True)))
        return data, Plan(np.broadcast_to(here, (window, micro, count, slots)), plan.places)

    def computed(self, num_rows: int) -> tuple[int, int]:
        """Rows and tokens a row of a whole step, where a shard has `num_rows`."""
        return self.micro * self.shards * num_rows, self.shapes.row_length

    def useful_tokens(self, first: int, count: int = 1) -> int:
        """Tokens of `count` steps that are not padding."""
        return sum(int(self.lengths[self.indices(step)].sum()) for step in range(first, first + count))

    def _placed(self, step: int, row_length: int) -> list[list[list[int]]]:
        """The examples of each row of each part of a step's batch."""
        indices = self.indices(step)
        parts = self.micro * self.shards
        if parts == 1:
            dealt = [indices]
        else:  # longest first, to and fro, so that every part gets as many examples and tokens
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
        """The row length and counts that compute the fewest tokens, compilations counted in."""
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
