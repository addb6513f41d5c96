"""What checkpoints cost a run: steps with one save among them, beside as many without, in turn.

A save copies the state while the device waits, then writes and hashes it in a thread of its own beside
the steps that follow, as `python -m train --checkpoint-every N` does. With few examples the same steps are
repeated.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bert_jax.command import MINILM, Parser, run
from train.config import DEMO

from . import job
from .options import positive


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = Parser(prog="python -m benchmarks.saving", description=__doc__)
    options.add_argument("--model", default=MINILM, metavar="DIR|ID", help="checkpoint: directory or hub id")
    options.add_argument("--data", type=Path, default=DEMO, metavar="DIR", help="as `python -m train` takes it")
    options.add_argument("--steps", type=positive, default=100, metavar="N", help="steps to a save")
    options.add_argument("--batch-size", type=positive, default=32, metavar="N", help="examples a step")
    options.add_argument("--max-length", type=positive, default=128, metavar="N", help="cut texts to N tokens")
    options.add_argument("--rounds", type=positive, default=5, metavar="N", help="rounds, with and without in each")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    args = options.parse_args(argv)
    settings = {
        "batch_size": args.batch_size,
        "max_length": args.max_length,
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "warmup": 0.06,
        "seed": 0,
        "train_examples": None,
    }
    with tempfile.TemporaryDirectory() as scratch:
        made = job.make(Path(scratch) / "job", args.model, args.data, settings)
        found = measure(made, Path(scratch) / "checkpoints", args.steps, args.rounds)
    print(
        f"{args.steps} steps: {found['plain_seconds']:.2f} s, with a save {found['saving_seconds']:.2f} s; "
        f"cost of saving {found['cost']:+.2%} of the steps' time (rounds: "
        f"{', '.join(f'{ratio - 1:+.2%}' for ratio in found['ratios'])})\n"
        f"a save of {found['checkpoint_bytes'] / 1e6:,.0f} MB: steps wait {found['wait_seconds']:.2f} s, "
        f"written {found['written_seconds']:.2f} s after it began"
    )
    if args.json:
        record = {"command": f"benchmarks.saving {' '.join(argv or sys.argv[1:])}", "load": os.getloadavg(), **found}
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def measure(made: job.Job, directory: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds of seconds with and without a save, and their ratio in each round.

    What follows what changes from round to round, so neither is always the first.
    """
    from train.run.checkpoints import Checkpoints, named

    from .contenders.ours import Contender

    ours = Contender(made, "packed")
    ours.prepare(0, steps)
    plain, saving, waits, written = [], [], [], []

    def without() -> None:
        begun = time.perf_counter()
        ours.train(0, steps)
        plain.append(time.perf_counter() - begun)

    with Checkpoints(directory, print) as checkpoints:

        def beside() -> None:
            begun = time.perf_counter()
            checkpoints.save(len(saving), named(ours.whole_state()), {})
            waits.append(time.perf_counter() - begun)
            ours.train(0, steps)
            saving.append(time.perf_counter() - begun)
            checkpoints.finish()
            newest = directory / f"{checkpoints.steps()[-1]}.json"
            written.append(newest.stat().st_mtime - (time.time() - (time.perf_counter() - begun)))

        beside()  # the first has directories and threads to make
        for times in (saving, waits, written):
            times.clear()
        for number in range(rounds):
            for part in (without, beside) if number % 2 else (beside, without):
                part()
        size = sum(path.stat().st_size for path in (directory / str(checkpoints.steps()[-1])).rglob("*"))
    ratios = [b / a for a, b in zip(plain, saving, strict=True)]
    return {
        "steps": steps,
        "plain_seconds": statistics.median(plain),
        "saving_seconds": statistics.median(saving),
        "ratios": ratios,
        "cost": statistics.median(ratios) - 1,
        "wait_seconds": statistics.median(waits),
        "written_seconds": statistics.median(written),
        "checkpoint_bytes": size,
    }


if __name__ == "__main__":
    run(main)
