"""Checkpoints of a run: written in the background, and listed and read only if they are complete.

A checkpoint is a directory, named by the number of its step and written by Orbax, and a manifest beside the directory
with the SHA-256 of every file. The manifest is written last, so a checkpoint exists if its manifest exists.
"""

import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bert_jax.errors import UserError
from bert_jax.files import sha256, sync, write_whole

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
"""System errors that our error line names. TensorStore puts their text at the end of a long message."""

NEWEST, BEST = 2, 1
"""Number of checkpoints to keep: of the newest ones, and of those with the best score."""


class Checkpoints:
    """The checkpoints in `directory`, for the one process that writes them. Use the object in a `with` statement.

    `say` prints a line. The best checkpoints have the highest score or, with `smaller_is_better`, the lowest.
    """

    def __init__(self, directory: Path, say: Callable[[str], None], *, smaller_is_better: bool = False):
        self._directory, self._say, self._smaller_is_better = directory, say, smaller_is_better
        # Only this process saves, so Orbax must not wait for the other processes.
        options = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="saves"
        )
        self._checkpointer = ocp.StandardCheckpointer(multiprocessing_options=options)
        self._pool = ThreadPoolExecutor(1, "bert_jax-checkpoints")
        self._saving: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        self._unsilence = silence()
        return self

    def __exit__(self, *details: object) -> None:
        try:
            self._pool.shutdown()
            self._checkpointer.close()
        finally:
            self._unsilence()

    def save(self, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Begin to write a checkpoint, after the previous checkpoint is written. The caller must not change the arrays.

        `facts` are written into the manifest. `facts["score"]` decides which checkpoints are the best; None is no
        score. Raises `UserError` if the previous checkpoint could not be written.
        """
        self.finish()
        self._saving = self._pool.submit(self._write, step, arrays, facts)

    def check(self) -> None:
        """Raise `UserError` if writing a checkpoint has failed by now."""
        if self._saving is not None and self._saving.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the current checkpoint is written. Raises `UserError` if it could not be written."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        try:
            saving.result()
        except Exception as error:  # Orbax can raise any exception
            system_errors = (os.strerror(code) for code in _CANNOT_WRITE)
            reason = next((text for text in system_errors if text in str(error)), str(error).splitlines()[0])
            raise UserError(f"{self._directory}: cannot write a checkpoint: {reason}; those before it stand") from None

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, oldest first."""
        if not self._directory.is_dir():
            return []
        names = (path.stem for path in self._directory.glob("*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def newest(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Return facts and arrays of the newest checkpoint that is not damaged, or None if there are no checkpoints.

        Unfinished checkpoints are removed. Damaged checkpoints are skipped, with a printed line for each. Raises
        `UserError` if all checkpoints are damaged.
        """
        self._remove_unfinished()
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._read(step)
            except Exception as error:  # Orbax can raise any exception for a damaged checkpoint
                self._say(f"checkpoint {step} is damaged: {str(error).splitlines()[0]}")
        if steps:
            raise UserError(f"{self._directory}: every checkpoint is damaged; --restart starts over")
        return None

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        manifest = json.loads(self._manifest(step).read_text(encoding="utf-8"))
        for name, expected in manifest["files"].items():
            path = self._directory / str(step) / name
            if not path.is_file():
                raise ValueError(f"{name} is missing")
            if sha256(path) != expected:
                raise ValueError(f"{name} is not what was written")
        template = {name: np.zeros(shape, dtype) for name, (shape, dtype) in manifest["arrays"].items()}
        arrays = self._checkpointer.restore((self._directory / str(step)).absolute(), template)
        return manifest["facts"], {name: np.asarray(array) for name, array in arrays.items()}

    def _write(self, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        directory = self._directory / str(step)
        self._directory.mkdir(exist_ok=True)
        self._checkpointer.save(directory.absolute(), arrays, force=True)
        self._checkpointer.wait_until_finished()
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        for path in (*directory.rglob("*"), directory):
            sync(path)
        manifest = {
            "facts": facts,
            "arrays": {name: (array.shape, str(array.dtype)) for name, array in arrays.items()},
            "files": {str(path.relative_to(directory)): sha256(path) for path in files},
        }
        write_whole(self._manifest(step), json.dumps(manifest, indent=1).encode())
        self._remove_old()

    def _remove_old(self) -> None:
        steps = self.steps()
        scores = {step: json.loads(self._manifest(step).read_text())["facts"].get("score") for step in steps}
        sign = -1 if self._smaller_is_better else 1
        scored = sorted((s for s in steps if scores[s] is not None), key=lambda step: (sign * scores[step], -step))
        for step in set(steps) - set(steps[-NEWEST:]) - set(scored[-BEST:]):
            self._manifest(step).unlink()  # first, because a directory without a manifest is not a checkpoint
            shutil.rmtree(self._directory / str(step), ignore_errors=True)

    def _remove_unfinished(self) -> None:
        listed = {str(step) for step in self.steps()}
        for path in self._directory.glob("*") if self._directory.is_dir() else ():
            if path.is_dir() and path.name not in listed:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file() and path.suffix != ".json":
                path.unlink()

    def _manifest(self, step: int) -> Path:
        return self._directory / f"{step}.json"


def silence() -> Callable[[], None]:
    """Hide the log messages of Orbax about a failure, and the errors of its threads after the failure.

    The program reports a failure in one line of its own. Returns a function that restores the log level and
    `sys.unraisablehook`.
    """
    log, hook = logging.getLogger("absl"), sys.unraisablehook
    level = log.level

    def report(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":  # from threads of TensorStore whose loop has ended
            hook(unraisable)

    def restore() -> None:
        log.setLevel(level)
        sys.unraisablehook = hook

    log.setLevel(logging.CRITICAL)
    sys.unraisablehook = report
    return restore


def named(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their paths."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def filled(template: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a pytree like `template` with these leaves. Raises `ValueError` if names, shapes or dtypes differ."""
    paths, structure = jax.tree_util.tree_flatten_with_path(template)
    expected = {_name(path): (leaf.shape, str(leaf.dtype)) for path, leaf in paths}
    actual = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    if expected != actual:
        different = sorted(name for name in {*expected, *actual} if expected.get(name) != actual.get(name))
        raise ValueError(f"not of this network and optimizer: {', '.join(different[:3])}")
    return jax.tree_util.tree_unflatten(structure, [arrays[_name(path)] for path, _ in paths])


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
