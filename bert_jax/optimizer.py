"""The optimizer BERT is fine-tuned with: AdamW, linear warm-up and decay, clipped gradients."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bert_jax.parameters import depth_of, name_of


def linear_schedule(peak: float, steps: int, warmup_steps: int) -> optax.Schedule:
    """Learning rate from 0 to `peak` over the warm-up, then linearly to 0 at `steps`.

    As transformers' `get_linear_schedule_with_warmup`: the first step of a warm-up has rate 0.
    """
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup_steps),
            optax.linear_schedule(peak, 0.0, max(1, steps - warmup_steps)),
        ],
        [warmup_steps],
    )


def clip_by_norm(largest: float) -> optax.GradientTransformationExtraArgs:
    """Shorten gradients to a global norm of `largest`, where theirs is larger.

    `norm` is that norm, where a caller has it already. As torch's clip_grad_norm_, without its 1e-6. Unlike optax's
    `clip_by_global_norm` it multiplies all by one number, which compilers fuse into what uses the gradients; they write
    quotients out first.
    """

    def update(updates: Any, state: Any, params: Any = None, *, norm: Any = None, **_: Any) -> tuple[Any, Any]:
        scale = jnp.minimum(1.0, largest / (optax.tree.norm(updates) if norm is None else norm))
        return jax.tree.map(lambda x: x * scale.astype(x.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def adamw(learning_rate: optax.ScalarOrSchedule, weight_decay: float = 0.01) -> optax.GradientTransformation:
    """AdamW with bias correction, betas 0.9 and 0.999, epsilon 1e-8 (torch's and transformers').

    Weight decay leaves out biases and LayerNorm, which are the parameters with one axis.
    """
    return optax.adamw(
        learning_rate,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=weight_decay,
        mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    )


def fine_tuning(
    learning_rate: float,
    *,
    steps: int,
    warmup_steps: int,
    weight_decay: float,
    clip_norm: float,
    layer_decay: float = 1.0,
    frozen: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The whole chain for a run of `steps`: clip the global gradient norm, then AdamW.

    With `layer_decay`, each layer down from the heads learns at that share of the rate above it, the embeddings
    slowest (BEiT; ULMFiT's discriminative fine-tuning). The embeddings and first `frozen` layers stay as they are.
    """
    chain = [
        clip_by_norm(clip_norm),
        adamw(linear_schedule(learning_rate, steps, warmup_steps), weight_decay),
    ]
    if layer_decay != 1 or frozen is not None:
        chain.append(_by_depth(layer_decay, frozen))
    return optax.chain(*chain)


def _by_depth(layer_decay: float, frozen: int | None) -> optax.GradientTransformation:
    def scaled(updates: Any, params: Any) -> Any:
        flat = list(nnx.to_flat_state(updates))
        depths = [depth_of(name_of(path)) for path, _ in flat]
        top = 1 + max(depth for depth in depths if depth < math.inf)
        below = [top - min(depth, top) for depth in depths]
        stays = [frozen is not None and depth <= frozen for depth in depths]
        factors = [0.0 if here else layer_decay**down for here, down in zip(stays, below, strict=True)]
        both = zip(flat, factors, strict=True)
        return nnx.from_flat_state([(path, one.replace(one.get_value() * factor)) for (path, one), factor in both])

    return optax.stateless(scaled)
