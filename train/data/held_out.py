"""Hold out a dev split from the training rows, stratified by class, with equal texts in one split."""

import random
from collections import Counter
from typing import Any

from bert_jax.errors import UserError

from ..rows import Row, Split


def divide(split: Split, fraction: float, seed: int) -> dict[str, Split]:
    """Divide the rows into train and dev, and hold out about `fraction` of them for dev.

    Each class, or each range of numbers, loses about the same share. Rows with the same text, or the same pair of
    texts, stay in one split, unless each class has only one text or all texts are equal. Of single labels, a class
    with two or more texts is in both splits, and a class with one text stays in train, unless dev would be empty. The
    same seed gives the same splits. Raises `UserError` for fewer than two rows.
    """
    count = len(split.rows)
    if count < 2:
        raise UserError(f"{split.path}: {count} examples; at least 2 are needed to hold one out for dev")
    rows_by_text: dict[tuple[str, str | None], list[Row]] = {}
    for row in split.rows:
        rows_by_text.setdefault((row.text, row.pair), []).append(row)
    groups = list(rows_by_text.values())
    if (max(_classes(groups).values()) == 1 and not isinstance(split.rows[0].label, float)) or len(groups) < 2:
        groups = [[row] for row in split.rows]
    generator = random.Random(seed)
    generator.shuffle(groups)
    groups.sort(key=lambda rows: _order(rows[0].label))
    # Dev gets rows at even steps of this order, and so its share of each class or range of numbers.
    dev_size, offset = min(max(1, round(count * fraction)), count - 1), generator.random()
    train: list[list[Row]] = []
    dev: list[list[Row]] = []
    passed = dev_count = 0
    for rows in groups:
        passed += len(rows)
        if passed * dev_size / count + offset >= dev_count + 1:
            dev.append(rows)
            dev_count += len(rows)
        else:
            train.append(rows)
    if isinstance(split.rows[0].label, int | str):
        divisible = {label for label, texts in _classes(groups).items() if texts > 1}
        train += [rows for rows in dev if _order(rows[0].label) not in divisible]
        dev = [rows for rows in dev if _order(rows[0].label) in divisible]
        _share(train, dev)
        _share(dev, train)
    if not dev:
        dev.append(train.pop())
    if not train:
        train.append(dev.pop())
    dev_numbers = {row.number for rows in dev for row in rows}
    return {
        "train": split._replace(rows=[row for row in split.rows if row.number not in dev_numbers]),
        "dev": split._replace(rows=[row for row in split.rows if row.number in dev_numbers], skipped=0),
    }


def _share(giving: list[list[Row]], taking: list[list[Row]]) -> None:
    """Move one group of rows of each class that has several groups in `giving` and none in `taking`."""
    present, counts = _classes(taking), _classes(giving)
    for rows in list(giving):
        label = _order(rows[0].label)
        if label not in present and counts[label] > 1:
            present[label] += 1
            giving.remove(rows)
            taking.append(rows)


def _classes(groups: list[list[Row]]) -> Counter[Any]:
    """Return the number of groups of rows in each class."""
    return Counter(_order(rows[0].label) for rows in groups)


def _order(label: Any) -> Any:
    """Return the sort key of a label: the number itself, or the name of the class."""
    return label if isinstance(label, float) else str(label)
