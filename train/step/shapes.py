"""Choose the few shapes that a run's batches are rounded up to, with the least cost of computing and compiling."""

from collections import Counter
from typing import NamedTuple

# Cost of one more compilation, in steps. In this project's CPU and GPU timings, a new shape of the step costs the time
# of 15 to 30 steps once.
_COMPILATION_STEPS = 20


class Shapes(NamedTuple):
    """The row length T, and in ascending order the row counts B that the shards of a batch are rounded up to."""

    row_length: int
    row_counts: tuple[int, ...]

    def round_up(self, rows: int) -> int:
        """Return the smallest row count of at least `rows`, or `rows` itself if it is above all row counts."""
        return next((count for count in self.row_counts if count >= rows), rows)


def fewest_rows(counts: Counter[int], scale: float = 1.0, window: int = 1) -> tuple[tuple[int, ...], float]:
    """Return the row counts to round up to, with the least total cost of rows and compilations, and this cost in rows.

    `counts[n]` is the number of windows, of `window` steps each, that need n rows. Each of these windows stands for
    `scale` windows. A compilation costs as much as `_COMPILATION_STEPS` steps of average size. The result is exact, by
    dynamic programming over the largest row count of each class.
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
    row_counts, i = [], len(needs)
    while i:
        row_counts.append(needs[i - 1])
        i = choice[i]
    return tuple(reversed(row_counts)), cost[-1]
