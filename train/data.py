"""Files of labelled texts to examples, with every fault named by file and line."""

import csv
import io
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.errors import UserError
from bert_jax.files import read_text

TEXT_COLUMNS = ("text", "sentence", "review", "content", "comment", "document", "tweet")
LABEL_COLUMNS = ("label", "labels", "sentiment", "class", "category", "target", "polarity")
"""Names a column is looked for under, in this order, ignoring case."""

_SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
_ENDINGS = (".tsv", ".csv", ".jsonl", ".parquet")


class Row(NamedTuple):
    """One usable row: where it stands ("FILE: line 7"), its text, its label as written."""

    place: str
    text: str
    label: int | str


class Split(NamedTuple):
    """Rows of one split, the file they come from, and how many rows were skipped as bad."""

    path: Path
    rows: list[Row]
    skipped: int


def read_splits(
    path: Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    dev_fraction: float = 0.1,
    seed: int = 0,
    skip_bad: bool = False,
) -> dict[str, Split]:
    """Read `train`, `dev` and, where there is one, `test` from a directory or a single file.

    Where there is no dev file, `dev_fraction` of the training rows, chosen by `seed`, is held
    out. Raises `UserError` with file and line for anything that is not a text with a label.
    """
    if path.is_dir():
        files = _find(path)
    elif path.is_file():
        files = {"train": path}
    else:
        raise UserError(f"{path}: no such file or directory")
    splits = {name: read_file(file, text_column, label_column, skip_bad) for name, file in files.items()}
    if "dev" not in splits:
        splits = {**_divide(splits["train"], dev_fraction, seed), **{k: v for k, v in splits.items() if k == "test"}}
    for name, split in splits.items():
        if not split.rows:
            raise UserError(f"{split.path}: no examples for {name}")
    return splits


def read_file(path: Path, text_column: str | None, label_column: str | None, skip_bad: bool) -> Split:
    """Read one tsv, csv, jsonl or parquet file."""
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        raise UserError(f"{path}: unknown kind of file; expected one of {' '.join(_ENDINGS)}")
    records = {".jsonl": _jsonl, ".parquet": _parquet}.get(ending, _delimited)(path)
    rows, skipped = [], 0
    names: tuple[str, str] | None = None
    for place, record in records:
        if names is None or not all(name in record for name in names):
            names = (
                _column(path, list(record), text_column, TEXT_COLUMNS, "text"),
                _column(path, list(record), label_column, LABEL_COLUMNS, "label"),
            )
        text, label = record[names[0]], record[names[1]]
        problem = _problem(names, text, label)
        if problem is None:
            rows.append(Row(place, text, label))
        elif skip_bad:
            skipped += 1
        else:
            raise UserError(f"{place}: {problem}; mend the row or pass --skip-bad")
    return Split(path, rows, skipped)


def label_ids(splits: dict[str, Split], names: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Label names in order of id, and each split's labels as ids.

    Labels are integers or names. With `names`, integers index them and names must be among them;
    without, integers 0..C-1 name themselves and names are put in order of the alphabet. Raises
    `UserError` with the row of a label that is out of range or unknown.
    """
    rows = [row for split in splits.values() for row in split.rows]
    train = splits["train"]
    # What is held out of the training file takes part in saying which labels there are.
    known = [row for split in splits.values() if split.path == train.path for row in split.rows]
    numbers = [_as_integer(row.label) for row in rows]
    if None in numbers or (names and all(str(row.label) in names for row in rows)):
        names = tuple(names) or tuple(sorted({str(row.label) for row in known}))
        place = {name: i for i, name in enumerate(names)}
        for row in rows:
            if str(row.label) not in place:
                raise UserError(f"{row.place}: label {row.label!r} is unknown; expected one of {', '.join(names)}")
        ids = {name: [place[str(row.label)] for row in split.rows] for name, split in splits.items()}
    else:
        ids = {name: [int(row.label) for row in split.rows] for name, split in splits.items()}
        if not names:  # as many as the training set uses, unless a stray number is larger than the set itself
            limit = max(2, len(known))
            names = tuple(str(i) for i in range(min(limit, max(0, *(int(row.label) for row in known)) + 1)))
        for name, split in splits.items():
            for row, number in zip(split.rows, ids[name], strict=True):
                if not 0 <= number < len(names):
                    last = len(names) - 1
                    raise UserError(f"{row.place}: label {row.label} is out of range; expected 0 to {last}")
    if len(names) < 2:
        raise UserError(f"{train.path}: all rows have the label {''.join(names)}; a classifier needs two or more")
    return tuple(names), ids


def _find(directory: Path) -> dict[str, Path]:
    scripts = sorted(directory.glob("*.py"))
    found = {}
    for split, stems in _SPLITS.items():
        files = [directory / f"{stem}{ending}" for stem in stems for ending in _ENDINGS]
        files = [file for file in files if file.is_file()]
        if len(files) > 1:
            raise UserError(f"{directory}: {files[0].name} and {files[1].name} are both {split}; keep one")
        if files:
            found[split] = files[0]
    if "train" not in found:
        also = f" (scripts such as {scripts[0].name} are never run)" if scripts else ""
        raise UserError(f"{directory}: no train.tsv, train.csv, train.jsonl or train.parquet{also}")
    return found


def _divide(split: Split, fraction: float, seed: int) -> dict[str, Split]:
    count = len(split.rows)
    held = min(max(1, round(count * fraction)), count - 1)
    if held < 1:
        raise UserError(f"{split.path}: {count} examples; at least 2 are needed to hold one out for dev")
    dev = set(random.Random(seed).sample(range(count), held))
    return {
        "train": split._replace(rows=[row for i, row in enumerate(split.rows) if i not in dev]),
        "dev": Split(split.path, [row for i, row in enumerate(split.rows) if i in dev], 0),
    }


def _column(path: Path, columns: list[str], wanted: str | None, known: Sequence[str], what: str) -> str:
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise UserError(f"{path}: no column {wanted!r}; there are: {', '.join(columns)}")
    lower = {column.lower(): column for column in reversed(columns)}
    for name in known:
        if name in lower:
            return lower[name]
    raise UserError(f"{path}: no {what} column; there are: {', '.join(columns)}; name it with --{what}-column")


def _problem(names: tuple[str, str], text: Any, label: Any) -> str | None:
    if not isinstance(text, str):
        return f"{names[0]} is {_shown(text)}, expected a string"
    if any("\ud800" <= c <= "\udfff" for c in text):
        return f"{names[0]} holds half of a surrogate pair, expected whole characters"
    if isinstance(label, bool) or not isinstance(label, int | str):
        return f"{names[1]} is {_shown(label)}, expected an integer or a name"
    if isinstance(label, str) and not label.strip():
        return f"{names[1]} is empty"
    return None


def _shown(value: Any) -> str:
    return (
        "null"
        if value is None or (isinstance(value, float) and math.isnan(value))
        else json.dumps(value, default=str)[:60]
    )


def _as_integer(label: int | str) -> int | None:
    try:
        return int(label)
    except ValueError:
        return None


def _delimited(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(path)
    csv.field_size_limit(1 << 30)
    # Tab-separated corpora (GLUE's among them) hold bare quotes, so only csv is read with quoting.
    if path.suffix.lower() == ".tsv":
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(header):
                raise UserError(f"{path}: line {line} has {len(cells)} fields, the header has {len(header)}")
            yield f"{path}: line {line}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: line {start}: {error}") from None


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
            raise UserError(f"{path}: line {number}: bad JSON: {reason}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number}: expected a JSON object")
        yield f"{path}: line {number}", record


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    try:
        table = datasets.Dataset.from_parquet(str(path), keep_in_memory=True)
    except Exception as error:
        raise UserError(f"{path}: not a sound parquet file: {str(error).splitlines()[0]}") from None
    for number, record in enumerate(table, 1):
        yield f"{path}: row {number}", dict(record)
