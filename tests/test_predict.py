"""Strings in, labels and scores out: the library and the command."""

import json

import numpy as np
import pytest

from bert_jax.__main__ import main
from bert_jax.errors import UserError
from bert_jax.predict import TextClassifier
from tests.conftest import PRIMES

TEXTS = ["a good film", "", "not a very good film", "bad " * 60, "bad", "the the\x00the", "一 film 😀"]


@pytest.fixture(scope="module")
def classifier(primes_directory):
    return TextClassifier.load(primes_directory)


def lines(capfd):
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_each_text_gets_what_it_gets_alone_and_in_order(classifier):
    together = classifier(TEXTS * 30)
    assert [p.text for p in together] == TEXTS * 30
    for text, prediction in zip(TEXTS, together, strict=False):
        alone = classifier([text])[0]
        np.testing.assert_allclose(prediction.logits, alone.logits, atol=1e-5)
        assert prediction.label == alone.label


def test_scores_are_the_softmax_of_the_logits(classifier):
    for p in classifier(TEXTS):
        exact = np.exp(p.logits) / np.exp(p.logits).sum()
        np.testing.assert_allclose(list(p.scores.values()), exact, rtol=1e-6)
        assert tuple(p.scores) == PRIMES.labels
        assert p.score == max(p.scores.values()) == p.scores[p.label]
        assert p.label == PRIMES.labels[int(np.argmax(p.logits))]


def test_long_texts_are_cut_and_flagged(classifier):
    flags = [p.truncated for p in classifier(TEXTS, max_length=20)]
    assert flags == [text == TEXTS[3] for text in TEXTS]
    cut, same = classifier([TEXTS[3], "bad " * 18], max_length=20)
    np.testing.assert_allclose(cut.logits, same.logits, atol=1e-5)


def test_pairs_differ_from_single_texts(classifier):
    pair = classifier(["good"], ["bad film"])[0]
    assert not np.allclose(pair.logits, classifier(["good"])[0].logits)


def test_nothing_in_nothing_out(classifier):
    assert classifier([]) == []


def test_one_string_is_a_mistake(classifier):
    with pytest.raises(TypeError, match="list of texts"):
        classifier("a good film")


def test_more_tokens_than_positions_are_refused(classifier):
    with pytest.raises(UserError, match="--max-length is 68; this model takes 3 to 67"):
        classifier(["a"], max_length=68)


def test_bfloat16_is_close(primes_directory, classifier):
    half = TextClassifier.load(primes_directory, dtype="bfloat16")
    for a, b in zip(half(TEXTS), classifier(TEXTS), strict=True):
        np.testing.assert_allclose(a.logits, b.logits, atol=0.1)
        assert a.logits != b.logits


def test_command_prints_one_object_a_text(primes_directory, classifier, capfd):
    main(["--model", str(primes_directory), *TEXTS[:3]])
    printed = lines(capfd)
    assert [p["text"] for p in printed] == TEXTS[:3]
    assert all(list(p) == ["text", "label", "score", "scores"] for p in printed)
    assert printed[0]["scores"] == pytest.approx(classifier(TEXTS[:1])[0].scores, abs=1e-6)


def test_command_on_files(primes_directory, tmp_path, classifier):
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    texts = [f"{'good ' * (i % 40)}film {i}" for i in range(2500)]  # more than two windows
    source.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode())
    options = ["--model", str(primes_directory), "--input", str(source), "--output", str(out)]
    main([*options, "--logits", "--max-length", "12"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    assert rows[39]["truncated"] is True
    assert "truncated" not in rows[0]
    np.testing.assert_allclose(rows[7]["logits"], classifier([texts[7]], max_length=12)[0].logits, atol=1e-5)
    with pytest.raises(UserError, match=r"out\.jsonl: exists"):
        main(options)
    main([*options, "--overwrite"])
    assert "logits" not in out.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]


def test_a_bad_line_leaves_the_old_output(primes_directory, tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes(b"good\nb\xffd\n")
    out.write_text("old")
    with pytest.raises(UserError, match="line 2 is not UTF-8 at its byte 1"):
        main(["--model", str(primes_directory), "--input", str(source), "--output", str(out), "--overwrite"])
    assert out.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "/no/such/file"], "No such file"),
        (["text", "--input", "x"], "not both"),
        (["text", "--output", "/dev/null/out"], "cannot write there"),
        (["text", "--max-length", "68"], "this model takes 3 to 67"),
        (["b\udcffd"], "not UTF-8"),
    ],
)
def test_mistakes_are_one_line(primes_directory, arguments, message):
    with pytest.raises(UserError, match=message):
        main(["--model", str(primes_directory), *arguments])
