"""Fine-tuning: labelled texts in, a run directory with the best model out."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .metrics import Metrics

_IN_MEMORY = "tables in memory"


def fine_tune(data: Any, *, quiet: bool = False, **options: Any) -> "dict[str, Metrics]":
    """Do what `python -m train` does, from Python: the metrics of the best model on dev and test.

    `data` is what `--data` takes, or a table to hold some of it out for dev, or tables by split, under the names
    train, dev and test: lists of (text, label) or (text, pair, label) or of dictionaries, pandas frames, or tables
    of `datasets`. `options` are the command's, with underscores (`train.config.TrainConfig`); `out` is asked for
    where the data has no name. A run that is finished there is not done again. Raises `UserError`.
    """
    from rich.console import Console

    from bert_jax.errors import UserError
    from bert_jax.files import read_json

    from . import loop
    from .config import TrainConfig
    from .prepare import prepare
    from .run_directory import check_writable, finished

    named = isinstance(data, str | Path)
    if not named and not options.get("out"):
        raise UserError("out is missing; expected a run directory to make")
    config = TrainConfig(data=str(data) if named else _IN_MEMORY, **options)
    terminal = sys.stdout is not None and sys.stdout.isatty()  # a notebook, too, gets plain lines
    console = Console(highlight=False, markup=False, quiet=quiet, force_jupyter=False, force_terminal=terminal)
    if done := finished(config):
        console.print(done, soft_wrap=True)
        return read_json(config.run_directory / "run.json")["best"]
    check_writable(config.run_directory)
    tables = None if named else data if isinstance(data, Mapping) and "train" in data else {"train": data}
    prepared = prepare(config, tables)
    console.print(prepared.describe(), soft_wrap=True)
    return loop.run(config, prepared, console)
