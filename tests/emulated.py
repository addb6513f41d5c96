"""Parity in a process that an emulator runs: `qemu-x86_64 -cpu max python -m tests.emulated NAME ...`.

Golden checkpoints by name, whole; "minilm" on its first texts, forwards only, as emulation is slow. Prints a line
of JSON a comparison; a test judges.
"""

import json
import sys
from pathlib import Path

from bert_jax.command import MINILM
from convert import comparison, conversion, parity, reference

GOLDEN = Path(__file__).parent / "golden"
FEW = 4
"""Texts of MiniLM."""


def few(against: reference.Reference, count: int) -> reference.Reference:
    """A reference of its first texts alone: embeddings and layers, whose rows are the tokens of the texts in turn."""
    tokens = sum(len(ids) for ids, _ in against.tokens[:count])
    forward = {}
    for name, quantity in against.forward.items():
        if quantity.places is not None:
            here = quantity.places < tokens
            forward[name] = quantity._replace(values=quantity.values[here], places=quantity.places[here])
    return against._replace(
        texts=against.texts[:count], tokens=against.tokens[:count], forward=forward, gradients={}, steps={}
    )


def main(names: list[str]) -> None:
    """Compare each."""
    for name in names:
        minilm = name == "minilm"
        read = conversion.read(MINILM if minilm else str(GOLDEN / "odd" / name))
        file = GOLDEN / "minilm.safetensors" if minilm else GOLDEN / "odd" / name / "reference.safetensors"
        against = reference.load(file)
        for finding in comparison.compare(
            parity.with_probe(read.checkpoint), read.tokenizer, few(against, FEW) if minilm else against
        ):
            print(json.dumps([name, finding.name, bool(finding.holds), finding.ours, finding.torch]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
