"""Labels as written to targets: class ids, rows of 0 and 1, or numbers; and weights of classes."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bert_jax.errors import UserError, some
from bert_jax.text_columns import did_you_mean, shown

from .rows import Data, Row, Split

_Placed = tuple[Split, Row, Any]

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.0*)?")  # a code such as 007 is a name

_ALL_DIFFERENT = 10
"""Rows from which it is strange that each has a label of its own."""


def targets_of(data: Data, names: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Label names in order of id, and each split's targets.

    Targets are class ids (N), int32, of single labels, or float32 (N, C): 1 for each label that holds, or the one
    number of a regression. Raises `UserError` with the row of a label that is unknown or has two readings.
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
    """What to say of labels that are taken for `names` by number, and have other names or numbers; or nothing."""
    if not names or data.task == REGRESSION:
        return ""
    said: Sequence[str] = ()
    if _named_numbers(data):
        said = () if _shared(data, names) else data.names
    elif data.task == SINGLE_LABEL and (numbers := _numbers_in(names)) and numbers != list(range(len(names))):
        labels = {_as_integer(label) for split in data.splits.values() for _, _, label in _labels(split)}
        if None not in labels and not labels <= {_as_integer(name) for name in names}:
            said = sorted(map(str, labels))
    shown_names = ", ".join(names[:20])
    return f"labels {', '.join(said[:20])} of the data are taken, by number, for {shown_names}" if said else ""


def _as_named(data: Data, names: Sequence[str]) -> Data:
    """Numbers of labels as the names that their source gives them, in the letters of `names`.

    Where none of these names is among `names`, or else among the training labels, they stay numbers; `UserError` where
    there are more or fewer of them than of `names`.
    """
    if data.task == REGRESSION or not _named_numbers(data):
        return data
    shared = _shared(data, names)
    if not shared:
        if names and len(names) != len(data.names):
            raise UserError(
                f"{next(iter(data.splits.values())).path}: its {len(data.names)} labels are "
                f"{', '.join(data.names[:20])}; expected {', '.join(names[:20])}; write these in place of numbers"
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
    """Whether labels are numbers whose names the source says."""
    named = (split for split in data.splits.values() if split.names)
    return any(isinstance(label, int) for split in named for _, _, label in _labels(split))


def _shared(data: Data, names: Sequence[str]) -> dict[str, str]:
    """The names that labels are to have, as they are written, if the data give their numbers one of them at least.

    They are `names`, or what the source of the training data says, or its labels; in whatever case, if that is clear.
    """
    train = next(iter(data.splits.values()))
    known = names or data.names or {label for _, _, label in _labels(train) if isinstance(label, str)}
    folded = {name.casefold(): name for name in known}
    clear = (folded if len(folded) == len(known) else {}) | {name: name for name in known}
    said = {name for split in data.splits.values() for name in split.names}
    return clear if (said | {name.casefold() for name in said}) & set(clear) else {}


def vector_length(data: Data) -> int:
    """How many labels there are, if each row's label is a list with a 0 or 1 for each of them; 0 if lists hold labels.

    Raises `UserError` with the row for lists that could be either, or are neither.
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
    """Label names in order of id, and the ids of each split's labels, one row's after another's.

    Labels are whole numbers or names. The classes are the labels that the training rows have, numbers in ascending
    order or names in that of the alphabet. With `names`, labels are among them or, if they are numbers, index them.
    Raises `UserError` with the row of a label that is unknown, or where numbers can be read in two ways.
    """
    train = data.splits["train"]
    names = tuple(names) or data.names
    every = [label for split in data.splits.values() for _, _, label in _labels(split)]
    numbered = all(_as_integer(label) is not None for label in every)
    write: Callable[[Any], str] = (lambda label: str(_as_integer(label))) if numbered else str
    place: dict[str, int] = {name: i for i, name in enumerate(names)}
    expected = ""
    if not names:
        # What is held out of the training file takes part in saying which labels there are.
        learned = [s for name, s in data.splits.items() if s.path == train.path and name in ("train", "dev")]
        known = {write(label) for split in learned for _, _, label in _labels(split)}
        names = tuple(sorted(known, key=int) if numbered else sorted(known))
        _check_number(data, names, sum(len(split.rows) for split in learned))
        place = {name: i for i, name in enumerate(names)}
    elif numbered and not all(write(label) in place for label in every):
        _check_indices(train, names, {int(write(label)) for label in every})
        place = {str(i): i for i in range(len(names))}
        expected = f"is out of range; expected 0 to {len(names) - 1}, for {', '.join(names[:20])}"
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
    """Raise `UserError` for too few classes, or for as many as there are rows."""
    train = data.splits["train"]
    if len(names) < 2 and data.task != MULTI_LABEL:
        raise UserError(f"{train.path}: all rows have the label {''.join(names)}; a classifier needs two or more")
    if not names:
        raise UserError(f"{train.path}: no row has a label")
    if data.task == SINGLE_LABEL and len(names) == rows >= _ALL_DIFFERENT:
        column = f"column {train.columns.labels[0]}" if train.columns else "this"
        raise UserError(f"{train.path}: each of {rows:,} rows has a label of its own; is {column} that of the labels?")


def _check_indices(train: Split, names: Sequence[str], labels: set[int]) -> None:
    """Raise `UserError` where labels look like the numbers in the names ("1 star") and are not their ids."""
    numbers = _numbers_in(names)
    if numbers and numbers != list(range(len(names))) and labels <= set(numbers):
        one = min(labels)
        as_id = f", or the id of {names[one]}" if 0 <= one < len(names) else ""
        raise UserError(
            f"{train.path}: label {one} can be {names[numbers.index(one)]}{as_id}; write names in place of numbers"
        )


def _numbers_in(names: Sequence[str]) -> list[int]:
    """The number in each name, or none where a name has none or several."""
    inside = [re.findall(r"[0-9]+", name) for name in names]
    return [int(found[0]) for found in inside] if all(len(found) == 1 for found in inside) else []


def class_weights(said: str | None, task: str, targets: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    """The weight of each class in the loss, from `--class-weights` and the targets of what is trained on (C, float32).

    `balanced` is N / (C * examples of the class), as scikit-learn has it; of several labels, which weigh where they
    hold, it is how many examples are without the label for each that has it. Each window is an example.
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
    """A whole number, written as in any kind of file: 1, "1" or "1.0"."""
    if isinstance(label, str):
        label = label.strip()
        return int(label.split(".")[0]) if _WHOLE.fullmatch(label) else None
    return int(label)


def _bit(part: Any) -> int | None:
    """0 or 1, however it is written, and None for anything else."""
    number = _as_integer(part)
    return number if number in (0, 1) else None


def _repeats_a_number(label: tuple[Any, ...]) -> bool:
    numbers = [part for part in label if not isinstance(part, str) or _bit(part) is not None]
    return len(set(numbers)) < len(numbers)
