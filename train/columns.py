"""Which columns of a table hold the texts and the labels, and what a label is, by name and by what is in them."""

import ast
import difflib
import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL, is_whole
from bert_jax.errors import UserError

TEXTS = ("text", "sentence", "review", "content", "comment", "document", "tweet")
LABELS = ("label", "labels", "sentiment", "class", "category", "target", "polarity")
LABELS += ("score", "similarity", "similarity_score", "rating", "stars", "emotion", "intent", "topic")
"""Names a column is looked for under, in this order, ignoring case."""

PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "passage"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
    ("text", "pair"),
)

_WORDS = 3
"""Words on average, from which a column is taken for one of texts."""

_FRACTION = re.compile(r"\s*[-+]?\d*\.\d+([eE][-+]?\d+)?\s*")
_LIST = 10_000
"""Characters of a list in a cell, at most."""


class Columns(NamedTuple):
    """The columns of a table that are read; several of labels hold 0 or 1 each."""

    text: str
    pair: str | None
    labels: tuple[str, ...]

    def all(self) -> list[str]:
        """Their names."""
        return [self.text, *([self.pair] if self.pair else []), *self.labels]

    def describe(self) -> str:
        """In words."""
        pair = f" and {self.pair}" if self.pair else ""
        return f"text in {self.text}{pair}, label in {', '.join(self.labels)}"


def find(
    where: object, sample: Sequence[dict[str, Any]], text: str | None, pair: str | None, label: str | None
) -> Columns:
    """The columns given, or found by their names, or by what a few records hold; `UserError` where neither says."""
    columns = list(sample[0])
    labels = tuple(name.strip() for name in label.split(",")) if label is not None and label not in columns else None
    given = [text, pair, *(labels or [label])]
    for name, option in zip(given, ["text", "pair", *["label"] * (len(given) - 2)], strict=True):
        if name is not None and name not in columns:
            listed = ", ".join(columns)
            raise UserError(
                f"{where}: no column {name!r}; there are: {listed}; --{option}-column{did_you_mean(name, columns)}"
            )
    if labels is None:
        taken = {name for name in (text, pair) if name}
        labels = (label or _label(where, [c for c in columns if c not in taken], sample),)
    free = [column for column in columns if column not in labels]
    if text is None:
        text, pair = _texts(where, free, sample, pair)
    return Columns(text, pair, labels)


def task_of(sample: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """What a table's labels look like: several of them, numbers (half are written as fractions), or one."""
    if len(labels) > 1:
        return MULTI_LABEL
    values = [record.get(labels[0]) for record in sample]
    if 2 * sum(isinstance(value, list | tuple) for value in values) >= len(values):
        return MULTI_LABEL
    fractions = [value for value in values if _is_fraction(value)]
    whole = all(float(value or 0).is_integer() for value in fractions)
    return REGRESSION if fractions and not whole and 2 * len(fractions) >= len(values) else SINGLE_LABEL


def text_of(record: dict[str, Any], name: str) -> str:
    """A text; `ValueError` says what is wrong with it."""
    text = record[name]
    if not isinstance(text, str):
        raise ValueError(f"{name} is {shown(text)}, expected a string")
    if not is_whole(text):
        raise ValueError(f"{name} holds half of a surrogate pair, expected whole characters")
    return text


def label_of(task: str, record: dict[str, Any], columns: Sequence[str], separator: str) -> Any:
    """A record's label, as `Row.label` has it; `ValueError` says what is wrong with it."""
    if len(columns) > 1:
        return tuple(name for name in columns if _flag(name, record[name]))
    (name,) = columns
    value = record[name]
    if task == REGRESSION:
        return _number(name, value)
    if task == MULTI_LABEL:
        return tuple(_class(name, part) for part in _parts(name, value, separator))
    return _class(name, value)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """For the end of an error: the known name that is most like this one, or nothing."""
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def shown(value: Any) -> str:
    """A value of the data, for a line of an error."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    return json.dumps(value, default=str)[:60]


def _label(where: object, columns: list[str], sample: Sequence[dict[str, Any]]) -> str:
    if found := _named(columns, LABELS):
        return found
    like = [column for column in columns if _is_labels([record.get(column) for record in sample])]
    if len(like) == 1:
        return like[0]
    raise UserError(f"{where}: no label column; there are: {', '.join(sample[0])}; name it with --label-column")


def _texts(
    where: object, columns: list[str], sample: Sequence[dict[str, Any]], pair: str | None
) -> tuple[str, str | None]:
    lower = _by_lower(columns)
    for one, other in PAIRS:
        second = lower.get(other) if pair is None else pair if pair.lower() == other else None
        if one in lower and second is not None:
            return lower[one], second
    columns = [column for column in columns if column != pair]
    if found := _named(columns, TEXTS):
        return found, pair
    like = [column for column in columns if _is_texts([record.get(column) for record in sample])]
    if len(like) == 1:
        return like[0], pair
    raise UserError(f"{where}: no text column; there are: {', '.join(sample[0])}; name it with --text-column")


def _by_lower(columns: Sequence[str]) -> dict[str, str]:
    """Each column by its name in lower case; of several, the first."""
    return {column.lower(): column for column in reversed(columns)}


def _named(columns: Sequence[str], known: Sequence[str]) -> str | None:
    lower = _by_lower(columns)
    return next((lower[name] for name in known if name in lower), None)


def _is_texts(values: list[Any]) -> bool:
    texts = [value for value in values if isinstance(value, str)]
    return len(texts) == len(values) and sum(len(text.split()) for text in texts) >= _WORDS * len(texts)


def _is_labels(values: list[Any]) -> bool:
    """Whether values repeat, as names and numbers of classes do, or are lists of such."""
    if all(isinstance(value, list) for value in values):
        return True
    if any(isinstance(value, bool) or not isinstance(value, int | float | str) for value in values):
        return False
    few = len(set(values)) <= max(1, len(values) // 2)
    return few and not _is_texts(values)


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
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]") and len(value) < _LIST:
        try:
            found = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"{name} is {shown(value)}, expected a list of names") from None
        if (
            "," not in value and value.count("'") + value.count('"') > 2
        ):  # numpy's lists, which Python would run together
            raise ValueError(f"{name} is {shown(value)}, expected commas between names")
        return found
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    return [value]


def _class(name: str, value: Any) -> int | str:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{name} is {shown(value)}, expected an integer or a name")
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"{name} is empty")
    return value
