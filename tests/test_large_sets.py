"""Token sets of more tokens than 32 bits can count, of which no test holds any."""

import numpy as np
import pytest

from train.data.token_set import TokenSet, starts_of
from train.step import memory
from train.step.batches import Batches

LENGTH, COUNT = 2**20, 2**12  # 2^32 tokens


class Numbered:
    """As an array of ids, of which each says where it is, but not kept anywhere."""

    dtype, nbytes = np.dtype(np.uint16), 2**33

    def __getitem__(self, places):
        assert places.min() >= 0
        assert places.max() < COUNT * LENGTH
        return (places % 65521).astype(np.uint16)


@pytest.fixture
def large():
    lengths = np.append(np.full(COUNT, LENGTH, np.int32), np.int32(0))
    return TokenSet(Numbered(), starts_of(lengths), lengths, lengths, np.arange(COUNT + 1, dtype=np.int32) % 7)


def test_starts_are_in_32_bits_as_long_as_these_do():
    for last, dtype in ((2**31 - 1 - 2**30, np.int32), (2**30, np.int64)):
        starts = starts_of(np.array([2**30, last, 0], np.int32))
        assert starts.dtype == dtype
        assert starts.tolist() == [0, 2**30, 2**30 + last]


@pytest.mark.fault(78)
def test_examples_past_two_to_the_31_are_found(large):
    assert large.starts[-2] == (COUNT - 1) * LENGTH
    few = large.only(np.array([COUNT - 1, 0, 2100]), 4 * LENGTH)
    assert few.indexable
    for place, example in enumerate((COUNT - 1, 0, 2100)):
        there = np.arange(3, dtype=np.int64) + example * LENGTH
        assert few.ids[few.starts[place] :][:3].tolist() == (there % 65521).tolist()


@pytest.mark.fault(78)
def test_such_a_set_is_streamed(large, monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 2**50)
    assert not memory.fits(large)
    batches = Batches(large, batch_size=2, seed=0)
    assert memory.fits(large._replace(starts=large.starts.astype(np.int32)))  # the memory is not what it lacks
    plan, _ = batches.plan(0)
    data, moved = batches.streamed(plan, [0])
    chosen = plan.examples.ravel()
    assert data.starts.dtype == np.int32
    assert data.targets[0, moved.examples.ravel()].tolist() == (chosen % 7).tolist()
    begin = data.ids[0, data.starts[0, moved.examples.ravel()]]
    assert begin.tolist() == (chosen.astype(np.int64) * LENGTH % 65521).tolist()
