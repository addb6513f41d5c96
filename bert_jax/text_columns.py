"""Find the columns of a table that hold texts, or pairs of texts, by their names and by their values."""

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bert_jax.config import is_whole
from bert_jax.errors import UserError

TEXTS = ("text", "sentence", "review", "content", "comment", "document", "tweet")
LABELS = ("label", "labels", "sentiment", "class", "category", "target", "polarity")
LABELS += ("score", "similarity", "similarity_score", "rating", "stars", "emotion", "intent", "topic")
"""Usual names of a column of texts, and of a column of labels, in the order of preference; case is ignored."""

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

SAMPLE = 200
"""Number of records of a table that are read to find its columns, and to tell the task."""

_WORDS = 3
"""Average number of words from which a column of strings counts as a column of texts."""


def find_texts(
    where: object, sample: Sequence[dict[str, Any]], text: str | None, pair: str | None
) -> tuple[str, str | None]:
    """Return the names of the columns of the text and of a pair's second text (None if there is none).

    A given `text` is returned together with `pair`. Otherwise the columns are found as training finds them. Raises
    `UserError` if a given column does not exist, or if no column can be found.
    """
    columns = list(sample[0])
    check_asked(where, columns, {text: "text", pair: "pair"})
    if text is not None:
        return text, pair
    check_header(where, sample)
    free = [column for column in columns if column.lower() not in LABELS]
    text_columns = texts_in(where, free, sample, pair)
    check_alike(where, columns, set(text_columns) - {pair})
    return text_columns


def check_asked(where: object, columns: Sequence[str], asked: Mapping[str | None, str]) -> None:
    """Raise `UserError` if a column that an option names does not exist; `asked` maps column names to options."""
    for name, option in asked.items():
        if name is not None and name not in columns:
            hint = did_you_mean(name, columns)
            raise UserError(f"{where}: no column {name!r}; there are: {', '.join(columns)}; --{option}-column{hint}")


def check_alike(where: object, columns: Sequence[str], found: Collection[str | None]) -> None:
    """Raise `UserError` if the name of a found column differs from another column's name in case alone."""
    for name in found:
        alike = [column for column in columns if name and column.lower() == name.lower()]
        if len(alike) > 1:
            raise UserError(f"{where}: columns {' and '.join(alike)} differ in case alone; rename one of them")


def check_header(where: object, sample: Sequence[dict[str, Any]]) -> None:
    """Raise `UserError` if the names of the columns look like a row of data and none of them is a usual name."""
    columns = list(sample[0])
    usual = {*TEXTS, *LABELS, *(name for names in PAIRS for name in names)}
    if any(column.lower() in usual for column in columns):
        return
    values = {column: [record.get(column) for record in sample] for column in columns}
    is_repeated = any(isinstance(value, str) and value == column for column in columns for value in values[column])
    if is_repeated or any(len(column.split()) >= _WORDS and is_texts(values[column]) for column in columns):
        raise UserError(
            f"{where}: the names of its columns look like a row of data ({', '.join(columns)[:80]}); "
            "begin it with a line of names such as text,label, or name --text-column and --label-column"
        )


def texts_in(
    where: object, columns: list[str], sample: Sequence[dict[str, Any]], pair: str | None
) -> tuple[str, str | None]:
    """Return the columns of the text and of a pair's second text among `columns`, by name or by the sample's values.

    A given `pair` is kept. Raises `UserError` unless the text's column has a usual name or is the only one with texts.
    """
    lower = _by_lower(columns)
    for first_name, second_name in PAIRS:
        second = lower.get(second_name) if pair is None else pair if pair.lower() == second_name else None
        if first_name in lower and second is not None:
            return lower[first_name], second
    columns = [column for column in columns if column != pair]
    if text_column := named(columns, TEXTS):
        return text_column, pair
    candidates = [column for column in columns if is_texts([record.get(column) for record in sample])]
    if len(candidates) == 1:
        return candidates[0], pair
    raise UserError(f"{where}: no text column; there are: {', '.join(sample[0])}; name it with --text-column")


def text_of(record: dict[str, Any], name: str) -> str:
    """Return the text in a record's column; raise `ValueError` unless it is a string that UTF-8 can encode."""
    text = record[name]
    if not isinstance(text, str):
        raise ValueError(f"{name} is {shown(text)}, expected a string")
    if not is_whole(text):
        raise ValueError(f"{name} holds half of a surrogate pair, expected whole characters")
    return text


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a suggestion for the end of an error: the known name most similar to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def shown(value: Any) -> str:
    """Return a value of the data as JSON for an error line, cut to 60 characters."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    return json.dumps(value, default=str)[:60]


def _by_lower(columns: Sequence[str]) -> dict[str, str]:
    """Map the name of each column in lower case to the column; of columns with the same name, the first is kept."""
    return {column.lower(): column for column in reversed(columns)}


def named(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the column with the first of the known names that any column has, ignoring case, or None."""
    lower = _by_lower(columns)
    return next((lower[name] for name in known if name in lower), None)


def is_texts(values: list[Any]) -> bool:
    """Return whether all values are strings, with at least `_WORDS` words on average."""
    texts = [value for value in values if isinstance(value, str)]
    return len(texts) == len(values) and sum(len(text.split()) for text in texts) >= _WORDS * len(texts)
