"""Convert the cells of a table in memory to plain Python values, and to bytes for a hash."""

import datetime
import json
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np

_ATOMS = (bytes, bytearray, complex, range, Decimal, Fraction, PurePath, UUID, np.generic)
_ATOMS += (datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo)  # and pandas' Timestamp, Timedelta, NaT
_OF_PANDAS = ("NAType", "Period")
"""Types outside JSON whose `repr` shows the whole value: `_ATOMS`, and by class name `_OF_PANDAS`."""


def plain(value: Any) -> Any:
    """Convert a value of numpy, pandas, torch or JAX to plain Python, also inside lists, tuples and mappings.

    Any other value is returned unchanged.
    """
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if hasattr(value, "tolist"):
        converted = value.tolist()
        # For numpy's longdouble, which has no type in Python, `tolist` returns a longdouble.
        return value if type(converted) is type(value) else plain(converted)
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(plain, value))
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    return value


def content(record: Mapping[str, Any]) -> bytes:
    """Return bytes that differ if two records of plain values differ. The order of columns does not matter.

    Raises `ValueError` with the column for a value of a type whose values cannot be told apart.
    """
    try:
        return json.dumps(record, sort_keys=True).encode()
    except TypeError:  # a value has a type that JSON lacks
        parts = [f"{json.dumps(name)}:{_said(name, record[name])}" for name in sorted(record)]
        return b"\0" + ",".join(parts).encode()


def _said(name: str, value: Any) -> str:
    def said(value: Any) -> str:
        return _said(name, value)

    if isinstance(value, str | int | float | None):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(said, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(sorted(f'{said(key)}:{said(item)}' for key, item in value.items()))}}}"
    kind = type(value)
    if isinstance(value, set | frozenset):
        return f"{kind.__name__}({','.join(sorted(map(said, value)))})"
    if isinstance(value, _ATOMS) or (kind.__module__.split(".")[0] == "pandas" and kind.__name__ in _OF_PANDAS):
        return f"{kind.__name__}({value!r})"
    raise ValueError(f"{name} holds a {kind.__name__}, and whether two of these are the same cannot be seen")
