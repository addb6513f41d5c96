"""Convert a checkpoint: Hugging Face directory or hub id to native, native to Hugging Face."""

from pathlib import Path

import ml_dtypes
import numpy as np

from bert_jax import checkpoint
from bert_jax.command import Parser, run
from bert_jax.files import check_new_directory, new_directory, write_json

from . import conversion, huggingface

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def main(argv: list[str] | None = None) -> None:
    """Read, check, then write `OUT` whole or not at all."""
    parser = Parser(prog="python -m convert", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="Hugging Face directory, hub id, or native directory")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to make")
    parser.add_argument("--to", choices=("native", "hf"), default="native", help="layout of OUT")
    parser.add_argument("--labels", type=huggingface.label_names, metavar="A,B", help="label names in order of id")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="store floats so (default: as they are in SOURCE)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a hub id")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    args = parser.parse_args(argv)

    check_new_directory(args.out, overwrite=args.overwrite)
    read = conversion.read(args.source, args.revision, args.labels or ())
    found = conversion.cast(read.checkpoint, DTYPES[args.dtype]) if args.dtype else read.checkpoint
    with new_directory(args.out, overwrite=args.overwrite) as scratch:
        (checkpoint if args.to == "native" else huggingface).write(scratch, found)
        write_json(scratch / "conversion.json", conversion.record(read, args.to, args.dtype))
    print(conversion.describe(read))
    print(f"wrote {args.out} ({args.to})")


if __name__ == "__main__":
    run(main)
