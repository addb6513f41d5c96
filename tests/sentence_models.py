"""Small random models with sentence-transformers' modules, and their embeddings, computed with numpy text by text."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import bert_jax
from bert_jax import checkpoint, files
from bert_jax.checkpoint import Checkpoint
from bert_jax.model import Model
from tests.conftest import PRIMES, random_checkpoint

ENCODER = PRIMES.replace(architecture="BertModel", labels=(), problem_type=None)
SIZE = ENCODER.hidden_size

PROMPTS = {"query": "a good ", "passage": "the very bad film not ", "none": ""}
TEXTS = ["a good film", "", "not a very good film", "bad " * 90, "bad", "the the\x00the", "一 film 😀", "Verily BAD"]


@dataclass
class Spec:
    """What the files of a model say: each field is the content of a file, or of a folder's files."""

    pooling: dict[str, Any] = field(default_factory=lambda: {"pooling_mode": "mean"})
    others: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]] = field(default_factory=list)
    transformer: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        """The files by relative name."""
        entries = [("", "Transformer"), ("1_Pooling", "Pooling")]
        out: dict[str, Any] = {"1_Pooling/config.json": {"word_embedding_dimension": SIZE, **self.pooling}}
        weights: dict[str, bytes] = {}
        for number, (kind, settings, tensors) in enumerate(self.others, 2):
            entries.append((folder := f"{number}_{kind}", kind))
            out[f"{folder}/config.json"] = settings
            if tensors:
                weights[f"{folder}/model.safetensors"] = safetensors.numpy.save(tensors)
        out["modules.json"] = [
            {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{kind}"}
            for i, (folder, kind) in enumerate(entries)
        ]
        for name, content in (
            ("sentence_bert_config.json", self.transformer),
            ("config_sentence_transformers.json", self.model),
            ("tokenizer_config.json", self.tokenizer),
        ):
            if content:
                out[name] = content
        return {name: json.dumps(content).encode() for name, content in out.items()} | weights


def made(spec: Spec, folder: Path, seed: int = 0) -> Checkpoint:
    """A random encoder with the files of `spec`."""
    found = random_checkpoint(ENCODER, folder, seed)
    return Checkpoint(found.config, found.tensors, {**found.files, **spec.files()}, found.metadata)


def write_native(spec: Spec, folder: Path, seed: int = 0) -> Path:
    """The same as a native checkpoint on disk."""
    with files.new_directory(folder / "native") as scratch:
        checkpoint.write(scratch, made(spec, folder / "files", seed))
    return folder / "native"


def dense(size: int, out: int, *, bias: bool = True, residual: bool = False, activation: str = "Tanh", seed: int = 0):
    """A `Dense` module for a `Spec`."""
    generator = np.random.default_rng(seed)
    places = {"Identity": "linear"}
    settings = {
        "in_features": size,
        "out_features": out,
        "bias": bias,
        "activation_function": f"torch.nn.modules.{places.get(activation, 'activation')}.{activation}",
        **({"use_residual": True} if residual else {}),
    }
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (out, size)}
    if bias:
        shapes["linear.bias"] = (out,)
    if residual and size != out:
        shapes["residual.weight"] = (out, size)
    tensors = {name: (generator.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    return "Dense", settings, tensors


def layer_norm(size: int, seed: int = 0):
    """A `LayerNorm` module for a `Spec`."""
    weight, bias = np.random.default_rng(seed).standard_normal((2, size)).astype(np.float32)
    return "LayerNorm", {"dimension": size}, {"norm.weight": weight, "norm.bias": bias}


NORMALIZE = ("Normalize", {}, {})

AN_ORDER = Spec({"pooling_mode": ["lasttoken", "mean", "cls", "mean"]}, [dense(4 * SIZE, 13)])
"""Ways to pool in an order that is not the usual one, and one of them twice."""

EACH_LAYER = Spec(
    others=[
        NORMALIZE,
        dense(SIZE, 31, bias=False),
        ("Dropout", {"dropout": 0.5}, {}),
        layer_norm(31),
        dense(31, 31, residual=True, seed=1),
        dense(31, 17, residual=True, seed=2),
        NORMALIZE,
    ]
)
"""Each kind of layer."""

TRUNCATED = Spec(others=[NORMALIZE], model={"truncate_dim": 5})

_FUNCTIONS = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
}


def golden(
    directory: Path, spec: Spec, texts: list[str], *, max_length: int = 67, prompt: str = "", normalize: bool = False
) -> np.ndarray:
    """The embeddings of texts: each text is computed alone, and pooled in float64."""
    model, tokenizer = bert_jax.load(directory), bert_jax.Tokenizer.load(directory)
    assert isinstance(model, Model)
    skip = 0
    if prompt and not spec.pooling.get("include_prompt", True):
        [tokens] = tokenizer([prompt], max_length=max_length)
        skip = len(tokens.input_ids) - 1  # without [SEP]
    out = []
    for tokens in tokenizer([prompt + text for text in texts], max_length=max_length):
        ids = tokens.input_ids[None]
        rows = bert_jax.from_attention_mask(ids, np.ones_like(ids), tokens.token_type_ids[None])
        hidden = model(rows.input_ids, rows.token_type_ids, rows.position_ids, rows.segment_ids)
        x = _pooled(np.asarray(hidden[0], np.float64), spec.pooling["pooling_mode"], skip)
        for kind, settings, tensors in spec.others:
            x = _applied(kind, settings, tensors, x)
        x = x[: spec.model.get("truncate_dim", len(x))]
        out.append(x / np.linalg.norm(x) if normalize else x)
    return np.stack(out)


def _pooled(vectors: np.ndarray, modes: str | list[str], skip: int) -> np.ndarray:
    weights = np.arange(1, len(vectors) + 1)[skip:, None]
    vectors = vectors[skip:]
    by_mode = {
        "cls": vectors[0],
        "max": vectors.max(axis=0),
        "mean": vectors.mean(axis=0),
        "mean_sqrt_len_tokens": vectors.sum(axis=0) / math.sqrt(len(vectors)),
        "weightedmean": (vectors * weights).sum(axis=0) / weights.sum(),
        "lasttoken": vectors[-1],
    }
    return np.concatenate([by_mode[mode] for mode in ([modes] if isinstance(modes, str) else modes)])


def _applied(kind: str, settings: dict[str, Any], tensors: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    if kind == "Normalize":
        return x / np.linalg.norm(x)
    if kind == "LayerNorm":
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * tensors["norm.weight"] + tensors["norm.bias"]
    if kind == "Dropout":
        return x
    y = tensors["linear.weight"].astype(np.float64) @ x + tensors.get("linear.bias", 0)
    y = _FUNCTIONS[settings["activation_function"].split(".")[-1]](y)
    if settings.get("use_residual"):
        y = y + (tensors["residual.weight"].astype(np.float64) @ x if "residual.weight" in tensors else x)
    return y
