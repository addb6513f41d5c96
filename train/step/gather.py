"""From a plan to a batch, on the device: rows gathered from the token set inside the compiled step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from bert_jax.packing import Rows

from ..data.token_set import TokenSet
from .batches import Plan


class Batch(NamedTuple):
    """Packed rows, targets, and weight 0 for slots that are padding."""

    rows: Rows
    targets: Shaped[Any, "N ..."]
    weights: Float[Any, " N"]


def assemble(data: TokenSet, plan: Plan, num_rows: int, row_length: int) -> Batch:
    """Gather a batch inside a compiled function: plan arrays (S, n) for S shards of n slots.

    Rows are (S*num_rows, T), shard after shard; examples (S*n), and `rows.first_tokens` (S, n)
    count within a shard's tokens, so that an array sharded by rows is gathered where it lies.
    Segments count through a shard. All shards take from one token set, or each from its own.
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
    # The slot whose example was last to begin at or before each token.
    slot = jax.lax.cummax(jnp.zeros(size, jnp.int32).at[places].max(slots, mode="drop"))
    example, offset = examples[slot], line - places[slot]
    inside = (offset >= 0) & (offset < data.lengths[example])
    ids = data.ids[jnp.where(inside, data.starts[example] + offset, 0)].astype(jnp.int32)
    types = offset >= data.second[example]
    tokens = (ids, types.astype(jnp.int32), offset, slot + 1)
    return *(jnp.where(inside, array, 0) for array in tokens), data.targets[examples]
