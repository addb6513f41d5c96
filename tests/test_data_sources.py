"""Labelled texts as people have them: every kind of file, folder, tree and table; columns found; tasks told."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from bert_jax.errors import UserError
from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from train.config import TrainConfig
from train.data.reading import read

ROWS = [(f'the film number {i} is, "well", {"good" if i % 2 else "bad"}', i % 2) for i in range(6)]


def csv(rows, header="text,label"):
    return header + "\n" + "".join('"{}",{}\n'.format(str(t).replace('"', '""'), label) for t, label in rows)


def jsonl(rows, names=("text", "label")):
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)


WAYS = {
    "all.csv": lambda path: path.write_text(csv(ROWS)),
    "all.tsv": lambda path: path.write_text("text\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in ROWS)),
    "all.jsonl": lambda path: path.write_text(jsonl(ROWS)),
    "all.json": lambda path: path.write_text(json.dumps([{"text": t, "label": y} for t, y in ROWS], indent=1)),
    "nested.json": lambda path: path.write_text(
        json.dumps({"v": 1, "data": [{"text": t, "label": y} for t, y in ROWS]})
    ),
    "all.parquet": lambda path: pyarrow.parquet.write_table(
        pyarrow.table({"text": [t for t, _ in ROWS], "label": [y for _, y in ROWS]}), path
    ),
    "all.csv.gz": lambda path: path.write_bytes(gzip.compress(csv(ROWS).encode())),
    "all.tsv.gz": lambda path: path.write_bytes(
        gzip.compress(("text\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in ROWS)).encode())
    ),
    "all.jsonl.gz": lambda path: path.write_bytes(gzip.compress(jsonl(ROWS).encode())),
    "all.json.gz": lambda path: path.write_bytes(
        gzip.compress(json.dumps([{"text": t, "label": y} for t, y in ROWS]).encode())
    ),
    "all.txt": lambda path: (
        path.write_text("".join(f"{t}\n" for t, _ in ROWS)),
        path.with_name("all.labels").write_text("".join(f"{y}\n" for _, y in ROWS)),
    ),
    "some.txt.gz": lambda path: (
        path.write_bytes(gzip.compress("".join(f"{t}\n" for t, _ in ROWS).encode())),
        path.with_name("some.labels.txt").write_text("".join(f"{y}\n" for _, y in ROWS)),
    ),
}


def found(path, **options):
    data = read(TrainConfig(data=str(path), **options))
    rows = sorted((row for name in ("train", "dev") for row in data.splits[name].rows), key=lambda row: row.number)
    return data, [(row.text, int(row.label)) for row in rows]


@pytest.mark.parametrize("name", WAYS)
def test_every_kind_of_file_gives_the_same_rows(name, tmp_path):
    WAYS[name](tmp_path / name)
    data, rows = found(tmp_path / name)
    assert rows == ROWS
    assert data.task == SINGLE_LABEL
    row = min(data.splits["train"].rows, key=lambda row: row.number)
    place = data.splits["train"].place(row.number)
    assert place.startswith(f"{tmp_path / name}: ")
    # What is said is where it is: the second line of a file with a header, or the first.
    first = {"csv": 2, "tsv": 2}.get(name.split(".")[1], 1)
    assert place.endswith(f"{'row' if 'json.' in name + '.' or 'parquet' in name else 'line'} {row.number}")
    assert min(row.number for split in data.splits.values() for row in split.rows) == first


@pytest.mark.parametrize("name", WAYS)
def test_a_directory_of_split_files(name, tmp_path):
    _, _, ending = name.partition(".")
    for split in ("train", "validation", "test"):
        WAYS[name](tmp_path / f"{split}.{ending}")
        for labels in tmp_path.glob("*.labels*"):
            if labels.name.startswith(("all", "some")):
                labels.rename(labels.with_name(split + ".labels"))
    splits = read(TrainConfig(data=str(tmp_path))).splits
    assert list(splits) == ["train", "dev", "test"]
    assert all(len(split.rows) == 6 for split in splits.values())
    assert splits["dev"].path.name.startswith("validation.")


def test_parts_as_the_hub_names_them(tmp_path):
    (tmp_path / "data").mkdir()
    for i in range(2):
        table = pyarrow.table({"text": [t for t, _ in ROWS[3 * i :][:3]], "label": [y for _, y in ROWS[3 * i :][:3]]})
        pyarrow.parquet.write_table(table, tmp_path / "data" / f"train-0000{i}-of-00002.parquet")
    (tmp_path / "dev.csv").write_text(csv(ROWS))
    splits = read(TrainConfig(data=str(tmp_path))).splits
    train = splits["train"]
    assert [(row.text, row.label) for row in train.rows] == ROWS
    assert [row.number for row in train.rows] == [1, 2, 3, 4, 5, 6]
    assert train.place(5) == f"{tmp_path}/data/train-00001-of-00002.parquet: row 2"
    assert train.place(2, 4) == (
        f"{tmp_path}/data/train-00000-of-00002.parquet: row 2; {tmp_path}/data/train-00001-of-00002.parquet: row 1"
    )
    before = train.sha256
    (tmp_path / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="1 of 2 parts of train"):
        read(TrainConfig(data=str(tmp_path)))
    pyarrow.parquet.write_table(table.slice(1), tmp_path / "data" / "train-00001-of-00002.parquet")
    assert read(TrainConfig(data=str(tmp_path))).splits["train"].sha256 != before


def test_parts_with_hashes_in_their_names(tmp_path):
    for i in range(2):
        (tmp_path / f"train-0000{i}-of-00002-0f{i}e.csv").write_text(csv(ROWS[3 * i :][:3]))
    data = read(TrainConfig(data=str(tmp_path)))
    assert sum(len(split.rows) for split in data.splits.values()) == 6


def test_folders_of_files(tmp_path):
    for split in ("train", "dev"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.csv").write_text(csv(ROWS[:3]))
        (tmp_path / split / "b.csv").write_text(csv(ROWS[3:]))
    train = read(TrainConfig(data=str(tmp_path))).splits["train"]
    assert [(row.text, int(row.label)) for row in train.rows] == ROWS
    assert train.place(train.rows[3].number) == f"{tmp_path}/train/b.csv: line 2"


@pytest.fixture
def imdb(tmp_path):
    """A tree as the IMDB corpus comes."""
    for split, folders in (("train", ("pos", "neg", "unsup")), ("test", ("pos", "neg"))):
        for folder in folders:
            (tmp_path / split / folder).mkdir(parents=True)
            for i in (10, 2, 0):
                text = f"{folder} {i}<br />\né"
                (tmp_path / split / folder / f"{i}_{8 if folder == 'pos' else 3}.txt").write_text(
                    text, encoding="utf-8"
                )
    (tmp_path / "imdb.vocab").write_text("the\n")
    (tmp_path / "train" / "labeledBow.feat").write_text("9 0:9\n")
    return tmp_path


def test_the_imdb_tree(imdb):
    data = read(TrainConfig(data=str(imdb), dev_fraction=0.34))
    assert data.names == ("neg", "pos")
    rows = [row for name in ("train", "dev") for row in data.splits[name].rows]
    texts = [row.text for row in sorted(rows, key=lambda row: row.number)]
    assert [text.split("<")[0] for text in texts] == ["neg 0", "neg 2", "neg 10", "pos 0", "pos 2", "pos 10"]
    assert texts[0] == "neg 0<br />\né"
    assert len(data.splits["dev"].rows) == 2
    assert {row.label for row in data.splits["test"].rows} == {"neg", "pos"}
    assert data.splits["train"].place(3, 4) == f"{imdb}/train/neg/10_3.txt, {imdb}/train/pos/0_8.txt"


def test_hidden_files_are_none_and_names_count(imdb):
    before = read(TrainConfig(data=str(imdb)))
    (imdb / "train" / ".ipynb_checkpoints").mkdir()
    (imdb / "train" / "pos" / "._0_8.txt").write_bytes(b"\xff\x00")
    assert read(TrainConfig(data=str(imdb))) == before
    (imdb / "train" / "pos" / "0_8.txt").rename(imdb / "train" / "pos" / "0_9.txt")
    assert read(TrainConfig(data=str(imdb))).splits["train"].sha256 != before.splits["train"].sha256


def test_a_review_that_is_not_utf_8_is_named(imdb):
    (imdb / "train" / "pos" / "2_8.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"train/pos/2_8.txt: not UTF-8 at byte 3"):
        read(TrainConfig(data=str(imdb)))


def test_a_link_out_of_the_tree_is_refused(imdb, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.txt"
    secret.write_text("secret")
    (imdb / "train" / "pos" / "7_9.txt").symlink_to(secret)
    with pytest.raises(UserError, match="a link out of its directory"):
        read(TrainConfig(data=str(imdb)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n',
            "bad JSON at line 2 column 1: Extra data; a file of",
        ),
        ('{"a": [], "b": []}', "expected an array of objects, or an object with one such array"),
        ("[1, 2]", "row 1: expected a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "expected an array of objects"),
    ],
)
def test_json_that_is_no_table(content, said, tmp_path):
    (tmp_path / "all.json").write_text(content)
    with pytest.raises(UserError, match=f"all.json: .*{said}"):
        read(TrainConfig(data=str(tmp_path / "all.json")))


def test_labels_beside_texts_must_be_as_many(tmp_path):
    (tmp_path / "all.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=r"no labels beside it; expected all.labels"):
        read(TrainConfig(data=str(tmp_path / "all.txt")))
    (tmp_path / "all.labels").write_text("0\n1\n")
    with pytest.raises(UserError, match=r"all.labels: ends before line 3, which all.txt has"):
        read(TrainConfig(data=str(tmp_path / "all.txt")))
    (tmp_path / "all.labels").write_text("0\n1\n0\n1\n")
    with pytest.raises(UserError, match=r"all.txt: ends before line 4, which all.labels has"):
        read(TrainConfig(data=str(tmp_path / "all.txt")))


# --- tables in memory


def tables():
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    columns = {"text": [t for t, _ in ROWS], "label": [y for _, y in ROWS]}
    yield "tuples", ROWS
    yield "dictionaries", [{"text": t, "label": y} for t, y in ROWS]
    yield "datasets", datasets.Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("kind", ["tuples", "dictionaries", "datasets", "frame"])
def test_tables_in_memory(kind):
    if kind == "frame":
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame(ROWS, columns=["text", "label"])
    else:
        table = dict(tables())[kind]
    data = read(TrainConfig(), None, {"train": table, "dev": table})
    assert [(row.text, row.label) for row in data.splits["train"].rows] == ROWS
    assert data.names == (("no", "yes") if kind == "datasets" else ())
    assert data.splits["train"].place(2) == "train: row 2"
    assert data.splits["train"].sha256 == data.splits["dev"].sha256 != ""


def test_tables_that_are_none():
    with pytest.raises(UserError, match=r"train: row 2: expected \(text, label\)"):
        read(TrainConfig(), None, {"train": [("a", 0), "b"]})
    with pytest.raises(UserError, match=r"train: some rows are \(text, label\) and some \(text, pair, label\)"):
        read(TrainConfig(), None, {"train": [("a", 0), ("b", "c", 1)]})
    with pytest.raises(UserError, match="tables are called dev; expected train, dev and test"):
        read(TrainConfig(), None, {"dev": ROWS})
    pairs = read(TrainConfig(), None, {"train": [("a b", "c", 0), ("d e", "f", 1)]}).splits
    assert {row.pair for split in pairs.values() for row in split.rows} == {"c", "f"}


# --- columns


LONG, OTHER = "a text of many words", "another text of many words"


@pytest.mark.parametrize(
    ("header", "records", "options", "columns"),
    [
        ("sentence,label", [(LONG, 0)], {}, ("sentence", None, ("label",))),
        ("id,Review,Sentiment", [(1, LONG, "good")], {}, ("Review", None, ("Sentiment",))),
        ("sentence1,sentence2,label", [(LONG, OTHER, 0)], {}, ("sentence1", "sentence2", ("label",))),
        ("premise,hypothesis,label", [(LONG, OTHER, 0)], {}, ("premise", "hypothesis", ("label",))),
        ("question,sentence,label", [(LONG, OTHER, 0)], {}, ("question", "sentence", ("label",))),
        (
            "question1,question2,label",
            [(LONG, OTHER, 0)],
            {"text_column": "question2"},
            ("question2", None, ("label",)),
        ),
        (
            "premise,hypothesis,label",
            [(LONG, OTHER, 0)],
            {"pair_column": "hypothesis"},
            ("premise", "hypothesis", ("label",)),
        ),
        ("a,b,label", [(LONG, OTHER, 0)], {"text_column": "b", "pair_column": "a"}, ("b", "a", ("label",))),
        ("text,topic,label", [(LONG, "x", 0)], {"label_column": "topic"}, ("text", None, ("topic",))),
        ("body,verdict", [(LONG, "x"), (OTHER, "x"), (LONG, "y"), (OTHER, "y")], {}, ("body", None, ("verdict",))),
        ("text,toxic,rude", [(LONG, 0, 1)], {"label_column": "toxic,rude"}, ("text", None, ("toxic", "rude"))),
    ],
)
def test_columns_are_found_by_name_and_type(header, records, options, columns, tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in records * 2)]))
    assert read(TrainConfig(data=str(path), **options)).splits["train"].columns == columns


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("body,reply,label", [(LONG, OTHER, 0)] * 4, "no text column; there are: body, reply, label; name it with"),
        ("text,first,second", [(LONG, 0, 1), (OTHER, 0, 1)] * 4, "no label column; there are: text, first, second"),
    ],
)
def test_what_could_be_either_is_asked(header, rows, said, tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))
    with pytest.raises(UserError, match=said):
        read(TrainConfig(data=str(path)))


# --- tasks


@pytest.mark.parametrize(
    ("labels", "task", "read_as"),
    [
        ([0, 1, 0, 1], SINGLE_LABEL, [0, 1, 0, 1]),
        ([0.0, 1.0, 0.0, 1.0], SINGLE_LABEL, [0, 1, 0, 1]),
        ([3.5, 2, 1.25, 0.0], REGRESSION, [3.5, 2.0, 1.25, 0.0]),
        (["3.800", "5.000", "0", "2.5"], REGRESSION, [3.8, 5.0, 0.0, 2.5]),
        ([["a"], [], ["b", "a"], ["b"]], MULTI_LABEL, [("a",), (), ("b", "a"), ("b",)]),
        (["good", "bad", "good", "bad"], SINGLE_LABEL, ["good", "bad", "good", "bad"]),
    ],
)
def test_the_task_is_told_from_the_labels(labels, task, read_as, tmp_path):
    (tmp_path / "train.jsonl").write_text(jsonl([(LONG, label) for label in labels]))
    (tmp_path / "dev.jsonl").write_text(jsonl([(LONG, label) for label in labels]))
    data = read(TrainConfig(data=str(tmp_path)))
    assert data.task == task
    assert [row.label for row in data.splits["train"].rows] == read_as


def test_several_labels_in_a_cell_and_in_columns(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("text,labels\n" + "".join(f'{LONG},"{cell}"\n' for cell in ("a, b", "", "['b', 'c']", "b")))
    data = read(TrainConfig(data=str(path), dev_fraction=0.25), MULTI_LABEL)
    rows = sorted((row for split in data.splits.values() for row in split.rows), key=lambda row: row.number)
    assert [row.label for row in rows] == [("a", "b"), (), ("b", "c"), ("b",)]
    path.write_text("text,labels\n" + f"{LONG},a|b\n" * 2)
    data = read(TrainConfig(data=str(path), label_separator="|"), MULTI_LABEL)
    assert data.splits["train"].rows[0].label == ("a", "b")
    path.write_text("text,toxic,rude\n" + f"{LONG},1,0\n{LONG},0,0\n{LONG},1,1\n")
    data = read(TrainConfig(data=str(path), label_column="toxic,rude"))
    assert (data.task, data.names) == (MULTI_LABEL, ("toxic", "rude"))
    assert {row.label for split in data.splits.values() for row in split.rows} == {("toxic",), (), ("toxic", "rude")}


@pytest.mark.parametrize(
    ("task", "label", "said"),
    [
        (REGRESSION, "many", 'label is "many", expected a number'),
        (REGRESSION, "", "label is empty"),
        (REGRESSION, "1_000", 'label is "1_000", expected a number'),
        (MULTI_LABEL, "['a' 'b']", ".*expected commas between names"),
        (REGRESSION, "nan", 'label is "nan", expected a number'),
        (REGRESSION, True, "label is true, expected a number"),
        (MULTI_LABEL, [0.5], "label is 0.5, expected an integer or a name"),
        (MULTI_LABEL, "['a", "expected an integer or a name"),
        (MULTI_LABEL, "[a]", r'label is "\[a\]", expected a list of names'),
    ],
)
def test_a_label_that_is_none_is_named(task, label, said, tmp_path):
    path = tmp_path / "all.jsonl"
    good = 1.5 if task == REGRESSION else ["a"]
    path.write_text(jsonl([(LONG, good), (LONG, label), (LONG, good)]))
    if label == "['a":
        assert read(TrainConfig(data=str(path)), task).splits  # a name, if an odd one
        return
    with pytest.raises(UserError, match=f"all.jsonl: line 2: {said}; mend the row or pass --skip-bad"):
        read(TrainConfig(data=str(path)), task)
    assert sum(split.skipped for split in read(TrainConfig(data=str(path), skip_bad=True), task).splits.values()) == 1


def test_a_row_without_its_column_is_bad_too(tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text(jsonl([(LONG, 0), (LONG, 1)]) + json.dumps({"text": LONG}) + "\n" + jsonl([(LONG, 0)]))
    with pytest.raises(UserError, match="all.jsonl: line 3: no label column; there are: text"):
        read(TrainConfig(data=str(path)))
    assert sum(split.skipped for split in read(TrainConfig(data=str(path), skip_bad=True)).splits.values()) == 1


def test_a_row_without_its_second_text_is_bad_too(tmp_path):
    path = tmp_path / "all.jsonl"
    pair = {"sentence1": LONG, "sentence2": OTHER, "label": 0}
    rows = [pair, pair | {"label": 1}, {"sentence": LONG, "label": 1}, pair]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        UserError, match=r"all.jsonl: line 3: no column sentence2, which holds the second text of others"
    ):
        read(TrainConfig(data=str(path)))
    assert sum(split.skipped for split in read(TrainConfig(data=str(path), skip_bad=True)).splits.values()) == 1


@pytest.mark.parametrize("labels", [(0, 1, -1), (0.5, 1.25, -1.0)])
def test_a_test_split_without_labels_is_left_out(labels, tmp_path):
    good, other, none = labels
    for name, values in (("train", (good, other) * 2), ("dev", (good, other)), ("test", (none, none))):
        (tmp_path / f"{name}.jsonl").write_text(jsonl([(LONG, value) for value in values]))
    data = read(TrainConfig(data=str(tmp_path)))
    assert list(data.splits) == ["train", "dev"]
    assert "left out test" in data.notes[0]


def test_a_column_of_flags_holds_flags(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(f"text,toxic,rude\n{LONG},1,0\n{LONG},2,0\n")
    with pytest.raises(UserError, match=r'all.csv: line 3: toxic is "2", expected 0 or 1'):
        read(TrainConfig(data=str(path), label_column="toxic,rude"))


def test_hub_options_are_for_hub_ids(tmp_path):
    WAYS["all.csv"](tmp_path / "all.csv")
    with pytest.raises(UserError, match="--data-name is for hub ids"):
        read(TrainConfig(data=str(tmp_path / "all.csv"), data_name="x"))
