"""What the tasks with classes share: the preview's remarks on the classes, and the report's."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from bert_jax.command import printable
from bert_jax.errors import some

from .task import Wording

_SHOWN = 20
"""Maximum number of labels to list in the preview."""

_NAMED = 10
"""Maximum number of classes that a remark of the report names."""

_RARE = 0.01
"""Share of texts below which a class is rare."""

_MISSING = frozenset({"nan", "none", "null", "na", "n/a", "<na>", "nat", "-"})
"""Words, in lower case, that tables write for a missing value."""


_SEPARATORS = (",", ";", "|", "/", "+")
"""Characters that tables put between several labels in one cell."""

WORDING = Wording(drawn=", drawn class by class", mistakes="Most confident errors", score="score")


def listed(names: Sequence[str], counts: Shaped[np.ndarray, " C"], total: int) -> str:
    """Return a line with the number and share of the examples of each class; of many classes, the most frequent."""
    order = range(len(names)) if len(names) <= _SHOWN else np.argsort(-counts, kind="stable")[:_SHOWN]
    shares = ", ".join(f"{names[i]} {counts[i]:,} ({counts[i] / total:.1%})" for i in order)
    more = f" and {len(names) - _SHOWN} more labels" if len(names) > _SHOWN else ""
    return f"labels: {shares}{more}"


def warnings(names: Sequence[str], counts: Mapping[str, Shaped[np.ndarray, " C"]], total: int) -> Iterator[str]:
    """Yield warnings about the names of classes, and about the number of examples of each class in each split.

    `total` is the number of training texts.
    """
    # Scores on a split without an example of a class say nothing of the class.
    for split, split_counts in counts.items():
        if lacking := [name for name, count in zip(names, split_counts, strict=True) if not count]:
            yield f"{split} has no example of {some(lacking, _SHOWN)}"
    if alike := _alike(names):
        yield f"labels differ only in case or spaces: {', '.join(map(repr, alike))}; are they the same?"
    if alike := _same_number(names):
        yield f"labels are the same number: {', '.join(alike)}; are they the same?"
    for separator in _SEPARATORS:
        if joined := _joined(names, separator):
            several = f"several labels of a text, pass --task multi-label --label-separator '{separator}'"
            yield f"labels join other labels with '{separator}': {some(joined, _SHOWN)}; if these are {several}"
    if missing := [name for name in names if name.strip().lower() in _MISSING]:
        yield f"{', '.join(missing)} is a label here, and often stands for none; are these rows without a label?"
    if any(map(_is_fraction, names)) and all(_number(name) is not None for name in names):
        yield f"labels are numbers with fractions, each a class: {', '.join(names[:_SHOWN])}; see --task regression"
    if rare := [name for name, count in zip(names, counts["train"], strict=True) if count < _RARE * total]:
        yield f"labels of fewer than 1% of train: {', '.join(rare[:_SHOWN])}; see --class-weights"


def absent(remark: str, names: Sequence[str]) -> str:
    """Return a remark on how macro averages count these classes, which take the place of {}, or an empty string."""
    return remark.format(some([*map(printable, names)], _NAMED)) if names else ""


def _alike(names: Sequence[str]) -> list[str]:
    """Return the names that differ from another name only in case or spaces."""
    folded = [" ".join(name.split()).casefold() for name in names]
    return [name for name, key in zip(names, folded, strict=True) if folded.count(key) > 1]


def _joined(names: Sequence[str], separator: str) -> list[str]:
    """Return the names whose parts between separators are names too."""
    known = set(names)
    return [n for n in names if separator in n and known.issuperset(part.strip() for part in n.split(separator))]


def _number(name: str) -> float | None:
    """Return the number that a name spells, or None. True and False are 1 and 0."""
    with contextlib.suppress(ValueError):
        return {"true": 1.0, "false": 0.0}.get(name.strip().lower()) if name.strip().isalpha() else float(name)
    return None


def _is_fraction(name: str) -> bool:
    number = _number(name)
    return number is not None and not number.is_integer()


def _same_number(names: Sequence[str]) -> list[str]:
    """Return the names that spell the same number as another name."""
    numbers = list(map(_number, names))
    counts = Counter(numbers)
    return [name for name, number in zip(names, numbers, strict=True) if number is not None and counts[number] > 1]
