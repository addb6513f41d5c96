"""Files of weights of every kind, and what may be wrong with them."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file


def write(
    draw: random.Random, directory: Path, tensors: dict[str, torch.Tensor], odd: list[str], strange: bool
) -> None:
    """The weights as files of a kind, or of two."""
    other = {name: tensor + 1 if tensor.dtype == torch.float32 else tensor for name, tensor in tensors.items()}
    kind = draw.choice(("whole", "whole", "shards", "pickle"))
    if draw.random() < 0.1:  # beside one that is taken before it
        (pickle if draw.random() < 0.5 else shards)(draw, directory, other)
        kind = "whole"
    if kind == "whole":
        save_file(tensors, directory / "model.safetensors", draw.choice(({"format": "pt"}, {"format": "pt"}, None)))
    elif kind == "shards":
        shards(draw, directory, tensors)
    else:
        pickle(draw, directory, tensors)
    if strange:
        odd += draw.choice(ASTRAY)(draw, directory, tensors)


def shards(draw: random.Random, directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Several files and their index."""
    count = draw.randint(1, 3)
    where = {name: f"model-{draw.randint(1, count):05}-of-{count:05}.safetensors" for name in tensors}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, directory / file, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def pickle(draw: random.Random, directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    """As torch saves parameters, or views of one storage."""
    state = {name: tensor.T.contiguous().T if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
    if draw.random() < 0.5:
        state = {name: torch.nn.Parameter(tensor, tensor.is_floating_point()) for name, tensor in state.items()}
    torch.save(state, directory / "pytorch_model.bin")


def _clear(directory: Path) -> None:
    for path in [*directory.glob("*.safetensors"), *directory.glob("*.bin"), *directory.glob("*.index.json")]:
        path.unlink()


def _legacy(draw, directory, tensors):
    _clear(directory)
    torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    return ["pytorch_model.bin"]


def _sharded_pickles(draw, directory, tensors):
    _clear(directory)
    torch.save(tensors, directory / "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "pytorch_model-00001-of-00001.bin")}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return ["pytorch_model"]


def _two_kinds(draw, directory, tensors):
    """All at once, with other contents in those that come later."""
    _clear(directory)
    other = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    shards(draw, directory, tensors)
    pickle(draw, directory, other)
    if draw.random() < 0.5:
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        shards(draw, directory, other)
    return []


def _wrong_index(draw, directory, tensors):
    _clear(directory)
    shards(draw, directory, tensors)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name, change = draw.choice(list(tensors)), draw.randrange(6)
    if change == 0:
        del index["weight_map"][name]
    elif change == 1:
        index["weight_map"]["extra.weight"] = index["weight_map"][name]
    elif change == 2:
        index["weight_map"][name] = "model-00009-of-00009.safetensors"
    elif change == 3:
        del index["metadata"]
    elif change == 4:
        save_file({name: tensors[name] + 1}, directory / "model-00009-of-00009.safetensors", {"format": "pt"})
        index["weight_map"]["extra"] = "model-00009-of-00009.safetensors"
    else:
        index = {"metadata": {}, "weight_map": {}}
    path.write_text(json.dumps(index))
    return ["index", "model-"]


def _metadata(draw, directory, tensors):
    _clear(directory)
    what = draw.choice(({"format": "np"}, {"format": "tf"}, {"format": "flax"}, {"format": "mlx"}, {"a": "b"}))
    save_file(tensors, directory / "model.safetensors", what)
    return ["format"]


def _nested(draw, directory, tensors):
    _clear(directory)
    state = draw.choice(({"state_dict": tensors}, {**tensors, "epoch": 3}, list(tensors.items()), torch.zeros(2)))
    torch.save(state, directory / "pytorch_model.bin")
    return ["pytorch_model.bin"]


def _nothing(draw, directory, tensors):
    _clear(directory)
    (directory / draw.choice(("tf_model.h5", "model.bin", "weights.safetensors"))).write_bytes(b"x")
    return ["no model.safetensors"]


ASTRAY: tuple[Callable[..., list[str]], ...] = (
    _legacy,
    _sharded_pickles,
    _two_kinds,
    _two_kinds,
    _wrong_index,
    _wrong_index,
    _metadata,
    _nested,
    _nothing,
)
