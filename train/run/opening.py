"""Decide whether a run begins, resumes or is finished: all checks that need no JAX, for the command and for Python."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax import extras
from bert_jax.errors import UserError, some
from bert_jax.files import read_json
from bert_jax.run_files import CHECKPOINTS, CLEARING, LOCK, RECORD, SCORES, is_finished

from ..config import TrainConfig
from ..data.prepare import Prepared, prepare
from ..data.sources import SPLITS
from ..metrics import ALL_METRICS
from ..options import flag

_NAMED = 5
"""Maximum number of files that a message names."""
_OURS = frozenset({LOCK, f".{RECORD}.new"})  # left by a run that was killed before it wrote run.json


class Opening(NamedTuple):
    """The input of a run.

    `finished` is a message that the run is finished, or None if there are steps to take. `best` has the metrics that an
    earlier run in the directory ended with, by split.
    """

    prepared: Prepared
    finished: str | None = None
    best: Mapping[str, Any] = {}


def open_run(config: TrainConfig, tables: Mapping[str, Any] | None = None) -> Opening:
    """Read and check everything that needs no JAX, with the data at `config.data` or `tables`. Nothing is written.

    Raises `UserError` if options, model, data and run directory do not fit each other. Raises `UserError` also if the
    directory has a run, finished or not, with other options, another model or other data.
    """
    if config.tensorboard:
        extras.check("tensorboard", "--tensorboard")
    before = None if config.inspect else _earlier(config)
    finished = before is not None and is_finished(before)
    several = config.distributed or config.process_id  # only the first of several processes writes
    if not (config.inspect or several or finished):
        check_writable(config.run_directory)
    prepared = prepare(config, tables)
    if before is None:
        return Opening(prepared)
    refuse_others(config.run_directory, before, identity(config, prepared))
    return Opening(prepared, _finished(config, before), before[SCORES]) if finished else Opening(prepared)


def check_writable(out: Path) -> None:
    """Raise `UserError` if the directory `out` could not be created or written to. Nothing is created."""
    place = Path(os.path.abspath(out))
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{out}: {place} is not a directory; choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{out}: cannot write there: {place} is read-only; choose another --out")


def identity(config: TrainConfig, prepared: Prepared) -> dict[str, Any]:
    """Return what `run.json` records of options, model and data. A run resumes only with the same (`refuse_others`).

    `contents` has the SHA-256 of what was read, independent of its location: of the model, of its tokenizer, and of
    each split. `data` has the SHA-256 of each file of each split.
    """
    start = prepared.checkpoint
    splits = {"train": prepared.train, **{name: evaluated.split for name, evaluated in prepared.evaluated.items()}}
    files = [text for name in sorted(start.files) for text in (name, hashlib.sha256(start.files[name]).hexdigest())]
    return {
        "config": {**_options(config), "long_texts": start.metadata["long_texts"]},
        "contents": {
            "the model": _digest(sorted(start.sha256.values())),
            "the tokenizer": _digest(files),
            **{f"the data ({name})": split.sha256 for name, split in splits.items()},
        },
        "data": {name: dict(split.files) for name, split in splits.items()},
        "task": prepared.task,
        "labels": list(start.config.labels),
    }


def refuse_others(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `UserError`, with the difference, if the run with the record `before` cannot resume with the record `now`.

    `now` is a whole record or, before anything is read, only its options. The options must be the same, except for
    those that may change (`TrainConfig`). The contents must be the same, whatever their location, and so must the task
    and the labels. A run that has taken more steps than `now` has in all its epochs is refused, too.
    """
    options = json.loads(json.dumps(now["config"]))
    if different := _options_that_differ(before["config"], options):
        differences = "; ".join(different)
        raise UserError(f"{out}: the run there has {differences}; choose another --out, or --restart starts over")
    last_step = options["epochs"] * _steps_an_epoch(before)
    if (step := _steps_taken(out, before)) > last_step:
        raise UserError(
            f"{out}: the run there is at step {step}, and --epochs {options['epochs']} ends at {last_step}; "
            "give more epochs, choose another --out, or --restart starts over"
        )
    if "contents" not in now:
        return
    if "contents" not in before:
        reason = "is of an older version, and what it read is not known"
        raise UserError(f"{out}: the run there {reason}; choose another --out, or --restart starts over")
    old_contents, new_contents = before["contents"], now["contents"]
    if changed := [
        _which(name, before, now)
        for name in {**old_contents, **new_contents}
        if old_contents.get(name) != new_contents.get(name)
    ]:
        raise UserError(
            f"{out}: the run there had other contents of {' and '.join(changed)}; choose another --out or --restart"
        )
    for name in ("task", "labels"):
        if before[name] != now[name]:
            old, new = (", ".join(v[:20]) if isinstance(v, list) else v for v in (before[name], now[name]))
            raise UserError(f"{out}: the run there has the {name} {old}, now {new}; choose another --out or --restart")


def _which(content: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the name of a content that differs. If it is a split of several files, also name the files that differ.

    `content` is a key of `contents` (`identity`).
    """
    split = next((name for name in SPLITS if content == f"the data ({name})"), None)
    old, new = (record.get("data", {}).get(split) for record in (before, now))
    if not (isinstance(old, dict) and isinstance(new, dict)) or len(old) == len(new) == 1:
        return content  # records of older versions do not say which split a file belongs to
    old, new = ({Path(path).name: digest for path, digest in files.items()} for files in (old, new))
    changes = {name: "added" if name not in old else "changed" for name in new if old.get(name) != new[name]}
    changes |= {name: "removed" for name in old if name not in new}
    files = some([f"{name} {change}" for name, change in sorted(changes.items())], _NAMED)
    return f"the data ({split}: {files or 'the same files in another order'})"


def _options_that_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each option that differs.

    An option that is missing in the record of an older version counts as its default. An option that this version does
    not have, such as one of a newer version, counts as different unless its value is None.
    """
    defaults = {
        field.name: field.default for field in dataclasses.fields(TrainConfig) if not field.metadata["may_change"]
    }
    unknown = set(before) - set(now)
    pairs = {name: (before.get(name, json.loads(json.dumps(default))), now[name]) for name, default in defaults.items()}
    pairs |= {name: (before[name], None) for name in unknown}
    return [f"{flag(name)} {old}, now {new}" for name, (old, new) in sorted(pairs.items()) if old != new]


def _earlier(config: TrainConfig) -> dict[str, Any] | None:
    """Return the record of the run in the run directory, or None if a new run begins.

    Raises `UserError` if the directory is not a run directory, or if its run has other options.
    """
    out = config.run_directory
    if not os.path.exists(out) or (out.is_dir() and not set(os.listdir(out)) - _OURS):
        return None
    if not (out / RECORD).is_file():
        raise UserError(f"{out}: exists and is not a run (no {RECORD}); choose another --out")
    before = read_json(out / RECORD)
    if config.restart or before.get(CLEARING):
        return None
    options = _options(config)
    if config.long_texts is None:  # the model's tokenizer decides this, and it has not been read yet
        options["long_texts"] = before["config"].get("long_texts")
    refuse_others(out, before, {"config": options})
    return before


def _finished(config: TrainConfig, before: Mapping[str, Any]) -> str | None:
    """Return a message if the run is finished, or None if it resumes, for more epochs or with more patience.

    Raises `UserError` if the run should resume but has no checkpoints.
    """
    out, dev = config.run_directory, before[SCORES]["dev"]
    ended = before.get("ended", {"step": before["steps"], "waited": 0})
    more = config.epochs * _steps_an_epoch(before) > ended["step"]
    patient = ended["waited"] < (config.patience or math.inf)
    if more and patient:
        if not _saved(out):
            raise UserError(
                f"{out}: this run is finished, and has no checkpoints from which it could go on to epoch "
                f"{config.epochs}; choose another --out, or --restart starts over"
            )
        return None
    figure = next((name for name in ALL_METRICS if name in dev), "loss")
    advice = "a larger --patience lets it go on" if more else "more --epochs let it go on"
    return (
        f"{out}: this run is finished (dev {figure.replace('_', ' ')} {dev[figure]:.4f}); {advice}, "
        "--restart starts it over"
    )


def _saved(out: Path) -> list[int]:
    """Return the steps of all checkpoints."""
    return [int(path.stem) for path in (out / CHECKPOINTS).glob("*.json") if path.stem.isdecimal()]


def _steps_taken(out: Path, before: Mapping[str, Any]) -> int:
    return max([before.get("ended", {}).get("step", 0), *_saved(out)])


def _steps_an_epoch(before: Mapping[str, Any]) -> int:
    return before["steps"] // before["config"]["epochs"]


def _options(config: TrainConfig) -> dict[str, Any]:
    return {**vars(config), "run_directory": str(config.run_directory)}


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
