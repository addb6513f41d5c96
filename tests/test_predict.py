"""Strings in, labels and scores out: the library and the command."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import bert_jax
from bert_jax import checkpoint, files
from bert_jax.__main__ import main
from bert_jax.errors import UserError
from bert_jax.long_texts import Cutting
from bert_jax.predict import TextClassifier
from bert_jax.tasks import REGRESSION
from tests.conftest import PRIMES, ROOT

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


def test_a_regression_of_several_numbers_has_no_best_label(primes, tmp_path):
    config = primes.config.replace(problem_type=REGRESSION)
    with files.new_directory(tmp_path / "model") as scratch:
        checkpoint.write(scratch, dataclasses.replace(primes, config=config))
    for p in TextClassifier.load(tmp_path / "model")(TEXTS):
        assert p.to_dict()["scores"] == dict(zip(config.labels, p.logits, strict=True))
        assert not {"label", "score"} & set(p.to_dict())
        assert (p.label, p.score) == (config.labels[0], p.logits[0])


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


CALLED = """
import json, sys
import datasets, jax.numpy as jnp, numpy as np, pandas, pyarrow
import bert_jax
texts = ["good", "film"]
table = {"text": texts}
classifier = bert_jax.TextClassifier.load(sys.argv[1])
def said(call):
    try:
        return [None, [prediction.text for prediction in eval(call)]]
    except Exception as error:
        return [type(error).__name__, str(error)]
print(json.dumps([said(call) for call in json.loads(sys.argv[2])]))
"""
"""A process of its own, as the tests' own checks of types would come first."""

CALLS = {
    "classifier('a good film')": "TypeError: expected a list of texts, got one string: write [text]",
    "classifier(b'a good film')": "TypeError: expected a list of texts, got one string: write [text]",
    "classifier(table)": "TypeError: expected a list of texts, got a dict: take the column of texts from it",
    "classifier(pandas.DataFrame(table))": "TypeError: expected a list of texts, got a DataFrame: take the column",
    "classifier(datasets.Dataset.from_dict(table))": "TypeError: expected a list of texts, got a Dataset: take the",
    "classifier(pyarrow.table(table))": "TypeError: expected a list of texts, got a Table: take the column of texts",
    "classifier(texts, table)": "TypeError: expected a list of texts, got a dict: take the column of texts from it",
    "classifier(None)": "TypeError: expected a list of texts, got NoneType",
    "classifier(texts, 3)": "TypeError: expected a list of texts, got int",
    "classifier([*texts, None])": "UserError: texts[2] is None; expected a",
    "classifier(texts, ['a', None])": "UserError: pairs[1] is None; expected a",
    "classifier([float('nan')])": "UserError: texts[0] is nan; expected a",
    "classifier(['a', pandas.NA])": "UserError: texts[1] is <NA>; expected a",
    "classifier([7])": "UserError: texts[0] is 7; expected a",
    "classifier(iter(['a', b'bad']))": "UserError: texts[1] is b'bad'; expected a",
    "classifier([texts])": "UserError: texts[0] is ['good', 'film']; expected a",
    "classifier([('a', 'b')])": "UserError: texts[0] is ('a', 'b'); expected a",
    "classifier(datasets.Dataset.from_dict(table).iter(1))": "UserError: texts[0] is {'text': ['good']}; expected a",
    r"classifier(['a', 'film \ud83d'])": "UserError: texts[1] has half a surrogate pair, which is no text",
    r"classifier(['a'], ['\udc00'])": "UserError: pairs[0] has half a surrogate pair, which is no text",
    "classifier(texts, long_texts='middle')": "UserError: --long-texts is 'middle'; expected one of head, tail",
    "classifier(texts, long_texts='window')": "UserError: --long-texts is 'window'; expected one of head, tail",
    "classifier(texts, long_texts=['head'])": "UserError: --long-texts is ['head']; expected one of head, tail",
    "classifier(texts, max_length='12')": "UserError: --max-length is '12'; expected a whole number",
    "classifier(texts, max_length=12.5)": "UserError: --max-length is 12.5; expected a whole number",
    "classifier(texts, max_length=True)": "UserError: --max-length is True; expected a whole number",
    "classifier(texts, max_length=2)": "UserError: --max-length is 2; this model takes 3 to 67 tokens",
    "bert_jax.TextClassifier.load(sys.argv[1], dtype='float16')": "UserError: --dtype is 'float16'; expected one of fl",
    "bert_jax.TextClassifier.load(sys.argv[1], dtype='no')": "UserError: --dtype is 'no'; expected one of float32",
    "bert_jax.TextClassifier.load(sys.argv[1], precision='no')": "UserError: precision is 'no'; expected one of high",
    "bert_jax.load(sys.argv[1], dtype='float16')": "UserError: --dtype is 'float16'; expected one of float32, bfloat16",
    "bert_jax.load(sys.argv[1], precision='no')": "UserError: precision is 'no'; expected one of highest, high",
    "classifier(pandas.DataFrame(table)['text'])": ["good", "film"],
    "classifier(datasets.Dataset.from_dict(table)['text'])": ["good", "film"],
    "classifier(np.array(texts), iter(texts))": ["good", "film"],
    "classifier({'good': 1, 'film': 2}.keys(), max_length=np.int64(3))": ["good", "film"],
    "bert_jax.TextClassifier.load(sys.argv[1], dtype=jnp.bfloat16)(texts)": ["good", "film"],
}


@pytest.fixture(scope="module")
def called(primes_directory):
    """What each call says or gives."""
    words = [sys.executable, "-c", CALLED, str(primes_directory), json.dumps([*CALLS])]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(CALLS, json.loads(done.stdout), strict=True))


@pytest.mark.fault(76)
@pytest.mark.parametrize("call", CALLS)
def test_from_python_a_mistake_is_one_line_that_names_it(call, called):
    error, found = called[call]
    if isinstance(CALLS[call], list):
        assert found == CALLS[call], error
    else:
        assert f"{error}: {found}".startswith(CALLS[call])
        assert len(found.splitlines()) == 1


def test_what_comes_before_a_mistake_is_answered(classifier):
    stream = classifier.stream(iter(["film"] * 20_000 + ["\ud83d"]))
    assert next(stream).text == "film"
    with pytest.raises(UserError, match=r"^texts\[20000\] "):
        list(stream)


def test_the_trained_stride_stays_where_another_length_is_given(primes, tmp_path):
    said = {"max_length": "12", "long_texts": "windows", "stride": "2"}
    with files.new_directory(tmp_path / "model") as scratch:
        checkpoint.write(scratch, dataclasses.replace(primes, metadata=said))
    classifier = TextClassifier.load(tmp_path / "model")
    text = "good bad film not a the very good film a bad the"
    stays, other = (TextClassifier.load(tmp_path / "model") for _ in range(2))
    stays.cutting, other.cutting = Cutting(8, "windows", 2), Cutting(8, "windows", None)
    found = classifier([text], max_length=8)[0].logits
    expected, before = (one([text])[0].logits for one in (stays, other))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, before, atol=1e-4)


def test_a_run_is_taken_like_its_best_model(primes_directory, tmp_path, classifier, capfd):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(UserError, match="run: a run without best/, so no model was kept; let it train on until one is"):
        main(["--model", str(run), "bad"])
    shutil.copytree(primes_directory, run / "best")
    expected = classifier(["bad"])[0].logits
    assert TextClassifier.load(run)(["bad"])[0].logits == pytest.approx(expected, abs=1e-6)
    assert bert_jax.load(str(run)).config == classifier.config
    main(["--model", str(run), "--logits", "bad"])
    assert lines(capfd)[0]["logits"] == pytest.approx(expected, abs=1e-6)
    (run / "run.json").write_text('{"clearing": true}')
    with pytest.raises(UserError, match="run.json: the run is being started over; wait until it has kept a model"):
        main(["--model", str(run), "bad"])
    shutil.copytree(primes_directory, run, dirs_exist_ok=True)  # a checkpoint, whatever else lies in it
    assert TextClassifier.load(run)


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
