"""The layout of a run on its devices: a mesh for jit, or devices for pmap, and the shardings of all arrays.

The mesh has two axes. The shards of a batch, the optimizer's state and, if asked for, the parameters are divided over
the axis `data`. Attention heads and the feed-forward layer are divided over the axis `model`. This module defines only
the shardings, and the compiler adds the communication.
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

# Parameters that are sharded over `model` by their outputs, and kernels that are sharded by their inputs (Megatron-LM,
# section 3).
_BY_OUTPUT = re.compile(r"\.(query|key|value|intermediate)\.(kernel|bias)$")
_BY_INPUT = re.compile(r"^encoder.*\.output\.kernel$")


class Layout(NamedTuple):
    """The layout of a run on devices: jit over `mesh`, or pmap over the `data` axis of `mesh`.

    With `shard_parameters`, the parameters are sharded over `data`.
    """

    mesh: Mesh
    pmap: bool = False
    shard_parameters: bool = False

    @property
    def shards(self) -> int:
        """Number of shards that each batch is divided into."""
        return self.mesh.shape["data"]

    def everywhere(self) -> NamedSharding:
        """Return the sharding of an array that is replicated on every device."""
        return NamedSharding(self.mesh, P())

    @property
    def own_shards(self) -> list[int]:
        """Numbers of the shards for which this process has a device."""
        rows = enumerate(self.mesh.devices)
        return [i for i, row in rows if any(device.process_index == jax.process_index() for device in row)]

    def of_plan(self) -> NamedSharding:
        """Return the sharding of a plan's arrays (window, micro, shards, slots)."""
        return NamedSharding(self.mesh, P(None, None, "data"))

    def context(self) -> contextlib.AbstractContextManager:
        """Return a context that sets the mesh, for kernels that need to know it. With one device, it sets nothing."""
        alone = self.mesh.size == 1
        return contextlib.nullcontext() if alone else jax.set_mesh(self.mesh)

    def put(self, tree: Any, spec: P | None = None) -> Any:
        """Put host arrays on the devices, sharded by `spec`, or replicated if `spec` is None.

        Every process passes the same whole arrays, and sends their parts to its own devices.
        """
        sharding = NamedSharding(self.mesh, spec or P())
        if sharding.is_fully_addressable:
            return jax.device_put(tree, sharding)
        return jax.tree.map(lambda x: _spread(np.asarray(x), sharding), tree)

    def put_own(self, tree: Any) -> Any:
        """Put host arrays with a leading axis of `own_shards` on the devices of these shards.

        With jit, the leading axis of the result is an axis of all shards, and it is sharded over `data`. With pmap, the
        leading axis stays an axis of `own_shards`, because each process calls a mapped function with the arrays of its
        own devices only.
        """
        if self.pmap:
            own = [self.mesh.devices[i, 0] for i in self.own_shards]
            return jax.device_put(tree, NamedSharding(Mesh(np.array(own), "data"), P("data")))
        sharding = NamedSharding(self.mesh, P("data"))
        with jax.transfer_guard("allow"):
            return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def _spread(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    with jax.transfer_guard("allow"):  # the transfer is explicit, but JAX takes it for an implicit one
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def make_layout(
    config: BertConfig, parallel: str = "jit", model: int = 1, shard_parameters: bool = False, devices: Any = None
) -> Layout:
    """Return the layout on all devices of every process, with `model` devices for each shard of a batch.

    `devices` replaces the list of all devices. Raises `UserError` unless `model` divides the number of devices, the
    number of attention heads and the intermediate size.
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
    """Return the default number of steps in one dispatch: 1 on a CPU, 16 on other backends.

    A loop over steps costs time on a CPU, and a CPU does not have to wait for the host.
    """
    return 1 if jax.default_backend() == "cpu" else 16


def row_multiple() -> int:
    """Return the number that row lengths are a multiple of: 8 on a CPU, 64 elsewhere, which suits fused attention."""
    return 8 if jax.default_backend() == "cpu" else 64


def _spec(name: str, shape: tuple[int, ...], data: int) -> P:
    """Return the spec of a parameter. Its name decides the axis that is sharded over `model`.

    If `data`, the size of the mesh axis `data`, is above 1, the first other axis whose size it divides is sharded over
    `data`. An array with one axis is not.
    """
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
    """Return a `State` of shardings. The optimizer's moments are sharded over `data`, and parameters if asked for."""
    moments = _shardings(layout, params, layout.shards)
    opt_state = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, params),
        moments,
        transform_non_params=lambda _: layout.everywhere(),
    )
    parameters = _shardings(layout, params, layout.shards if layout.shard_parameters else 1)
    return State(parameters, opt_state, cast(Any, layout.everywhere()))
