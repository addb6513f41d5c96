"""The training step, a pure function of state, data, plan and key, for several steps in one dispatch."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from bert_jax.heads import example_losses

from ..data.token_set import TokenSet
from .batches import Plan
from .gather import assemble


class State(NamedTuple):
    """Everything that the next step depends on, apart from data, plan and key."""

    params: nnx.State
    opt_state: optax.OptState
    step: Int[Array, ""]


class StepMetrics(NamedTuple):
    """For each step, the mean loss over its examples and the global norm of its gradients before clipping."""

    loss: Float[Array, "*steps"]
    grad_norm: Float[Array, "*steps"]


Loss = Callable[[Float[Array, "N C"], Shaped[Array, "N ..."]], Float[Array, " N"]]
"""Function that returns the loss of each example from logits and targets (`bert_jax.heads.example_losses`)."""

Steps = Callable[[State, TokenSet, Plan, Int[Any, "2"], Key[Array, ""]], tuple[State, StepMetrics]]

ANY_STEP = -1
"""Value for the number of the first step that means the next step of the state."""


_Carry = tuple[Int[Array, ""], State, StepMetrics]


def train_steps(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    num_rows: int,
    row_length: int,
    axis: str | None = None,
    loss: Loss = example_losses,
    scan: int | None = None,
) -> Steps:
    """Return the pure function `(state, data, plan, which, key) -> state, metrics` that takes up to a window of steps.

    The classifier is split as `graphdef, params = nnx.split(model)`. `plan` has arrays (window, micro, shards, slots).
    `which` is `(first, count)`: the number of the first step (`ANY_STEP` for the state's next step), and the number of
    steps. `metrics` are arrays (window,).

    A step whose loss or gradients are not finite leaves the state unchanged. Every later step also leaves it unchanged,
    because the number of that step is then not the number in the state. Gradients are summed over micro-batches and, if
    the function is mapped over an axis of devices, over the devices of `axis`. Dropout depends on (key, step,
    micro-batch, device), so a step is a function of (seed, step).

    Without `scan`, a window is a loop over `count` steps. With `scan`, a window is a loop over its full length, with
    `scan` steps unrolled in the body. That loop also computes the steps past `count`, but does not take them. Both
    loops take the same steps, and `benchmarks.gpu` compares their speed.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def step(
        state: State, data: TokenSet, plan: Plan, its_turn: Bool[Array, ""], key: Key[Array, ""]
    ) -> tuple[State, StepMetrics]:
        key = jax.random.fold_in(key, state.step)
        examples = jnp.sum(plan.places < num_rows * row_length).astype(jnp.float32)
        if axis is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
            examples = jax.lax.psum(examples, axis)

        def loss_of(params: nnx.State, part: Plan, key: Key[Array, ""]) -> Float[Array, ""]:
            batch = assemble(data, part, num_rows, row_length)
            logits = nnx.merge(graphdef, params)(batch.rows, nnx.Rngs(dropout=key))
            return jnp.sum(loss(logits, batch.targets) * batch.weights) / jnp.maximum(examples, 1)

        def part_of(sums: Any, numbered: tuple[Int[Array, ""], Plan]) -> tuple[Any, None]:
            number, part = numbered
            loss_and_grads = jax.value_and_grad(loss_of)(state.params, part, jax.random.fold_in(key, number))
            return jax.tree.map(jnp.add, sums, loss_and_grads), None

        micro = plan.examples.shape[0]
        if micro == 1:
            mean, grads = jax.value_and_grad(loss_of)(state.params, jax.tree.map(lambda x: x[0], plan), key)
        else:
            zeros = jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params)
            (mean, grads), _ = jax.lax.scan(part_of, zeros, (jnp.arange(micro), plan))
        if axis is not None:
            mean, grads = jax.lax.psum((mean, grads), axis)
        norm = optax.tree.norm(grads)
        good = its_turn & jnp.isfinite(mean) & jnp.isfinite(norm)

        def updated() -> State:
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params, norm=norm)
            params = optax.apply_updates(state.params, updates)
            return State(cast(nnx.State, params), opt_state, state.step + 1)

        # On GPU and TPU, selection is fused into the kernels of the update, and a branch would copy the whole state.
        # On a CPU, selection is not fused, and would be one more pass over the state.
        new = jax.lax.platform_dependent(
            cpu=lambda: jax.lax.cond(good, updated, lambda: state),
            default=lambda: jax.tree.map(lambda new, old: jnp.where(good, new, old), updated(), state),
        )
        return new, StepMetrics(mean, norm)

    def steps(
        state: State, data: TokenSet, plan: Plan, which: Int[Any, "2"], key: Key[Array, ""]
    ) -> tuple[State, StepMetrics]:
        window, (first, count) = plan.examples.shape[0], which
        first = jnp.where(first == ANY_STEP, state.step, first)
        if window == 1:  # XLA compiles the body of a loop separately, which is slower on a CPU
            state, metrics = step(state, data, jax.tree.map(lambda x: x[0], plan), state.step == first, key)
            return state, jax.tree.map(lambda x: x[None], metrics)

        def goes_on(carry: _Carry) -> Bool[Array, ""]:
            i, state, _ = carry
            return (i < count) & (state.step == first + i)

        def body(carry: _Carry) -> _Carry:
            i, state, metrics = carry
            step_plan = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), plan)
            state, values = step(state, data, step_plan, jnp.bool_(True), key)
            return i + 1, state, jax.tree.map(lambda all, one: all.at[i].set(one), metrics, values)

        def one(state: State, numbered: tuple[Int[Array, ""], Plan]) -> tuple[State, StepMetrics]:
            i, step_plan = numbered
            its_turn = (i < count) & (state.step == first + i)
            state, values = step(state, data, step_plan, its_turn, key)
            return state, jax.tree.map(lambda value: jnp.where(its_turn, value, 0), values)

        if scan is not None:
            return jax.lax.scan(one, state, (jnp.arange(window, dtype=jnp.int32), plan), unroll=scan)
        # The length of this loop is known only at run time, so the last window of an epoch needs no program of its own.
        start = jnp.int32(0), state, StepMetrics(*jnp.zeros((2, window)))
        return jax.lax.while_loop(goes_on, body, start)[1:]

    return steps
