"""The run, from first line to last."""

import importlib.metadata
import json
import math
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from bert_jax import __version__, checkpoint
from bert_jax.checkpoint import Checkpoint, parameter_shapes
from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.files import new_directory, sha256, write_json
from bert_jax.fused_attention import takes
from bert_jax.optimizer import fine_tuning
from bert_jax.parameters import build_classifier, named_arrays

from . import hosts
from .batches import Batches
from .config import TrainConfig
from .evaluate import Evaluator
from .metrics import Metrics
from .parallel import Layout, Trainer, make_layout
from .prepare import Prepared
from .report import CompileClock, Speed, closing_table, ticker
from .step import StepMetrics

LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl."""


def run(config: TrainConfig, prepared: Prepared, console: Console) -> dict[str, Metrics]:
    """Train, keep the best model by `config.metric` on dev, and report it on every split.

    Writes `run.json`, `metrics.jsonl` and `best/` into the run directory. Raises `UserError`
    where the loss stops being finite.
    """
    clock = CompileClock()
    out = config.run_directory
    network = prepared.checkpoint.config
    layout = make_layout(network, config.parallel, config.model_parallel, config.shard_parameters)
    on_cpu = jax.default_backend() == "cpu"
    batches = Batches(
        prepared.data,
        batch_size=config.batch_size,
        seed=config.seed,
        micro=config.accumulate,
        shards=layout.shards,
        window=config.steps_per_dispatch or (1 if on_cpu else 16),
        multiple=8 if on_cpu else 64,  # of tokens in a row, as the fused attention likes them
    )
    check_attention(config.attention, batches.shapes.row_length, network.head_size)
    console.print(_describe(batches, layout))
    start = time.monotonic()
    steps = config.epochs * batches.steps_per_epoch
    record = _record(config, prepared, batches, steps)
    hosts.on_first(lambda: _begin(out, record))

    settings = {"attention": config.attention, "remat": config.remat}
    model = build_classifier(network, prepared.checkpoint.tensors, config.dtype, **settings)
    graphdef, params = nnx.split(model)
    optimizer = fine_tuning(
        config.learning_rate,
        steps=steps,
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
    trainer = Trainer(layout, graphdef, optimizer, params, batches.shapes.row_length)
    evaluate = Evaluator(layout, graphdef, len(network.labels))
    state, key = trainer.start(params), trainer.key(config.seed)
    resident = trainer.place(prepared.data) if hosts.everyone(fits(prepared.data.nbytes)) else None
    del model, params  # the state has its own

    speed = Speed(clock)
    best: float | None = None
    results: dict[str, Metrics] = {}
    pending: list[tuple[int, int, StepMetrics]] = []
    step = 0
    log_file = out / "metrics.jsonl" if hosts.is_first() else os.devnull
    with open(log_file, "w", encoding="utf-8") as log, ticker(console, steps) as show:
        while step < steps:
            count = batches.window_at(step)
            with jax.transfer_guard("disallow"):  # what goes to the device goes there in words
                plan, num_rows = batches.plan(step, count)
                data = resident
                if data is None:
                    own, plan = batches.streamed(plan, layout.own_shards)
                    data = trainer.place_own(own)
                state, metrics = trainer(state, data, trainer.place_plan(plan, count), key, num_rows)
            speed.count(batches.computed(num_rows), batches.useful_tokens(step, count), count)
            pending.append((step, count, metrics))
            step += count
            epoch, rest = divmod(step, batches.steps_per_epoch)
            if rest and step - pending[0][0] < LOG_EVERY:
                continue  # reading a metric waits for its step, so it is done in bulk
            loss = _log_steps(log, [(first, n, trainer.metrics(values)) for first, n, values in pending])
            pending.clear()
            speed.lap()
            show.update(step, loss, speed.tokens_per_second)
            if rest:
                continue
            params = trainer.parameters(state)
            dev = evaluate(params, *prepared.evaluated["dev"])
            _log(log, step=step, epoch=epoch, split="dev", **dev._asdict())
            better = best is None or getattr(dev, config.metric) > best
            if better:
                best, results["dev"] = getattr(dev, config.metric), dev
                hosts.on_first(lambda params=params: _save(out / "best", prepared.checkpoint, params))
            del params
            console.print(
                f"epoch {epoch}/{config.epochs}  dev accuracy {dev.accuracy:.4f}  macro F1 {dev.macro_f1:.4f}  "
                f"loss {dev.loss:.4f}{'  (best so far)' if better else ''}"
            )
            speed.restart()
    if "test" in prepared.evaluated:  # by the model as saved, not as remembered
        kept = build_classifier(network, hosts.from_first(_saved(out / "best", network)), config.dtype, **settings)
        results["test"] = evaluate(layout.put(nnx.split(kept)[1]), *prepared.evaluated["test"])

    figures = {**speed.figures(), **clock.figures(), "total_seconds": time.monotonic() - start}
    record |= {"figures": figures, "best": {name: metrics._asdict() for name, metrics in results.items()}}
    hosts.on_first(lambda: write_json(out / "run.json", record))
    facts = {
        "compiled": f"{len(speed.shapes)} shapes of the step; {clock.describe()}",
        "speed": f"{speed.steps_per_second:.2f} steps/s, {speed.tokens_per_second:,.0f} useful tokens/s",
        "useful tokens": f"{speed.useful_share:.1%} of those computed",
        "time": f"{figures['total_seconds']:.0f} s",
        "model": str(out / "best"),
    }
    closing_table(console, network.labels, results, facts)
    return results


def _log(log: TextIO, **values: Any) -> None:
    log.write(json.dumps(values) + "\n")
    log.flush()


def _log_steps(log: TextIO, windows: list[tuple[int, int, StepMetrics]]) -> float:
    """Log the first `count` steps of each window, which begins after step `first`; return the last one's loss."""
    loss = float("nan")
    for first, count, metrics in windows:
        for number, loss, norm in zip(range(count), metrics.loss.tolist(), metrics.grad_norm.tolist(), strict=False):
            _log(log, step=first + number + 1, loss=loss, grad_norm=norm)
            if not math.isfinite(loss):
                raise UserError(f"the loss is {loss} at step {first + number + 1}; try a lower --learning-rate")
    return loss


def check_attention(name: str, row_length: int, head_size: int) -> None:
    """Raise `UserError` where this machine has no such kernel, or the kernel does not take these shapes."""
    needed = {"triton": "gpu", "mosaic": "tpu"}.get(name)
    if needed is None:
        return
    if jax.default_backend() != needed:
        raise UserError(f"--attention {name} needs a {needed.upper()}, and this run is on a {jax.default_backend()}")
    if not takes(row_length, head_size, name):
        raise UserError(
            f"--attention {name} does not take rows of {row_length} tokens with heads of {head_size} numbers; "
            "leave it at auto"
        )


def fits(size: int) -> bool:
    """Whether a token set of so many bytes may stay on the device: up to an eighth of its memory."""
    device = jax.local_devices()[0]
    of_host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return size <= (device.memory_stats() or {}).get("bytes_limit", of_host) // 8


def _describe(batches: Batches, layout: Layout) -> str:
    parts = batches.micro * batches.shards
    shared = f" in {parts} parts of" if parts > 1 else " in"
    text = (
        f"batches  {batches.steps_per_epoch:,} steps an epoch of {batches.batch_size} examples{shared} "
        f"{' or '.join(map(str, batches.shapes.row_counts))} rows of {batches.shapes.row_length} tokens"
    )
    if layout.mesh.size == 1:
        return text
    return f"{text}\ndevices  {layout.shards} x {layout.mesh.shape['model']} (data x model)"


def _begin(out: Path, record: dict[str, Any]) -> None:
    """Make the run directory and say in it what the run is."""
    try:
        if out.exists():  # `prepare` has seen that it is empty, or a run that may be replaced
            shutil.rmtree(out)
        out.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot write there: {error.strerror}") from None
    write_json(out / "run.json", record)


def _save(directory: Path, start: Checkpoint, params: nnx.State) -> None:
    """Write the parameters as a native checkpoint in place of an earlier one."""
    tensors = {name: np.asarray(array) for name, array in named_arrays(params).items()}
    with new_directory(directory, overwrite=True) as scratch:
        checkpoint.write(scratch, Checkpoint(start.config, tensors, start.files, start.metadata))


def _saved(directory: Path, network: BertConfig) -> dict[str, np.ndarray]:
    """The tensors just saved; where that was another process, zeros in their place."""
    if hosts.is_first():
        return checkpoint.read(directory).tensors
    return {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(network).items()}


def _record(config: TrainConfig, prepared: Prepared, batches: Batches, steps: int) -> dict[str, Any]:
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "tokenizers", "safetensors")
    shapes = batches.shapes
    return {
        "config": {**vars(config), "run_directory": str(config.run_directory)},
        "versions": {
            "bert_jax": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in names},
        },
        "device": {
            "kind": jax.devices()[0].device_kind,
            "platform": jax.default_backend(),
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "source": dict(prepared.checkpoint.metadata),
        "data": {str(path): sha256(path) for path in prepared.files},
        "examples": prepared.counts,
        "labels": list(prepared.checkpoint.config.labels),
        "steps": steps,
        "row_length": shapes.row_length,
        "row_counts": list(shapes.row_counts),
    }
