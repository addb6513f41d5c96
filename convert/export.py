"""Complete a Hugging Face directory with what other programs expect and the source may lack: settings and tokenizer.

transformers' pipelines read `problem_type`. sentence-transformers' CrossEncoder reads an activation.
text-embeddings-inference accepts no config with a missing size, and no tokenizer other than `tokenizer.json`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bert_jax.checkpoint import Checkpoint
from bert_jax.config import BertConfig
from bert_jax.tasks import TASKS
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import BERT_CLASSES, merged_settings, special_names

ACTIVATIONS = {task.name: task.activation for task in TASKS.values() if task.activation is not None}
"""Activations with which CrossEncoder turns logits into scores, by task; its default is right for none."""

_SIDES = {"head": "right", "tail": "left"}
"""Values of `truncation_side` with which transformers truncates long texts as training did, by `long_texts`."""

_UNSET = 10**9
"""A `model_max_length` above this number means that there is no maximum; transformers writes 10^30."""

SAID = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)
"""Fields of `config.json` that some reader requires, or replaces by a default of its own if they are missing."""


def completed(found: Checkpoint, tokenizer: Tokenizer, *, trained: bool) -> Checkpoint:
    """Return the checkpoint with missing settings and tokenizer files added.

    Existing settings stay as they are, with these exceptions. If the model was `trained` by this project, an activation
    for its scores replaces that of the model that training started from, and the name of that model is removed if it is
    an absolute path. For other models, no activation is added. If the metadata say at which side training truncated
    texts, the tokenizer's `truncation_side` becomes that side. A `model_max_length` above `_UNSET` is replaced, too.
    """
    source = config_json(found.config, trained=trained)
    new_files = tokenizer_files(
        found.files, tokenizer, found.config, trained=trained, long_texts=found.metadata.get("long_texts")
    )
    files = {**found.files, **new_files}
    return replace(found, config=found.config.replace(source=source), files=files)


def config_json(config: BertConfig, *, trained: bool) -> dict[str, Any]:
    """Return a `config.json` with every field in `SAID`, so that no reader depends on a default that others lack."""
    fields = _without_path(config.to_dict(), "_name_or_path") if trained else config.to_dict()
    for name in SAID:
        fields.setdefault(name, "bert" if name == "model_type" else getattr(config, name))
    if trained and config.task is not None and config.task.name in ACTIVATIONS:
        fields.pop("sbert_ce_default_activation_function", None)
        fields["sentence_transformers"] = {"activation_fn": ACTIVATIONS[config.task.name]}
    return fields


def tokenizer_files(
    files: Mapping[str, bytes],
    tokenizer: Tokenizer,
    config: BertConfig,
    *,
    trained: bool,
    long_texts: str | None = None,
) -> dict[str, bytes]:
    """Return the tokenizer's missing files, and `tokenizer_config.json` if settings were missing or have to change.

    The result maps file names to contents. `long_texts` is what training read of long texts, one of
    `bert_jax.long_texts.LONG_TEXTS`, or None if that is not known.
    """
    settings: dict[str, Any] = json.loads(files.get("tokenizer_config.json", b"{}").decode("utf-8-sig"))
    merged = merged_settings(files, Path())
    is_bert = settings.get("tokenizer_class") in BERT_CLASSES
    names = special_names(merged) if is_bert else {}  # other classes have no default names
    new_settings = _without_path(settings, "name_or_path") if trained else dict(settings)
    if is_bert:
        new_settings.setdefault("do_lower_case", merged.get("do_lower_case", True))
    for name, value in (
        ("tokenizer_class", "BertTokenizer"),
        ("model_max_length", config.max_position_embeddings),
        *((f"{kind}_token", name) for kind, name in names.items()),
    ):
        if new_settings.get(name) is None:
            new_settings[name] = value
    if long_texts in _SIDES and long_texts != tokenizer.long_texts:
        new_settings["truncation_side"] = _SIDES[long_texts]
    if not isinstance(new_settings["model_max_length"], int) or new_settings["model_max_length"] > _UNSET:
        new_settings["model_max_length"] = config.max_position_embeddings
    new_files: dict[str, bytes] = {}
    if new_settings != settings:
        new_files["tokenizer_config.json"] = _json(new_settings)
    if names and "special_tokens_map.json" not in files:
        new_files["special_tokens_map.json"] = _json(
            {f"{kind}_token": settings.get(f"{kind}_token") or name for kind, name in names.items()}
        )
    if "tokenizer.json" not in files:
        new_files["tokenizer.json"] = tokenizer.backend.to_str(pretty=True).encode()
    return new_files


def _without_path(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings, without the setting `name` if its value is an absolute path."""
    return {key: value for key, value in settings.items() if key != name or not os.path.isabs(str(value))}


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n"
