"""One file of labelled texts to records, each with its line or row: csv, tsv, jsonl, json, txt, gzip, parquet."""

import csv
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from bert_jax.errors import UserError
from bert_jax.files import decode, opened

_TEXT = (".tsv", ".csv", ".jsonl", ".json", ".txt")
ENDINGS = (*_TEXT, ".parquet", *(f"{ending}.gz" for ending in _TEXT))
"""The kinds of files that are read."""

_UNPACKED, _RATIO = 64 * 2**20, 100
"""Bytes to which any file may unpack, and how many times its size a larger one may; text packs to a fifth."""

LABELS = (".labels", ".labels.txt")
"""What the file of labels beside NAME.txt is called, after NAME: a label on each line, for that line's text."""

Record = tuple[int, dict[str, Any] | UserError]
"""Its line, or row, from 1, and its fields, or what is wrong with the line."""

_SAMPLE = 1000
"""Lines of a .tsv that are looked at to see whether its cells are quoted."""

_LONGEST, _LIMIT = 1 << 30, threading.Lock()
"""Characters of a cell, at most, and whose turn it is to tell csv so."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@contextmanager
def records(path: Path, *, within: Path | None = None) -> Iterator[tuple[Iterator[Record], str]]:
    """The records of a file, each a dictionary with its line, or row, and the file's SHA-256.

    The file is hashed and read through one descriptor; a link must not lead out of `within`. Raises
    `UserError` for unknown kinds of files and, with the line, where one is damaged.
    """
    if not path.name.lower().endswith(ENDINGS):
        raise UserError(f"{path}: unknown kind of file; expected one of {' '.join(ENDINGS)}")
    with opened(path, within=within) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        if kind(path) == ".parquet":
            yield _parquet(file, path), digest
            return
        text = cast(BinaryIO, _Unpacked(file, path)) if path.name.lower().endswith(".gz") else file
        if kind(path) == ".txt":
            beside = _labels_of(path)
            with opened(beside, within=within) as labels:
                both = digest + hashlib.file_digest(labels, "sha256").hexdigest()
                labels.seek(0)
                yield _beside(text, path, labels, beside), hashlib.sha256(both.encode()).hexdigest()
            return
        yield _READERS[kind(path)](text, path), digest


def numbered_by(path: Path) -> str:
    """What a record's number counts: lines, or rows where a file has no lines."""
    return "row" if kind(path) in (".parquet", ".json") else "line"


def label_names(path: Path, *, within: Path | None = None) -> dict[str, tuple[str, ...]]:
    """The names of labels 0, 1, ... by column, where a Parquet file has the note that `datasets` leaves of them."""
    import pyarrow.parquet

    if kind(path) != ".parquet":
        return {}
    with opened(path, within=within) as file:
        try:
            note = (pyarrow.parquet.read_schema(file).metadata or {}).get(b"huggingface")
        except (pyarrow.ArrowException, OSError, ValueError):
            return {}  # `records` says what is wrong
    try:
        features = json.loads(note)["info"]["features"] if note else {}
        inner = {name: feature.get("feature", feature) for name, feature in features.items()}
        return {name: tuple(one["names"]) for name, one in inner.items() if one.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: its note of what labels mean (huggingface) cannot be read; write it anew") from None


def kind(path: Path) -> str:
    """The ending of a file's name, in lower case and without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _labels_of(path: Path) -> Path:
    stem = path.name[: path.name.lower().rindex(".txt")]
    for ending in LABELS:
        if os.path.lexists(path.with_name(stem + ending)):
            return path.with_name(stem + ending)
    raise UserError(f"{path}: no labels beside it; expected {stem}{LABELS[0]} with a label for each line")


def _most(file: BinaryIO) -> int:
    """Bytes to which a file may unpack."""
    return max(_UNPACKED, _RATIO * os.fstat(file.fileno()).st_size)


class _Unpacked(gzip.GzipFile):
    """What a gzip file holds, until that is suspiciously much."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(fileobj=file)
        self._path = path
        self._most = _most(file)

    def read1(self, size: int = -1) -> bytes:
        """At most `size` bytes, unless damaged or too many by now (`UserError`)."""
        try:
            found = super().read1(size)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{self._path}: not a sound gzip file: {error}; download it again") from None
        if self.tell() > self._most:
            raise UserError(
                f"{self._path}: unpacks to more than {self._most:,} bytes, {_RATIO} times its size or more; "
                "unpack it yourself if that is meant"
            )
        return found


def _lines(file: BinaryIO, path: Path, newline: str = "") -> Iterator[str]:
    """The lines of UTF-8 text with their ends, one at a time; they end where `newline` says, as in `open`."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)  # named, as its end would close the file
    try:
        yield from text
    except UnicodeDecodeError:
        file.seek(0)  # this error was told of a part of the file; the next one counts bytes from the start
        decode(file.read(), path)
        raise


def _delimited(file: BinaryIO, path: Path) -> Iterator[Record]:
    lines = _lines(file, path)
    before = [next(lines, "")]  # to the line of names
    while before[-1] and not before[-1].strip():
        before.append(next(lines, ""))
    delimiter = _delimiter(before[-1], path)
    # Tab-separated corpora hold bare quotes, GLUE's among them, so that a .tsv is quoted only where it is plain.
    names = before[-1].rstrip("\r\n").split(delimiter)
    bare = kind(path) == ".tsv" and delimiter == "\t" and not all(_QUOTED.fullmatch(name) for name in names)
    if bare:
        before += itertools.islice(lines, _SAMPLE)
        odd = sum(line.count('"') for line in before) % 2
        for line in itertools.islice(lines, _SAMPLE if odd else 0):  # to the end of a cell that is quoted
            before.append(line)
            if line.count('"') % 2:
                break
        bare = not _is_quoted(before, path)
    how: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "quotechar": None} if bare else {"strict": True}
    reader = csv.reader(itertools.chain(before, lines), delimiter=delimiter, **how)
    header: list[str] | None = None
    start = 1
    try:
        for cells in _cells(reader):
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                check_names(header, path)
            elif len(cells) != len(header):
                yield line, UserError(f"{path}: line {line} has {len(cells)} fields, the header has {len(header)}")
            elif len(cells) > 1 and [cell.strip() for cell in cells] == header:  # files were put one after another
                yield line, UserError(f"{path}: line {line} is the line of names again; leave it out")
            else:
                values = map(_unquoted, cells) if bare else cells
                yield line, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: line {start}: {error}") from None


def _cells(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows of a csv reader, with cells of any length; csv's limit is the whole process's, and stays as it was."""
    while True:
        with _LIMIT:
            before = csv.field_size_limit(_LONGEST)
            try:
                row = next(reader, None)
            finally:
                csv.field_size_limit(before)
        if row is None:
            return
        yield row


def _is_quoted(sample: list[str], path: Path) -> bool:
    """Whether lines of a .tsv are quoted as a writer of csv does it, where that makes a difference.

    Raises `UserError` where they make a table with and without quoting, but not the same one.
    """
    text = "".join(sample).replace("\r\n", "\n")
    try:
        rows = list(_cells(csv.reader(io.StringIO(text), delimiter="\t", strict=True)))
    except csv.Error:
        return False
    again = io.StringIO()
    csv.writer(again, delimiter="\t", lineterminator="\n").writerows(rows)
    if again.getvalue() != text + "\n" * (not text.endswith("\n")) or len({len(row) for row in rows if row}) != 1:
        return False
    bare = [[_unquoted(cell) for cell in line.split("\t")] for line in text.split("\n") if line]
    rows = [row for row in rows if row]
    if bare != rows and {len(row) for row in bare} == {len(rows[0])}:
        line = next(i for i, (one, other) in enumerate(zip(bare, rows, strict=False), 1) if one != other)
        raise UserError(f"{path}: from line {line} on, quotes can be read in two ways; write it as csv")
    return bare != rows


def check_names(names: Sequence[str], where: object) -> None:
    """Raise `UserError` where two columns have one name: which of them is meant, nothing says."""
    twice = next((name for name, count in Counter(names).items() if count > 1 and name), None)
    if twice is not None:
        raise UserError(f"{where}: two columns are called {twice}; rename one of them")


def _delimiter(header: str, path: Path) -> str:
    """What parts the names of columns: a tab or comma by the kind of file, another one if that is not there."""
    usual = "\t" if kind(path) == ".tsv" else ","
    others = [other for other in ("\t", ",", ";", "|") if other in header]
    return others[0] if usual not in header and len(others) == 1 else usual


def _unquoted(cell: str) -> str:
    """A cell as it was before a writer of csv quoted it, which doubles the quotes inside; others as they are."""
    return cell[1:-1].replace('""', '"') if '""' in cell and _QUOTED.fullmatch(cell) else cell


def _jsonl(file: BinaryIO, path: Path) -> Iterator[Record]:
    for number, line in enumerate(_lines(file, path, "\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.removesuffix("\n"), object_pairs_hook=_object)
        except RecursionError:
            yield number, UserError(f"{path}: line {number}: bad JSON: nested too deeply")
        except ValueError as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            yield number, UserError(f"{path}: line {number}: bad JSON: {reason}")
        else:
            is_table = isinstance(record, dict)
            yield number, record if is_table else UserError(f"{path}: line {number}: expected a JSON object")


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ; `ValueError` otherwise."""
    found = dict(members)
    if len(found) < len(members):
        name = next(name for name, count in Counter(name for name, _ in members).items() if count > 1)
        raise ValueError(f"two members are called {name}")
    return found


def _json(file: BinaryIO, path: Path) -> Iterator[Record]:
    """An array of objects; or an object of which one member is such an array."""
    try:
        found = json.loads("".join(_lines(file, path)), object_pairs_hook=_object)
    except RecursionError:
        raise UserError(f"{path}: bad JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        also = "; a file of one object a line is called .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{path}: bad JSON at line {error.lineno} column {error.colno}: {error.msg}{also}") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: bad JSON: {error}") from None
    if isinstance(found, dict):
        arrays = [value for value in found.values() if isinstance(value, list)]
        found = arrays[0] if len(arrays) == 1 else None
    if not isinstance(found, list):
        raise UserError(f"{path}: expected an array of objects, or an object with one such array")
    for number, record in enumerate(found, 1):
        if not isinstance(record, dict):
            raise UserError(f"{path}: row {number}: expected a JSON object")
        yield number, record


def _beside(file: BinaryIO, path: Path, labels: BinaryIO, beside: Path) -> Iterator[Record]:
    """A text a line, and its label on the same line of another file."""
    both = itertools.zip_longest(_lines(file, path), _lines(labels, beside))
    for number, (text, label) in enumerate(both, 1):
        if text is None or label is None:
            short, other = (path, beside) if text is None else (beside, path)
            raise UserError(f"{short}: ends before line {number}, which {other.name} has; expected as many lines")
        yield number, {"text": text.rstrip("\r\n"), "label": label.strip()}


def _parquet(file: BinaryIO, path: Path) -> Iterator[Record]:
    import pyarrow.parquet

    most = _most(file)
    numbers = itertools.count(1)
    try:
        table = pyarrow.parquet.ParquetFile(file)
        check_names(table.schema_arrow.names, path)
        groups = [table.metadata.row_group(i) for i in range(table.metadata.num_row_groups)]
        unpacked = max(sum(group.total_byte_size for group in groups), 8 * table.metadata.num_rows)
        if unpacked > most:
            raise UserError(f"{path}: unpacks to {unpacked:,} bytes, {_RATIO} times its size or more; write it anew")
        for batch in table.iter_batches():
            yield from zip(numbers, batch.to_pylist())  # noqa: B905
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a sound parquet file: {str(error).splitlines()[0]}") from None


_READERS = {".tsv": _delimited, ".csv": _delimited, ".jsonl": _jsonl, ".json": _json}
