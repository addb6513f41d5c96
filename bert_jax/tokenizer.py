"""Text to token ids, by the `tokenizers` library, as transformers' fast BERT tokenizer does it."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.files import read_bytes
from bert_jax.packing import Tokens
from bert_jax.tokenizer_files import FILES, build, faults_of

_WINDOW = 4096
"""Texts given to the library at once: its record of a short text takes 2,000 bytes, our ids of it 100."""

_PROBE = "A word \u2603 that no vocabulary has: \U0001f9ff\u0301."


class Tokenizer:
    """WordPiece with BERT's normalisation and special tokens: [CLS] A [SEP], or [CLS] A [SEP] B [SEP]."""

    def __init__(self, backend: tokenizers.Tokenizer, cls: str = "[CLS]", sep: str = "[SEP]"):
        self.backend = backend
        backend.no_padding()
        backend.no_truncation()
        self._cls, self._sep = (np.array([backend.token_to_id(name)], np.int32) for name in (cls, sep))

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read `tokenizer.json`, or build the same from a bare `vocab.txt`.

        `tokenizer_config.json`, where there is one, decides on lower-casing, accents and CJK, as
        it does in transformers. Raises `UserError` for files that are missing or malformed and
        for a vocabulary without [PAD], [UNK], [CLS] or [SEP].
        """
        directory = Path(directory)
        return cls.of({name: read_bytes(directory / name) for name in FILES if (directory / name).exists()}, directory)

    @classmethod
    def of(cls, files: Mapping[str, bytes], where: Path) -> "Tokenizer":
        """The same, of the files' contents by name; `where` is the directory that errors name."""
        made = cls(*build(files, where))
        made([_PROBE, ""], max_length=8)  # some faults show only in use
        return made

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def check_fits(self, config: BertConfig, where: object) -> None:
        """Raise `UserError` where a token id would lie outside the model's word embeddings."""
        if self.size > config.vocab_size:
            raise UserError(
                f"{where}: the tokenizer has {self.size:,} tokens but vocab_size is {config.vocab_size:,}; "
                "take the tokenizer that belongs to this checkpoint"
            )

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int) -> list[Tokens]:
        """Tokenise texts, or pairs of texts, cutting the longer side first to `max_length` tokens.

        `max_length` counts special tokens and is at least 3. Sentence B and its [SEP] have type 1.
        """
        if pairs is None:
            return list(self.stream(texts, max_length=max_length))
        _check_room(max_length)
        both = zip(self._ids(texts), self._ids(pairs), strict=True)
        return [self._pair(np.array(a, np.int32), np.array(b, np.int32), max_length - 3) for a, b in both]

    def stream(self, texts: Iterable[str], *, max_length: int) -> Iterator[Tokens]:
        """Tokenise texts in their order, in memory that does not grow with their number."""
        _check_room(max_length)
        texts = iter(texts)
        while window := list(itertools.islice(texts, _WINDOW)):
            yield from self._singles(self._ids(window), max_length - 2)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        with faults_of("tokenizer.json"):
            return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _singles(self, texts: list[list[int]], room: int) -> list[Tokens]:
        # All texts in one array, of which each gets its slice: a few calls of numpy for all of them
        # instead of a few for each, which cost more than the tokenising of a short text.
        cut = [ids[:room] for ids in texts]
        lengths = np.fromiter(map(len, cut), np.int64, len(cut))
        ends = np.cumsum(lengths + 2)
        starts = ends - lengths - 2
        flat = np.empty(ends[-1] if len(ends) else 0, np.int32)
        inner = np.ones(len(flat), bool)
        inner[starts] = inner[ends - 1] = False
        flat[starts], flat[ends - 1] = self._cls, self._sep
        flat[inner] = np.fromiter(itertools.chain.from_iterable(cut), np.int32, int(lengths.sum()))
        types = np.zeros_like(flat)
        slices = map(slice, starts.tolist(), ends.tolist())
        return [Tokens(flat[here], types[here], len(ids) > room) for here, ids in zip(slices, texts, strict=True)]

    def _pair(self, a: np.ndarray, b: np.ndarray, room: int) -> Tokens:
        # Cut here and not by the library, whose record of what is left over grows with the product
        # of the lengths. Its rule: the shorter text stays whole if it fits in half of the room,
        # else each gets half, the longer one (the second, of equals) the odd token.
        short, long = sorted((len(a), len(b)))
        if short + long > room:
            short = min(short, room // 2)
            long = room - short
        size_a, size_b = (long, short) if len(a) > len(b) else (short, long)
        whole = np.concatenate([self._cls, a[:size_a], self._sep, b[:size_b], self._sep])
        types = np.zeros_like(whole)
        types[size_a + 2 :] = 1
        return Tokens(whole, types, size_a < len(a) or size_b < len(b))


def _check_room(max_length: int) -> None:
    if max_length < 3:
        raise UserError(f"max length is {max_length}; expected at least 3: [CLS], one token, [SEP]")


def check_max_length(max_length: int, config: BertConfig) -> None:
    """Raise `UserError` for more tokens than the model has positions, or too few for any text."""
    limit = config.max_position_embeddings
    if not 3 <= max_length <= limit:
        raise UserError(f"--max-length is {max_length}; this model takes 3 to {limit} tokens (max_position_embeddings)")
