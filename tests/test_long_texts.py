"""Texts longer than a model reads at once: what is kept of them, windows, and their logits pooled."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax import checkpoint, files
from bert_jax.config import REGRESSION
from bert_jax.logits import pooled
from bert_jax.predict import TextClassifier
from bert_jax.tokenizer import Cutting, Tokenizer
from tests.conftest import PRIMES, VOCABULARY, random_checkpoint

IDS = list(range(100, 120))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vocabulary")
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY))
    return Tokenizer.load(directory)


@pytest.mark.parametrize(
    ("long_texts", "kept"),
    [("head", [*range(100, 107)]), ("tail", [*range(113, 120)]), ("both", [100, 101, 102, 103, 117, 118, 119])],
)
def test_what_is_kept(long_texts, kept):
    assert Cutting(9, long_texts).pieces(IDS, 7) == [kept]


@given(st.integers(5, 200), st.integers(1, 40), st.none() | st.integers(1, 40))
def test_windows_cover_a_text_and_are_full(count, room, stride):
    if count <= room:
        count = room + 1
    ids = list(range(count))
    windows = Cutting(room + 2, "windows", stride).pieces(ids, room)
    assert sorted({i for window in windows for i in window}) == ids
    assert all(window == list(range(window[0], window[0] + room)) for window in windows)
    starts = [window[0] for window in windows]
    assert starts == sorted(set(starts))
    distance = min(stride or max(1, room // 2), room)
    assert all(b - a == distance for a, b in itertools.pairwise(starts[:-1]))


def words(tokens):
    return [VOCABULARY[i] for i in tokens.input_ids]


def test_texts_and_their_windows_in_order(tokenizer):
    texts = ["good film", "good bad film not a the", ""]
    found = list(tokenizer.examples(texts, None, Cutting(5, "windows", 2)))
    assert [(number, " ".join(words(tokens)[1:-1])) for number, tokens in found] == [
        (0, "good film"),
        (1, "good bad film"),
        (1, "film not a"),
        (1, "not a the"),
        (2, ""),
    ]
    assert not any(tokens.truncated for _, tokens in found)
    for long_texts, kept in (("head", "good bad film"), ("tail", "not a the"), ("both", "good bad the")):
        _, cut, _ = tokenizer(texts, max_length=5, long_texts=long_texts)
        assert " ".join(words(cut)) == f"[CLS] {kept} [SEP]"
        assert cut.truncated


def test_pairs_are_cut_from_the_side_that_is_asked_for(tokenizer):
    one, other = ["good bad film not a the very"], ["film"]
    for long_texts, kept in (("head", "good bad film not"), ("tail", "not a the very"), ("both", "good bad the very")):
        (cut,) = tokenizer(one, other, max_length=8, long_texts=long_texts)
        assert " ".join(words(cut)) == f"[CLS] {kept} [SEP] film [SEP]"
        assert cut.token_type_ids.tolist() == [0] * 6 + [1] * 2
        assert cut.truncated
        (cut,) = tokenizer(other, one, max_length=8, long_texts=long_texts)
        assert " ".join(words(cut)) == f"[CLS] film [SEP] {kept} [SEP]"


def test_windows_of_pairs_go_over_the_longer_text(tokenizer):
    cutting = Cutting(8, "windows", 3)
    found = [tokens for _, tokens in tokenizer.examples(["film"], ["good bad not a the very"], cutting)]
    assert [" ".join(words(tokens)) for tokens in found] == [
        "[CLS] film [SEP] good bad not a [SEP]",
        "[CLS] film [SEP] not a the very [SEP]",
    ]
    assert not any(tokens.truncated for tokens in found)
    # Where the shorter one does not fit either, it is cut, and that is said.
    (first, *_) = [t for _, t in tokenizer.examples(["a a a a"], ["the the the the the"], cutting)]
    assert " ".join(words(first)) == "[CLS] a a [SEP] the the the [SEP]"
    assert first.truncated


def test_pooled_is_the_mean_of_a_texts_windows():
    logits = np.array([[1, 2], [3, 4], [5, 0], [7, 7]], np.float32)
    assert pooled(logits, np.array([0, 1, 1, 2])).tolist() == [[1, 2], [4, 2], [7, 7]]
    assert pooled(logits, np.arange(4)) is logits
    assert len(pooled(logits[:0], np.array([], np.int64))) == 0


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    """A regression that was trained on windows of 16 tokens, 5 apart."""
    folder = tmp_path_factory.mktemp("windowed")
    config = PRIMES.replace(problem_type=REGRESSION, labels=("stars",))
    made = random_checkpoint(config, folder / "files")
    made.metadata.update(Cutting(16, "windows", 5).said)
    with files.new_directory(folder / "model") as scratch:
        checkpoint.write(scratch, made)
    return TextClassifier.load(folder / "model")


def test_a_classifier_reads_as_it_was_trained(windowed):
    long = "good bad film not " * 10
    assert windowed.cutting == Cutting(16, "windows", 5)
    (found,) = windowed([long])
    parts = [tokens for _, tokens in windowed.tokenizer.examples([long], None, windowed.cutting)]
    assert len(parts) == 7
    assert found.logits == pytest.approx(windowed.logits(parts).mean(0), abs=1e-5)
    assert not found.truncated
    (cut,) = windowed([long], long_texts="tail")
    assert cut.truncated
    (end,) = windowed(["film not " + "good bad film not " * 3])
    assert cut.logits == pytest.approx(end.logits, abs=1e-5)
    assert not end.truncated
    assert cut.score != found.score
    assert windowed([long], max_length=67)[0].logits == pytest.approx(
        windowed([long], max_length=67, long_texts="head")[0].logits, abs=1e-5
    )


def test_a_checkpoint_that_says_nothing_reads_all_the_model_takes(primes_directory):
    assert TextClassifier.load(primes_directory).cutting == Cutting(67, "head", None)
