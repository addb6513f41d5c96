"""The directory of a training run: the names of its files, the state of the run, and where its best model is.

Training writes the files. Prediction, conversion and evaluation read them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError
from bert_jax.files import read_json

RECORD = "run.json"
"""File with the run's options, versions, hashes and, once the run is finished, scores."""

BEST = "best"
"""Directory of the best model."""

CHECKPOINTS = "checkpoints"
"""Directory of the states from which the run resumes."""

LOG = "metrics.jsonl"
"""File with a line for each step and each evaluation."""

REPORT = "report.html"
"""File that shows the run, or an evaluation, to a person."""

EVENTS = "tensorboard"
"""Directory of the event files."""

LOCK = "lock"
"""File that one process locks while it writes the run."""

CLEARING = "clearing"
"""Key of a record that is there, and true, while the files of an earlier run are deleted."""

SCORES = "best"
"""Key of the scores in the record of a finished run."""


def is_run(directory: Path) -> bool:
    """Return whether a directory is that of a training run, and not a checkpoint in which a run.json lies."""
    return (directory / RECORD).is_file() and not (directory / "config.json").exists()


def is_finished(record: Mapping[str, Any]) -> bool:
    """Return whether the run with this record is finished."""
    return SCORES in record


def best_of(run: Path) -> Path:
    """Return the directory of a training run's best model.

    Raises `UserError` if the run has kept no model yet, or is being started over.
    """
    if read_json(run / RECORD).get(CLEARING):
        raise UserError(f"{run / RECORD}: the run is being started over; wait until it has kept a model")
    if not (run / BEST).is_dir():
        raise UserError(f"{run}: a run without {BEST}/, so no model was kept; let it train on until one is")
    return run / BEST
