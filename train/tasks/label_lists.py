"""Several labels of a text, as files write them: lists of labels, lists with 0 or 1 for each label, or columns."""

import ast
import re
from collections.abc import Sequence
from typing import Any

from bert_jax.errors import UserError
from bert_jax.text_columns import shown

from ..rows import Data
from .labels import as_integer, class_of

_PART = r"(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|True|False|\.\.\.)"
_NUMPYS = re.compile(rf"\[\s*{_PART}(?:\s+{_PART})*\s*\]")
"""A list of numbers or booleans as numpy prints it: without commas, and with `...` in place of omitted numbers."""


def labels_of_columns(record: dict[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns with 1, where each label has a column of 0 and 1.

    Raises `ValueError` for another value.
    """
    return tuple(name for name in columns if _flag(name, record[name]))


def labels_of_cell(name: str, value: Any, separator: str) -> tuple[int | str | float, ...]:
    """Return the labels in a cell: a list, or parts of a text with `separator` between them.

    A label is an integer or a name, or 0.0 or 1.0 for an entry that says whether one label holds. Raises `ValueError`
    that says what is wrong with the cell.
    """
    return tuple(float(part) if _is_flag(part) else class_of(name, part) for part in _parts(name, value, separator))


def listed(name: str, value: Any) -> Sequence[Any] | None:
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
        parsed = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if text[0] == "(":
            return None
        raise ValueError(f"{name} is {shown(value)}, expected a list of names") from None
    return parsed if isinstance(parsed, list | tuple) else None


def vector_length(data: Data) -> int:
    """Return the number of labels C if each row's label is a list of C values 0 or 1, one for each label.

    Return 0 if labels are not lists, or if each list holds the labels of its row. Raises `UserError` with the row if
    the lists can be read in both ways or in neither.
    """
    rows = [(split, row) for split in data.splits.values() for row in split.rows]
    if not rows or not all(isinstance(row.label, tuple) for _, row in rows):
        return 0
    bits = all(bit(part) is not None for _, row in rows for part in row.label)
    lengths = sorted({len(row.label) for _, row in rows})
    repeats = next((entry for entry in rows if _repeats_a_number(entry[1].label)), None)
    fractions = next((entry for entry in rows if any(isinstance(part, float) for part in entry[1].label)), None)
    expected = "a list with 0 or 1 for each label, or a list of the labels that hold"
    if bits and len(lengths) == 1 and lengths[0] and (repeats or fractions):
        return lengths[0]
    if strange := repeats or fractions:
        split, row = strange
        raise UserError(f"{split.place(row.number)}: label is {shown(list(row.label))}; expected {expected}")
    vectors = bits and not any(isinstance(part, str) for _, row in rows for part in row.label)
    if vectors and len(lengths) == 1 and lengths[0]:
        split, row = rows[0]
        raise UserError(
            f"{split.place(row.number)}: label is {shown(list(row.label))}, which can be {expected}; "
            "write names in place of numbers, or 0.0 and 1.0 for the first"
        )
    return 0


def bit(part: Any) -> int | None:
    """Return 0 or 1 for a label that is written as this number in any form, and None for any other label."""
    number = as_integer(part)
    return number if number in (0, 1) else None


def _flag(name: str, value: Any) -> bool:
    if str(value).strip() not in ("0", "1", "0.0", "1.0", "True", "False"):
        raise ValueError(f"{name} is {shown(value)}, expected 0 or 1")
    return str(value).strip() in ("1", "1.0", "True")


def _is_flag(value: Any) -> bool:
    """Return whether a value is True, False, 0.0 or 1.0.

    Such a value in a list is an entry for one label, and never an id.
    """
    return isinstance(value, bool) or (isinstance(value, float) and value in (0.0, 1.0))


def _parts(name: str, value: Any, separator: str) -> Sequence[Any]:
    if (parts := listed(name, value)) is not None:
        if isinstance(value, str) and "," not in value and value.count("'") + value.count('"') > 2:
            # numpy prints no commas, and Python joins adjacent strings into one
            raise ValueError(f"{name} is {shown(value)}, expected commas between names")
        if ... in parts:
            raise ValueError(f"{name} is {shown(value)}, a list that was cut; expected all of it")
        return parts
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    return [value]


def _repeats_a_number(label: tuple[Any, ...]) -> bool:
    numbers = [part for part in label if not isinstance(part, str) or bit(part) is not None]
    return len(set(numbers)) < len(numbers)
