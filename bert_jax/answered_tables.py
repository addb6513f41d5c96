"""Tables to label: read the texts from their columns, and write the same rows with a prediction for each."""

import csv
import itertools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bert_jax import extras
from bert_jax.errors import UserError
from bert_jax.files import new_path
from bert_jax.tables import kind, numbered_by, records
from bert_jax.tasks import TASKS
from bert_jax.text_columns import SAMPLE, find_texts, text_of

if TYPE_CHECKING:
    import pyarrow

    from bert_jax.predict import Prediction

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Endings of files that are read as tables; all other files hold one text a line."""

WRITTEN = (".csv", ".parquet")
"""Endings of files that are written as tables; all other files get one JSON object a line."""

_NOT_WRITTEN = (".tsv", ".gz", ".bz2", ".xz", ".zst", ".zip", ".xls", ".xlsx", ".feather", ".arrow")


class Table:
    """A file whose texts are labelled, with a queue of the rows that wait for their predictions.

    Rows are queued only if `keep` is true. Raises `UserError`, with the line or row, for a value that is not a text.
    """

    def __init__(self, path: Path, text: str | None, pair: str | None, *, keep: bool):
        self.path, self._asked, self._keep = path, (text, pair), keep
        self._waiting: deque[dict[str, Any]] = deque()

    @contextmanager
    def opened(self) -> Iterator[tuple[Iterator[str], Iterator[str] | None]]:
        """Yield the texts and the second texts of pairs, or None if there are no pairs.

        The two iterators must be read side by side.
        """
        with records(self.path) as (numbered_records, _):
            sample = list(itertools.islice(numbered_records, SAMPLE))
            rows = [record for _, record in sample if isinstance(record, dict)]
            if not sample:
                raise UserError(f"{self.path}: no rows")
            columns = find_texts(self.path, rows, *self._asked) if rows else ("", None)
            pairs = self._texts(itertools.chain(sample, numbered_records), columns)
            if columns[1] is None:
                yield (text for text, _ in pairs), None
                return
            for_texts, for_pairs = itertools.tee(pairs)
            yield (text for text, _ in for_texts), (pair or "" for _, pair in for_pairs)

    def row(self) -> dict[str, Any]:
        """Remove the first row from the queue and return it."""
        return self._waiting.popleft()

    def _texts(
        self, numbered_records: Iterator[Any], columns: tuple[str, str | None]
    ) -> Iterator[tuple[str, str | None]]:
        for number, record in numbered_records:
            if isinstance(record, UserError):
                raise record
            try:
                missing = next((name for name in columns if name is not None and name not in record), None)
                if missing is not None:
                    raise ValueError(f"no column {missing!r}")
                text, pair = (text_of(record, name) if name else None for name in columns)
            except ValueError as problem:
                raise UserError(f"{self.path}: {numbered_by(self.path)} {number}: {problem}") from None
            if self._keep:
                self._waiting.append(record)
            yield text or "", pair


class Writer(Protocol):
    """A writer of the labelled rows, one by one."""

    def write(self, row: dict[str, Any]) -> None:
        """Add a row."""
        ...


def check_output(path: Path) -> None:
    """Raise `UserError` if the ending of `path` is that of a file format which is not written."""
    name = path.name.lower()
    if name.endswith(_NOT_WRITTEN):
        raise UserError(f"{path}: {Path(name).suffix} is not written; choose NAME.csv, NAME.parquet or NAME.jsonl")


def answer(row: dict[str, Any], prediction: "Prediction", *, logits: bool) -> dict[str, Any]:
    """Return the columns of an input row, followed by the columns of its prediction.

    Raises `UserError` if the row already has a column of such a name.
    """
    columns = TASKS[prediction.task].columns(prediction)
    if logits:
        columns |= {f"logit_{name}": value for name, value in zip(prediction.scores, prediction.logits, strict=True)}
    columns["truncated"] = prediction.truncated
    if clashes := sorted(set(row) & set(columns)):
        raise UserError(f"the input has a column {clashes[0]} already; rename it, or choose a jsonl output")
    return row | columns


def writing(path: Path, source: Path, *, overwrite: bool) -> AbstractContextManager[Writer]:
    """Return a context manager whose csv or parquet file replaces `path` if the block ends without an error.

    `source` is the file that the rows come from. If `source` and `path` are both parquet files, columns keep their
    types.
    """
    if kind(path) == ".csv":
        return _csv(path, overwrite)
    return _parquet(path, source if kind(source) == ".parquet" else None, overwrite)


class _Csv:
    def __init__(self, file: Any, path: Path):
        self._writer, self._names, self._path, self._count = csv.writer(file), (), path, 0

    def write(self, row: dict[str, Any]) -> None:
        if not self._count:
            self._names = tuple(row)
            self._writer.writerow(self._names)
        self._count += 1
        if tuple(row) != self._names:
            _same_columns(self._path, self._names, row, self._count)
        if binary := next((name for name, value in row.items() if isinstance(value, bytes)), None):
            raise UserError(f"{self._path}: column {binary} holds bytes, which csv cannot; choose a parquet output")
        self._writer.writerow([_cell(row.get(name)) for name in self._names])


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


@contextmanager
def _csv(path: Path, overwrite: bool) -> Iterator[Writer]:
    with new_path(path, overwrite=overwrite) as place, open(place, "w", encoding="utf-8", newline="") as file:
        yield _Csv(file, path)


class _Rows:
    def __init__(self):
        self.rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


@contextmanager
def _parquet(path: Path, source: Path | None, overwrite: bool) -> Iterator[Writer]:
    extras.check("parquet", f"{path}: a Parquet file")
    import pyarrow
    import pyarrow.parquet

    with new_path(path, overwrite=overwrite) as place:
        writer = _Rows()
        yield writer
        names = tuple(writer.rows[0]) if writer.rows else ()
        for number, row in enumerate(writer.rows, 1):
            _same_columns(path, names, row, number)
        try:
            table = _beside(source, writer.rows) if source else pyarrow.Table.from_pylist(writer.rows)
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: the rows do not make a table ({reason}); choose a csv or jsonl output") from None
        pyarrow.parquet.write_table(table, place)


def _beside(source: Path, rows: list[dict[str, Any]]) -> "pyarrow.Table":
    """Return the columns of a parquet file, with their types and pandas metadata, and the columns that `rows` add."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(source).read()
    if table.num_rows != len(rows):
        raise UserError(f"{source}: was changed while it was read; label it again")
    source_names = set(table.column_names)
    added = pyarrow.Table.from_pylist([{name: row[name] for name in row if name not in source_names} for row in rows])
    for field, column in zip(added.schema, added.columns, strict=True):
        table = table.append_column(field, column)
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key == b"pandas"}
    return table.replace_schema_metadata(metadata)


def _same_columns(path: Path, names: Sequence[str], row: dict[str, Any], number: int) -> None:
    """Raise `UserError` if a row has a column that the first row does not have."""
    if extra := [name for name in row if name not in names]:
        raise UserError(f"{path}: row {number} has a column {extra[0]}, which row 1 has not; choose a jsonl output")
