"""Weights of sentence-transformers' modules: a pickle gets a safetensors file beside it, which the library can read."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from bert_jax.errors import UserError
from bert_jax.sentence_files import MODULES, parse_modules
from bert_jax.tensors import parse_tensors

from . import torch_file
from .weights import PICKLE, WEIGHTS

_WITH_WEIGHTS = ("Dense", "LayerNorm")
"""Types of modules whose weights `bert_jax.Embedder` reads."""

_MADE = {"made_from": PICKLE}
"""Metadata of a file that `with_safetensors` made."""


def with_safetensors(files: Mapping[str, bytes], directory: Path) -> dict[str, bytes]:
    """Return a checkpoint's files, with a `model.safetensors` for each module whose weights are only a pickle.

    `files` are those of `directory`, by relative name. No code in a pickle is run. Raises `UserError` for a pickle that
    holds anything but arrays.
    """
    out = dict(files)
    for module in parse_modules(files.get(MODULES, b"[]"), directory / MODULES):
        folder, kind = str(module.get("path")), str(module.get("type")).split(".")[-1]
        if kind in _WITH_WEIGHTS and f"{folder}/{PICKLE}" in files and f"{folder}/{WEIGHTS}" not in files:
            views = torch_file.read(directory / folder / PICKLE).tensors
            tensors = {name: np.asarray(array, order="C") for name, array in views.items()}
            out[f"{folder}/{WEIGHTS}"] = safetensors.numpy.save(tensors, metadata=_MADE)
    return out


def without_made(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a checkpoint's files without those that `with_safetensors` made."""
    pickled = {name.removesuffix(PICKLE) for name in files if name.endswith(f"/{PICKLE}")}
    doubtful = [f"{folder}{WEIGHTS}" for folder in pickled if f"{folder}{WEIGHTS}" in files]
    made = {name for name in doubtful if _metadata(files[name]) == _MADE}
    return {name: content for name, content in files.items() if name not in made}


def _metadata(content: bytes) -> object:
    """Return the metadata of a safetensors file, or None if it is damaged; such a file is carried as it is."""
    try:
        return parse_tensors(content, Path(WEIGHTS)).metadata
    except UserError:
        return None
