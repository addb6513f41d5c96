"""Several processes, one or more a host, as one run: how they meet, agree, and leave writing to the first."""

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
"""Seconds without a sign of life of a process after which JAX ends the others."""


def join(config: TrainConfig) -> None:
    """Meet the other processes of the run, as the options say; nothing to do where there are none.

    With a coordinator's address, its service listens on that address alone; without, JAX finds the
    processes of a Slurm, Kubernetes, Open MPI or TPU job. To be called before anything else of JAX.
    Raises `UserError` where they do not meet.
    """
    if config.coordinator is None and not config.distributed:
        return
    where, begun = {}, time.monotonic()
    if config.coordinator is not None:
        where = {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
            # By default it would listen on all addresses, and it has no password.
            "coordinator_bind_address": config.coordinator if config.process_id == 0 else None,
        }
        _check_address(config.coordinator, listens=config.process_id == 0, seconds=config.join_timeout)
    late = threading.Timer(max(0.0, config.join_timeout - (time.monotonic() - begun)), _nobody_came, [config])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=config.join_timeout + 600,  # where it has its own way, it aborts the process
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
        late.cancel()


def leave(error: Exception) -> None:
    """End this process at once with code 1, where there are others: they, or their connections, may be gone.

    An orderly end would wait for them. The lines on standard error say why.
    """
    if jax.process_count() == 1:
        return
    if isinstance(error, jax.errors.JaxRuntimeError) or re.match("[A-Z_]+: ", str(error)):  # XLA's, as a ValueError
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
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def agree(config: TrainConfig, prepared: Prepared) -> None:
    """Raise `UserError`, on every process, unless all have the same options, model and data."""
    if jax.process_count() == 1:
        return
    options = {one.name: getattr(config, one.name) for one in fields(config) if not one.metadata["may_differ"]}
    tokens = [array for part in prepared.evaluated.values() for each in part.examples for array in each[:2]]
    labels = [part.targets for part in prepared.evaluated.values()]
    parts = {
        "options": [np.frombuffer(json.dumps(options, default=str).encode(), np.uint8)],
        "model": [np.frombuffer(repr(prepared.checkpoint.config).encode(), np.uint8)]
        + [prepared.checkpoint.tensors[name] for name in sorted(prepared.checkpoint.tensors)],
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


def _check_address(address: str, *, listens: bool, seconds: float) -> None:
    """Raise `UserError` unless one can listen there, or somebody does within so many seconds.

    JAX would crash in the one case, and abort in the other.
    """
    host, _, port = address.rpartition(":")
    where = host.strip("[]"), int(port)
    end = time.monotonic() + seconds
    try:
        family, _, _, _, found = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--coordinator {address}: no such host ({reason})") from None
    if listens:
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(found)
                trial.listen()
            except OSError as error:
                raise UserError(
                    f"--coordinator {address}: process 0 cannot listen there: {error.strerror}; "
                    "give a free port of an address of its machine"
                ) from None
        return
    while True:
        try:
            socket.create_connection(where, timeout=max(0.1, min(5.0, end - time.monotonic()))).close()
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
    where = f"--coordinator {config.coordinator}" if config.coordinator else "--distributed"
    expected = f"all {config.num_processes}" if config.num_processes else "all"
    print(
        f"error: {where}: not {expected} processes came within {config.join_timeout} s; "
        "are all started, with these options? --join-timeout says how long to wait",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _digest(arrays: list[Any]) -> np.ndarray:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return np.frombuffer(found.digest(), np.uint8)
