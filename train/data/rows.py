"""What is read of a data set: rows, splits of rows, and where each row stands."""

import bisect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .columns import Columns


class Row(NamedTuple):
    """One usable row: its number in the split, its text, its label, the second text of a pair, what `split` says.

    A label is an integer or a name, as written; of several labels a tuple of these; of a regression a float.
    """

    number: int
    text: str
    label: Any
    pair: str | None = None
    split: str | None = None


class Split(NamedTuple):
    """Rows of one split, where they come from, its SHA-256, how many rows were left out, and which columns were read.

    `parts` are the files, each with the number after which its rows begin, and `unit` is what is counted in them:
    lines, rows, or nothing where a file is one text. `files` has the SHA-256 of each file, or of a tree of texts.
    `names` are those that the source gives labels 0, 1, ...; `header` are all columns of the first row.
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
        """Where rows of these numbers stand: "FILE: line 7", or of many "FILE: lines 2, 3, 5 and 7 more"."""
        parts = self.parts or ((0, self.path),)
        more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
        found: dict[Path | str, list[int]] = {}
        for number in numbers[:8]:
            first, file = parts[bisect.bisect_left(parts, number, key=lambda part: part[0]) - 1]
            found.setdefault(file, []).append(number - first)
        if not self.unit:
            return ", ".join(map(str, found)) + more
        units = [f"{file}: {self.unit}{'s' * (len(n) > 1)} {', '.join(map(str, n))}" for file, n in found.items()]
        return "; ".join(units) + more


class Data(NamedTuple):
    """What labels are (a `problem_type`); train, dev and maybe test; label names the source fixes; remarks."""

    task: str
    splits: dict[str, Split]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
