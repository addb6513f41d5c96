"""Labelled texts from anywhere to examples, with every fault named by file and line."""

import bisect
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.config import SINGLE_LABEL
from bert_jax.errors import UserError, some
from bert_jax.tables import Record
from bert_jax.text_columns import SAMPLE, text_of

from . import columns as finding
from . import sources
from .columns import Columns
from .config import TrainConfig
from .sources import Source


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


def read(
    config: TrainConfig, task: str | None = None, tables: Mapping[str, Any] | None = None, *, alone: bool = False
) -> Data:
    """Read `config.data`, or tables in memory in its place; `task` where it is known, else as the labels look.

    A file with a column `split` is divided as that says. Where there is no dev split, a share of the training rows is
    held out (`divide`); but with `alone`, for evaluation, splits are as they are, and a file by itself is one named
    test. Dev and test are left out, with a note, where they have no labels. Raises `UserError` with file and line for
    anything that is not a text with a label.
    """
    found = _sources(config, alone) if tables is None else sources.from_tables(tables)
    splits, notes = {}, []
    if tables is None and (files := sources.unread(Path(config.data), found)):
        named = "train, dev, test, or train-00000-of-00002"
        notes.append(f"left out {some(files, 5)}: no split has such a name; expected {named}")
    for name, source in found.items():
        task, split = read_split(source, config, task, splits.get("train"))
        if split is None:
            notes.append(f"left out {name} of {source.path}: it has no labels")
        elif (name == "train" or alone) and len(found) == 1 and (divided := _by_column(split, alone)):
            splits = divided
        else:
            splits[name] = split
            if others := {row.split for row in split.rows if row.split is not None}:
                listed = ", ".join(sorted(others)[:3])
                notes.append(f"column split of {source.path} is not used: it has {listed}; expected train, dev, test")
    for name in [name for name, split in splits.items() if name != "train" and _unlabelled(split, splits.get("train"))]:
        notes.append(f"left out {name} of {splits.pop(name).path}: it has no labels (-1)")
    if not splits:
        raise UserError(f"{config.data}: no row has a label; {'; '.join(notes)}")
    train = next(iter(splits.values()))
    if "dev" not in splits and not alone:
        splits |= divide(train, config.dev_fraction, config.split_seed)
    for name, split in splits.items():
        if not split.rows:
            raise UserError(f"{split.path}: no examples for {name}")
    assert train.columns is not None  # as there are rows
    assert task is not None
    names = train.columns.labels if len(train.columns.labels) > 1 else train.names
    return Data(task, {name: splits[name] for name in sources.SPLITS if name in splits}, names, tuple(notes))


def read_split(
    source: Source, config: TrainConfig, task: str | None = None, train: Split | None = None
) -> tuple[str | None, Split | None]:
    """Read one split: its task, which is that given or as the labels look, and its rows.

    The split is None where `train` is given and the split has neither its label columns nor others of usual names.
    """
    parts: list[tuple[int, Path | str]] = []
    digests: list[str] = []
    records = _numbered(source, parts, digests)
    sample = list(itertools.islice(records, SAMPLE))
    tables = [record for _, record in sample if isinstance(record, dict)]
    asked = config.text_column, config.pair_column, config.label_column
    columns = None
    if tables and train and train.columns:
        if not finding.has_labels(tables[0], train.columns, train.header):
            return task, None
        columns = train.columns if all(name in tables[0] for name in train.columns.all()) else None
    if tables and columns is None:
        columns = finding.find(source.path, tables, *asked)
        if train and train.columns and bool(columns.pair) != bool(train.columns.pair):
            one, other = ("pairs", "single texts") if columns.pair else ("single texts", "pairs")
            raise UserError(
                f"{source.path}: holds {one} ({columns.describe()}), and {train.path} {other} "
                f"({train.columns.describe()}); name --text-column and --pair-column"
            )
    if columns and task is None:
        task = finding.task_of(tables, columns.labels)
    rows: list[Row] = []
    names = tuple(source.names.get(columns.labels[0], ())) if columns else ()
    header = tuple(tables[0]) if tables else ()
    split = Split(source.path, rows, 0, "", unit=source.unit, columns=columns, names=names, header=header)
    skipped, known, met = 0, {}, set(split.header)
    for number, record in itertools.chain(sample, records):
        try:
            if isinstance(record, UserError):
                raise record
            if columns is None or not all(name in record for name in columns.all()):
                columns = finding.find(split._replace(parts=tuple(parts)).place(number), [record], *asked)
                if split.columns and split.columns.pair and not columns.pair:
                    raise ValueError(f"no column {split.columns.pair}, which holds the second text of others")
            if not columns.pair and config.text_column is None and record.keys() - met:
                if (second := finding.late_pair(record.keys() - met, columns)) is not None:
                    raise ValueError(f"{second} holds a second text, and rows before have none")
                met |= record.keys()
            text, pair = (text_of(record, name) if name else None for name in (columns.text, columns.pair))
            label = finding.label_of(task or SINGLE_LABEL, record, columns.labels, config.label_separator)
            part = finding.split_of(record, columns)
        except (ValueError, UserError) as problem:
            if not config.skip_bad and isinstance(problem, UserError):
                raise
            if not config.skip_bad:
                where = split._replace(parts=tuple(parts)).place(number)
                raise UserError(f"{where}: {problem}; mend the row or pass --skip-bad") from None
            skipped += 1
        else:  # a million rows hold few labels: one object for each of these
            rows.append(Row(number, text or "", known.setdefault(label, label), pair, part))
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    each = zip((str(name) for _, name in parts), digests, strict=True)
    files = dict(each) if source.unit else {str(source.path): sha256}
    return task, split._replace(parts=tuple(parts), skipped=skipped, sha256=sha256, files=files)


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


def divide(split: Split, fraction: float, seed: int) -> dict[str, Split]:
    """Hold out a share of the rows for dev: of each class, or range of numbers, about the same share.

    Rows with the same text, or pair, stay on one side, unless each class has one text alone. A class of one text stays
    in train, and one of two or more is on both sides.
    """
    count = len(split.rows)
    if count < 2:
        raise UserError(f"{split.path}: {count} examples; at least 2 are needed to hold one out for dev")
    alike: dict[tuple[str, str | None], list[Row]] = {}
    for row in split.rows:
        alike.setdefault((row.text, row.pair), []).append(row)
    groups = list(alike.values())
    if (max(_classes(groups).values()) == 1 and not isinstance(split.rows[0].label, float)) or len(groups) < 2:
        groups = [[row] for row in split.rows]
    generator = random.Random(seed)
    generator.shuffle(groups)
    groups.sort(key=lambda rows: _order(rows[0].label))
    # Along this order, rows go to dev at even steps.
    wanted, first = min(max(1, round(count * fraction)), count - 1), generator.random()
    train: list[list[Row]] = []
    dev: list[list[Row]] = []
    passed = held = 0
    for rows in groups:
        passed += len(rows)
        if passed * wanted / count + first >= held + 1:
            dev.append(rows)
            held += len(rows)
        else:
            train.append(rows)
    if isinstance(split.rows[0].label, int | str):
        several = {label for label, texts in _classes(groups).items() if texts > 1}
        train += [rows for rows in dev if _order(rows[0].label) not in several]
        dev = [rows for rows in dev if _order(rows[0].label) in several]
        _share(train, dev)
        _share(dev, train)
    if not dev:
        dev.append(train.pop())
    if not train:
        train.append(dev.pop())
    chosen = {row.number for rows in dev for row in rows}
    return {
        "train": split._replace(rows=[row for row in split.rows if row.number not in chosen]),
        "dev": split._replace(rows=[row for row in split.rows if row.number in chosen], skipped=0),
    }


def _share(giving: list[list[Row]], taking: list[list[Row]]) -> None:
    """Move a group of rows of each class of which one side has several and the other none."""
    known, counts = _classes(taking), _classes(giving)
    for rows in list(giving):
        label = _order(rows[0].label)
        if label not in known and counts[label] > 1:
            known[label] += 1
            giving.remove(rows)
            taking.append(rows)


def _classes(groups: list[list[Row]]) -> Counter[Any]:
    """How many groups of rows each class has."""
    return Counter(_order(rows[0].label) for rows in groups)


def _order(label: Any) -> Any:
    """What rows are put in order by: numbers by size, classes by name."""
    return label if isinstance(label, float) else str(label)


def _unlabelled(split: Split, train: Split | None) -> bool:
    """Whether all labels are -1, as of a competition's test set, and -1 is no class of the training set."""
    nothing = ("-1", "-1.0")
    known = train is not None and any(str(row.label) in nothing for row in train.rows)
    return bool(split.rows) and not known and all(str(row.label) in nothing for row in split.rows)


def _by_column(split: Split, alone: bool) -> dict[str, Split]:
    """The splits that a column `split` names, if each row of the file has one there; otherwise nothing.

    One of them is train, but for `alone`.
    """
    names = {name: which for which, names in sources.SPLITS.items() for name in names}
    if not split.rows or any(row.split not in names for row in split.rows):
        return {}
    found = {which: [row for row in split.rows if names[row.split] == which] for which in sources.SPLITS}
    if not (found["train"] or alone):
        return {}
    return {
        which: split._replace(rows=rows, skipped=split.skipped if which == "train" else 0)
        for which, rows in found.items()
        if rows
    }
