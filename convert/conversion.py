"""Read any source into a native checkpoint, and report what happened to the source's tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax import __version__, checkpoint
from bert_jax.checkpoint import Checkpoint
from bert_jax.command import printable
from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.tensors import read_metadata
from bert_jax.tokenizer import Tokenizer

from . import huggingface
from .huggingface import Findings
from .location import Location, locate
from .weights import WEIGHTS


class Conversion(NamedTuple):
    """A checkpoint read from any source, with what happened to the source's tensors, its location and its tokenizer."""

    checkpoint: Checkpoint
    findings: Findings
    location: Location
    tokenizer: Tokenizer


def read(
    source: str,
    revision: str | None = None,
    labels: tuple[str, ...] = (),
    *,
    ignore: Sequence[str] = (),
    encoder_only: bool = False,
) -> Conversion:
    """Read a source of any kind, and check that its tensors, config and tokenizer fit together.

    `revision` is a branch, tag or commit of a hub id. `labels` replace the label names in the config. `ignore` names
    tensors of a Hugging Face checkpoint that are left out, with `*` for any characters. `encoder_only` leaves the head
    out. Raises `UserError` if tensors, config and tokenizer do not fit together.
    """
    location = locate(source, revision)
    if is_native(location.directory):
        if ignore:
            raise UserError(f"{source}: a native checkpoint has nothing to --ignore")
        model = checkpoint.read(location.directory)
        head = [name for name in sorted(model.tensors) if name.startswith("classifier.")] if encoder_only else []
        if head:
            model = checkpoint.without_classifier(model)
        findings = Findings(sorted(model.tensors), {}, head)
    else:
        model, findings = huggingface.read(location, ignore=ignore, encoder_only=encoder_only)
    if labels:
        config = _relabelled(model.config, labels, source)
        model = replace(model, config=config)
    tokenizer = Tokenizer.of(model.files, location.directory)
    tokenizer.check_fits(model.config, location.directory)
    return Conversion(model, findings, location, tokenizer)


def is_native(directory: Path) -> bool:
    """Return whether the header of a directory's `model.safetensors` says that the checkpoint is native."""
    try:
        return read_metadata(directory / WEIGHTS).get("format") == checkpoint.FORMAT
    except UserError:
        return False  # the reader of Hugging Face directories raises an error that names the fault


def cast(found: Checkpoint, dtype: np.dtype) -> Checkpoint:
    """Return the checkpoint with every tensor in `dtype`, and with this dtype in its config if the config names one."""
    tensors = {name: array.astype(dtype) for name, array in found.tensors.items()}
    stale = {name: dtype.name for name in ("torch_dtype", "dtype") if name in found.config.source}
    config = found.config.replace(source={**found.config.source, **stale})
    return replace(found, config=config, tensors=tensors)


def record(conversion: Conversion, to: str, dtype: str | None) -> dict[str, Any]:
    """Return the contents of `conversion.json`: the source, what was done with it, and the program's version."""
    return {
        "bert_jax": __version__,
        "to": to,
        "dtype": dtype or "as in the source",
        "source": conversion.location.origin,
        "revision": conversion.checkpoint.metadata.get("source_revision"),
        "sha256": dict(conversion.checkpoint.sha256),
        **conversion.findings._asdict(),
        "to_train": to_train(conversion.checkpoint),
    }


def describe(conversion: Conversion) -> str:
    """Return a summary with one line each for the source and the tensors loaded, tied, ignored and still to be trained.

    If the config has labels, a last line lists them.
    """
    findings = conversion.findings
    config = conversion.checkpoint.config
    commit = f" at {conversion.location.revision}" if conversion.location.revision else ""
    size = sum(array.size for array in conversion.checkpoint.tensors.values())
    lines = [
        f"source   {conversion.location.origin}{commit}",
        f"loaded   {len(findings.loaded)} tensors, {size:,} parameters: {config.num_hidden_layers} layers, "
        f"{config.hidden_size} wide, {config.num_attention_heads} heads, {config.vocab_size:,} tokens",
        f"tied     {_listed(f'{name} = {original}' for name, original in findings.tied.items())}",
        f"ignored  {_listed(findings.ignored)}",
        f"to train {_listed(to_train(conversion.checkpoint))}",
    ]
    if config.labels:
        lines.append(f"labels   {', '.join(config.labels)}")
    return "\n".join(map(printable, lines))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def to_train(found: Checkpoint) -> list[str]:
    """Return the parts that a classifier needs but this checkpoint lacks: `pooler`, `classifier`, both or none."""
    return [part for part in ("pooler", "classifier") if f"{part}.kernel" not in found.tensors]


def _relabelled(config: BertConfig, labels: tuple[str, ...], source: str) -> BertConfig:
    if config.task is not None and len(labels) != len(config.labels):
        raise UserError(
            f"{source}: the classifier has {len(config.labels)} labels ({', '.join(config.labels)}), "
            f"--labels names {len(labels)}"
        )
    return config.replace(labels=labels)
