"""Several processes, one or more on each host, as one run: they join, agree on inputs, and the first one writes."""

import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from bert_jax.errors import UserError

from ..config import TrainConfig
from ..data.prepare import Prepared

T = TypeVar("T")

HEARTBEAT = 10
"""Seconds without a heartbeat from a process after which JAX ends the other processes."""


def join(config: TrainConfig) -> None:
    """Join the other processes of the run. Does nothing without `config.coordinator` or `config.distributed`.

    With the address of a coordinator, the coordinator's service listens on that address only. Without it, JAX finds the
    processes of a Slurm, Kubernetes, Open MPI or TPU job. Call this function before anything else of JAX. Raises
    `UserError` if the processes cannot join. If not all processes come within `config.join_timeout` seconds, this
    process prints an error and ends with code 2.
    """
    if config.coordinator is None and not config.distributed:
        return
    arguments, begun = {}, time.monotonic()
    if config.coordinator is not None:
        arguments = {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
            # By default the service would listen on all addresses, and the service has no password.
            "coordinator_bind_address": config.coordinator if config.process_id == 0 else None,
        }
        _check_address(config.coordinator, listens=config.process_id == 0, seconds=config.join_timeout)
    timer = threading.Timer(max(0.0, config.join_timeout - (time.monotonic() - begun)), _nobody_came, [config])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=config.join_timeout + 600,  # after our timer, because JAX aborts the process
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if config.coordinator is None:
            raise UserError(
                f"--distributed found no Slurm, Kubernetes, Open MPI or TPU job to join ({reason}); "
                "give --coordinator, --num-processes and --process-id"
            ) from None
        raise UserError(f"--coordinator {config.coordinator}: cannot meet the other processes: {reason}") from None
    finally:
        timer.cancel()


def leave(error: Exception) -> None:
    """End this process at once with code 1, if the run has other processes, and print the reason on standard error.

    The other processes, or the connections to them, may be gone, and an orderly exit would wait for them.
    """
    if jax.process_count() == 1:
        return
    if isinstance(error, jax.errors.JaxRuntimeError) or re.match("[A-Z_]+: ", str(error)):  # XLA raises ValueError too
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} cannot go on, another one may have ended: "
            f"{str(error).splitlines()[0]}; the same commands go on from the newest checkpoint",
            file=sys.stderr,
        )
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def is_first() -> bool:
    """Return whether this process is the first one, which alone prints and writes."""
    return jax.process_index() == 0


def agree(config: TrainConfig, prepared: Prepared) -> None:
    """Raise `UserError`, on every process, unless all processes have the same options, model and data.

    Options that may differ between processes (`may_differ`) are not compared.
    """
    if jax.process_count() == 1:
        return
    options = {field.name: getattr(config, field.name) for field in fields(config) if not field.metadata["may_differ"]}
    tokens = [array for part in prepared.evaluated.values() for example in part.examples for array in example[:2]]
    labels = [part.targets for part in prepared.evaluated.values()]
    parts = {
        "options": [np.frombuffer(json.dumps(options, default=str).encode(), np.uint8)],
        "model": [np.frombuffer(repr(prepared.checkpoint.config).encode(), np.uint8)]
        + [prepared.checkpoint.tensors[name] for name in sorted(prepared.checkpoint.tensors)],
        "data": [*prepared.data, *tokens, *labels],
    }
    digests = np.stack([_digest(arrays) for arrays in parts.values()])
    gathered = np.asarray(multihost_utils.process_allgather(digests))
    for number, process_digests in enumerate(gathered):
        if different := [
            name for name, a, b in zip(parts, gathered[0], process_digests, strict=True) if (a != b).any()
        ]:
            raise UserError(
                f"process {number} has other {' and '.join(different)} than process 0; "
                "start all with the same options and files"
            )


def everyone(flag: bool) -> bool:
    """Return whether `flag` is true on all processes."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.int32(flag)).all())


def largest(number: int) -> int:
    """Return the largest `number` of all processes."""
    return number if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int32(number)).max())


def on_first(action: Callable[[], T]) -> T | None:
    """Call `action` on the first process and return its result there. The other processes wait, and return None.

    If `action` raises an exception, the first process raises that exception, and the others raise `UserError`.
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
    """Return the arrays of the first process, on the host. The other processes pass arrays of the same shapes."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def facts_from_first(facts: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the facts of the first process, or None if it has none. The facts are sent as JSON."""
    if jax.process_count() == 1:
        return facts
    content = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    sent = multihost_utils.broadcast_one_to_all(np.resize(content, size))
    return json.loads(np.asarray(sent, np.uint8).tobytes())


def to_host(tree: Any) -> Any:
    """Return a tree of whole arrays on the host, from arrays that may be sharded over the devices of all processes."""

    def fetch(x: jax.Array) -> np.ndarray:
        return np.array(x) if x.is_fully_addressable else np.array(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(fetch, tree)


def _check_address(address: str, *, listens: bool, seconds: float) -> None:
    """Raise `UserError` if `address` cannot be used.

    If `listens` is true, this process must be able to listen at the address; otherwise JAX would crash. If `listens` is
    false, another process must answer there within `seconds`; otherwise JAX would abort.
    """
    host, _, port = address.rpartition(":")
    endpoint = host.strip("[]"), int(port)
    end = time.monotonic() + seconds
    try:
        family, _, _, _, socket_address = socket.getaddrinfo(*endpoint, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--coordinator {address}: no such host ({reason})") from None
    if listens:
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(socket_address)
                trial.listen()
            except OSError as error:
                raise UserError(
                    f"--coordinator {address}: process 0 cannot listen there: {error.strerror}; "
                    "give a free port of an address of its machine"
                ) from None
        return
    while True:
        try:
            socket.create_connection(endpoint, timeout=max(0.1, min(5.0, end - time.monotonic()))).close()
        except OSError as error:
            if time.monotonic() >= end:
                raise UserError(
                    f"--coordinator {address}: nobody answers there after {seconds:g} s ({error.strerror or error}); "
                    "is process 0 started, and is this its address? --join-timeout says how long to wait"
                ) from None
            time.sleep(0.2)
        else:
            return


def _nobody_came(config: TrainConfig) -> None:
    option = f"--coordinator {config.coordinator}" if config.coordinator else "--distributed"
    expected = f"all {config.num_processes}" if config.num_processes else "all"
    print(
        f"error: {option}: not {expected} processes came within {config.join_timeout} s; "
        "are all started, with these options? --join-timeout says how long to wait",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _digest(arrays: list[Any]) -> np.ndarray:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)
