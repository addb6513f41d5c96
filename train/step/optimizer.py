"""The optimizer for fine-tuning BERT: AdamW, a learning rate with linear warm-up and decay, clipped gradients."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bert_jax.parameters import depth_of, name_of


def linear_schedule(peak: float, steps: int, warmup_steps: int) -> optax.Schedule:
    """Return a linear schedule: the learning rate rises from 0 to `peak` in the warm-up, then falls to 0 at `steps`.

    As in transformers' `get_linear_schedule_with_warmup`, the first step of a warm-up has learning rate 0.
    """
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup_steps),
            optax.linear_schedule(peak, 0.0, max(1, steps - warmup_steps)),
        ],
        [warmup_steps],
    )


def clip_by_norm(largest: float) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that scales gradients down to a global norm of `largest`, if their norm is larger.

    The transformation's `update` accepts the gradients' global norm as `norm`, for a caller that has it already.
    The result is that of torch's clip_grad_norm_ without its 1e-6. All gradients are multiplied by one number, and
    compilers fuse this product into the code that uses the gradients. optax's `clip_by_global_norm` divides the
    gradients instead, and compilers write the quotients to memory first.
    """

    def update(updates: Any, state: Any, params: Any = None, *, norm: Any = None, **_: Any) -> tuple[Any, Any]:
        scale = jnp.minimum(1.0, largest / (optax.tree.norm(updates) if norm is None else norm))
        return jax.tree.map(lambda x: x * scale.astype(x.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def adamw(learning_rate: optax.ScalarOrSchedule, weight_decay: float = 0.01) -> optax.GradientTransformation:
    """Return AdamW with bias correction, betas 0.9 and 0.999, epsilon 1e-8 (as in torch and transformers).

    Weight decay does not apply to biases and LayerNorm parameters, which are the parameters with one axis.
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
    """Return the whole chain for a run of `steps`: clip the global gradient norm, then AdamW.

    `layer_decay` sets the learning rate by depth: each layer's rate is `layer_decay` times the rate of the layer above
    it. The heads have the full rate and the embeddings the lowest (BEiT; ULMFiT's discriminative fine-tuning). The
    embeddings and the first `frozen` layers are not updated; with `frozen=None`, all parameters are updated.
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
        fixed = [frozen is not None and depth <= frozen for depth in depths]
        factors = [0.0 if is_frozen else layer_decay**down for is_frozen, down in zip(fixed, below, strict=True)]
        pairs = zip(flat, factors, strict=True)
        return nnx.from_flat_state(
            [(path, variable.replace(variable.get_value() * factor)) for (path, variable), factor in pairs]
        )

    return optax.stateless(scaled)
