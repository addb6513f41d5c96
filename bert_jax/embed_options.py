"""The options of `python -m bert_jax --embed`, and the file of vectors that it writes. Nothing here needs JAX."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from bert_jax.config import is_whole
from bert_jax.errors import UserError
from bert_jax.files import new_path
from bert_jax.sentence_files import POOLINGS

_NOT_WRITTEN = (".csv", ".tsv", ".parquet", ".npz", ".safetensors", ".pt", ".gz", ".bz2", ".xz", ".zst", ".zip")
"""Endings of files in formats that embeddings are not written in."""

_ONLY_LABELS = ("pairs", "pair_column", "logits", "long_texts")
_ONLY_EMBED = ("prompt_name", "prompt", "pooling", "normalize")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of embeddings to the command's parser."""
    group = parser.add_argument_group("embeddings")
    group.add_argument(
        "--embed", action="store_true", help="write one vector for each text, not labels; --output may be NAME.npy"
    )
    group.add_argument("--prompt-name", metavar="NAME", help="put the model's prompt of this name before each text")
    group.add_argument("--prompt", metavar="TEXT", help="put this text before each text")
    group.add_argument(
        "--pooling", choices=POOLINGS, help="how to pool the tokens of a model without modules.json (default: mean)"
    )
    group.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="scale vectors to length 1, or do not (default: as modules.json says)",
    )


def check_options(args: Any) -> None:
    """Raise `UserError` for options that do not go together, and for an output of another kind."""
    names, unset = (_ONLY_LABELS, (None, False)) if args.embed else (_ONLY_EMBED, (None,))
    for name in names:
        if (value := getattr(args, name)) not in unset:
            option = f"--{'no-' * (value is False)}{name.replace('_', '-')}"
            raise UserError(
                f"{option} is for labels; --embed does without" if args.embed else f"{option} needs --embed"
            )
    ending = Path(args.output).suffix.lower() if args.output else ""
    if args.embed and ending in _NOT_WRITTEN:
        raise UserError(f"{args.output}: {ending} is not written with --embed; choose NAME.npy or NAME.jsonl")
    if not args.embed and args.output and is_vectors(args.output):
        raise UserError(f"{args.output}: .npy is written with --embed; choose NAME.jsonl")
    if args.prompt is not None and not is_whole(args.prompt):
        raise UserError(f"--prompt {args.prompt!a}: not UTF-8")


def is_vectors(output: str) -> bool:
    """Return whether a file of this name is written as one array; other files of embeddings have JSON lines."""
    return output.lower().endswith(".npy")


@contextmanager
def writing_vectors(path: Path, size: int, *, overwrite: bool) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that adds a vector of `size` float32 numbers to an .npy file of shape (N, size).

    The file replaces `path` if the block ends without an error. Memory use does not grow with N. Raises `UserError` as
    `files.new_path` does.
    """
    with new_path(path, overwrite=overwrite) as place, open(place, "wb") as file:
        count = 0

        def write_header() -> None:
            # numpy pads the header so that a larger first axis leaves its length as it is.
            npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, size)})

        def add(vector: np.ndarray) -> None:
            nonlocal count
            file.write(np.asarray(vector, "<f4").tobytes())
            count += 1

        write_header()
        yield add
        file.seek(0)
        write_header()
