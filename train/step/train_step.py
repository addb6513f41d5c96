"""The training step: a pure function of state, data, plan and key; several of them in one dispatch."""

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
    """Everything the next step depends on, besides its plan and the run's key."""

    params: nnx.State
    opt_state: optax.OptState
    step: Int[Array, ""]


class StepMetrics(NamedTuple):
    """Mean loss over a step's examples, and the gradients' global norm before clipping; a value a step."""

    loss: Float[Array, "*steps"]
    grad_norm: Float[Array, "*steps"]


Loss = Callable[[Float[Array, "N C"], Shaped[Array, "N ..."]], Float[Array, " N"]]
"""Of logits and targets, the loss of each example (`bert_jax.heads.example_losses`)."""

Steps = Callable[[State, TokenSet, Plan, Int[Any, "2"], Key[Array, ""]], tuple[State, StepMetrics]]

ANY_STEP = -1
"""As the number of the first step: whichever comes next in the state."""


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
    """The pure function `(state, data, plan, which, key) -> state, metrics` of up to a window of steps.

    The classifier is split as `graphdef, params = nnx.split(model)`. `plan` has arrays
    (window, micro, shards, slots), and `which` says of how many steps, and the number of the first
    (`ANY_STEP` for any): `(first, count)`. `metrics` are arrays (window,). A step whose loss or
    gradients are not finite leaves the state as it was, and so does every step after it, whose number is
    no longer that of the state. Gradients are summed over micro-batches, and over the devices of `axis` where the
    function is mapped over one. Dropout draws from (key, step, micro-batch, device), so a step is a
    function of (seed, step).

    A window is a loop that ends with its steps or, with `scan`, one of the window's length with so many steps unrolled
    in its body, which computes the steps that a shorter window lacks without taking them. Both take the same steps;
    `benchmarks.gpu` compares how fast.
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
            found = jax.value_and_grad(loss_of)(state.params, part, jax.random.fold_in(key, number))
            return jax.tree.map(jnp.add, sums, found), None

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

        # GPU and TPU choose within the update's own kernels, where a branch would copy the whole state;
        # the CPU cannot, and would pass over the state once more.
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
        if window == 1:  # a loop's body is compiled apart from it, which the CPU pays for
            state, metrics = step(state, data, jax.tree.map(lambda x: x[0], plan), state.step == first, key)
            return state, jax.tree.map(lambda x: x[None], metrics)

        def goes_on(carry: _Carry) -> Bool[Array, ""]:
            i, state, _ = carry
            return (i < count) & (state.step == first + i)

        def body(carry: _Carry) -> _Carry:
            i, state, metrics = carry
            here = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), plan)
            state, values = step(state, data, here, jnp.bool_(True), key)
            return i + 1, state, jax.tree.map(lambda all, one: all.at[i].set(one), metrics, values)

        def one(state: State, numbered: tuple[Int[Array, ""], Plan]) -> tuple[State, StepMetrics]:
            i, here = numbered
            its_turn = (i < count) & (state.step == first + i)
            state, values = step(state, data, here, its_turn, key)
            return state, jax.tree.map(lambda value: jnp.where(its_turn, value, 0), values)

        if scan is not None:
            return jax.lax.scan(one, state, (jnp.arange(window, dtype=jnp.int32), plan), unroll=scan)
        # A loop of a length known only at run time, so that the window an epoch ends with needs no program of its own.
        start = jnp.int32(0), state, StepMetrics(*jnp.zeros((2, window)))
        return jax.lax.while_loop(goes_on, body, start)[1:]

    return steps
