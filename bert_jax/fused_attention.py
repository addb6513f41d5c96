"""Attention in one kernel: scores, segment mask, softmax and dropout never leave the chip.

Library kernels have no dropout, or random bits that no other code can draw. This kernel drops the same weights as the
plain formula, by `dropout.kept`: in the forward and the backward pass, on every backend, and however rows and heads
are sharded.

In the forward pass, one program holds the queries of one block and loops over the blocks of keys. A program reads
query, key and value of its heads from the "B T 3 HK" array that one product has written. A program of the backward
pass writes their gradients into one "B T 3 HK" array, which the next two products read. So nothing is transposed or
copied. On a TPU, query, key and value and their gradients are separate arrays instead.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int, UInt32

from bert_jax.attention import longest, takes
from bert_jax.dropout import kept

Backend = Literal["triton", "mosaic", "interpret"]

# A finite value: with -inf, a fully masked block would be NaN.
_MASKED = float(jnp.finfo(jnp.float32).min)


# Mosaic has no products of three passes. Triton's float32 products without tensor cores take minutes to compile and
# spill registers. Three TF32 products are about as exact, and `kernel_check` checks that they are.
_KERNEL_PRECISION: dict[tuple[str, lax.PrecisionLike], lax.PrecisionLike] = {
    ("mosaic", lax.Precision.HIGH): lax.Precision.HIGHEST,
    ("triton", lax.Precision.HIGHEST): lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
}


class _Plan(NamedTuple):
    """Sizes and settings that are fixed when a kernel is compiled."""

    length: int  # T
    size: int  # K, of one head
    block: int  # number of queries, and of keys, in one tile
    blocks: int  # blocks in a row
    heads: int  # heads per program
    warps: int  # per program, on a GPU
    rate: float
    backend: Backend
    precision: lax.PrecisionLike  # of matrix products


class _Inputs(NamedTuple):
    """What a program reads: outside the kernel, whole arrays; inside, references to the program's part of each array.

    An input that is None is absent.
    """

    parts: Any  # query, key and value, without their biases
    biases: Any
    segments: Any
    spans: Any = None
    places: Any = None
    words: Any = None
    out: Any = None
    normalizer: Any = None  # log of the sum of exponentials of a query's scores
    d_out: Any = None


def _plan(qkv: Array, heads: int, rate: float, backend: Backend, precision: lax.Precision | None) -> _Plan:
    _, length, _, width = qkv.shape
    size = width // heads
    if not takes(length, size, backend):
        supported = f"T of 16, 32 .. {longest(backend)} and K of 16, 32, 64 or 128"
        raise ValueError(f"fused attention ({backend}) takes {supported}, not T={length} and K={size}")
    product_precision = _KERNEL_PRECISION.get((backend, precision), precision)
    if backend == "mosaic":
        # VMEM holds the scores of whole rows. A program reads the heads of 128 lanes, or all heads if they do not
        # divide into such groups.
        block, program_heads, warps = length, 128 // size, 0
    else:
        # Triton's tiles are powers of two, and larger tiles spill registers (RECORDS.md has the compiler's counts). But
        # a row of 128 in one tile spills little, and its scores and bits are computed once per pass instead of twice.
        large = length == 128 and qkv.dtype.itemsize == 2 and size <= 64
        three_passes = product_precision == lax.DotAlgorithmPreset.TF32_TF32_F32_X3
        block = 128 if large else min(length & -length, 32 if three_passes else 64)
        program_heads = 1 if backend == "triton" else 128 // size
        warps = 8 if large or (qkv.dtype.itemsize == 4 and block >= 32) else 4
    program_heads = heads if heads % program_heads else program_heads
    return _Plan(length, size, block, length // block, program_heads, warps, rate, backend, product_precision)


def _part(refs: _Inputs, i: int, place, lanes):
    """Return the queries (`i` = 0), keys (1) or values (2) of one head at a place in the row, with their biases."""
    return refs.parts[i][place, lanes] + refs.biases[i, lanes]


def _dot(plan: _Plan, a, b, contract_a: int, contract_b: int):
    axes = (((contract_a,), (contract_b,)), ((), ()))
    return lax.dot_general(a, b, axes, precision=plan.precision, preferred_element_type=jnp.float32)


def _scores(plan: _Plan, query, key, segments, i, j):
    """Return the masked scores of query block i with key block j."""
    rows, columns = (segments[:, pl.ds(n * plan.block, plan.block)] for n in (i, j))
    return jnp.where(columns == rows.T, _dot(plan, query, key, 1, 1) * plan.size**-0.5, _MASKED)


def _dropout(plan: _Plan, refs: _Inputs, head: int):
    """Return a function (i, j) -> drop; drop zeroes the dropped elements of tile (i, j) and scales up the rest."""
    if refs.words is None:
        return lambda i, j: lambda tile: tile
    # Read outside the loops over blocks, because `pl.program_id` cannot be called inside them.
    head_place = refs.places[0, pl.program_id(1) * plan.heads + head]
    words, length = (refs.words[0], refs.words[1]), jnp.uint32(plan.length)

    def draw(i, j):
        row, column = (lax.broadcasted_iota(jnp.uint32, (plan.block, plan.block), axis) for axis in (0, 1))
        tile_place = head_place + jnp.uint32(plan.block) * (length * jnp.uint32(i) + jnp.uint32(j))
        keep = kept(tile_place + (row * length + column), plan.rate, words)
        return lambda tile: jnp.where(keep, tile * (1 / (1 - plan.rate)), 0.0)

    return draw


def _over_blocks(plan: _Plan, refs: _Inputs, n, step, carry):
    """Fold `step` over the blocks that may share a segment with block n."""
    return step(0, carry) if plan.blocks == 1 else lax.fori_loop(refs.spans[n, 0], refs.spans[n, 1], step, carry)


def _program(kernel, plan: _Plan, refs: _Inputs, *outputs):
    """Run `kernel` on the device, for each head of a group, at one block of a row."""
    n = 0 if plan.blocks == 1 else pl.program_id(2)
    for head in range(plan.heads):
        kernel(plan, refs, n, head, pl.ds(head * plan.size, plan.size), _dropout(plan, refs, head), *outputs)


def _forward_kernel(plan: _Plan, refs: _Inputs, n, head: int, lanes, draw, out, *normalizer):
    """Write the result of query block n: the values, mixed by the attention weights.

    Also write the normalizer of the block, if there is an output for it.
    """
    query = _part(refs, 0, pl.ds(n * plan.block, plan.block), lanes)

    def step(j, carry):
        largest_before, total, mixed = carry
        columns = pl.ds(j * plan.block, plan.block)
        scores = _scores(plan, query, _part(refs, 1, columns, lanes), refs.segments, n, j)
        largest = jnp.maximum(largest_before, scores.max(1, keepdims=True))
        weights, shrink = jnp.exp(scores - largest), jnp.exp(largest_before - largest)
        block_mix = _dot(plan, draw(n, j)(weights).astype(query.dtype), _part(refs, 2, columns, lanes), 1, 0)
        return largest, total * shrink + weights.sum(1, keepdims=True), mixed * shrink + block_mix

    starts = ((1, -jnp.inf), (1, 0), (plan.size, 0))
    initial = tuple(jnp.full((plan.block, width), start, jnp.float32) for width, start in starts)
    largest, total, mixed = _over_blocks(plan, refs, n, step, initial)
    out[:, lanes] = (mixed / total).astype(out.dtype)
    if normalizer:
        normalizer[0][head, :, :] = largest + jnp.log(total)


def _backward_kernel(plan: _Plan, refs: _Inputs, n, head: int, lanes, draw, *gradients):
    """Write the gradients of query block n over all keys, and of key and value block n over all queries."""

    def tile(i, j):
        """Return the weights after dropout, the gradients of the scores, and their factors: query, key and d_out."""
        rows, columns = (pl.ds(b * plan.block, plan.block) for b in (i, j))
        query, key, value = (_part(refs, i, place, lanes) for i, place in enumerate((rows, columns, columns)))
        d_out = refs.d_out[rows, lanes]
        scores, drop = _scores(plan, query, key, refs.segments, i, j), draw(i, j)
        d_weights = drop(_dot(plan, d_out, value, 1, 1))
        if plan.blocks == 1:
            weights = jnp.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            mean = (weights * d_weights).sum(1, keepdims=True)
        else:
            weights = jnp.exp(scores - refs.normalizer[head, rows, :])
            mean = (refs.out[rows, lanes].astype(jnp.float32) * d_out.astype(jnp.float32)).sum(1, keepdims=True)
        d_scores = weights * (d_weights - mean) * plan.size**-0.5
        return drop(weights).astype(query.dtype), d_scores.astype(query.dtype), query, key, d_out

    def along_keys(j, total):
        _, d_scores, _, key, _ = tile(n, j)
        return total + _dot(plan, d_scores, key, 1, 0)

    def along_queries(i, totals):
        weights, d_scores, query, _, d_out = tile(i, n)
        return totals[0] + _dot(plan, d_scores, query, 0, 0), totals[1] + _dot(plan, weights, d_out, 0, 0)

    if plan.blocks == 1:
        weights, d_scores, query, key, d_out = tile(0, 0)
        results = (_dot(plan, d_scores, key, 1, 0), _dot(plan, d_scores, query, 0, 0), _dot(plan, weights, d_out, 0, 0))
    else:
        # Two loops, because one loop with both tiles spills registers and needs twice the shared memory.
        zeros = jnp.zeros((plan.block, plan.size), jnp.float32)
        for_key_value = _over_blocks(plan, refs, n, along_queries, (zeros, zeros))
        results = (_over_blocks(plan, refs, n, along_keys, zeros), *for_key_value)
    for i, result in enumerate(results):
        gradient, place = (gradients[0], (slice(None), i)) if len(gradients) == 1 else (gradients[i], (slice(None),))
        gradient[*place, lanes] = result.astype(gradient.dtype)


def _spans(plan: _Plan, segments: Int[Array, "B 1 T"]) -> Int[Array, "B _ 2"]:
    """Return, for each block, the range of blocks whose segments may overlap those of the block.

    The two numbers are the first block of the range and one past its last block.
    """
    # Padding is at the end of a packed row. As segment 0, it would make the last block's range overlap all others.
    blocks = jnp.where(segments == 0, jnp.iinfo(jnp.int32).max, segments).reshape(-1, plan.blocks, plan.block)
    low, high = blocks.min(2), blocks.max(2)
    meet = (low[:, :, None] <= high[:, None, :]) & (low[:, None, :] <= high[:, :, None])
    return jnp.stack([meet.argmax(2), plan.blocks - meet[:, :, ::-1].argmax(2)], 2).astype(jnp.int32)


def _compiler(plan: _Plan) -> tuple[Any, Any]:
    """Return the compiler parameters of the backend and the memory space for scalars.

    Each backend has a Pallas module of its own, so only the module of `plan.backend` is imported.
    """
    if plan.backend == "mosaic":
        from jax.experimental.pallas import tpu

        # Every program writes its own part of the outputs, so a chip with two cores may use both. Scalars must be in
        # scalar memory.
        return tpu.CompilerParams(dimension_semantics=("parallel",) * 3), tpu.SMEM
    if plan.backend == "triton":
        from jax.experimental.pallas import triton

        return triton.CompilerParams(num_warps=plan.warps, num_stages=2), None
    return None, None


def _call(plan: _Plan, kernel, qkv: Float[Array, "B T 3 HK"], inputs: _Inputs, *, saves: bool = False):
    """Run `kernel` for every row, group of heads and block, and return its outputs.

    The backward kernel returns the gradients of query, key and value as one array, or as three arrays on Mosaic. With
    `saves`, the forward kernel also returns the normalizer that the backward kernel needs.
    """
    rows, length, _, width = qkv.shape
    group, heads = plan.heads * plan.size, width // plan.size
    groups = heads // plan.heads
    row = pl.BlockSpec((None, length, group), lambda b, h, n: (b, 0, h))
    out_specs = [pl.BlockSpec((None, plan.block, group), lambda b, h, n: (b, n, h))]
    out_shape = [jax.ShapeDtypeStruct((rows, length, width), qkv.dtype)]
    if separate := plan.backend == "mosaic":  # because a TPU's tiles would pad an axis of 3
        parts = [qkv[:, :, i] for i in range(3)]
        part_specs = [row] * 3
    else:
        parts = [qkv.reshape(rows, length, 3 * width)] * 3
        starts = (0, groups, 2 * groups)
        part_specs = [pl.BlockSpec((None, length, group), lambda b, h, n, i=i: (b, 0, i + h)) for i in starts]
    if kernel is _backward_kernel:
        if separate:
            out_specs, out_shape = out_specs * 3, out_shape * 3
        else:
            out_specs = [pl.BlockSpec((None, plan.block, 3, group), lambda b, h, n: (b, n, 0, h))]
            out_shape = [jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)]
    elif saves:
        out_specs.append(pl.BlockSpec((None, plan.heads, plan.block, 1), lambda b, h, n: (b, h, n, 0)))
        out_shape.append(jax.ShapeDtypeStruct((rows, heads, length, 1), jnp.float32))
    parameters, memory = _compiler(plan)
    scalars = functools.partial(pl.BlockSpec, memory_space=memory)
    segments, spans = (pl.BlockSpec((None, *x), lambda b, h, n: (b, 0, 0)) for x in ((1, length), (plan.blocks, 2)))
    dropout = scalars((None, 1, heads), lambda b, h, n: (b, 0, 0)), scalars((2,), lambda b, h, n: (0,))
    normalizer = pl.BlockSpec((None, plan.heads, length, 1), lambda b, h, n: (b, h, 0, 0))
    biases = pl.BlockSpec((3, group), lambda b, h, n: (0, h))
    specs = _Inputs(part_specs, biases, segments, spans, *dropout, row, normalizer, row)
    inputs = inputs._replace(parts=parts)
    return pl.pallas_call(
        functools.partial(_program, kernel, plan),
        grid=(rows, heads // plan.heads, plan.blocks),
        in_specs=[_Inputs(*(None if a is None else s for a, s in zip(inputs, specs, strict=True)))],
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=parameters,
        interpret=plan.backend == "interpret",
        name="attention" + kernel.__name__.removesuffix("_kernel"),
    )(inputs)


def _alone(plan: _Plan, qkv, biases, inputs: _Inputs):
    """Run the forward pass where no backward pass follows."""
    (out,) = _call(plan, _forward_kernel, qkv, inputs._replace(biases=biases))
    return out


def _forward(plan: _Plan, qkv, biases, inputs: _Inputs):
    inputs = inputs._replace(biases=biases)
    # In the backward pass, a row in one tile is normalized again from its own scores, so no output is saved.
    out, *normalizer = _call(plan, _forward_kernel, qkv, inputs, saves=plan.blocks > 1)
    return out, (qkv, inputs._replace(out=out, normalizer=normalizer[0]) if normalizer else inputs)


def _backward(plan: _Plan, saved, d_out):
    qkv, inputs = saved
    gradients = _call(plan, _backward_kernel, qkv, inputs._replace(d_out=d_out))
    d_qkv = gradients[0] if len(gradients) == 1 else jnp.stack(gradients, axis=2)
    return d_qkv, d_qkv.sum((0, 1), dtype=jnp.float32).astype(d_qkv.dtype), None


_attention = jax.custom_vjp(_alone, nondiff_argnums=(0,))
_attention.defvjp(_forward, _backward)


def fused_attention(
    qkv: Float[Array, "B T 3 HK"],
    biases: Float[Array, "3 HK"],
    segment_ids: Int[Array, "B T"],
    places: UInt32[Array, "B H"],
    words: UInt32[Array, "2"] | None = None,
    *,
    rate: float,
    backend: Backend,
    precision: lax.Precision | None = None,
) -> Float[Array, "B T HK"]:
    """Return softmax(query key / sqrt(K)) value among tokens of equal segments, with one kernel per pass.

    Query, key and value are the three parts of `qkv + biases`. The kernel adds the biases, so the sum is never in
    memory. The gradients of the biases are sums over rows and tokens in float32.
    Scores, softmax and sums are float32. Weights are cast to the dtype of the inputs before they multiply the values.

    With `words`, weights are dropped where `dropout.kept` is False. `places` holds the index of each head's first
    score among all scores, (b H + h) T T modulo 2^32, so that shards drop the same weights as the whole array
    (`jax.shard_map` needs `check_vma=False`). The backward pass recomputes scores, weights and dropout bits.
    `precision` is that of the products. Mosaic computes "high" as "highest", and Triton computes "highest" as three
    TF32 products.

    Raises `ValueError` if T is no multiple of 16 or too large (over 512 for "mosaic", else over 65536), or if K is
    not 16, 32, 64 or 128.
    Source: FlashAttention-2, algorithms 1 and 2.
    """
    plan = _plan(qkv, places.shape[1], rate, backend, precision)
    segments = segment_ids.astype(jnp.int32)[:, None]
    inputs = _Inputs(None, None, segments, _spans(plan, segments) if plan.blocks > 1 else None)
    if words is not None and rate > 0:
        inputs = inputs._replace(places=places[:, None], words=words)
    return _attention(plan, qkv, biases, inputs)
