"""Convert labels to targets (class ids, rows of 0 and 1, or numbers), and compute class weights."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.errors import UserError, some
from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bert_jax.text_columns import did_you_mean, shown

from .rows import Data, Row, Split

_Placed = tuple[Split, Row, Any]

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.0*)?")  # a code such as 007 is a name

_ALL_DIFFERENT = 10
"""Number of rows from which it is an error that every row has a different label."""


def targets_of(data: Data, names: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the label names in order of id, and the targets of each split.

    For single labels, targets are class ids, int32 (N). For several labels a text, they are float32 (N, C), with 1 for
    each label that the text has. For a regression, they are one number for each text, float32 (N, 1). `names` are the
    label names to use in place of the data's own. Raises `UserError` with the row of a label that is unknown or can be
    read in two ways, and for `names` that do not fit the data.
    """
    if data.task == REGRESSION:
        if len(names) > 1:
            raise UserError(f"a regression has one number, named {', '.join(names)} here; name one, or none")
        found = {name: np.array([[row.label] for row in s.rows], np.float32) for name, s in data.splits.items()}
        return tuple(names) or data.names or ("score",), found
    data = _as_named(data, names)
    if data.task == MULTI_LABEL and (width := vector_length(data)):
        names = tuple(names) or data.names or tuple(map(str, range(width)))
        if len(names) != width:
            raise UserError(f"labels are lists of {width} zeros and ones, and {len(names)} labels are named")
        vectors = {name: [list(map(_bit, row.label)) for row in s.rows] for name, s in data.splits.items()}
        return names, {name: np.array(rows, np.float32) for name, rows in vectors.items()}
    names, ids = label_ids(data, names)
    if data.task == SINGLE_LABEL:
        return names, {name: np.array(found, np.int32) for name, found in ids.items()}
    targets = {}
    for name, split in data.splits.items():
        held = targets[name] = np.zeros((len(split.rows), len(names)), np.float32)
        owners = [i for i, row in enumerate(split.rows) for _ in row.label]
        held[owners, ids[name]] = 1
    return names, targets


def by_number(data: Data, names: Sequence[str]) -> str:
    """Return a warning if labels are matched to `names` by number, and have other names or numbers in the data.

    Return an empty string if there is nothing to warn of.
    """
    if not names or data.task == REGRESSION:
        return ""
    said: Sequence[str] = ()
    if _named_numbers(data):
        said = () if _shared(data, names) else _source_names(data)
    elif data.task == SINGLE_LABEL and (numbers := _numbers_in(names)) and numbers != list(range(len(names))):
        labels = {_as_integer(label) for split in data.splits.values() for _, _, label in _labels(split)}
        if None not in labels and not labels <= {_as_integer(name) for name in names}:
            said = sorted(map(str, labels))
    shown_names = ", ".join(names[:20])
    return f"labels {', '.join(said[:20])} of the data are taken, by number, for {shown_names}" if said else ""


def _as_named(data: Data, names: Sequence[str]) -> Data:
    """Replace label numbers by the names that their source gives them, in the spelling of the known names.

    The known names are `names`, or else those of the training data (`_shared`). If none of the source's names is
    known, labels stay numbers. Raises `UserError` if then the source has more or fewer names than `names`.
    """
    if data.task == REGRESSION or not _named_numbers(data):
        return data
    shared = _shared(data, names)
    if not shared:
        theirs = _source_names(data)
        if names and len(names) != len(theirs):
            where = next(split.path for split in data.splits.values() if split.names == theirs)
            raise UserError(
                f"{where}: its {len(theirs)} labels are {', '.join(theirs[:20])}; expected {', '.join(names[:20])}; "
                "write these in place of numbers"
            )
        return data
    splits = {}
    for which, split in data.splits.items():
        said = [shared.get(name, shared.get(name.casefold(), name)) for name in split.names or data.names]

        def named(label: Any, said: Sequence[str] = said) -> Any:
            if isinstance(label, tuple):
                return tuple(map(named, label))
            return said[label] if isinstance(label, int) and 0 <= label < len(said) else label

        splits[which] = split._replace(rows=[row._replace(label=named(row.label)) for row in split.rows])
    return data._replace(splits=splits)


def _named_numbers(data: Data) -> bool:
    """Return whether any label is a number for which the source of its split gives names."""
    named = (split for split in data.splits.values() if split.names)
    return any(isinstance(label, int) for split in named for _, _, label in _labels(split))


def _source_names(data: Data) -> tuple[str, ...]:
    """Return the names that the source of the first split with such names gives the label numbers."""
    return next(split.names for split in data.splits.values() if split.names)


def _shared(data: Data, names: Sequence[str]) -> dict[str, str]:
    """Return a map from each known label name, and from its case-folded form, to the known spelling.

    The known names are `names`, else the names that the source of the training data gives, else the training labels.
    Case-folded forms are left out if two known names differ only in case. The map is empty if the sources give none of
    the known names to a label number.
    """
    train = next(iter(data.splits.values()))
    known = names or data.names or {label for _, _, label in _labels(train) if isinstance(label, str)}
    folded = {name.casefold(): name for name in known}
    clear = (folded if len(folded) == len(known) else {}) | {name: name for name in known}
    said = {name for split in data.splits.values() for name in split.names}
    return clear if (said | {name.casefold() for name in said}) & set(clear) else {}


def vector_length(data: Data) -> int:
    """Return the number of labels C if each row's label is a list of C values 0 or 1, one for each label.

    Return 0 if labels are not lists, or if each list holds the labels of its row. Raises `UserError` with the row if
    the lists can be read in both ways or in neither.
    """
    rows = [(split, row) for split in data.splits.values() for row in split.rows]
    if not rows or not all(isinstance(row.label, tuple) for _, row in rows):
        return 0
    bits = all(_bit(part) is not None for _, row in rows for part in row.label)
    lengths = sorted({len(row.label) for _, row in rows})
    repeats = next((one for one in rows if _repeats_a_number(one[1].label)), None)
    fractions = next((one for one in rows if any(isinstance(part, float) for part in one[1].label)), None)
    both = "a list with 0 or 1 for each label, or a list of the labels that hold"
    if bits and len(lengths) == 1 and lengths[0] and (repeats or fractions):
        return lengths[0]
    if strange := repeats or fractions:
        split, row = strange
        raise UserError(f"{split.place(row.number)}: label is {shown(list(row.label))}; expected {both}")
    vectors = bits and not any(isinstance(part, str) for _, row in rows for part in row.label)
    if vectors and len(lengths) == 1 and lengths[0]:
        split, row = rows[0]
        raise UserError(
            f"{split.place(row.number)}: label is {shown(list(row.label))}, which can be {both}; "
            "write names in place of numbers, or 0.0 and 1.0 for the first"
        )
    return 0


def label_ids(data: Data, names: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Return the label names in order of id, and the label ids of each split, row by row in one list.

    Labels are whole numbers or names. The classes are the labels of the training rows: numbers in ascending order, or
    names in alphabetical order. If `names` are given, or the source names its labels, each label must be one of these
    names. Labels that are all numbers may be indices into the names instead. Raises `UserError` with the row of a label
    that is unknown, and if numbers can be read in two ways.
    """
    train = data.splits["train"]
    names = tuple(names) or data.names
    every = [label for split in data.splits.values() for _, _, label in _labels(split)]
    numbered = all(_as_integer(label) is not None for label in every)
    write: Callable[[Any], str] = (lambda label: str(_as_integer(label))) if numbered else str
    place: dict[str, int] = {name: i for i, name in enumerate(names)}
    expected = ""
    if not names:
        # Dev rows that were held out of the training file also define the classes.
        learned = [s for name, s in data.splits.items() if s.path == train.path and name in ("train", "dev")]
        known = {write(label) for split in learned for _, _, label in _labels(split)}
        names = tuple(sorted(known, key=int) if numbered else sorted(known))
        _check_number(data, names, sum(len(split.rows) for split in learned))
        place = {name: i for i, name in enumerate(names)}
    elif numbered and not all(write(label) in place for label in every):
        _check_indices(train, names, {int(write(label)) for label in every})
        place = {str(i): i for i in range(len(names))}
        expected = f"is out of range; expected 0 to {len(names) - 1}, for {', '.join(names[:20])}; write one of these"
    ids: dict[str, list[int]] = {}
    for name, split in data.splits.items():
        ids[name] = [place.get(write(label), -1) for _, _, label in _labels(split)]
        if -1 in ids[name]:
            _, row, label = list(_labels(split))[ids[name].index(-1)]
            label = write(label) if numbered else repr(label)
            said = expected or f"is unknown; {_among(label, names)}"
            raise UserError(f"{split.place(row.number)}: label {label} {said}")
    return names, ids


def _check_number(data: Data, names: Sequence[str], rows: int) -> None:
    """Raise `UserError` for too few classes, or if each of many rows has a class of its own (`_ALL_DIFFERENT`)."""
    train = data.splits["train"]
    if len(names) < 2 and data.task != MULTI_LABEL:
        raise UserError(f"{train.path}: all rows have the label {''.join(names)}; a classifier needs two or more")
    if not names:
        raise UserError(f"{train.path}: no row has a label")
    if data.task == SINGLE_LABEL and len(names) == rows >= _ALL_DIFFERENT:
        column = f"column {train.columns.labels[0]}" if train.columns else "this"
        raise UserError(f"{train.path}: each of {rows:,} rows has a label of its own; is {column} that of the labels?")


def _check_indices(train: Split, names: Sequence[str], labels: set[int]) -> None:
    """Raise `UserError` if all labels are numbers from the names ("1 star"), and these numbers are not the ids."""
    numbers = _numbers_in(names)
    if numbers and numbers != list(range(len(names))) and labels <= set(numbers):
        one = min(labels)
        as_id = f", or the id of {names[one]}" if 0 <= one < len(names) else ""
        raise UserError(
            f"{train.path}: label {one} can be {names[numbers.index(one)]}{as_id}; write names in place of numbers"
        )


def _numbers_in(names: Sequence[str]) -> list[int]:
    """Return the number in each name, or an empty list if any name has no number or several numbers."""
    inside = [re.findall(r"[0-9]+", name) for name in names]
    return [int(found[0]) for found in inside] if all(len(found) == 1 for found in inside) else []


def class_weights(said: str | None, task: str, targets: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    """Return the weight of each class in the loss, float32 (C), or None if `--class-weights` is not given.

    `said` is the value of `--class-weights`, and `targets` has one target for each training example. A window is an
    example. `balanced` is N / (C * examples of the class), as in scikit-learn. For several labels a text, a weight
    applies to examples with the label, and `balanced` is the ratio of examples without the label to examples with it.
    Raises `UserError` for a regression, and for weights that do not fit the classes.
    """
    if said is None:
        return None
    if task == REGRESSION:
        raise UserError("--class-weights is for classes, and this is a regression; leave it out")
    if said == "balanced":
        total = len(targets)
        if task == MULTI_LABEL:
            held = targets.sum(axis=0)
            return ((total - held) / np.maximum(held, 1)).astype(np.float32)
        counts = np.bincount(targets, minlength=len(names))
        return (total / (len(names) * np.maximum(counts, 1))).astype(np.float32)
    try:
        weights = np.array([float(part) for part in said.split(",")], np.float32)
    except ValueError:
        weights = np.zeros(0, np.float32)
    if len(weights) != len(names) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise UserError(
            f"--class-weights is {said}; expected balanced, or {len(names)} numbers, for {', '.join(names[:20])}"
        )
    return weights


def _labels(split: Split) -> Iterator[_Placed]:
    for row in split.rows:
        if isinstance(row.label, tuple):
            for label in row.label:
                yield split, row, label
        else:
            yield split, row, row.label


def _among(label: Any, names: Sequence[str]) -> str:
    return f"expected one of {some(names, 20)}{did_you_mean(str(label), names)}"


def _as_integer(label: Any) -> int | None:
    """Return a label as a whole number if it is written as 1, "1" or "1.0", or None if it is a name."""
    if isinstance(label, str):
        label = label.strip()
        return int(label.split(".")[0]) if _WHOLE.fullmatch(label) else None
    return int(label)


def _bit(part: Any) -> int | None:
    """Return 0 or 1 for a label that is written as this number in any form, and None for any other label."""
    number = _as_integer(part)
    return number if number in (0, 1) else None


def _repeats_a_number(label: tuple[Any, ...]) -> bool:
    numbers = [part for part in label if not isinstance(part, str) or _bit(part) is not None]
    return len(set(numbers)) < len(numbers)
