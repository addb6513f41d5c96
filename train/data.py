"""Labelled texts from anywhere to examples, with every fault named by file and line."""

import bisect
import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.config import SINGLE_LABEL
from bert_jax.errors import UserError

from . import columns as finding
from . import sources
from .columns import Columns
from .config import TrainConfig
from .records import Record
from .sources import Source

_SAMPLE = 200
"""Records that are looked at to find columns, and to tell the task."""


class Row(NamedTuple):
    """One usable row: its number in the split, its text, its label, and the second text of a pair.

    A label is an integer or a name, as written; of several labels a tuple of these; of a regression a float.
    """

    number: int
    text: str
    label: Any
    pair: str | None = None


class Split(NamedTuple):
    """Rows of one split, where they come from, its SHA-256, how many rows were left out, and which columns were read.

    `parts` are the files, each with the number after which its rows begin, and `unit` is what is counted in them:
    lines, rows, or nothing where a file is one text.
    """

    path: Path | str
    rows: list[Row]
    skipped: int
    sha256: str
    parts: tuple[tuple[int, Path | str], ...] = ()
    unit: str = "line"
    columns: Columns | None = None

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


def read(
    config: TrainConfig, task: str | None = None, tables: Mapping[str, Any] | None = None, *, alone: bool = False
) -> Data:
    """Read `config.data`, or tables in memory in its place; `task` where it is known, else as the labels look.

    Where there is no dev split, a share of the training rows, chosen by the seed, is held out; but with `alone`,
    for evaluation, splits are as they are, and a file by itself is one named test. Raises `UserError` with file and
    line for anything that is not a text with a label.
    """
    found = _sources(config, alone) if tables is None else sources.from_tables(tables)
    splits, notes = {}, []
    for name, source in found.items():
        task, splits[name] = read_split(source, config, task)
        if name != "train" and splits[name].rows and all(str(row.label) in ("-1", "-1.0") for row in splits[name].rows):
            notes.append(f"left out {name} of {splits.pop(name).path}: it has no labels (-1)")
    train = next(iter(splits.values()))
    if "dev" not in splits and not alone:
        splits |= _divide(train, config.dev_fraction, config.seed)
    for name, split in splits.items():
        if not split.rows:
            raise UserError(f"{split.path}: no examples for {name}")
    assert train.columns is not None  # as there are rows
    assert task is not None
    labels = train.columns.labels
    names = labels if len(labels) > 1 else next(iter(found.values())).names.get(labels[0], ())
    return Data(task, {name: splits[name] for name in sources.SPLITS if name in splits}, tuple(names), tuple(notes))


def read_split(source: Source, config: TrainConfig, task: str | None = None) -> tuple[str | None, Split]:
    """Read one split: its task, which is that given or as the labels look, and its rows."""
    parts: list[tuple[int, Path | str]] = []
    digests: list[str] = []
    records = _numbered(source, parts, digests)
    sample = list(itertools.islice(records, _SAMPLE))
    asked = config.text_column, config.pair_column, config.label_column
    columns = finding.find(source.path, [record for _, record in sample], *asked) if sample else None
    if columns and task is None:
        task = finding.task_of([record for _, record in sample], columns.labels)
    rows: list[Row] = []
    split = Split(source.path, rows, 0, "", unit=source.unit, columns=columns)
    skipped, known = 0, {}
    for number, record in itertools.chain(sample, records):
        try:
            if columns is None or not all(name in record for name in columns.all()):
                columns = finding.find(split._replace(parts=tuple(parts)).place(number), [record], *asked)
            text, pair = (finding.text_of(record, name) if name else None for name in columns[:2])
            label = finding.label_of(task or SINGLE_LABEL, record, columns.labels, config.label_separator)
        except (ValueError, UserError) as problem:
            if not config.skip_bad and isinstance(problem, UserError):
                raise
            if not config.skip_bad:
                where = split._replace(parts=tuple(parts)).place(number)
                raise UserError(f"{where}: {problem}; mend the row or pass --skip-bad") from None
            skipped += 1
        else:  # a million rows hold few labels: one object for each of these
            rows.append(Row(number, text or "", known.setdefault(label, label), pair))
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return task, split._replace(parts=tuple(parts), skipped=skipped, sha256=sha256)


def _sources(config: TrainConfig, alone: bool) -> dict[str, Source]:
    if not Path(config.data).exists() and sources.is_hub_id(config.data):
        return sources.from_hub(config.data, config.data_name, config.data_revision)
    for name, value in (("data-name", config.data_name), ("data-revision", config.data_revision)):
        if value is not None:
            raise UserError(f"--{name} is for hub ids, and {config.data} is not one")
    return sources.find(Path(config.data), alone)


def _numbered(source: Source, parts: list[tuple[int, Path | str]], digests: list[str]) -> Iterator[Record]:
    """The records of all parts, numbered through; `parts` and `digests` grow meanwhile."""
    number = 0
    for name, opening in source.parts:
        first = number
        parts.append((first, name))
        with opening() as (found, sha256):
            for local, record in found:
                number = first + local
                yield number, record
            digests.append(sha256())


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
