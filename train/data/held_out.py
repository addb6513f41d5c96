"""A dev split held out of the training rows: of each class its share, equal texts on one side."""

import random
from collections import Counter
from typing import Any

from bert_jax.errors import UserError

from .rows import Row, Split


def divide(split: Split, fraction: float, seed: int) -> dict[str, Split]:
    """Hold out a share of the rows for dev: of each class, or range of numbers, about the same share.

    Rows with the same text, or pair, stay on one side, unless each class has one text alone. A class of one text stays
    in train, and one of two or more is on both sides.
    """
    count = len(split.rows)
    if count < 2:
        raise UserError(f"{split.path}: {count} examples; at least 2 are needed to hold one out for dev")
    alike: dict[tuple[str, str | None], list[Row]] = {}
    for row in split.rows:
        alike.setdefault((row.text, row.pair), []).append(row)
    groups = list(alike.values())
    if (max(_classes(groups).values()) == 1 and not isinstance(split.rows[0].label, float)) or len(groups) < 2:
        groups = [[row] for row in split.rows]
    generator = random.Random(seed)
    generator.shuffle(groups)
    groups.sort(key=lambda rows: _order(rows[0].label))
    # Along this order, rows go to dev at even steps.
    wanted, first = min(max(1, round(count * fraction)), count - 1), generator.random()
    train: list[list[Row]] = []
    dev: list[list[Row]] = []
    passed = held = 0
    for rows in groups:
        passed += len(rows)
        if passed * wanted / count + first >= held + 1:
            dev.append(rows)
            held += len(rows)
        else:
            train.append(rows)
    if isinstance(split.rows[0].label, int | str):
        several = {label for label, texts in _classes(groups).items() if texts > 1}
        train += [rows for rows in dev if _order(rows[0].label) not in several]
        dev = [rows for rows in dev if _order(rows[0].label) in several]
        _share(train, dev)
        _share(dev, train)
    if not dev:
        dev.append(train.pop())
    if not train:
        train.append(dev.pop())
    chosen = {row.number for rows in dev for row in rows}
    return {
        "train": split._replace(rows=[row for row in split.rows if row.number not in chosen]),
        "dev": split._replace(rows=[row for row in split.rows if row.number in chosen], skipped=0),
    }


def _share(giving: list[list[Row]], taking: list[list[Row]]) -> None:
    """Move a group of rows of each class of which one side has several and the other none."""
    known, counts = _classes(taking), _classes(giving)
    for rows in list(giving):
        label = _order(rows[0].label)
        if label not in known and counts[label] > 1:
            known[label] += 1
            giving.remove(rows)
            taking.append(rows)


def _classes(groups: list[list[Row]]) -> Counter[Any]:
    """How many groups of rows each class has."""
    return Counter(_order(rows[0].label) for rows in groups)


def _order(label: Any) -> Any:
    """What rows are put in order by: numbers by size, classes by name."""
    return label if isinstance(label, float) else str(label)
