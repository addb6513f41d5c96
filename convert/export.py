"""What others expect of a Hugging Face directory beyond what the source had: settings said, tokenizer whole.

transformers' pipelines read problem_type, sentence-transformers' CrossEncoder an activation, and
text-embeddings-inference takes no config with a missing size and no tokenizer but tokenizer.json.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tokenizers
from tokenizers import processors

from bert_jax.checkpoint import Checkpoint
from bert_jax.config import CLASSIFIER, MULTI_LABEL, REGRESSION, SINGLE_LABEL, BertConfig
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import BERT_CLASSES, faults_of, special_names

ACTIVATIONS = {
    # nn.Softmax() made without an axis warns at every use; this one takes the last.
    SINGLE_LABEL: "torch.distributions.transforms.SoftmaxTransform",
    MULTI_LABEL: "torch.nn.modules.activation.Sigmoid",
    REGRESSION: "torch.nn.modules.linear.Identity",
}
"""What CrossEncoder makes scores of logits with, by `problem_type`; its own default is right for none of them."""

_UNSET = 10**9
"""A `model_max_length` above this says that there is none: transformers writes 10^30."""

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
"""Fields of `config.json` without which some reader stops, or takes a default of its own."""


def completed(found: Checkpoint, tokenizer: Tokenizer, *, trained: bool) -> Checkpoint:
    """The checkpoint with what is missing added; what is there stays as it is.

    But of a `trained` one, what is said of the model it started from goes: its activation, and its
    name where that is a path of this machine.
    """
    source = config_json(found.config, trained=trained)
    files = {**found.files, **tokenizer_files(found.files, tokenizer, found.config, trained=trained)}
    return replace(found, config=found.config.replace(source=source), files=files)


def config_json(config: BertConfig, *, trained: bool) -> dict[str, Any]:
    """`config.json` that leaves nothing to a reader's defaults which another reader may not have."""
    said = _without_path(config.to_dict(), "_name_or_path") if trained else config.to_dict()
    for name in SAID:
        said.setdefault(name, "bert" if name == "model_type" else getattr(config, name))
    if config.architecture == CLASSIFIER and config.problem_type:
        theirs, older = "sentence_transformers", "sbert_ce_default_activation_function"
        if trained:
            said.pop(older, None)
            said.pop(theirs, None)
        if theirs not in said and older not in said:
            said[theirs] = {"activation_fn": ACTIVATIONS[config.problem_type]}
    return said


def tokenizer_files(
    files: Mapping[str, bytes], tokenizer: Tokenizer, config: BertConfig, *, trained: bool
) -> dict[str, bytes]:
    """The tokenizer's files that are missing, and its settings with those that are missing."""
    settings: dict[str, Any] = json.loads(files.get("tokenizer_config.json", b"{}").decode("utf-8-sig"))
    names = special_names(settings)
    whole = _without_path(settings, "name_or_path") if trained else dict(settings)
    if settings.get("tokenizer_class") in BERT_CLASSES:
        whole.setdefault("do_lower_case", True)
    for name, value in (
        ("tokenizer_class", "BertTokenizer"),
        ("model_max_length", config.max_position_embeddings),
        *((f"{kind}_token", name) for kind, name in names.items()),
    ):
        if whole.get(name) is None:
            whole[name] = value
    if not isinstance(whole["model_max_length"], int) or whole["model_max_length"] > _UNSET:
        whole["model_max_length"] = config.max_position_embeddings
    made: dict[str, bytes] = {}
    if whole != settings:
        made["tokenizer_config.json"] = _json(whole)
    if "special_tokens_map.json" not in files:
        made["special_tokens_map.json"] = _json({f"{kind}_token": name for kind, name in names.items()})
    if "tokenizer.json" not in files:
        made["tokenizer.json"] = _tokenizer_json(tokenizer, names["cls"], names["sep"])
    return made


def _without_path(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings without one that is an absolute path."""
    return {key: value for key, value in settings.items() if key != name or not os.path.isabs(str(value))}


def _tokenizer_json(tokenizer: Tokenizer, cls: str, sep: str) -> bytes:
    """The tokenizer as one file, with the special tokens that ours adds by itself."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    with faults_of("tokenizer_config.json"):
        backend.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(name, backend.token_to_id(name)) for name in (cls, sep)],
        )
    return backend.to_str(pretty=True).encode()


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n"
