"""Draw docs/packing.svg: one batch of the bundled reviews, padded and packed; `python docs/draw_packing.py [FILE]`."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bert_jax.packing import assign
from train.config import TrainConfig
from train.data.prepare import prepare
from train.data.token_set import TokenSet
from train.step.batches import Batches

COLOURS = ("#7aa6d6", "#e3a06c", "#8fbf8f", "#c49bc9", "#d6c06a", "#9fb3b8")


def lengths_of_a_batch() -> tuple[list[int], int]:
    """Tokens of each example of the demo's first batch, and the tokens of a row there."""
    data: TokenSet = prepare(TrainConfig()).data
    batches = Batches(data, batch_size=32, seed=0)
    return data.lengths[batches.indices(0)].tolist(), batches.shapes.row_length


def draw(path: Path) -> tuple[int, int]:
    """Write the picture; tokens computed when padded and when packed."""
    lengths, row_length = lengths_of_a_batch()
    rows = assign(lengths, row_length)
    figure = Figure(figsize=(8.6, 3.6), layout="constrained", facecolor="white")
    padded, packed = figure.subplots(1, 2, width_ratios=(max(lengths), row_length))
    for i, length in enumerate(lengths):
        padded.add_patch(Rectangle((0, i + 0.08), length, 0.84, fc=COLOURS[i % len(COLOURS)], ec="white", lw=0.8))
        padded.add_patch(Rectangle((length, i + 0.08), max(lengths) - length, 0.84, color="#ececec", linewidth=0))
    for j, row in enumerate(rows):
        place = 0
        for i in row:
            packed.add_patch(
                Rectangle((place, j + 0.08), lengths[i], 0.84, fc=COLOURS[i % len(COLOURS)], ec="white", lw=0.8)
            )
            packed.text(place + 1, j + 0.5, str(i + 1), va="center", fontsize=7)
            place += lengths[i]
        packed.add_patch(Rectangle((place, j + 0.08), row_length - place, 0.84, color="#ececec", linewidth=0))
    computed = len(lengths) * max(lengths), len(rows) * row_length
    useful = sum(lengths)
    for axes, what, size, count, width in (
        (padded, "padded", computed[0], len(lengths), max(lengths)),
        (packed, "packed", computed[1], len(rows), row_length),
    ):
        axes.set(xlim=(0, width), ylim=(count, 0), xlabel="tokens", ylabel="rows")
        axes.set_title(f"{what}: {count} rows of {width}\n{useful / size:.0%} of it useful", fontsize=9)
        axes.spines[:].set_visible(False)
        axes.set_yticks(np.arange(0, count, max(1, count // 8)) + 0.5, np.arange(1, count + 1, max(1, count // 8)))
        axes.tick_params(length=0, labelsize=8)
    figure.savefig(path, metadata={"Date": None})
    return computed


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("packing.svg")))
