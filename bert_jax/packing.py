"""Packing: assign examples to rows, and build the arrays of the rows.

Rows have a fixed length T. Several examples share a row. `segment_ids` tell them apart (1, 2, ... within a row; 0 is
padding), and each example has its own positions. One example per row is the degenerate case (`from_attention_mask`).
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bert_jax.errors import UserError


class Tokens(NamedTuple):
    """One tokenised example: ids and sentence A/B types, of equal length, and whether the text was truncated."""

    input_ids: Int[np.ndarray, " T"]
    token_type_ids: Int[np.ndarray, " T"]
    truncated: bool = False


class Rows(NamedTuple):
    """B rows of T tokens that hold N examples; a JAX pytree.

    `first_tokens` holds the index of each example's [CLS] among the B*T tokens, counted row after row. With a leading
    axis of S shards, each index counts within the tokens of its shard of B/S rows, and N is S*n.
    """

    input_ids: Int[Any, "B T"]
    token_type_ids: Int[Any, "B T"]
    position_ids: Int[Any, "B T"]
    segment_ids: Int[Any, "B T"]
    first_tokens: Int[Any, "*S n"]


def from_attention_mask(
    input_ids: Int[np.ndarray, "B T"],
    attention_mask: Int[np.ndarray, "B T"] | Bool[np.ndarray, "B T"],
    token_type_ids: Int[np.ndarray, "B T"] | None = None,
) -> Rows:
    """Return the rows of a padded batch with one example per row, as transformers builds it.

    `attention_mask` is 0 at padding, whatever the id there. As in transformers, positions count columns from 0 for
    padding on either side, and the first column is the example's first token.
    """
    rows, length = input_ids.shape
    return Rows(
        input_ids=input_ids,
        token_type_ids=np.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        position_ids=np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)),
        segment_ids=(np.asarray(attention_mask) != 0).astype(np.int32),
        first_tokens=np.arange(rows, dtype=np.int32) * length,
    )


def assign(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Assign examples to rows of `row_length` tokens by best-fit decreasing, and return the examples of each row.

    Examples are indices into `lengths`. The longest examples go first, each into the fullest row that still has room.
    Ties go to the earlier row, so the result depends on nothing but the lengths. Raises `UserError` for an example
    longer than a row.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, row), sorted
    for example in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[example]
        place = bisect.bisect_left(free, (length, -1))
        if place < len(free):
            room, row = free.pop(place)
            rows[row].append(example)
        elif length <= row_length:
            room, row = row_length, len(rows)
            rows.append([example])
        else:
            raise UserError(f"example {example} has {length} tokens, more than a row of {row_length}")
        if room > length:
            bisect.insort(free, (room - length, row))
    return rows


def pack(
    examples: Sequence[Tokens],
    assignment: Sequence[Sequence[int]],
    row_length: int,
    num_rows: int,
    num_examples: int,
) -> Rows:
    """Write examples into arrays of a fixed shape: B = `num_rows`, T = `row_length`, N = `num_examples`.

    `assignment` holds the examples of each row, as `assign` returns them. Rows and examples beyond those given are
    padding, and a padding example points at token 0. Raises `ValueError` if the assignment does not fit into the rows.
    """
    placed = list(itertools.chain.from_iterable(assignment))
    chosen = [examples[i] for i in placed]
    order = np.array(placed, np.int64)
    counts = np.fromiter(map(len, assignment), np.int64, len(assignment))
    lengths = np.fromiter((len(tokens.input_ids) for tokens in chosen), np.int64, len(chosen))
    ends = np.cumsum(lengths)
    starts = ends - lengths  # in a concatenation of all examples, without gaps
    firsts = np.cumsum(counts) - counts  # the index in `order` of each row's first example
    row = np.repeat(np.arange(len(counts)), counts)
    before_row = np.append(starts, 0)[firsts][row]
    if len(counts) > num_rows or (ends - before_row > row_length).any():
        raise ValueError(f"the assignment needs more than {num_rows} rows of {row_length} tokens")
    first_tokens = np.zeros(num_examples, np.int32)
    first_tokens[order] = row * row_length + starts - before_row

    token_positions = np.arange(ends[-1] if len(ends) else 0) - np.repeat(starts, lengths)
    places = np.repeat(first_tokens[order], lengths) + token_positions
    ids, types, positions, segments = np.zeros((4, num_rows * row_length), np.int32)
    if chosen:
        ids[places] = np.concatenate([tokens.input_ids for tokens in chosen])
        types[places] = np.concatenate([tokens.token_type_ids for tokens in chosen])
        positions[places] = token_positions
        segments[places] = np.repeat(np.arange(len(order)) - firsts[row] + 1, lengths)
    shape = num_rows, row_length
    return Rows(
        ids.reshape(shape), types.reshape(shape), positions.reshape(shape), segments.reshape(shape), first_tokens
    )


def prediction_batches(examples: Sequence[Tokens], *, batch_tokens: int) -> Iterator[tuple[Rows, list[int]]]:
    """Pack all examples into batches of at most `batch_tokens` tokens, each example once.

    Yields rows and the indices of the examples in them. Slots of `first_tokens` past these examples are padding. A
    batch has at least one row, even if the row is longer than `batch_tokens`. Row lengths are powers of two, and so are
    row counts if `batch_tokens` is one. So there are few different shapes, and few compilations, whatever the texts.
    """
    by_length: dict[int, list[int]] = {}
    shortest = min((len(tokens.input_ids) for tokens in examples), default=0)
    for index, tokens in enumerate(examples):
        row_length = max(64, _power_of_two(len(tokens.input_ids)))
        by_length.setdefault(row_length, []).append(index)
    for row_length, indices in sorted(by_length.items()):
        rows = assign([len(examples[i].input_ids) for i in indices], row_length)
        max_rows = max(1, batch_tokens // row_length)
        num_rows = max_rows if len(rows) >= max_rows else _power_of_two(len(rows))
        for start in range(0, len(rows), num_rows):
            chunk = rows[start : start + num_rows]
            members = [indices[i] for row in chunk for i in row]
            places = iter(range(len(members)))
            assignment = [[next(places) for _ in row] for row in chunk]
            # Half as many slots as tokens are enough, unless an example is one token: some tokenizers add only [CLS].
            slots = num_rows * row_length // (2 if shortest > 1 else 1)
            packed = pack([examples[i] for i in members], assignment, row_length, num_rows, slots)
            yield packed, members


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
