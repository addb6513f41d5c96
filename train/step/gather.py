"""Build a batch from a plan on the device: the compiled step gathers its rows from the token set."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from bert_jax.packing import Rows

from ..data.token_set import TokenSet
from .batches import Plan


class Batch(NamedTuple):
    """Packed rows, and for each slot its target and its weight: 0 for padding, 1 for an example."""

    rows: Rows
    targets: Shaped[Any, "N ..."]
    weights: Float[Any, " N"]


def assemble(data: TokenSet, plan: Plan, num_rows: int, row_length: int) -> Batch:
    """Gather a batch inside a compiled function, from a plan with arrays (S, n) for S shards of n slots.

    Rows have shape (S*num_rows, T), shard after shard. Targets and weights have a leading axis of S*n. Indices in
    `rows.first_tokens` (S, n) count within the tokens of their shard, so an array that is sharded by rows is indexed on
    the device that has it. Segments are numbered through a shard. All shards use one token set or, if the arrays of
    `data` have a leading axis of shards, each shard uses its own.
    """
    data = jax.tree.map(jnp.asarray, data)
    gather = functools.partial(_shard, size=num_rows * row_length)
    *rows, targets = jax.vmap(gather, in_axes=(0 if data.ids.ndim == 2 else None, 0, 0))(data, *plan)
    ids, types, positions, segments = (array.reshape(-1, row_length) for array in rows)
    inside = plan.places < num_rows * row_length
    first_tokens = jnp.where(inside, plan.places, 0)
    weights = inside.reshape(-1).astype(jnp.float32)
    return Batch(Rows(ids, types, positions, segments, first_tokens), targets.reshape(-1, *targets.shape[2:]), weights)


def _shard(data: TokenSet, examples: Int[Any, " n"], places: Int[Any, " n"], size: int) -> tuple[Any, ...]:
    line = jnp.arange(size, dtype=jnp.int32)
    slots = jnp.arange(len(examples), dtype=jnp.int32)
    # For each token: the last slot whose example begins at this token or before it.
    slot = jax.lax.cummax(jnp.zeros(size, jnp.int32).at[places].max(slots, mode="drop"))
    example, offset = examples[slot], line - places[slot]
    inside = (offset >= 0) & (offset < data.lengths[example])
    ids = data.ids[jnp.where(inside, data.starts[example] + offset, 0)].astype(jnp.int32)
    types = offset >= data.second[example]
    tokens = (ids, types.astype(jnp.int32), offset, slot + 1)
    return *(jnp.where(inside, array, 0) for array in tokens), data.targets[examples]
