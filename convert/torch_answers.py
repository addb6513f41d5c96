"""Compute a checkpoint's reference with transformers on torch, in float64, and torch's own float32 errors.

This is the only module of `convert` that needs torch. torch's float32 errors depend on the instruction set that its
kernels use, so `sweep` returns the worst errors over all instruction sets of a processor.
"""

import copy
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.checkpoint import Checkpoint
from bert_jax.errors import UserError

from .names import canonical, rows
from .reference import (
    LEARNING_RATE,
    TOKENS_KEPT,
    VALUES_KEPT,
    Quantity,
    Reference,
    error,
    fingerprint,
    kept,
    labels_for,
    worst,
)
from .texts import TEXTS, added_texts

INSTRUCTION_SETS = "default", "avx2", "avx512"
"""Instruction sets that torch has kernels for on x86-64, as ATEN_CPU_CAPABILITY names them.

"default" is the same on any processor.
"""

COPIES, COPIES_OF_SMALL, SMALL = 3, 15, 1_000_000
"""Number of altered copies that torch computes beside a checkpoint.

The number is `COPIES_OF_SMALL` for a checkpoint with fewer than `SMALL` parameters, and `COPIES` for any other. An
error is one random sample of roundings. If few texts or a narrow network decide the error, the next sample can be half
as large again, and for the gradient of one parameter up to seven times as large.
"""


def instruction_sets() -> list[str]:
    """Return the instruction sets that torch can use on this processor; the last one is what it uses by default."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability().lower()
    known = capability in INSTRUCTION_SETS  # processors other than x86-64 have other names
    return [*INSTRUCTION_SETS[: INSTRUCTION_SETS.index(capability) if known else 0], capability]


def make(
    directory: Path, checkpoint: Checkpoint, *, max_length: int = 128, sample: bool = False, half: bool = True
) -> Reference:
    """Return the reference that transformers on torch computes for the Hugging Face checkpoint in `directory`.

    `checkpoint` is the same checkpoint as this project reads it. It provides only the config, the fingerprint, the
    number of parameters, and the classifier if the directory has none, as torch would initialize one at random. With
    `sample`, only the part of each array that a file keeps is in the reference. Without `half`, bfloat16 is left out.
    Errors are torch's worst over the checkpoint and altered copies of it.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    added = sorted(tokenizer.get_added_vocab())
    texts: list[str | tuple[str, str]] = [*TEXTS, *added_texts(added)]
    # A pair's second text has token type 1, for which a model with one token type has no embedding.
    if checkpoint.config.type_vocab_size < 2:
        texts = [text for text in texts if isinstance(text, str)]
    # An added token may have no embedding; both implementations refuse a text with such a token.
    texts = [text for text in texts if max(_ids(tokenizer, text)) < checkpoint.config.vocab_size]
    batch, tokens = _encode(tokenizer, texts, max_length)
    as_json = [list(text) if isinstance(text, tuple) else text for text in texts]
    blank = Reference(as_json, max_length, tokens, {}, {}, {}, fingerprint(checkpoint), {})
    model = _load(directory, checkpoint)
    reference = _asked(blank, model, checkpoint, batch, sample, half)
    generator = np.random.default_rng(0)
    small = sum(tensor.size for tensor in checkpoint.tensors.values()) < SMALL
    copies = COPIES_OF_SMALL if small else COPIES
    for _ in range(copies):
        reference = worst(reference, _asked(blank, _altered(model, generator), checkpoint, batch, sample, half))
    return reference._replace(made_with=reference.made_with | {"altered_copies": copies})


def _asked(blank: Reference, model: Any, checkpoint: Checkpoint, batch: Any, sample: bool, half: bool) -> Reference:
    """Return `blank` with all quantities of a float32 model: their values in float64, and torch's errors in float32.

    With `half`, the forward quantities also have torch's errors in bfloat16.
    """
    import torch
    import transformers

    is_token = batch["attention_mask"].numpy().astype(bool)
    answers = {
        kind: _answer(model, checkpoint, batch, is_token, getattr(torch, kind))
        for kind in ("float64", "float32", *(("bfloat16",) if half else ()))
    }
    exact, single = answers["float64"], answers["float32"]
    half_forward = answers["bfloat16"][0] if half else {}

    kept_tokens = _kept_tokens(is_token.sum(axis=1)) if sample else None
    forward = {}
    for name, values in exact[0].items():
        places = kept_tokens if name == "embeddings" or name.startswith("layer.") else None
        forward[name] = _quantity(values, places, values.ndim, single[0][name], half_forward.get(name))
    generator = np.random.default_rng(0)
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
    made_with = {
        "instruction_sets": [instruction_sets()[-1]],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return blank._replace(forward=forward, gradients=gradients, steps=steps, made_with=made_with)


def sweep(directory: Path, checkpoint: Checkpoint, *, max_length: int = 128, sample: bool = False) -> Reference:
    """Return the reference that `make` returns, with the worst float32 errors over this processor's instruction sets.

    Each set other than the default runs in a new process, as torch chooses its set once per process. A script must
    therefore call this function under `if __name__ == "__main__"`.
    """
    options: dict[str, Any] = {"max_length": max_length, "sample": sample}
    reference = make(directory, checkpoint, **options)
    for name in instruction_sets()[:-1]:
        with (
            _environment("ATEN_CPU_CAPABILITY", name),
            ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        ):
            on_set = pool.submit(make, directory, checkpoint, **options, half=False).result()
        reference = worst(reference, on_set)
    return reference


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _ids(tokenizer: Any, text: str | tuple[str, str]) -> list[int]:
    return tokenizer(*(text if isinstance(text, tuple) else (text,)))["input_ids"]


def _encode(tokenizer: Any, texts: list[str | tuple[str, str]], max_length: int) -> tuple[Any, list[list[list[int]]]]:
    """Return the texts as one padded torch batch, and the token ids and token type ids of each text without padding."""
    encoded = [
        tokenizer(*(text if isinstance(text, tuple) else (text,)), truncation=True, max_length=max_length)
        for text in texts
    ]
    # Not every tokenizer returns token types; without them, the model uses type 0.
    tokens = [[e["input_ids"], e.get("token_type_ids") or [0] * len(e["input_ids"])] for e in encoded]
    batch = tokenizer.pad(encoded, padding=True, return_tensors="pt")
    return batch, tokens


def _load(directory: Path, checkpoint: Checkpoint) -> Any:
    """Return transformers' model in float32, with the probe's classifier if the directory has none.

    Raises `UserError` if transformers finds any other parameter missing.
    """
    import torch
    from transformers import BertForSequenceClassification, BertModel

    config = checkpoint.config
    kind: Any = BertForSequenceClassification if config.add_pooling_layer else BertModel
    options: dict[str, Any] = {"add_pooling_layer": False}
    if config.add_pooling_layer:
        options = {"num_labels": len(config.labels), "problem_type": config.problem_type}
    model, info = kind.from_pretrained(directory, dtype=torch.float32, output_loading_info=True, **options)
    probe = {"classifier.weight", "classifier.bias"} if "classifier.weight" in info["missing_keys"] else set()
    if absent := set(info["missing_keys"]) - probe:
        raise UserError(f"{directory}: transformers misses {', '.join(sorted(absent))} in it")
    if probe:
        with torch.no_grad():
            model.classifier.weight.copy_(torch.from_numpy(checkpoint.tensors["classifier.kernel"].T.copy()))
            model.classifier.bias.copy_(torch.from_numpy(checkpoint.tensors["classifier.bias"]))
    return model.eval()


def _altered(model: Any, generator: np.random.Generator) -> Any:
    """Return a copy whose parameters are up to 1% larger or smaller: nearly the same function, with other roundings."""
    import torch

    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            factors = 1 + 0.01 * generator.uniform(-1, 1, tuple(parameter.shape))
            parameter.mul_(torch.from_numpy(factors.astype(np.float32)))
    return model


def _answer(
    model: Any, checkpoint: Checkpoint, batch: Any, is_token: np.ndarray, dtype: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the forward quantities, gradients and parameters of torch in `dtype`.

    Gradients and parameters have native names and layouts. `is_token` is true for tokens and false for padding.
    """
    import torch

    config = checkpoint.config
    model = copy.deepcopy(model).to(dtype)
    if dtype == torch.bfloat16 and "ATEN_CPU_CAPABILITY" in os.environ:
        # On a processor with AMX, torch's fused bfloat16 attention fails with a lesser instruction set.
        model.set_attn_implementation("eager")
    out = model(**batch, output_hidden_states=True)
    mask = torch.from_numpy(is_token)
    names = ["embeddings", *(f"layer.{i}" for i in range(1, config.num_hidden_layers + 1))]
    forward = {name: hidden[mask] for name, hidden in zip(names, out.hidden_states, strict=True)}
    gradients = {}
    if config.add_pooling_layer:
        forward["pooled"] = model.bert.pooler(out.hidden_states[-1])
        forward["logits"] = out.logits
        labels = torch.from_numpy(labels_for(len(is_token), len(config.labels)))
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

    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    return tensor.detach().to(dtype).numpy()


def _adamw(
    parameters: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the parameters in float32, and in float64 after one step of torch's AdamW from the float64 gradients."""
    import torch

    leaves = {}
    for name, gradient in gradients.items():
        leaf = torch.tensor(np.asarray(parameters[name], np.float32), dtype=torch.float64).requires_grad_()
        leaf.grad = torch.tensor(gradient, dtype=torch.float64)
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
    values = np.asarray(kept(exact, places, ndim), np.float64)
    half_error = None if half is None else error(kept(half, places, ndim) - values)
    return Quantity(values, places, error(kept(single, places, ndim) - values), half_error)


def _kept_tokens(lengths: np.ndarray) -> np.ndarray:
    """Return `TOKENS_KEPT` evenly spaced tokens of each text, first and last included, as indices into all tokens."""
    indices, start = [], 0
    for length in lengths:
        indices += [start + int(place) for place in np.linspace(0, length - 1, TOKENS_KEPT)]
        start += int(length)
    return np.array(sorted(set(indices)))
