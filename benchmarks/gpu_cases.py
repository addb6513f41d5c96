"""What `benchmarks.gpu` measures, most important first, and the drawn examples that it measures on."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import CLASSIFIER, BertConfig
from bert_jax.packing import Tokens

from . import job
from .driver import Entry
from .floor import MODELS
from .workload import Job


class Inputs(NamedTuple):
    """So many examples of so many tokens at most; short ones are drawn to look like SST-2's."""

    examples: int
    longest: int
    short: bool = False


INPUTS = {"sst2": Inputs(67_349, 66, short=True), "128": Inputs(20_000, 128), "512": Inputs(4_096, 512)}
"""The training set of SST-2 in numbers; the 20,000 texts of 128 tokens of a well-known notebook; long texts."""

# Percentile and length in tokens, the rounding to whole ones taken off.
_SST2 = (
    *((0, 3.0), (5, 3.6), (10, 3.9), (25, 5.7), (50, 9.8), (75, 17.7)),
    *((90, 26.7), (95, 32.7), (99, 43.7), (99.9, 55.7), (100, 66.0)),
)

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}

CHECKPOINT = "checkpoint"
"""The model and the inputs of the case that trains what `--checkpoint` and `--data` name."""


@dataclass(frozen=True)
class Case:
    """One contender at one piece of work; `seconds` is what it should need on an H100, start and compilation included.

    `kind` and `argument` are those of `driver.Entry`. With `epoch`, a whole epoch is timed at the end if it is short.
    `scan` is that of `train.step.train_steps`.
    """

    kind: str
    who: str
    argument: str
    model: str
    inputs: str
    batch_size: int
    dtype: str
    seconds: float
    attention: str = "auto"
    epoch: bool = False
    scan: int | None = None

    @property
    def name(self) -> str:
        """The work, then who does it."""
        return f"{self.model} {self.inputs} {self.batch_size} {self.dtype} {self.who}"

    def entry(self) -> Entry:
        """What to start."""
        return Entry(self.name, self.kind, self.argument)


def _ours(work: str, seconds: float, who: str = "ours", argument: str = "packed", **more: Any) -> Case:
    return Case("ours", who, argument, *_split(work), seconds, **more)


def _torch(work: str, seconds: float, layout: str, compiled: bool = False) -> Case:
    who = f"{'torch.compile' if compiled else 'torch'} {layout}"
    return Case("torch", who, layout + "-compiled" * compiled, *_split(work), seconds)


def _split(work: str) -> tuple[str, str, int, str]:
    model, inputs, batch_size, dtype = work.split()
    return model, inputs, int(batch_size), dtype


LARGE_BATCH = "base sst2 1280 bfloat16"
"""17,000 useful tokens a step."""

SMALL_BATCH, NOTEBOOK, MINILM = "base sst2 32 bfloat16", "base 128 32 bfloat16", "minilm sst2 32 bfloat16"
FINE_TUNING = f"{CHECKPOINT} {CHECKPOINT} 32 bfloat16"
ATTENTION = Case("attention", "attention", "", "base", "sst2", 128, "bfloat16", 50)
"""The kernels alone; its batch size counts rows of 128 tokens."""

CASES: tuple[Case, ...] = (
    _ours(LARGE_BATCH, 50),
    _torch(LARGE_BATCH, 20, "longest"),
    _torch(LARGE_BATCH, 20, "grouped"),
    _ours(SMALL_BATCH, 40),
    _torch(SMALL_BATCH, 15, "longest"),
    _ours(NOTEBOOK, 50, epoch=True),
    _ours(MINILM, 35, epoch=True),
    _ours(FINE_TUNING, 45, epoch=True),
    _ours(LARGE_BATCH, 40, "packed rows of 128", "packed-128"),
    # torch.compile takes long, and much depends on the versions: what does not need it comes first.
    _torch(LARGE_BATCH, 80, "longest", compiled=True),
    _torch(LARGE_BATCH, 50, "grouped", compiled=True),
    ATTENTION,
    _torch(NOTEBOOK, 15, "128"),
    _ours("base 512 32 bfloat16", 45),
    _torch("base 512 32 bfloat16", 20, "512"),
    _ours("large sst2 512 bfloat16", 75),
    _torch("large sst2 512 bfloat16", 25, "longest"),
    _ours("base sst2 512 float32", 45),
    _torch("base sst2 512 float32", 25, "longest"),
    _ours(LARGE_BATCH, 40, "plain attention", attention="plain"),
    _ours(SMALL_BATCH, 40, "packed rows of 96", "packed-96"),
    _torch(SMALL_BATCH, 60, "longest", compiled=True),
    # A loop whose end the host must ask for, against loops of known length: what CUDA graphs make of each.
    _ours(SMALL_BATCH, 40, "scanned", scan=1),
    _ours(SMALL_BATCH, 100, "scanned by 4", scan=4),
    _torch(NOTEBOOK, 60, "128", compiled=True),
    _ours("base sst2 256 bfloat16", 40),
    _torch(MINILM, 15, "longest"),
    _torch("base 512 32 bfloat16", 60, "512", compiled=True),
    _ours("base sst2 1024 bfloat16", 40),
    _torch("large sst2 512 bfloat16", 90, "longest", compiled=True),
)


def shrunk(case: Case) -> Case:
    """The same case where everything is small (`make_job`'s `tiny`)."""
    return dataclasses.replace(case, seconds=60)


def sst2_lengths(count: int, seed: int) -> np.ndarray:
    """Lengths in tokens like those of SST-2's training set, [CLS] and [SEP] included: 13.3 on average, 66 at most.

    Drawn from that set's percentiles, with straight lines between them.
    """
    chance = np.random.default_rng(seed).random(count) * 100
    percentiles, lengths = zip(*_SST2, strict=True)
    return np.rint(np.interp(chance, percentiles, lengths)).astype(np.int64)


def make_job(directory: Path, case: Case, tiny: bool, seed: int, source: tuple[str, Path] | None) -> Job:
    """Write what a case's contender works on; `source` is a checkpoint and data for the case that wants them.

    Elsewhere weights are drawn by the contenders and tokens here, so nothing has to be at hand.
    """
    batch_size = max(4, case.batch_size // 16) if tiny else case.batch_size
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "warmup": 0.06,
        "seed": seed,
        "train_examples": None,
        "dtype": case.dtype,
        "attention": case.attention,
        "one_shape": True,
    }
    if case.scan is not None:  # a CPU, which takes one step at a time, is to show these loops too
        settings |= {"scan": case.scan, "window": 4 if tiny else 16}
    if case.model == CHECKPOINT:
        assert source is not None
        return job.make(directory, *source, {**settings, "max_length": 128})
    sizes: dict[str, Any] = TINY if tiny else MODELS[case.model]
    config = BertConfig(architecture=CLASSIFIER, labels=("negative", "positive"), **sizes)
    inputs = INPUTS[case.inputs]
    count = inputs.examples // 64 if tiny else inputs.examples
    lengths = sst2_lengths(count, seed) if inputs.short else np.full(count, inputs.longest)
    if case.kind == "attention":
        settings |= {"tokens": 128 * batch_size, "heads": config.num_attention_heads}
        settings |= {"head_size": config.head_size}
    directory.mkdir(parents=True)
    examples, labels = drawn(lengths, config.vocab_size, seed)
    job.write_examples(directory / "train.npz", examples, labels)
    job.write_examples(directory / "dev.npz", examples[:64], labels[:64])
    known = {**job.facts(config), "config": config.to_dict(), **settings, **job.schedule(settings, count)}
    (directory / "job.json").write_text(json.dumps(known), encoding="utf-8")
    return Job(directory)


def drawn(lengths: np.ndarray, vocab_size: int, seed: int) -> tuple[Sequence[Tokens], Sequence[int]]:
    """Examples of these lengths, [CLS] and [SEP] at their ends, any words between them, and labels 0 and 1."""
    generator = np.random.default_rng((seed, 1))
    ids = generator.integers(1000, vocab_size, lengths.sum(), dtype=np.int32)
    ends = np.cumsum(lengths)
    ids[ends - lengths], ids[ends - 1] = 101, 102
    parts = np.split(ids, ends[:-1])
    return [Tokens(part, part * 0) for part in parts], generator.integers(0, 2, len(lengths)).tolist()
