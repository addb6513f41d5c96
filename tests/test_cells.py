"""Rows from Python: what they hold is hashed itself, so that other rows are never taken for those of a run."""

import copy
import datetime
import decimal
import hashlib
import itertools
import json
import pathlib
import uuid

import numpy as np
import pandas
import pytest

from bert_jax.errors import UserError
from train.config import TrainConfig
from train.data.reading import read

LONG = np.arange(5000)
EDGE = np.arange(5000)
EDGE[2500] = -1


def day(hour):
    return datetime.datetime(2026, 11, 1, hour)


KINDS = {
    "long arrays": [[LONG], [EDGE], [LONG.astype(float)], [LONG[:-1]], [LONG.reshape(50, 100)], LONG],
    "arrays in rows": [{"a": LONG}, {"a": EDGE}, {"b": LONG}, ({"a": LONG}, 1)],
    "numpy scalars": [np.int64(1), np.float32(1.5), np.float64(0.1), np.float32(0.1), np.bool_(True), np.str_("1")],
    "longdouble": [np.longdouble("0.1"), np.longdouble("0.1") + np.finfo(np.longdouble).eps],
    "dates of numpy": [np.datetime64("2026-11-01"), np.datetime64("2026-11-02"), np.timedelta64(3, "s")],
    "arrays of objects": [np.array([b"a", None], object), np.array([b"b", None], object)],
    "missing": [None, pandas.NA, pandas.NaT, float("nan"), "nan", "NaT", "<NA>", "null"],
    "times": [
        pandas.Timestamp(1), pandas.Timestamp(2), pandas.Timestamp(1, tz="UTC"), pandas.Timedelta(1),
        pandas.Timedelta(2),
        pandas.Period("2026-11", "M"), pandas.Period("2026-12", "M"), day(1), day(2), day(1).date(), day(1).time(),
        day(1).replace(tzinfo=datetime.UTC),
    ],
    "decimals": [decimal.Decimal("1.0"), decimal.Decimal("1.00"), 1.0, 1, True, "1.0", "Decimal('1.0')"],
    "bytes": [b"a", b"b", bytearray(b"a"), "a", "b'a'", [b"a"], [[b"a"]], [b"a", b"b"], {"a": b"b"}, {"a": "b"}],
    "others": [uuid.UUID(int=1), uuid.UUID(int=2), pathlib.PurePosixPath("a"), pathlib.PurePosixPath("b"), 1j, 2j],
    "sets": [{1, 2}, {1, 3}, frozenset({1, 2}), [1, 2]],
}  # fmt: skip


def hashed(*values, column="more"):
    rows = [{"text": "a text", "label": i % 2, column: value} for i, value in enumerate(values * 2)]
    return read(TrainConfig(), None, {"train": rows, "dev": rows}).splits["train"].sha256


@pytest.mark.fault(71)
@pytest.mark.parametrize("kind", KINDS)
def test_other_values_are_other_data_and_the_same_ones_are_not(kind):
    values = KINDS[kind]
    found = [hashed(value) for value in values]
    assert found == [hashed(copy.deepcopy(value)) for value in values]
    for (one, a), (other, b) in itertools.combinations(zip(values, found, strict=True), 2):
        assert a != b, (one, other)
    assert hashed(*values[:2]) != hashed(*values[1::-1])
    assert hashed(values[0]) != hashed(values[0], column="other")


def test_rows_of_text_and_numbers_hash_as_before():
    rows = [{"text": "a téxt", "label": 0, "weight": 0.5}, {"text": "another", "label": 1, "weight": None}] * 2
    expected = hashlib.sha256(b"".join(json.dumps(row, sort_keys=True).encode() for row in rows)).hexdigest()
    assert read(TrainConfig(), None, {"train": rows, "dev": rows}).splits["train"].sha256 == expected
    turned = [dict(reversed(row.items())) for row in rows]
    assert read(TrainConfig(), None, {"train": turned, "dev": rows}).splits["train"].sha256 == expected


def test_what_cannot_be_told_apart_is_refused_by_name():
    class Thing:
        pass

    rows = [("a text", 0), ("another", 1)]
    table = [{"text": text, "label": label, "more": [1, {"a": Thing()}]} for text, label in rows]
    for skip_bad in (False, True):
        with pytest.raises(UserError, match="^train: row 1: more holds a Thing, and whether two of these are the same"):
            read(TrainConfig(skip_bad=skip_bad), None, {"train": table, "dev": rows})
    with pytest.raises(UserError, match="^train: row 1: two columns are called 1; rename one"):
        read(TrainConfig(), None, {"train": [{"text": "a", "label": 0, 1: "a", "1": "b"}], "dev": rows})


def test_a_frame_is_hashed_by_what_it_holds():
    frame = pandas.DataFrame({"text": ["a text", "another"], "label": [0, 1], "more": [LONG, EDGE]})
    same, other = frame.copy(), frame.iloc[:2].assign(more=[EDGE, LONG])
    found = [
        read(TrainConfig(), None, {"train": one, "dev": frame}).splits["train"].sha256 for one in (frame, same, other)
    ]
    assert found[0] == found[1] != found[2]


def test_tables_of_datasets_in_any_format_are_the_same_data():
    datasets = pytest.importorskip("datasets")
    columns = {"text": ["a text", "another"] * 3, "label": [0, 1] * 3, "more": [LONG.tolist(), EDGE.tolist()] * 3}
    table = datasets.Dataset.from_dict(columns)
    other = datasets.Dataset.from_dict({**columns, "more": [LONG.tolist()] * 6})
    plain = read(TrainConfig(), None, {"train": table, "dev": table}).splits["train"]
    for kind in ("numpy", "jax", "pandas", "arrow"):
        found = read(TrainConfig(), None, {"train": table.with_format(kind), "dev": table}).splits["train"]
        assert (found.rows, found.sha256) == (plain.rows, plain.sha256)
        assert {type(row.label) for row in found.rows} == {int}
        found = read(TrainConfig(), None, {"train": other.with_format(kind), "dev": table}).splits["train"]
        assert found.sha256 != plain.sha256


def test_pictures_beside_texts_are_compared_as_bytes():
    datasets, pillow = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")
    columns = {"text": ["a text", "another"], "label": [0, 1]}

    def found(*colours):
        pictures = [pillow.new("RGB", (2, 2), colour) for colour in colours]
        table = datasets.Dataset.from_dict({**columns, "picture": pictures})
        assert isinstance(table[0]["picture"], pillow.Image)
        return read(TrainConfig(), None, {"train": table, "dev": table}).splits["train"].sha256

    assert found("red", "blue") == found("red", "blue") != found("red", "green")
