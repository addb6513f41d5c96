"""A training run as a source: its best model, and what its `run.json` says."""

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
