"""Fine-tuning: labelled texts in, a run directory with the best model out."""

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import TrainConfig
    from .metrics import Metrics


def fine_tune(data: Any, *, quiet: bool = False, **options: Any) -> "dict[str, Metrics]":
    """Do what `python -m train` does, from Python: the metrics of the best model on dev and test.

    `data` is what `--data` takes, or a table to hold some of it out for dev, or tables by split, under the names
    train, dev and test: lists of (text, label) or (text, pair, label) or of dictionaries, pandas frames, or tables
    of `datasets`. `options` are the command's, with underscores (`train.config.TrainConfig`), and are checked alike;
    `out` is asked for where the data has no name. With `inspect`, what is understood of the data is printed, and no
    metrics are returned. A run that is finished there is not done again. Raises `UserError`.

    Ctrl-C, or a notebook's stop button, raises `KeyboardInterrupt` once the step in hand is saved; the same call goes
    on from there. The process stays the caller's: signal handlers, hooks, log levels and JAX's settings are afterwards
    what they were. So there is no compilation cache but the caller's own (`bert_jax.compilation.use_cache`), and the
    options for several processes, which may have to be ended, are for the command.
    """
    from rich.console import Console

    from bert_jax.errors import UserError

    from .run.opening import open_run

    config = _config(data, options)
    if config.inspect and quiet:
        raise UserError("inspect prints what is understood of the data, and quiet prints nothing; leave one out")
    tables = None if _is_named(data) else data if isinstance(data, Mapping) and "train" in data else {"train": data}
    terminal = sys.stdout is not None and sys.stdout.isatty()  # a notebook, too, gets plain lines
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
    """The options of a call; `UserError` for those that there are not, or that cannot be honoured from Python."""
    import dataclasses

    from bert_jax.command import nearest
    from bert_jax.errors import UserError

    from .config import HOSTS, IN_MEMORY, TrainConfig

    known = {one.name: one for one in dataclasses.fields(TrainConfig) if one.name != "data"}
    for name, value in options.items():
        if name not in known:
            meant = nearest(name, known)
            hint = f"did you mean {meant}?" if meant else "see python -m train --help"
            raise UserError(f"unknown option {name}; {hint}")
        if known[name].metadata["group"] == HOSTS and value != known[name].default:
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
