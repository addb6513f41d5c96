"""Which rows are held out, and what is done with files that have no labels."""

import random
from collections import Counter

import pytest

from bert_jax.errors import UserError
from train.config import TrainConfig
from train.data.held_out import divide
from train.data.reading import read
from train.rows import Row, Split


def split_of(labels, texts=None):
    texts = texts or [f"text {i}" for i in range(len(labels))]
    return Split("all.csv", [Row(i, t, y) for i, (t, y) in enumerate(zip(texts, labels, strict=True), 1)], 0, "")


@pytest.mark.fault(65)
@pytest.mark.parametrize("seed", range(8))
def test_each_class_has_its_share(seed):
    labels = ["fraud"] * 6 + ["fine"] * 194
    random.Random(3).shuffle(labels)
    found = divide(split_of(labels), 0.1, seed)
    counts = Counter(row.label for row in found["dev"].rows)
    assert sum(counts.values()) in (20, 21)
    assert counts["fraud"] in (1, 2)
    numbers = sorted(row.number for one in found.values() for row in one.rows)
    assert numbers == list(range(1, 201))
    assert divide(split_of(labels), 0.1, seed) == found
    assert divide(split_of(labels), 0.1, seed + 1) != found


def test_the_share_is_the_one_asked_for():
    for count, fraction, held in ((50, 0.2, 10), (872, 0.1, 87), (10, 0.01, 1), (3, 0.9, 2), (2, 0.5, 1)):
        found = divide(split_of([0.5 * i for i in range(count)]), fraction, 0)
        assert [len(found[name].rows) for name in ("train", "dev")] == [count - held, held]


def test_numbers_are_held_out_over_their_range():
    found = divide(split_of([float(i) for i in range(100)]), 0.1, 0)
    assert all(sum(10 * i <= row.label < 10 * i + 10 for row in found["dev"].rows) == 1 for i in range(10))


def test_a_class_of_one_text_stays_in_training_and_one_of_two_is_on_both_sides():
    for seed in range(20):
        found = divide(split_of(["a"] * 30 + ["b"] * 2 + ["c"]), 0.1, seed)
        where = {name: Counter(row.label for row in one.rows) for name, one in found.items()}
        assert where["dev"]["b"] == where["train"]["b"] == 1
        assert where["train"]["c"] == 1


@pytest.mark.fault(65)
def test_equal_texts_stay_together():
    texts = [f"text {i % 12}" for i in range(60)]
    for seed in range(10):
        found = divide(split_of([i % 2 for i in range(60)], texts), 0.3, seed)
        both = [{row.text for row in found[name].rows} for name in ("train", "dev")]
        assert not both[0] & both[1]
        assert all(both)
    # Where each class is one text, there is no other way.
    found = divide(split_of(["good", "bad"] * 20, ["loved it", "hated it"] * 20), 0.1, 0)
    assert Counter(row.label for row in found["dev"].rows) == {"good": 2, "bad": 2}
    with pytest.raises(UserError, match="1 examples; at least 2 are needed"):
        divide(split_of([0]), 0.5, 0)


def test_the_seed_of_a_run_does_not_move_the_split(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(40)))
    first = read(TrainConfig(data=str(path), seed=1)).splits
    assert read(TrainConfig(data=str(path), seed=2)).splits == first
    assert read(TrainConfig(data=str(path), split_seed=1)).splits != first


def test_a_column_says_which_split(tmp_path):
    path = tmp_path / "all.csv"
    rows = [("a film", 0, "train"), ("a play", 1, "train"), ("a song", 0, "Validation"), ("a book", 1, "test")]
    path.write_text("text,label,split\n" + "".join(f"{t},{y},{s}\n" for t, y, s in rows))
    found = read(TrainConfig(data=str(path))).splits
    assert {name: [row.text for row in one.rows] for name, one in found.items()} == {
        "train": ["a film", "a play"],
        "dev": ["a song"],
        "test": ["a book"],
    }
    assert found["test"].place(found["test"].rows[0].number) == f"{path}: line 5"
    path.write_text("text,label,split\n" + "".join(f"{t},{y},{i}\n" for i, (t, y, _) in enumerate(rows)))
    data = read(TrainConfig(data=str(path)))
    assert set(data.splits) == {"train", "dev"}
    assert data.notes == (f"column split of {path} is not used: it has 0, 1, 2; expected train, dev, test",)


@pytest.mark.fault(66)
@pytest.mark.parametrize("header", ["id,text", "index,sentence"])
def test_a_file_without_labels_is_left_out(header, tmp_path):
    name = header.split(",")[1]
    (tmp_path / "train.csv").write_text(f"{name},label\na film of note,pos\na bad film,neg\n")
    (tmp_path / "dev.csv").write_text(f"{name},label\nanother good film,pos\n")
    (tmp_path / "test.csv").write_text(f"{header}\n0,a third one\n1,a fourth one\n")
    data = read(TrainConfig(data=str(tmp_path)))
    assert list(data.splits) == ["train", "dev"]
    assert data.notes == (f"left out test of {tmp_path / 'test.csv'}: it has no labels",)
    tables = {"train": [("a", 0), ("b", 1), ("c", 1)], "test": [{"text": "d"}]}
    assert "test" not in read(TrainConfig(data="memory"), None, tables).splits


def test_minus_one_can_be_a_class(tmp_path):
    tables = {"train": [("a", -1), ("b", 1)], "dev": [("c", -1)]}
    assert [row.label for row in read(TrainConfig(data="memory"), None, tables).splits["dev"].rows] == [-1]


@pytest.mark.fault(66)
def test_a_column_that_is_no_label_in_train_is_none_in_test(tmp_path):
    (tmp_path / "train.csv").write_text("text,score,label\na film of note,1,0\na bad film,0,1\na film,0,1\n")
    (tmp_path / "test.csv").write_text("text,score\na third one,1\na fourth one,0\n")
    data = read(TrainConfig(data=str(tmp_path)))
    assert data.notes == (f"left out test of {tmp_path / 'test.csv'}: it has no labels",)
    (tmp_path / "test.csv").write_text("text,sentiment\na third one,1\na fourth one,0\n")
    assert [row.label for row in read(TrainConfig(data=str(tmp_path))).splits["test"].rows] == ["1", "0"]


def test_splits_are_read_from_the_same_columns(tmp_path):
    (tmp_path / "train.csv").write_text("sentence,kind\na film of note,0\na bad film,1\na film,1\na play,0\n")
    (tmp_path / "dev.csv").write_text("text,sentence,label,kind\nno,a film,1,0\nno,a play,0,1\n")
    found = read(TrainConfig(data=str(tmp_path))).splits["dev"]
    assert [(row.text, row.label) for row in found.rows] == [("a film", "0"), ("a play", "1")]


@pytest.mark.fault(88)
def test_pairs_in_one_split_alone_are_refused(tmp_path):
    one, two = "text,label\na film,0\na play,1\n", "sentence1,sentence2,label\na film,a play,0\na play,a film,1\n"
    for train, dev in ((one, two), (two, one)):
        (tmp_path / "train.csv").write_text(train)
        (tmp_path / "dev.csv").write_text(dev)
        with pytest.raises(
            UserError, match=r"dev.csv: holds .*, and .*train.csv .*; name --text-column and --pair-col"
        ):
            read(TrainConfig(data=str(tmp_path)))


def test_a_second_text_that_later_rows_have(tmp_path):
    path = tmp_path / "all.jsonl"
    rows = ['{"text": "a film", "label": 0}', '{"text": "a play", "label": 1, "id": 3}'] * 2
    path.write_text("\n".join(rows))
    assert len(read(TrainConfig(data=str(path))).splits["train"].rows) == 2
    path.write_text("\n".join([*rows, '{"text": "a song", "pair": "a book", "label": 1}']))
    with pytest.raises(UserError, match="line 5: pair holds a second text, and rows before have none; mend the row or"):
        read(TrainConfig(data=str(path)))
    read(TrainConfig(data=str(path), text_column="text"))
