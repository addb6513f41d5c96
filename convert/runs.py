"""A training run as a source: its best model, and what its `run.json` says, also one of an older version."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.checkpoint import BEST, RECORD, best_of
from bert_jax.files import read_json


class Run(NamedTuple):
    """A run's best model, and its record; the record of a run that is not finished has no scores yet."""

    best: Path
    record: dict[str, Any]
    path: Path

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return "best" in self.record


def find(source: str) -> Run | None:
    """The run that a directory is, or whose best/ it is; None for every other source.

    Raises `UserError` where it is a run that has kept no model, or is being started over.
    """
    if not source or not Path(source).is_dir():
        return None
    here = Path(source).resolve()
    inside = here.name == BEST and (here.parent / RECORD).is_file()
    directory = here.parent if inside else here
    if not (directory / RECORD).is_file() or (not inside and (here / "config.json").exists()):
        return None  # a checkpoint, even if a run.json lies in it
    path = directory / RECORD
    return Run(best_of(directory), read_json(path), path)


def split_hashes(record: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each split that a run has read; an older version kept these apart, as `splits`."""
    contents = record.get("contents", {}).items()
    named = {split[1]: digest for name, digest in contents if (split := re.fullmatch(r"the data \((\w+)\)", name))}
    return record.get("splits", {}) | named


def file_hashes(record: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each file that a run has read; an older version did not say of which split it is."""
    parts = (value if isinstance(value, dict) else {name: value} for name, value in record["data"].items())
    return {path: digest for part in parts for path, digest in part.items()}
