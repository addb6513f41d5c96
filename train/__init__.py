"""Fine-tune a model on labelled texts, and write a run directory with the best model."""

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import TrainConfig
    from .metrics import Metrics


def fine_tune(data: Any, *, quiet: bool = False, **options: Any) -> "dict[str, Metrics]":
    """Fine-tune as `python -m train` does, and return the metrics of the best model on dev and test.

    `data` is what `--data` takes, a table, or a dictionary of tables by split, with the names train, dev and test. A
    share of a single table is held out for dev. A table is a list of (text, label) or (text, pair, label), a list of
    dictionaries, a pandas frame, or a table of `datasets`. `options` are the options of the command, with underscores
    (`train.config.TrainConfig`) and with the same checks. `out` is required for tables, unless `inspect` is set.
    With `inspect`, the preview of the data is printed, and no metrics are returned. A finished run is not repeated: its
    metrics are returned. Raises `UserError` if options or data are wrong.

    Ctrl-C, or the stop button of a notebook, raises `KeyboardInterrupt` after the current step is saved. The same call
    then resumes the run from that step. The process belongs to the caller, so signal handlers, hooks, log levels and
    the settings of JAX are the same after the call as before. The call therefore sets no compilation cache, and only
    the caller's own is used (`bert_jax.compilation.use_cache`). The options for several processes are for the command
    only, because such processes may have to be ended.
    """
    from bert_jax import extras

    extras.check("train", "train.fine_tune")
    from rich.console import Console

    from bert_jax.errors import UserError

    from .run.opening import open_run

    config = _config(data, options)
    if config.inspect and quiet:
        raise UserError("inspect prints what is understood of the data, and quiet prints nothing; leave one out")
    tables = None if _is_named(data) else data if isinstance(data, Mapping) and "train" in data else {"train": data}
    terminal = sys.stdout is not None and sys.stdout.isatty()  # a notebook also gets plain lines
    console = Console(highlight=False, markup=False, quiet=quiet, force_jupyter=False, force_terminal=terminal)
    prepared, finished, best = open_run(config, tables)
    console.print(finished or prepared.describe(), soft_wrap=True)
    if config.inspect or finished:
        return dict(best)

    import jax

    from .run import loop
    from .run.stopping import Stopped

    if jax.process_count() > 1:
        raise UserError("fine_tune is for one process, and this is one of several; use python -m train --distributed")
    try:
        return loop.run(config, prepared, console)
    except Stopped:
        raise KeyboardInterrupt from None


def _is_named(data: Any) -> bool:
    return isinstance(data, str | os.PathLike)


def _config(data: Any, options: Mapping[str, Any]) -> "TrainConfig":
    """Return the options of a call. Raises `UserError` for unknown options, and for options that need the command."""
    import dataclasses

    from bert_jax.command import nearest
    from bert_jax.errors import UserError

    from .config import HOSTS, IN_MEMORY, TrainConfig

    fields = {field.name: field for field in dataclasses.fields(TrainConfig) if field.name != "data"}
    for name, value in options.items():
        if name not in fields:
            meant = nearest(name, fields)
            hint = f"did you mean {meant}?" if meant else "see python -m train --help"
            raise UserError(f"unknown option {name}; {hint}")
        if fields[name].metadata["group"] == HOSTS and value != fields[name].default:
            raise UserError(f"{name} is for several processes, which python -m train alone can start; leave it out")
    if _is_named(data):
        return TrainConfig(data=data, **options)
    if not isinstance(data, Iterable) or isinstance(data, bytes):
        raise UserError(f"data is {type(data).__name__}; expected a path, a hub id, or tables")
    for name in ("data_name", "data_revision"):
        if options.get(name) is not None:
            raise UserError(f"{name} is for hub ids, and the data are tables in memory; leave it out")
    if not options.get("out") and not options.get("inspect"):
        raise UserError("out is missing; expected a run directory to make")
    return TrainConfig(data=IN_MEMORY, **options)
