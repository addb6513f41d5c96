"""An option of a run as a field of `TrainConfig`: its type, its help, and whether it may change on resuming."""

import os
from collections.abc import Callable
from dataclasses import Field, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from bert_jax.command import check_choice, label_names
from bert_jax.errors import UserError

_OURS = ("group", "type", "may_change", "may_differ")
"""Metadata of a field that are not arguments of `add_argument`."""

_SHOWN = 100
"""Number of characters of a wrong value that a message shows."""


def option(
    group: str,
    default: Any,
    help: str,
    *,
    kind: Any = str,
    may_change: bool = False,
    may_differ: bool = False,
    **more: Any,
) -> Any:
    """Return a dataclass field for an option of type `kind` (a key of `_KINDS`), in this group of the help.

    `may_change` means that a run can be resumed with another value of the option. Either the results stay the same, or
    the purpose of the option is to change them (`epochs`). `may_differ` means that the processes of a run may have
    different values. This is safe because only the first process writes, and the contents that were read are compared
    themselves. `more` are arguments of `add_argument`.
    """
    properties = {"group": group, "type": kind, "may_change": may_change, "may_differ": may_differ}
    return field(default=default, metadata={"help": help, **properties, **more})


def flag(name: str) -> str:
    """Return the name of an option as it is written on the command line and in messages."""
    return f"--{name.replace('_', '-')}"


def taken(one: Field[Any], value: Any) -> Any:
    """Return a value, from a command line or from Python, in the type of the option.

    None is allowed if it is the default. Raises `UserError` for a value of another type, or a value that is not one of
    the choices.
    """
    if value is None and one.default is None:
        return None
    kind = one.metadata["type"]
    make, expected = _KINDS[kind]
    if (converted := make(value)) is None:
        shown = " ".join(repr(value).split())
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        form = f" ({one.metadata['metavar']})" if kind is str and "metavar" in one.metadata else ""
        raise UserError(f"{flag(one.name)} is {shown}; expected {expected}{form}")
    if choices := one.metadata.get("choices"):
        check_choice(flag(one.name), converted, choices)
    return converted


def argument(one: Field[Any]) -> dict[str, Any]:
    """Return the arguments of `add_argument` for an option. `taken` checks the same types and choices."""
    settings = {name: value for name, value in one.metadata.items() if name not in _OURS}
    kind = one.metadata["type"]
    conversion = {"action": "store_true"} if kind is bool else {"type": _reader(kind)}
    return {"default": one.default, **settings, **conversion}


def _reader(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a function that converts text to a value of this kind.

    The function returns text that is not of this kind unchanged, and `taken` then raises an error.
    """

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            return text

    return read


def _text(value: Any) -> str | None:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, Integral) and not isinstance(value, bool):  # such as 100 steps, or the number of a column
        value = int(value)
        return str(value)
    return str(value) if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


def number_or_word(value: Any) -> float | str | None:
    """Return a number, also from text, or the text if it is not a number. Return None for a value of another type.

    This function is the kind of an option that takes a number or a word.
    """
    if not isinstance(value, str):
        return _number(value)
    try:
        return float(value)
    except ValueError:
        return value


def _flag(value: Any) -> bool | None:
    return bool(value) if isinstance(value, bool | np.bool_) else None


def _names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return label_names(value)
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        return None
    return tuple(map(str, value)) if len(set(value)) == len(value) else None


_KINDS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    str: (_text, "text"),
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    bool: (_flag, "true or false"),
    number_or_word: (number_or_word, "a number or a word"),
    label_names: (_names, "names that differ, like negative,positive"),
}
"""For each kind of option, a function that converts a value, and the words for what is expected.

The function returns None for a value that is not of the kind.
"""
