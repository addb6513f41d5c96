"""The optimizer of parity's one step, with the settings of training (`train.step.optimizer.adamw`)."""

import jax
import optax

from .reference import LEARNING_RATE


def adamw() -> optax.GradientTransformation:
    """Return AdamW with betas 0.9 and 0.999, epsilon 1e-8, and a decay of 0.01 on parameters with more than one axis.

    Training imports this package, so this package cannot import training. A test compares the two optimizers.
    """
    return optax.adamw(
        LEARNING_RATE,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.01,
        mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    )
