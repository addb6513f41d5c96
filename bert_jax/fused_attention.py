"""Attention in one kernel: scores, segment mask, softmax and dropout never leave the chip.

Library kernels have no dropout, or one whose bits nobody else can draw. Here the bits are those of
`dropout.kept`, so this kernel drops what the plain formula drops, forwards and backwards, on every
backend and however rows and heads are sharded.

One program holds the queries of one block and walks over the blocks of keys. Heads lie side by side
in a "B T HK" array, as the projections leave them, and a program reads its own: nothing is transposed.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu, triton
from jaxtyping import Array, Float, Int, UInt32

from bert_jax.dropout import kept

Backend = Literal["triton", "mosaic", "interpret"]

# A finite value: with -inf, a fully masked block would be NaN.
_MASKED = float(jnp.finfo(jnp.float32).min)


class _Plan(NamedTuple):
    """What is known when a kernel is compiled."""

    length: int  # T
    size: int  # K
    block: int  # queries, and keys, of one tile
    blocks: int  # blocks of a row
    heads: int  # heads of one program
    rate: float
    backend: Backend


class _Inputs(NamedTuple):
    """What a program reads: first arrays, then the references to its part of them; () is absent."""

    query: Any
    key: Any
    value: Any
    segments: Any
    spans: Any = None
    places: Any = None
    words: Any = None
    out: Any = None
    normalizer: Any = None  # log of the sum of exponentials of a query's scores
    d_out: Any = None


def takes(length: int, head_size: int, backend: str) -> bool:
    """Whether the kernel takes rows of `length` tokens and heads of `head_size` numbers."""
    return length % 16 == 0 and length <= (512 if backend == "mosaic" else 65536) and head_size in (16, 32, 64, 128)


def _plan(query: Array, rate: float, backend: Backend) -> _Plan:
    _, length, heads, size = query.shape
    if size not in (16, 32, 64, 128):
        raise ValueError(f"fused attention takes heads of 16, 32, 64 or 128 numbers, not {size}")
    limit = 512 if backend == "mosaic" else 65536
    if length % 16 or length > limit:
        raise ValueError(f"fused attention ({backend}) takes rows of 16, 32 .. {limit} tokens, not {length}")
    if backend == "mosaic":
        # VMEM holds the scores of whole rows, and programs read 128 lanes, or all there are.
        block, together = length, 128 // size
    else:
        # Triton's tiles are powers of two. Larger ones spill registers, but for a row of 128 the
        # little they spill costs less than drawing and multiplying smaller tiles twice.
        small = query.dtype.itemsize == 2 and size <= 64
        block = 128 if length == 128 and small else min(length & -length, 64)
        together = 1 if backend == "triton" else 128 // size
    return _Plan(length, size, block, length // block, heads if heads % together else together, rate, backend)


def _dot(a, b, contract_a: int, contract_b: int):
    return lax.dot_general(a, b, (((contract_a,), (contract_b,)), ((), ())), preferred_element_type=jnp.float32)


def _scores(plan: _Plan, query, key, segments, i, j):
    """The masked scores of query block i with key block j."""
    rows, columns = (segments[:, pl.ds(n * plan.block, plan.block)] for n in (i, j))
    return jnp.where(columns == rows.T, _dot(query, key, 1, 1) * plan.size**-0.5, _MASKED)


def _dropout(plan: _Plan, seen: _Inputs, head: int):
    """(i, j) -> the function that zeroes what is dropped of that tile and scales up the rest."""
    if seen.words is None:
        return lambda i, j: lambda tile: tile
    # Read here, because loops over blocks cannot ask which program they are in.
    head_place = seen.places[0, pl.program_id(1) * plan.heads + head]
    words = seen.words[0], seen.words[1]
    length = jnp.uint32(plan.length)

    def draw(i, j):
        row, column = (lax.broadcasted_iota(jnp.uint32, (plan.block, plan.block), axis) for axis in (0, 1))
        first = head_place + jnp.uint32(plan.block) * (length * jnp.uint32(i) + jnp.uint32(j))
        keep = kept(first + (row * length + column), plan.rate, words)
        return lambda tile: jnp.where(keep, tile * (1 / (1 - plan.rate)), 0.0)

    return draw


def _over_blocks(plan: _Plan, seen: _Inputs, n, step, carry):
    """Fold `step` over the blocks that may share a segment with block n."""
    if plan.blocks == 1:
        return step(0, carry)
    return lax.fori_loop(seen.spans[n, 0], seen.spans[n, 1], step, carry)


def _forward_kernel(plan: _Plan, seen: _Inputs, out, *normalizer):
    """Mix values for query block n."""
    n = 0 if plan.blocks == 1 else pl.program_id(2)
    for head in range(plan.heads):
        lanes = pl.ds(head * plan.size, plan.size)
        query = seen.query[pl.ds(n * plan.block, plan.block), lanes]
        draw = _dropout(plan, seen, head)

        def step(j, carry, draw=draw, lanes=lanes, query=query):
            before, total, mixed = carry
            columns = pl.ds(j * plan.block, plan.block)
            scores = _scores(plan, query, seen.key[columns, lanes], seen.segments, n, j)
            largest = jnp.maximum(before, scores.max(1, keepdims=True))
            weights, shrink = jnp.exp(scores - largest), jnp.exp(before - largest)
            dropped = draw(n, j)(weights).astype(query.dtype)
            mixed = mixed * shrink + _dot(dropped, seen.value[columns, lanes], 1, 0)
            return largest, total * shrink + weights.sum(1, keepdims=True), mixed

        column = jnp.zeros((plan.block, 1), jnp.float32)
        nothing = (column - jnp.inf, column, jnp.zeros((plan.block, plan.size), jnp.float32))
        largest, total, mixed = _over_blocks(plan, seen, n, step, nothing)
        out[:, lanes] = (mixed / total).astype(out.dtype)
        if normalizer:
            normalizer[0][head, :, :] = largest + jnp.log(total)


def _backward_kernel(plan: _Plan, seen: _Inputs, d_query, d_key, d_value):
    """Gradients of query block n over all keys, and of key block n over all queries."""
    n = 0 if plan.blocks == 1 else pl.program_id(2)
    for head in range(plan.heads):
        lanes = pl.ds(head * plan.size, plan.size)
        draw = _dropout(plan, seen, head)

        def tile(i, j, head=head, draw=draw, lanes=lanes):
            """The dropped weights, the gradients of the scores, and what both are multiplied with."""
            rows, columns = (pl.ds(b * plan.block, plan.block) for b in (i, j))
            query, key, d_out = seen.query[rows, lanes], seen.key[columns, lanes], seen.d_out[rows, lanes]
            scores = _scores(plan, query, key, seen.segments, i, j)
            drop = draw(i, j)
            d_weights = drop(_dot(d_out, seen.value[columns, lanes], 1, 1))
            if plan.blocks == 1:
                weights = jnp.exp(scores - scores.max(1, keepdims=True))
                weights /= weights.sum(1, keepdims=True)
                mean = (weights * d_weights).sum(1, keepdims=True)
            else:
                weights = jnp.exp(scores - seen.normalizer[head, rows, :])
                out = seen.out[rows, lanes].astype(jnp.float32)
                mean = (out * d_out.astype(jnp.float32)).sum(1, keepdims=True)
            d_scores = weights * (d_weights - mean) * plan.size**-0.5
            return drop(weights).astype(query.dtype), d_scores.astype(query.dtype), query, key, d_out

        def add(j, totals, tile=tile):
            _, d_scores, _, key, _ = across = tile(n, j)
            weights, d_scores_of_key, query, _, d_out = across if plan.blocks == 1 else tile(j, n)
            more = _dot(d_scores, key, 1, 0), _dot(d_scores_of_key, query, 0, 0), _dot(weights, d_out, 0, 0)
            return tuple(total + extra for total, extra in zip(totals, more, strict=True))

        zeros = jnp.zeros((plan.block, plan.size), jnp.float32)
        results = _over_blocks(plan, seen, n, add, (zeros, zeros, zeros))
        for gradient, result in zip((d_query, d_key, d_value), results, strict=True):
            gradient[:, lanes] = result.astype(gradient.dtype)


def _spans(plan: _Plan, segments: Int[Array, "B 1 T"]) -> Int[Array, "B _ 2"]:
    """First, and one past last, of the blocks whose range of segments meets that of each block."""
    # Padding ends a packed row: as number 0 it would make the last block's range meet every other.
    blocks = jnp.where(segments == 0, jnp.iinfo(jnp.int32).max, segments).reshape(-1, plan.blocks, plan.block)
    low, high = blocks.min(2), blocks.max(2)
    meet = (low[:, :, None] <= high[:, None, :]) & (low[:, None, :] <= high[:, :, None])
    return jnp.stack([meet.argmax(2), plan.blocks - meet[:, :, ::-1].argmax(2)], 2).astype(jnp.int32)


def _call(plan: _Plan, kernel, inputs: _Inputs, outputs: int) -> Sequence[Array]:
    """Run `kernel` for every row, group of heads and block; `outputs` arrays are like the query."""
    rows, length, width = inputs.query.shape
    group, heads = plan.heads * plan.size, width // plan.size
    # The TPU's compiler wants single numbers in their own memory.
    scalars = functools.partial(pl.BlockSpec, memory_space=tpu.SMEM if plan.backend == "mosaic" else None)
    row = pl.BlockSpec((None, length, group), lambda b, h, n: (b, 0, h))
    segments = pl.BlockSpec((None, 1, length), lambda b, h, n: (b, 0, 0))
    spans = pl.BlockSpec((None, plan.blocks, 2), lambda b, h, n: (b, 0, 0))
    places = scalars((None, 1, heads), lambda b, h, n: (b, 0, 0))
    words = scalars((2,), lambda b, h, n: (0,))
    normalizer = pl.BlockSpec((None, plan.heads, length, 1), lambda b, h, n: (b, h, 0, 0))
    specs = _Inputs(row, row, row, segments, spans, places, words, row, normalizer, row)
    out_specs = [pl.BlockSpec((None, plan.block, group), lambda b, h, n: (b, n, h))] * outputs
    out_shape = [jax.ShapeDtypeStruct(inputs.query.shape, inputs.query.dtype)] * outputs
    if plan.blocks > 1 and kernel is _forward_kernel:
        out_specs.append(pl.BlockSpec((None, plan.heads, plan.block, 1), lambda b, h, n: (b, h, n, 0)))
        out_shape.append(jax.ShapeDtypeStruct((rows, heads, length, 1), jnp.float32))
    warps = triton.CompilerParams(num_warps=8 if plan.block == 128 else 4, num_stages=2)
    return pl.pallas_call(
        functools.partial(kernel, plan),
        grid=(rows, heads // plan.heads, plan.blocks),
        in_specs=[_Inputs(*(None if a is None else s for a, s in zip(inputs, specs, strict=True)))],
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=warps if plan.backend == "triton" else None,
        interpret=plan.backend == "interpret",
        name="attention" + kernel.__name__.removesuffix("_kernel"),
    )(inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: _Plan, inputs: _Inputs) -> Array:
    return _attention_forward(plan, inputs)[0]


def _attention_forward(plan: _Plan, inputs: _Inputs):
    out, *normalizer = _call(plan, _forward_kernel, inputs, outputs=1)
    # A row in one tile is normalized again by itself: nothing is saved.
    return out, inputs._replace(out=out, normalizer=normalizer[0]) if normalizer else inputs


def _attention_backward(plan: _Plan, saved: _Inputs, d_out):
    d_query, d_key, d_value = _call(plan, _backward_kernel, saved._replace(d_out=d_out), outputs=3)
    return (_Inputs(d_query, d_key, d_value, segments=None),)


_attention.defvjp(_attention_forward, _attention_backward)


def fused_attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    segment_ids: Int[Array, "B T"],
    places: UInt32[Array, "B H"],
    words: UInt32[Array, "2"] | None = None,
    *,
    rate: float,
    backend: Backend,
) -> Float[Array, "B T H K"]:
    """softmax(query key / sqrt(K)) value among tokens of equal segments, in one kernel each way.

    Scores, softmax and sums are float32; weights are cast to the dtype of the inputs before they
    multiply the values. With `words`, weights are dropped where `dropout.kept` says so; `places`
    holds the place of each head's first score among all scores, (b H + h) T T modulo 2^32, so that
    shards agree with the whole (under `jax.shard_map`, with `check_vma=False`). Gradients flow to
    query, key and value and recompute the rest.

    Raises: ValueError if T is no multiple of 16, over 512 for "mosaic", or K not 16, 32, 64 or 128.
    Source: FlashAttention-2, algorithms 1 and 2.
    """
    plan = _plan(query, rate, backend)
    segments = segment_ids.astype(jnp.int32)[:, None]
    spans = _spans(plan, segments) if plan.blocks > 1 else None
    flat = (*query.shape[:2], -1)
    inputs = _Inputs(query.reshape(flat), key.reshape(flat), value.reshape(flat), segments, spans)
    if words is not None and rate > 0:
        inputs = inputs._replace(places=places[:, None], words=words)
    return jnp.reshape(_attention(plan, inputs), query.shape)
