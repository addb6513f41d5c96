"""Faults of the data: rows 18 to 25; row 26 and more of 25 in test_hostile.py."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from bert_jax.heads import cross_entropy
from bert_jax.packing import Tokens, pack
from bert_jax.parameters import build
from tests.faults.conftest import command

GOOD = [("a good film", "0"), ("bad", "1"), ("not a bad film", "0"), ("the very bad film", "1")] * 3


def as_csv(rows, separator=","):
    return f"text{separator}label\n" + "".join(f"{text}{separator}{label}\n" for text, label in rows)


def as_jsonl(rows):
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


@pytest.fixture
def data(tmp_path):
    """Write a data file: `data("train.csv", content)`."""

    def write(name, content):
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def arguments(encoder, tmp_path):
    def make(path, *more):
        start = ["--model", encoder, "--data", path, "--out", tmp_path / "run", "--epochs", 1, "--max-length", 16]
        return [*start, *more]

    return make


@pytest.fixture
def trains(arguments, tmp_path):
    """Run a training that must succeed and return what it printed and recorded."""

    def run(path, *more):
        done = command("train", *arguments(path, "--batch-size", 4, *more))
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode(), json.loads((tmp_path / "run" / "run.json").read_text())

    return run


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    ("header", "options", "fragments"),
    [
        ("words,label", [], ["no text column", "there are: words, label", "--text-column"]),
        ("text,verdict", [], ["no label column", "there are: text, verdict", "--label-column"]),
        ("text,label", ["--text-column", "body"], ["no column 'body'", "there are: text, label"]),
        (
            "text,label",
            ["--label-column", "labl"],
            ["no column 'labl'", "there are: text, label", "did you mean label"],
        ),
    ],
)
def test_18_missing_column(header, options, fragments, data, arguments, refused):
    path = data("all.csv", f"{header}\na,0\nb,1\n")
    refused("train", *arguments(path, *options), fragments=[path, *fragments])


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("text", "label", "fragments"),
    [
        (None, 0, ["text is null", "expected a string"]),
        (7, 0, ["text is 7"]),
        (["a"], 0, ['text is ["a"]']),
        ("\ud800", 0, ["half of a surrogate pair"]),
        ("a", None, ["label is null", "expected an integer or a name"]),
        ("a", 0.5, ["label is 0.5"]),
        ("a", " ", ["label is empty"]),
    ],
)
def test_19_null_or_wrongly_typed(text, label, fragments, data, arguments, refused):
    path = data("all.jsonl", as_jsonl([("good", 0), ("bad", 1), (text, label), ("good", 0)]))
    refused("train", *arguments(path), fragments=[f"{path}: line 3", "--skip-bad", *fragments])


@pytest.mark.fault(19)
@pytest.mark.parametrize("separator", [",", "\t"], ids=["csv", "tsv"])
def test_19_empty_label(separator, data, arguments, refused):
    ending = "csv" if separator == "," else "tsv"
    path = data(f"all.{ending}", as_csv([("good", 0), ("bad", "")], separator))
    refused("train", *arguments(path), fragments=[f"{path}: line 3", "label is empty", "--skip-bad"])


@pytest.mark.fault(19)
def test_19_skip_bad_counts_and_goes_on(data, trains):
    path = data("all.jsonl", as_jsonl([*GOOD, (None, 0), ("a", None), ("b", [])]))
    printed, record = trains(path, "--skip-bad")
    assert "3 bad rows skipped" in printed
    assert sum(record["examples"].values()) == len(GOOD)


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("name", "label", "options", "fragments"),
    [
        ("train", 2, ["--labels", "negative,positive"], ["label 2 is out of range", "expected 0 to 1"]),
        ("train", -1, ["--labels", "negative,positive"], ["label -1 is out of range"]),
        ("train", 10**9, ["--labels", "negative,positive"], ["label 1000000000 is out of range"]),
        ("dev", 2, [], ["label 2 is unknown", "expected one of 0, 1"]),
        ("dev", -1, [], ["label -1 is unknown"]),
    ],
)
def test_20_label_out_of_range(name, label, options, fragments, data, arguments, refused):
    splits = {split: [("good", 0), ("bad", 1)] for split in ("train", "dev")}
    splits[name].append(("odd", label))
    paths = {split: data(f"{split}.jsonl", as_jsonl(rows)) for split, rows in splits.items()}
    where = f"{paths[name]}: line 3"
    refused("train", *arguments(paths[name].parent, *options), fragments=[where, *fragments])


@pytest.mark.fault(20)
def test_20_a_name_that_training_never_saw(data, arguments, refused):
    data("train.csv", as_csv([("good", "fresh"), ("bad", "rotten")]))
    path = data("dev.csv", as_csv([("good", "fresh"), ("bad", "stale")]))
    refused("train", *arguments(path.parent), fragments=[f"{path}: line 3", "'stale' is unknown", "fresh, rotten"])


@pytest.mark.fault(20)
def test_20_one_label_only(data, arguments, refused):
    path = data("all.csv", as_csv([("good", "fresh"), ("bad", "fresh")]))
    refused("train", *arguments(path), fragments=[path, "fresh", "two or more"])


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("name", "content", "fragments"),
    [
        ("all.csv", 'text,label\n"two\nlines",0\na,1,2\n', ["line 4", "3 fields", "header has 2"]),
        ("all.csv", "text,label\na,1\nb\n", ["line 3", "1 fields"]),
        ("all.csv", 'text,label\na,1\n"never closed,0\nb,1\n', ["line 3", "end of data"]),
        ("all.tsv", "text\tlabel\na\t1\nb\t0\tc\n", ["line 3", "3 fields"]),
        ("all.jsonl", '{"text": "a", "label": 0}\n\n{"text": "b", \n', ["line 3", "bad JSON", "column"]),
        ("all.jsonl", '{"text": "a", "label": 0}\n[1]\n', ["line 2", "expected a JSON object"]),
    ],
)
def test_21_ragged_csv_and_broken_jsonl(name, content, fragments, data, arguments, refused):
    path = data(name, content)
    refused("train", *arguments(path), fragments=[path, *fragments])


@pytest.mark.fault(22)
@pytest.mark.parametrize("name", ["all.csv", "all.tsv", "all.jsonl"])
def test_22_bom_and_crlf_change_nothing(name, data):
    from tests.conftest import read_splits

    content = as_jsonl(GOOD) if name.endswith("jsonl") else as_csv(GOOD, "," if name.endswith("csv") else "\t")
    plain = read_splits(data(name, content))
    marked = read_splits(data(name, b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode()))
    assert {split: found.rows for split, found in plain.items()} == {s: found.rows for s, found in marked.items()}


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("content", "offset"),
    [(as_csv(GOOD).encode("utf-16"), 0), (b"text,label\ncaf\xe9,0\nb,1\n", 14)],
    ids=["utf-16", "latin-1"],
)
def test_22_not_utf_8(content, offset, data, arguments, refused):
    path = data("all.csv", content)
    refused("train", *arguments(path), fragments=[path, f"not UTF-8 at byte {offset}", "save it as UTF-8"])


@pytest.mark.fault(23)
@pytest.mark.parametrize("content", ["", "\n\n", "text,label\n"])
def test_23_empty_file(content, data, arguments, refused):
    path = data("all.csv", content)
    refused("train", *arguments(path), fragments=[path, "examples"])


@pytest.mark.fault(23)
def test_23_fewer_rows_than_a_batch_trains(data, trains):
    path = data("all.csv", as_csv(GOOD[:3]))
    printed, record = trains(path, "--batch-size", 32)
    assert record["steps"] == 1
    assert record["best"]["dev"]["examples"] == 1
    assert "step 1/1" in printed


@pytest.mark.fault(24)
def test_24_empty_texts_train(data, trains, tmp_path):
    path = data("all.csv", as_csv([("", "0"), ("", "1"), *GOOD[:6]]))
    trains(path)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.fault(24)
def test_24_rows_of_padding_have_finite_gradients(classifier):
    from bert_jax.checkpoint import read

    found = read(classifier)
    graphdef, params = nnx.split(build(found.config, found.tensors))
    empty = Tokens(np.array([2, 3], np.int32), np.zeros(2, np.int32))
    rows = pack([empty], [[0]], 16, 3, 2)  # two rows and one example are padding

    def loss(params, weights):
        logits = nnx.merge(graphdef, params)(rows, nnx.Rngs(dropout=0))
        return cross_entropy(logits, np.array([1, 0]), weights)

    for weights in ([1, 0], [0, 0]):
        value, gradients = jax.value_and_grad(loss)(params, np.array(weights, np.float32))
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.fault(25)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_25_gzip_is_read_and_a_truncated_one_refused(kind, data, arguments, refused):
    import gzip

    from tests.conftest import read_splits

    content = (as_jsonl(GOOD) if kind == "jsonl" else as_csv(GOOD, "," if kind == "csv" else "\t")).encode()
    packed = gzip.compress(content)
    plain, unpacked = read_splits(data(f"all.{kind}", content)), read_splits(data(f"all.{kind}.gz", packed))
    assert {name: found.rows for name, found in plain.items()} == {n: found.rows for n, found in unpacked.items()}
    for damaged in (packed[:-9], packed[:12], b"", b"plain text\n"):
        fragments = [f"all.{kind}.gz", "not a sound gzip file" if damaged else "0 examples"]
        refused("train", *arguments(data(f"all.{kind}.gz", damaged)), fragments=fragments)
