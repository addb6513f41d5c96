"""Label texts from the command line: one JSON object a line, as many as texts, in their order."""

import functools
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from bert_jax.checkpoint import read_classifier
from bert_jax.command import PRODUCTS, Parser, run
from bert_jax.config import is_whole
from bert_jax.errors import UserError
from bert_jax.files import new_file
from bert_jax.tokenizer import LONG_TEXTS, check_max_length


def main(argv: list[str] | None = None) -> None:
    """Check everything that can be checked without JAX, then predict."""
    parser = Parser(
        prog="python -m bert_jax",
        description=__doc__,
        epilog="""examples:
  python -m bert_jax --model runs/demo/best "one text" "another text"
  python -m bert_jax --model runs/demo/best --input texts.txt --output out.jsonl
  python -m bert_jax --model runs/pairs/best --pairs "one text" "its pair\"""",
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to label; without any, lines of a file")
    parser.add_argument("--model", required=True, metavar="DIR", help="a fine-tuned native checkpoint")
    parser.add_argument("--input", metavar="FILE", help="file with one text a line, UTF-8 (default: standard input)")
    parser.add_argument(
        "--output", metavar="FILE", help="file to write, whole or not at all (default: standard output)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    parser.add_argument("--logits", action="store_true", help="add the raw logits, in order of label id")
    parser.add_argument(
        "--pairs", action="store_true", help="texts are pairs: two by two, or on a line with a tab between"
    )
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens read at once (default: as in training)")
    parser.add_argument(
        "--long-texts", choices=LONG_TEXTS, help="what is read of longer texts (default: as in training)"
    )
    parser.add_argument("--dtype", **PRODUCTS["--dtype"])
    parser.add_argument("--precision", **PRODUCTS["--precision"])
    args = parser.parse_args(argv)

    if args.texts and args.input:
        raise UserError("give texts or --input, not both")
    for text in args.texts:
        if not is_whole(text):
            raise UserError(f"text {text!a}: not UTF-8")
    if args.pairs and len(args.texts) % 2:
        raise UserError(f"--pairs takes texts two by two; there are {len(args.texts)}")
    checkpoint, tokenizer = read_classifier(args.model)
    if args.max_length is not None:
        check_max_length(args.max_length, checkpoint.config, pairs=args.pairs)
    with _input(args) as lines, _output(args) as out:
        # JAX is imported here, after everything that can be wrong without it.
        from bert_jax.compilation import use_cache
        from bert_jax.predict import TextClassifier

        use_cache()
        classifier = TextClassifier(checkpoint, tokenizer, args.dtype, args.precision)
        interactive = lines is not None and lines.isatty()
        name = args.input or "standard input"
        texts = args.texts if lines is None else _texts(lines, name)
        pairs = None
        if args.pairs:
            texts, pairs = (args.texts[::2], args.texts[1::2]) if lines is None else _halves(texts, name)
        encode = json.JSONEncoder(ensure_ascii=False).encode
        # JSON's own escapes leave the control characters of 8 bits, which drive some terminals too.
        escape = functools.partial(re.compile("[\x7f-\x9f]").sub, lambda found: f"\\u{ord(found[0]):04x}")
        how = {"max_length": args.max_length, "long_texts": args.long_texts, "interactive": interactive}
        with closing(classifier.stream(texts, pairs, **how)) as predictions:
            for prediction in predictions:
                line = encode(prediction.to_dict(logits=args.logits))
                out.write((line if line.isprintable() else escape(line)) + "\n")
                if interactive:
                    out.flush()


@contextmanager
def _input(args) -> Iterator[BinaryIO | None]:
    if args.texts:
        yield None
    elif args.input:
        with _open(args.input) as file:
            yield file
    elif sys.stdin is None:
        raise UserError("standard input is closed; give texts, or --input FILE")
    else:
        yield sys.stdin.buffer


def _open(name: str) -> BinaryIO:
    try:
        return open(name, "rb")
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from None


@contextmanager
def _output(args) -> Iterator[TextIO]:
    if not args.output:
        if sys.stdout is None:
            raise UserError("standard output is closed; give --output FILE")
        with open(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as out:
            yield out
        return
    with new_file(Path(args.output), overwrite=args.overwrite) as file:
        yield file


def _texts(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: line {number} is not UTF-8 at its byte {error.start}") from None
        yield text.removesuffix("\n").removesuffix("\r")


def _halves(lines: Iterable[str], name: str) -> tuple[Iterator[str], Iterator[str]]:
    """The first and second texts of lines, each of which is read once."""

    def parted() -> Iterator[tuple[str, str]]:
        for number, line in enumerate(lines, 1):
            text, *pair = line.split("\t")
            if len(pair) != 1:
                raise UserError(
                    f"{name}: line {number} has {len(pair)} tabs; expected one, between the texts of a pair"
                )
            yield text, pair[0]

    one, other = itertools.tee(parted())
    return (text for text, _ in one), (pair for _, pair in other)


if __name__ == "__main__":
    run(main)
