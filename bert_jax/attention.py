"""Multi-head self-attention over packed rows."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt32
from numpy import ndarray

from bert_jax.config import PRECISIONS, BertConfig
from bert_jax.dropout import dropout, places
from bert_jax.errors import UserError
from bert_jax.kernel_check import agrees


def products(dtype: jnp.dtype, precision: str) -> lax.Precision | None:
    """Return the `precision` argument of JAX's matrix products in `dtype`; `precision` is one of `config.PRECISIONS`.

    Returns None for bfloat16: the product of two bfloat16 numbers is exact in float32, and every device sums such
    products in float32. Raises `UserError` for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    return lax.Precision(precision) if dtype == jnp.float32 else None


def linear(
    config: BertConfig, inputs: int, outputs: int, dtype: jnp.dtype, precision: str, rngs: nnx.Rngs
) -> nnx.Linear:
    """Return a dense layer with a bias, initialised as in BERT: the kernel is normal(0, initializer_range)."""
    return nnx.Linear(
        inputs,
        outputs,
        dtype=dtype,
        precision=products(dtype, precision),
        param_dtype=jnp.float32,
        kernel_init=initial(config),
        rngs=rngs,
    )


def initial(config: BertConfig) -> nnx.Initializer:
    """Return BERT's initializer of kernels and tables, normal(0, initializer_range).

    Without a key, the initializer returns zeros, to be replaced by the values of a checkpoint.
    """
    normal = nnx.initializers.normal(config.initializer_range)
    return lambda key, shape, dtype: jnp.zeros(shape, dtype) if key is None else normal(key, shape, dtype)


def segment_mask(segment_ids: Int[Array | ndarray, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Return a mask that is True where query and key belong to the same example of a row.

    Padding (segment 0) attends to padding only. So no row of the mask is empty, every softmax is finite, and no
    example attends to padding.
    """
    segment_ids = jnp.asarray(segment_ids)
    return (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]


def plain_attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    segment_ids: Int[Array, "B T"],
    words: UInt32[Array, "2"] | None,
    rate: float,
    precision: lax.Precision | None = None,
) -> Float[Array, "B T H K"]:
    """Return attention among the tokens of each example, in XLA's own operations; the softmax is float32."""
    scores = jnp.einsum("bthk,bshk->bhts", query, key, precision=precision).astype(jnp.float32)
    scores *= query.shape[-1] ** -0.5
    # A finite value: with -inf, a fully masked row would be NaN.
    scores = jnp.where(segment_mask(segment_ids), scores, jnp.finfo(jnp.float32).min)
    weights = dropout(jax.nn.softmax(scores, axis=-1), rate, words).astype(query.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights, value, precision=precision)


def longest(kernel: str) -> int:
    """Return the length in tokens of the longest row that the fused kernel accepts.

    The limit is lower on a TPU, because its fast memory holds the scores of whole rows.
    """
    return 512 if kernel == "mosaic" else 65536


def takes(length: int, head_size: int, kernel: str) -> bool:
    """Return whether the fused kernel accepts rows of `length` tokens and heads of `head_size` numbers."""
    return length % 16 == 0 and length <= longest(kernel) and head_size in (16, 32, 64, 128)


def fused_here() -> str | None:
    """Return the name of the fused kernel for this machine's kind of device, or None for a CPU."""
    return {"gpu": "triton", "tpu": "mosaic"}.get(jax.default_backend())


def kernel_for(name: str, length: int, head_size: int) -> str:
    """Return the attention to use for `name`, one of `config.ATTENTION`.

    "auto" becomes the fused kernel on a GPU or TPU, if the kernel accepts these shapes and agrees with the plain
    formula on this kind of device (`kernel_check.agrees`). Otherwise "auto" becomes "plain". Any other name is
    returned unchanged.
    """
    if name != "auto":
        return name
    fused = fused_here()
    return fused if fused and takes(length, head_size, fused) and agrees(fused) else "plain"


class Attention(nnx.Module):
    """Scaled dot-product attention with H heads and an output projection, without the residual.

    Source: "Attention is all you need", 3.2; transformers' `BertSelfAttention`.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        dtype: jnp.dtype,
        precision: str = "highest",
        attention: str = "auto",
        rngs: nnx.Rngs,
    ):
        size = config.hidden_size
        self.query = linear(config, size, size, dtype, precision, rngs)
        self.key = linear(config, size, size, dtype, precision, rngs)
        self.value = linear(config, size, size, dtype, precision, rngs)
        self.output = linear(config, size, size, dtype, precision, rngs)
        self.precision = products(dtype, precision)
        self.heads, self.head_size = config.num_attention_heads, config.head_size
        self.rate = config.attention_probs_dropout_prob
        self.attention = attention

    def __call__(
        self,
        x: Float[Array, "B T D"],
        segment_ids: Int[Array | ndarray, "B T"],
        words: UInt32[Array, "2"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Mix the tokens of each example (equal segments of a row).

        `words` are the random words for dropout (`bert_jax.dropout.seeds`).
        """
        segments = jnp.asarray(segment_ids)
        implementation = kernel_for(self.attention, x.shape[1], self.head_size)
        parts = (self.query, self.key, self.value)
        if implementation == "plain" and _three_products():
            query, key, value = (part(x).reshape(*x.shape[:2], self.heads, self.head_size) for part in parts)
            mixed = plain_attention(query, key, value, segments, words, self.rate, self.precision)
            return self.output(mixed.reshape(x.shape))
        # One product gives query, key and value. Kernels are stacked along a new axis, so that heads can be sharded.
        kernel = jnp.stack([part.kernel[...] for part in parts], axis=1).astype(x.dtype)
        bias = jnp.stack([part.bias[...] for part in parts if part.bias is not None]).astype(x.dtype)
        product = jnp.einsum("btd,dne->btne", x, kernel, precision=self.precision)
        if implementation == "plain":
            qkv = (product + bias).reshape(*x.shape[:2], 3, self.heads, self.head_size)
            query, key, value = jnp.moveaxis(qkv, 2, 0)
            mixed = plain_attention(query, key, value, segments, words, self.rate, self.precision)
        else:
            settings = {"rate": self.rate, "backend": implementation, "precision": self.precision}
            mixed = _fused(product, bias, segments, words, self.heads, **settings)
        return self.output(mixed.reshape(x.shape))


def _three_products() -> bool:
    """Return whether plain attention computes query, key and value as three products instead of one.

    On a CPU, stacking and transposing the weights takes longer than a single product saves. Where heads are sharded
    over devices, however, a single product needs one sum over devices in its backward pass, and three products need
    three.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() == "cpu" and (mesh.empty or mesh.shape.get("model", 1) == 1)


def _fused(qkv, biases, segment_ids, words, heads: int, **settings) -> Array:
    """Run the fused kernel; on a mesh, each device runs the kernel on its own rows and heads."""
    # Imported in this function, so that a JAX version that moves Pallas breaks only users of the fused kernel.
    from bert_jax.fused_attention import fused_attention

    rows, length = segment_ids.shape
    head_places = places((rows, heads)) * jnp.uint32(length * length)
    run = functools.partial(fused_attention, **settings)
    if not jax.sharding.get_abstract_mesh().empty:
        specs = (P("data", None, None, "model"), P(None, "model"), P("data", None), P("data", "model"), P())
        run = jax.shard_map(run, in_specs=specs, out_specs=P("data", None, "model"), check_vma=False)
    return run(qkv, biases, segment_ids, head_places, words)
