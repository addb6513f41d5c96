"""The few shapes that a run's batches are rounded up to: fewest tokens computed, compilations counted in."""

from collections import Counter
from typing import NamedTuple

# What one more compilation is worth in steps: on this project's CPU and GPU timings, a step of a
# new shape costs 15 to 30 steps' time once.
_COMPILATION_STEPS = 20


class Shapes(NamedTuple):
    """Row length T, and the row counts B that shards of a batch are rounded up to, ascending."""

    row_length: int
    row_counts: tuple[int, ...]

    def round_up(self, rows: int) -> int:
        """The row count a batch that needs `rows` rows is given."""
        return next((count for count in self.row_counts if count >= rows), rows)


def fewest_rows(counts: Counter[int], scale: float = 1.0, window: int = 1) -> tuple[tuple[int, ...], float]:
    """Row counts to round up to, so that rows computed and compilations together cost least.

    `counts` says how many windows of so many steps need how many rows, each standing for `scale`
    windows; a compilation is charged as `_COMPILATION_STEPS` steps of average size. Returns the counts and
    the cost in rows. Exact, by dynamic programming over the largest count of each class.
    """
    needs = sorted(counts)
    mean = sum(need * n for need, n in counts.items()) / counts.total()
    # cost[i] is the least cost of the batches that need at most needs[i - 1] rows.
    cost, choice = [0.0], [0]
    for i, top in enumerate(needs, 1):
        options = []
        for j in range(i):
            batches = sum(counts[need] for need in needs[j:i])
            options.append((cost[j] + top * batches * scale + _COMPILATION_STEPS / window * mean, j))
        least, j = min(options)
        cost.append(least)
        choice.append(j)
    kept, i = [], len(needs)
    while i:
        kept.append(needs[i - 1])
        i = choice[i]
    return tuple(reversed(kept)), cost[-1]
