"""Preview of the data before training: columns, labels, lengths in tokens, and warnings."""

import hashlib
import itertools
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bert_jax.packing import Tokens

from ..rows import Data, Row
from ..tasks import TASKS

_SHOWN = 20
"""Maximum number of labels to list."""

_CUT = 0.1
"""Share of truncated texts from which there is a warning."""


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
    training, cut = TASKS[data.task], {name: count for name, (_, count) in read.items()}
    lines = [f"task     {training.task.option}: {', '.join(names[:_SHOWN])}"]
    for name, split in data.splits.items():
        columns = f": {split.columns.describe()}" if split.columns else ""
        skipped = f", {split.skipped:,} bad rows skipped" if split.skipped else ""
        lengths, truncated = read[name]
        windows = sum(lengths.counts.values())
        lines += [f"{name:<8} {len(split.rows):,} examples from {split.path}{columns}{skipped}"]
        lines += [f"         {line}" for line in training.described(names, targets[name])]
        share = f", {truncated:,} cut to {max_length} tokens ({truncated / len(split.rows):.1%})" if truncated else ""
        share += f", in {windows:,} windows" if windows > len(split.rows) else ""
        median, percentile_95, longest = (lengths.at(share) for share in (0.5, 0.95, 1))
        lines += [f"         tokens: median {median}, 95% at most {percentile_95}, longest {longest}{share}"]
    return "\n".join(lines + [f"warning  {text}" for text in _warnings(data, names, targets, cut, max_length)])


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
    for index in several[np.argsort(order[begin[several]])]:  # in the order of the data
        group = order[begin[index] :][: sizes[index]]
        earlier, i = owner(group[0])
        for member in group[1:]:
            later, j = owner(member)
            counts[earlier, later] += 1
            if not np.array_equal(targets[earlier][i], targets[later][j]):
                contradictory.append((earlier, i, later, j))
    for (earlier, later), count in sorted(counts.items()):
        share = f"{count:,} of {len(data.splits[later].rows):,} texts in {later}"
        yield (
            f"{share} repeat an earlier one"
            if earlier == later
            else f"{share} are in {earlier} too: scores will flatter"
        )
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
    yield from TASKS[data.task].warnings(names, targets)


def _key(row: Row) -> int:
    """Return a hash of a text or pair as an integer of eight bytes. A missing second text counts as an empty one."""
    return int.from_bytes(hashlib.blake2b(repr((row.text, row.pair or "")).encode(), digest_size=8).digest())


def _both(data: Data, earlier: str, i: int, later: str, j: int) -> str:
    first, second = data.splits[earlier], data.splits[later]
    text = textwrap.shorten(first.rows[i].text, 60, placeholder="…")
    if earlier == later:
        return f"{text!r} ({first.place(first.rows[i].number, second.rows[j].number)})"
    return f"{text!r} ({first.place(first.rows[i].number)} and {second.place(second.rows[j].number)})"
