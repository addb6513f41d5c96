"""Convert a checkpoint from Hugging Face (a directory or a hub id) to native, or from native to Hugging Face.

SOURCE may also be the directory of a training run. Then its best model is converted, and in the Hugging Face layout
OUT also has a model card with what the run recorded.
"""

from pathlib import Path

import ml_dtypes
import numpy as np

from bert_jax import checkpoint, extras
from bert_jax.command import Parser, label_names, printable, run
from bert_jax.errors import UserError
from bert_jax.files import check_new_directory, new_directory, write_json

from . import card, conversion, export, huggingface, push, runs

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

EPILOG = """\
examples:
  python -m convert sentence-transformers/all-MiniLM-L6-v2 runs/minilm
  python -m convert runs/reviews handed-on --to hf --push-to ORG/NAME"""


def _parser() -> Parser:
    parser = Parser(prog="python -m convert", description=__doc__, epilog=EPILOG)
    source_group = parser.add_argument_group("what is read")
    source_group.add_argument(
        "source", metavar="SOURCE", help="Hugging Face directory, hub id, native directory, or run directory"
    )
    source_group.add_argument("--revision", metavar="R", help="branch, tag or commit of a hub id")
    source_group.add_argument(
        "--encoder-only", action="store_true", help="leave the head out, of whatever task, and take the encoder"
    )
    source_group.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out a tensor that the model does without; * stands for any characters; may be repeated",
    )
    output_group = parser.add_argument_group("what is written")
    output_group.add_argument("out", metavar="OUT", type=Path, help="directory to make")
    output_group.add_argument("--to", choices=("native", "hf"), default="native", help="layout of OUT")
    output_group.add_argument("--labels", type=label_names, metavar="A,B", help="label names in order of id")
    output_group.add_argument("--dtype", choices=tuple(DTYPES), help="store floats so (default: as they are in SOURCE)")
    output_group.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    hub_group = parser.add_argument_group("to the hub")
    hub_group.add_argument(
        "--push-to",
        metavar="ORG/NAME",
        help="upload OUT to this repository, which is made where there is none (with --to hf; the token is that of "
        "`hf auth login` or HF_TOKEN)",
    )
    hub_group.add_argument("--private", action="store_true", help="make the repository a private one")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Read and check the source, then write `OUT` whole or not at all; with `--push-to`, upload it to the hub."""
    extras.check("convert", "python -m convert")
    args = _parser().parse_args(argv)
    if args.push_to is not None:
        if args.to != "hf":
            raise UserError("--push-to takes the Hugging Face layout; add --to hf")
        push.check(args.push_to)
    elif args.private:
        raise UserError("--private is for --push-to")

    if args.encoder_only and args.labels:
        raise UserError("--labels names a classifier's labels, which --encoder-only leaves out")

    check_new_directory(args.out, overwrite=args.overwrite)
    from_run = runs.find(args.source)
    source = conversion.read(
        str(from_run.best) if from_run else args.source,
        args.revision,
        args.labels or (),
        ignore=args.ignore,
        encoder_only=args.encoder_only,
    )
    if args.encoder_only:
        from_run = None  # the run's scores are the classifier's, not the encoder's
    model = conversion.cast(source.checkpoint, DTYPES[args.dtype]) if args.dtype else source.checkpoint
    if args.to == "hf":
        model = export.completed(model, source.tokenizer, trained=from_run is not None)
    with new_directory(args.out, overwrite=args.overwrite) as scratch:
        (checkpoint if args.to == "native" else huggingface).write(scratch, model)
        write_json(scratch / "conversion.json", conversion.record(source, args.to, args.dtype))
        if from_run and args.to == "hf":
            text = card.make(from_run, model, args.push_to or args.out.resolve().name)
            (scratch / "README.md").write_text(text, encoding="utf-8")
    if from_run and not from_run.finished:
        print(printable(f"run      {args.source} is not finished; this is its best model so far"))
    print(conversion.describe(source))
    print(f"wrote {args.out} ({args.to})")
    if args.push_to is not None:
        pushed = push.push(args.out, args.push_to, private=args.private)
        print(f"pushed {pushed.url} at {pushed.commit}")


if __name__ == "__main__":
    run(main)
