"""Prove that this project computes the same numbers for a checkpoint as the reference implementation.

The command compares token ids, embeddings, every layer, pooled output, logits, loss, gradients and one AdamW step with
transformers on torch in float64. It prints the largest errors beside torch's own errors in float32 on this processor,
which are the worst over the checkpoint and a few altered copies of it. Without torch, it reads a reference file that
was made earlier (--save-reference). The file's errors are also the worst over the instruction sets of the processor
that made it.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

from bert_jax import extras
from bert_jax.checkpoint import Checkpoint, with_classifier
from bert_jax.command import PRODUCTS, Parser, run
from bert_jax.errors import UserError
from bert_jax.files import new_directory, replacing
from bert_jax.tokenizer import check_max_length

from . import conversion, huggingface, reference, torch_answers
from .comparison import Finding, compare
from .conversion import Conversion
from .reference import Reference

MISSED = """\
What this means: the numbers named are further from float64 than torch's own float32 numbers are, by more than
rounding explains. Training and labels rarely change by it, but this processor or these versions compute
something that was not met before. What to do: run `python -m convert.parity` with torch installed, which compares
on this processor; if that misses too, report its table with the output of
`python -c "import jax; jax.print_environment_info()"`."""

PROBE_LABELS = tuple(str(i) for i in range(16))
"""Labels of the classifier that is added to an encoder alone: enough logits for a meaningful largest error."""


EPILOG = """\
examples:
  python -m convert.parity runs/minilm
  python -m convert.parity runs/minilm \\
    --reference tests/golden/minilm.safetensors"""


def main(argv: list[str] | None = None) -> int:
    """Run the comparison and print it; return 0 if every bound holds, 1 if not."""
    extras.check("convert", "python -m convert.parity")
    parser = Parser(
        prog="python -m convert.parity",
        description=__doc__,
        epilog=EPILOG,
        exit_1="a bound is missed; the table says which",
    )
    compared = parser.add_argument_group("what is compared")
    compared.add_argument("source", metavar="SOURCE", help="Hugging Face directory, hub id, native directory, or run")
    compared.add_argument("--revision", metavar="R", help="branch, tag or commit of a hub id")
    compared.add_argument("--max-length", type=int, metavar="N", help="cut the texts to N tokens (default: 128)")
    compared.add_argument("--precision", **PRODUCTS["--precision"])
    reference_group = parser.add_argument_group("with what")
    reference_group.add_argument("--reference", type=Path, metavar="FILE", help="compare with this file, without torch")
    reference_group.add_argument(
        "--save-reference", type=Path, metavar="FILE", help="write what torch says, with each instruction set, here"
    )
    args = parser.parse_args(argv)
    if args.reference and args.save_reference:
        raise UserError("give --reference or --save-reference, not both")
    if args.reference and args.max_length is not None:
        raise UserError("--max-length is that of the reference file; leave it out")
    length = 128 if args.max_length is None else args.max_length
    with_torch = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if not args.reference and not with_torch:
        raise UserError("torch and transformers are not installed: pip install '.[parity]', or give --reference FILE")
    source = conversion.read(args.source, args.revision)
    probed = with_probe(source.checkpoint)
    if args.reference:
        against = reference.load(args.reference)
        if against.parameters_sha256 != reference.fingerprint(probed):
            raise UserError(f"{args.reference}: made from other weights than those in {args.source}")
    else:
        check_max_length(length, source.checkpoint.config)
        against = ask_torch(source, max_length=length, sample=False)
        if args.save_reference:
            save(args.save_reference, ask_torch(source, max_length=length, sample=True, sweep=True))
    subject = args.source if args.precision == "highest" else f"{args.source}, precision {args.precision}"
    return report(subject, list(compare(probed, source.tokenizer, against, args.precision)))


def with_probe(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with a classifier, so that there are logits: its own, or a fixed random one.

    A checkpoint without a pooler is returned as it is, and has no logits.
    """
    config = checkpoint.config
    if config.task is not None or not config.add_pooling_layer:
        return checkpoint
    return with_classifier(checkpoint, PROBE_LABELS, seed=0)[0]


def ask_torch(read: Conversion, *, max_length: int, sample: bool, sweep: bool = False) -> Reference:
    """Return a reference that is made with torch now.

    A native checkpoint is exported first, so that transformers can read it. With `sample`, only the part of each array
    that a reference file keeps is in the reference. With `sweep`, torch's errors are the worst over the instruction
    sets of this processor.
    """
    probed = with_probe(read.checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        directory = read.location.directory
        if conversion.is_native(directory):
            directory = Path(scratch) / "hf"
            with new_directory(directory) as exported:
                huggingface.write(exported, read.checkpoint)
        ask = torch_answers.sweep if sweep else torch_answers.make
        return ask(directory, probed, max_length=max_length, sample=sample)


def save(path: Path, made: Reference) -> None:
    """Write a reference file, whole or not at all; raise `UserError` if it cannot be written."""
    try:
        with replacing(path) as place:
            reference.save(place, made)
    except OSError as failure:
        raise UserError(f"{path}: cannot write there: {failure.strerror}") from None


def report(source: str, findings: list[Finding]) -> int:
    """Print the table of findings; return 0 if every bound holds, 1 if not."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{source}: largest errors against float64")
    for column in ("quantity", "ours", "torch's own", "ratio", "rms ratio", "bound", ""):
        table.add_column(column, justify="left" if column in ("quantity", "bound") else "right")
    for finding in findings:
        ours, torch = finding.ours, finding.torch
        table.add_row(
            finding.name,
            f"{ours.largest:.2e}",
            f"{torch.largest:.2e}",
            f"{ours.largest / torch.largest:.2f}" if torch.largest else "-",
            f"{ours.rms / torch.rms:.2f}" if torch.rms else "-",
            finding.bound,
            "ok" if finding.holds else "MISSED",
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    missed = [finding.name for finding in findings if not finding.holds]
    print(
        f"parity: {len(missed)} of {len(findings)} bounds missed: {', '.join(missed)}"
        if missed
        else "parity: all bounds hold"
    )
    if missed:
        print(MISSED)
    return 1 if missed else 0


if __name__ == "__main__":
    run(main)
