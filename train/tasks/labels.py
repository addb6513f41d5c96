"""What the tasks with classes share: label names and ids, the names that a source gives, and class weights."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.errors import UserError, some
from bert_jax.text_columns import did_you_mean, shown

from ..rows import Data, Row, Split

_Placed = tuple[Split, Row, Any]

Check = Callable[[Split, Sequence[str], int], None]
"""Function that raises `UserError` if the classes that were found in training rows are too few or too many.

It takes the training split, the names of the classes, and the number of rows they were found in.
"""

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.0*)?")  # a code such as 007 is a name


def class_of(name: str, value: Any) -> int | str:
    """Return the class that a value of a label column names: an integer or a name.

    Raises `ValueError` that says what is wrong with the value; `name` is the name of the column.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, int | str):
        raise ValueError(f"{name} is {shown(value)}, expected an integer or a name")
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"{name} is empty")
    return value


def names_by_number(data: Data, names: Sequence[str]) -> Sequence[str]:
    """Return the names that the source gives the label numbers, if none of them is one of the known `names`."""
    return _source_names(data) if has_named_numbers(data) and not _shared(data, names) else ()


def matched_by_number(others: Sequence[str], names: Sequence[str]) -> str:
    """Return a warning that labels with the names `others` are matched to `names` by number.

    Return an empty string if there are no such labels.
    """
    if not others:
        return ""
    return f"labels {', '.join(others[:20])} of the data are taken, by number, for {', '.join(names[:20])}"


def as_named(data: Data, names: Sequence[str]) -> Data:
    """Replace label numbers by the names that their source gives them, in the spelling of the known names.

    The known names are `names`, or else those of the training data (`_shared`). If none of the source's names is
    known, labels stay numbers. Raises `UserError` if then the source has more or fewer names than `names`.
    """
    if not has_named_numbers(data):
        return data
    shared = _shared(data, names)
    if not shared:
        source_names = _source_names(data)
        if names and len(names) != len(source_names):
            path = next(split.path for split in data.splits.values() if split.names == source_names)
            raise UserError(
                f"{path}: its {len(source_names)} labels are {', '.join(source_names[:20])}; "
                f"expected {', '.join(names[:20])}; write these in place of numbers"
            )
        return data
    splits = {}
    for split_name, split in data.splits.items():
        spelled = [shared.get(name, shared.get(name.casefold(), name)) for name in split.names or data.names]

        def named(label: Any, spelled: Sequence[str] = spelled) -> Any:
            if isinstance(label, tuple):
                return tuple(map(named, label))
            return spelled[label] if isinstance(label, int) and 0 <= label < len(spelled) else label

        splits[split_name] = split._replace(rows=[row._replace(label=named(row.label)) for row in split.rows])
    return data._replace(splits=splits)


def has_named_numbers(data: Data) -> bool:
    """Return whether any label is a number for which the source of its split gives names."""
    named = (split for split in data.splits.values() if split.names)
    return any(isinstance(label, int) for split in named for _, _, label in labels_in(split))


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
    known = names or data.names or {label for _, _, label in labels_in(train) if isinstance(label, str)}
    folded = {name.casefold(): name for name in known}
    spellings = (folded if len(folded) == len(known) else {}) | {name: name for name in known}
    source_names = {name for split in data.splits.values() for name in split.names}
    return spellings if (source_names | {name.casefold() for name in source_names}) & set(spellings) else {}


def label_ids(
    data: Data, names: Sequence[str] = (), check: Check | None = None
) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Return the label names in order of id, and the label ids of each split, row by row in one list.

    Labels are whole numbers or names. The classes are the labels of the training rows: numbers in ascending order, or
    names in alphabetical order. If `names` are given, or the source names its labels, each label must be one of these
    names. Labels that are all numbers may be indices into the names instead. Raises `UserError` with the row of a label
    that is unknown, if numbers can be read in two ways, and as `check` does.
    """
    train = data.splits["train"]
    names = tuple(names) or data.names
    labels = [label for split in data.splits.values() for _, _, label in labels_in(split)]
    numbered = all(as_integer(label) is not None for label in labels)
    spell: Callable[[Any], str] = (lambda label: str(as_integer(label))) if numbered else str
    id_of: dict[str, int] = {name: i for i, name in enumerate(names)}
    expected = ""
    if not names:
        # Dev rows that were held out of the training file also define the classes.
        defining = [s for name, s in data.splits.items() if s.path == train.path and name in ("train", "dev")]
        distinct = {spell(label) for split in defining for _, _, label in labels_in(split)}
        names = tuple(sorted(distinct, key=int) if numbered else sorted(distinct))
        if check is not None:
            check(train, names, sum(len(split.rows) for split in defining))
        id_of = {name: i for i, name in enumerate(names)}
    elif numbered and not all(spell(label) in id_of for label in labels):
        _check_indices(train, names, {int(spell(label)) for label in labels})
        id_of = {str(i): i for i in range(len(names))}
        expected = f"is out of range; expected 0 to {len(names) - 1}, for {', '.join(names[:20])}; write one of these"
    ids: dict[str, list[int]] = {}
    for name, split in data.splits.items():
        ids[name] = [id_of.get(spell(label), -1) for _, _, label in labels_in(split)]
        if -1 in ids[name]:
            _, row, label = list(labels_in(split))[ids[name].index(-1)]
            label = spell(label) if numbered else repr(label)
            reason = expected or f"is unknown; {_among(label, names)}"
            raise UserError(f"{split.place(row.number)}: label {label} {reason}")
    return names, ids


def _check_indices(train: Split, names: Sequence[str], labels: set[int]) -> None:
    """Raise `UserError` if all labels are numbers from the names ("1 star"), and these numbers are not the ids."""
    numbers = numbers_in(names)
    if numbers and numbers != list(range(len(names))) and labels <= set(numbers):
        lowest = min(labels)
        as_id = f", or the id of {names[lowest]}" if 0 <= lowest < len(names) else ""
        raise UserError(
            f"{train.path}: label {lowest} can be {names[numbers.index(lowest)]}{as_id}; "
            "write names in place of numbers"
        )


def numbers_in(names: Sequence[str]) -> list[int]:
    """Return the number in each name, or an empty list if any name has no number or several numbers."""
    numbers = [re.findall(r"[0-9]+", name) for name in names]
    return [int(digits[0]) for digits in numbers] if all(len(digits) == 1 for digits in numbers) else []


def chosen_weights(given: str, names: Sequence[str], balanced: np.ndarray) -> np.ndarray:
    """Return the weight of each class in the loss, float32 (C): `balanced`, or the numbers in `given`.

    `given` is the value of `--class-weights`. Raises `UserError` for weights that do not fit the classes.
    """
    if given == "balanced":
        return balanced.astype(np.float32)
    try:
        weights = np.array([float(part) for part in given.split(",")], np.float32)
    except ValueError:
        weights = np.zeros(0, np.float32)
    if len(weights) != len(names) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise UserError(
            f"--class-weights is {given}; expected balanced, or {len(names)} numbers, for {', '.join(names[:20])}"
        )
    return weights


def labels_in(split: Split) -> Iterator[_Placed]:
    """Yield each label of each row, with its split and row."""
    for row in split.rows:
        if isinstance(row.label, tuple):
            for label in row.label:
                yield split, row, label
        else:
            yield split, row, row.label


def _among(label: Any, names: Sequence[str]) -> str:
    return f"expected one of {some(names, 20)}{did_you_mean(str(label), names)}"


def as_integer(label: Any) -> int | None:
    """Return a label as a whole number if it is written as 1, "1" or "1.0", or None if it is a name."""
    if isinstance(label, str):
        label = label.strip()
        return int(label.split(".")[0]) if _WHOLE.fullmatch(label) else None
    return int(label)
