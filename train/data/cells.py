"""What cells of a table in memory hold: values of Python's own, and bytes for their hash."""

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
_ATOMS += (datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo)  # pandas' Timestamp, Timedelta, NaT, too
_OF_PANDAS = ("NAType", "Period")
"""Kinds of values, besides those of JSON, whose `repr` says all of them."""


def plain(value: Any) -> Any:
    """A value as Python's own, also inside lists, where it was one of numpy, pandas, torch or JAX."""
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if hasattr(value, "tolist"):
        found = value.tolist()
        return value if type(found) is type(value) else plain(found)  # numpy's longdouble has no like in Python
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(plain, value))
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    return value


def content(record: Mapping[str, Any]) -> bytes:
    """Bytes that differ where records of plain values do, whatever the order of columns.

    Raises `ValueError`, with the column, for a value that cannot be told from another one of its kind.
    """
    try:
        return json.dumps(record, sort_keys=True).encode()
    except TypeError:  # there is more in it than JSON says
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
        return f"{{{','.join(sorted(f'{said(key)}:{said(one)}' for key, one in value.items()))}}}"
    kind = type(value)
    if isinstance(value, set | frozenset):
        return f"{kind.__name__}({','.join(sorted(map(said, value)))})"
    if isinstance(value, _ATOMS) or (kind.__module__.split(".")[0] == "pandas" and kind.__name__ in _OF_PANDAS):
        return f"{kind.__name__}({value!r})"
    raise ValueError(f"{name} holds a {kind.__name__}, and whether two of these are the same cannot be seen")
