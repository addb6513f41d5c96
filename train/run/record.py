"""What a run writes besides checkpoints: `run.json`, the best model, and the printed description of its batches."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from bert_jax import __version__, checkpoint
from bert_jax.checkpoint import Checkpoint, parameter_shapes
from bert_jax.config import BertConfig
from bert_jax.files import new_directory
from bert_jax.long_texts import Cutting
from bert_jax.parameters import named_arrays

from ..config import TrainConfig
from ..data.prepare import Prepared
from ..metrics import Metrics
from ..step import hosts
from ..step.batches import Batches
from ..step.layouts import Layout
from .opening import identity
from .run_directory import writing


def describe(batches: Batches, layout: Layout) -> str:
    """Return lines to print that say how batches are divided over rows and devices."""
    parts = batches.micro * batches.shards
    shared = f" in {parts} parts of" if parts > 1 else " in"
    text = (
        f"batches  {batches.steps_per_epoch:,} steps an epoch of {batches.batch_size} examples{shared} "
        f"{' or '.join(map(str, batches.shapes.row_counts))} rows of {batches.shapes.row_length} tokens"
    )
    if layout.mesh.size > 1:
        text += f"\ndevices  {layout.shards} x {layout.mesh.shape['model']} (data x model)"
    few, more = divmod(batches.batch_size, parts)
    if more:
        unit = "devices" if parts == layout.mesh.size else "parts"
        even = f"{few * parts} or {(few + 1) * parts} would" if few else f"{parts} would"
        text += (
            f"\npadded   {batches.batch_size} examples over {parts} {unit}: "
            f"{more} have {few + 1}, {parts - more} have {few} ({even} divide evenly)"
        )
    return text


def save_best(directory: Path, start: Checkpoint, params: nnx.State, dev: Metrics) -> None:
    """Write the parameters as a native checkpoint, which replaces the previous one.

    If the metrics on dev have a threshold, it is stored in the checkpoint's metadata.
    """
    tensors = {name: np.asarray(array) for name, array in named_arrays(params).items()}
    threshold = {name: str(dev[name]) for name in ("threshold",) if name in dev}
    with writing(directory), new_directory(directory, overwrite=True) as scratch:
        checkpoint.write(scratch, Checkpoint(start.config, tensors, start.files, {**start.metadata, **threshold}))


def saved_best(directory: Path, network: BertConfig) -> dict[str, np.ndarray]:
    """Return the tensors of the best model as they were saved, or zeros on a process that is not the first."""
    if hosts.is_first():
        return dict(checkpoint.read(directory, hashed=False).tensors)
    return {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(network).items()}


def record(config: TrainConfig, prepared: Prepared, batches: Batches, steps: int) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "tokenizers", "safetensors")
    shapes = batches.shapes
    metadata, hashes = prepared.checkpoint.metadata, prepared.checkpoint.sha256
    return {
        **identity(config, prepared),
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
        "source": {name: value for name, value in metadata.items() if name not in Cutting._fields} | {**hashes},
        "examples": prepared.counts,
        "steps": steps,
        "row_length": shapes.row_length,
        "row_counts": list(shapes.row_counts),
    }
