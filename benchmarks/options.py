"""Options that the commands share."""

import importlib.util
from pathlib import Path

from bert_jax.command import MINILM, Parser
from bert_jax.errors import UserError
from train.config import DEMO

TORCH_ABSENT = "torch or transformers is not installed: pip install '.[parity]'"

SENTENCES_ABSENT = "torch or sentence-transformers is not installed: pip install '.[parity]'"

RUNTIME_ABSENT = "{0}, torch or onnxscript is not installed: pip install '.[parity,runtimes]'"


def parser(prog: str, description: str | None) -> Parser:
    """A parser with the shared options."""
    out = Parser(prog=prog, description=description)
    out.add_argument("--model", default=MINILM, metavar="DIR|ID", help="checkpoint: directory or hub id")
    out.add_argument("--data", type=Path, default=DEMO, metavar="DIR", help="as `python -m train` takes it")
    out.add_argument("--rounds", type=positive, default=5, metavar="N", help="rounds, each contender once in each")
    out.add_argument("--max-length", type=positive, default=128, metavar="N", help="cut texts to N tokens")
    out.add_argument("--seed", type=int, default=0, metavar="N", help="order, dropout, new classifier")
    out.add_argument("--only", default="", metavar="A,B", help="run only contenders with one of these in the name")
    out.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    out.add_argument("--log", type=Path, metavar="FILE", help="what the contenders print (default: nowhere)")
    return out


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def wanted(name: str, only: str) -> bool:
    """Whether `--only` leaves a contender in."""
    return not only or any(part.strip() in name for part in only.split(","))


def has_torch() -> bool:
    """Whether the torch contenders can run in this interpreter."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def has_sentence_transformers() -> bool:
    """Whether sentence-transformers can run in this interpreter."""
    return has_torch() and importlib.util.find_spec("sentence_transformers") is not None


def has_runtime(name: str) -> bool:
    """Whether this runtime can run here what torch exports."""
    return has_torch() and all(importlib.util.find_spec(needed) for needed in (name, "onnxscript"))
