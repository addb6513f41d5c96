"""Labels as people write them: lists of 0 and 1, classes that do not begin at 0, numpy's and Python's own values."""

import json

import numpy as np
import pandas
import pyarrow.parquet
import pytest

from bert_jax.errors import UserError
from bert_jax.tables import label_names
from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from train.config import TrainConfig
from train.data.reading import read
from train.tasks import by_number, targets_of


def understood(labels, task=None, names=(), **options):
    """Label names, and the targets of rows with these labels in their order."""
    rows = [(f"text number {i}", label) for i, label in enumerate(labels)]
    data = read(TrainConfig(data="memory", **options), task, {"train": rows, "dev": rows})
    names, targets = targets_of(data, names)
    return data.task, names, targets["train"].tolist()


@pytest.mark.fault(63)
@pytest.mark.parametrize(
    "labels",
    [
        [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]],
        [[0, 1, 1], [0, 0, 0], [1, 0, 0]],
        [[False, True], [True, True]],
        [[1, 1], [0, 1]],
        ["[0, 1, 1]", "[0, 0, 0]", "[1, 0, 0]"],
        [np.array([0, 1, 1]), np.array([0, 0, 1])],
        [(0.0,), (1.0,)],
    ],
)
def test_lists_of_zeros_and_ones_hold_a_number_for_each_label(labels):
    task, names, targets = understood(labels)
    vectors = [json.loads(label) if isinstance(label, str) else np.array(label, float).tolist() for label in labels]
    assert (task, names) == (MULTI_LABEL, tuple(map(str, range(len(vectors[0])))))
    assert targets == vectors
    named = [f"label {i}" for i in range(len(vectors[0]))]
    assert understood(labels, names=named) == (MULTI_LABEL, tuple(named), vectors)
    with pytest.raises(UserError, match=r"labels are lists of \d zeros and ones, and 7 labels are named"):
        understood(labels, names=list("abcdefg"))


@pytest.mark.parametrize(
    ("labels", "targets"),
    [
        ([[0], [1], [0, 1], []], [[1, 0], [0, 1], [1, 1], [0, 0]]),
        ([[2, 0], [1, 2]], [[1, 0, 1], [0, 1, 1]]),
        ([[3], [5]], [[1, 0], [0, 1]]),
        (["['toxic', 'insult']", "[]", "['insult']"], [[1, 1], [0, 0], [1, 0]]),
        (["('toxic', 'insult')", "()", "('insult',)"], [[1, 1], [0, 0], [1, 0]]),
        (["[1 0 1]", "[0 0 1]"], [[1, 0, 1], [0, 0, 1]]),  # as numpy prints them, and pandas writes them
        (["[1. 0. 1.]", "[0. 0.\n 1.]"], [[1, 0, 1], [0, 0, 1]]),
        (["[ True False]", "[False False]"], [[1, 0], [0, 0]]),
    ],
)
def test_other_lists_hold_labels(labels, targets):
    task, _, found = understood(labels)
    assert (task, found) == (MULTI_LABEL, targets)


def test_names_in_brackets_are_names():
    names = ["(good)", "[bad]", "(so so, at best)", "[bad] [worse]"]
    assert understood(names * 2)[:2] == (SINGLE_LABEL, tuple(sorted(names)))


def test_a_list_that_numpy_cut_is_refused():
    cells = [str(row) for row in np.eye(3, 2000, dtype=int)]
    with pytest.raises(UserError, match=r"row 1: label is .*, a list that was cut; expected all of it"):
        understood(cells)


def test_a_number_with_decimals_among_classes_names_the_other_task():
    with pytest.raises(UserError, match=r"row 4: label is 3.5, .* \(of numbers, pass --task regression\)"):
        understood([1, 2, 3, 3.5])


def test_a_written_list_of_any_length_is_a_list():
    vectors = [[int(i == j) for j in range(5000)] for i in range(3)]
    task, names, targets = understood([str(vector) for vector in vectors])
    assert (task, len(names), targets) == (MULTI_LABEL, 5000, vectors)


@pytest.mark.fault(63)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([[0, 1], [1, 0]], r"train: row 1: label is \[0, 1\], which can be .* or a list of the labels that hold"),
        ([[0], [1]], r"row 1: label is \[0\], which can be"),
        ([[0.0, 1.0], [1.0]], r"row 1: label is \[0.0, 1.0\]; expected a list with 0 or 1 for each label, or"),
        ([[0.0, 1.0], [2.0, 1.0]], r"row 1: label is \[0.0, 1.0\]; expected"),
        ([[2, 2], [0, 1]], r"row 1: label is \[2, 2\]; expected"),
        ([["a"], [True]], r"row 2: label is \[1.0\]; expected"),
        ([[0.5, 1.0], [0.5, 1.0]], r"row 1: label is 0.5, expected an integer or a name"),
    ],
)
def test_lists_of_two_readings_or_none_are_refused(labels, said):
    with pytest.raises(UserError, match=said):
        understood(labels)


@pytest.mark.fault(64)
def columns_understood(task, rows, **options):
    """Label names, and the targets of rows with these values in the columns a and b."""
    records = [{"text": f"text number {i}", "a": a, "b": b} for i, (a, b) in enumerate(rows)]
    tables = {"train": records, "dev": records}
    data = read(TrainConfig(data="memory", label_column="a,b", **options), task, tables)
    names, targets = targets_of(data)
    return names, targets["train"].tolist()


@pytest.mark.fault(63)
def test_a_column_for_each_class_has_one_of_them_a_text():
    rows = [(1, 0), (0, 1), (0, 1), (1, 0)]
    assert columns_understood(SINGLE_LABEL, rows) == (("a", "b"), [0, 1, 1, 0])
    assert columns_understood(MULTI_LABEL, rows) == (("a", "b"), [[1, 0], [0, 1], [0, 1], [1, 0]])
    for row, ones in (((1, 1), "a, b"), ((0, 0), "none")):  # two in one row and none in another would shift the rest
        with pytest.raises(UserError, match=rf"row 2: of the columns a, b, 1 is in {ones}; expected 1 in one"):
            columns_understood(SINGLE_LABEL, [rows[0], row, *rows[1:]])
    bad = [rows[0], (1, 1), *rows[1:], (0, 0)]
    assert columns_understood(SINGLE_LABEL, bad, skip_bad=True) == (("a", "b"), [0, 1, 1, 0])
    with pytest.raises(UserError, match="a regression has one number, and 2 label columns are named: a, b"):
        columns_understood(REGRESSION, rows)


@pytest.mark.parametrize(
    ("labels", "names", "targets"),
    [
        ([1, 2, 2, 1], ("1", "2"), [0, 1, 1, 0]),
        ([5, 1, 3], ("1", "3", "5"), [2, 0, 1]),
        ([0, 4], ("0", "4"), [0, 1]),
        ([-1, 0, 1], ("-1", "0", "1"), [0, 1, 2]),
        (["1001", "30000000000"], ("1001", "30000000000"), [0, 1]),
        ([10, 9], ("9", "10"), [1, 0]),
        (["0.0", "1.0"], ("0", "1"), [0, 1]),
        (["01", "02"], ("01", "02"), [0, 1]),
        ([np.int64(1), np.int64(0)], ("0", "1"), [1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
        ([np.bool_(True), np.bool_(False)], ("False", "True"), [1, 0]),
    ],
)
def test_the_classes_are_the_values_there_are(labels, names, targets):
    assert understood(labels) == (SINGLE_LABEL, names, targets)


def test_kinds_of_files_write_numbers_differently(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na film,1.0\nanother,0.0\n")
    (tmp_path / "dev.jsonl").write_text(json.dumps({"text": "a third", "label": 1}) + "\n")
    names, targets = targets_of(read(TrainConfig(data=str(tmp_path))))
    assert (names, targets["train"].tolist(), targets["dev"].tolist()) == (("0", "1"), [1, 0], [1])


@pytest.mark.fault(64)
def test_a_model_knows_which_number_was_which():
    assert understood([5, 1], names=("1", "3", "5"))[2] == [2, 0]
    assert understood([1, 0], names=("neg", "pos"))[2] == [1, 0]
    with pytest.raises(UserError, match="label 2 is out of range; expected 0 to 1, for neg, pos"):
        understood([1, 2], names=("neg", "pos"))
    with pytest.raises(UserError, match="label 1 can be 1 star, or the id of 2 stars; write names in place of numbers"):
        understood([1, 2, 4], names=("1 star", "2 stars", "3 stars", "4 stars", "5 stars"))
    with pytest.raises(UserError, match="label -1 is out of range"):
        understood([-1, 1], names=("neg", "pos"))


def test_labels_of_the_dev_set_are_those_of_training():
    tables = {"train": [("a", 1), ("b", 2)], "dev": [("c", 3)]}
    with pytest.raises(UserError, match=r"dev: row 1: label 3 is unknown; expected one of 1, 2"):
        targets_of(read(TrainConfig(data="memory"), None, tables))


def test_one_class_and_a_class_a_row_are_refused():
    with pytest.raises(UserError, match="all rows have the label 1; a classifier needs two or more"):
        understood([1, 1, 1])
    with pytest.raises(UserError, match="each of 10 rows has a label of its own; is column label that of the labels?"):
        understood(range(10))


def test_frames_with_numbers_for_names():
    frame = pandas.DataFrame([["a film of note", 1], ["another such film", 0]] * 2)
    data = read(TrainConfig(data="memory", text_column="0", label_column="1", dev_fraction=0.5), None, {"train": frame})
    assert sorted(row.label for split in data.splits.values() for row in split.rows) == [0, 0, 1, 1]
    frame.columns = ["text", "text"]
    with pytest.raises(UserError, match="train: two columns are called text; rename one of them"):
        read(TrainConfig(data="memory"), None, {"train": frame})


def test_a_classifier_takes_other_labels_where_it_is_told_to(primes_directory, primes, tmp_path):
    from train.data.prepare import prepare

    path = tmp_path / "all.csv"
    path.write_text("text,label\n" + "".join(f"film {i},{'yes' if i % 2 else 'no'}\n" for i in range(8)))
    how = {"model": str(primes_directory), "data": str(path), "max_length": 16}
    with pytest.raises(UserError, match=r"label 'no' is unknown; .*--new-classifier takes those of the data"):
        prepare(TrainConfig(**how))
    with pytest.raises(UserError, match="leave --labels out, or pass --new-classifier"):
        prepare(TrainConfig(**how, labels=("no", "yes")))
    start = prepare(TrainConfig(**how, new_classifier=True)).checkpoint
    assert start.config.labels == ("no", "yes")
    assert start.tensors["classifier.kernel"].shape == (primes.config.hidden_size, 2)
    for name, tensor in primes.tensors.items():
        if not name.startswith("classifier"):
            np.testing.assert_array_equal(start.tensors[name], tensor)
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("text,score\n" + "".join(f"film {i},{i / 4}\n" for i in range(8)))
    assert prepare(TrainConfig(**how | {"data": str(numbers)}, new_classifier=True)).task == "regression"


def as_datasets(labels, names):
    """A table of `datasets` whose labels are numbers, or lists of numbers, with names."""
    import datasets

    one = datasets.ClassLabel(names=names)
    kind = datasets.Sequence(one) if isinstance(labels[0], list) else one
    texts = [f"some words {i}" for i in range(len(labels))]
    features = datasets.Features({"text": datasets.Value("string"), "label": kind})
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)


def test_a_data_set_says_which_number_is_which():
    # As `class_encode_column` names the numbers 0 to 10, in order of the alphabet.
    names = sorted(map(str, range(11)))
    both = as_datasets(list(range(11)) * 2, names)
    called, targets = targets_of(read(TrainConfig(), None, {"train": both, "dev": both}))
    assert called == tuple(names)
    assert targets["train"].tolist() == list(range(11)) * 2
    few = as_datasets([1, 2, 1, 2], ["1", "2", "3"])
    called, targets = targets_of(read(TrainConfig(), None, {"train": few, "dev": few}))
    assert (called, targets["train"].tolist()) == (("1", "2", "3"), [1, 2, 1, 2])
    lists = as_datasets([[0], [1], [2], [0]], ["0", "2", "1"])
    called, targets = targets_of(read(TrainConfig(), None, {"train": lists, "dev": lists}))
    assert targets["train"].argmax(axis=1).tolist() == [0, 1, 2, 0]


def test_a_parquet_file_says_which_number_is_which_as_datasets_wrote_it(tmp_path):
    as_datasets([0, 1, 0, 1], ["pos", "neg"]).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    as_datasets([1, 1], ["pos", "neg"]).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    as_datasets([0, 1], ["neg", "pos"]).to_parquet(tmp_path / "dev.parquet")
    called, targets = targets_of(read(TrainConfig(data=str(tmp_path))))
    assert called == ("pos", "neg")
    assert {name: found.tolist() for name, found in targets.items()} == {"train": [0, 1, 0, 1, 1, 1], "dev": [1, 0]}
    as_datasets([[0], [1, 0]], ["pos", "neg"]).to_parquet(tmp_path / "lists.parquet")
    assert label_names(tmp_path / "lists.parquet") == {"label": ("pos", "neg")}
    as_datasets([1, 1], ["neg", "pos"]).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(
        UserError, match=r"00001-of-00002.parquet: its labels have other names than those of train-00000"
    ):
        read(TrainConfig(data=str(tmp_path)))
    label = {"names": ["pos", "neg"], "_type": "ClassLabel"}
    words = [{"dtype": "string", "_type": "Value"}]  # as earlier versions wrote lists
    note = {"info": {"features": {"words": words, "more": {"feature": words, "_type": "Sequence"}, "label": [label]}}}
    table = pyarrow.table({"words": [["a"]], "label": [[0]]}).replace_schema_metadata({"huggingface": json.dumps(note)})
    pyarrow.parquet.write_table(table, tmp_path / "earlier.parquet")
    assert label_names(tmp_path / "earlier.parquet") == {"label": ("pos", "neg")}
    noted = pyarrow.table({"text": ["a"], "label": [0]}).replace_schema_metadata({"huggingface": "{}"})
    pyarrow.parquet.write_table(noted, tmp_path / "noted.parquet")
    with pytest.raises(UserError, match=r"noted.parquet: its note of what labels mean \(huggingface\) cannot be read"):
        read(TrainConfig(data=str(tmp_path / "noted.parquet")))


def test_splits_whose_labels_are_numbered_differently():
    ours, theirs = as_datasets([0, 1, 0, 1], ["pos", "neg"]), as_datasets([0, 1, 0, 0], ["neg", "pos"])
    written = [("some words", "neg"), ("more words", "pos")]
    for tables, train, dev in (
        ({"train": ours, "dev": theirs}, [0, 1, 0, 1], [1, 0, 1, 1]),
        ({"train": ours, "dev": written}, [0, 1, 0, 1], [1, 0]),
        ({"train": written, "dev": theirs}, [0, 1], [0, 1, 0, 0]),  # neg, pos
        ({"train": ours, "dev": [("some words", 1)]}, [0, 1, 0, 1], [1]),
        ({"train": [("a", 0), ("b", 1)], "dev": theirs}, [0, 1], [0, 1, 0, 0]),
    ):
        _, targets = targets_of(read(TrainConfig(), None, tables))
        assert (targets["train"].tolist(), targets["dev"].tolist()) == (train, dev)


@pytest.mark.fault(87)
def test_a_model_and_a_data_set_that_number_the_same_names_differently():
    table = as_datasets([0, 1, 0, 0], ["pos", "neg"])
    data = read(TrainConfig(), None, {"train": table, "dev": table})
    for names in (("neg", "pos"), ("NEG", "POS"), ("neg", "neutral", "pos")):
        called, targets = targets_of(data, names)
        assert called == names
        assert [names[i].lower() for i in targets["train"]] == ["pos", "neg", "pos", "pos"]
        assert not by_number(data, names)
    called, targets = targets_of(data, ("LABEL_0", "LABEL_1"))
    assert targets["train"].tolist() == [0, 1, 0, 0]
    assert by_number(data, called) == "labels pos, neg of the data are taken, by number, for LABEL_0, LABEL_1"
    with pytest.raises(UserError, match=r"its 2 labels are pos, neg; expected LABEL_0, LABEL_1, LABEL_2; write these"):
        targets_of(data, ("LABEL_0", "LABEL_1", "LABEL_2"))
    plain = [("some words", 0), ("more words", 1)]
    data = read(TrainConfig(), None, {"train": plain, "dev": table})  # the source of dev alone names its numbers
    called, targets = targets_of(data, ("LABEL_0", "LABEL_1"))
    assert (targets["train"].tolist(), targets["dev"].tolist()) == ([0, 1], [0, 1, 0, 0])
    assert by_number(data, called) == "labels pos, neg of the data are taken, by number, for LABEL_0, LABEL_1"
    with pytest.raises(UserError, match=r"dev: its 2 labels are pos, neg; expected LABEL_0, LABEL_1, LABEL_2; write"):
        targets_of(data, ("LABEL_0", "LABEL_1", "LABEL_2"))
    data = read(TrainConfig(), None, {"train": table, "dev": table})
    with pytest.raises(UserError, match=r"row 1: label 'pos' is unknown; expected one of neg, bad"):
        targets_of(data, ("neg", "bad"))


def test_numbers_that_are_taken_for_names_of_other_numbers():
    stars = ("1 star", "2 stars", "3 stars")
    for labels, names, said in (
        ((0, 1, 2), ("1", "2", "3"), "labels 0, 1, 2 of the data are taken, by number, for 1, 2, 3"),
        ((0, 1), stars, "labels 0, 1 of the data are taken, by number, for 1 star, 2 stars, 3 stars"),
        ((1, 2), ("1", "2", "3"), ""),
        ((0, 1), ("LABEL_0", "LABEL_1"), ""),
        ((0, 1), ("bad", "good"), ""),
        (("bad", "good"), ("bad", "good"), ""),
    ):
        tables = {"train": [("some words", label) for label in labels], "dev": [("more", labels[0])]}
        assert by_number(read(TrainConfig(), None, tables), names) == said
