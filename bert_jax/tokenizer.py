"""Text to token ids, by the `tokenizers` library, as transformers' fast BERT tokenizer does it."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers

from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.files import read_bytes
from bert_jax.packing import Tokens
from bert_jax.tokenizer_files import FILES, build, faults_of

_WINDOW = 4096
"""Texts given to the library at once: its record of a short text takes 2,000 bytes, our ids of it 100."""

LONG_TEXTS = ("head", "tail", "both", "windows")
"""What is read of a text that is too long: its first tokens, its last, half of either, or all in windows."""

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

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int, long_texts: str = "head"
    ) -> list[Tokens]:
        """Tokenise texts, or pairs of texts, cutting the longer side first to `max_length` tokens.

        `max_length` counts special tokens and is at least 3. Sentence B and its [SEP] have type 1.
        """
        return [tokens for _, tokens in self.examples(texts, pairs, Cutting(max_length, long_texts))]

    def stream(self, texts: Iterable[str], *, max_length: int) -> Iterator[Tokens]:
        """Tokenise texts in their order, in memory that does not grow with their number."""
        return (tokens for _, tokens in self.examples(texts, None, Cutting(max_length)))

    def examples(
        self, texts: Iterable[str], pairs: Iterable[str] | None, cutting: "Cutting"
    ) -> Iterator[tuple[int, Tokens]]:
        """Tokenise texts, or pairs, in their order and in bounded memory: the number of the text, and its tokens.

        A text has one example, or with windows as many as it takes. Raises `UserError` where `max_length` leaves no
        room, and `ValueError` where `pairs` is shorter or longer than `texts`.
        """
        _check_room(cutting, pairs is not None)
        inputs = zip(texts) if pairs is None else zip(texts, pairs, strict=True)
        first = 0
        while window := list(itertools.islice(inputs, _WINDOW)):
            columns = [self._ids(column) for column in zip(*window, strict=True)]
            numbers = range(first, first + len(window))
            if pairs is None:
                yield from self._singles(numbers, columns[0], cutting)
            else:
                yield from self._pairs(numbers, columns[0], columns[1], cutting)
            first += len(window)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        with faults_of("tokenizer.json"):
            return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _singles(
        self, numbers: Iterable[int], texts: list[list[int]], cutting: "Cutting"
    ) -> Iterator[tuple[int, Tokens]]:
        # All texts in one array, of which each gets its slice: a few calls of numpy for all of them
        # instead of a few for each, which cost more than the tokenising of a short text.
        room = cutting.max_length - 2
        cut, lost, owners = [], [], []
        for number, ids in zip(numbers, texts, strict=True):
            pieces = [ids] if len(ids) <= room else cutting.pieces(ids, room)
            cut += pieces
            owners += [number] * len(pieces)
            lost += [len(ids) > room and not cutting.reads_all] * len(pieces)
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
        for number, here, was_cut in zip(owners, slices, lost, strict=True):
            yield number, Tokens(flat[here], types[here], was_cut)

    def _pairs(
        self, numbers: Iterable[int], texts: list[list[int]], others: list[list[int]], cutting: "Cutting"
    ) -> Iterator[tuple[int, Tokens]]:
        # Cut here and not by the library, whose record of what is left over grows with the product
        # of the lengths. Its rule: the shorter text stays whole if it fits in half of the room,
        # else each gets half, the longer one (the second, of equals) the odd token. Windows go over the longer one.
        room = cutting.max_length - 3
        whole = cutting._replace(long_texts="head") if cutting.reads_all else cutting
        for number, a, b in zip(numbers, texts, others, strict=True):
            short, long = sorted((len(a), len(b)))
            if short + long > room:
                short = min(short, room // 2)
                long = room - short
            sides = [(a, long, True), (b, short, False)] if len(a) > len(b) else [(a, short, False), (b, long, True)]
            both = [
                [ids] if len(ids) <= size else (cutting if is_long else whole).pieces(ids, size)
                for ids, size, is_long in sides
            ]
            lost = any(len(ids) > size and not (is_long and cutting.reads_all) for ids, size, is_long in sides)
            for one, two in itertools.product(*both):
                ids = np.concatenate(
                    [self._cls, np.array(one, np.int32), self._sep, np.array(two, np.int32), self._sep]
                )
                types = np.zeros_like(ids)
                types[len(one) + 2 :] = 1
                yield number, Tokens(ids, types, lost)


class Cutting(NamedTuple):
    """What is read of a text: at most `max_length` tokens at once, special ones included (`LONG_TEXTS`)."""

    max_length: int
    long_texts: str = "head"
    stride: int | None = None

    @property
    def said(self) -> dict[str, str]:
        """In strings, as a checkpoint keeps it."""
        return {name: str(value) for name, value in self._asdict().items() if value is not None}

    @property
    def reads_all(self) -> bool:
        """Whether nothing of a text is left out."""
        return self.long_texts == "windows"

    def room(self, pairs: bool) -> int:
        """Tokens for texts, at most, in an example or in a window of a longer text."""
        return self.max_length - (3 if pairs else 2)

    def pieces(self, ids: list[int], room: int) -> list[list[int]]:
        """What is read of a text of more than `room` tokens, in pieces of `room`.

        Windows begin `stride` tokens apart (half of `room` if that is not given), and the last one ends with the text.
        """
        if self.long_texts == "head":
            return [ids[:room]]
        if self.long_texts == "tail":
            return [ids[len(ids) - room :]]
        if self.long_texts == "both":
            end = room // 2
            return [ids[: room - end] + ids[len(ids) - end :]]
        stride = min(self.stride or max(1, room // 2), room)
        starts = [*range(0, len(ids) - room, stride), len(ids) - room]
        return [ids[start : start + room] for start in starts]


def _least(pairs: bool) -> int:
    """The fewest tokens that hold one token of each text, and the special ones."""
    return 5 if pairs else 3


def _check_room(cutting: Cutting, pairs: bool) -> None:
    # Cut otherwise, a pair may lose a text, as in transformers; windows without a token of it would never end.
    if cutting.max_length < (least := _least(pairs and cutting.reads_all)):
        held = "[CLS], one token, [SEP]" + ", one token, [SEP]" * (least == _least(pairs=True))
        raise UserError(f"max length is {cutting.max_length}; expected at least {least}: {held}")


def check_max_length(max_length: int, config: BertConfig, *, pairs: bool = False) -> None:
    """Raise `UserError` for more tokens than the model has positions, or too few for any text, or pair of texts."""
    limit, of = config.max_position_embeddings, " of a pair" if pairs else ""
    if not (least := _least(pairs)) <= max_length <= limit:
        raise UserError(
            f"--max-length is {max_length}; this model takes {least} to {limit} tokens{of} (max_position_embeddings)"
        )
