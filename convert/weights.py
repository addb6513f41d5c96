"""Read the weights in a Hugging Face directory: one file or shards, as safetensors or as torch's pickles."""

import os
import re
from pathlib import Path

import numpy as np

from bert_jax.errors import UserError
from bert_jax.files import read_json
from bert_jax.misplaced import explained
from bert_jax.tensors import read_tensors

from . import torch_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"


def read_weights(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return all tensors of a directory by name, and the SHA-256 of each file that they were read from.

    The first of these that exists is read: `model.safetensors`, the safetensors shards in an index, torch's pickle
    `pytorch_model.bin`, the pickle shards in an index. Raises `UserError` if there is none, or if an index and its
    shards do not match.
    """
    # A file may be a link, even a broken one; the reader checks where the link leads.
    for name, reader in ((WEIGHTS, read_tensors), (INDEX, None), (PICKLE, torch_file.read), (PICKLE_INDEX, None)):
        if not os.path.lexists(directory / name):
            continue
        if reader is None:
            return _read_shards(directory / name)
        weights = reader(directory / name)
        return weights.tensors, {name: weights.sha256}
    raise UserError(f"{directory}: no {WEIGHTS} and no {PICKLE}, whole or in shards; {explained(directory)}")


def _read_shards(index: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    directory, ending = index.parent, ".safetensors" if index.name == INDEX else ".bin"
    reader = read_tensors if index.name == INDEX else torch_file.read
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{index}: weight_map is missing or malformed; expected tensor name -> file name")
    names = sorted(set(weight_map.values()))
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}" + re.escape(ending), name):
            raise UserError(f"{index}: weight_map names {name!r}; expected a {ending} file beside the index")
    missing = [name for name in names if not os.path.lexists(directory / name)]
    if missing or not names:
        listed = ", ".join(missing) or "all"
        raise UserError(f"{index}: shards missing beside it: {listed}; download them again")
    tensors: dict[str, np.ndarray] = {}
    hashes, origins = {}, {}
    for file in names:
        shard = reader(directory / file)
        hashes[file] = shard.sha256
        for name, array in shard.tensors.items():
            if name in tensors:
                raise UserError(f"{directory / file}: {name} is in another shard too; download the checkpoint again")
            tensors[name], origins[name] = array, file
    if astray := sorted(name for name in {*tensors, *weight_map} if origins.get(name) != weight_map.get(name)):
        raise UserError(f"{index}: index and shards differ in {', '.join(astray)}; download them again")
    return tensors, hashes
