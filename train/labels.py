"""Labels as written to targets: class ids, rows of 0 and 1, or numbers; and weights of classes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bert_jax.errors import UserError

from .columns import did_you_mean
from .data import Data, Row, Split

_Placed = tuple[Split, Row, Any]


def targets_of(data: Data, names: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Label names in order of id, and each split's targets.

    Targets are class ids (N), int32, of single labels, or float32 (N, C): 1 for each label that holds, or the one
    number of a regression. Raises `UserError` with the row of a label that is out of range or unknown.
    """
    if data.task == REGRESSION:
        if len(names) > 1:
            raise UserError(f"a regression has one number, named {', '.join(names)} here; name one, or none")
        found = {name: np.array([[row.label] for row in s.rows], np.float32) for name, s in data.splits.items()}
        return tuple(names) or data.names or ("score",), found
    names, ids = label_ids(data, names)
    if data.task == SINGLE_LABEL:
        return names, {name: np.array(found, np.int32) for name, found in ids.items()}
    targets = {}
    for name, split in data.splits.items():
        held = targets[name] = np.zeros((len(split.rows), len(names)), np.float32)
        owners = [i for i, row in enumerate(split.rows) for _ in row.label]
        held[owners, ids[name]] = 1
    return names, targets


def label_ids(data: Data, names: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Label names in order of id, and the ids of each split's labels, one row's after another's.

    Labels are integers or names. With `names`, integers index them and names must be among them; without, integers
    0..C-1 name themselves and names are put in order of the alphabet.
    """
    train = data.splits["train"]
    names = tuple(names) or data.names
    # What is held out of the training file takes part in saying which labels there are.
    known = [label for s in data.splits.values() if s.path == train.path for _, _, label in _labels(s)]
    numbered = all(_as_integer(label) is not None for s in data.splits.values() for _, _, label in _labels(s))
    if numbered and not (names and all(str(label) in names for s in data.splits.values() for *_, label in _labels(s))):
        if not names:  # as many as the training set uses, unless a stray number is larger than the set itself
            limit = max(2, len(train.rows), len(known))
            names = tuple(str(i) for i in range(min(limit, max(0, 0, *map(int, known)) + 1)))
        place: dict[Any, int] = {i: i for i in range(len(names))}
        expected = f"is out of range; expected 0 to {len(names) - 1}"
    else:
        names = names or tuple(sorted({str(label) for label in known}))
        place = {name: i for i, name in enumerate(names)}
        numbered, expected = False, "is unknown; "
    ids: dict[str, list[int]] = {}
    for name, split in data.splits.items():
        ids[name] = [place.get(int(label) if numbered else str(label), -1) for _, _, label in _labels(split)]
        if -1 in ids[name]:
            _, row, label = list(_labels(split))[ids[name].index(-1)]
            said = f"{label} {expected}" if numbered else f"{label!r} {expected}{_among(label, names)}"
            raise UserError(f"{split.place(row.number)}: label {said}")
    if len(names) < 2 and data.task != MULTI_LABEL:
        raise UserError(f"{train.path}: all rows have the label {''.join(names)}; a classifier needs two or more")
    if not names:
        raise UserError(f"{train.path}: no row has a label")
    return names, ids


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
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"expected one of {', '.join(names[:20])}{more}{did_you_mean(str(label), names)}"


def _as_integer(label: Any) -> int | None:
    try:
        return int(label)
    except ValueError:
        return None
