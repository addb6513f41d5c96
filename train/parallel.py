"""The training step on the devices there are: compiled for a mesh by jit, or mapped over devices by pmap.

The mesh has two axes. Over `data`, the shards of a batch, the optimizer's state and, if asked for,
the parameters are divided; over `model`, attention heads and the feed-forward layer. What lies where
is said here by shardings alone, and the compiler adds the communication.
"""

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.compilation import compiler_options
from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.heads import example_losses
from bert_jax.parameters import name_of

from . import hosts
from .batches import Plan, TokenSet
from .step import ANY_STEP, Loss, State, StepMetrics, train_steps

# Kernels whose outputs, and whose inputs, are divided over `model` (Megatron-LM, section 3).
_BY_OUTPUT = re.compile(r"\.(query|key|value|intermediate)\.(kernel|bias)$")
_BY_INPUT = re.compile(r"^encoder.*\.output\.kernel$")


class Layout(NamedTuple):
    """How a run lies on devices: by jit over `mesh`, or by pmap over its `data` axis."""

    mesh: Mesh
    pmap: bool = False
    shard_parameters: bool = False

    @property
    def shards(self) -> int:
        """Parts into which each batch is dealt."""
        return self.mesh.shape["data"]

    def everywhere(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, P())

    @property
    def own_shards(self) -> list[int]:
        """The shards of which this process has a device."""
        rows = enumerate(self.mesh.devices)
        return [i for i, row in rows if any(device.process_index == jax.process_index() for device in row)]

    def of_plan(self) -> NamedSharding:
        """The sharding of a plan's arrays (window, micro, shards, slots)."""
        return NamedSharding(self.mesh, P(None, None, "data"))

    def context(self) -> contextlib.AbstractContextManager:
        """The mesh, for kernels that must be told of it, where there is more than one device."""
        alone = self.mesh.size == 1
        return contextlib.nullcontext() if alone else jax.set_mesh(self.mesh)

    def put(self, tree: Any, spec: P | None = None) -> Any:
        """Host arrays as arrays on the devices, divided as `spec` says, or whole on each.

        Every process gives whole arrays, the same ones, and sends its own devices their parts.
        """
        sharding = NamedSharding(self.mesh, spec or P())
        if sharding.is_fully_addressable:
            return jax.device_put(tree, sharding)
        return jax.tree.map(lambda x: _spread(np.asarray(x), sharding), tree)

    def put_own(self, tree: Any) -> Any:
        """Arrays with a leading axis of `own_shards`, which becomes one of all shards, divided over `data`.

        But with pmap it stays as it is: each process calls it with arrays of its own devices.
        """
        if self.pmap:
            own = [self.mesh.devices[i, 0] for i in self.own_shards]
            return jax.device_put(tree, NamedSharding(Mesh(np.array(own), "data"), P("data")))
        sharding = NamedSharding(self.mesh, P("data"))
        with jax.transfer_guard("allow"):
            return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def _spread(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    with jax.transfer_guard("allow"):  # it is a transfer in words, but JAX does not count it as one
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def make_layout(
    config: BertConfig, parallel: str = "jit", model: int = 1, shard_parameters: bool = False, devices: Any = None
) -> Layout:
    """The layout over all devices, of every process, `model` of them for each shard of a batch.

    Raises `UserError` where `model` divides neither the devices nor the network.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % model:
        raise UserError(f"--model-parallel is {model}; expected a divisor of {len(devices)}, the number of devices")
    for name in ("num_attention_heads", "intermediate_size"):
        size = getattr(config, name)
        if size % model:
            raise UserError(f"--model-parallel is {model}; expected a divisor of {name}, which is {size}")
    shape = (len(devices) // model, model)
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)
    return Layout(mesh, parallel == "pmap", shard_parameters)


def default_window() -> int:
    """Steps that this backend takes in one dispatch: a CPU pays for a loop, and waits for no host."""
    return 1 if jax.default_backend() == "cpu" else 16


def row_multiple() -> int:
    """What a row's length is to be a multiple of: on GPU and TPU, as the fused attention likes it."""
    return 8 if jax.default_backend() == "cpu" else 64


def _spec(name: str, shape: tuple[int, ...], data: int) -> P:
    """Where an array of the model's lies: over `model` by its name, over `data`, if that is given, by its shape."""
    axes: list[str | None] = [None] * len(shape)
    if _BY_OUTPUT.search(name):
        axes[-1] = "model"
    elif _BY_INPUT.search(name):
        axes[0] = "model"
    free = [i for i, size in enumerate(shape) if axes[i] is None and size % data == 0]
    if data > 1 and free and len(shape) > 1:  # vectors are not worth the communication
        axes[free[0]] = "data"
    return P(*axes)


def _shardings(layout: Layout, params: nnx.State, data: int) -> nnx.State:
    flat = [
        (path, variable.replace(NamedSharding(layout.mesh, _spec(name_of(path), variable.get_value().shape, data))))
        for path, variable in nnx.to_flat_state(params)
    ]
    return nnx.from_flat_state(flat)


def state_shardings(layout: Layout, optimizer: optax.GradientTransformation, params: nnx.State) -> State:
    """A `State` of shardings: the optimizer's moments are divided over `data`, parameters if asked for."""
    moments = _shardings(layout, params, layout.shards)
    opt_state = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, params),
        moments,
        transform_non_params=lambda _: layout.everywhere(),
    )
    whole = _shardings(layout, params, layout.shards if layout.shard_parameters else 1)
    return State(whole, opt_state, cast(Any, layout.everywhere()))


class Trainer:
    """The step on a layout's devices, compiled once for each number of rows, its state donated."""

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
        """One of the same parameters and optimizer, for other devices, rows, and if that is given network."""
        return Trainer(
            layout, graphdef or self.graphdef, self._optimizer, self.params, row_length, self.loss, self.scan
        )

    def first_state(self, params: nnx.State) -> State:
        """The state before step 0, as a function to compile."""
        return State(params, self._optimizer.init(params), jnp.zeros((), jnp.int32))

    def start(self, params: nnx.State) -> State:
        """The state before step 0, on the devices."""
        if self.layout.pmap:
            return self._on_each(jax.device_get(self.first_state(params)))
        return jax.jit(self.first_state, out_shardings=self.shardings)(self.layout.put(params))

    def restored(self, state: State) -> State:
        """A state from the host, whole, on the devices."""
        if self.layout.pmap:
            return self._on_each(state)
        return jax.tree.map(lambda x, sharding: self.layout.put(x, sharding.spec), state, self.shardings)

    def whole(self, state: State) -> State:
        """A copy of the state on the host; every process has to call this."""
        return hosts.to_host(self._first(state) if self.layout.pmap else state)

    def place(self, data: TokenSet) -> TokenSet:
        """The examples, on every device."""
        return self._on_each(data) if self.layout.pmap else self.layout.put(data)

    def place_own(self, data: TokenSet) -> TokenSet:
        """The examples of each of the layout's `own_shards`, along a leading axis, on the devices of that shard."""
        return self.layout.put_own(data)

    def key(self, seed: int) -> jax.Array:
        """A random key of this seed, on every device; with pmap, which would copy a key in every call, its words."""
        words = np.asarray(jax.random.key_data(jax.random.key(seed)))
        return self._on_each(words) if self.layout.pmap else jax.random.wrap_key_data(self.layout.put(words))

    def place_plan(self, plan: Plan, count: int, first: int = ANY_STEP) -> tuple[Plan, jax.Array]:
        """What a dispatch needs beside state, examples and key; arguments as in `train_steps`."""
        which = np.array([first, count], np.int32)
        if self.layout.pmap:
            own = self.layout.own_shards
            divided = Plan(*(np.moveaxis(array, 2, 0)[own, :, :, None] for array in plan))
            return self.layout.put_own(divided), self._on_each(which)
        return self.layout.put(plan, self.layout.of_plan().spec), self.layout.put(which)

    def __call__(
        self, state: State, data: TokenSet, placed: tuple[Plan, jax.Array], key: jax.Array, num_rows: int
    ) -> tuple[State, StepMetrics]:
        """Take the steps of a placed plan: the state after them, and their metrics."""
        with self.context():
            return self.program(num_rows)(state, data, *placed, key)

    def program(self, num_rows: int) -> Callable[..., tuple[State, StepMetrics]]:
        """The function compiled for shards of `num_rows` rows."""
        if num_rows not in self.compiled:
            make = functools.partial(
                train_steps, self.graphdef, self._optimizer, num_rows, self.row_length, loss=self.loss, scan=self.scan
            )
            if self.layout.pmap:
                steps = make(axis="data")
                made = jax.pmap(
                    lambda state, data, plan, which, words: steps(
                        state, data, plan, which, jax.random.wrap_key_data(words)
                    ),
                    "data",
                    donate_argnums=0,
                    devices=list(self.layout.mesh.devices.flat),
                )
            else:
                out = self.shardings, self.layout.everywhere()
                made = jax.jit(make(), donate_argnums=0, out_shardings=out, compiler_options=compiler_options())
            self.compiled[num_rows] = made
        return self.compiled[num_rows]

    def context(self) -> contextlib.AbstractContextManager:
        """The layout's, but for pmap, whose devices work apart."""
        return contextlib.nullcontext() if self.layout.pmap else self.layout.context()

    def parameters(self, state: State) -> nnx.State:
        """The parameters, whole, on every device."""
        return jax.tree.map(self._one, state.params) if self.layout.pmap else self._gather(state.params)

    def metrics(self, metrics: StepMetrics) -> StepMetrics:
        """A dispatch's metrics on the host: arrays (window,)."""
        return jax.device_get(self._first(metrics) if self.layout.pmap else metrics)

    def _one(self, copies: jax.Array) -> jax.Array:
        """Of a copy for each device, along a leading axis, an array that all devices hold whole."""
        own = [shard.data[0] for shard in copies.addressable_shards]
        return jax.make_array_from_single_device_arrays(copies.shape[1:], self.layout.everywhere(), own)

    def _first(self, tree: Any) -> Any:
        return jax.tree.map(lambda array: array.addressable_shards[0].data[0], tree)

    def _on_each(self, tree: Any) -> Any:
        """A copy for each of this process's devices, along a leading axis, as pmap takes and gives it."""
        count = len(self.layout.own_shards)
        spread = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x)[None], (count, *np.shape(x))), tree)
        return self.layout.put_own(spread)
