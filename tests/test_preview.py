"""What is said of the data before training: what was understood, and what is suspicious."""

import numpy as np
import pytest

from bert_jax.packing import Tokens
from train.config import TrainConfig
from train.data.preview import Lengths, preview
from train.data.reading import read
from train.tasks import targets_of

TEXTS = [f"number {i} of the texts" for i in range(200)]


def said(train, dev=(("unseen", 0), ("neither", 1)), cut=0, **options):
    tables = {"train": train, "dev": list(dev)}
    data = read(TrainConfig(**options), None, tables)
    names, targets = targets_of(data)
    read_of = {}
    for name, split in data.splits.items():
        lengths = Lengths()
        for i, _ in enumerate(split.rows):
            lengths.add(Tokens(np.zeros(3 + i, np.int32), np.zeros(3 + i, np.int32)))
        read_of[name] = lengths, cut
    return preview(data, names, targets, read_of, 32).splitlines()


def test_what_was_understood():
    lines = said([(text, i % 2) for i, text in enumerate(TEXTS)])
    assert lines[:4] == [
        "task     single-label: 0, 1",
        "train    200 examples from train: text in text, label in label",
        "         labels: 0 100 (50.0%), 1 100 (50.0%)",
        "         tokens: median 102, 95% at most 192, longest 202",
    ]
    assert not any(line.startswith("warning") for line in lines)


def test_several_labels_and_numbers():
    lines = said([(text, ["a", "b"] if i % 2 else []) for i, text in enumerate(TEXTS)], [("unseen", ["a"])])
    assert "         labels: a 100 (50.0%), b 100 (50.0%)" in lines
    assert "         labels a text: mean 1.00, most 2, none 100" in lines
    lines = said([(text, i / 8) for i, text in enumerate(TEXTS)], [("unseen", 0.5)])
    assert lines[0] == "task     regression: score"
    assert lines[2].strip() == "score: 0 to 24.875, mean 12.44, sd 7.217"


def warnings(*args, **options):
    return [line.removeprefix("warning  ") for line in said(*args, **options) if line.startswith("warning")]


def test_repeats_and_contradictions():
    rows = [(text, i % 2) for i, text in enumerate(TEXTS)]
    found = warnings([*rows, rows[3], (TEXTS[5], 0)], [rows[0], rows[1], ("unseen", 1), (TEXTS[7], 0)])
    assert found == [
        "3 of 4 texts in dev are in train too: scores will flatter",
        "2 of 202 texts in train repeat an earlier one",
        "2 texts have other labels than the same text before: "
        "'number 5 of the texts' (train: rows 6, 202); 'number 7 of the texts' (train: row 8 and dev: row 4)",
    ]
    pairs = [("a text", f"other {i}", i % 2) for i in range(6)]
    unseen = [("a text", "unseen", i) for i in range(2)]
    assert warnings(pairs, unseen[:1]) == ["dev has no example of 1"]
    unseen[1] = ("another text", "unseen", 1)
    assert not warnings(pairs, unseen)
    assert warnings([*pairs, pairs[0]], unseen) == ["1 of 7 texts in train repeat an earlier one"]


def test_texts_are_the_same_only_if_they_are_read_alike():
    rows, dev = [(f"a text {i}", "other", i % 2) for i in range(6)], [("unseen", "other", 0), ("neither", "other", 1)]
    different = [("one", "None", 0), ("one\0None", "", 0), ("one", "\0None", 0), ("one\0", "None", 0)]
    assert not warnings([*rows, *different], dev)
    assert warnings([*rows, ("one", "", 0), ("one", "", 0)], dev) == ["1 of 8 texts in train repeat an earlier one"]


@pytest.mark.parametrize(
    ("row", "options", "text"),
    [
        ((" ", 1), {}, "1 texts are empty: train: row 201"),
        (("one of them", 2), {}, "labels of fewer than 1% of train: 2; see --class-weights"),
        (
            ("one", 1),
            {"cut": 50},
            "25% of train is cut to 32 tokens; a larger --max-length, or --long-texts windows, reads more",
        ),
    ],
)
def test_other_warnings(row, options, text):
    assert text in warnings([*((text, i % 2) for i, text in enumerate(TEXTS)), row], **options)


@pytest.mark.parametrize("separator", [",", "; ", "|"])
def test_labels_that_join_other_labels(separator):
    labels = "rude", "threat", f"rude{separator}threat"
    rows = [(text, labels[i % 3]) for i, text in enumerate(TEXTS)]
    sign = separator.strip()
    remark = (
        f"labels join other labels with '{sign}': {labels[2]}; "
        f"if these are several labels of a text, pass --task multi-label --label-separator '{sign}'"
    )
    assert remark in warnings(rows, rows[:3])
    alone = [(text, label.replace(labels[2], f"rude{separator}calm")) for text, label in rows]
    assert not [line for line in warnings(alone, alone[:3]) if "join" in line]


def test_labels_that_differ_only_in_case_or_spaces():
    rows = [(text, ("pos", "neg", "Pos ", "neg\t")[i % 4]) for i, text in enumerate(TEXTS)]
    alike = "labels differ only in case or spaces: 'Pos ', 'neg', 'neg\\t', 'pos'; are they the same?"
    assert alike in warnings(rows, [("unseen", "pos")])
    assert not any("differ only" in line for line in warnings([(text, i % 2) for i, text in enumerate(TEXTS)]))


def test_many_labels_are_not_all_listed():
    lines = said([(text, i % 50) for i, text in enumerate(TEXTS)])
    assert lines[2].endswith("and 30 more labels")
    assert lines[2].count("(2.0%)") == 20
    missing = ", ".join(map(str, range(2, 22)))
    assert f"warning  dev has no example of {missing} and 28 more" in lines


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, "1.0", "+1", "good"], "labels are the same number: +1, 1, 1.0; are they the same?"),
        ([True, 1, False, 0], "labels are the same number: 0, 1, False, True; are they the same?"),
        (["0.0", "1.0", "nan"], "nan is a label here, and often stands for none; are these rows without a label?"),
        (["good", "bad", "N/A"], "N/A is a label here, and often stands for none; are these rows without a label?"),
        (
            ["1", "2", "2.5", "3"],
            "labels are numbers with fractions, each a class: 1, 2, 2.5, 3; see --task regression",
        ),
    ],
)
def test_labels_that_may_be_none_or_others(labels, expected):
    rows = [(text, labels[i % len(labels)]) for i, text in enumerate(TEXTS)]
    assert expected in warnings(rows, [("unseen", labels[0])])


@pytest.mark.parametrize(
    "labels", [["1", "2.0"], ["01", "02"], ["infinity", "true", "Nancy"], ["v1.5", "v2.5"], [1, 3]]
)
def test_labels_of_which_nothing_is_to_be_said(labels):
    rows = [(text, labels[i % len(labels)]) for i, text in enumerate(TEXTS)]
    assert not warnings(rows, [(f"unseen {label}", label) for label in labels])
