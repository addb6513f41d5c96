"""TensorBoard event files, of the same figures as metrics.jsonl."""

import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError

from ..guest import as_found

FOLDER = "tensorboard"
"""Where they lie in a run directory."""


def check_installed() -> None:
    """Raise `UserError` where the extra is not there."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError("--tensorboard needs tensorboardX; install it: pip install 'bert_jax[tensorboard]'")


class Events:
    """Event files of a run, made from its log: what was there, written anew, and what comes."""

    def __init__(self, run: Path):
        shutil.rmtree(run / FOLDER, ignore_errors=True)  # of lines that the log has no more, too
        with as_found("CRC32C_SW_MODE"):
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(run / FOLDER))
        for line in (run / "metrics.jsonl").read_bytes().splitlines():
            self.add(json.loads(line))

    def add(self, values: Mapping[str, Any]) -> None:
        """The numbers of a line of the log, under their names there, with the split before those of an evaluation."""
        before = f"{values['split']}/" if "split" in values else ""
        for name, value in values.items():
            if isinstance(value, int | float) and name not in ("step", "epoch", "examples"):
                self._writer.add_scalar(before + name, value, values["step"])

    def close(self) -> None:
        """Have all of it on the disk."""
        self._writer.close()
