"""Preview of the data before training: columns, labels, lengths in tokens, and warnings."""

import contextlib
import hashlib
import itertools
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bert_jax.errors import some
from bert_jax.packing import Tokens
from bert_jax.tasks import MULTI_LABEL, REGRESSION

from ..metrics import TASK_NAMES
from .rows import Data, Row

_SHOWN = 20
"""Maximum number of labels to list."""

_RARE, _CUT = 0.01, 0.1
"""Thresholds for warnings: the share of texts below which a class is rare, and the share of truncated texts."""


_MISSING = frozenset({"nan", "none", "null", "na", "n/a", "<na>", "nat", "-"})
"""Words, in lower case, that tables write for a missing value."""


class Lengths:
    """Count of examples by their length in tokens."""

    def __init__(self):
        self.counts: Counter[int] = Counter()

    def add(self, tokens: Tokens) -> None:
        """Count one more example."""
        self.counts[len(tokens.input_ids)] += 1

    def at(self, share: float) -> int:
        """Return the smallest length that at least this share of the examples does not exceed."""
        lengths = np.array(sorted(self.counts))
        below = np.cumsum([self.counts[length] for length in lengths])
        return int(lengths[np.searchsorted(below, share * below[-1])])


def preview(
    data: Data,
    names: Sequence[str],
    targets: Mapping[str, np.ndarray],
    read: Mapping[str, tuple[Lengths, int]],
    max_length: int,
) -> str:
    """Return lines to print: the columns, labels and lengths of each split, then warnings.

    The warnings include repeated texts and contradictory labels. `read` has for each split the lengths of its examples,
    and the number of examples that were truncated to `max_length` tokens.
    """
    lines, cut = (
        [f"task     {TASK_NAMES[data.task]}: {', '.join(names[:_SHOWN])}"],
        {name: count for name, (_, count) in read.items()},
    )
    for name, split in data.splits.items():
        columns = f": {split.columns.describe()}" if split.columns else ""
        skipped = f", {split.skipped:,} bad rows skipped" if split.skipped else ""
        lengths, lost = read[name]
        windows = sum(lengths.counts.values())
        lines += [f"{name:<8} {len(split.rows):,} examples from {split.path}{columns}{skipped}"]
        lines += [f"         {line}" for line in _labels(data.task, names, targets[name])]
        share = f", {lost:,} cut to {max_length} tokens ({lost / len(split.rows):.1%})" if lost else ""
        share += f", in {windows:,} windows" if windows > len(split.rows) else ""
        middle, most, longest = (lengths.at(share) for share in (0.5, 0.95, 1))
        lines += [f"         tokens: median {middle}, 95% at most {most}, longest {longest}{share}"]
    return "\n".join(lines + [f"warning  {text}" for text in _warnings(data, names, targets, cut, max_length)])


def _labels(task: str, names: Sequence[str], targets: np.ndarray) -> list[str]:
    if task == REGRESSION:
        values = targets[:, 0]
        return [f"{names[0]}: {values.min():g} to {values.max():g}, mean {values.mean():.4g}, sd {values.std():.4g}"]
    multi = task == MULTI_LABEL
    counts = targets.sum(axis=0).astype(int) if multi else np.bincount(targets, minlength=len(names))
    order = range(len(names)) if len(names) <= _SHOWN else np.argsort(-counts, kind="stable")[:_SHOWN]
    listed = ", ".join(f"{names[i]} {counts[i]:,} ({counts[i] / len(targets):.1%})" for i in order)
    more = f" and {len(names) - _SHOWN} more labels" if len(names) > _SHOWN else ""
    lines = [f"labels: {listed}{more}"]
    if multi:
        held = targets.sum(axis=1)
        lines.append(f"labels a text: mean {held.mean():.2f}, most {held.max():g}, none {int((held == 0).sum()):,}")
    return lines


def _repeats(data: Data, targets: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield warnings about texts that occur twice, in one split or in two, and about equal texts with other labels."""
    rows = itertools.chain.from_iterable(split.rows for split in data.splits.values())
    firsts = np.cumsum([0, *(len(split.rows) for split in data.splits.values())])  # start of each split, and the end
    keys = np.fromiter(map(_key, rows), np.uint64, firsts[-1])
    order = np.argsort(keys, kind="stable")
    begin = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[0]]))
    sizes = np.diff(begin, append=len(keys))

    def owner(member: int) -> tuple[str, int]:
        place = int(np.searchsorted(firsts, member, side="right")) - 1
        return list(data.splits)[place], int(member - firsts[place])

    counts: Counter[tuple[str, str]] = Counter()
    contradictory = []
    several = np.flatnonzero(sizes > 1)
    for which in several[np.argsort(order[begin[several]])]:  # in the order of the data
        group = order[begin[which] :][: sizes[which]]
        one, i = owner(group[0])
        for member in group[1:]:
            other, j = owner(member)
            counts[one, other] += 1
            if not np.array_equal(targets[one][i], targets[other][j]):
                contradictory.append((one, i, other, j))
    for (one, other), count in sorted(counts.items()):
        of = f"{count:,} of {len(data.splits[other].rows):,} texts in {other}"
        yield f"{of} repeat an earlier one" if one == other else f"{of} are in {one} too: scores will flatter"
    if contradictory:
        shown = "; ".join(_both(data, *pair) for pair in contradictory[:3])
        yield f"{len(contradictory):,} texts have other labels than the same text before: {shown}"


def _warnings(
    data: Data, names: Sequence[str], targets: Mapping[str, np.ndarray], cut: Mapping[str, int], max_length: int
) -> Iterator[str]:
    yield from _repeats(data, targets)
    for name, split in data.splits.items():
        if empty := [row.number for row in split.rows if not row.text.strip()]:
            yield f"{len(empty):,} texts are empty: {split.place(*empty)}"
        if cut[name] > _CUT * len(split.rows):
            share = f"{cut[name] / len(split.rows):.0%} of {name} is cut to {max_length} tokens"
            yield f"{share}; a larger --max-length, or --long-texts windows, reads more"
    if data.task != REGRESSION:
        train = targets["train"]
        counts = train.sum(axis=0) if data.task == MULTI_LABEL else np.bincount(train, minlength=len(names))
        yield from _lacking(data, names, targets)
        if alike := _alike(names):
            yield f"labels differ only in case or spaces: {', '.join(map(repr, alike))}; are they the same?"
        if alike := _same_number(names):
            yield f"labels are the same number: {', '.join(alike)}; are they the same?"
        if missing := [name for name in names if name.strip().lower() in _MISSING]:
            yield f"{', '.join(missing)} is a label here, and often stands for none; are these rows without a label?"
        if any(map(_is_fraction, names)) and all(_number(name) is not None for name in names):
            yield f"labels are numbers with fractions, each a class: {', '.join(names[:_SHOWN])}; see --task regression"
        if rare := [name for name, count in zip(names, counts, strict=True) if count < _RARE * len(train)]:
            yield f"labels of fewer than 1% of train: {', '.join(rare[:_SHOWN])}; see --class-weights"


def _lacking(data: Data, names: Sequence[str], targets: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield a warning for each split without an example of some class: scores on the split say nothing of the class."""
    for name, held in targets.items():
        counts = held.sum(axis=0) if data.task == MULTI_LABEL else np.bincount(held, minlength=len(names))
        if lacking := [label for label, count in zip(names, counts, strict=True) if not count]:
            yield f"{name} has no example of {some(lacking, _SHOWN)}"


def _alike(names: Sequence[str]) -> list[str]:
    """Return the names that differ from another name only in case or spaces."""
    folded = [" ".join(name.split()).casefold() for name in names]
    return [name for name, one in zip(names, folded, strict=True) if folded.count(one) > 1]


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
    return [name for name, one in zip(names, numbers, strict=True) if one is not None and counts[one] > 1]


def _key(row: Row) -> int:
    """Return a hash of a text or pair as an integer of eight bytes. A missing second text counts as an empty one."""
    return int.from_bytes(hashlib.blake2b(repr((row.text, row.pair or "")).encode(), digest_size=8).digest())


def _both(data: Data, one: str, i: int, other: str, j: int) -> str:
    first, second = data.splits[one], data.splits[other]
    text = textwrap.shorten(first.rows[i].text, 60, placeholder="…")
    if one == other:
        return f"{text!r} ({first.place(first.rows[i].number, second.rows[j].number)})"
    return f"{text!r} ({first.place(first.rows[i].number)} and {second.place(second.rows[j].number)})"
