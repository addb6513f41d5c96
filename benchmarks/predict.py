"""Prediction speed from raw text beside transformers' pipeline, torch, onnxruntime and OpenVINO.

Every contender labels the same texts in the same rounds with the same weights, in a process of its
own; rounds are interleaved and only one works at a time. "agreement" is the share of texts that
get the label we give, "accuracy" that of the data's labels (chance for a classifier just drawn).
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
from .options import RUNTIME_ABSENT, TORCH_ABSENT, has_runtime, has_torch, parser, positive, wanted
from .workload import Job

PRODUCT = Entry("matrix product", "product", "")
OURS, PIPELINE = "ours", "transformers pipeline"

CONTENDERS = {
    OURS: Entry(OURS, "predict-ours", ""),
    PIPELINE: Entry(PIPELINE, "predict-torch", "pipeline"),
    "torch sorted by length": Entry("torch sorted by length", "predict-torch", "sorted-64"),
    "onnxruntime sorted": Entry("onnxruntime sorted", "predict-runtime", "onnxruntime-64"),
    "OpenVINO sorted": Entry("OpenVINO sorted", "predict-runtime", "openvino-64"),
}
"""Ours first: the others' labels are held against it."""

_FIRST = 64  # texts in the first thing asked for


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = parser("python -m benchmarks.predict", __doc__)
    options.add_argument("--sentences", type=positive, default=10_000, metavar="N", help="texts to label")
    options.add_argument(
        "--whole", action="store_true", help="the pipeline too labels all of them in every round, not one part in turn"
    )
    args = options.parse_args(argv)
    if args.sentences < args.rounds:
        raise UserError(f"--sentences is {args.sentences}, fewer than the {args.rounds} rounds")
    settings = {"max_length": args.max_length, "seed": args.seed, "batch_size": 64}
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(args.log or os.devnull, "wb") as log,
        Pool(Path(scratch) / "job", log) as pool,
    ):
        made = job.make(Path(scratch) / "job", args.model, args.data, settings, sentences=args.sentences)
        edges = [args.sentences * part // args.rounds for part in range(args.rounds + 1)]
        parts = {name: [(0, args.sentences)] * args.rounds for name in CONTENDERS}
        if not args.whole:  # it takes texts as they come, so more of them at once are of no use to it
            parts[PIPELINE] = [(a, b - a) for a, b in itertools.pairwise(edges)]
        pool.start(PRODUCT, "rate", seconds=0.1)
        field = [name for name in CONTENDERS if wanted(name, args.only)]
        for name in field:
            if CONTENDERS[name].kind.endswith("torch") and not has_torch():
                pool.absent[name] = TORCH_ABSENT
                continue
            runtime = CONTENDERS[name].argument.partition("-")[0]
            if CONTENDERS[name].kind == "predict-runtime" and not has_runtime(runtime):
                pool.absent[name] = RUNTIME_ABSENT.format(runtime)
                continue
            print(f"starting {name}", file=sys.stderr, flush=True)
            pool.start(CONTENDERS[name], "predict", first=0, count=min(_FIRST, args.sentences))
            pool.ask(name, "prepare", first=0, count=parts[name][0][1])
        found = {"prediction": _rounds(pool, field, parts, made, args.sentences)}
        result = report.run(f"benchmarks.predict {' '.join(argv or sys.argv[1:])}", made.settings, pool, found)
    report.show(result)
    if args.json:
        report.write(args.json, result)


def _rounds(
    pool: Pool, field: Sequence[str], parts: dict[str, list[tuple[int, int]]], made: Job, sentences: int
) -> dict[str, Any]:
    examples = made.examples("train")
    rounds: dict[str, list[Round]] = {name: [] for name in field if name in pool.workers}
    answers = {name: np.zeros((sentences, made.settings["num_labels"])) for name in rounds}
    count = len(parts[OURS])
    for number in range(count):
        peak, _ = pool.ask(PRODUCT.name, "rate", seconds=0.7) or (float("nan"), 0.0)
        for name in rounds:
            first, texts = parts[name][number]
            print(f"round {number + 1}/{count} {name}: {texts} texts", file=sys.stderr, flush=True)
            found = pool.ask(name, "predict", first=first, count=texts)
            shapes = pool.ask(name, "computed", first=first, count=texts)
            if found and shapes:
                lengths, (batches, computed) = examples.lengths[first : first + texts], shapes[0]
                flops = useful_flops(made.settings, lengths, training=False)
                rounds[name].append(Round(found[1], batches, texts, int(lengths.sum()), computed, flops, peak))
                answers[name][first : first + texts] = found[0]
    entries = {}
    for name in (name for name in rounds if name in pool.workers):
        given = answers[name].argmax(1)
        more: dict[str, Any] = {"accuracy": float((given == examples.labels).mean())}
        if OURS in pool.workers:
            more["agreement"] = float((given == answers[OURS].argmax(1)).mean())
            more["largest_score_difference"] = float(np.abs(answers[name] - answers[OURS]).max())
        entries[name] = report.contender(pool, name, rounds[name], **more)
    return report.case(f"{sentences:,} texts, from raw text", OURS, entries)


if __name__ == "__main__":
    run(main)
