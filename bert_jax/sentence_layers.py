"""The modules of sentence-transformers behind the pooling, each read as a layer with its tensors.

Nothing in this module needs JAX.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.checkpoint import check_tensors
from bert_jax.errors import UserError
from bert_jax.sentence_files import module_settings
from bert_jax.tensors import parse_tensors

ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
"""Classes of torch.nn that a `Dense` module may name as its activation."""


@dataclass(frozen=True)
class Layer:
    """A step behind the pooling: its kind, the size of the vectors that it returns, and the tensors that it needs.

    `kind` is one of "dense", "layer_norm", "normalize" and "truncate". Tensors have sentence-transformers' names and
    layouts. A dense layer has an `activation`, one of `ACTIVATIONS`. If it is `residual`, its input is added to its
    output; the input is multiplied by "residual.weight" first if that tensor exists.
    """

    kind: str
    size: int
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    activation: str = "Identity"
    residual: bool = False


def read_layers(files: Mapping[str, bytes], kind: str, folder: str, where: Path, size: int) -> tuple[Layer, ...]:
    """Return the layer of a module that takes vectors of `size` elements, or nothing for a `Dropout`.

    `files` maps relative names to contents, and the module's files are in `folder`; `where` is the directory that
    errors name. Raises `UserError` for settings that are not supported, and for tensors that do not fit them.
    """
    settings, path = module_settings(files, kind, folder, where)
    if kind == "Dropout":
        return ()
    if kind == "Normalize":
        return (Layer("normalize", size),)
    if kind == "LayerNorm":
        check_size(settings, "dimension", size, path)
        shapes: dict[str, tuple[int, ...]] = {"norm.weight": (size,), "norm.bias": (size,)}
        return (Layer("layer_norm", size, _tensors(files, folder, where, shapes)),)
    check_size(settings, "in_features", size, path)
    out_size, activation = size_of(settings, "out_features", path), settings.get("activation_function", "torch.nn.Tanh")
    match = re.fullmatch(r"torch\.nn\.(?:modules\.\w+\.)?(\w+)", str(activation))
    if match is None or match[1] not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        raise UserError(f"{path}: activation_function is {activation!r}; supported are torch.nn's {expected}")
    shapes = {"linear.weight": (out_size, size)}
    if settings.get("bias", True):
        shapes["linear.bias"] = (out_size,)
    residual = settings.get("use_residual", False)
    if residual and out_size != size:
        shapes["residual.weight"] = (out_size, size)
    return (Layer("dense", out_size, _tensors(files, folder, where, shapes), match[1], residual),)


def _tensors(
    files: Mapping[str, bytes], folder: str, where: Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    path = where / folder / "model.safetensors"
    name = f"{folder}/{path.name}"
    if name not in files:
        raise UserError(f"{path}: no such file; convert the model again, from its source: python -m convert SOURCE OUT")
    tensors = parse_tensors(files[name], path).tensors
    check_tensors(path, shapes, tensors)
    return tensors


def size_of(settings: Mapping[str, Any], name: str, path: Path) -> int:
    """Return a setting that is a size; raise `UserError` unless it is a whole number above 0."""
    value = settings.get(name)
    if type(value) is not int or value < 1:
        raise UserError(f"{path}: {name} is {value!r}; expected a whole number above 0")
    return value


def check_size(settings: Mapping[str, Any], name: str, size: int, path: Path) -> None:
    """Raise `UserError` if a module says that it takes vectors of another size than it gets."""
    if name in settings and settings[name] != size:
        raise UserError(f"{path}: {name} is {settings[name]!r}, but the vectors that it gets have {size} elements")
