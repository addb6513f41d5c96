"""Labelled examples as one compact set of integers, laid end to end."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from bert_jax.packing import Tokens

_WINDOW = 4096  # examples that are held as arrays of their own, of 300 bytes each, while a set is laid out


class TokenSet(NamedTuple):
    """M labelled examples laid end to end, then one of length 0 that padding slots point at.

    `second` is where sentence B (token type 1) begins in each, or its length where there is none. `targets` are
    class ids (int32), or with an axis of C more, numbers (float32).
    A leading axis, where there is one, is of shards, each with examples of its own.
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
        """Lay examples end to end as they come, in 16 bits a token where the ids allow it.

        Targets are the examples' own, or of texts of which `owners`, filled as the examples come, says whose each is.
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
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self)

    @property
    def indexable(self) -> bool:
        """Whether a compiled step, which counts in 32 bits, can find every token."""
        return self.starts.dtype == np.int32

    def only(self, examples: Int[np.ndarray, " N"], tokens: int) -> "TokenSet":
        """Just these examples, in this order, in arrays for N of them and `tokens` tokens."""
        lengths = np.append(self.lengths[examples], np.int32(0))
        starts = starts_of(lengths)
        here = np.arange(starts[-1], dtype=np.int64)
        here += np.repeat(self.starts[examples].astype(np.int64) - starts[:-1], lengths[:-1])
        ids = np.zeros(tokens, self.ids.dtype)
        ids[: len(here)] = self.ids[here]
        both = np.append(examples, len(self.lengths) - 1)
        return TokenSet(ids, starts, lengths, self.second[both], self.targets[both])


def starts_of(lengths: Int[np.ndarray, " M"]) -> Int[np.ndarray, " M"]:
    """Where examples of these lengths begin when they lie end to end: in 32 bits, or in 64 from 2^31 tokens on."""
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    return starts.astype(np.int32) if lengths.sum(dtype=np.int64) < 2**31 else starts
