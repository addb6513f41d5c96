"""Make `tokenizer.json` beside this script: what transformers' AutoTokenizer makes of 2,000 texts.

    python -m tests.golden.make_tokenizer

Needs the `parity` extra and MiniLM. The file holds a short hash of every block of 50 texts.
"""

import json
import tempfile
from pathlib import Path

import tokenizers
import transformers

from bert_jax.command import MINILM
from convert.location import locate
from tests.tokenizer_texts import MAX_LENGTHS, NAMES, blocks, digest, directory_of, encode

GOLDEN = Path(__file__).parent / "tokenizer.json"


class Reference:
    """A tokenizer of transformers, called as ours is."""

    def __init__(self, directory: Path):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)

    def __call__(
        self, texts: list[str], pairs: list[str] | None = None, *, max_length: int
    ) -> list[tuple[list[int], list[int]]]:
        """Input ids and type ids of each text or pair."""
        # Lists on purpose: given a single text, transformers takes an empty text B for none at all.
        made = self.tokenizer(texts, pairs, truncation=True, max_length=max_length)
        return list(zip(made["input_ids"], made["token_type_ids"], strict=True))


def main() -> None:
    """Make everything anew."""
    minilm = locate(MINILM).directory
    hashes: dict[str, dict[str, list[str]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in NAMES:
            reference = Reference(directory_of(name, minilm, Path(scratch)))
            hashes[name] = {
                str(length): [digest(encode(reference, block, length)) for block in blocks()] for length in MAX_LENGTHS
            }
    made_by = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    GOLDEN.write_text(json.dumps({"made_by": made_by, "hashes": hashes}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
