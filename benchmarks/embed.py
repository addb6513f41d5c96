"""Embedding speed from raw text beside sentence-transformers, which sorts texts by length.

Every contender embeds the same texts in the same rounds with the same weights, in a process of its
own; rounds are interleaved and only one works at a time. "agreement" is the least cosine between a
text's embedding and ours, over the first texts.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import checkpoint
from bert_jax.command import run
from bert_jax.sentence_modules import read_modules
from convert import conversion, huggingface

from . import job, report
from .driver import Entry, Pool
from .figures import Round, useful_flops
from .options import SENTENCES_ABSENT, has_sentence_transformers, parser, positive, wanted
from .workload import Job

PRODUCT = Entry("matrix product", "product", "")
OURS = "ours"

CONTENDERS = {
    OURS: Entry(OURS, "embed-ours", ""),
    "batches of 32": Entry("batches of 32", "embed-theirs", "32"),
    "batches of 64": Entry("batches of 64", "embed-theirs", "64"),
}
"""Ours first; the others are sentence-transformers at two batch sizes, of which 32 is its default."""

_FIRST = 64  # texts in the first thing asked for, and those whose embeddings are compared


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = parser("python -m benchmarks.embed", __doc__)
    options.add_argument("--sentences", type=positive, default=3000, metavar="N", help="texts to embed")
    args = options.parse_args(argv)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(args.log or os.devnull, "wb") as log,
        Pool(Path(scratch) / "job", log) as pool,
    ):
        made = _make(Path(scratch) / "job", args)
        pool.start(PRODUCT, "rate", seconds=0.1)
        field = [name for name in CONTENDERS if wanted(name, args.only)]
        for name in field:
            if name != OURS and not has_sentence_transformers():
                pool.absent[name] = SENTENCES_ABSENT
                continue
            print(f"starting {name}", file=sys.stderr, flush=True)
            pool.start(CONTENDERS[name], "embed", count=min(_FIRST, args.sentences))
            pool.ask(name, "embed", count=args.sentences)
        found = {"embedding": _rounds(pool, field, made, args)}
        result = report.run(f"benchmarks.embed {' '.join(argv or sys.argv[1:])}", made.settings, pool, found)
    report.show(result)
    if args.json:
        report.write(args.json, result)


def _make(directory: Path, args: Any) -> Job:
    """Write a job: an encoder with its modules in both layouts, raw train texts, and their tokens.

    Texts are cut to `--max-length` tokens on both sides. Raises `UserError` for a model that has no `modules.json`.
    """
    source = conversion.read(args.model)
    files = dict(source.checkpoint.files)
    name = "sentence_bert_config.json"
    files[name] = json.dumps({**json.loads(files.get(name, b"{}")), "max_seq_length": args.max_length}).encode()
    made = checkpoint.Checkpoint(source.checkpoint.config, source.checkpoint.tensors, files)
    modules = read_modules(files, made.config, directory)
    for layout, writer in (("native", checkpoint), ("hf", huggingface)):
        (directory / layout).mkdir(parents=True)
        writer.write(directory / layout, made)
    texts = job.texts(args.data, args.seed, args.sentences)
    (directory / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    tokens = source.tokenizer(texts, max_length=modules.max_length)
    job.write_examples(directory / "train.npz", tokens, [0] * len(texts))
    known = {"max_length": modules.max_length, "seed": args.seed, "batch_size": 64, "source": source.location.origin}
    (directory / "job.json").write_text(json.dumps({**job.facts(made.config), **known}), encoding="utf-8")
    return Job(directory)


def _rounds(pool: Pool, field: Sequence[str], made: Job, args: Any) -> dict[str, Any]:
    lengths = made.examples("train").lengths
    flops = useful_flops(made.settings, lengths, training=False)
    rounds: dict[str, list[Round]] = {name: [] for name in field if name in pool.workers}
    for number in range(args.rounds):
        peak, _ = pool.ask(PRODUCT.name, "rate", seconds=0.7) or (float("nan"), 0.0)
        for name in rounds:
            print(f"round {number + 1}/{args.rounds} {name}", file=sys.stderr, flush=True)
            found = pool.ask(name, "embed", count=args.sentences)
            shapes = pool.ask(name, "computed", count=args.sentences)
            if found and shapes:
                batches, computed = shapes[0]
                rounds[name].append(Round(found[1], batches, args.sentences, int(lengths.sum()), computed, flops, peak))
    vectors = {name: pool.ask(name, "vectors", count=_FIRST) for name in rounds}
    unit = {name: _unit(np.array(given[0])) for name, given in vectors.items() if given}
    entries = {}
    for name in (name for name in rounds if name in pool.workers):
        more = {"agreement": float((unit[name] * unit[OURS]).sum(axis=1).min())} if OURS in unit else {}
        entries[name] = report.contender(pool, name, rounds[name], **more)
    return report.case(f"{args.sentences:,} texts, from raw text", OURS, entries)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    run(main)
