"""How time and memory grow: with examples, devices, the length of rows, and examples a step.

    python -m benchmarks.growth
    python -m benchmarks.growth --tables examples --sizes 1000,10000 --json growth.json

Every figure is measured in a process of its own (`growth_case`), one at a time. `examples` trains a
tiny model for an epoch on generated sentences, so that the host is what is measured; `devices`
compiles the step for simulated ones; `lengths` and `batches` time steps of random weights.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bert_jax import checkpoint
from bert_jax.checkpoint import Checkpoint, parameter_shapes
from bert_jax.command import Parser, run
from bert_jax.errors import UserError
from train.config import DEMO

from . import report
from .driver import ROOT
from .growth_case import SHAPES, config_of, drawn_lengths
from .options import positive

TOKENS_A_STEP = 4096
"""Of the table of lengths."""

MICRO_BATCH = 32
"""Examples of a part of a step, where it is computed in parts."""

# More would fill rows of 128 best where there are many, and so small a network is 1.4 times as slow in these.
_EXAMPLES_A_STEP = 64

_DEV_EXAMPLES, _DEVICES_BATCH = 1000, 256


def write_checkpoint(directory: Path) -> list[str]:
    """A tiny model of random weights, with the words of the bundled reviews as its vocabulary; returns these."""
    words = sorted(set(re.findall("[a-z]+", (DEMO / "train.tsv").read_text(encoding="utf-8").lower())))
    directory.mkdir(parents=True)
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n", encoding="utf-8")
    config = config_of("tiny", len(words) + 5)
    generator = np.random.default_rng(0)
    tensors = {
        name: (generator.standard_normal(shape) * 0.02 + name.endswith("scale")).astype(np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    (directory / "native").mkdir()
    checkpoint.write(directory / "native", Checkpoint(config, tensors, {"vocab.txt": vocabulary.read_bytes()}))
    return words


def write_sentences(path: Path, words: Sequence[str], count: int, seed: int) -> None:
    """`count` labelled sentences of drawn words, as tsv; the first word goes with the label."""
    generator = np.random.default_rng(seed)
    pool = np.array(words, dtype=object)
    with open(path, "w", encoding="utf-8") as file:
        file.write("sentence\tlabel\n")
        for start in range(0, count, 10_000):
            lengths = drawn_lengths(min(10_000, count - start), generator) - 2
            drawn = pool[generator.integers(0, len(pool), lengths.sum())]
            labels = generator.integers(0, 2, len(lengths))
            for end, length, label in zip(np.cumsum(lengths), lengths, labels, strict=True):
                file.write(f"{('bad', 'good')[label]} {' '.join(drawn[end - length + 1 : end])}\t{label}\n")


def case(name: str, devices: int = 1, **arguments: Any) -> dict[str, Any]:
    """Measure one case in a process of its own, which sees so many devices of the CPU."""
    flags = f"--xla_force_host_platform_device_count={devices} {os.environ.get('XLA_FLAGS', '')}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} if devices > 1 else None
    command = [sys.executable, "-m", "benchmarks.growth_case", name, json.dumps(arguments)]
    print(f"{name} {arguments}", file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{name} {arguments}: ended with code {done.returncode}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def examples(size: int, model: str, rounds: int) -> Iterator[dict[str, Any]]:
    """A training set of `size` sentences."""
    with tempfile.TemporaryDirectory() as scratch:
        words = write_checkpoint(Path(scratch) / "files")
        (Path(scratch) / "files" / "native").rename(Path(scratch) / "model")
        (Path(scratch) / "data").mkdir()
        for split, count in (("train", size), ("dev", _DEV_EXAMPLES)):
            write_sentences(Path(scratch) / "data" / f"{split}.tsv", words, count, seed=size + (split == "dev"))
        yield case("examples", directory=scratch, batch_size=_EXAMPLES_A_STEP)


def devices(size: int, model: str, rounds: int) -> Iterator[dict[str, Any]]:
    """`size` devices."""
    yield case("devices", devices=size, shape=model, batch_size=_DEVICES_BATCH)


def lengths(size: int, model: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of `size` tokens."""
    yield case("lengths", shape=model, length=size, tokens=TOKENS_A_STEP, rounds=rounds)


def batches(size: int, model: str, rounds: int) -> Iterator[dict[str, Any]]:
    """`size` examples a step, whole, and in parts of `MICRO_BATCH` where there are more."""
    for micro in dict.fromkeys((1, -(-size // MICRO_BATCH))):
        yield case("batches", shape=model, batch_size=size, micro=micro, rounds=rounds)


class Kind(NamedTuple):
    """A table: its usual sizes, what measures its rows, what it is about, and its columns by heading."""

    sizes: tuple[int, ...]
    measure: Callable[[int, str, int], Iterator[dict[str, Any]]]
    about: str
    columns: dict[str, Callable[[dict[str, Any]], str]]


def _megabytes(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[key] / 1e6:,.0f} MB"


def _seconds(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[key]:,.2f} s"


def _rows(row: dict[str, Any]) -> str:
    return f"{' or '.join(map(str, row['row_counts']))} of {row['row_length']}"


def _number(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[key]:,.0f}"


_SPEED = {
    "step": lambda row: f"{row['step_seconds'] * 1000:,.0f} ms",
    "useful tokens/s": _number("useful_tokens_per_second"),
    "slowest/fastest": lambda row: f"{row['slowest_over_fastest']:.2f}",
    "temporaries": _megabytes("temporary_bytes"),
}

TABLES = {
    "examples": Kind(
        (1_000, 10_000, 100_000, 1_000_000),
        examples,
        f"an epoch of a tiny model, {_EXAMPLES_A_STEP} sentences a step; peaks are of the whole process",
        {
            "examples": _number("examples"),
            "reading": _seconds("reading_seconds"),
            "peak of it": _megabytes("reading_peak_bytes"),
            "token set": lambda row: f"{row['set_bytes'] / 1e6:,.2f} MB",
            "rows": _rows,
            "planning": _seconds("planning_seconds"),
            "epoch": _seconds("epoch_seconds"),
            "tokens/s": _number("useful_tokens_per_second"),
            "peak": _megabytes("peak_bytes"),
        },
    ),
    "devices": Kind(
        (1, 2, 4, 8),
        devices,
        f"what a step of {_DEVICES_BATCH} examples exchanges, and what lies on each of the simulated devices",
        {
            "devices": _number("devices"),
            "layout": lambda row: row["layout"],
            **{
                kind: lambda row, kind=kind: "{count:,}: {bytes:,} B".format(
                    **row["collectives"].get(kind, {"count": 0, "bytes": 0})
                )
                for kind in ("all-reduce", "all-gather", "all-to-all")
            },
            "exchanged": lambda row: f"{sum(each['bytes'] for each in row['collectives'].values()) / 1e6:,.1f} MB",
            "parameters": _megabytes("parameter_bytes"),
            "optimizer": _megabytes("optimizer_bytes"),
            "temporaries": _megabytes("temporary_bytes"),
        },
    ),
    "lengths": Kind(
        (32, 64, 128, 256, 512),
        lengths,
        f"one example a row, {TOKENS_A_STEP:,} tokens a step",
        {"tokens a row": _number("length"), "rows": _rows, **_SPEED},
    ),
    "batches": Kind(
        (8, 32, 128, 512, 1024),
        batches,
        "examples of SST-2-like lengths, packed",
        {
            "examples a step": _number("batch_size"),
            "parts": _number("micro"),
            "rows of a part": _rows,
            "useful": lambda row: f"{row['useful_share']:.1%}",
            **_SPEED,
        },
    ),
}


def show(console: Console, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table; of `devices`, a line for each layout."""
    kind = TABLES[name]
    table = Table(title=f"{name}: {kind.about}")
    for heading in kind.columns:
        table.add_column(heading, justify="right")
    for row in rows:
        layouts = [layout for layout in ("jit", "pmap") if layout in row]
        for shown in [{**row, "layout": layout, **row[layout]} for layout in layouts] or [row]:
            table.add_row(*(column(shown) for column in kind.columns.values()))
    console.print(table)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = Parser(prog="python -m benchmarks.growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", default=",".join(TABLES), metavar="A,B", help="which tables")
    parser.add_argument("--sizes", metavar="N,N", help="sizes of the one table asked for, in place of its own")
    parser.add_argument("--model", choices=SHAPES, default="minilm", help="shape of the network, but in `examples`")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="rounds that a median is taken of")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args(argv)
    names = [name.strip() for name in options.tables.split(",")]
    if unknown := set(names) - set(TABLES):
        raise UserError(f"--tables names {', '.join(sorted(unknown))}; expected some of {', '.join(TABLES)}")
    if options.sizes and len(names) > 1:
        raise UserError("--sizes is for one table; name it with --tables")
    sizes = [positive(size.strip()) for size in options.sizes.split(",")] if options.sizes else None
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    found: dict[str, Any] = {}
    for name in names:
        kind = TABLES[name]
        measured = (kind.measure(size, options.model, options.rounds) for size in sizes or kind.sizes)
        found[name] = list(itertools.chain.from_iterable(measured))
        show(console, name, found[name])
    if options.json:
        command = f"benchmarks.growth {' '.join(argv or sys.argv[1:])}"
        report.write(options.json, {"command": command, "machine": report.machine(), "tables": found})


if __name__ == "__main__":
    run(main)
