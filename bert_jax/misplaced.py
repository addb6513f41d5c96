"""Errors for a directory that should be a checkpoint but is none: what it holds, and what to do about it."""

import re
from pathlib import Path
from typing import NamedTuple

from bert_jax.errors import UserError, some


class _Kind(NamedTuple):
    """A pattern of files, what a directory with such a file holds, and what to do about it.

    `{}` in `remedy` stands for the file that was found, or for its directory.
    """

    pattern: str
    what: str
    remedy: str


_SAVE = "save the model with transformers as safetensors"

_KINDS = (
    _Kind("adapter_config.json", "an adapter without its model", "merge it into its model with peft and save that"),
    _Kind("snapshots/*/config.json", "a repository in the hub's cache", "give {}"),
    _Kind("models--*/snapshots/*/config.json", "the hub's cache", "give the hub id, or {}"),
    _Kind("hub/models--*/snapshots/*/config.json", "the hub's cache", "give the hub id, or {}"),
    _Kind("checkpoint-*/config.json", "a Trainer's output", "give one of its checkpoints: {}"),
    _Kind("*_Transformer/config.json", "a directory of sentence-transformers", "give its model: {}"),
    _Kind("_CHECKPOINT_METADATA", "an Orbax checkpoint of a training", "give the run's directory"),
    _Kind("*.ckpt*.index", "a TensorFlow 1 checkpoint", _SAVE),
    _Kind("*.ckpt*.data-*", "a TensorFlow 1 checkpoint", _SAVE),
    _Kind("bert_config.json", "a TensorFlow 1 checkpoint's config", _SAVE),
    _Kind("tf_model*.h5", "weights of TensorFlow 2", _SAVE),
    _Kind("*.msgpack", "weights of Flax", _SAVE),
    _Kind("rust_model.ot", "weights of rust-bert", _SAVE),
    _Kind("*.gguf", "weights of llama.cpp", _SAVE),
    _Kind("*.onnx", "an ONNX graph", "take the checkpoint that it was made of"),
    _Kind("onnx/*.onnx", "an ONNX graph", "take the checkpoint that it was made of"),
    _Kind("openvino_model.xml", "an OpenVINO graph", "take the checkpoint that it was made of"),
    _Kind("*model*.bin", "a pickle of another name than pytorch_model.bin", "rename it if it is the model"),
    _Kind("*.safetensors", "safetensors of another name than model.safetensors", "rename it if it is the model"),
    _Kind("[!0-9]*/config.json", "a checkpoint in a directory below", "give {}"),
)


def explained(directory: Path) -> str:
    """Return a clause that says what a directory holds, and what to do about it."""
    for pattern, what, remedy in _KINDS:
        if paths := sorted(directory.glob(pattern), key=_by_number):
            last = paths[-1]
            named = last if "/" not in pattern or "onnx" in pattern else last.parent
            return f"it holds {what} ({named.relative_to(directory)}); {remedy.format(named)}"
    names = sorted(path.name for path in directory.iterdir())
    return f"it holds {some(names, 5)}" if names else "it is empty"


def _by_number(path: Path) -> tuple[list[int], str]:
    """Return the sort key of a path that puts checkpoint-1000 after checkpoint-500."""
    return [int(number) for number in re.findall(r"\d{1,18}", path.parent.name)], str(path)


def check_config_lies_in(directory: Path) -> None:
    """Raise `UserError`, with what the directory holds, if it has no `config.json`."""
    if not (directory / "config.json").is_symlink() and not (directory / "config.json").exists():
        raise UserError(f"{directory}: no config.json; {explained(directory)}")
