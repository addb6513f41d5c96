"""Tables to label: texts out of their columns, and the same rows back with what the model says of each."""

import csv
import itertools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bert_jax.errors import UserError
from bert_jax.files import new_path
from bert_jax.tables import kind, numbered_by, records
from bert_jax.text_columns import SAMPLE, find_texts, text_of

if TYPE_CHECKING:
    from bert_jax.predict import Prediction

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Kinds of files that are read as tables; all others hold a text a line."""

WRITTEN = (".csv", ".parquet")
"""Kinds of files that are written as tables; all others get a JSON object a line."""


class Table:
    """A file whose texts are labelled; its rows wait here for what is said of them.

    Raises `UserError` with the line or row of what is not a text.
    """

    def __init__(self, path: Path, text: str | None, pair: str | None, *, keep: bool):
        self.path, self._asked, self._keep = path, (text, pair), keep
        self._waiting: deque[dict[str, Any]] = deque()

    @contextmanager
    def opened(self) -> Iterator[tuple[Iterator[str], Iterator[str] | None]]:
        """The texts, and the second texts of pairs, to be read side by side."""
        with records(self.path) as (found, _):
            sample = list(itertools.islice(found, SAMPLE))
            rows = [record for _, record in sample if isinstance(record, dict)]
            if not sample:
                raise UserError(f"{self.path}: no rows")
            columns = find_texts(self.path, rows, *self._asked) if rows else ("", None)
            halves = self._texts(itertools.chain(sample, found), columns)
            if columns[1] is None:
                yield (text for text, _ in halves), None
                return
            one, other = itertools.tee(halves)
            yield (text for text, _ in one), (pair or "" for _, pair in other)

    def row(self) -> dict[str, Any]:
        """The next row that waits, in order."""
        return self._waiting.popleft()

    def _texts(self, found: Iterator[Any], columns: tuple[str, str | None]) -> Iterator[tuple[str, str | None]]:
        for number, record in found:
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
    """Takes the rows of the answer one by one."""

    def write(self, row: dict[str, Any]) -> None:
        """Add a row."""
        ...


def answer(row: dict[str, Any], prediction: "Prediction", *, logits: bool) -> dict[str, Any]:
    """The columns of the input, then ours; `UserError` where the input has a column of such a name already."""
    said = prediction.to_dict(logits=logits)
    ours: dict[str, Any] = {}
    if "labels" in said:
        ours["predicted_labels"] = ", ".join(said["labels"])
    if "label" in said:
        ours["predicted_label"] = said["label"]
    if "score" in said:
        ours["predicted_score"] = said["score"]
    ours |= {f"score_{name}": score for name, score in said.get("scores", {}).items()}
    if logits:
        ours |= {f"logit_{name}": value for name, value in zip(prediction.scores, said["logits"], strict=True)}
    ours["truncated"] = prediction.truncated
    if twice := sorted(set(row) & set(ours)):
        raise UserError(f"the input has a column {twice[0]} already; rename it, or choose a jsonl output")
    return row | ours


def writing(path: Path, *, overwrite: bool) -> AbstractContextManager[Writer]:
    """Have a csv or parquet file take the place of `path` when the block ends well."""
    return (_csv if kind(path) == ".csv" else _parquet)(path, overwrite)


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
def _parquet(path: Path, overwrite: bool) -> Iterator[Writer]:
    import pyarrow
    import pyarrow.parquet

    with new_path(path, overwrite=overwrite) as place:
        found = _Rows()
        yield found
        names = tuple(found.rows[0]) if found.rows else ()
        for number, row in enumerate(found.rows, 1):
            _same_columns(path, names, row, number)
        try:
            table = pyarrow.Table.from_pylist(found.rows)
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: the rows do not make a table ({reason}); choose a csv or jsonl output") from None
        pyarrow.parquet.write_table(table, place)


def _same_columns(path: Path, names: Sequence[str], row: dict[str, Any], number: int) -> None:
    """Raise `UserError` where a row has a column that the first one has not."""
    if more := [name for name in row if name not in names]:
        raise UserError(f"{path}: row {number} has a column {more[0]}, which row 1 has not; choose a jsonl output")
