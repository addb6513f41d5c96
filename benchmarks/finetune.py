"""Fine-tuning speed beside transformers on torch, transformers' Flax and KerasHub.

Every contender trains on the same examples of the same steps, from the same weights, in a process
of its own; rounds are interleaved and only one works at a time. Runs of limited time by default;
--train-examples trains through that many and shows accuracy on dev.
"""

import itertools
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.command import run
from bert_jax.errors import UserError

from . import job, report
from .driver import Entry, Pool
from .figures import Round, useful_flops
from .options import TORCH_ABSENT, has_torch, parser, positive, wanted
from .workload import MEGABATCH, Examples

COMPILED = " compiled"
"""Ends the name of a contender that has to beat the one without it to be kept."""

PRODUCT = Entry("matrix product", "product", "")

_LOOK_AHEAD = 200  # steps whose shapes are compiled before the rounds
_CHECKED, _LOGIT_BOUND = 64, 1e-4  # dev examples whose logits are compared at the start, and how far apart they may be
_TRIAL_SECONDS = 2.0
_GAIN = 0.98  # a compiled step's time over the plain one's at which compiling is said to help


def contenders(flax: str | None, keras: str | None) -> dict[str, Entry | str]:
    """Every contender by name, or why it is absent."""
    found: dict[str, Entry | str] = {
        "ours packed": Entry("ours packed", "ours", "packed"),
        "ours one a row of 128": Entry("ours one a row of 128", "ours", "128"),
    }
    for name, layout, suffixes in (
        ("to 128", "128", ("", COMPILED)),
        ("to longest", "longest", ("",)),
        ("grouped", "grouped", ("", COMPILED)),
    ):
        for suffix in suffixes:
            full = f"torch {name}{suffix}"
            found[full] = (
                Entry(full, "torch", f"{layout}-compiled" if suffix else layout) if has_torch() else TORCH_ABSENT
            )
    for name, python, option in (
        ("transformers 4.57 Flax", flax, "--flax-python"),
        ("KerasHub on JAX", keras, "--keras-python"),
    ):
        kind = option.removeprefix("--").removesuffix("-python")
        found[name] = Entry(name, kind, "128", python) if python else f"not installed ({option})"
    return found


CASES = {
    "equal": (
        "every example in a row of 128",
        "ours one a row of 128",
        ("torch to 128", "torch to 128 compiled", "transformers 4.57 Flax", "KerasHub on JAX"),
    ),
    "short": (
        "texts as they are, against padding to the longest of the batch and grouping by length",
        "ours packed",
        ("torch to longest", "torch grouped", "torch grouped compiled"),
    ),
    "default": (
        "texts as they are, against padding to 128 (run_glue's default)",
        "ours packed",
        ("torch to 128", "torch to 128 compiled"),
    ),
}
"""Name -> what it is about, our contender, the peers."""


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = parser("python -m benchmarks.finetune", __doc__)
    options.add_argument("--cases", default=",".join(CASES), metavar="A,B", help="which cases")
    options.add_argument(
        "--seconds", type=float, default=8.0, metavar="X", help="time of the slowest contender in a round"
    )
    options.add_argument(
        "--train-examples", metavar="N|all", help="train through N examples, in --rounds parts; --seconds is not used"
    )
    options.add_argument("--batch-size", type=positive, default=32, metavar="N", help="examples a step")
    options.add_argument("--learning-rate", type=float, default=5e-5, metavar="X", help="peak learning rate")
    options.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    options.add_argument("--flax-python", metavar="PATH", help="interpreter with transformers 4.57 and flax")
    options.add_argument("--keras-python", metavar="PATH", help="interpreter with keras_hub and jax")
    args = options.parse_args(argv)
    cases = [name.strip() for name in args.cases.split(",")]
    if unknown := set(cases) - set(CASES):
        raise UserError(f"--cases names {', '.join(sorted(unknown))}; expected some of {', '.join(CASES)}")
    if args.max_length > 128:
        raise UserError(f"--max-length is {args.max_length}, more than the 128 that some contenders pad to")
    settings = {
        "batch_size": args.batch_size,
        "max_length": args.max_length,
        "learning_rate": args.learning_rate,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "warmup": 0.06,
        "seed": args.seed,
        "train_examples": None if args.train_examples in (None, "all") else positive(args.train_examples),
    }
    known = contenders(args.flax_python, args.keras_python)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(args.log or os.devnull, "wb") as log,
        Pool(Path(scratch) / "job", log) as pool,
    ):
        made = job.make(Path(scratch) / "job", args.model, args.data, settings)
        examples = made.examples("train")
        pool.start(PRODUCT, "rate", seconds=0.1)
        found: dict[str, Any] = {}
        reference: list[Any] = []
        for number, name in enumerate(cases):
            about, ours, peers = CASES[name]
            field = [who for who in (ours, *peers) if wanted(who, args.only)]
            field = [who for who in field if not (args.no_compile and who.endswith(COMPILED))]
            _start(pool, field, known, reference)
            if args.train_examples:
                found[name] = _whole(
                    pool, about, ours, field, examples, made.examples("dev"), made.settings, args.rounds
                )
            else:
                found[name] = _timed(pool, about, ours, field, examples, made.settings, args.rounds, args.seconds)
            needed = {who for later in cases[number + 1 :] for who in (CASES[later][1], *CASES[later][2])}
            for who in set(pool.workers) - needed - {PRODUCT.name}:
                pool.close(who)
        result = report.run(f"benchmarks.finetune {' '.join(argv or sys.argv[1:])}", made.settings, pool, found)
    report.show(result)
    if args.json:
        report.write(args.json, result)


def _start(pool: Pool, field: Sequence[str], known: dict[str, Entry | str], reference: list[Any]) -> None:
    """Bring up what is not up yet, one after the other, and leave out what compiling does not help."""
    for name in field:
        entry = known[name]
        if isinstance(entry, str):
            pool.absent[name] = entry
        elif name not in pool.workers and name not in pool.absent:
            _say(f"starting {name}")
            pool.start(entry, "train", first=0, steps=1)
            _check(pool, name, reference)
            pool.ask(name, "prepare", first=0, steps=_LOOK_AHEAD)
            if name.endswith(COMPILED):
                _try_compiled(pool, name.removesuffix(COMPILED), name)


def _check(pool: Pool, name: str, reference: list[Any]) -> None:
    """Leave a contender out that does not compute what the first one does: other weights, another GELU."""
    pool.ask(name, "restart")
    if found := pool.ask(name, "logits", count=_CHECKED):
        reference[:] = reference or found[0]
        difference = float(np.abs(np.array(found[0]) - np.array(reference)).max())
        if not difference <= _LOGIT_BOUND:
            pool.drop(name, f"its logits differ by {difference:.1e} from those of the same weights elsewhere")


def _try_compiled(pool: Pool, plain: str, compiled: str) -> None:
    if plain not in pool.workers or compiled not in pool.workers:
        return
    _, seconds = pool.ask(plain, "train", first=0, steps=1) or (None, 1.0)
    steps = max(1, round(_TRIAL_SECONDS / seconds))
    times: dict[str, list[float]] = {plain: [], compiled: []}
    for trial in range(3):
        for name, kept in times.items():
            if found := pool.ask(name, "train", first=trial * steps, steps=steps):
                kept.append(found[1] / steps)
    if all(times.values()):
        before, after = min(times[plain]), min(times[compiled])
        words = f"{after * 1000:,.0f} ms a step against {before * 1000:,.0f} without"
        if after > _GAIN * before:
            pool.drop(compiled, f"torch.compile does not help here: {words}")


def _timed(
    pool: Pool,
    about: str,
    ours: str,
    field: Sequence[str],
    examples: Examples,
    settings: dict[str, Any],
    count: int,
    seconds: float,
) -> dict[str, Any]:
    """Rounds of so many steps that the slowest contender takes `seconds`."""
    trials: dict[str, list[float]] = {name: [] for name in field}
    for _ in range(2):
        for name, kept in trials.items():
            if found := pool.ask(name, "train", first=0, steps=2):
                kept.append(found[1] / 2)
    slowest = max((min(kept) for kept in trials.values() if kept), default=seconds)
    # With fewer batches to sort together than in a real run, grouping by length would pad more: on SST-2
    # 9% with half as many, against 4.5%.
    least = MEGABATCH if any("grouped" in name for name in field) else 1
    steps = max(least, int(seconds / slowest))
    parts = [(number * steps, steps) for number in range(count)]
    rounds = _rounds(pool, field, parts, examples, settings)
    entries = {name: report.contender(pool, name, found) for name, found in rounds.items()}
    return report.case(about, ours, entries, steps_a_round=steps)


def _whole(
    pool: Pool,
    about: str,
    ours: str,
    field: Sequence[str],
    examples: Examples,
    dev: Examples,
    settings: dict[str, Any],
    count: int,
) -> dict[str, Any]:
    """One run through the examples from the start, in parts, then accuracy on dev."""
    for name in field:
        pool.ask(name, "restart")
    total = settings["schedule_steps"]
    edges = [total * part // count for part in range(count + 1)]
    parts = [(a, b - a) for a, b in itertools.pairwise(edges) if b > a]
    rounds = _rounds(pool, field, parts, examples, settings)
    entries = {}
    for name, found in rounds.items():
        if logits := pool.ask(name, "logits", count=len(dev)):
            accuracy = float((np.argmax(logits[0], axis=1) == dev.labels).mean())
            entries[name] = report.contender(pool, name, found, accuracy=accuracy)
    return report.case(about, ours, entries, steps=total)


def _rounds(
    pool: Pool,
    field: Sequence[str],
    parts: Sequence[tuple[int, int]],
    examples: Examples,
    settings: dict[str, Any],
) -> dict[str, list[Round]]:
    """Each part by each contender in turn; a contender that fails on the way is not in the result."""
    out: dict[str, list[Round]] = {name: [] for name in field if name in pool.workers}
    for number, (first, steps) in enumerate(parts, 1):
        chosen = [examples.indices(step) for step in range(first, first + steps)]
        lengths = examples.lengths[[i for indices in chosen for i in indices]]
        peak, _ = pool.ask(PRODUCT.name, "rate", seconds=0.7) or (float("nan"), 0.0)
        for name in out:
            _say(f"round {number}/{len(parts)} {name}: {steps} steps")
            if found := pool.ask(name, "train", first=first, steps=steps):
                computed, seconds = found
                flops = useful_flops(settings, lengths, training=True)
                out[name].append(Round(seconds, steps, len(lengths), int(lengths.sum()), computed, flops, peak))
    return {name: rounds for name, rounds in out.items() if name in pool.workers}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
