"""What lies beside the splits, and tables in memory of every shape: nothing is taken for another thing."""

import datasets
import pandas
import pytest

from bert_jax.errors import UserError
from train.config import TrainConfig
from train.data.reading import read

ROWS = [("good", 1), ("bad", 0)] * 4


def write_csv(path, rows=ROWS):
    path.parent.mkdir(exist_ok=True)
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


@pytest.mark.fault(89)
@pytest.mark.parametrize("name", ["train-2.csv", "train_part2.csv", "Test.csv", "test.CSV", "eval.csv", "data/x.csv"])
def test_files_that_no_split_has_are_named(name, tmp_path):
    write_csv(tmp_path / "train.csv")
    assert read(TrainConfig(data=str(tmp_path))).notes == ()
    write_csv(tmp_path / name)
    write_csv(tmp_path / ".hidden.csv")
    (tmp_path / "notes.md").write_text("not data")
    (note,) = read(TrainConfig(data=str(tmp_path))).notes
    assert note.startswith(f"left out {name}: no split has such a name; expected train, dev, test, ")


def test_labels_beside_texts_are_not_left_out(tmp_path):
    for ending, lines in ((".txt", "good\nbad\n" * 4), (".labels.txt", "1\n0\n" * 4)):
        (tmp_path / f"train{ending}").write_text(lines)
    assert read(TrainConfig(data=str(tmp_path))).notes == ()


def test_a_folder_holds_files_of_one_kind_and_none_that_are_hidden(tmp_path):
    write_csv(tmp_path / "train" / "a.csv")
    write_csv(tmp_path / "train" / ".b.csv")
    found = read(TrainConfig(data=str(tmp_path), dev_fraction=0.25))
    assert sum(len(split.rows) for split in found.splits.values()) == len(ROWS)
    (tmp_path / "train" / "c.jsonl").write_text('{"text": "good", "label": 1}\n')
    with pytest.raises(UserError, match=r"train: a\.csv and c\.jsonl are of two kinds; keep one"):
        read(TrainConfig(data=str(tmp_path)))


def in_memory(table, **more):
    return read(TrainConfig(dev_fraction=0.25), tables={"train": table, **more})


def rows_of(found):
    return sorted((row.text, str(row.label)) for split in found.splits.values() for row in split.rows)


@pytest.mark.fault(90)
def test_named_tuples_are_read_by_their_names():
    frame = pandas.DataFrame({"label": [1, 0] * 4, "text": ["good", "bad"] * 4})
    expected = rows_of(in_memory(ROWS))
    assert rows_of(in_memory(list(frame.itertuples(index=False)))) == expected
    assert rows_of(in_memory(list(frame.itertuples()))) == expected  # with a column Index
    assert rows_of(in_memory(pandas.Series(ROWS))) == expected


def test_a_set_of_rows_is_refused():
    with pytest.raises(UserError, match="train: a set has no order"):
        in_memory(set(ROWS))


def test_a_split_given_twice_is_refused():
    with pytest.raises(UserError, match="dev and validation are both dev; give one"):
        in_memory(ROWS, dev=ROWS, validation=ROWS)


@pytest.mark.parametrize("kind", ["numpy", "pandas", "arrow", None])
def test_a_format_of_a_table_does_not_matter(kind):
    table = datasets.Dataset.from_list([{"text": text, "label": label} for text, label in ROWS])
    assert rows_of(in_memory(table.with_format(kind))) == rows_of(in_memory(ROWS))


def test_a_transform_of_ones_own_stays():
    table = datasets.Dataset.from_list([{"text": text, "label": label} for text, label in ROWS])
    shouting = table.with_transform(lambda rows: {**rows, "text": [text.upper() for text in rows["text"]]})
    assert {text for text, _ in rows_of(in_memory(shouting))} == {"GOOD", "BAD"}


def test_names_of_labels_are_a_part_of_the_hash():
    rows = [{"text": text, "label": label} for text, label in ROWS]
    hashes = set()
    for names in (["neg", "pos"], ["pos", "neg"]):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        found = in_memory(datasets.Dataset.from_list(rows, features=features))
        hashes.add(found.splits["train"].sha256)
    assert len(hashes) == 2
