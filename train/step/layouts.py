"""How a run lies on the devices there are: a mesh for jit, or devices for pmap, and what is divided over them.

The mesh has two axes. Over `data`, the shards of a batch, the optimizer's state and, if asked for,
the parameters are divided; over `model`, attention heads and the feed-forward layer. What lies where
is said here by shardings alone, and the compiler adds the communication.
"""

import contextlib
import re
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.parameters import name_of

from .train_step import State

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
