"""Text to token ids, by the `tokenizers` library, as transformers' fast BERT tokenizer does it."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.files import read_bytes
from bert_jax.long_texts import Cutting
from bert_jax.packing import Tokens
from bert_jax.tokenizer_files import FILES, Built, build, checked_class, faults_of

_WINDOW = 4096
"""Texts given to the library at once: its record of a short text takes 2,000 bytes, our ids of it 100."""

_SHOWN = 60
"""Characters of a text that a message shows."""

_PROBE = "A word \u2603 that no vocabulary has: \U0001f9ff\u0301."


class Tokenizer:
    """A checkpoint's tokenizer, with the special tokens of its post-processor.

    BERT's are [CLS] A [SEP], or [CLS] A [SEP] B [SEP]. `long_texts` is what it reads of long texts unless told
    (`bert_jax.long_texts.LONG_TEXTS`): the tail where its files say to cut at the left.
    """

    def __init__(self, built: Built):
        self.backend, self._single, self._pair, self._said_class, side = built
        self.long_texts = "tail" if side == "left" else "head"
        self._beyond: dict[int, str] = {}
        self.backend.no_padding()
        self.backend.no_truncation()

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read `tokenizer.json`, or build the same from a bare `vocab.txt`.

        `tokenizer_config.json`, where there is one, decides on lower-casing, accents and CJK, as
        it does in transformers. Raises `UserError` for files that are missing or malformed, for a
        vocabulary without [UNK], [CLS] or [SEP], and where it does not fit a `config.json` beside it.
        """
        from bert_jax.checkpoint import read_config

        directory = Path(directory)
        files = {name: read_bytes(directory / name) for name in FILES if (directory / name).exists()}
        made = cls.of(files, directory)
        if (directory / "config.json").exists():
            made.check_fits(read_config(directory / "config.json")[0], directory)
        return made

    @classmethod
    def of(cls, files: Mapping[str, bytes], where: Path) -> "Tokenizer":
        """The same, of the files' contents by name; `where` is the directory that errors name."""
        made = cls(build(files, where))
        made._check_frames(where)
        return made

    def _check_frames(self, where: object) -> None:
        """Raise `UserError` where the library itself would put other special tokens around texts."""
        with faults_of("tokenizer.json"):  # some faults show only in use
            for text, other in ((_PROBE, None), ("", None), (_PROBE, "a"), ("", _PROBE)):
                frame, texts = (self._single, [text]) if other is None else (self._pair, [text, other])
                theirs = self.backend.encode(text, other)
                ours = frame.around(*(self.backend.encode(text, add_special_tokens=False).ids for text in texts))[0]
                if theirs.ids != ours.tolist():
                    raise UserError(f"{where}: the tokenizer's post-processor is not understood")

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def check_fits(self, config: BertConfig, where: object) -> None:
        """Raise `UserError` where a token id lies outside the model's word embeddings, or for another class.

        Special tokens that are added to the vocabulary may lie outside of them, as transformers adds a missing [MASK]:
        a text that holds one is refused when it is tokenised.
        """
        if self._said_class is None:
            checked_class(config.source.get("tokenizer_class"), f"{where}: config.json")
        size = config.vocab_size
        if max(self.backend.get_vocab(with_added_tokens=False).values(), default=-1) >= size:
            raise UserError(
                f"{where}: the tokenizer has {self.size:,} tokens but vocab_size is {size:,}; "
                "take the tokenizer that belongs to this checkpoint"
            )
        added = self.backend.get_added_tokens_decoder()
        always = {*self._single.ids, *self._pair.ids, *(number for number, token in added.items() if not token.special)}
        for number in sorted(always):
            if number >= size:
                raise UserError(f"{where}: {_outside(self.backend.id_to_token(number), number, size)}")
        self._beyond = {i: _outside(token.content, i, size) for i, token in added.items() if i >= size}
        # A model with one type takes no pairs.
        for frame, types in ((self._single, config.type_vocab_size), (self._pair, max(2, config.type_vocab_size))):
            if (kind := max(frame.kinds)) >= types:
                raise UserError(
                    f"{where}: the tokenizer gives token type {kind} but type_vocab_size is {config.type_vocab_size}; "
                    "take the tokenizer that belongs to this checkpoint"
                )

    def __call__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int,
        long_texts: str | None = None,
    ) -> list[Tokens]:
        """Tokenise texts, or pairs of texts, cutting the longer side first to `max_length` tokens.

        `max_length` counts special tokens and is at least 3. Sentence B and its [SEP] have type 1.
        """
        return [tokens for _, tokens in self.examples(texts, pairs, Cutting(max_length, long_texts or self.long_texts))]

    def stream(self, texts: Iterable[str], *, max_length: int) -> Iterator[Tokens]:
        """Tokenise texts in their order, in memory that does not grow with their number."""
        return (tokens for _, tokens in self.examples(texts, None, Cutting(max_length, self.long_texts)))

    def examples(
        self, texts: Iterable[str], pairs: Iterable[str] | None, cutting: Cutting
    ) -> Iterator[tuple[int, Tokens]]:
        """Tokenise texts, or pairs, in their order and in bounded memory: the number of the text, and its tokens.

        A text has one example, or with windows as many as it takes. Raises `UserError` where `max_length` leaves no
        room and where a text holds a token that the model has no embedding of, and `ValueError` where `pairs` is
        shorter or longer than `texts`.
        """
        self.room(cutting, pairs=pairs is not None)
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

    def room(self, cutting: Cutting, *, pairs: bool) -> int:
        """How many tokens of the texts' own fit between the special ones.

        Windows hold a token of each text, as they would never end otherwise. Cut otherwise, a pair may lose a text, as
        in transformers. Raises `UserError` where there is no room.
        """
        size, texts = (self._pair if pairs else self._single).size, 1 + pairs
        room, least = cutting.max_length - size, texts if cutting.reads_all else 1 - pairs
        if room < least:
            raise UserError(
                f"max length is {cutting.max_length}; expected at least {size + least}: {size} special tokens "
                f"and {least} of the text{'s' * pairs}"
            )
        return room

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        with faults_of("tokenizer.json"):
            found = [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        for text, ids in zip(texts, found, strict=True) if self._beyond else ():
            if reached := self._beyond.keys() & ids:
                shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
                raise UserError(f"text {shown!r}: {self._beyond[min(reached)]}")
        return found

    def _singles(
        self, numbers: Iterable[int], texts: list[list[int]], cutting: Cutting
    ) -> Iterator[tuple[int, Tokens]]:
        # All texts in one array, of which each gets its slice: a few calls of numpy for all of them
        # instead of a few for each, which cost more than the tokenising of a short text.
        frame = self._single
        room = self.room(cutting, pairs=False)
        cut, lost, owners = [], [], []
        for number, ids in zip(numbers, texts, strict=True):
            pieces = [ids] if len(ids) <= room else cutting.pieces(ids, room)
            cut += pieces
            owners += [number] * len(pieces)
            lost += [len(ids) > room and not cutting.reads_all] * len(pieces)
        lengths = np.fromiter(map(len, cut), np.int64, len(cut))
        before, after = frame.edges
        ends = np.cumsum(lengths + frame.size)
        starts = ends - lengths - frame.size
        flat = np.empty(ends[-1] if len(ends) else 0, np.int32)
        types = np.full_like(flat, frame.types[0])
        inner = np.ones(len(flat), bool)
        for edge, places in ((before, starts), (after, ends - len(after.ids))):
            for offset, (number, kind) in enumerate(zip(*edge, strict=True)):
                flat[places + offset], types[places + offset], inner[places + offset] = number, kind, False
        flat[inner] = np.fromiter(itertools.chain.from_iterable(cut), np.int32, int(lengths.sum()))
        slices = map(slice, starts.tolist(), ends.tolist())
        for number, here, was_cut in zip(owners, slices, lost, strict=True):
            yield number, Tokens(flat[here], types[here], was_cut)

    def _pairs(
        self, numbers: Iterable[int], texts: list[list[int]], others: list[list[int]], cutting: Cutting
    ) -> Iterator[tuple[int, Tokens]]:
        # Cut here and not by the library, whose record of what is left over grows with the product
        # of the lengths. Its rule: the shorter text stays whole if it fits in half of the room,
        # else each gets half, the longer one (the second, of equals) the odd token. Windows go over the longer one.
        room = self.room(cutting, pairs=True)
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
                yield number, Tokens(*self._pair.around(one, two), lost)


def _outside(token: str | None, number: int, vocab_size: int) -> str:
    """What is wrong with an added token that the model has no embedding of, and what to do."""
    return (
        f"token {token!r} has id {number} but vocab_size is {vocab_size}; resize the model's embeddings in "
        "transformers (resize_token_embeddings), or remove the token from the text and from the tokenizer's files"
    )


def check_max_length(max_length: int, config: BertConfig, *, pairs: bool = False) -> None:
    """Raise `UserError` for more tokens than the model has positions, or too few for any text, or pair of texts."""
    limit, of = config.max_position_embeddings, " of a pair" if pairs else ""
    least = 5 if pairs else 3  # one token of each text, and BERT's special ones
    if not least <= max_length <= limit:
        raise UserError(
            f"--max-length is {max_length}; this model takes {least} to {limit} tokens{of} (max_position_embeddings)"
        )
