"""Write `report.html` for a finished run."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax.files import write_whole
from bert_jax.run_files import LOG, REPORT

from ..config import TrainConfig
from ..data.prepare import Prepared
from . import page
from .page import Measured, Subject

_SHOWN = "max_length long_texts epochs batch_size learning_rate warmup weight_decay clip_norm dtype seed metric".split()
"""Options that the report shows even if they have their default values."""


def write(
    run: Path,
    config: TrainConfig,
    prepared: Prepared,
    record: Mapping[str, Any],
    facts: Mapping[str, str],
    measured: Mapping[str, Measured],
) -> None:
    """Write `report.html` into the directory of a run, from its record, its log and the logits of its best model."""
    network = prepared.checkpoint.config
    device = record["device"]
    paths = [prepared.train.path, *(result.split.path for result in measured.values())]
    size = f"{network.num_hidden_layers} layers, {network.hidden_size} wide"
    shown = {
        "model": f"{record['source'].get('source', config.model)} ({size})",
        "data": "; ".join(f"{name} {count:,} texts" for name, count in record["examples"].items())
        + f"; {', '.join(dict.fromkeys(map(str, paths)))}",
        "task": f"{record['task'].replace('_', ' ')}: {', '.join(network.labels[:30])}",
        "batches": f"{config.batch_size} texts a step in rows of {record['row_length']} tokens, "
        f"{record['steps'] // config.epochs:,} steps an epoch",
        "device": f"{device['count']} x {device['kind']} ({device['platform']})",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    changed = page.changed(config)
    options = {name: str(value) for name, value in record["config"].items() if name in (*_SHOWN, *changed)}
    log = [json.loads(line) for line in (run / LOG).read_bytes().splitlines()]
    subject = Subject(
        title=f"{Path(config.data).name} on {Path(config.model).name}",
        subtitle=f"Fine-tuned {datetime.date.today():%-d %B %Y}; {log[-1]['step']:,} steps" if log else "",
        task=prepared.task,
        labels=network.labels,
        facts=shown,
        command=page.command_of(config),
        log=log,
        metric=prepared.metric,
        speed={name: value for name, value in facts.items() if name not in ("model", "report", "threshold")},
        options=options,
        hashes={n: v for n, v in record["source"].items() if len(str(v)) == 64}
        | {path: digest for files in record["data"].values() for path, digest in files.items()},
    )
    write_whole(run / REPORT, page.render(subject, measured, record["intervals"]).encode())
