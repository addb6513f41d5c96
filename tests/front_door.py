"""Tables nobody chose, written and read again by pandas: we read the same texts and classes, or refuse by name.

`python -m tests.front_door 50000` tries so many; `test_front_door.py` fewer.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bert_jax.errors import UserError
from bert_jax.tasks import MULTI_LABEL, SINGLE_LABEL
from train.config import TrainConfig
from train.data.reading import read
from train.tasks import targets_of

WORDS = (
    "good",
    "film",
    "naïve",
    'a "quoted" one',
    "one, two",
    "semi; colon",
    "'",
    '"',
    "  ",
    "ends\nhere",
    "tab\there",
    "日本",
    "#",
    "-",
)
NAMES = ("pos", "neg", "Neutral", " spaced", "two words", "a,b", "it's", '"q"', "01", "+1", "1e3", "None", "nan")
LABELS = {
    "from 0": st.integers(0, 3),
    "from 1": st.integers(1, 5),
    "signed": st.sampled_from([-1, 0, 1]),
    "0 and 4": st.sampled_from([0, 4]),
    "codes": st.sampled_from([1001, 2002, 30000000000]),
    "floats": st.sampled_from([0.0, 1.0, 2.0]),
    "truths": st.booleans(),
    "names": st.sampled_from(NAMES),
    "digits": st.sampled_from(["0", "1", "2"]),
    "mixed": st.sampled_from(["1", "two", "3.0"]),
    "with a hole": st.sampled_from(["yes", "no", None]),
}
KINDS = ("csv", "csv;", "csv|", "csv tab", "csv quoted", "tsv", "jsonl", "json", "parquet", "frame", "tuples")
COLUMNS = (
    ("text", "label"),
    ("Sentence", "LABEL"),
    ("review", "sentiment"),
    ("words of them", "verdict"),
    ("text", "text"),
)


class Case(NamedTuple):
    """A table: the kind of file, names of columns, texts, labels, and whether the label comes first."""

    kind: str
    names: tuple[str, str]
    texts: list[str]
    labels: list[Any]
    turned: bool


@st.composite
def cases(draw) -> Case:
    """Any table."""
    size = draw(st.integers(2, 24))
    text = st.lists(st.sampled_from(WORDS), min_size=0, max_size=5).map(" ".join)
    label = LABELS[draw(st.sampled_from(sorted(LABELS)))]
    return Case(
        draw(st.sampled_from(KINDS)),
        draw(st.sampled_from(COLUMNS)),
        draw(st.lists(text, min_size=size, max_size=size)),
        draw(st.lists(label, min_size=size, max_size=size)),
        draw(st.booleans()),
    )


def frame_of(case: Case) -> pandas.DataFrame:
    """The table as pandas has it."""
    columns = [pandas.Series(case.texts, dtype=object), pandas.Series(case.labels)]
    frame = pandas.concat(columns[::-1] if case.turned else columns, axis=1)
    frame.columns = list(case.names)[::-1] if case.turned else list(case.names)
    return frame


@contextmanager
def written(case: Case) -> Iterator[tuple[Any, pandas.DataFrame]]:
    """What we are given, and the table as pandas reads it."""
    frame = frame_of(case)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / f"all.{case.kind.split()[0].rstrip(';|')}"
        how = {"csv;": {"sep": ";"}, "csv|": {"sep": "|"}, "csv tab": {"sep": "\t"}, "tsv": {"sep": "\t"}}.get(
            case.kind, {}
        )
        if case.kind.startswith(("csv", "tsv")):
            quoting = csv.QUOTE_ALL if case.kind == "csv quoted" else csv.QUOTE_MINIMAL
            frame.to_csv(place, index=False, quoting=quoting, **how)
            yield place, pandas.read_csv(place, keep_default_na=False, dtype=str, **how)
        elif case.kind in ("jsonl", "json"):
            records = [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)]
            plain = [{k: v.item() if hasattr(v, "item") else v for k, v in record.items()} for record in records]
            lines = "".join(json.dumps(record) + "\n" for record in plain)
            place.write_text(lines if case.kind == "jsonl" else json.dumps(plain))
            yield place, frame
        elif case.kind == "parquet":
            frame.to_parquet(place)
            yield place, pandas.read_parquet(place)
        elif case.kind == "frame":
            yield {"train": frame}, frame
        else:
            yield {"train": list(zip(case.texts, case.labels, strict=True))}, frame


def expected(frame: pandas.DataFrame, names: tuple[str, str]) -> list[tuple[str, str]]:
    """Each text and the name of its class, by pandas' types."""
    labels = frame[names[1]]
    values = [value.item() if hasattr(value, "item") else value for value in labels]
    numbers = [_number(value) for value in values]
    whole = all(number is not None for number in numbers)
    classes = [str(number) for number in numbers] if whole else [str(value) for value in values]
    return list(zip(frame[names[0]], classes, strict=True))


def _number(value: Any) -> int | None:
    """A whole number as pandas would read it from text, but for codes such as 01 and +1."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
        canonical = (
            value.strip() in (str(int(number)), str(number)) if number == number and abs(number) < 1e300 else False
        )
        return int(number) if canonical and number.is_integer() and "e" not in value else None
    return int(value) if float(value).is_integer() else None


def check(case: Case, counts: dict[str, int]) -> None:
    """Read a case; `AssertionError` where we read it, and not as pandas does."""
    assume(case.names[0] != case.names[1] or case.kind.startswith(("csv", "tsv", "frame")))  # others cannot be written
    try:
        with written(case) as (given, frame):
            tables = given if isinstance(given, dict) else None
            config = TrainConfig(data=str(given) if tables is None else "memory", dev_fraction=0.3)
            data = read(config, None, tables)
            names, targets = targets_of(data)
    except UserError as refusal:
        _count_refusal(refusal, counts)
        return
    assert data.task == SINGLE_LABEL, data.task
    rows = [
        (row, names[target])
        for name in data.splits
        for row, target in zip(data.splits[name].rows, targets[name], strict=True)
    ]
    rows.sort(key=lambda pair: pair[0].number)
    assert [(row.text, name) for row, name in rows] == expected(frame, case.names)
    assert set(names) == {name for _, name in rows}
    counts["read"] = counts.get("read", 0) + 1


def _count_refusal(refusal: UserError, counts: dict[str, int]) -> None:
    assert "\n" not in str(refusal)
    counts["refused"] = counts.get("refused", 0) + 1


class Vectors(NamedTuple):
    """A table whose labels are lists: how they are written, and the labels that each row has."""

    how: str
    held: list[list[int]]
    count: int


@st.composite
def vectors(draw) -> Vectors:
    """Any table of several labels a text."""
    count = draw(st.integers(1, 4))
    row = st.lists(st.integers(0, count - 1), max_size=count, unique=True)
    return Vectors(
        draw(st.sampled_from(["floats", "integers", "truths", "written", "ids", "names"])),
        draw(st.lists(row, min_size=3, max_size=12)),
        count,
    )


def check_vectors(case: Vectors, counts: dict[str, int]) -> None:
    """Read a case of several labels; `AssertionError` where rows get other labels than they have."""
    bits = [[int(i in held) for i in range(case.count)] for held in case.held]
    cells: list[Any] = {
        "floats": [list(map(float, row)) for row in bits],
        "integers": bits,
        "truths": [list(map(bool, row)) for row in bits],
        "written": list(map(str, bits)),
        "ids": case.held,
        "names": [[f"label {i}" for i in held] for held in case.held],
    }[case.how]
    rows = [(f"text number {i}", cell) for i, cell in enumerate(cells)]
    try:
        data = read(TrainConfig(data="memory", dev_fraction=0.3), None, {"train": rows})
        assert data.task == MULTI_LABEL
        names, targets = targets_of(data)
    except UserError as refusal:
        _count_refusal(refusal, counts)
        return
    found = {
        row.number: {names[i] for i in target.nonzero()[0]}
        for name in data.splits
        for row, target in zip(data.splits[name].rows, targets[name], strict=True)
    }
    prefix = "label " if case.how == "names" else ""
    assert [found[number] for number in sorted(found)] == [{f"{prefix}{i}" for i in held} for held in case.held]
    counts["read"] = counts.get("read", 0) + 1


def run(examples: int) -> dict[str, int]:
    """Try so many cases of both kinds; how many were read, and how many refused."""
    counts: dict[str, int] = {}
    how = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    how(given(cases())(lambda case: check(case, counts)))()
    how(given(vectors())(lambda case: check_vectors(case, counts)))()
    return counts


if __name__ == "__main__":
    print(run(int(sys.argv[1]) // 2))
