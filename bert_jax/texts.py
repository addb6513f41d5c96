"""Checks of the texts and options that a Python caller passes; each error describes the wrong value."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bert_jax.config import is_whole
from bert_jax.errors import UserError


def check_list(texts: Any) -> None:
    """Raise `TypeError` unless `texts` is an iterable of texts.

    A string, a table and a mapping are refused too, although Python may be able to iterate over them.
    """
    if isinstance(texts, str | bytes):
        raise TypeError("expected a list of texts, got one string: write [text]")
    if isinstance(texts, Mapping) or hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise TypeError(f"expected a list of texts, got a {type(texts).__name__}: take the column of texts from it")
    if not isinstance(texts, Iterable):
        raise TypeError(f"expected a list of texts, got {type(texts).__name__}")


def checked(name: str, texts: Iterable[Any]) -> Iterator[str]:
    """Yield the texts; raise `UserError` with the index of a text that is no string or that UTF-8 cannot encode."""
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            shown = " ".join(repr(text).split())[:100]
            raise UserError(f"{name}[{place}] is {shown}; expected a string")
        if not is_whole(text):
            raise UserError(f"{name}[{place}] has half a surrogate pair, which is no text; mend or leave it out")
        yield text


def whole_number(name: str, value: Any) -> int:
    """Return an option's value as an int, from a whole number of Python or numpy.

    Raises `UserError` for anything else, a bool included.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UserError(f"{name} is {value!r}; expected a whole number")
