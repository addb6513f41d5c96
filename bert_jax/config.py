"""The model's configuration, with the field names of Hugging Face's `config.json`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bert_jax.errors import UserError
from bert_jax.tasks import HEADS, TASKS, Head, Task, sequence, task_of

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
"""Supported values of `hidden_act`; `gelu` is the exact erf form."""

ATTENTION = ("auto", "plain", "triton", "mosaic", "interpret")
"""Implementations of attention.

`plain` is plain XLA. The fused kernel is `triton` for GPU, `mosaic` for TPU, and `interpret` in interpreted form (slow,
for tests). `auto` chooses between these (`bert_jax.attention.kernel_for`).
"""

PRECISIONS = ("highest", "high", "default")
"""How exactly float32 numbers are multiplied, under JAX's own names (`jax.lax.Precision`).

On a CPU all three are float32. `highest` is float32 on every device; `high` is TF32 on a GPU and three bfloat16 passes
on a TPU; `default` is the fastest: TF32 on a GPU and one bfloat16 pass on a TPU.
"""

PROBLEM_TYPES = tuple(task.problem_type for task in TASKS.values() if task.problem_type is not None)
"""What the outputs of a head mean, where an architecture has more than one task."""

CLASSIFIER = sequence.HEAD.architecture
ENCODER = "BertModel"
ARCHITECTURES = (*HEADS, ENCODER)
"""Supported architectures: an encoder with a head, or an encoder alone."""

# A size of 2^31 or more cannot be indexed with the int32 that JAX uses.
_SIZE_LIMIT = 2**31

# Each layer has sixteen parameter names, so a line of JSON could ask for any amount of memory without this limit.
_MOST_LAYERS = 1_000

# Settings that can select a network which this project does not implement, each with its harmless values.
_UNSUPPORTED = {
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "position_embedding_type": ("absolute", None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    # transformers 5 reads the settings below from a config.json too.
    "is_causal": (False, None),
    "per_layer_config": ({}, None),
    "attribute_map": ({}, None),
    "transformers_weights": (None,),
}


@dataclass(frozen=True)
class BertConfig:
    """Sizes and settings of a BERT model, validated on construction (`UserError` names the field).

    Field names, meanings and defaults are those of transformers' `BertConfig`, with three exceptions. `architecture` is
    one of `ARCHITECTURES`. `labels` holds the names in `id2label`, in order of id; for an encoder alone it is empty
    unless a `config.json` gives names of its own. `add_pooling_layer` says whether there is a pooler.

    `source` is the dictionary that the config was read from. With it, fields that this project does not use survive a
    conversion to its format and back. `source` is ignored when two configs are compared.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | None = None
    problem_type: str | None = None
    add_pooling_layer: bool = True
    architecture: str = ENCODER
    labels: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        for name in _SIZES:
            value = getattr(self, name)
            _require(_is_int(value) and value >= 1, name, value, "a whole number of at least 1")
        for name in ("vocab_size", "hidden_size", "intermediate_size"):
            value = getattr(self, name)
            _require(
                value < _SIZE_LIMIT,
                name,
                value,
                f"less than 2^31 (the model would take {self.parameter_bytes:,} bytes)",
            )
        layers = self.num_hidden_layers
        _require(layers <= _MOST_LAYERS, "num_hidden_layers", layers, f"at most {_MOST_LAYERS:,}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            value = getattr(self, name)
            if name == "classifier_dropout" and value is None:
                continue
            _require(_is_number(value) and 0 <= value < 1, name, value, "a number in [0, 1)")
            object.__setattr__(self, name, float(value))  # JSON may give the integer 0
        for name in ("initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            _require(_is_number(value) and 0 < value < 1, name, value, "a number in (0, 1)")
        _require(self.hidden_act in ACTIVATIONS, "hidden_act", self.hidden_act, _one_of(ACTIVATIONS))
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size",
            self.hidden_size,
            f"divisible by num_attention_heads, which is {self.num_attention_heads}",
        )
        pad = self.pad_token_id
        _require(
            pad is None or (_is_int(pad) and 0 <= pad < self.vocab_size),
            "pad_token_id",
            pad,
            f"null or a token id under vocab_size, which is {self.vocab_size}",
        )
        _require(
            self.problem_type is None or self.problem_type in PROBLEM_TYPES,
            "problem_type",
            self.problem_type,
            _one_of(PROBLEM_TYPES),
        )
        _require(isinstance(self.add_pooling_layer, bool), "add_pooling_layer", self.add_pooling_layer, "true or false")
        _require(self.architecture in ARCHITECTURES, "architectures", self.architecture, _one_of(ARCHITECTURES))
        _require(
            isinstance(self.labels, tuple) and all(isinstance(name, str) and is_whole(name) for name in self.labels),
            "id2label",
            self.labels,
            "label names as strings of whole characters",
        )
        _require(len(set(self.labels)) == len(self.labels), "id2label", self.labels, "label names that differ")
        if self.head is not None:
            self._check_head(self.head)

    def _check_head(self, head: Head) -> None:
        """Check what a head needs of the config, and fill in the problem type that transformers supposes."""
        name, count = head.architecture, len(self.labels)
        _require(count >= 1 or not head.labelled, "id2label", self.labels, f"at least one label for a {name}")
        _require(self.add_pooling_layer or not head.pooled, "add_pooling_layer", False, f"true for a {name}")
        if self.task is not None and count < self.task.fewest_labels:
            tasks = [task for task in self._tasks if count >= task.fewest_labels]
            tasks.sort(key=lambda task: not task.supposed(count))
            expected = f"{' or '.join(str(task.problem_type) for task in tasks)}, as there is one label"
            _require(False, "problem_type", self.problem_type, expected)
        if self.problem_type is None:
            object.__setattr__(self, "problem_type", self._supposed)

    @property
    def head(self) -> Head | None:
        """The layers on top of the encoder, or None for an encoder alone."""
        return HEADS.get(self.architecture)

    @property
    def task(self) -> Task | None:
        """What the outputs of the head mean, or None for an encoder alone."""
        return task_of(self.architecture, self.problem_type)

    @property
    def _tasks(self) -> list[Task]:
        """The tasks that this architecture can have."""
        return [task for task in TASKS.values() if task.architecture == self.architecture]

    @property
    def _supposed(self) -> str | None:
        """Problem type that transformers supposes if a config gives none; None for an encoder alone."""
        return next((task.problem_type for task in self._tasks if task.supposed(len(self.labels))), None)

    @property
    def head_size(self) -> int:
        """Size K of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def parameter_bytes(self) -> int:
        """Size in bytes of the encoder's parameters in float32; only matrices are counted."""
        tables = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return 4 * (tables * self.hidden_size + self.num_hidden_layers * layer)

    def replace(self, **changes: Any) -> "BertConfig":
        """Return a copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BertConfig":
        """Return the config of a `config.json`'s contents, from Hugging Face or from this project.

        Raises `UserError` that names the key: for a wrong type or value, for another `model_type`, for remote code
        (`auto_map`), and for settings of networks that this project does not implement (decoder, relative positions,
        heads of other tasks).
        """
        if data.get("auto_map"):
            raise UserError("auto_map asks for code of the checkpoint's own to be run, which is never done; remove it")
        model_type = data.get("model_type", "bert")
        _require(model_type == "bert", "model_type", model_type, "bert")
        for name, harmless in _UNSUPPORTED.items():
            value = data.get(name)
            _require(value in harmless, name, value, f"{harmless[0]} (the only kind built here)")
        values = {name: data[name] for name in _FIELDS if name in data}
        architecture = _architecture(data)
        return cls(**values, architecture=architecture, labels=_labels(data, architecture), source=dict(data))

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of a `config.json` that both `from_dict` and transformers can read.

        The result starts as a copy of `source`. It adds or changes only the fields whose values differ from `source`,
        or from the default for a field that `source` lacks.
        """
        out = dict(self.source) or {"model_type": "bert"}
        for name, default in _FIELDS.items():
            value = getattr(self, name)
            if not self.source or value != self.source.get(name, default):
                out[name] = value
        if self.source and self.source.get("problem_type") is None and self.problem_type == self._supposed:
            out.pop("problem_type", None)  # not written, as another program may assume something else
            out |= {"problem_type": None} if "problem_type" in self.source else {}
        if self.add_pooling_layer and "add_pooling_layer" not in self.source:
            out.pop("add_pooling_layer", None)
        if not self.source or _architecture(self.source) != self.architecture or self.architecture == ENCODER:
            out["architectures"] = [self.architecture]
        if self.labels:
            out["id2label"] = {str(i): label for i, label in enumerate(self.labels)}
            out["label2id"] = {label: i for i, label in enumerate(self.labels)}
            out.pop("num_labels", None)
        elif _labels(self.source, self.architecture):
            for name in ("id2label", "label2id", "num_labels"):
                out.pop(name, None)
        return out


_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_FIELDS = {
    f.name: f.default for f in dataclasses.fields(BertConfig) if f.name not in ("architecture", "labels", "source")
}

# Architectures whose encoder is read without their heads; the heads are listed as ignored.
_HEADS_LEFT_BEHIND = ("BertForPreTraining", "BertForMaskedLM", "BertForNextSentencePrediction")


def _architecture(data: Mapping[str, Any]) -> str:
    names = data.get("architectures")
    if names is None:
        return ENCODER
    supported = (*ARCHITECTURES, *_HEADS_LEFT_BEHIND)
    good = isinstance(names, list) and len(names) == 1 and names[0] in supported
    way = "; of other heads, python -m convert --encoder-only takes the encoder"
    _require(good, "architectures", names, _one_of([[name] for name in supported]) + way)
    return names[0] if names[0] in HEADS else ENCODER


def _labels(data: Mapping[str, Any], architecture: str) -> tuple[str, ...]:
    table, count = data.get("id2label"), data.get("num_labels")
    if table is None:
        count = data.get("num_labels", 2)
        _require(_is_int(count) and 0 <= count < 100_000, "num_labels", count, "a whole number")
        table = {str(i): f"LABEL_{i}" for i in range(count)}
    good = isinstance(table, dict) and sorted(table) == sorted(str(i) for i in range(len(table)))
    _require(good, "id2label", table, 'label names under "0", "1", ...')
    names = tuple(table[str(i)] for i in range(len(table)))
    # If num_labels differs, transformers uses it and drops the names.
    _require(count is None or count == len(names), "num_labels", count, f"{len(names)}, the labels in id2label")
    # transformers gives every model the names LABEL_0, LABEL_1; where outputs have no names, these mean nothing.
    placeholders = tuple(f"LABEL_{i}" for i in range(len(names)))
    is_labelled = architecture in HEADS and HEADS[architecture].labelled
    return () if not is_labelled and names == placeholders else names


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(text: str) -> bool:
    """Return whether a string can be encoded as UTF-8, which half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _one_of(values) -> str:
    return "one of " + ", ".join(str(value) for value in values)


def _require(good: bool, name: str, value: Any, expected: str) -> None:
    if not good:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise UserError(f"{name} is {shown}; expected {expected}")
