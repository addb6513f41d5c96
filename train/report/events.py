"""TensorBoard event files with the same numbers as metrics.jsonl."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax.run_files import EVENTS, LOG

from ..guest import as_found


class Events:
    """TensorBoard event files of a run. They are written anew from the lines of its log, and `add` appends to them."""

    def __init__(self, run: Path):
        shutil.rmtree(run / EVENTS, ignore_errors=True)  # old files may have lines that the log no longer has
        with as_found("CRC32C_SW_MODE"):
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(run / EVENTS))
        for line in (run / LOG).read_bytes().splitlines():
            self.add(json.loads(line))

    def add(self, values: Mapping[str, Any]) -> None:
        """Add the numbers of a line of the log under their names. The names of an evaluation begin with the split."""
        prefix = f"{values['split']}/" if "split" in values else ""
        for name, value in values.items():
            if isinstance(value, int | float) and name not in ("step", "epoch", "examples"):
                self._writer.add_scalar(prefix + name, value, values["step"])

    def close(self) -> None:
        """Write everything to the disk, and close the files."""
        self._writer.close()
