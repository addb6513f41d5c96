"""Read the records of one file of labelled texts: csv, tsv, jsonl, json, txt, gzip, parquet."""

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

from bert_jax import extras
from bert_jax.errors import UserError
from bert_jax.files import decode, opened

_TEXT = (".tsv", ".csv", ".jsonl", ".json", ".txt")
ENDINGS = (*_TEXT, ".parquet", *(f"{ending}.gz" for ending in _TEXT))
"""Endings of the files that can be read."""

_UNPACKED, _RATIO = 64 * 2**20, 100
"""Limits of what a file may unpack to: a number of bytes or, if that is more, a multiple of the file's size.

Text packs to a fifth of its size.
"""

LABELS = (".labels", ".labels.txt")
"""Endings of the file of labels beside NAME.txt: NAME.labels or NAME.labels.txt.

Each line of the file of labels holds the label of the text on the same line of NAME.txt.
"""

Record = tuple[int, dict[str, Any] | UserError]
"""A line or row number, counted from 1, and the fields of that record, or the error for a line that is wrong."""

_SAMPLE = 1000
"""Number of lines of a .tsv file that are read to decide whether its cells are quoted."""

_LONGEST, _LIMIT = 1 << 30, threading.Lock()
"""Maximum number of characters in a cell, and the lock for setting this limit in the csv module."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@contextmanager
def records(path: Path, *, within: Path | None = None) -> Iterator[tuple[Iterator[Record], str]]:
    """Yield the records of a file, each a dictionary with its line or row number, and the file's SHA-256.

    The file is hashed and read through one descriptor. The hash for a .txt file covers its file of labels too. A
    symbolic link must not lead out of `within`. Raises `UserError` for an unknown kind of file, and for a damaged file,
    with the line if it is known.
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
            labels_path = _labels_of(path)
            with opened(labels_path, within=within) as labels:
                digests = digest + hashlib.file_digest(labels, "sha256").hexdigest()
                labels.seek(0)
                yield _beside(text, path, labels, labels_path), hashlib.sha256(digests.encode()).hexdigest()
            return
        yield _READERS[kind(path)](text, path), digest


def numbered_by(path: Path) -> str:
    """Return what the numbers of records count: "line", or "row" for a format without lines."""
    return "row" if kind(path) in (".parquet", ".json") else "line"


def label_names(path: Path, *, within: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Return the names of labels 0, 1, ... by column, from the metadata that `datasets` writes into a Parquet file.

    The result is empty for other files. Raises `UserError` if this metadata cannot be read.
    """
    if kind(path) != ".parquet":
        return {}
    import pyarrow.parquet

    with opened(path, within=within) as file:
        try:
            note = (pyarrow.parquet.read_schema(file).metadata or {}).get(b"huggingface")
        except (pyarrow.ArrowException, OSError, ValueError):
            return {}  # `records` reports the damage
    try:
        features = json.loads(note)["info"]["features"] if note else {}
        # The feature of a list's elements; earlier versions of the library write a list as a list of one feature.
        inner = {
            n: feature[0] if isinstance(feature, list) else feature.get("feature", feature)
            for n, feature in features.items()
        }
        class_labels = {
            n: feature
            for n, feature in inner.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
        return {name: tuple(feature["names"]) for name, feature in class_labels.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: its note of what labels mean (huggingface) cannot be read; write it anew") from None


def kind(path: Path) -> str:
    """Return the ending of a file's name, in lower case and without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _labels_of(path: Path) -> Path:
    stem = path.name[: path.name.lower().rindex(".txt")]
    for ending in LABELS:
        if os.path.lexists(path.with_name(stem + ending)):
            return path.with_name(stem + ending)
    raise UserError(f"{path}: no labels beside it; expected {stem}{LABELS[0]} with a label for each line")


def _most(file: BinaryIO) -> int:
    """Return the maximum number of bytes that a file may unpack to."""
    return max(_UNPACKED, _RATIO * os.fstat(file.fileno()).st_size)


class _Unpacked(gzip.GzipFile):
    """The unpacked content of a gzip file; reading raises `UserError` if it is suspiciously large."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(fileobj=file)
        self._path = path
        self._most = _most(file)

    def read1(self, size: int = -1) -> bytes:
        """Return at most `size` bytes; raise `UserError` if the file is damaged or has unpacked to too many bytes."""
        try:
            content = super().read1(size)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{self._path}: not a sound gzip file: {error}; download it again") from None
        if self.tell() > self._most:
            raise UserError(
                f"{self._path}: unpacks to more than {self._most:,} bytes, {_RATIO} times its size or more; "
                "unpack it yourself if that is meant"
            )
        return content


def _lines(file: BinaryIO, path: Path, newline: str = "") -> Iterator[str]:
    """Yield the lines of a UTF-8 text with their line ends, one at a time.

    `newline` decides where a line ends, as in `open`. Raises `UserError` with the offset of a byte that is not UTF-8.
    """
    # The wrapper has a name because its deletion would close `file`, which is read again below.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    try:
        yield from text
    except UnicodeDecodeError:
        # The offset in this error counts from the start of a chunk; `decode` counts from the start of the file.
        file.seek(0)
        decode(file.read(), path)
        raise


def _delimited(file: BinaryIO, path: Path) -> Iterator[Record]:
    lines = _lines(file, path)
    before = [next(lines, "")]  # all lines up to the header
    while before[-1] and not before[-1].strip():
        before.append(next(lines, ""))
    delimiter = _delimiter(before[-1], path)
    # Tab-separated corpora, GLUE's among them, contain quotes as plain text. So a .tsv is read as quoted only where
    # the quoting is plain.
    names = before[-1].rstrip("\r\n").split(delimiter)
    bare = kind(path) == ".tsv" and delimiter == "\t" and not all(_QUOTED.fullmatch(name) for name in names)
    if bare:
        before += itertools.islice(lines, _SAMPLE)
        odd = sum(line.count('"') for line in before) % 2
        # An odd number of quotes may mean that a quoted cell goes on after the sample.
        for line in itertools.islice(lines, _SAMPLE if odd else 0):
            before.append(line)
            if line.count('"') % 2:
                break
        bare = not _is_quoted(before, path)
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "quotechar": None} if bare else {"strict": True}
    reader = csv.reader(itertools.chain(before, lines), delimiter=delimiter, **options)
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
            elif len(cells) > 1 and [cell.strip() for cell in cells] == header:  # as in files that were concatenated
                yield line, UserError(f"{path}: line {line} is the line of names again; leave it out")
            else:
                values = map(_unquoted, cells) if bare else cells
                yield line, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: line {start}: {error}") from None


def _cells(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the rows of a csv reader, with cells of up to `_LONGEST` characters.

    The csv module has one limit for the whole process. It is set for each row and then restored.
    """
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
    """Return whether the lines of a .tsv are quoted as a csv writer quotes, and quoting makes a difference.

    Raises `UserError` if the lines form a table both with and without quoting, but not the same table.
    """
    text = "".join(sample).replace("\r\n", "\n")
    try:
        rows = list(_cells(csv.reader(io.StringIO(text), delimiter="\t", strict=True)))
    except csv.Error:
        return False
    rewritten = io.StringIO()
    csv.writer(rewritten, delimiter="\t", lineterminator="\n").writerows(rows)
    if rewritten.getvalue() != text + "\n" * (not text.endswith("\n")) or len({len(row) for row in rows if row}) != 1:
        return False
    bare_rows = [[_unquoted(cell) for cell in line.split("\t")] for line in text.split("\n") if line]
    rows = [row for row in rows if row]
    if bare_rows != rows and {len(row) for row in bare_rows} == {len(rows[0])}:
        line = next(i for i, (plain, quoted) in enumerate(zip(bare_rows, rows, strict=False), 1) if plain != quoted)
        raise UserError(f"{path}: from line {line} on, quotes can be read in two ways; write it as csv")
    return bare_rows != rows


def check_names(names: Sequence[str], where: object) -> None:
    """Raise `UserError` if two columns have the same name, as nothing tells which of them is meant."""
    repeated = next((name for name, count in Counter(names).items() if count > 1 and name), None)
    if repeated is not None:
        raise UserError(f"{where}: two columns are called {repeated}; rename one of them")


def _delimiter(header: str, path: Path) -> str:
    """Return the delimiter of a header: a tab for .tsv, a comma for other files.

    If that delimiter is not in the header, and exactly one of tab, comma, semicolon and bar is, the latter is returned.
    """
    usual = "\t" if kind(path) == ".tsv" else ","
    candidates = [candidate for candidate in ("\t", ",", ";", "|") if candidate in header]
    return candidates[0] if usual not in header and len(candidates) == 1 else usual


def _unquoted(cell: str) -> str:
    """Return a cell as it was before a csv writer quoted it and doubled the quotes inside.

    A cell that is not quoted, or has no doubled quotes, is returned as it is.
    """
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
    """Return a JSON object as a dictionary; raise `ValueError` if two members have the same name."""
    fields = dict(members)
    if len(fields) < len(members):
        name = next(name for name, count in Counter(name for name, _ in members).items() if count > 1)
        raise ValueError(f"two members are called {name}")
    return fields


def _json(file: BinaryIO, path: Path) -> Iterator[Record]:
    """Yield the objects of an array, which is the whole file or the only array among the members of one object."""
    try:
        data = json.loads("".join(_lines(file, path)), object_pairs_hook=_object)
    except RecursionError:
        raise UserError(f"{path}: bad JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        hint = "; a file of one object a line is called .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{path}: bad JSON at line {error.lineno} column {error.colno}: {error.msg}{hint}") from None
    except ValueError as error:  # Python refuses a number of thousands of digits
        raise UserError(f"{path}: bad JSON: {error}") from None
    if isinstance(data, dict):
        arrays = [value for value in data.values() if isinstance(value, list)]
        data = arrays[0] if len(arrays) == 1 else None
    if not isinstance(data, list):
        raise UserError(f"{path}: expected an array of objects, or an object with one such array")
    for number, record in enumerate(data, 1):
        if not isinstance(record, dict):
            raise UserError(f"{path}: row {number}: expected a JSON object")
        yield number, record


def _beside(file: BinaryIO, path: Path, labels: BinaryIO, labels_path: Path) -> Iterator[Record]:
    """Yield each line of a file as a text, with its label from the same line of the file `labels`."""
    line_pairs = itertools.zip_longest(_lines(file, path), _lines(labels, labels_path))
    for number, (text, label) in enumerate(line_pairs, 1):
        if text is None or label is None:
            shorter, longer = (path, labels_path) if text is None else (labels_path, path)
            raise UserError(f"{shorter}: ends before line {number}, which {longer.name} has; expected as many lines")
        yield number, {"text": text.rstrip("\r\n"), "label": label.strip()}


def _parquet(file: BinaryIO, path: Path) -> Iterator[Record]:
    extras.check("parquet", f"{path}: a Parquet file")
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
