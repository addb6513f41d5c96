"""Files of labelled texts to examples, with every fault named by file and line."""

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.errors import UserError

from .records import ENDINGS, numbered_by, records

TEXT_COLUMNS = ("text", "sentence", "review", "content", "comment", "document", "tweet")
LABEL_COLUMNS = ("label", "labels", "sentiment", "class", "category", "target", "polarity")
"""Names a column is looked for under, in this order, ignoring case."""

_SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}


class Row(NamedTuple):
    """One usable row: its line (in parquet, row) in the file, its text, its label as written."""

    number: int
    text: str
    label: int | str


class Split(NamedTuple):
    """Rows of one split, the file they come from, its SHA-256, and how many rows were skipped as bad."""

    path: Path
    rows: list[Row]
    skipped: int
    sha256: str

    def place(self, *numbers: int) -> str:
        """Where rows of these numbers stand: "FILE: line 7", or of many "FILE: lines 2, 3, 5 and 7 more"."""
        unit = numbered_by(self.path) + "s" * (len(numbers) > 1)
        more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
        return f"{self.path}: {unit} {', '.join(map(str, numbers[:8]))}{more}"


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
    within = path if path.is_dir() else None
    if within:
        files = _find(path)
    elif path.is_file():
        files = {"train": path}
    else:
        raise UserError(f"{path}: no such file or directory")
    splits = {name: read_file(file, text_column, label_column, skip_bad, within) for name, file in files.items()}
    if "dev" not in splits:
        splits = {**_divide(splits["train"], dev_fraction, seed), **{k: v for k, v in splits.items() if k == "test"}}
    for name, split in splits.items():
        if not split.rows:
            raise UserError(f"{split.path}: no examples for {name}")
    return splits


def read_file(
    path: Path, text_column: str | None, label_column: str | None, skip_bad: bool, within: Path | None = None
) -> Split:
    """Read one file of a kind in `records.ENDINGS`; a link must not lead out of `within`."""
    names: tuple[str, str] | None = None
    with records(path, within=within) as (found, sha256):
        split, skipped = Split(path, [], 0, sha256), 0
        for number, record in found:
            if names is None or not all(name in record for name in names):
                names = (
                    _column(path, list(record), text_column, TEXT_COLUMNS, "text"),
                    _column(path, list(record), label_column, LABEL_COLUMNS, "label"),
                )
            text, label = record[names[0]], record[names[1]]
            problem = _problem(names, text, label)
            if problem is None:
                # A million rows hold few labels: one string for each of these.
                split.rows.append(Row(number, text, sys.intern(label) if isinstance(label, str) else label))
            elif skip_bad:
                skipped += 1
            else:
                raise UserError(f"{split.place(number)}: {problem}; mend the row or pass --skip-bad")
    return split._replace(skipped=skipped)


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
        for split in splits.values():
            for row in split.rows:
                if str(row.label) not in place:
                    expected = f"expected one of {', '.join(names)}"
                    raise UserError(f"{split.place(row.number)}: label {row.label!r} is unknown; {expected}")
        ids = {name: [place[str(row.label)] for row in split.rows] for name, split in splits.items()}
    else:
        ids = {name: [int(row.label) for row in split.rows] for name, split in splits.items()}
        if not names:  # as many as the training set uses, unless a stray number is larger than the set itself
            limit = max(2, len(known))
            names = tuple(str(i) for i in range(min(limit, max(0, *(int(row.label) for row in known)) + 1)))
        for name, split in splits.items():
            for row, number in zip(split.rows, ids[name], strict=True):
                if not 0 <= number < len(names):
                    expected = f"expected 0 to {len(names) - 1}"
                    raise UserError(f"{split.place(row.number)}: label {row.label} is out of range; {expected}")
    if len(names) < 2:
        raise UserError(f"{train.path}: all rows have the label {''.join(names)}; a classifier needs two or more")
    return tuple(names), ids


def _find(directory: Path) -> dict[str, Path]:
    scripts = sorted(directory.glob("*.py"))
    found = {}
    for split, stems in _SPLITS.items():
        files = [directory / f"{stem}{ending}" for stem in stems for ending in ENDINGS]
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
        "dev": split._replace(rows=[row for i, row in enumerate(split.rows) if i in dev], skipped=0),
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
