"""Vectors of sentences: token vectors of packed rows, pooled for each example, and the layers that follow."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bert_jax.activations import tanh
from bert_jax.norm import normalize
from bert_jax.packing import Rows
from bert_jax.sentence_layers import Layer

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Identity": lambda x: x,
    "Tanh": tanh,
    "ReLU": jax.nn.relu,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "Sigmoid": jax.nn.sigmoid,
    "SiLU": jax.nn.silu,
}
"""Functions of the activations that `bert_jax.sentence_layers.ACTIVATIONS` names."""

_LAYER_NORM_EPSILON = 1e-5
"""The default of torch.nn.LayerNorm, which sentence-transformers uses."""

_LEAST_NORM = 1e-12
"""A vector is divided by its norm, or by this number if that is larger. Source: torch.nn.functional.normalize."""


def pool(
    hidden: Float[Array, "B T D"], rows: Rows, modes: Sequence[str], skip: Int[Array, ""] | int = 0
) -> Float[Array, "N P"]:
    """Return the pooled token vectors of each example, in float32: one vector of D elements for each of the modes.

    `modes` are some of `bert_jax.sentence_files.POOLINGS`; their results are concatenated, so P is D times their
    number. The first `skip` tokens of each example are left out. Each example needs a token beyond these. Vectors at
    padding slots of `rows.first_tokens` are finite or infinite, and have no meaning.
    Source: sentence-transformers, `sentence_transformer/modules/pooling.py`.
    """
    count, size = hidden.shape[0] * hidden.shape[1], hidden.shape[2]
    vectors = hidden.astype(jnp.float32).reshape(count, size)
    positions, segments = (jnp.asarray(array).reshape(count) for array in (rows.position_ids, rows.segment_ids))
    first_tokens = jnp.asarray(rows.first_tokens)
    places = jnp.arange(count)
    starts = places - positions  # the index of the first token of the example that each token belongs to
    is_pooled = (segments != 0) & (positions >= skip)

    def summed(weights: Float[Array, " tokens"]) -> tuple[Float[Array, "N D"], Float[Array, "N 1"]]:
        """Return the weighted sum of each example's vectors, and the sum of its weights."""
        sums = jax.ops.segment_sum(vectors * weights[:, None], starts, count, indices_are_sorted=True)
        totals = jax.ops.segment_sum(weights, starts, count, indices_are_sorted=True)
        return sums[first_tokens], totals[first_tokens][:, None]

    def pooled_by(mode: str) -> Float[Array, "N D"]:
        if mode == "cls":
            return vectors[first_tokens + skip]
        if mode == "lasttoken":
            last_places = jax.ops.segment_max(jnp.where(is_pooled, places, 0), starts, count, indices_are_sorted=True)
            return vectors[last_places[first_tokens]]
        if mode == "max":
            values = jnp.where(is_pooled[:, None], vectors, -jnp.inf)
            return jax.ops.segment_max(values, starts, count, indices_are_sorted=True)[first_tokens]
        ones = is_pooled.astype(jnp.float32)
        sums, totals = summed(ones * (positions + 1) if mode == "weightedmean" else ones)
        return sums / jnp.maximum(jnp.sqrt(totals) if mode == "mean_sqrt_len_tokens" else totals, 1)

    return jnp.concatenate([pooled_by(mode) for mode in modes], axis=1)


def apply_layer(layer: Layer, tensors: Mapping[str, Array], x: Float[Array, "N P"]) -> Float[Array, "N Q"]:
    """Return the output of a layer for N vectors, in float32; `tensors` are those of the layer, on the device.

    Source: sentence-transformers, `base/modules/dense.py`, `normalize.py` and `sentence_transformer/modules`.
    """
    if layer.kind == "truncate":
        return x[:, : layer.size]
    if layer.kind == "normalize":
        return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), _LEAST_NORM)
    if layer.kind == "layer_norm":
        return normalize(x, tensors["norm.weight"], tensors["norm.bias"], _LAYER_NORM_EPSILON)
    assert layer.kind == "dense", layer.kind

    def product(name: str) -> Float[Array, "N Q"]:
        return jnp.matmul(x, tensors[name].T, precision="highest")

    y = product("linear.weight")
    if "linear.bias" in tensors:
        y = y + tensors["linear.bias"]
    y = ACTIVATIONS[layer.activation](y)
    if not layer.residual:
        return y
    return y + (product("residual.weight") if "residual.weight" in tensors else x)
