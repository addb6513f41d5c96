"""Find the text and label columns of a table by their names and values, and read the labels."""

import ast
import contextlib
import math
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from bert_jax.errors import UserError
from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bert_jax.text_columns import (
    LABELS,
    PAIRS,
    check_alike,
    check_asked,
    check_header,
    is_texts,
    named,
    shown,
    texts_in,
)

_PART = r"(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|True|False|\.\.\.)"
_NUMPYS = re.compile(rf"\[\s*{_PART}(?:\s+{_PART})*\s*\]")
"""A list of numbers or booleans as numpy prints it: without commas, and with `...` in place of omitted numbers."""

_FRACTION = re.compile(r"\s*[-+]?\d*\.\d+([eE][-+]?\d+)?\s*")


class Columns(NamedTuple):
    """Names of the table columns to read: the text, the second text of a pair (or None), and the labels.

    If there are several label columns, each of them holds 0 or 1.
    """

    text: str
    pair: str | None
    labels: tuple[str, ...]

    def all(self) -> list[str]:
        """Return the names of all columns to read."""
        return [self.text, *([self.pair] if self.pair else []), *self.labels]

    def describe(self) -> str:
        """Return the columns in words."""
        pair = f" and {self.pair}" if self.pair else ""
        return f"text in {self.text}{pair}, label in {', '.join(self.labels)}"


def find(
    where: object, sample: Sequence[dict[str, Any]], text: str | None, pair: str | None, label: str | None
) -> Columns:
    """Return the columns that are given, and find the others by their names or by the values in `sample`.

    `sample` is a few records. `label` may be several names with commas between them. The second text of a pair is
    looked for only if `text` is None. Raises `UserError` if a given column does not exist, or if names and values do
    not show which column is meant.
    """
    columns = list(sample[0])
    if text is None and label is None:
        check_header(where, sample)
    labels = tuple(name.strip() for name in label.split(",")) if label is not None and label not in columns else None
    given = [text, pair, *(labels or [label])]
    options = ["text", "pair", *["label"] * (len(given) - 2)]
    check_asked(where, columns, dict(zip(given, options, strict=True)))
    if labels is None:
        taken = {name for name in (text, pair) if name}
        labels = (label or _label(where, [c for c in columns if c not in taken], sample),)
    free = [column for column in columns if column not in labels]
    if text is None:
        text, pair = texts_in(where, free, sample, pair)
    check_alike(where, columns, {text, pair, *labels} - set(given))
    return Columns(text, pair, labels)


def task_of(sample: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """Return the task (a `problem_type`) that the labels of a few records suggest.

    Several label columns, or lists in at least half of the records, mean several labels a text. Fractions in at least
    half of the records, not all of them whole numbers, mean a regression. Anything else means one label a text.
    """
    if len(labels) > 1:
        return MULTI_LABEL
    values = [record.get(labels[0]) for record in sample]
    lists = 0
    for value in values:
        with contextlib.suppress(ValueError):
            lists += _listed(labels[0], value) is not None
    if 2 * lists >= len(values):
        return MULTI_LABEL
    fractions = [value for value in values if _is_fraction(value)]
    whole = all(float(value or 0).is_integer() for value in fractions)
    return REGRESSION if fractions and not whole and 2 * len(fractions) >= len(values) else SINGLE_LABEL


def has_labels(record: dict[str, Any], columns: Columns, others: Collection[str]) -> bool:
    """Return whether a record has labels.

    It has labels if it has all label columns of the training set, or a column with a usual label name that is not one
    of `others`, the columns of the training set.
    """
    new = {name.lower() for name in record if name not in others}
    return all(name in record for name in columns.labels) or bool(new & set(LABELS))


def late_pair(record: Collection[str], columns: Columns) -> str | None:
    """Return the column name in `record` that usually holds the second text beside a text in `columns.text`, or None.

    The function finds a pair in a record that comes after records with single texts.
    """
    seconds = {other for one, other in PAIRS if one == columns.text.lower()}
    return next((name for name in record if name.lower() in seconds), None)


def split_of(record: dict[str, Any], columns: Columns) -> str | None:
    """Return the value of the column `split` in lower case, without spaces around it, or None.

    None means that the record has no such column, that the column is the text or a label, or that its value is not a
    string.
    """
    name = next((name for name in record if name.lower() == "split" and name not in columns.all()), None)
    value = record[name] if name else None
    return value.strip().lower() if isinstance(value, str) else None


def label_of(task: str, record: dict[str, Any], columns: Sequence[str], separator: str) -> Any:
    """Return a record's label in the form of `Row.label`.

    Raises `ValueError` that says what is wrong with the label.
    """
    if len(columns) > 1:
        return tuple(name for name in columns if _flag(name, record[name]))
    (name,) = columns
    value = record[name]
    if task == REGRESSION:
        return _number(name, value)
    if task == MULTI_LABEL:
        parts = _parts(name, value, separator)
        return tuple(float(part) if _is_flag(part) else _class(name, part) for part in parts)
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        raise ValueError(f"{name} is {value}, expected an integer or a name (of numbers, pass --task regression)")
    return _class(name, value)


def _label(where: object, columns: list[str], sample: Sequence[dict[str, Any]]) -> str:
    if found := named(columns, LABELS):
        return found
    like = [column for column in columns if _is_labels([record.get(column) for record in sample])]
    if len(like) == 1:
        return like[0]
    raise UserError(f"{where}: no label column; there are: {', '.join(sample[0])}; name it with --label-column")


def _is_labels(values: list[Any]) -> bool:
    """Return whether all values are lists, or values repeat as the names and numbers of classes do."""
    if all(isinstance(value, list) for value in values):
        return True
    if not all(isinstance(value, int | float | str) for value in values):
        return False
    few = len(set(values)) <= max(1, len(values) // 2)
    return few and not is_texts(values)


def _is_flag(value: Any) -> bool:
    """Return whether a value is True, False, 0.0 or 1.0.

    Such a value in a list is an entry for one label, and never an id.
    """
    return isinstance(value, bool) or (isinstance(value, float) and value in (0.0, 1.0))


def _listed(name: str, value: Any) -> Sequence[Any] | None:
    """Return a list or tuple, also parsed from a cell such as "[1, 0]", "[1 0]", "(1, 0)" or "['a', 'b']", or None.

    None means that the value is not a list. Raises `ValueError` if the content of square brackets is not a list.
    """
    if isinstance(value, list | tuple):
        return value
    text = value.strip() if isinstance(value, str) else ""
    if text[:1] + text[-1:] not in ("[]", "()"):
        return None
    if _NUMPYS.fullmatch(text):
        return [ast.literal_eval(part) for part in text[1:-1].split()]
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if text[0] == "(":
            return None
        raise ValueError(f"{name} is {shown(value)}, expected a list of names") from None
    return found if isinstance(found, list | tuple) else None


def _is_fraction(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) and bool(_FRACTION.fullmatch(value))


def _flag(name: str, value: Any) -> bool:
    if str(value).strip() not in ("0", "1", "0.0", "1.0", "True", "False"):
        raise ValueError(f"{name} is {shown(value)}, expected 0 or 1")
    return str(value).strip() in ("1", "1.0", "True")


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool | None) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < 3e38:
        raise ValueError(f"{name} is {shown(value)}, expected a number" if value != "" else f"{name} is empty")
    return number


def _parts(name: str, value: Any, separator: str) -> Sequence[Any]:
    if (found := _listed(name, value)) is not None:
        if isinstance(value, str) and "," not in value and value.count("'") + value.count('"') > 2:
            # numpy prints no commas, and Python joins adjacent strings into one
            raise ValueError(f"{name} is {shown(value)}, expected commas between names")
        if ... in found:
            raise ValueError(f"{name} is {shown(value)}, a list that was cut; expected all of it")
        return found
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    return [value]


def _class(name: str, value: Any) -> int | str:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, int | str):
        raise ValueError(f"{name} is {shown(value)}, expected an integer or a name")
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"{name} is empty")
    return value
