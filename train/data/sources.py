"""Find the splits of a data set in a file, a directory, a tree of folders, the hub or memory."""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.errors import UserError
from bert_jax.files import decode, read_bytes
from bert_jax.tables import ENDINGS, LABELS, Record, check_names, kind, label_names, numbered_by, records

from ..guest import as_found
from .cells import content, plain

SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""The names of each split in files, folders, tables and on the hub."""

Opened = AbstractContextManager[tuple[Iterator[Record], Callable[[], str]]]
"""Context manager that gives the records, and a function that returns their source's SHA-256 after they are read."""


class Source(NamedTuple):
    """A split to read: its name, and its parts in order.

    Each part is a name and a function that opens the part. `unit` is what record numbers count: "line", "row", or "" if
    a part is one record. `names` are the names of labels 0, 1, ... by column, if the source gives them. `beside` are
    the names of other splits on the hub, which are not read.
    """

    path: Path | str
    parts: Sequence[tuple[Path | str, Callable[[], Opened]]]
    unit: str
    names: Mapping[str, tuple[str, ...]] = {}
    beside: tuple[str, ...] = ()


def find(path: Path, alone: bool = False) -> dict[str, Source]:
    """Return the splits of a file or directory.

    A file is the split train, which is divided later. With `alone`, a file is the split test. A directory must have a
    split train, or with `alone` any split. Raises `UserError` if there is no split, or if two files are the same split.
    """
    if path.is_file():
        return {"test" if alone else "train": _files(path, [path], None)}
    if not path.is_dir():
        raise UserError(f"{path}: no such file or directory")
    sources = {split: source for split in SPLITS if (source := _split(path, split))}
    if not sources or not ("train" in sources or alone):
        scripts = sorted(path.glob("*.py"))
        hint = f" (scripts such as {scripts[0].name} are never run)" if scripts else ""
        raise UserError(
            f"{path}: no train.tsv, train.csv, train.jsonl, train.json, train.parquet or train.txt, nor a folder "
            f"train with one for each class{hint}"
        )
    return sources


def from_tables(tables: Mapping[str, Any]) -> dict[str, Source]:
    """Return the splits of tables in memory.

    A table is a list of tuples or dictionaries, a pandas frame, or a table of `datasets`. Tuples are (text, label) or
    (text, pair, label). Raises `UserError` for a table that is not one of these, and for names that are not splits.
    """
    unknown = sorted(set(tables) - {name for names in SPLITS.values() for name in names})
    if unknown or not set(tables) & set(SPLITS["train"]):
        raise UserError(f"tables are called {', '.join(map(str, tables)) or 'nothing'}; expected train, dev and test")
    for split, names in SPLITS.items():
        if len(matching := [name for name in tables if name in names]) > 1:
            raise UserError(f"{' and '.join(matching)} are both {split}; give one")
    return {
        split: _rows(name, _records_of(table, name), _features(table))
        for split, names in SPLITS.items()
        for name, table in tables.items()
        if name in names
    }


def from_hub(hub_id: str, name: str | None, revision: str | None) -> dict[str, Source]:
    """Return the splits of a data set on the hub, at the commit that `revision` names. No code of the data set is run.

    Raises `UserError` if the data set cannot be loaded or has no train split.
    """
    import datasets
    from huggingface_hub import HfApi, constants

    commit = revision
    if not constants.HF_HUB_OFFLINE:
        with contextlib.suppress(Exception):  # a missing id is reported below; without a network there is a cache
            commit = HfApi().dataset_info(hub_id, revision=revision).sha
    try:
        with as_found(), _without_bars():
            dataset = datasets.load_dataset(hub_id, name, revision=commit)
    except Exception as error:  # the libraries raise many types, all for faults of the hub or the user
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{hub_id}: no such file or directory, and the hub did not give it ({reason[:300]}); "
            "check the name, --data-name and the network"
        ) from None
    used = {split: key for split, names in SPLITS.items() if (key := next((n for n in names if n in dataset), None))}
    if "train" not in used:
        raise UserError(f"{hub_id}: no train split; there are: {', '.join(map(str, dataset))}")
    beside = tuple(str(key) for key in dataset if key not in used.values())
    sources = {}
    for split, key in used.items():
        place = f"{hub_id}{f' ({name})' if name else ''}{f' at {commit}' if commit else ''}, {key}"
        sources[split] = _rows(place, _records_of(dataset[key], place), _features(dataset[key]))._replace(beside=beside)
    return sources


@contextmanager
def _without_bars() -> Iterator[None]:
    """Disable the progress bars of `datasets` in the block, unless the environment sets whether they are drawn."""
    import datasets
    from datasets import config

    own = config.HF_DATASETS_DISABLE_PROGRESS_BARS is None and not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars() if own else None
    try:
        yield
    finally:
        datasets.enable_progress_bars() if own else None


def is_hub_id(text: str) -> bool:
    """Return whether `text`, which is not the name of a file, could be an id on the hub."""
    is_file_name = text.lower().endswith((*ENDINGS, ".gz", ".zip", ".xlsx"))
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", text)) and not is_file_name


def _split(directory: Path, split: str) -> Source | None:
    """Return the source of a split in a directory, or None.

    Its files are NAME.csv, or NAME-00000-of-00002.parquet and so on, in the directory or in its folder data/, or the
    files of a folder NAME. Raises `UserError` if the split has several of these.
    """
    groups: list[list[Path]] = []
    for name in SPLITS[split]:
        for folder in (directory, directory / "data"):
            groups += [[folder / f"{name}{ending}"] for ending in ENDINGS if (folder / f"{name}{ending}").is_file()]
            groups += _shards(folder, name)
        if (directory / name).is_dir():
            if classes := _classes(directory / name):
                return _tree(directory / name, classes, directory)
            groups += _inside(directory / name)
    if len(groups) > 1:
        raise UserError(f"{directory}: {groups[0][0].name} and {groups[1][0].name} are both {split}; keep one")
    return _files(groups[0][0] if len(groups[0]) == 1 else directory, groups[0], directory) if groups else None


def _inside(folder: Path) -> list[list[Path]]:
    """Return the files of a folder that is a split, as a list of one list, or an empty list if there are none.

    Raises `UserError` for files of two kinds.
    """
    files = [path for path in sorted(folder.iterdir()) if _is_data(path)]
    for path in files[1:]:
        if kind(path) != kind(files[0]):
            raise UserError(f"{folder}: {files[0].name} and {path.name} are of two kinds; keep one")
    return [files] if files else []


def _is_data(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS) and path.name[0] != "." and path.is_file()


def unread(directory: Path, found: Mapping[str, Source]) -> list[str]:
    """Return data that are in no split: files such as `train-2.csv` or `eval.csv`, or other splits on the hub."""
    if not directory.is_dir():
        return list(next(iter(found.values())).beside)
    used = {Path(part) for source in found.values() for part, _ in source.parts}
    folders = [directory, directory / "data", *(directory / name for names in SPLITS.values() for name in names)]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if _is_data(path)]
    beside = {path.with_name(path.name.split(".")[0] + ending) for path in used for ending in LABELS}
    return [str(path.relative_to(directory)) for path in files if path not in used | beside]


def _shards(folder: Path, name: str) -> list[list[Path]]:
    shards: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := re.fullmatch(rf"{name}-(\d+)-of-(\d+)(?:-[0-9a-f]+)?(\.\w+(?:\.gz)?)", path.name):
            shards.setdefault((match[2], match[3]), []).append(path)
    for (count, _), paths in shards.items():
        if len(paths) != int(count):
            raise UserError(f"{folder}: {len(paths)} of {int(count)} parts of {name}; download the others")
    return list(shards.values())


def _files(name: Path, paths: list[Path], within: Path | None) -> Source:
    @contextmanager
    def opening(path: Path) -> Iterator[tuple[Iterator[Record], Callable[[], str]]]:
        with records(path, within=within) as (file_records, sha256):
            yield file_records, lambda: sha256

    names = label_names(paths[0], within=within)
    for path in paths[1:]:
        if label_names(path, within=within) != names:
            raise UserError(f"{path}: its labels have other names than those of {paths[0].name}; write both anew")
    parts = [(path, lambda path=path: opening(path)) for path in paths]
    return Source(name, parts, numbered_by(paths[0]), names)


def _classes(folder: Path) -> list[Path]:
    """Return the folders of texts, one for each class, or an empty list if there are no such folders.

    The folder `unsup` is left out, because the labels of its texts are not known.
    """
    folders = sorted(
        path for path in folder.iterdir() if path.is_dir() and path.name != "unsup" and path.name[0] != "."
    )
    return folders if len(folders) > 1 and all(any(path.glob("[!.]*.txt")) for path in folders) else []


def _tree(folder: Path, classes: list[Path], within: Path) -> Source:
    """Return the source of a tree with one file for each text and one folder for each class, as in the IMDB corpus.

    The texts are in the order of the class, then of the number at the start of the file name.
    """

    @contextmanager
    def opening(path: Path) -> Iterator[tuple[Iterator[Record], Callable[[], str]]]:
        data = read_bytes(path, within=within)
        record = {"text": decode(data, path), "label": path.parent.name}
        prefix = f"{path.parent.name}/{path.name}\0".encode()
        yield iter([(1, record)]), hashlib.sha256(prefix + data).hexdigest

    paths = [path for class_folder in classes for path in sorted(class_folder.glob("[!.]*.txt"), key=_numbered)]
    parts = [(path, lambda path=path: opening(path)) for path in paths]
    return Source(folder, parts, "", {"label": tuple(path.name for path in classes)})


def _numbered(path: Path) -> tuple[int, str]:
    number = re.match(r"\d+", path.name)
    return (int(number[0]) if number else -1), path.name


def _rows(name: str, table: Iterable[Any], names: Mapping[str, tuple[str, ...]]) -> Source:
    @contextmanager
    def opening() -> Iterator[tuple[Iterator[Record], Callable[[], str]]]:
        digest = hashlib.sha256(json.dumps(sorted(names.items())).encode() if names else b"")

        def numbered() -> Iterator[Record]:
            for number, row in enumerate(table, 1):
                place = f"{name}: row {number}"
                record = _record(row, place)
                try:
                    digest.update(content(record))
                except ValueError as error:
                    raise UserError(f"{place}: {error}; leave the column out") from None
                yield number, record

        yield numbered(), digest.hexdigest

    return Source(name, [(name, opening)], "row", names)


def _records_of(table: Any, name: str) -> Iterable[Mapping[Any, Any]]:
    if isinstance(table, set | frozenset):
        raise UserError(f"{name}: a set has no order, which decides what is held out; give a list")
    if hasattr(table, "to_dict") and hasattr(table, "columns"):  # a pandas frame
        check_names(list(map(str, table.columns)), name)
        return table.to_dict("records")
    if hasattr(table, "features"):
        for column, feature in (table.features or {}).items():
            if getattr(feature, "decode", False):  # pictures and sounds stay bytes, which can be hashed
                table = table.cast_column(column, dataclasses.replace(feature, decode=False))
        # A format such as numpy changes the values that are read, so it is removed; a user's transform is kept.
        format_type = getattr(table, "format", {}).get("type")
        return table if format_type in (None, "custom") else table.with_format(None)
    rows = [row._asdict() if hasattr(row, "_asdict") else row for row in table]  # a named tuple has column names
    names = {2: ("text", "label"), 3: ("text", "pair", "label")}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping) and not (isinstance(row, tuple | list) and len(row) in names):
            raise UserError(f"{name}: row {number}: expected (text, label), (text, pair, label) or a dictionary")
    if len({len(row) for row in rows if not isinstance(row, Mapping)}) > 1:
        raise UserError(f"{name}: some rows are (text, label) and some (text, pair, label); expected one kind")
    pairs = (row if isinstance(row, Mapping) else zip(names[len(row)], row, strict=True) for row in rows)
    return [dict(pair) for pair in pairs]


def _record(row: Mapping[Any, Any], place: str) -> dict[str, Any]:
    """Return a row as plain values by column name. Raises `UserError` if two columns have the same name."""
    record = {str(name): plain(value) for name, value in row.items()}
    if len(record) < len(row):
        check_names(list(map(str, row)), place)
    return record


def _features(table: Any) -> dict[str, tuple[str, ...]]:
    """Return the label names of each column that a table of `datasets` defines."""
    names_by_column = {}
    for column, feature in (getattr(table, "features", None) or {}).items():
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
        if names := getattr(inner, "names", None):
            names_by_column[column] = tuple(names)
    return names_by_column
