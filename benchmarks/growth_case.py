"""One case of `benchmarks.growth`, in a process of its own, so that its memory and devices are its own.

    python -m benchmarks.growth_case NAME ARGUMENTS

ARGUMENTS are a JSON object; what was measured is printed as another.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.config import CLASSIFIER, BertConfig
from bert_jax.run_files import RECORD

from .floor import MODELS
from .worker import peak_memory

SHAPES = {
    **MODELS,
    "tiny": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
}
"""Name -> what of `BertConfig` is not BERT-base's."""

SST2 = 67_349
"""Training examples of SST-2."""


def config_of(shape: str, vocab_size: int = 30_522) -> BertConfig:
    """A classifier of two labels of one of `SHAPES`."""
    labels = ("negative", "positive")
    return BertConfig(vocab_size=vocab_size, architecture=CLASSIFIER, labels=labels, **SHAPES[shape])


def drawn_lengths(count: int, generator: np.random.Generator) -> np.ndarray:
    """Tokens of `count` sentences such as SST-2's: 3 to 66, [CLS] and [SEP] included, and 13 on average."""
    return 2 + np.clip(generator.lognormal(np.log(8.4), 0.75, count).round(), 1, 64).astype(np.int64)


def examples(directory: str, batch_size: int) -> dict[str, Any]:
    """`python -m train` for an epoch of `directory`'s data, then its planning alone; seconds and bytes."""
    from train.config import TrainConfig
    from train.data.prepare import prepare

    place = Path(directory)
    config = TrainConfig(
        model=str(place / "model"),
        data=str(place / "data"),
        out=str(place / "run"),
        epochs=1,
        batch_size=batch_size,
        max_length=64,
    )
    before, begun, used = peak_memory(), time.perf_counter(), time.process_time()
    prepared = prepare(config)
    found = {
        "examples": prepared.counts["train"],
        "reading_seconds": time.perf_counter() - begun,
        "reading_processor_seconds": time.process_time() - used,
        "before_reading_bytes": before,
        "reading_peak_bytes": peak_memory(),
        "set_bytes": prepared.data.nbytes,
    }

    # As `train.__main__`, which reads before it imports JAX.
    from rich.console import Console

    from train.run import loop
    from train.step.batches import Batches

    used = time.process_time()
    loop.run(config, prepared, Console(quiet=True))
    record = json.loads((config.run_directory / RECORD).read_text(encoding="utf-8"))
    peak, used, begun = peak_memory(), time.process_time() - used, time.perf_counter()
    batches = Batches(prepared.data, batch_size=batch_size, seed=config.seed)
    for step in range(batches.steps_per_epoch):
        batches.plan(step)
    return {
        **found,
        **{name: record[name] for name in ("steps", "row_counts", "row_length")},
        "epoch_seconds": record["figures"]["train_seconds"],
        "run_processor_seconds": used,
        "useful_tokens_per_second": record["figures"]["useful_tokens_per_second"],
        "planning_seconds": time.perf_counter() - begun,
        "peak_bytes": peak,
    }


def devices(shape: str, batch_size: int) -> dict[str, Any]:
    """What a step exchanges over all devices of this process, and the state each of them holds, by layout."""
    import jax

    from .hlo import collectives

    out: dict[str, Any] = {"devices": jax.device_count()}
    drawn = drawn_lengths(SST2, np.random.default_rng(0))
    for parallel in ("jit", "pmap"):
        run = Run(shape, drawn, batch_size, parallel=parallel)
        compiled, num_rows = run.compiled(0)
        out[parallel] = {
            "rows": run.batches.computed(num_rows),
            "parameter_bytes": _bytes_a_device(run.state.params),
            "optimizer_bytes": _bytes_a_device(run.state.opt_state),
            "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
            "collectives": {kind: each._asdict() for kind, each in collectives(compiled.as_text()).items()},
        }
    return out


def lengths(shape: str, length: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Steps of one example a row of `length` tokens, `tokens` tokens each."""
    rows = max(1, tokens // length)
    run = Run(shape, np.full(rows * 8, length), rows, packed=False)
    return {"length": length, **run.timed(rounds)}


def batches(shape: str, batch_size: int, micro: int, rounds: int) -> dict[str, Any]:
    """Packed steps of `batch_size` examples of SST-2-like lengths, computed in `micro` parts."""
    drawn = drawn_lengths(SST2, np.random.default_rng(0))
    run = Run(shape, drawn, batch_size, micro=micro)
    return {"batch_size": batch_size, "micro": micro, **run.timed(rounds)}


class Run:
    """Training as `train.run.loop` does it, of random weights on random tokens, in examples of the given lengths."""

    def __init__(
        self, shape: str, drawn: Sequence[int] | np.ndarray, batch_size: int, parallel: str = "jit", **how: Any
    ):
        import jax
        from flax import nnx

        from bert_jax.heads import SequenceClassifier
        from bert_jax.packing import Tokens
        from train.data.token_set import TokenSet
        from train.step.batches import Batches
        from train.step.layouts import make_layout
        from train.step.optimizer import fine_tuning
        from train.step.trainer import Trainer

        config, generator = config_of(shape), np.random.default_rng(1)
        tokens = [generator.integers(5, config.vocab_size, n).astype(np.int32) for n in drawn]
        data = TokenSet.of([Tokens(ids, np.zeros_like(ids)) for ids in tokens], [i % 2 for i in range(len(tokens))])
        layout = make_layout(config, parallel)
        self.batches = Batches(data, batch_size=batch_size, seed=0, shards=layout.shards, **how)
        graphdef, params = nnx.split(SequenceClassifier(config, rngs=nnx.Rngs(0)))
        optimizer = fine_tuning(5e-5, steps=1000, warmup_steps=60, weight_decay=0.01, clip_norm=1.0)
        self.trainer = Trainer(layout, graphdef, optimizer, params, self.batches.shapes.row_length)
        self.state, self._key = self.trainer.start(params), self.trainer.key(0)
        self._data = self.trainer.place(data)
        self._ready = jax.block_until_ready

    def compiled(self, step: int) -> tuple[Any, int]:
        """The program of a step, and the rows of a shard that it is for."""
        plan, num_rows = self.batches.plan(step)
        program: Any = self.trainer.program(num_rows)
        if hasattr(program, "lower"):
            placed = self.trainer.place_plan(plan, 1)
            with self.trainer.context():
                program = program.lower(self.state, self._data, *placed, self._key).compile()
            self.trainer.compiled[num_rows] = program
        return program, num_rows

    def timed(self, rounds: int, least: float = 1.0) -> dict[str, Any]:
        """Medians over `rounds` rounds of steps, of at least `least` seconds each; nothing is compiled in them."""
        self._steps(0, 1)  # the first has memory to find
        alone, _ = self._steps(0, 1)
        count = max(1, int(np.ceil(least / alone)))
        found = [self._steps(1 + number * count, count) for number in range(rounds)]
        programs: list[Any] = list(self.trainer.compiled.values())
        epoch = range(self.batches.steps_per_epoch)
        computed = sum(int(np.prod(self.batches.computed(self.batches.plan(step)[1]))) for step in epoch)
        return {
            "steps_a_round": count,
            "step_seconds": statistics.median(seconds / count for seconds, _ in found),
            "useful_tokens_per_second": statistics.median(tokens / seconds for seconds, tokens in found),
            "slowest_over_fastest": max(s / t for s, t in found) / min(s / t for s, t in found),
            "useful_share": self.batches.useful_tokens(0, len(epoch)) / computed,
            **self.batches.shapes._asdict(),
            "temporary_bytes": max(program.memory_analysis().temp_size_in_bytes for program in programs),
        }

    def _steps(self, first: int, count: int) -> tuple[float, int]:
        """Take steps; the seconds they took and their useful tokens."""
        for step in range(first, first + count):
            self.compiled(step)
        begun = time.perf_counter()
        for step in range(first, first + count):
            plan, num_rows = self.batches.plan(step)
            placed = self.trainer.place_plan(plan, 1)
            self.state, _ = self.trainer(self.state, self._data, placed, self._key, num_rows)
        self._ready(self.state)
        return time.perf_counter() - begun, self.batches.useful_tokens(first, count)


def _bytes_a_device(tree: Any) -> int:
    import jax

    return sum(
        int(np.prod(array.sharding.shard_shape(array.shape))) * array.dtype.itemsize for array in jax.tree.leaves(tree)
    )


CASES = {"examples": examples, "devices": devices, "lengths": lengths, "batches": batches}
"""Name -> what measures it."""


def main(name: str, arguments: str) -> None:
    """Measure one case and print what was found."""
    # What libraries print must not get beside it.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps(CASES[name](**json.loads(arguments))), file=answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
