"""The files in which sentence-transformers describes its modules, read strictly: what is not supported is refused.

Nothing in this module needs JAX. Source: sentence-transformers 6.2, `base/model.py`, `base/modules` and
`sentence_transformer/modules`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError
from bert_jax.files import decode, parse_json

MODULES = "modules.json"
"""The file that lists the modules."""

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Names of the ways to pool token vectors, in the order in which older files concatenate several of them."""

POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Flags by which older files choose ways to pool, in the order of `POOLINGS`."""

_ANY = None
_BOOL = (False, True)
_PLACES = {"module_input_name": ("sentence_embedding",), "module_output_name": ("sentence_embedding", None)}
_GROUPS = ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs")

_SUPPORTED: dict[str, dict[str, tuple[Any, ...] | None]] = {
    "Transformer": {
        "max_seq_length": _ANY,
        "do_lower_case": (*_BOOL, None),
        "unpad_inputs": (*_BOOL, None),
        "transformer_task": ("feature-extraction",),
        "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
        "module_output_name": ("token_embeddings",),
        **dict.fromkeys(("query_length", "document_length", "query_expansion", "tokenizer_name_or_path"), (None,)),
        **dict.fromkeys((*_GROUPS, "processing_kwargs"), ({}, None)),
    },
    "Pooling": {
        "word_embedding_dimension": _ANY,
        "embedding_dimension": _ANY,
        "pooling_mode": _ANY,
        "include_prompt": _BOOL,
        **dict.fromkeys(POOLING_FLAGS, _BOOL),
    },
    "Dense": {
        "in_features": _ANY,
        "out_features": _ANY,
        "activation_function": _ANY,
        "bias": _BOOL,
        "use_residual": _BOOL,
        **_PLACES,
    },
    "LayerNorm": {"dimension": _ANY},
    "Normalize": dict(_PLACES),
    "Dropout": {"dropout": _ANY},
}
"""Types of modules, and for each the settings that are supported, with their supported values; None stands for all."""

_OF_MODEL: dict[str, tuple[Any, ...] | None] = {
    "model_type": ("SentenceTransformer",),
    **dict.fromkeys(("__version__", "requirements", "similarity_fn_name"), _ANY),
    **dict.fromkeys(("prompts", "default_prompt_name", "truncate_dim"), _ANY),
}
"""The same for `config_sentence_transformers.json`."""


def parse_modules(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Return the entries of a `modules.json`; raise `UserError` that names `path` if it is malformed."""
    try:
        modules = json.loads(decode(content, path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{path}: expected a list of modules")
    return modules


def listed_modules(files: Mapping[str, bytes], where: Path) -> list[tuple[str, str]]:
    """Return the folder and the type of each module, in order; the first is Transformer and the second Pooling.

    `files` maps relative names to contents; `where` is the directory that errors name. Raises `UserError` for a file
    that is malformed, for a type that is not supported, and for another order of the modules.
    """
    path = where / MODULES
    listed: list[tuple[str, str]] = []
    for module in parse_modules(files[MODULES], path):
        folder, kind = module.get("path"), module.get("type")
        package, _, name = str(kind).rpartition(".")
        if name not in _SUPPORTED or package.partition(".")[0] != "sentence_transformers":
            raise UserError(f"{path}: type is {kind!r}; supported are sentence-transformers' {', '.join(_SUPPORTED)}")
        if not isinstance(folder, str):
            raise UserError(f"{path}: path is {folder!r}; expected the folder of a module")
        listed.append((folder, name))
    order = [name for _, name in listed]
    if order[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(order[2:]):
        raise UserError(f"{path}: lists {', '.join(order) or 'nothing'}; expected Transformer, Pooling, then others")
    if listed[0][0]:
        raise UserError(f"{path}: the path of the transformer is {listed[0][0]!r}; expected '', this directory")
    return listed


def module_settings(files: Mapping[str, bytes], kind: str, folder: str, where: Path) -> tuple[dict[str, Any], Path]:
    """Return the settings of a module and the path of their file; raise `UserError` for one that is not supported.

    Only a `Normalize`, a `Dropout` and the `Transformer` may lack the file.
    """
    name = "sentence_bert_config.json" if kind == "Transformer" else f"{folder}/config.json"
    path = where / name
    if name not in files and kind not in ("Transformer", "Normalize", "Dropout"):
        raise UserError(f"{path}: no such file, but {MODULES} names a {kind} there")
    settings = parse_json(files[name], path) if name in files else {}
    for group in _GROUPS:
        if isinstance(settings.get(group), dict):  # sentence-transformers ignores this entry, too
            settings[group].pop("trust_remote_code", None)
    _check(settings, _SUPPORTED[kind], path)
    return settings, path


def model_settings(files: Mapping[str, bytes], where: Path) -> tuple[dict[str, Any], Path]:
    """Return the settings of the whole model, with prompts, and the path of their file, as `module_settings` does."""
    path = where / "config_sentence_transformers.json"
    settings = parse_json(files[path.name], path) if path.name in files else {}
    _check(settings, _OF_MODEL, path)
    return settings, path


def _check(settings: Mapping[str, Any], supported: Mapping[str, Sequence[Any] | None], path: Path) -> None:
    for name, value in settings.items():
        if name not in supported:
            raise UserError(f"{path}: {name} is not supported, and could change the embeddings")
        values = supported[name]
        # A flag may not be 0 or 1, although these are equal to False and True in Python.
        if values is not None and not any(value == allowed and type(value) is type(allowed) for allowed in values):
            expected = " or ".join(json.dumps(allowed) for allowed in values)
            raise UserError(f"{path}: {name} is {json.dumps(value)[:60]}; supported is only {expected}")
