"""Memory of a step: what the step needs, whether that fits, and which options would fit if it does not."""

import contextlib
import dataclasses
import math
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType

from bert_jax import allocator
from bert_jax.errors import UserError
from bert_jax.tensors import physical_memory

from ..config import TrainConfig
from ..data.token_set import TokenSet
from .batches import Batches
from .layouts import Layout
from .trainer import Trainer

MARGIN = 0.9
"""Share of the available memory that suggested options may need. The rest is for needs that cannot be foreseen."""

_TRIES = 4

_LARGE = 0.5
"""Share of the available memory above which the rough estimate is not trusted, and the compiler is asked."""

Make = Callable[[TrainConfig, TokenSet], Batches]
Graph = Callable[[TrainConfig], nnx.GraphDef]
"""Function that returns the graph of the network for these options."""


class Needs(NamedTuple):
    """Bytes that the largest program of a step needs: for state, examples and plan, and temporarily while it runs."""

    fixed: int
    temporary: int


def limit() -> int:
    """Return the total number of bytes that a device can hold.

    If the device does not report its memory, return what the system lets this process have for its arrays, counting
    the arrays that exist now.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    own = sum(array.nbytes for array in jax.live_arrays())
    allocator.hand_back()
    pages, resident = map(int, Path("/proc/self/statm").read_text().split()[:2])
    page = os.sysconf("SC_PAGE_SIZE")
    bounds = [physical_memory() - resident * page]
    if (address_space := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        bounds.append(address_space - pages * page)
    return min(bounds) + own


def fits(data: TokenSet) -> bool:
    """Return whether a token set may stay on the device.

    It may if it needs at most an eighth of the device's memory and has fewer than 2^31 tokens.
    """
    device = jax.local_devices()[0]
    capacity = (device.memory_stats() or {}).get("bytes_limit", physical_memory())
    return data.indexable and data.nbytes <= capacity // 8


def is_lack(error: BaseException) -> bool:
    """Return whether an error says that there was not enough memory."""
    return isinstance(error, MemoryError) or any(
        text in str(error) for text in ("RESOURCE_EXHAUSTED", "Out of memory", "bad_alloc")
    )


def preflight(config: TrainConfig, make: Make, graph: Graph, trainer: Trainer, batches: Batches) -> None:
    """Raise `UserError` before the first step, with options that fit, if the largest program of a step does not fit.

    The compiler is asked only if a rough estimate is high, because asking takes as long as compiling. A step that would
    fit is never refused. So nothing is checked for several processes, because they share memory in ways that this
    module does not foresee. Nothing is checked either if the address space is limited, because much of the address
    space that is taken is free again.
    """
    if jax.process_count() > 1 or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    available = limit()
    if rough(trainer, batches) > _LARGE * available and sum(needs(trainer, batches)) > available:
        raise explain(config, make, graph, trainer, batches, available)


def rough(trainer: Trainer, batches: Batches) -> int:
    """Return a rough estimate of the bytes that a step needs: state, gradients, and each layer's activations.

    The estimate is within a tenth of the compiler's figure for BERT in float32 on a CPU (RECORDS.md).
    """
    network = nnx.merge(trainer.graphdef, trainer.params).config
    tokens = batches.shapes.row_counts[-1] * batches.shapes.row_length
    attention = 3 * network.num_attention_heads * batches.shapes.row_length
    layer = 12 * network.hidden_size + 2 * network.intermediate_size + attention
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trainer.params))
    return 4 * (4 * parameters + tokens * (network.num_hidden_layers * layer + 4 * network.hidden_size))


def needs(trainer: Trainer, batches: Batches, graphdef: nnx.GraphDef | None = None) -> Needs:
    """Return the compiler's figures for the step with the most rows of these batches, compiled from shapes alone.

    `graphdef` replaces the trainer's network by another network with the same parameters. On a CPU, the figures are
    those of all of this process's shards together, because these shards share one memory.
    """
    layout = trainer.layout
    if layout.pmap:  # each device runs the program of a single device
        mesh = jax.make_mesh(
            (1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.local_devices()[:1]
        )
        layout = Layout(mesh)
    step_trainer = trainer.like(layout, batches.shapes.row_length, graphdef)

    def whole(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.everywhere())

    def laid(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(laid, jax.eval_shape(step_trainer.first_state, step_trainer.params), step_trainer.shardings)
    plan, _ = batches.plan(0)
    data = batches.data
    if not fits(data):
        shard_data, plan = batches.streamed(plan, [0])
        data = TokenSet(*(array[0] for array in shard_data))
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*x.shape[:2], layout.shards, x.shape[3]), x.dtype, sharding=layout.of_plan()),
        plan,
    )
    arrays = jax.tree.map(lambda x: whole(x.shape, x.dtype), data)
    key = jax.eval_shape(lambda: jax.random.key(0))
    program: Any = step_trainer.program(batches.shapes.row_counts[-1])
    with step_trainer.context():
        compiled = program.lower(state, arrays, placed, whole((2,), np.int32), whole((), key.dtype)).compile()
    analysis = compiled.memory_analysis()
    sharing = len(trainer.layout.own_shards) if jax.default_backend() == "cpu" else 1
    fixed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Needs(sharing * fixed, sharing * analysis.temp_size_in_bytes)


def explain(
    config: TrainConfig, make: Make, graph: Graph, trainer: Trainer | None, batches: Batches, there: int
) -> UserError:
    """Return an error that says what a step needs, what is there, and which options fit.

    `there` is the available memory in bytes (`limit()`). For each option, the error names the mildest value that fits,
    and each value is compiled to find out. `trainer` is None if there was too little memory even to create a trainer.
    With several processes, no process can compile without the others, so nothing is compiled and the advice is general.
    """
    if trainer is None:
        return UserError(f"out of memory before the first step: {_size(there)} are there; take a smaller model")
    if jax.process_count() > 1:
        return UserError("out of memory; try a larger --accumulate, or a smaller --batch-size or --max-length")
    need, room = needs(trainer, batches), int(MARGIN * there)
    rows = f"{batches.shapes.row_counts[-1]:,} rows of {batches.shapes.row_length} tokens"
    text = f"not enough memory: a step on {rows} needs {_size(sum(need))} and {_size(there)} are there"
    if need.fixed >= room:
        return UserError(
            f"{text}, but the model and its optimizer alone take {_size(need.fixed)}; "
            "take a smaller model, or more devices with --shard-parameters"
        )
    share = (room - need.fixed) / max(need.temporary, 1)
    if share >= 1:
        parts = min(2 * config.accumulate, config.batch_size, 1024)
        also = f", or try --accumulate {parts}" if parts > config.accumulate else ""
        return UserError(f"{text}; close what else uses it{also}")
    remedies = []

    def tried(remedy: str, changed: TrainConfig, data: TokenSet, network: nnx.GraphDef | None = None) -> bool:
        with contextlib.suppress(jax.errors.JaxRuntimeError, MemoryError):  # the compiler needs memory, too
            if sum(needs(trainer, make(changed, data), network)) <= room:
                remedies.append(remedy)
                return True
        return False

    for name, note in (("accumulate", " (the same steps, computed in parts)"), ("batch_size", ""), ("max_length", "")):
        for value in _candidates(config, name, share):
            changed, data = dataclasses.replace(config, **{name: value}), batches.data
            if name == "max_length":
                data = data._replace(lengths=np.minimum(data.lengths, value))
            if tried(f"--{name.replace('_', '-')} {value}{note}", changed, data):
                break
    twice, half = "--remat (layers computed twice)", "--dtype bfloat16"
    for name, value, remedy in (("remat", True, twice), ("dtype", "bfloat16", half)):
        changed = dataclasses.replace(config, **{name: value})
        if changed != config:
            tried(remedy, changed, batches.data, graph(changed))
    return UserError(
        f"{text}; what fits: {', or '.join(remedies)}"
        if remedies
        else f"{text}; no batch is small enough: take a smaller model"
    )


def _candidates(config: TrainConfig, name: str, share: float) -> Iterator[int]:
    """Yield values of an option that should need `share` of the temporary memory, and then less and less."""
    bound = {"accumulate": config.batch_size, "batch_size": config.accumulate, "max_length": 3}[name]
    old, seen = getattr(config, name), set()
    for attempt in range(_TRIES):
        part = share * 0.85 * 0.7**attempt  # not all of the temporary memory grows with the batch
        if name == "accumulate":
            value = min(math.ceil(old / part), bound)
        else:
            value = int(old * part)
            value = max(value - (value % 8 if value >= 16 else 0), bound)
        if value not in seen and value != old:
            seen.add(value)
            yield value


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
