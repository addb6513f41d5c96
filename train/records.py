"""One file of labelled texts to records, each with its line or row: csv, tsv, jsonl, json, txt, gzip, parquet."""

import csv
import gzip
import hashlib
import io
import itertools
import json
import os
import zlib
from collections.abc import Iterator
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

Record = tuple[int, dict[str, Any]]
"""Its line, or row, from 1, and its fields."""


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
        if _kind(path) == ".parquet":
            yield _parquet(file, path), digest
            return
        text = cast(BinaryIO, _Unpacked(file, path)) if path.name.lower().endswith(".gz") else file
        if _kind(path) == ".txt":
            beside = _labels_of(path)
            with opened(beside, within=within) as labels:
                both = digest + hashlib.file_digest(labels, "sha256").hexdigest()
                labels.seek(0)
                yield _beside(text, path, labels, beside), hashlib.sha256(both.encode()).hexdigest()
            return
        yield _READERS[_kind(path)](text, path), digest


def numbered_by(path: Path) -> str:
    """What a record's number counts: lines, or rows where a file has no lines."""
    return "row" if _kind(path) in (".parquet", ".json") else "line"


def _kind(path: Path) -> str:
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
    csv.field_size_limit(1 << 30)
    # Tab-separated corpora (GLUE's among them) hold bare quotes, so only csv is read with quoting.
    if _kind(path) == ".tsv":
        reader = csv.reader(_lines(file, path), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    else:
        reader = csv.reader(_lines(file, path), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(header):
                raise UserError(f"{path}: line {line} has {len(cells)} fields, the header has {len(header)}")
            yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: line {start}: {error}") from None


def _jsonl(file: BinaryIO, path: Path) -> Iterator[Record]:
    for number, line in enumerate(_lines(file, path, "\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.removesuffix("\n"))
        except RecursionError:
            raise UserError(f"{path}: line {number}: bad JSON: nested too deeply") from None
        except ValueError as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{path}: line {number}: bad JSON: {reason}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number}: expected a JSON object")
        yield number, record


def _json(file: BinaryIO, path: Path) -> Iterator[Record]:
    """An array of objects; or an object of which one member is such an array."""
    try:
        found = json.loads("".join(_lines(file, path)))
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
        groups = [table.metadata.row_group(i) for i in range(table.metadata.num_row_groups)]
        unpacked = max(sum(group.total_byte_size for group in groups), 8 * table.metadata.num_rows)
        if unpacked > most:
            raise UserError(f"{path}: unpacks to {unpacked:,} bytes, {_RATIO} times its size or more; write it anew")
        for batch in table.iter_batches():
            yield from zip(numbers, batch.to_pylist())  # noqa: B905
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a sound parquet file: {str(error).splitlines()[0]}") from None


_READERS = {".tsv": _delimited, ".csv": _delimited, ".jsonl": _jsonl, ".json": _json}
