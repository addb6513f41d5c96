"""One option of a run: a field of `TrainConfig` that says what it takes, and whether it may change meanwhile."""

import os
from collections.abc import Callable
from dataclasses import Field, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from bert_jax.command import check_choice
from bert_jax.errors import UserError
from convert.huggingface import label_names

_OURS = ("group", "type", "may_change", "may_differ")
"""What a field says that `add_argument` does not take."""

_SHOWN = 100
"""Characters of a wrong value that a message shows."""


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
    """A field for an option of type `kind` (a key of `_KINDS`), in this group of the help.

    `may_change` says that a run goes on with another value of it: the results stay those of the run, or the option is
    there to lead to others (`epochs`). `may_differ` says that the processes of a run may have values of their own: only
    the first one writes, and what was read is compared itself. `more` is what `add_argument` takes.
    """
    ours = {"group": group, "type": kind, "may_change": may_change, "may_differ": may_differ}
    return field(default=default, metadata={"help": help, **ours, **more})


def flag(name: str) -> str:
    """An option's name as the command line has it, and as messages say it."""
    return f"--{name.replace('_', '-')}"


def taken(one: Field[Any], value: Any) -> Any:
    """`value` as the option keeps it, whether a command line gave it or Python.

    None is taken where it is the default. Raises `UserError` for a value of another type, or that is none of the
    choices.
    """
    if value is None and one.default is None:
        return None
    kind = one.metadata["type"]
    make, expected = _KINDS[kind]
    if (found := make(value)) is None:
        shown = " ".join(repr(value).split())
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        form = f" ({one.metadata['metavar']})" if kind is str and "metavar" in one.metadata else ""
        raise UserError(f"{flag(one.name)} is {shown}; expected {expected}{form}")
    if choices := one.metadata.get("choices"):
        check_choice(flag(one.name), found, choices)
    return found


def argument(one: Field[Any]) -> dict[str, Any]:
    """What `add_argument` takes for an option: its types and choices are those that `taken` checks."""
    settings = {name: value for name, value in one.metadata.items() if name not in _OURS}
    kind = one.metadata["type"]
    how = {"action": "store_true"} if kind is bool else {"type": _reader(kind)}
    return {"default": one.default, **settings, **how}


def _reader(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Text to a value of this kind; a text that is none stays as it is, for `taken` to refuse."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            return text

    return read


def _text(value: Any) -> str | None:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, Integral) and not isinstance(value, bool):  # 100 steps, or a column's number
        value = int(value)
        return str(value)
    return str(value) if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


def number_or_word(value: Any) -> float | str | None:
    """A number, also as text, or else the text: the kind of an option that takes a number or a word."""
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
"""Of each kind of option, how a value is taken (None: it is not of the kind), and the words for what is expected."""
