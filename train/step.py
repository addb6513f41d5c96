"""One training step: a pure function of state, batch and key, compiled with the state donated."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from bert_jax.heads import cross_entropy

from .batches import Batch


class State(NamedTuple):
    """Everything the next step depends on, besides its batch and the run's key."""

    params: nnx.State
    opt_state: optax.OptState
    step: Int[Array, ""]


class StepMetrics(NamedTuple):
    """Of one step: mean loss over its examples, and the gradients' global norm before clipping."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]


def initial_state(params: nnx.State, optimizer: optax.GradientTransformation) -> State:
    """The state before step 0."""
    return State(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_train_step(
    graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation
) -> Callable[[State, Batch, Key[Array, ""]], tuple[State, StepMetrics]]:
    """Compile the step for a classifier split as `graphdef, params = nnx.split(model)`.

    Dropout at a step draws from `fold_in(key, step)`, so a step is a function of (seed, step).
    The state passed in is donated: its arrays are gone after the call.
    """

    def train_step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, StepMetrics]:
        def loss_of(params: nnx.State) -> Float[Array, ""]:
            rngs = nnx.Rngs(dropout=jax.random.fold_in(key, state.step))
            logits = nnx.merge(graphdef, params)(batch.rows, rngs)
            return cross_entropy(logits, batch.labels, batch.weights)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(cast(nnx.State, params), opt_state, state.step + 1), StepMetrics(loss, optax.tree.norm(grads))

    return jax.jit(train_step, donate_argnums=0)
