"""References: what a checkpoint should compute (torch's values in float64), and torch's own float32 errors.

The exact values are those of transformers on torch in float64. The distance of torch in float32 (and bfloat16) from
them decides how large an implementation's error may be. A reference is made live if torch is installed
(`convert.torch_answers`), or read from a file made earlier. A file holds a sample of each hidden state, gradient and
parameter.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.checkpoint import Checkpoint
from bert_jax.errors import UserError
from bert_jax.tensors import read_tensors, write_tensors

LEARNING_RATE = 5e-5
"""Learning rate of the one AdamW step."""

FORMAT = "bert_jax reference 3"
"""Format of a reference file.

Parameters after a step are float64, and errors are torch's worst over instruction sets and altered copies.
"""

TOKENS_KEPT, VALUES_KEPT = 2, 64
"""Numbers of tokens per text whose hidden states a file keeps, and of values that it keeps of a gradient."""


class Error(NamedTuple):
    """Size of a difference: root mean square, largest absolute element, 2-norm."""

    rms: float
    largest: float
    norm: float


class Quantity(NamedTuple):
    """One array in float64, or the kept part of it, and torch's own errors in that part.

    `places` are the indices of the kept rows of a hidden state, or of the kept elements of a flattened gradient. It is
    None if the whole array is kept.
    """

    values: np.ndarray
    places: np.ndarray | None
    torch_error: Error
    torch_bfloat16_error: Error | None = None

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return the kept part of a whole array of the same quantity."""
        return kept(array, self.places, self.values.ndim)


class Reference(NamedTuple):
    """Everything that parity compares: texts and token ids, forward quantities, gradients, and one AdamW step.

    `texts` are strings, or lists of two strings for pairs. `tokens` holds the token ids and token type ids of each
    text, without padding. `forward` has `embeddings` and `layer.1` ... `layer.L`, each with one row per token of all
    texts in order. With a pooler, it also has `pooled`, `logits` and `loss`. `gradients` has native names. `steps` maps
    the same names to the parameters before (float32) and after (float64) one AdamW step from these gradients.
    `made_with` holds the versions, the instruction sets of the processor and the number of altered copies of the
    checkpoint with which torch's errors were made.
    """

    texts: list[Any]
    max_length: int
    tokens: list[list[list[int]]]
    forward: dict[str, Quantity]
    gradients: dict[str, Quantity]
    steps: dict[str, tuple[np.ndarray, np.ndarray]]
    parameters_sha256: str
    made_with: dict[str, Any]


def error(difference: np.ndarray) -> Error:
    """Return the size of a difference of any shape."""
    flat = np.asarray(difference, np.float64).ravel()
    norm = float(np.sqrt(np.sum(flat**2)))
    return Error(norm / max(1, flat.size) ** 0.5, float(np.abs(flat).max(initial=0.0)), norm)


def labels_for(count: int, num_labels: int) -> np.ndarray:
    """Return the made-up labels for the loss that is compared: 0, 1, ..., C-1, 0, 1, ..."""
    return np.arange(count) % num_labels


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of a checkpoint's native tensors and their names."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(checkpoint.tensors[name]).tobytes())
    return digest.hexdigest()


def worst(one: Reference, other: Reference) -> Reference:
    """Return `one`, with the larger of the two references' float32 and bfloat16 errors for each array.

    An error that is not in both references stays that of `one`.
    """

    def larger(first: Error | None, second: Error | None) -> Error | None:
        return Error(*map(max, zip(first, second, strict=True))) if first and second else first

    def merged(first: dict[str, Quantity], second: dict[str, Quantity]) -> dict[str, Quantity]:
        return {
            name: quantity._replace(
                torch_error=larger(quantity.torch_error, second[name].torch_error),
                torch_bfloat16_error=larger(quantity.torch_bfloat16_error, second[name].torch_bfloat16_error),
            )
            for name, quantity in first.items()
        }

    instruction_sets = dict.fromkeys([*one.made_with["instruction_sets"], *other.made_with["instruction_sets"]])
    return one._replace(
        forward=merged(one.forward, other.forward),
        gradients=merged(one.gradients, other.gradients),
        made_with=one.made_with | {"instruction_sets": list(instruction_sets)},
    )


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
        "format": FORMAT,
        "texts": json.dumps(reference.texts),
        "max_length": str(reference.max_length),
        "tokens": json.dumps(reference.tokens),
        "errors": json.dumps(errors),
        "made_with": json.dumps(reference.made_with),
        "parameters_sha256": reference.parameters_sha256,
    }
    write_tensors(path, arrays, header)


def load(path: Path) -> Reference:
    """Read a file that `save` wrote; raise `UserError` for any other file."""
    arrays, header, _ = read_tensors(path)
    if header.get("format") != FORMAT:
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
        json.loads(header["made_with"]),
    )


def kept(array: np.ndarray, places: np.ndarray | None, ndim: int) -> np.ndarray:
    """Return the part of an array at `places`: rows if `ndim` is 2, otherwise elements of the flattened array.

    If `places` is None, the part is the whole array.
    """
    if places is None:
        return array
    return array[places] if ndim == 2 else array.reshape(-1)[places]
