"""Tensors under the names and in the shapes of transformers, and what may be wrong with them."""

import functools
import random
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
import transformers

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Size(NamedTuple):
    """Sizes that differ where they can; the shapes of arrays are few, as each costs compiling."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int


SIZES = (
    Size(1, 16, 2, 24, 13, 16, 2),
    Size(2, 16, 4, 8, 30, 16, 1),
    Size(2, 16, 16, 16, 60, 16, 3),
    Size(1, 12, 1, 24, 26, 40, 2),
)


@functools.cache
def parameters(size: Size, labels: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that transformers has for any head, encoder without a prefix."""
    config = transformers.BertConfig(**size._asdict(), num_labels=labels)
    kinds = ("ForSequenceClassification", "ForPreTraining", "ForQuestionAnswering")
    with torch.device("meta"):
        states = [getattr(transformers, f"Bert{kind}")(config).state_dict() for kind in kinds]
    return {name.removeprefix("bert."): tuple(tensor.shape) for state in states for name, tensor in state.items()}


def values_of(draw: random.Random, size: Size, count: int) -> dict[str, torch.Tensor]:
    """Random tensors, in one type or in several."""
    spread = draw.choice((0.05, 0.2, 0.5))
    found = {}
    for name, shape in parameters(size, count).items():
        found[name] = torch.randn(shape) * spread + float("LayerNorm.weight" in name)
    kinds = [draw.choice(TYPES)] if draw.random() < 0.5 else [torch.float32]
    if draw.random() < 0.15:
        kinds = list(TYPES)
    if draw.random() < 0.7:  # tied, as they mostly are
        found["cls.predictions.decoder.weight"] = found["embeddings.word_embeddings.weight"].clone()
        found["cls.predictions.decoder.bias"] = found["cls.predictions.bias"].clone()
    return {name: tensor.to(draw.choice(kinds)) for name, tensor in found.items()}


def renamed(
    draw: random.Random, tensors: dict[str, torch.Tensor], size: Size, prefixed: bool
) -> dict[str, torch.Tensor]:
    """The same under the names of another time, and with the buffer that was saved then."""
    old = draw.choice((0.0, 0.0, 0.0, 1.0, 0.5))
    out = {}
    for name, tensor in tensors.items():
        if draw.random() < old:
            name = re.sub(
                "LayerNorm.(weight|bias)$", lambda m: f"LayerNorm.{'gamma' if m[1] == 'weight' else 'beta'}", name
            )
        out[f"bert.{name}" if prefixed and name.startswith(("emb", "enc", "pool")) else name] = tensor
    if draw.random() < 0.2:
        buffer = torch.arange(size.max_position_embeddings)[None]
        out[f"{'bert.' * prefixed}embeddings.position_ids"] = buffer.to(draw.choice((torch.int64, torch.float32)))
    return out


KINDS = ("CharStorage", "_rebuild_tensor_v3")
"""As a pickle names a type that only it can say."""

_Spoil = Callable[[random.Random, dict[str, torch.Tensor]], tuple[dict[str, torch.Tensor], list[str]]]
"""From tensors to others, and the words that a refusal of them may use."""


def changed(change: Callable[[random.Random, torch.Tensor], torch.Tensor]) -> _Spoil:
    """One tensor changed."""

    def spoil(draw, tensors):
        name = draw.choice(list(tensors))
        return {**tensors, name: change(draw, tensors[name])}, [plain(name), "position_ids", *KINDS]

    return spoil


def _without(draw, tensors):
    name = draw.choice(list(tensors))
    return {other: tensor for other, tensor in tensors.items() if other != name}, [plain(name), "pooler"]


def _without_pooler(draw, tensors):
    return {name: tensor for name, tensor in tensors.items() if "pooler" not in name}, ["pooler"]


def _with(draw, tensors):
    name = draw.choice(
        (
            "extra.weight",
            "embeddings.extra",
            "encoder.layer.7.output.dense.bias",
            "encoder.layer.0.attention.self.distance_embedding.weight",
            "lm_head.weight",
            "loss_fct.weight",
            "classifier.weight",
            "classifier.out_proj.weight",
            "bert.classifier.bias",
            "cls.extra",
            "bert.cls.predictions.bias",
            "cls.predictions.bias",
            "cls.seq_relationship.weight",
            "pooler.dense.scale",
            "bert.embeddings.token_type_ids",
            "embeddings.position_ids",
            "bert.embeddings.position_ids",
            "score.weight",
            "bert.encoder.layer.0.attention.self.num_batches_tracked",
            "qa_outputs.bias",
        )
    )
    return {**tensors, name: torch.zeros(draw.choice(((3,), (3, 8))))}, [name, plain(name)]


def _prefixed(draw, tensors):
    prefix = draw.choice(("module.", "_orig_mod.", "model.", "bert.", "encoder.", "roberta.", "0.auto_model."))
    some = draw.choice((1.0, 0.3))
    return {(prefix if draw.random() < some else "") + name: value for name, value in tensors.items()}, [
        prefix,
        "missing",
    ]


def _twice(draw, tensors):
    name = draw.choice(list(tensors))
    other = name.removeprefix("bert.") if name.startswith("bert.") else f"bert.{name}"
    if "LayerNorm.weight" in name and draw.random() < 0.5:
        other = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return {**tensors, other: tensors[name] + draw.choice((0, 1))}, [name, other]


def _renamed_head(draw, tensors):
    old, new = draw.choice((("classifier.", "bert.classifier."), ("classifier.", "score."), ("cls.", "bert.cls.")))
    return {re.sub(f"^{old}", new, name): value for name, value in tensors.items()}, [new, old]


def _all(change: Callable[[torch.Tensor], torch.Tensor]) -> _Spoil:
    return lambda draw, tensors: ({name: change(tensor) for name, tensor in tensors.items()}, ["dtype", *KINDS])


def _at_one(value: float, kind: torch.dtype | None = None):
    def change(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.to(kind or tensor.dtype).flatten()
        if flat.is_floating_point():
            flat[draw.randrange(len(flat))] = value
        return flat.reshape(tensor.shape)

    return changed(change)


SPOILT: tuple[_Spoil, ...] = (
    _without,
    _without,
    _without_pooler,
    _with,
    _with,
    _with,
    _prefixed,
    _twice,
    _renamed_head,
    changed(lambda draw, tensor: tensor[: draw.randrange(len(tensor))] if tensor.ndim else tensor),
    changed(lambda draw, tensor: torch.cat([tensor, tensor[:1]])),
    changed(lambda draw, tensor: draw.choice((tensor[None], tensor.flatten()[0], tensor.flatten()))),
    changed(lambda draw, tensor: tensor.T.contiguous() if tensor.ndim == 2 else tensor[:, None]),
    changed(lambda draw, tensor: (tensor * 10).to(draw.choice((torch.int8, torch.int64, torch.bool)))),
    changed(lambda draw, tensor: tensor.to(torch.float8_e4m3fn)),
    _at_one(float("nan")),
    _at_one(float("inf")),
    _at_one(1e39, torch.float64),
    _at_one(1e-42, torch.float32),
    _at_one(1e-310, torch.float64),
    _all(lambda tensor: (tensor.float() * 10).to(torch.int8)),
)


def plain(name: str) -> str:
    """As refusals name it."""
    return name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight").replace("beta", "bias")
