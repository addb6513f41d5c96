"""Labelled examples in compact integer arrays, with the tokens of all examples end to end."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from bert_jax.packing import Tokens

_WINDOW = 4096  # examples that are separate arrays, of 300 bytes each, at a time while a set is built


class TokenSet(NamedTuple):
    """M labelled examples with their tokens end to end, then one example of length 0 for padding slots.

    `starts` and `lengths` locate each example in `ids`. `second` is the position in each example where sentence B
    (token type 1) begins, or the example's length if it has no sentence B. `targets` are class ids (int32), or numbers
    (float32) with a further axis C. A leading axis, if there is one, is an axis of shards, each with its own examples.
    """

    ids: Shaped[Any, "*S tokens"]
    starts: Int[Any, "*S M+1"]
    lengths: Int[Any, "*S M+1"]
    second: Int[Any, "*S M+1"]
    targets: Shaped[Any, "..."]

    @classmethod
    def of(
        cls, examples: Iterable[Tokens], targets: Sequence[int] | np.ndarray, owners: Sequence[int] = ()
    ) -> "TokenSet":
        """Build a set from examples in the given order, with 16 bits a token if the ids are small enough.

        `targets` has a target for each example. With `owners`, it has a target for each text, and `owners[i]` is the
        index of the text of example i. `owners` may be filled while `examples` is iterated over.
        """
        examples, parts = iter(examples), []
        while window := list(itertools.islice(examples, _WINDOW)):
            ids = np.concatenate([tokens.input_ids for tokens in window])
            lengths = np.array([len(tokens.input_ids) for tokens in window], np.int32)
            ones = np.array([np.count_nonzero(tokens.token_type_ids) for tokens in window], np.int32)
            parts.append((ids.astype(np.uint16) if ids.max() < 2**16 else ids, lengths, lengths - ones))
        ids, lengths, second = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        lengths, second = (np.append(column, np.int32(0)) for column in (lengths, second))
        numbers = np.asarray(targets, np.float32 if np.ndim(targets) > 1 else np.int32)
        numbers = numbers[np.asarray(owners)] if len(owners) else numbers
        numbers = np.concatenate([numbers, np.zeros_like(numbers[:1])])
        return cls(ids, starts_of(lengths), lengths, second, numbers)

    @property
    def nbytes(self) -> int:
        """Size of all arrays in bytes."""
        return sum(array.nbytes for array in self)

    @property
    def indexable(self) -> bool:
        """Whether a compiled step, which indexes in 32 bits, can reach every token."""
        return self.starts.dtype == np.int32

    def only(self, examples: Int[np.ndarray, " N"], tokens: int) -> "TokenSet":
        """Return a set of only these examples, in this order, in arrays for N examples and `tokens` tokens."""
        lengths = np.append(self.lengths[examples], np.int32(0))
        starts = starts_of(lengths)
        indices = np.arange(starts[-1], dtype=np.int64)
        indices += np.repeat(self.starts[examples].astype(np.int64) - starts[:-1], lengths[:-1])
        ids = np.zeros(tokens, self.ids.dtype)
        ids[: len(indices)] = self.ids[indices]
        padded = np.append(examples, len(self.lengths) - 1)
        return TokenSet(ids, starts, lengths, self.second[padded], self.targets[padded])


def starts_of(lengths: Int[np.ndarray, " M"]) -> Int[np.ndarray, " M"]:
    """Return the starts of examples of these lengths that lie end to end: int32, or int64 from 2^31 tokens on."""
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    return starts.astype(np.int32) if lengths.sum(dtype=np.int64) < 2**31 else starts
