"""The model's configuration, under the field names of Hugging Face's `config.json`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bert_jax.errors import UserError

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
"""Values of `hidden_act` that are understood; `gelu` is the exact erf form."""

ATTENTION = ("auto", "plain", "triton", "mosaic", "interpret")
"""How attention is computed: plain XLA, or the fused kernel for GPU, for TPU, or interpreted (slow, for tests)."""

PRECISIONS = ("highest", "high", "default")
"""How exactly float32 numbers are multiplied: JAX's own names (`jax.lax.Precision`).

On a CPU all three are float32. `highest` is float32 on every device; `high` is TF32 on a GPU and three bfloat16 passes
on a TPU; `default` is the fastest: TF32 on a GPU and one bfloat16 pass on a TPU.
"""

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
"""What the logits of a classifier mean: one class of C, each label by itself, or a number."""

CLASSIFIER = "BertForSequenceClassification"
ENCODER = "BertModel"
ARCHITECTURES = (CLASSIFIER, ENCODER)
"""What a checkpoint can be: an encoder with a sequence classifier, or an encoder alone."""

# A size of 2^31 or more cannot be indexed with the int32 that JAX uses.
_SIZE_LIMIT = 2**31

# Each layer has sixteen names, so a line of JSON could otherwise ask for any amount of memory.
_MOST_LAYERS = 1_000

# Settings that change the network into one that is not built here, with their harmless values.
_UNSUPPORTED = {
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "position_embedding_type": ("absolute", None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    # transformers 5 takes these from a config.json too.
    "is_causal": (False, None),
    "per_layer_config": ({}, None),
    "attribute_map": ({}, None),
    "transformers_weights": (None,),
}


@dataclass(frozen=True)
class BertConfig:
    """Sizes and settings of a BERT, validated on construction (`UserError` names the field).

    Field names, meanings and defaults are those of transformers' `BertConfig`, but for three:
    `architecture` is one of `ARCHITECTURES`, `labels` is `id2label` in order of id (empty for an
    encoder alone), and `add_pooling_layer` says whether there is a pooler. `source` keeps the
    dictionary the config was read from, so that fields which mean nothing here survive a
    conversion there and back; it takes no part in equality.
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
            object.__setattr__(self, name, float(value))  # JSON may write 0
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
        if self.architecture == CLASSIFIER:
            _require(len(self.labels) >= 1, "id2label", self.labels, f"at least one label for a {CLASSIFIER}")
            _require(self.add_pooling_layer, "add_pooling_layer", False, f"true for a {CLASSIFIER}")
            _require(
                self.problem_type != SINGLE_LABEL or len(self.labels) > 1,  # all texts would have the one class
                "problem_type",
                self.problem_type,
                f"{REGRESSION} or {MULTI_LABEL}, as there is one label",
            )
            if self.problem_type is None:
                object.__setattr__(self, "problem_type", self._supposed)

    @property
    def _supposed(self) -> str | None:
        """What a classifier's logits are taken for where its config does not say."""
        if self.architecture != CLASSIFIER:
            return None
        return REGRESSION if len(self.labels) == 1 else SINGLE_LABEL

    @property
    def head_size(self) -> int:
        """Size K of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def parameter_bytes(self) -> int:
        """Bytes that the float32 parameters of the encoder take (matrices only)."""
        tables = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return 4 * (tables * self.hidden_size + self.num_hidden_layers * layer)

    def replace(self, **changes: Any) -> "BertConfig":
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BertConfig":
        """Read the contents of a `config.json`, Hugging Face's or ours.

        Raises `UserError` naming the key for a wrong type or value, another `model_type`, remote
        code (`auto_map`), and settings whose network is not built here (decoder, relative
        positions, heads of other tasks).
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
        """The contents of a `config.json` that `from_dict` and transformers both read.

        Starts from `source`, and adds or changes only what differs from it or from the defaults.
        """
        out = dict(self.source) or {"model_type": "bert"}
        for name, default in _FIELDS.items():
            value = getattr(self, name)
            if not self.source or value != self.source.get(name, default):
                out[name] = value
        if self.source and self.source.get("problem_type") is None and self.problem_type == self._supposed:
            out.pop("problem_type", None)  # supposed, not said: another program may suppose something else
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

# Architectures whose encoder is taken while the heads, listed as ignored, stay behind.
_HEADS_LEFT_BEHIND = ("BertForPreTraining", "BertForMaskedLM", "BertForNextSentencePrediction")


def _architecture(data: Mapping[str, Any]) -> str:
    names = data.get("architectures")
    if names is None:
        return ENCODER
    known = (*ARCHITECTURES, *_HEADS_LEFT_BEHIND)
    good = isinstance(names, list) and len(names) == 1 and names[0] in known
    way = "; of other heads, python -m convert --encoder-only takes the encoder"
    _require(good, "architectures", names, _one_of([[name] for name in known]) + way)
    return CLASSIFIER if names[0] == CLASSIFIER else ENCODER


def _labels(data: Mapping[str, Any], architecture: str) -> tuple[str, ...]:
    table, count = data.get("id2label"), data.get("num_labels")
    if table is None:
        count = data.get("num_labels", 2)
        _require(_is_int(count) and 0 <= count < 100_000, "num_labels", count, "a whole number")
        table = {str(i): f"LABEL_{i}" for i in range(count)}
    good = isinstance(table, dict) and sorted(table) == sorted(str(i) for i in range(len(table)))
    _require(good, "id2label", table, 'label names under "0", "1", ...')
    names = tuple(table[str(i)] for i in range(len(table)))
    # Where it is another, transformers takes it, and drops the names.
    _require(count is None or count == len(names), "num_labels", count, f"{len(names)}, the labels in id2label")
    # transformers gives every model the names LABEL_0, LABEL_1; for an encoder they mean nothing.
    placeholders = tuple(f"LABEL_{i}" for i in range(len(names)))
    return () if architecture == ENCODER and names == placeholders else names


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(text: str) -> bool:
    """Whether a string can be written as UTF-8, which half of a surrogate pair cannot."""
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
