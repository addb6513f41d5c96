"""The one table of tensor names: our name, Hugging Face's name, and the layout that converts between them.

An export reads each row from left to right, an import from right to left. `{}` is the number of a layer. Foreign names
(Hugging Face's) have the modern spelling and no prefix `bert.`; `canonical` converts other names to these.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from bert_jax.config import BertConfig

from .layouts import SAME, TRANSPOSED, Layout


class Row(NamedTuple):
    """The native name of a tensor, its foreign name, and its layout."""

    native: str
    foreign: str
    layout: Layout


TABLE = (
    Row("embeddings.word_embeddings.embedding", "embeddings.word_embeddings.weight", SAME),
    Row("embeddings.token_type_embeddings.embedding", "embeddings.token_type_embeddings.weight", SAME),
    Row("embeddings.position_embeddings.embedding", "embeddings.position_embeddings.weight", SAME),
    Row("embeddings.layer_norm.scale", "embeddings.LayerNorm.weight", SAME),
    Row("embeddings.layer_norm.bias", "embeddings.LayerNorm.bias", SAME),
    Row("encoder.layers.{}.attention.query.kernel", "encoder.layer.{}.attention.self.query.weight", TRANSPOSED),
    Row("encoder.layers.{}.attention.query.bias", "encoder.layer.{}.attention.self.query.bias", SAME),
    Row("encoder.layers.{}.attention.key.kernel", "encoder.layer.{}.attention.self.key.weight", TRANSPOSED),
    Row("encoder.layers.{}.attention.key.bias", "encoder.layer.{}.attention.self.key.bias", SAME),
    Row("encoder.layers.{}.attention.value.kernel", "encoder.layer.{}.attention.self.value.weight", TRANSPOSED),
    Row("encoder.layers.{}.attention.value.bias", "encoder.layer.{}.attention.self.value.bias", SAME),
    Row("encoder.layers.{}.attention.output.kernel", "encoder.layer.{}.attention.output.dense.weight", TRANSPOSED),
    Row("encoder.layers.{}.attention.output.bias", "encoder.layer.{}.attention.output.dense.bias", SAME),
    Row("encoder.layers.{}.attention_norm.scale", "encoder.layer.{}.attention.output.LayerNorm.weight", SAME),
    Row("encoder.layers.{}.attention_norm.bias", "encoder.layer.{}.attention.output.LayerNorm.bias", SAME),
    Row("encoder.layers.{}.intermediate.kernel", "encoder.layer.{}.intermediate.dense.weight", TRANSPOSED),
    Row("encoder.layers.{}.intermediate.bias", "encoder.layer.{}.intermediate.dense.bias", SAME),
    Row("encoder.layers.{}.output.kernel", "encoder.layer.{}.output.dense.weight", TRANSPOSED),
    Row("encoder.layers.{}.output.bias", "encoder.layer.{}.output.dense.bias", SAME),
    Row("encoder.layers.{}.output_norm.scale", "encoder.layer.{}.output.LayerNorm.weight", SAME),
    Row("encoder.layers.{}.output_norm.bias", "encoder.layer.{}.output.LayerNorm.bias", SAME),
    Row("pooler.kernel", "pooler.dense.weight", TRANSPOSED),
    Row("pooler.bias", "pooler.dense.bias", SAME),
    Row("classifier.kernel", "classifier.weight", TRANSPOSED),
    Row("classifier.bias", "classifier.bias", SAME),
)

POSITION_IDS = "embeddings.position_ids"
"""A buffer in some checkpoints, which must be 0, 1, 2, ...; an export writes it back."""

TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Copies in the heads of the pre-training tasks: the name of each copy, and the name of the tensor that it copies."""

IGNORED = (
    "cls.predictions.bias",
    "cls.predictions.transform.dense.weight",
    "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.LayerNorm.weight",
    "cls.predictions.transform.LayerNorm.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
)
"""Heads of the pre-training tasks, which neither the encoder nor a classifier uses."""

HEADS = ("cls.", "classifier.", "qa_outputs.")
"""Prefixes of the names of tensors in transformers' heads."""


def rows(config: BertConfig) -> dict[str, Row]:
    """Return every row of the table by its foreign name, with layer numbers filled in."""
    out = {}
    for row in TABLE:
        for i in range(config.num_hidden_layers if "{}" in row.foreign else 1):
            filled = Row(row.native.format(i), row.foreign.format(i), row.layout)
            out[filled.foreign] = filled
    return out


def canonical(name: str) -> str:
    """Return a foreign name without the prefix `bert.`, and with the modern names of LayerNorm's parameters."""
    name = name.removeprefix("bert.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_MODERN[m[1]]}", name)


def wrapper(names: Iterable[str]) -> str | None:
    """Return the prefix of the names of a model that was saved inside another one, like `module.`.

    Returns None if the names have no such prefix.
    """
    plain_names, first_name = [canonical(name) for name in names], TABLE[0].foreign
    if first_name in plain_names:
        return None
    return next((name.removesuffix(first_name) for name in plain_names if name.endswith(f".{first_name}")), None)


_MODERN = {"gamma": "weight", "beta": "bias"}
