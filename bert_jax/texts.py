"""Texts and options as Python gives them: what they are not is one error that names it."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bert_jax.config import is_whole
from bert_jax.errors import UserError


def check_list(texts: Any) -> None:
    """Raise `TypeError` for what is no list of texts, though Python may go through it: a string, a table, a mapping."""
    if isinstance(texts, str | bytes):
        raise TypeError("expected a list of texts, got one string: write [text]")
    if isinstance(texts, Mapping) or hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise TypeError(f"expected a list of texts, got a {type(texts).__name__}: take the column of texts from it")
    if not isinstance(texts, Iterable):
        raise TypeError(f"expected a list of texts, got {type(texts).__name__}")


def checked(name: str, texts: Iterable[Any]) -> Iterator[str]:
    """The texts, each of them a string that UTF-8 can say; `UserError` with the place of one that is not."""
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            shown = " ".join(repr(text).split())[:100]
            raise UserError(f"{name}[{place}] is {shown}; expected a string")
        if not is_whole(text):
            raise UserError(f"{name}[{place}] has half a surrogate pair, which is no text; mend or leave it out")
        yield text


def whole_number(name: str, value: Any) -> int:
    """An option's whole number, of Python's or numpy's; `UserError` for anything else."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UserError(f"{name} is {value!r}; expected a whole number")
