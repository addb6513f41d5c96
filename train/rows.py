"""The data set as it was read: rows, splits of rows, the columns they came from, and the place of each row."""

import bisect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Columns(NamedTuple):
    """Names of the table columns to read: the text, the second text of a pair (or None), and the labels.

    If there are several label columns, each of them holds 0 or 1.
    """

    text: str
    pair: str | None
    labels: tuple[str, ...]

    def all(self) -> list[str]:
        """Return the names of all columns to read."""
        return [self.text, *([self.pair] if self.pair else []), *self.labels]

    def describe(self) -> str:
        """Return the columns in words."""
        pair = f" and {self.pair}" if self.pair else ""
        return f"text in {self.text}{pair}, label in {', '.join(self.labels)}"


class Row(NamedTuple):
    """One usable row: its number in the split, its text, its label, and the second text of a pair.

    A label is an integer or a name, as written. For several labels it is a tuple of integers and names, or of 0.0 and
    1.0 for each label. For a regression it is a float. `split` is the value of the column `split`.
    """

    number: int
    text: str
    label: Any
    pair: str | None = None
    split: str | None = None


class Split(NamedTuple):
    """Rows of one split, their source, its SHA-256, the number of skipped rows, and the columns that were read.

    `parts` are the files, each with the row number after which its rows begin. `unit` is what row numbers count in a
    file: "line", "row", or "" if a file is one text. `files` has the SHA-256 of each file, or of a whole tree of texts.
    `names` are the names that the source gives to the labels 0, 1, ... `header` has all columns of the first row.
    """

    path: Path | str
    rows: list[Row]
    skipped: int
    sha256: str
    parts: tuple[tuple[int, Path | str], ...] = ()
    unit: str = "line"
    columns: Columns | None = None
    files: Mapping[str, str] = {}
    names: tuple[str, ...] = ()
    header: tuple[str, ...] = ()

    def place(self, *numbers: int) -> str:
        """Return where the rows with these numbers are, such as "FILE: line 7" or "FILE: lines 2, 3, 5 and 7 more"."""
        parts = self.parts or ((0, self.path),)
        more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
        numbers_by_file: dict[Path | str, list[int]] = {}
        for number in numbers[:8]:
            offset, file = parts[bisect.bisect_left(parts, number, key=lambda part: part[0]) - 1]
            numbers_by_file.setdefault(file, []).append(number - offset)
        if not self.unit:
            return ", ".join(map(str, numbers_by_file)) + more
        units = [
            f"{file}: {self.unit}{'s' * (len(n) > 1)} {', '.join(map(str, n))}" for file, n in numbers_by_file.items()
        ]
        return "; ".join(units) + more


class Data(NamedTuple):
    """A data set: the name of its task, its splits, the label names that its source fixes, and notes to print.

    The splits of a training run are train, dev and, if there is one, test.
    """

    task: str
    splits: dict[str, Split]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
