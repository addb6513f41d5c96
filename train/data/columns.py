"""Find the text and label columns of a table by their names and values."""

from collections.abc import Collection, Sequence
from typing import Any

from bert_jax.errors import UserError
from bert_jax.text_columns import (
    LABELS,
    PAIRS,
    check_alike,
    check_asked,
    check_header,
    is_texts,
    named,
    texts_in,
)

from ..rows import Columns


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
    given_names = [text, pair, *(labels or [label])]
    options = ["text", "pair", *["label"] * (len(given_names) - 2)]
    check_asked(where, columns, dict(zip(given_names, options, strict=True)))
    if labels is None:
        text_columns = {name for name in (text, pair) if name}
        labels = (label or _label(where, [c for c in columns if c not in text_columns], sample),)
    free = [column for column in columns if column not in labels]
    if text is None:
        text, pair = texts_in(where, free, sample, pair)
    check_alike(where, columns, {text, pair, *labels} - set(given_names))
    return Columns(text, pair, labels)


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
    seconds = {second for first, second in PAIRS if first == columns.text.lower()}
    return next((name for name in record if name.lower() in seconds), None)


def split_of(record: dict[str, Any], columns: Columns) -> str | None:
    """Return the value of the column `split` in lower case, without spaces around it, or None.

    None means that the record has no such column, that the column is the text or a label, or that its value is not a
    string.
    """
    name = next((name for name in record if name.lower() == "split" and name not in columns.all()), None)
    value = record[name] if name else None
    return value.strip().lower() if isinstance(value, str) else None


def _label(where: object, columns: list[str], sample: Sequence[dict[str, Any]]) -> str:
    if name := named(columns, LABELS):
        return name
    candidates = [column for column in columns if _is_labels([record.get(column) for record in sample])]
    if len(candidates) == 1:
        return candidates[0]
    raise UserError(f"{where}: no label column; there are: {', '.join(sample[0])}; name it with --label-column")


def _is_labels(values: list[Any]) -> bool:
    """Return whether all values are lists, or values repeat as the names and numbers of classes do."""
    if all(isinstance(value, list) for value in values):
        return True
    if not all(isinstance(value, int | float | str) for value in values):
        return False
    few = len(set(values)) <= max(1, len(values) // 2)
    return few and not is_texts(values)
