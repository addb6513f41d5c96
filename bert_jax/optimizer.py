"""The optimizer BERT is fine-tuned with: AdamW, linear warm-up and decay, clipped gradients."""

import jax
import optax


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
    learning_rate: float, *, steps: int, warmup_steps: int, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """The whole chain for a run of `steps`: clip the global gradient norm, then AdamW."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        adamw(linear_schedule(learning_rate, steps, warmup_steps), weight_decay),
    )
