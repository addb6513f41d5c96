"""A training run as a source: its best model and its `run.json`, which may be of an older version."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.files import read_json
from bert_jax.run_files import BEST, RECORD, best_of, is_finished, is_run


class Run(NamedTuple):
    """The directory of a run's best model, its record, and the path of the record (`run.json`).

    The record of a run that is not finished has no scores yet.
    """

    best: Path
    record: dict[str, Any]
    path: Path

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return is_finished(self.record)


def find(source: str) -> Run | None:
    """Return the run if `source` is the directory of a run or a run's best/; return None for any other source.

    Raises `UserError` if the run has kept no model yet, or is being started over.
    """
    if not source or not Path(source).is_dir():
        return None
    resolved = Path(source).resolve()
    is_best = resolved.name == BEST and (resolved.parent / RECORD).is_file()
    directory = resolved.parent if is_best else resolved
    if not (is_best or is_run(directory)):
        return None
    path = directory / RECORD
    return Run(best_of(directory), read_json(path), path)


def split_hashes(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each split that a run has read; records of an older version have them under `splits`."""
    contents = record.get("contents", {}).items()
    named = {split[1]: digest for name, digest in contents if (split := re.fullmatch(r"the data \((\w+)\)", name))}
    return record.get("splits", {}) | named


def file_hashes(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each data file that a run has read, by path.

    Records of an older version do not say which split a file belongs to.
    """
    parts = (value if isinstance(value, dict) else {name: value} for name, value in record["data"].items())
    return {path: digest for part in parts for path, digest in part.items()}
