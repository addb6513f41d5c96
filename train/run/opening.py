"""Whether a run begins, goes on or is finished: all that is checked before JAX, for the command and for Python."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.errors import UserError, some
from bert_jax.files import read_json

from ..config import TrainConfig
from ..data.prepare import Prepared, prepare
from ..data.sources import SPLITS
from ..metrics import ALL_METRICS
from ..options import flag
from ..report.events import check_installed

LOCK = "lock"
_NAMED = 5
"""Files that a message names, at most."""
_OURS = frozenset({LOCK, ".run.json.new"})  # what a run killed before its run.json was there leaves


class Opening(NamedTuple):
    """A run's input, and where nothing is left to do, the words for that and the metrics it ended with."""

    prepared: Prepared
    finished: str | None = None
    best: Mapping[str, Any] = {}


def open_run(config: TrainConfig, tables: Mapping[str, Any] | None = None) -> Opening:
    """Read and check everything that needs no JAX, of the data at `config.data` or of `tables`; nothing is written.

    Raises `UserError` where options, model, data and run directory do not fit each other, or where the directory
    holds a run of other options, another model or other data, be that run finished or not.
    """
    if config.tensorboard:
        check_installed()
    before = None if config.inspect else _earlier(config)
    over = before is not None and "best" in before
    several = config.distributed or config.process_id  # of several processes, the first alone writes
    if not (config.inspect or several or over):
        check_writable(config.run_directory)
    prepared = prepare(config, tables)
    if before is None:
        return Opening(prepared)
    refuse_others(config.run_directory, before, identity(config, prepared))
    return Opening(prepared, _finished(config, before), before["best"]) if over else Opening(prepared)


def check_writable(out: Path) -> None:
    """Raise `UserError` where `out` could not be made or written; nothing is made."""
    place = Path(os.path.abspath(out))
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{out}: {place} is not a directory; choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{out}: cannot write there: {place} is read-only; choose another --out")


def identity(config: TrainConfig, prepared: Prepared) -> dict[str, Any]:
    """What `run.json` says of options, model and data; a run goes on only with the same (`refuse_others`).

    `contents` are SHA-256 sums of what was read, wherever it lies: of the model, its tokenizer, and each split; `data`
    are those of each split's files.
    """
    start = prepared.checkpoint
    splits = {"train": prepared.train, **{name: one.split for name, one in prepared.evaluated.items()}}
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
    """Raise `UserError`, with the difference, where the run of one record cannot go on as that of another.

    `now` is what will be recorded, or the beginning of it: options alone, before anything is read. What is compared:
    options, but for those that may change (`TrainConfig`); contents, wherever they lie; and what these were understood
    to be. A run that has come further than its epochs would reach is refused, too.
    """
    wanted = json.loads(json.dumps(now["config"]))
    if different := _options_that_differ(before["config"], wanted):
        said = "; ".join(different)
        raise UserError(f"{out}: the run there has {said}; choose another --out, or --restart starts over")
    most = wanted["epochs"] * _steps_an_epoch(before)
    if (step := _steps_taken(out, before)) > most:
        raise UserError(
            f"{out}: the run there is at step {step}, and --epochs {wanted['epochs']} ends at {most}; "
            "give more epochs, choose another --out, or --restart starts over"
        )
    if "contents" not in now:
        return
    if "contents" not in before:
        reason = "is of an older version, and what it read is not known"
        raise UserError(f"{out}: the run there {reason}; choose another --out, or --restart starts over")
    one, other = before["contents"], now["contents"]
    if others := [_which(name, before, now) for name in {**one, **other} if one.get(name) != other.get(name)]:
        raise UserError(
            f"{out}: the run there had other contents of {' and '.join(others)}; choose another --out or --restart"
        )
    for name in ("task", "labels"):
        if before[name] != now[name]:
            old, new = (", ".join(v[:20]) if isinstance(v, list) else v for v in (before[name], now[name]))
            raise UserError(f"{out}: the run there has the {name} {old}, now {new}; choose another --out or --restart")


def _which(content: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The contents that differ; of a split of several files, also which of these."""
    split = next((name for name in SPLITS if content == f"the data ({name})"), None)
    old, new = (record.get("data", {}).get(split) for record in (before, now))
    if not (isinstance(old, dict) and isinstance(new, dict)) or len(old) == len(new) == 1:
        return content  # an older version did not say of which split a file is
    old, new = ({Path(path).name: digest for path, digest in files.items()} for files in (old, new))
    words = {name: "added" if name not in old else "changed" for name in new if old.get(name) != new[name]}
    words |= {name: "removed" for name in old if name not in new}
    files = some([f"{name} {word}" for name, word in sorted(words.items())], _NAMED)
    return f"the data ({split}: {files or 'the same files in another order'})"


def _options_that_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each in words. One that an older version had not yet counts as its default, one of a newer version differs."""
    kept = {one.name: one.default for one in dataclasses.fields(TrainConfig) if not one.metadata["may_change"]}
    unknown = set(before) - set(now)
    pairs = {name: (before.get(name, json.loads(json.dumps(default))), now[name]) for name, default in kept.items()}
    pairs |= {name: (before[name], None) for name in unknown}
    return [f"{flag(name)} {old}, now {new}" for name, (old, new) in sorted(pairs.items()) if old != new]


def _earlier(config: TrainConfig) -> dict[str, Any] | None:
    """The record of the run that is there, None where one begins; `UserError` where the directory is no run's."""
    out = config.run_directory
    if not os.path.exists(out) or (out.is_dir() and not set(os.listdir(out)) - _OURS):
        return None
    if not (out / "run.json").is_file():
        raise UserError(f"{out}: exists and is not a run (no run.json); choose another --out")
    before = read_json(out / "run.json")
    if config.restart or before.get("clearing"):
        return None
    options = _options(config)
    if config.long_texts is None:  # then the model's tokenizer says, and that is not read yet
        options["long_texts"] = before["config"].get("long_texts")
    refuse_others(out, before, {"config": options})
    return before


def _finished(config: TrainConfig, before: Mapping[str, Any]) -> str | None:
    """The words for a finished run of which nothing is left to do; None where it goes on, with more epochs."""
    out, dev = config.run_directory, before["best"]["dev"]
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
    """The steps of all checkpoints."""
    return [int(path.stem) for path in (out / "checkpoints").glob("*.json") if path.stem.isdecimal()]


def _steps_taken(out: Path, before: Mapping[str, Any]) -> int:
    return max([before.get("ended", {}).get("step", 0), *_saved(out)])


def _steps_an_epoch(before: Mapping[str, Any]) -> int:
    return before["steps"] // before["config"]["epochs"]


def _options(config: TrainConfig) -> dict[str, Any]:
    return {**vars(config), "run_directory": str(config.run_directory)}


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
