"""What a checkpoint should compute: torch's answers in float64, and torch's own float32 errors.

The yardstick is transformers on torch in float64. How far torch in float32 (and bfloat16) is from
it says how far an implementation may be. A reference is made live where torch is installed, or
read from a file made earlier, which holds a sample of each array. Only `make` needs torch.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.checkpoint import Checkpoint
from bert_jax.errors import UserError
from bert_jax.tensors import read_tensors, write_tensors

from .names import canonical, rows
from .texts import TEXTS

LEARNING_RATE = 5e-5
"""Of the one AdamW step."""

TOKENS_KEPT, VALUES_KEPT = 2, 64
"""In a file: hidden states of so many tokens a text, and so many values of a gradient."""


class Error(NamedTuple):
    """Size of a difference: root mean square, largest element, 2-norm."""

    rms: float
    largest: float
    norm: float


class Quantity(NamedTuple):
    """One array in float64, or what is kept of it, and torch's own errors there.

    `places` are the kept rows of a hidden state, or the kept elements of a gradient laid in one
    line; None where everything is kept.
    """

    values: np.ndarray
    places: np.ndarray | None
    torch_error: Error
    torch_bfloat16_error: Error | None = None

    def of(self, array: np.ndarray) -> np.ndarray:
        """The kept part of a whole array of the same quantity."""
        return _kept(array, self.places, self.values.ndim)


class Reference(NamedTuple):
    """Everything parity compares. Texts and token ids; forward quantities; gradients; AdamW.

    `forward` has embeddings, layer.1 ... layer.L, each over the texts' tokens laid in one line,
    and where there is a pooler pooled, logits and loss. `gradients` are under native names, and
    `steps` maps the same names to parameters before and after one AdamW step from them.
    """

    texts: list[Any]
    max_length: int
    tokens: list[list[list[int]]]
    forward: dict[str, Quantity]
    gradients: dict[str, Quantity]
    steps: dict[str, tuple[np.ndarray, np.ndarray]]
    parameters_sha256: str


def error(difference: np.ndarray) -> Error:
    """Measure a difference of any shape."""
    flat = np.asarray(difference, np.float64).ravel()
    norm = float(np.sqrt(np.sum(flat**2)))
    return Error(norm / max(1, flat.size) ** 0.5, float(np.abs(flat).max(initial=0.0)), norm)


def labels_for(count: int, num_labels: int) -> np.ndarray:
    """The made-up labels whose loss is compared: 0, 1, ..., C-1, 0, 1, ..."""
    return np.arange(count) % num_labels


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 of a checkpoint's native tensors, names included."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(checkpoint.tensors[name]).tobytes())
    return digest.hexdigest()


def make(directory: Path, checkpoint: Checkpoint, *, max_length: int = 128, sample: bool = False) -> Reference:
    """Ask transformers, on torch, about the Hugging Face checkpoint in `directory`.

    `checkpoint` is the same one as read here; from it come only the config and the classifier,
    which torch would otherwise draw at random. With `sample`, keep what a file keeps.
    """
    import torch
    from transformers import AutoTokenizer

    # Type 1 of a pair's second text lies outside the table of a model with one type.
    texts = [text for text in TEXTS if isinstance(text, str) or checkpoint.config.type_vocab_size > 1]
    batch, tokens = _encode(AutoTokenizer.from_pretrained(directory), texts, max_length)
    real = batch["attention_mask"].numpy().astype(bool)
    generator = np.random.default_rng(0)

    answers = {
        kind: _answer(directory, checkpoint, batch, real, getattr(torch, kind))
        for kind in ("float64", "float32", "bfloat16")
    }
    exact, single, half = (answers[kind] for kind in ("float64", "float32", "bfloat16"))

    kept_tokens = _kept_tokens(real.sum(axis=1)) if sample else None
    forward = {}
    for name, values in exact[0].items():
        places = kept_tokens if name == "embeddings" or name.startswith("layer.") else None
        forward[name] = _quantity(values, places, values.ndim, single[0][name], half[0][name])
    gradients, steps = {}, {}
    for name, values in exact[1].items():
        nonzero = np.flatnonzero(values)
        places = nonzero
        if sample and nonzero.size > VALUES_KEPT:
            places = np.sort(generator.choice(nonzero, VALUES_KEPT, replace=False))
        elif not sample:
            places = None
        gradients[name] = _quantity(values, places, 1, single[1][name], None)
    for name, (before, after) in _adamw(single[2], exact[1]).items():
        steps[name] = gradients[name].of(before), gradients[name].of(after)
    as_json = [list(text) if isinstance(text, tuple) else text for text in texts]
    return Reference(as_json, max_length, tokens, forward, gradients, steps, fingerprint(checkpoint))


def save(path: Path, reference: Reference) -> None:
    """Write a reference to one safetensors file."""
    arrays: dict[str, np.ndarray] = {}
    errors: dict[str, Any] = {}
    for kind in ("forward", "gradients"):
        for name, quantity in getattr(reference, kind).items():
            key = f"{kind}/{name}"
            arrays[f"{key}/values"] = quantity.values
            if quantity.places is not None:
                arrays[f"{key}/places"] = quantity.places.astype(np.int32)
            errors[key] = [quantity.torch_error, quantity.torch_bfloat16_error]
    for name, (before, after) in reference.steps.items():
        arrays[f"steps/{name}/before"], arrays[f"steps/{name}/after"] = before, after
    header = {
        "format": "bert_jax reference",
        "texts": json.dumps(reference.texts),
        "max_length": str(reference.max_length),
        "tokens": json.dumps(reference.tokens),
        "errors": json.dumps(errors),
        "parameters_sha256": reference.parameters_sha256,
    }
    write_tensors(path, arrays, header)


def load(path: Path) -> Reference:
    """Read what `save` wrote; `UserError` for anything else."""
    arrays, header, _ = read_tensors(path)
    if header.get("format") != "bert_jax reference":
        raise UserError(f"{path}: not a reference file; make one with --save-reference where torch is installed")
    kinds: dict[str, dict[str, Quantity]] = {"forward": {}, "gradients": {}}
    for key, (single, half) in json.loads(header["errors"]).items():
        kind, name = key.split("/")
        kinds[kind][name] = Quantity(
            arrays[f"{key}/values"],
            arrays.get(f"{key}/places"),
            Error(*single),
            Error(*half) if half else None,
        )
    steps = {name: (arrays[f"steps/{name}/before"], arrays[f"steps/{name}/after"]) for name in kinds["gradients"]}
    return Reference(
        json.loads(header["texts"]),
        int(header["max_length"]),
        json.loads(header["tokens"]),
        kinds["forward"],
        kinds["gradients"],
        steps,
        header["parameters_sha256"],
    )


def _encode(tokenizer: Any, texts: list[str | tuple[str, str]], max_length: int) -> tuple[Any, list[list[list[int]]]]:
    """The texts as one padded torch batch, and each one's ids and type ids without padding."""
    encoded = [
        tokenizer(*(text if isinstance(text, tuple) else (text,)), truncation=True, max_length=max_length)
        for text in texts
    ]
    tokens = [[e["input_ids"], e["token_type_ids"]] for e in encoded]
    batch = tokenizer.pad(encoded, padding=True, return_tensors="pt")
    return batch, tokens


def _answer(
    directory: Path, checkpoint: Checkpoint, batch: Any, real: np.ndarray, dtype: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Forward quantities, gradients and parameters (native names and layouts) of torch in `dtype`."""
    import torch
    from transformers import BertForSequenceClassification, BertModel

    config = checkpoint.config
    kind: Any = BertForSequenceClassification if config.add_pooling_layer else BertModel
    options: dict[str, Any] = {"add_pooling_layer": False}
    if config.add_pooling_layer:
        options = {"num_labels": len(config.labels), "problem_type": config.problem_type}
    model, info = kind.from_pretrained(directory, dtype=dtype, output_loading_info=True, **options)
    probe = {"classifier.weight", "classifier.bias"} if "classifier.weight" in info["missing_keys"] else set()
    if absent := set(info["missing_keys"]) - probe:
        raise UserError(f"{directory}: transformers misses {', '.join(sorted(absent))} in it")
    if probe:
        with torch.no_grad():
            model.classifier.weight.copy_(torch.from_numpy(checkpoint.tensors["classifier.kernel"].T.copy()))
            model.classifier.bias.copy_(torch.from_numpy(checkpoint.tensors["classifier.bias"]))
    model.eval()
    out = model(**batch, output_hidden_states=True)
    mask = torch.from_numpy(real)
    names = ["embeddings", *(f"layer.{i}" for i in range(1, config.num_hidden_layers + 1))]
    forward = {name: hidden[mask] for name, hidden in zip(names, out.hidden_states, strict=True)}
    gradients = {}
    if config.add_pooling_layer:
        forward["pooled"] = model.bert.pooler(out.hidden_states[-1])
        forward["logits"] = out.logits
        labels = torch.from_numpy(labels_for(len(real), len(config.labels)))
        forward["loss"] = torch.nn.functional.cross_entropy(out.logits, labels)
        forward["loss"].backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
    table = rows(config)

    def native(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
        out = {}
        for name, tensor in tensors.items():
            row = table[canonical(name)]
            out[row.native] = row.layout.to_native(_numpy(tensor))
        return out

    return (
        {name: _numpy(value) for name, value in forward.items()},
        native(gradients),
        native(dict(model.named_parameters())),
    )


def _numpy(tensor: Any) -> np.ndarray:
    import torch

    kept = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    return tensor.detach().to(kept).numpy()


def _adamw(
    parameters: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Float32 parameters before and after one step of torch's AdamW from the float64 gradients."""
    import torch

    leaves = {}
    for name, gradient in gradients.items():
        leaf = torch.tensor(parameters[name], dtype=torch.float32).requires_grad_()
        leaf.grad = torch.tensor(gradient, dtype=torch.float32)
        leaves[name] = leaf
    decayed = [leaf for leaf in leaves.values() if leaf.ndim > 1]
    spared = [leaf for leaf in leaves.values() if leaf.ndim == 1]
    if leaves:
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
        torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8).step()
    return {name: (np.asarray(parameters[name], np.float32), leaf.detach().numpy()) for name, leaf in leaves.items()}


def _quantity(
    exact: np.ndarray, places: np.ndarray | None, ndim: int, single: np.ndarray, half: np.ndarray | None
) -> Quantity:
    values = np.asarray(_kept(exact, places, ndim), np.float64)
    half_error = None if half is None else error(_kept(half, places, ndim) - values)
    return Quantity(values, places, error(_kept(single, places, ndim) - values), half_error)


def _kept(array: np.ndarray, places: np.ndarray | None, ndim: int) -> np.ndarray:
    if places is None:
        return array
    return array[places] if ndim == 2 else array.reshape(-1)[places]


def _kept_tokens(lengths: np.ndarray) -> np.ndarray:
    """The first, a middle and the last token of each text, as indices into all tokens."""
    kept, start = [], 0
    for length in lengths:
        kept += [start + int(place) for place in np.linspace(0, length - 1, TOKENS_KEPT)]
        start += int(length)
    return np.array(sorted(set(kept)))
