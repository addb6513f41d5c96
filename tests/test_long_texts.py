"""Texts longer than a model reads at once: what is kept of them, windows, and their logits pooled."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax import checkpoint, files
from bert_jax.config import ENCODER
from bert_jax.errors import UserError
from bert_jax.logits import pooled
from bert_jax.long_texts import LONG_TEXTS, Cutting
from bert_jax.predict import TextClassifier
from bert_jax.tasks import REGRESSION
from bert_jax.tokenizer import Tokenizer
from tests.conftest import PRIMES, VOCABULARY, random_checkpoint, write_random
from train.config import TrainConfig
from train.data.prepare import prepare

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


def test_windows_stay_as_far_apart_as_in_training(windowed):
    long = "good bad film not " * 10

    def read(cutting):
        return windowed.logits([tokens for _, tokens in windowed.tokenizer.examples([long], None, cutting)]).mean(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = windowed([long], max_length=20)
        assert found.logits == pytest.approx(read(Cutting(20, "windows", 5)), abs=1e-5)
        assert found.logits != pytest.approx(read(Cutting(20, "windows")), abs=1e-5)
        windowed([long], max_length=7)
        windowed([long], max_length=6, long_texts="tail")
    said = "windows began 5 tokens apart in training, and 6 tokens at once leave 4 to a window: they begin 2 apart"
    with pytest.warns(UserWarning, match=said):
        (found,) = windowed([long], max_length=6)
    assert found.logits == pytest.approx(read(Cutting(6, "windows", 2)), abs=1e-5)


SMALL = range(8)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("long_texts", LONG_TEXTS)
def test_every_small_setting_reads_what_it_says_or_is_refused(long_texts, paired, tokenizer):
    """Texts of each length with every small `max_length` and stride: whole examples, and of windows all tokens."""
    texts = [" ".join(["the"] * a) for a in SMALL for _ in SMALL] if paired else [" ".join(["the"] * a) for a in SMALL]
    pairs = [" ".join(["film"] * b) for _ in SMALL for b in SMALL] if paired else None
    special = 3 if paired else 2
    for max_length, stride in itertools.product(range(1, 12), (None, *range(1, 12))):
        cutting = Cutting(max_length, long_texts, stride)
        if max_length < (5 if paired and cutting.reads_all else 3):
            with pytest.raises(UserError, match=f"max length is {max_length}; expected at least"):
                list(tokenizer.examples(texts, pairs, cutting))
            continue
        found = [[] for _ in texts]
        for number, tokens in tokenizer.examples(texts, pairs, cutting):
            found[number].append(tokens)
        for text, pair, examples in zip(texts, pairs or [""] * len(texts), found, strict=True):
            sizes, whole = [len(tokens.input_ids) for tokens in examples], (len(text.split()), len(pair.split()))
            assert max(sizes) <= max_length
            assert min(sizes) >= min(sum(whole) + special, max_length)  # no room is wasted
            read = [words(tokens) for tokens in examples]
            if cutting.reads_all:
                the, film = ([one.count(word) for one in read] for word in ("the", "film"))
                (long, short), (most, least) = (the, film)[:: 1 if whole[0] > whole[1] else -1], sorted(whole)[::-1]
                assert sum(long) >= most
                assert len({*short}) == 1  # the shorter text is beside every window of the longer one
                assert all(tokens.truncated == (short[0] < least) for tokens in examples)
            else:
                assert len(examples) == 1
                assert examples[0].truncated == (sum(whole) + special > max_length)


def test_windows_of_a_pair_too_small_for_it_are_refused(windowed):
    for long_texts in LONG_TEXTS:
        with pytest.raises(UserError, match=r"--max-length is 4; this model takes 5 to 67 tokens of a pair"):
            windowed(["good"], ["film"], max_length=4, long_texts=long_texts)
    with pytest.warns(UserWarning, match="leave 2 to a window"):
        assert len(windowed(["good bad"] * 2, ["film not a"] * 2, max_length=5)) == 2


def test_balanced_weights_count_what_is_trained_on(tmp_path):
    """Windows: of 40 texts, 20 of each class, those of one class are read in many."""
    model = write_random(PRIMES.replace(architecture=ENCODER, labels=()), tmp_path)
    rows = [(f"{'good ' * 30}{i}" if i % 2 else f"bad {i}", i % 2) for i in range(40)]
    options = {"model": str(model), "max_length": 12, "class_weights": "balanced"}
    whole = prepare(TrainConfig(**options), {"train": rows, "dev": rows})
    assert whole.class_weights.tolist() == [1, 1]
    windows = prepare(TrainConfig(**options, long_texts="windows", stride=4), {"train": rows, "dev": rows})
    counts = np.bincount(windows.data.targets[:-1])
    assert counts[1] > 5 * counts[0]
    assert windows.class_weights == pytest.approx(counts.sum() / (2 * counts))
    several = [(text, ["long", "any"] if label else ["any"]) for text, label in rows]
    windows = prepare(TrainConfig(**options, long_texts="windows", stride=4), {"train": several, "dev": several})
    assert windows.class_weights == pytest.approx([0, counts[0] / counts[1]])


def test_a_text_of_many_windows_counts_once_as_cut(tmp_path):
    """Of a pair whose shorter text is cut, every window is truncated; the preview counts texts."""
    model = write_random(PRIMES.replace(architecture=ENCODER, labels=()), tmp_path)
    rows = [("good " * 20, "bad " * 40 + str(i), i % 2) for i in range(4)]
    options = {"model": str(model), "max_length": 12, "long_texts": "windows", "stride": 2}
    said = prepare(TrainConfig(**options), {"train": rows, "dev": rows}).describe()
    assert "4 cut to 12 tokens (100.0%), in " in said


def test_a_checkpoint_that_says_nothing_reads_all_the_model_takes(primes_directory):
    assert TextClassifier.load(primes_directory).cutting == Cutting(67, "head", None)
