"""Read labelled texts from any source into rows. Errors name the file and the line."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError, some
from bert_jax.tables import Record
from bert_jax.text_columns import SAMPLE, text_of

from ..config import TrainConfig
from ..rows import Data, Row, Split
from ..tasks import label_of, task_of
from . import columns as finding
from . import sources
from .held_out import divide
from .sources import Source


def read(
    config: TrainConfig, task: str | None = None, tables: Mapping[str, Any] | None = None, *, alone: bool = False
) -> Data:
    """Read the data at `config.data`, or the `tables` in memory in their place.

    `task` is the name of the task if it is known; otherwise the labels determine the task. A single file with a column
    `split` is divided by that column. If there is no dev split, a share of the training rows is held out (`divide`).
    With `alone`, for evaluation, no rows are held out, and a single file is the split test. A dev or test split without
    labels is left out, with a note. Raises `UserError` with file and line for a row that is not a text with a label.
    """
    split_sources = _sources(config, alone) if tables is None else sources.from_tables(tables)
    splits, notes = {}, []
    if tables is None and (files := sources.unread(Path(config.data), split_sources)):
        expected = "train, dev, test, or train-00000-of-00002"
        notes.append(f"left out {some(files, 5)}: no split has such a name; expected {expected}")
    for name, source in split_sources.items():
        task, split = read_split(source, config, task, splits.get("train"))
        if split is None:
            notes.append(f"left out {name} of {source.path}: it has no labels")
        elif (name == "train" or alone) and len(split_sources) == 1 and (divided := _by_column(split, alone)):
            splits = divided
        else:
            splits[name] = split
            if unused := {row.split for row in split.rows if row.split is not None}:
                listed = ", ".join(sorted(unused)[:3])
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
    assert train.columns is not None  # set, as the split has rows
    assert task is not None
    names = train.columns.labels if len(train.columns.labels) > 1 else train.names
    return Data(task, {name: splits[name] for name in sources.SPLITS if name in splits}, names, tuple(notes))


def read_split(
    source: Source, config: TrainConfig, task: str | None = None, train: Split | None = None
) -> tuple[str | None, Split | None]:
    """Read one split, and return the name of its task and its rows.

    The task is the one that is given, or else the one that the labels suggest. The returned split is None if `train` is
    given, and the source has neither the label columns of `train` nor another column with a usual label name.
    """
    parts: list[tuple[int, Path | str]] = []
    digests: list[str] = []
    records = _numbered(source, parts, digests)
    sample = list(itertools.islice(records, SAMPLE))
    tables = [record for _, record in sample if isinstance(record, dict)]
    column_options = config.text_column, config.pair_column, config.label_column
    columns = None
    if tables and train and train.columns:
        if not finding.has_labels(tables[0], train.columns, train.header):
            return task, None
        columns = train.columns if all(name in tables[0] for name in train.columns.all()) else None
    if tables and columns is None:
        columns = finding.find(source.path, tables, *column_options)
        if train and train.columns and bool(columns.pair) != bool(train.columns.pair):
            kind, train_kind = ("pairs", "single texts") if columns.pair else ("single texts", "pairs")
            raise UserError(
                f"{source.path}: holds {kind} ({columns.describe()}), and {train.path} {train_kind} "
                f"({train.columns.describe()}); name --text-column and --pair-column"
            )
    if columns and task is None:
        task = task_of(tables, columns.labels)
    rows: list[Row] = []
    names = tuple(source.names.get(columns.labels[0], ())) if columns else ()
    header = tuple(tables[0]) if tables else ()
    split = Split(source.path, rows, 0, "", unit=source.unit, columns=columns, names=names, header=header)
    skipped, distinct, known_columns = 0, {}, set(split.header)
    for number, record in itertools.chain(sample, records):
        try:
            if isinstance(record, UserError):
                raise record
            if columns is None or not all(name in record for name in columns.all()):
                columns = finding.find(split._replace(parts=tuple(parts)).place(number), [record], *column_options)
                if split.columns and split.columns.pair and not columns.pair:
                    raise ValueError(f"no column {split.columns.pair}, which holds the second text of others")
            if not columns.pair and config.text_column is None and record.keys() - known_columns:
                if (second := finding.late_pair(record.keys() - known_columns, columns)) is not None:
                    raise ValueError(f"{second} holds a second text, and rows before have none")
                known_columns |= record.keys()
            text, pair = (text_of(record, name) if name else None for name in (columns.text, columns.pair))
            label = label_of(task, record, columns.labels, config.label_separator)
            part = finding.split_of(record, columns)
        except (ValueError, UserError) as problem:
            if not config.skip_bad and isinstance(problem, UserError):
                raise
            if not config.skip_bad:
                place = split._replace(parts=tuple(parts)).place(number)
                raise UserError(f"{place}: {problem}; mend the row or pass --skip-bad") from None
            skipped += 1
        else:  # one object for each distinct label saves memory: a million rows have few labels
            rows.append(Row(number, text or "", distinct.setdefault(label, label), pair, part))
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    part_digests = zip((str(name) for _, name in parts), digests, strict=True)
    files = dict(part_digests) if source.unit else {str(source.path): sha256}
    return task, split._replace(parts=tuple(parts), skipped=skipped, sha256=sha256, files=files)


def _sources(config: TrainConfig, alone: bool) -> dict[str, Source]:
    if not Path(config.data).exists() and sources.is_hub_id(config.data):
        return sources.from_hub(config.data, config.data_name, config.data_revision)
    for name, value in (("data-name", config.data_name), ("data-revision", config.data_revision)):
        if value is not None:
            raise UserError(f"--{name} is for hub ids, and {config.data} is not one")
    return sources.find(Path(config.data), alone)


def _numbered(source: Source, parts: list[tuple[int, Path | str]], digests: list[str]) -> Iterator[Record]:
    """Yield the records of all parts, with numbers that continue from one part to the next.

    The function appends to `parts` the number after which each part begins and the name of the part, and to `digests`
    the SHA-256 of the part.
    """
    number = 0
    for name, opening in source.parts:
        offset = number
        parts.append((offset, name))
        with opening() as (records, sha256):
            for local, record in records:
                number = offset + local
                yield number, record
            digests.append(sha256())


def _unlabelled(split: Split, train: Split | None) -> bool:
    """Return whether all labels are -1, as in the test set of a competition, and -1 is not a class in `train`."""
    missing = ("-1", "-1.0")
    is_class = train is not None and any(str(row.label) in missing for row in train.rows)
    return bool(split.rows) and not is_class and all(str(row.label) in missing for row in split.rows)


def _by_column(split: Split, alone: bool) -> dict[str, Split]:
    """Divide the rows into the splits that their column `split` names.

    Return an empty dictionary if a row names no known split, or if no row is in train. With `alone`, train is not
    required.
    """
    names = {name: split_name for split_name, names in sources.SPLITS.items() for name in names}
    if not split.rows or any(row.split not in names for row in split.rows):
        return {}
    rows_by_split = {
        split_name: [row for row in split.rows if names[row.split] == split_name] for split_name in sources.SPLITS
    }
    if not (rows_by_split["train"] or alone):
        return {}
    return {
        split_name: split._replace(rows=rows, skipped=split.skipped if split_name == "train" else 0)
        for split_name, rows in rows_by_split.items()
        if rows
    }
