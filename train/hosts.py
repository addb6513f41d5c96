"""Several processes, one or more a host, as one run: how they meet, agree, and leave writing to the first."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from bert_jax.errors import UserError

from .config import TrainConfig
from .prepare import Prepared

T = TypeVar("T")

_OWN = ("out", "coordinator", "process_id", "restart")
"""Options in which processes may differ: only the first one writes."""


def join(config: TrainConfig) -> None:
    """Meet the other processes of the run, as the options say; nothing to do where there are none.

    With a coordinator's address, its service listens on that address alone; without, JAX finds the
    processes of a Slurm, Kubernetes, Open MPI or TPU job. To be called before anything else of JAX.
    Raises `UserError` where they do not meet.
    """
    if config.coordinator is None and not config.distributed:
        return
    where = {}
    if config.coordinator is not None:
        where = {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
            # By default it would listen on all addresses, and it has no password.
            "coordinator_bind_address": config.coordinator if config.process_id == 0 else None,
        }
    try:
        jax.distributed.initialize(**where)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if config.coordinator is None:
            raise UserError(
                f"--distributed found no Slurm, Kubernetes, Open MPI or TPU job to join ({reason}); "
                "give --coordinator, --num-processes and --process-id"
            ) from None
        raise UserError(f"--coordinator {config.coordinator}: cannot meet the other processes: {reason}") from None


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def agree(config: TrainConfig, prepared: Prepared) -> None:
    """Raise `UserError`, on every process, unless all have the same options, model and data."""
    if jax.process_count() == 1:
        return
    options = {name: value for name, value in vars(config).items() if name not in _OWN}
    tokens = [array for examples, _ in prepared.evaluated.values() for each in examples for array in each[:2]]
    labels = [np.asarray(ids) for _, ids in prepared.evaluated.values()]
    parts = {
        "options": [np.frombuffer(json.dumps(options, default=str).encode(), np.uint8)],
        "model": [prepared.checkpoint.tensors[name] for name in sorted(prepared.checkpoint.tensors)],
        "data": [*prepared.data, *tokens, *labels],
    }
    digests = np.stack([_digest(arrays) for arrays in parts.values()])
    found = np.asarray(multihost_utils.process_allgather(digests))
    for number, theirs in enumerate(found):
        if different := [name for name, a, b in zip(parts, found[0], theirs, strict=True) if (a != b).any()]:
            raise UserError(
                f"process {number} has other {' and '.join(different)} than process 0; "
                "start all with the same options and files"
            )


def everyone(flag: bool) -> bool:
    """Whether `flag` is true on all processes."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.int32(flag)).all())


def largest(number: int) -> int:
    """The largest of all processes' numbers."""
    return number if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int32(number)).max())


def on_first(action: Callable[[], T]) -> T | None:
    """Have the first process do something that the others wait for; they get None.

    An error there is a `UserError` everywhere.
    """
    if jax.process_count() == 1:
        return action()
    result, failure = None, None
    if is_first():
        try:
            result = action()
        except Exception as error:
            failure = error
    failed = bool(multihost_utils.broadcast_one_to_all(np.int32(failure is not None)))
    if failure is not None:
        raise failure
    if failed:
        raise UserError("process 0 could not go on; its message says why")
    return result


def from_first(tree: T) -> T:
    """The first process's arrays, on the host; the others give arrays of the same shapes."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def facts_from_first(facts: dict[str, Any] | None) -> dict[str, Any] | None:
    """The first process's facts, of what JSON can say, or None where it has none."""
    if jax.process_count() == 1:
        return facts
    content = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    sent = multihost_utils.broadcast_one_to_all(np.resize(content, size))
    return json.loads(np.asarray(sent, np.uint8).tobytes())


def to_host(tree: Any) -> Any:
    """Whole copies on the host of arrays that may be divided over all devices."""

    def fetch(x: jax.Array) -> np.ndarray:
        return np.array(x) if x.is_fully_addressable else np.array(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(fetch, tree)


def _digest(arrays: list[Any]) -> np.ndarray:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return np.frombuffer(found.digest(), np.uint8)
