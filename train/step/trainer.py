"""The training step on devices: compiled for a mesh by jit, or mapped over devices by pmap."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bert_jax.compilation import compiler_options
from bert_jax.heads import example_losses

from ..data.token_set import TokenSet
from . import hosts
from .batches import Plan
from .layouts import Layout, state_shardings
from .train_step import ANY_STEP, Loss, State, StepMetrics, train_steps


class Trainer:
    """The training step on a layout's devices, compiled once for each row count. A step donates its state."""

    def __init__(
        self,
        layout: Layout,
        graphdef: nnx.GraphDef,
        optimizer: optax.GradientTransformation,
        params: nnx.State,
        row_length: int,
        loss: Loss = example_losses,
        scan: int | None = None,
    ):
        self.layout, self.row_length, self.loss, self.scan = layout, row_length, loss, scan
        self.graphdef, self._optimizer = graphdef, optimizer
        self.params = jax.eval_shape(lambda params: params, params)
        self.shardings = state_shardings(layout, optimizer, params)
        self.compiled: dict[int, Callable[..., tuple[State, StepMetrics]]] = {}
        self._gather = jax.jit(lambda tree: tree, out_shardings=layout.everywhere())

    def like(self, layout: Layout, row_length: int, graphdef: nnx.GraphDef | None = None) -> "Trainer":
        """Return a trainer with the same parameters and optimizer for another layout and row length.

        `graphdef`, if given, replaces the network.
        """
        return Trainer(
            layout, graphdef or self.graphdef, self._optimizer, self.params, row_length, self.loss, self.scan
        )

    def first_state(self, params: nnx.State) -> State:
        """Return the state before step 0. Callers compile this function."""
        return State(params, self._optimizer.init(params), jnp.zeros((), jnp.int32))

    def start(self, params: nnx.State) -> State:
        """Return the state before step 0, on the devices."""
        if self.layout.pmap:
            return self._on_each(jax.device_get(self.first_state(params)))
        return jax.jit(self.first_state, out_shardings=self.shardings)(self.layout.put(params))

    def restored(self, state: State) -> State:
        """Return a state on the devices, from a whole state on the host."""
        if self.layout.pmap:
            return self._on_each(state)
        return jax.tree.map(lambda x, sharding: self.layout.put(x, sharding.spec), state, self.shardings)

    def whole(self, state: State) -> State:
        """Return a whole copy of the state on the host. Every process must call this method."""
        return hosts.to_host(self._first(state) if self.layout.pmap else state)

    def place(self, data: TokenSet) -> TokenSet:
        """Return the examples, replicated on every device."""
        return self._on_each(data) if self.layout.pmap else self.layout.put(data)

    def place_own(self, data: TokenSet) -> TokenSet:
        """Put examples with a leading axis of the layout's `own_shards` on the devices of these shards."""
        return self.layout.put_own(data)

    def key(self, seed: int) -> jax.Array:
        """Return the random key of this seed, replicated on every device.

        With pmap, return the words of the key instead, because pmap would copy a key in every call.
        """
        words = np.asarray(jax.random.key_data(jax.random.key(seed)))
        return self._on_each(words) if self.layout.pmap else jax.random.wrap_key_data(self.layout.put(words))

    def place_plan(self, plan: Plan, count: int, first: int = ANY_STEP) -> tuple[Plan, jax.Array]:
        """Return `plan` and `(first, count)` on the devices, as a dispatch needs them (`train_steps`)."""
        which = np.array([first, count], np.int32)
        if self.layout.pmap:
            own = self.layout.own_shards
            divided = Plan(*(np.moveaxis(array, 2, 0)[own, :, :, None] for array in plan))
            return self.layout.put_own(divided), self._on_each(which)
        return self.layout.put(plan, self.layout.of_plan().spec), self.layout.put(which)

    def __call__(
        self, state: State, data: TokenSet, placed: tuple[Plan, jax.Array], key: jax.Array, num_rows: int
    ) -> tuple[State, StepMetrics]:
        """Take the steps of a placed plan, and return the state after the steps and their metrics."""
        with self.context():
            return self.program(num_rows)(state, data, *placed, key)

    def program(self, num_rows: int) -> Callable[..., tuple[State, StepMetrics]]:
        """Return the compiled function for shards of `num_rows` rows."""
        if num_rows not in self.compiled:
            make = functools.partial(
                train_steps, self.graphdef, self._optimizer, num_rows, self.row_length, loss=self.loss, scan=self.scan
            )
            if self.layout.pmap:
                steps = make(axis="data")
                compiled = jax.pmap(
                    lambda state, data, plan, which, words: steps(
                        state, data, plan, which, jax.random.wrap_key_data(words)
                    ),
                    "data",
                    donate_argnums=0,
                    devices=list(self.layout.mesh.devices.flat),
                )
            else:
                shardings = self.shardings, self.layout.everywhere()
                compiled = jax.jit(
                    make(), donate_argnums=0, out_shardings=shardings, compiler_options=compiler_options()
                )
            self.compiled[num_rows] = compiled
        return self.compiled[num_rows]

    def context(self) -> contextlib.AbstractContextManager:
        """Return the context of the layout, or an empty one with pmap, which runs each device separately."""
        return contextlib.nullcontext() if self.layout.pmap else self.layout.context()

    def parameters(self, state: State) -> nnx.State:
        """Return the parameters of a state, replicated on every device."""
        return jax.tree.map(self._one, state.params) if self.layout.pmap else self._gather(state.params)

    def metrics(self, metrics: StepMetrics) -> StepMetrics:
        """Return the metrics of a dispatch on the host, as arrays (window,)."""
        return jax.device_get(self._first(metrics) if self.layout.pmap else metrics)

    def _one(self, copies: jax.Array) -> jax.Array:
        """Return a replicated array from an array with one copy for each device along its leading axis."""
        own = [shard.data[0] for shard in copies.addressable_shards]
        return jax.make_array_from_single_device_arrays(copies.shape[1:], self.layout.everywhere(), own)

    def _first(self, tree: Any) -> Any:
        return jax.tree.map(lambda array: array.addressable_shards[0].data[0], tree)

    def _on_each(self, tree: Any) -> Any:
        """Return one copy for each of this process's devices along a leading axis, as pmap takes and returns arrays."""
        count = len(self.layout.own_shards)
        spread = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x)[None], (count, *np.shape(x))), tree)
        return self.layout.put_own(spread)
