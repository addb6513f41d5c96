"""The model card (README.md) of a training run, made from its run.json and the config of its best model.

The card names the starting model and the data by hub id or base name. It gives no paths of the machine of the run, as
these are private.
"""

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax import __version__
from bert_jax.checkpoint import Checkpoint
from bert_jax.command import printable
from bert_jax.errors import UserError
from bert_jax.run_files import SCORES
from bert_jax.tasks import Task

from . import scores
from .markdown import code, table
from .runs import Run, file_hashes

_HUB_ID = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"
_DATA_FILE = (".tsv", ".csv", ".jsonl", ".json", ".parquet", ".txt")
_MOST_FILES = 20

# Options that say how the model was made. The card leaves the other options out, as they may name a path or a host.
RECIPE = (
    "task label_smoothing class_weights threshold dev_fraction max_length long_texts stride epochs batch_size "
    "learning_rate warmup weight_decay clip_norm layer_decay freeze_embeddings freeze_layers metric patience dtype seed"
).split()


def make(run: Run, model: Checkpoint, name: str) -> str:
    """Return the card of a run's best model as Markdown; `name` is a hub id, or the name of a directory.

    Raises `UserError` if run.json is not as a run writes it.
    """
    try:
        if (task := model.config.task) is None:
            raise ValueError("the model is an encoder alone")
        return f"---\n{_front_matter(run.record, task, name)}\n---\n\n{_body(run.record, model, task, name)}"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{run.path}: not as a run writes it ({error!r}); restore it, or convert best/ alone") from None


def _front_matter(record: Mapping[str, Any], task: Task, name: str) -> str:
    """Return the front matter as YAML, written by the hub's own library."""
    from huggingface_hub import EvalResult, ModelCardData

    dataset, revision = _dataset_id(record), record["config"].get("data_revision")
    results = [
        EvalResult(
            task_type=task.pipeline,
            dataset_type=dataset or "custom",
            dataset_name=_data_name(record),
            dataset_split=split,
            dataset_revision=revision,
            metric_type=scores.METRICS.get(metric, (metric, metric))[0],
            metric_name=scores.METRICS.get(metric, (metric, metric))[1],
            metric_value=value,
        )
        for split, figures in record.get(SCORES, {}).items()
        for metric, value in scores.of_split(figures).items()
        if math.isfinite(value)
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.pipeline,
        tags=["bert", task.pipeline, "bert_jax"],
        base_model=_base(record),
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        eval_results=results or None,
        model_name=printable(name),  # without line breaks: a line --- would end the front matter
    )
    return data.to_yaml()


def _body(record: Mapping[str, Any], model: Checkpoint, task: Task, name: str) -> str:
    config, options, scoring = model.config, record["config"], task.scoring
    base, best = _base(record), record.get(SCORES, {})
    if "threshold" in best.get("dev", {}):
        scoring += f"; those labels hold whose probability is at least {best['dev']['threshold']:g}"
    revision = record["source"].get("source_revision")
    start = f"[{code(base)}](https://huggingface.co/{base})" if base else code(Path(options["model"]).name)
    start += f" at {code(revision)}" if base and revision else ""
    windows = options.get("long_texts") == "windows"
    longer = "longer ones were read in windows, where a pipeline cuts them" if windows else "what was longer was cut"
    sections = [
        f"# {code(name)}",
        f"A BERT that reads a text, or a pair of texts, and gives {task.gives}: {start} fine-tuned on "
        f"{code(_data_name(record))}. It has {config.num_hidden_layers} layers, is {config.hidden_size} wide and takes "
        f"{config.max_position_embeddings} tokens. Of its logits, {scoring}.",
        "## Labels",
        table(("id", "label"), [(str(i), code(label)) for i, label in enumerate(config.labels)]),
        "## Scores",
        scores.tables(best, config.labels)
        if best
        else "The run was not finished when this model was taken from it; nothing was measured on it.",
        "## Data",
        _files(record),
        "## Recipe",
        _recipe(options),
        "## Use",
        _use(task, printable(name)),
        "## How it was made",
        _provenance(record),
        "## Limits",
        "- The scores are those of the data above; on texts of another kind they will differ, and should be measured.\n"
        f"- Training saw at most {options.get('max_length', '?')} tokens of a text at once; {longer}.\n"
        "- Whatever is wrong or one-sided in the data or in the model it started from is likely to be in this one.\n"
        "- No licence is stated here: what may be done with the model follows from the terms of the model it started "
        "from and of the data.",
    ]
    return "\n\n".join(sections) + "\n"


def _recipe(options: Mapping[str, Any]) -> str:
    settings = {key: options[key] for key in RECIPE if options.get(key) is not None and options[key] is not False}
    rows = [(f"`--{key.replace('_', '-')}`", code(str(value))) for key, value in settings.items()]
    return table(("option", "value"), rows)


def _use(task: Task, name: str) -> str:
    return f"""With transformers:

```python
from transformers import pipeline

classify = pipeline("{task.pipeline}", model={json.dumps(name, ensure_ascii=False)})
classify("a text", top_k=None, truncation=True)
```

With bert_jax, from a clone of it:

```sh
python -m convert {shlex.quote(name)} model
python -m bert_jax --model model "a text"
```"""


def _files(record: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count:,} in {code(split)}" for split, count in record["examples"].items())
    files = sorted((Path(path).name, digest) for path, digest in file_hashes(record).items())
    text = f"{code(_data_name(record))}, with {counts}.\n\n" + table(
        ("file", "SHA-256"), [(code(name), code(digest)) for name, digest in files[:_MOST_FILES]]
    )
    return text + (f"\n\nand {len(files) - _MOST_FILES:,} more." if len(files) > _MOST_FILES else "")


def _provenance(record: Mapping[str, Any]) -> str:
    device = record["device"]
    versions = ", ".join(f"{code(name)} {code(version)}" for name, version in record["versions"].items())
    seconds = record.get("figures", {}).get("train_seconds")
    duration = f", {seconds:,.0f} seconds of training" if seconds is not None else ""
    weights = record["source"].get("source_sha256")
    started = f" It began from weights with SHA-256 {code(weights)}." if weights else ""
    return (
        f"{record['steps']:,} steps on {device['count']} x {code(device['kind'])}{duration}, with {versions}.{started} "
        f"Exported by bert_jax {__version__}, which also wrote this card from the run's record."
    )


def _base(record: Mapping[str, Any]) -> str | None:
    """Return the hub id that the run's starting weights originally came from, or None if there is no such hub id.

    Weights that came from a directory have an absolute path as their source, which is never a hub id.
    """
    origin = re.sub(r" \(package [\w.-]+\)$", "", record["source"].get("source", ""))
    return origin if re.fullmatch(_HUB_ID, origin) else None


def _dataset_id(record: Mapping[str, Any]) -> str | None:
    """Return the data's hub id, or None if the data are files.

    The data are files if the run has read files at that path, or if the path exists now.
    """
    name = record["config"]["data"]
    was_read = any(
        path == name or (path.startswith(f"{name}/") and path.endswith(_DATA_FILE)) for path in file_hashes(record)
    )
    return name if re.fullmatch(_HUB_ID, name) and not was_read and not Path(name).exists() else None


def _data_name(record: Mapping[str, Any]) -> str:
    return _dataset_id(record) or printable(Path(record["config"]["data"]).name)
