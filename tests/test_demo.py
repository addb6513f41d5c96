"""The bundled reviews: enough, balanced, and no near-duplicates across the split."""

import re
from collections import Counter

import pytest

from tests.conftest import read_splits
from train.config import DEMO

SUBJECTS = {"film", "book", "food", "hotel", "gadget", "app", "service"}


@pytest.fixture(scope="module")
def splits():
    return read_splits(DEMO)


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def test_enough_and_balanced(splits):
    assert sum(len(split.rows) for split in splits.values()) >= 1200
    assert set(splits) == {"train", "dev", "test"}
    for split in splits.values():
        counts = Counter(row.label for row in split.rows)
        assert set(counts) == {"negative", "positive"}
        assert abs(counts["negative"] - counts["positive"]) <= 2
        subjects = Counter(line.split("\t")[2] for line in split.path.read_text("utf-8").splitlines()[1:])
        assert set(subjects) == SUBJECTS


def test_no_near_duplicates(splits):
    seen: dict[tuple[str, ...], str] = {}
    texts = [(row.text, name) for name, split in splits.items() for row in split.rows]
    assert len({text.lower() for text, _ in texts}) == len(texts)
    for text, name in texts:
        tokens = words(text)
        for run in zip(*(tokens[i:] for i in range(5)), strict=False):
            assert seen.setdefault(run, name) == name, (" ".join(run), text)


def test_no_two_reviews_share_most_of_their_words(splits):
    bags = [(set(words(row.text)), name) for name, split in splits.items() for row in split.rows]
    for i, (a, split_a) in enumerate(bags):
        for b, split_b in bags[i + 1 :]:
            if split_a != split_b and len(a & b) > 0.6 * len(a | b):
                pytest.fail(f"{sorted(a)} ~ {sorted(b)}")


def test_labels_cannot_be_told_from_length_or_a_negation(splits):
    rows = [row for split in splits.values() for row in split.rows]
    by_label = {label: [words(r.text) for r in rows if r.label == label] for label in ("negative", "positive")}
    lengths = [sum(map(len, texts)) / len(texts) for texts in by_label.values()]
    assert abs(lengths[0] - lengths[1]) < 2
    for word in ("not", "but", "never"):
        shares = [sum(word in text for text in texts) / len(texts) for texts in by_label.values()]
        assert abs(shares[0] - shares[1]) < 0.05, word
