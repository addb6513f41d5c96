"""Ask transformers on torch what a checkpoint computes, and how far torch itself is from it.

The only module here that needs torch. Its float32 errors depend on the instruction set it takes kernels for, so
`sweep` asks for the worst over all that a processor has.
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
"""Those that torch has kernels for on x86-64, by their names in ATEN_CPU_CAPABILITY; "default" is the same anywhere."""

COPIES, COPIES_OF_SMALL, SMALL = 3, 15, 1_000_000
"""How many altered copies of a checkpoint torch is asked about beside it, and of one with so few parameters.

An error is one draw of roundings. Where few texts or a narrow network decide it, the next draw is half as large again,
and in one parameter's gradient up to seven times as large."""


def instruction_sets() -> list[str]:
    """Those that this process may ask torch for, ending with the one that it takes by itself."""
    import torch

    taken = torch.backends.cpu.get_cpu_capability().lower()
    known = taken in INSTRUCTION_SETS  # other processors have names of their own
    return [*INSTRUCTION_SETS[: INSTRUCTION_SETS.index(taken) if known else 0], taken]


def make(
    directory: Path, checkpoint: Checkpoint, *, max_length: int = 128, sample: bool = False, half: bool = True
) -> Reference:
    """Ask transformers, on torch, about the Hugging Face checkpoint in `directory`.

    `checkpoint` is the same one as read here; from it come only the config and the classifier,
    which torch would otherwise draw at random. With `sample`, keep what a file keeps; without `half`, leave
    bfloat16 out. Errors are torch's worst over the checkpoint and altered copies of it.
    """
    from transformers import AutoTokenizer

    # Type 1 of a pair's second text lies outside the table of a model with one type.
    tokenizer = AutoTokenizer.from_pretrained(directory)
    added = sorted(tokenizer.get_added_vocab())
    texts: list[str | tuple[str, str]] = [*TEXTS, *added_texts(added)]
    if checkpoint.config.type_vocab_size < 2:
        texts = [text for text in texts if isinstance(text, str)]
    # Added tokens may lie outside the embeddings, where both refuse a text that holds one.
    texts = [text for text in texts if max(_ids(tokenizer, text)) < checkpoint.config.vocab_size]
    batch, tokens = _encode(tokenizer, texts, max_length)
    as_json = [list(text) if isinstance(text, tuple) else text for text in texts]
    made = Reference(as_json, max_length, tokens, {}, {}, {}, fingerprint(checkpoint), {})
    model = _load(directory, checkpoint)
    first = _asked(made, model, checkpoint, batch, sample, half)
    generator = np.random.default_rng(0)
    small = sum(tensor.size for tensor in checkpoint.tensors.values()) < SMALL
    copies = COPIES_OF_SMALL if small else COPIES
    for _ in range(copies):
        first = worst(first, _asked(made, _altered(model, generator), checkpoint, batch, sample, half))
    return first._replace(made_with=first.made_with | {"altered_copies": copies})


def _asked(made: Reference, model: Any, checkpoint: Checkpoint, batch: Any, sample: bool, half: bool) -> Reference:
    """`made` with everything that a model in float32 says: itself, in float64 and in bfloat16."""
    import torch
    import transformers

    real = batch["attention_mask"].numpy().astype(bool)
    answers = {
        kind: _answer(model, checkpoint, batch, real, getattr(torch, kind))
        for kind in ("float64", "float32", *(("bfloat16",) if half else ()))
    }
    exact, single = answers["float64"], answers["float32"]
    halved = answers["bfloat16"][0] if half else {}

    kept_tokens = _kept_tokens(real.sum(axis=1)) if sample else None
    forward = {}
    for name, values in exact[0].items():
        places = kept_tokens if name == "embeddings" or name.startswith("layer.") else None
        forward[name] = _quantity(values, places, values.ndim, single[0][name], halved.get(name))
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
    return made._replace(forward=forward, gradients=gradients, steps=steps, made_with=made_with)


def sweep(directory: Path, checkpoint: Checkpoint, *, max_length: int = 128, sample: bool = False) -> Reference:
    """`make`, with torch's worst float32 errors over the instruction sets that this processor has, too.

    Each of the others is asked for in a process of its own, as torch chooses once; so from a script, this is called
    under `if __name__ == "__main__"`.
    """
    how: dict[str, Any] = {"max_length": max_length, "sample": sample}
    first = make(directory, checkpoint, **how)
    for name in instruction_sets()[:-1]:
        with (
            _environment("ATEN_CPU_CAPABILITY", name),
            ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        ):
            found = pool.submit(make, directory, checkpoint, **how, half=False).result()
        first = worst(first, found)
    return first


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
    """The texts as one padded torch batch, and each one's ids and type ids without padding."""
    encoded = [
        tokenizer(*(text if isinstance(text, tuple) else (text,)), truncation=True, max_length=max_length)
        for text in texts
    ]
    # Not every tokenizer gives types; the model then takes them for 0.
    tokens = [[e["input_ids"], e.get("token_type_ids") or [0] * len(e["input_ids"])] for e in encoded]
    batch = tokenizer.pad(encoded, padding=True, return_tensors="pt")
    return batch, tokens


def _load(directory: Path, checkpoint: Checkpoint) -> Any:
    """transformers' model in float32, with the probe's classifier where the checkpoint has none."""
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
    """A copy whose parameters are each up to 1% larger or smaller: nearly the same function, rounded anew."""
    import torch

    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            factors = 1 + 0.01 * generator.uniform(-1, 1, tuple(parameter.shape))
            parameter.mul_(torch.from_numpy(factors.astype(np.float32)))
    return model


def _answer(
    model: Any, checkpoint: Checkpoint, batch: Any, real: np.ndarray, dtype: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Forward quantities, gradients and parameters (native names and layouts) of torch in `dtype`."""
    import torch

    config = checkpoint.config
    model = copy.deepcopy(model).to(dtype)
    if dtype == torch.bfloat16 and "ATEN_CPU_CAPABILITY" in os.environ:
        # torch's fused attention in bfloat16 fails where that is less than a processor with AMX has.
        model.set_attn_implementation("eager")
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
    """Float32 parameters, and these in float64 after one step of torch's AdamW from the float64 gradients."""
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
    """The first, a middle and the last token of each text, as indices into all tokens."""
    kept, start = [], 0
    for length in lengths:
        kept += [start + int(place) for place in np.linspace(0, length - 1, TOKENS_KEPT)]
        start += int(length)
    return np.array(sorted(set(kept)))
