"""Rows: every example once, nothing overlaps, few shapes."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bert_jax.errors import UserError
from bert_jax.packing import Tokens, assign, pack, prediction_batches

lengths = st.lists(st.integers(2, 40), min_size=0, max_size=60)


def tokens_of(sizes):
    return [Tokens(np.full(n, i + 1, np.int32), np.full(n, i % 2, np.int32)) for i, n in enumerate(sizes)]


@given(lengths)
def test_assign_places_every_example_once_and_overfills_no_row(sizes):
    rows = assign(sizes, 40)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in row) <= 40 for row in rows)
    # Best fit leaves at most one row at most half full.
    assert sum(sum(sizes[i] for i in row) <= 20 for row in rows) <= 1
    assert rows == assign(list(sizes), 40)


def test_assign_fills_exactly():
    assert assign([3, 5, 2, 10], 10) == [[3], [1, 0, 2]]


def test_assign_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="example 1 has 11 tokens, more than a row of 10"):
        assign([4, 11], 10)


@given(lengths)
def test_pack_gives_each_example_its_tokens_positions_and_segment(sizes):
    examples = tokens_of(sizes)
    placed = assign(sizes, 40)
    rows = pack(examples, placed, 40, len(placed) + 1, len(sizes) + 2)
    assert rows.input_ids.shape == (len(placed) + 1, 40)
    for i, size in enumerate(sizes):
        row, column = divmod(int(rows.first_tokens[i]), 40)
        here = slice(column, column + size)
        assert (rows.input_ids[row, here] == i + 1).all()
        assert (rows.token_type_ids[row, here] == i % 2).all()
        assert (rows.position_ids[row, here] == np.arange(size)).all()
        segment = rows.segment_ids[row, column]
        assert segment > 0
        assert (rows.segment_ids[row] == segment).sum() == size
    assert (rows.segment_ids > 0).sum() == sum(sizes)
    assert not rows.first_tokens[len(sizes) :].any()


@example([1] * 80, 64)
@given(st.lists(st.integers(1, 200), max_size=80), st.sampled_from([64, 256, 1024]))
def test_prediction_batches_hold_every_example_once_in_few_shapes(sizes, batch_tokens):
    examples = tokens_of(sizes)
    seen, shapes = [], set()
    for rows, members in prediction_batches(examples, batch_tokens=batch_tokens):
        seen += members
        shapes.add(rows.input_ids.shape)
        assert rows.input_ids.size <= max(batch_tokens, 256)
        flat = rows.input_ids.reshape(-1)
        assert [flat[first] for first in rows.first_tokens[: len(members)]] == [i + 1 for i in members]
    assert sorted(seen) == list(range(len(sizes)))
    assert all((n & (n - 1)) == 0 for shape in shapes for n in shape)
    assert len(shapes) <= 3  # one for each of the row lengths 64, 128 and 256
