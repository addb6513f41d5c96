"""The run, from first line to last."""

import importlib.metadata
import json
import math
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
from bert_jax.checkpoint import Checkpoint
from bert_jax.errors import UserError
from bert_jax.files import new_directory, sha256, write_json
from bert_jax.optimizer import fine_tuning
from bert_jax.parameters import build_classifier, named_arrays
from bert_jax.predict import make_apply

from .config import TrainConfig
from .evaluate import evaluate
from .metrics import Metrics
from .prepare import Prepared
from .report import CompileClock, Speed, closing_table, ticker
from .step import StepMetrics, initial_state, make_train_step

LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl."""


def run(config: TrainConfig, prepared: Prepared, console: Console) -> dict[str, Metrics]:
    """Train, keep the best model by `config.metric` on dev, and report it on every split.

    Writes `run.json`, `metrics.jsonl` and `best/` into the run directory. Raises `UserError`
    where the loss stops being finite.
    """
    clock = CompileClock()
    out = config.run_directory
    _make_run_directory(out)
    start = time.monotonic()
    batches, labels = prepared.batches, prepared.checkpoint.config.labels
    steps = config.epochs * batches.steps_per_epoch
    record = _record(config, prepared, steps)
    write_json(out / "run.json", record)

    graphdef, params = nnx.split(
        build_classifier(prepared.checkpoint.config, prepared.checkpoint.tensors, config.dtype)
    )
    optimizer = fine_tuning(
        config.learning_rate,
        steps=steps,
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
    train_step, apply = make_train_step(graphdef, optimizer), make_apply(graphdef)
    state, key = initial_state(params, optimizer), jax.random.key(config.seed)

    speed = Speed(clock)
    best: float | None = None
    results: dict[str, Metrics] = {}
    pending: list[StepMetrics] = []
    with open(out / "metrics.jsonl", "w", encoding="utf-8") as log, ticker(console, steps) as show:
        for step in range(steps):
            batch = batches.batch(step)
            speed.count(batch.rows.input_ids.shape, batches.useful_tokens(step))
            state, metrics = train_step(state, batch, key)
            pending.append(metrics)
            done = step + 1
            epoch, rest = divmod(done, batches.steps_per_epoch)
            if rest and done % LOG_EVERY:
                continue  # reading a metric waits for its step, so it is done in bulk
            loss = _log_steps(log, done - len(pending), pending)
            pending.clear()
            speed.lap()
            show.update(done, loss, speed.tokens_per_second)
            if rest:
                continue
            dev = evaluate(apply, state.params, *prepared.evaluated["dev"], len(labels))
            _log(log, step=done, epoch=epoch, split="dev", **dev._asdict())
            better = best is None or getattr(dev, config.metric) > best
            if better:
                best, results["dev"] = getattr(dev, config.metric), dev
                _save(out / "best", prepared.checkpoint, state.params)
            console.print(
                f"epoch {epoch}/{config.epochs}  dev accuracy {dev.accuracy:.4f}  macro F1 {dev.macro_f1:.4f}  "
                f"loss {dev.loss:.4f}{'  (best so far)' if better else ''}"
            )
            speed.restart()
    if "test" in prepared.evaluated:  # by the model as saved, not as remembered
        kept = nnx.split(checkpoint.load(out / "best", config.dtype))[1]
        results["test"] = evaluate(apply, kept, *prepared.evaluated["test"], len(labels))

    figures = {**speed.figures(), "compile_seconds": clock.seconds, "total_seconds": time.monotonic() - start}
    record |= {"figures": figures, "best": {name: metrics._asdict() for name, metrics in results.items()}}
    write_json(out / "run.json", record)
    facts = {
        "compiled": f"{len(speed.shapes)} shapes of the step; {clock.seconds:.1f} s in all",
        "speed": f"{speed.steps_per_second:.2f} steps/s, {speed.tokens_per_second:,.0f} useful tokens/s",
        "useful tokens": f"{speed.useful_share:.1%} of those computed",
        "time": f"{figures['total_seconds']:.0f} s",
        "model": str(out / "best"),
    }
    closing_table(console, labels, results, facts)
    return results


def _log(log: TextIO, **values: Any) -> None:
    log.write(json.dumps(values) + "\n")
    log.flush()


def _log_steps(log: TextIO, first: int, metrics: list[StepMetrics]) -> float:
    """Log the steps after step `first` and return the last one's loss."""
    loss = float("nan")
    for number, values in enumerate(metrics, first + 1):
        loss = float(values.loss)
        _log(log, step=number, loss=loss, grad_norm=float(values.grad_norm))
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {number}; try a lower --learning-rate")
    return loss


def _make_run_directory(out: Path) -> None:
    try:
        if out.exists():  # `prepare` has seen that it is empty, or a run that may be replaced
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
