"""Label texts, or embed them: write a line with a JSON object for each text, in order, or a table of labelled rows."""

import functools
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from bert_jax import embed_options
from bert_jax.answered_tables import TABLES, WRITTEN, Table, answer, check_output, writing
from bert_jax.checkpoint import read_classifier
from bert_jax.command import PRODUCTS, Parser, run
from bert_jax.config import is_whole
from bert_jax.errors import UserError
from bert_jax.files import new_file
from bert_jax.long_texts import LONG_TEXTS
from bert_jax.sentence_modules import read_embedder
from bert_jax.tables import kind
from bert_jax.tokenizer import check_max_length

if TYPE_CHECKING:
    from bert_jax.embedder import Embedding
    from bert_jax.predict import Prediction

_CONTROL = re.compile("[\x7f-\x9f]")


def main(argv: list[str] | None = None) -> None:
    """Check everything that can be checked without JAX, then predict."""
    parser = Parser(
        prog="python -m bert_jax",
        description=__doc__,
        epilog="""examples:
  python -m bert_jax --model runs/demo/best "one text" "another text"
  python -m bert_jax --model runs/demo/best --input texts.txt --output out.jsonl
  python -m bert_jax --model runs/demo --input reviews.csv --output labelled.csv
  python -m bert_jax --model runs/pairs/best --pairs "one text" "its pair"
  python -m bert_jax --model runs/minilm --embed --input in.txt --output out.npy""",
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to label; without any, lines of a file")
    parser.add_argument("--model", required=True, metavar="DIR", help="a training run, or a native checkpoint")
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="file with one text a line, UTF-8, or a table: csv, tsv, jsonl, json, parquet (default: standard input)",
    )
    parser.add_argument("--text-column", metavar="NAME", help="a table's column with the text (default: found)")
    parser.add_argument(
        "--pair-column",
        metavar="NAME",
        help="a table's column with the second text of a pair (default: found, unless --text-column is given)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file to write, whole or not at all (default: standard output); of a table, NAME.csv and NAME.parquet "
        "have its columns too, any other name JSON lines",
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
    embed_options.add_options(parser)
    args = parser.parse_args(argv)

    embed_options.check_options(args)
    if args.texts and args.input:
        raise UserError("give texts or --input, not both")
    for text in args.texts:
        if not is_whole(text):
            raise UserError(f"text {text!a}: not UTF-8")
    if args.pairs and len(args.texts) % 2:
        raise UserError(f"--pairs takes texts two by two; there are {len(args.texts)}")
    if args.embed:
        checkpoint, tokenizer, modules = read_embedder(args.model, args.pooling, args.normalize)
        modules.prompt(args.prompt, args.prompt_name)
    else:
        (checkpoint, tokenizer), modules = read_classifier(args.model), None
    if args.max_length is not None:
        check_max_length(args.max_length, checkpoint.config, pairs=args.pairs)
    table = _table(args)
    size = modules.size if modules else 0
    with _input(args, table) as (texts, pairs, interactive), _output(args, table, size) as write:
        # JAX is imported after everything that can be checked without it.
        from bert_jax.compilation import use_cache

        use_cache()
        options = {"max_length": args.max_length, "interactive": interactive}
        if modules:
            from bert_jax.embedder import Embedder

            embedder = Embedder(checkpoint, tokenizer, modules, args.dtype, args.precision)
            results = embedder.stream(texts, prompt=args.prompt, prompt_name=args.prompt_name, **options)
        else:
            from bert_jax.predict import TextClassifier

            classifier = TextClassifier(checkpoint, tokenizer, args.dtype, args.precision)
            results = classifier.stream(texts, pairs, long_texts=args.long_texts, **options)
        with closing(results):
            for result in results:
                write(result)


def _table(args) -> Table | None:
    """Return the table to label, or None if `--input` is not a table.

    Raises `UserError` for options of tables if `--input` is not a table.
    """
    if args.output:
        check_output(Path(args.output))
    writes_table = bool(args.output) and kind(Path(args.output)) in WRITTEN
    if args.input and kind(Path(args.input)) in TABLES:
        return Table(Path(args.input), args.text_column, args.pair_column, keep=writes_table)
    for name in ("text_column", "pair_column"):
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} is for a table as --input ({', '.join(TABLES)})")
    if writes_table:
        raise UserError(f"{args.output}: a table is written where --input is one; choose NAME.jsonl")
    return None


@contextmanager
def _input(args, table: Table | None) -> Iterator[tuple[Iterable[str], Iterable[str] | None, bool]]:
    """Yield the texts, the second texts of pairs or None, and whether to label each text before the next is read."""
    if args.texts:
        yield (args.texts[::2], args.texts[1::2], False) if args.pairs else (args.texts, None, False)
    elif table is not None:
        with table.opened() as (texts, pairs):
            if args.pairs and pairs is None:
                raise UserError(f"{args.input}: no column with the second text of a pair; name it with --pair-column")
            if args.embed and pairs is not None:
                raise UserError(f"{args.input}: has two columns of texts; name the one to embed with --text-column")
            yield texts, pairs, False
    elif args.input:
        with _open(args.input) as file:
            yield *_lines(file, args.input, args.pairs), file.isatty()
    elif sys.stdin is None:
        raise UserError("standard input is closed; give texts, or --input FILE")
    else:
        yield *_lines(sys.stdin.buffer, "standard input", args.pairs), sys.stdin.buffer.isatty()


def _lines(file: BinaryIO, name: str, pairs: bool) -> tuple[Iterator[str], Iterator[str] | None]:
    return _halves(_texts(file, name), name) if pairs else (_texts(file, name), None)


def _open(name: str) -> BinaryIO:
    try:
        return open(name, "rb")
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from None


@contextmanager
def _output(args, table: Table | None, size: int) -> Iterator[Callable[[Any], None]]:
    """Yield the function that writes a prediction, or an embedding, which has `size` elements."""
    options = {} if args.embed else {"logits": args.logits}
    if args.embed and args.output and embed_options.is_vectors(args.output):
        with embed_options.writing_vectors(Path(args.output), size, overwrite=args.overwrite) as add:
            yield lambda embedding: add(embedding.vector)
    elif table is not None and args.output and kind(Path(args.output)) in WRITTEN:
        with writing(Path(args.output), table.path, overwrite=args.overwrite) as rows:
            yield lambda prediction: rows.write(answer(table.row(), prediction, logits=args.logits))
    elif args.output:
        with new_file(Path(args.output), overwrite=args.overwrite) as out:
            yield functools.partial(_write, out, options, False)
    elif sys.stdout is None:
        raise UserError("standard output is closed; give --output FILE")
    else:
        with open(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as out:
            yield functools.partial(_write, out, options, sys.stdin is not None and sys.stdin.isatty())


def _write(out: TextIO, options: dict[str, bool], flush: bool, result: "Prediction | Embedding") -> None:
    line = json.dumps(result.to_dict(**options), ensure_ascii=False)
    # JSON does not escape the control characters from 0x7f to 0x9f, which control some terminals too.
    out.write((line if line.isprintable() else _CONTROL.sub(_escaped, line)) + "\n")
    if flush:
        out.flush()


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _texts(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: line {number} is not UTF-8 at its byte {error.start}") from None
        yield text.removesuffix("\n").removesuffix("\r")


def _halves(lines: Iterable[str], name: str) -> tuple[Iterator[str], Iterator[str]]:
    """Return the first texts and the second texts of lines of pairs; each line is read once."""

    def parted() -> Iterator[tuple[str, str]]:
        for number, line in enumerate(lines, 1):
            text, *pair = line.split("\t")
            if len(pair) != 1:
                raise UserError(
                    f"{name}: line {number} has {len(pair)} tabs; expected one, between the texts of a pair"
                )
            yield text, pair[0]

    for_texts, for_pairs = itertools.tee(parted())
    return (text for text, _ in for_texts), (pair for _, pair in for_pairs)


if __name__ == "__main__":
    run(main)
