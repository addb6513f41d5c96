"""The command on tables: texts out of their column, rows back with what is said of them."""

import gzip
import json

import pandas
import pytest

from bert_jax.__main__ import main
from bert_jax.errors import UserError
from tests.conftest import PRIMES

TEXTS = ['a "good" film', "bad, really", "not a very good film", "the\nbad film"]
FRAME = pandas.DataFrame({"id": [7, 8, 9, 10], "review": TEXTS, "label": ["x", "y", "x", "y"]})


def write(path, frame=FRAME):
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind in ("jsonl", "json"):
        frame.to_json(path, orient="records", lines=kind == "jsonl")
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path


@pytest.fixture
def label(primes_directory, tmp_path):
    def run(source, output, *options):
        out = tmp_path / output
        main(["--model", str(primes_directory), "--input", str(source), "--output", str(out), *options])
        return out

    return run


@pytest.fixture
def scores(primes_directory):
    from bert_jax.predict import TextClassifier

    return [list(found.scores.values()) for found in TextClassifier.load(primes_directory)(TEXTS)]


@pytest.mark.fault(69)
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "json", "parquet"])
def test_the_texts_are_those_of_the_column(kind, label, scores, tmp_path):
    out = label(write(tmp_path / f"in.{kind}"), "out.jsonl")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    for row, expected in zip(rows, scores, strict=True):
        assert list(row["scores"].values()) == pytest.approx(expected, abs=1e-6)


def test_bytes_do_not_go_into_a_csv(label, tmp_path):
    frame = FRAME.assign(id=[b"\x01", b"\xff", b"", b"a"])
    source = write(tmp_path / "in.parquet", frame)
    with pytest.raises(UserError, match="column id holds bytes, which csv cannot; choose a parquet output"):
        label(source, "out.csv")
    assert not (tmp_path / "out.csv").exists()
    assert pandas.read_parquet(label(source, "out.parquet"))["id"].tolist() == frame["id"].tolist()


@pytest.mark.parametrize("source", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("output", ["csv", "parquet"])
def test_rows_come_back_with_ours_beside_them(source, output, label, scores, tmp_path):
    out = label(write(tmp_path / f"in.{source}"), f"out.{output}", "--logits")
    found = pandas.read_csv(out) if output == "csv" else pandas.read_parquet(out)
    pandas.testing.assert_frame_equal(found[list(FRAME)].astype({"id": int}), FRAME, check_dtype=False)
    ours = [f"score_{name}" for name in PRIMES.labels]
    logits = [f"logit_{name}" for name in PRIMES.labels]
    expected = [*FRAME, "predicted_label", "predicted_score", *ours, *logits, "truncated"]
    assert list(found) == expected
    for i, row in enumerate(scores):
        assert found.loc[i, ours].tolist() == pytest.approx(row, abs=1e-6)
        assert found["predicted_label"][i] == PRIMES.labels[max(range(len(row)), key=row.__getitem__)]
        assert found["predicted_score"][i] == pytest.approx(max(row), abs=1e-6)
    assert not found["truncated"].any()


def test_pairs_are_read_as_in_training(label, primes_directory, tmp_path):
    from bert_jax.predict import TextClassifier

    frame = pandas.DataFrame({"sentence1": TEXTS[:3], "sentence2": TEXTS[1:]})
    expected = TextClassifier.load(primes_directory)(TEXTS[:3], TEXTS[1:])
    for options in ([], ["--pairs"], ["--text-column", "sentence1", "--pair-column", "sentence2", "--overwrite"]):
        out = label(write(tmp_path / "in.csv", frame), "out.jsonl", "--overwrite", *options)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["pair"] for row in rows] == TEXTS[1:]
        for row, one in zip(rows, expected, strict=True):
            assert row["score"] == pytest.approx(one.score, abs=1e-6)


def test_plain_lines_stay_plain_lines(label, tmp_path):
    (tmp_path / "in.txt").write_text("text,label\na film,1\n")
    rows = [json.loads(line)["text"] for line in label(tmp_path / "in.txt", "out.jsonl").read_text().splitlines()]
    assert rows == ["text,label", "a film,1"]


@pytest.mark.fault(69)
@pytest.mark.parametrize(
    ("name", "content", "output", "options", "said"),
    [
        ("in.csv", "text,label\na film,1\nb\n", "out.csv", [], "in.csv: line 3 has 1 fields, the header has 2"),
        ("in.jsonl", '{"text": "a"}\n{"text": null}\n', "out.csv", [], "in.jsonl: line 2: text is null, expected a st"),
        ("in.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "out.csv", [], "in.jsonl: line 2: no column 'text'"),
        ("in.jsonl", '{"text": "a"}\n{"text": "b", "c": 1}\n', "out.csv", [], "row 2 has a column c, which row 1"),
        ("in.jsonl", '{"text": "a"}\n{"text": "b", "c": 1}\n', "out.parquet", [], "row 2 has a column c, which row 1"),
        ("in.jsonl", '{"text": "a", "c": 1}\n{"text": "b", "c": "x"}\n', "out.parquet", [], "do not make a table"),
        ("in.csv", "text,predicted_label\na,b\n", "out.csv", [], "has a column predicted_label already"),
        ("in.csv", "a,b\nx y z,u v w\n", "out.csv", [], "no text column; there are: a, b; name it with --text-column"),
        ("in.csv", "text\na\n", "out.csv", ["--text-column", "txt"], r"no column 'txt'.*did you mean text"),
        ("in.csv", "text\na\n", "out.csv", ["--pairs"], "no column with the second text of a pair"),
        ("in.csv", "text,text\na,b\n", "out.csv", [], "two columns are called text"),
        ("in.csv", "a film of note\nanother good film\n", "out.csv", [], "look like a row of data"),
        ("in.csv", "", "out.csv", [], "in.csv: no rows"),
        ("in.txt", "a\n", "out.csv", [], "a table is written where --input is one"),
        (
            "in.csv",
            "text\na\n",
            "out.tsv",
            [],
            r"out.tsv: .tsv is not written; choose NAME.csv, NAME.parquet or NAME.j",
        ),
        ("in.csv", "text\na\n", "out.csv.gz", [], r"out.csv.gz: .gz is not written"),
        ("in.txt", "a\n", "out.xlsx", [], r"out.xlsx: .xlsx is not written"),
        ("in.txt", "a\n", "out.jsonl", ["--text-column", "text"], "--text-column is for a table as --input"),
    ],
)
def test_what_is_no_table_of_texts_is_refused(name, content, output, options, said, label, tmp_path):
    (tmp_path / name).write_text(content)
    (tmp_path / output).write_text("old")
    with pytest.raises(UserError, match=said):
        label(tmp_path / name, output, "--overwrite", *options)
    assert (tmp_path / output).read_text() == "old"


def test_an_output_that_is_there_stays(label, tmp_path):
    source = write(tmp_path / "in.csv")
    label(source, "out.csv")
    with pytest.raises(UserError, match=r"out.csv: exists; choose another name or pass --overwrite"):
        label(source, "out.csv")
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "a"}\n'))
    assert json.loads(label(packed, "b.jsonl").read_text())["text"] == "a"


def test_a_parquet_file_comes_back_with_its_types(label, tmp_path):
    frame = pandas.DataFrame(
        {
            "text": TEXTS,
            "at": pandas.to_datetime(["2020-01-01T00:00:00.123456789", None, "2021", "2022"], format="ISO8601"),
            "id": pandas.array([2**60 + 1, None, 1, 2], dtype="Int64"),
            "kind": pandas.Categorical(["x", "y", None, "x"], categories=["y", "x"], ordered=True),
            "small": pandas.Series([1.5, 2, 3, 4], dtype="float32", index=[3, 5, 7, 9]).array,
            "flag": [True, None, False, True],
            "list": [[1], [], None, [2, 3]],
        },
        index=pandas.Index([3, 5, 7, 9], name="row"),
    )
    found = pandas.read_parquet(label(write(tmp_path / "in.parquet", frame), "out.parquet"))
    pandas.testing.assert_frame_equal(found[list(frame)], pandas.read_parquet(tmp_path / "in.parquet"))


def test_labels_with_commas_are_told_apart(tmp_path):
    from bert_jax.answered_tables import answer
    from bert_jax.predict import Prediction
    from bert_jax.tasks import MULTI_LABEL

    for names, cell in ((("a", "b", "c"), "a, b"), (("a, b", "c", "d"), '["a, b", "c"]')):
        scores = dict.fromkeys(names, 0.5)
        said = Prediction("t", names[0], 0.5, scores, [0.0] * 3, False, labels=names[:2], task=MULTI_LABEL)
        assert answer({"text": "t"}, said, logits=False)["predicted_labels"] == cell
