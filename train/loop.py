"""The run, from first line to last."""

import importlib.metadata
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from bert_jax import __version__, checkpoint
from bert_jax.checkpoint import Checkpoint
from bert_jax.errors import UserError
from bert_jax.files import new_directory, sha256, write_json
from bert_jax.optimizer import fine_tuning
from bert_jax.parameters import build, named_arrays

from .config import TrainConfig
from .evaluate import evaluate, make_apply
from .metrics import Metrics
from .prepare import Prepared
from .report import CompileClock, MetricsLog, closing_table, ticker
from .step import initial_state, make_train_step

LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl."""


def run(config: TrainConfig, prepared: Prepared, console: Console) -> dict[str, Metrics]:
    """Train, keep the best model by `config.metric` on dev, and report it on every split.

    Writes `run.json`, `metrics.jsonl` and `best/` into the run directory. Raises `UserError`
    where the loss stops being finite.
    """
    clock = CompileClock()
    out = config.run_directory
    _make_run_directory(out, config.overwrite)
    start = time.monotonic()
    batches, labels = prepared.batches, prepared.checkpoint.config.labels
    steps = config.epochs * batches.steps_per_epoch
    record = _record(config, prepared, steps)
    write_json(out / "run.json", record)

    graphdef, params = nnx.split(build(prepared.checkpoint.config, prepared.checkpoint.tensors, config.dtype))
    optimizer = fine_tuning(
        config.learning_rate,
        steps=steps,
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
    train_step, apply = make_train_step(graphdef, optimizer), make_apply(graphdef)
    state, key = initial_state(params, optimizer), jax.random.key(config.seed)

    log = MetricsLog(out / "metrics.jsonl")
    best: float | None = None
    results: dict[str, Metrics] = {}
    shapes: set[tuple[int, ...]] = set()
    pending: list[tuple[int, Any]] = []
    tokens = computed = 0
    seconds = 0.0  # of training alone: neither compiling nor evaluating
    mark, compiled = time.monotonic(), clock.seconds

    with ticker(console, steps) as show:
        for step in range(steps):
            batch = batches.batch(step)
            shapes.add(batch.rows.input_ids.shape)
            tokens += batches.useful_tokens(step)
            computed += batch.rows.input_ids.size
            state, metrics = train_step(state, batch, key)
            pending.append((step + 1, metrics))
            epoch_ends = (step + 1) % batches.steps_per_epoch == 0
            if epoch_ends or (step + 1) % LOG_EVERY == 0:
                for number, values in pending:
                    loss, norm = float(values.loss), float(values.grad_norm)
                    log.write(step=number, loss=loss, grad_norm=norm)
                    if not np.isfinite(loss):
                        raise UserError(f"the loss is {loss} at step {number}; try a lower --learning-rate")
                pending.clear()
                now = time.monotonic()
                seconds += (now - mark) - (clock.seconds - compiled)
                mark, compiled = now, clock.seconds
                show.update(step + 1, loss, tokens / max(seconds, 1e-9))
            if epoch_ends:
                epoch = (step + 1) // batches.steps_per_epoch
                dev = evaluate(apply, state.params, *prepared.evaluated["dev"], len(labels))
                log.write(step=step + 1, epoch=epoch, split="dev", **dev._asdict())
                better = best is None or getattr(dev, config.metric) > best
                console.print(
                    f"epoch {epoch}/{config.epochs}  dev accuracy {dev.accuracy:.4f}  "
                    f"macro F1 {dev.macro_f1:.4f}  loss {dev.loss:.4f}{'  (best so far)' if better else ''}",
                    highlight=False,
                )
                if better:
                    best = getattr(dev, config.metric)
                    results = {"dev": dev}
                    if "test" in prepared.evaluated:
                        results["test"] = evaluate(apply, state.params, *prepared.evaluated["test"], len(labels))
                    _save(out / "best", prepared.checkpoint, state.params)
                mark, compiled = time.monotonic(), clock.seconds
    log.close()

    figures = {
        "compiled_shapes": sorted(shapes),
        "compile_seconds": round(clock.seconds, 2),
        "train_seconds": round(seconds, 2),
        "total_seconds": round(time.monotonic() - start, 2),
        "steps_per_second": steps / seconds,
        "useful_tokens_per_second": tokens / seconds,
        "useful_share": tokens / computed,
    }
    record |= {"figures": figures, "best": {name: metrics._asdict() for name, metrics in results.items()}}
    write_json(out / "run.json", record)
    facts = {
        "compiled": f"{len(shapes)} shapes of the step, {clock.seconds:.1f} s in all",
        "speed": f"{figures['steps_per_second']:.2f} steps/s, {figures['useful_tokens_per_second']:,.0f} useful tokens/s",
        "useful tokens": f"{figures['useful_share']:.1%} of those computed",
        "time": f"{figures['total_seconds']:.0f} s",
        "model": str(out / "best"),
    }
    closing_table(console, labels, results, facts)
    return results


def _make_run_directory(out: Path, overwrite: bool) -> None:
    try:
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot write there: {error.strerror}") from None


def _save(directory: Path, start: Checkpoint, params: nnx.State) -> None:
    """Write the parameters as a native checkpoint in place of an earlier one."""
    tensors = {name: np.asarray(array) for name, array in named_arrays(params).items()}
    with new_directory(directory, overwrite=True) as scratch:
        checkpoint.write(scratch, Checkpoint(start.config, tensors, start.files, start.metadata))


def _record(config: TrainConfig, prepared: Prepared, steps: int) -> dict[str, Any]:
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "tokenizers", "safetensors")
    shapes = prepared.batches.shapes
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
        },
        "source": dict(prepared.checkpoint.metadata),
        "data": {str(path): sha256(path) for path in prepared.files},
        "examples": prepared.counts,
        "labels": list(prepared.checkpoint.config.labels),
        "steps": steps,
        "row_length": shapes.row_length,
        "row_counts": list(shapes.row_counts),
    }
