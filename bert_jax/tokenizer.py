"""Convert texts to token ids with the `tokenizers` library, as transformers' fast BERT tokenizer does."""

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
"""Number of texts that are passed to the library at once.

The library's record of a short text takes 2,000 bytes; the list of its ids takes 100.
"""

_SHOWN = 60
"""Maximum number of characters of a text in an error message."""

_PROBE = "A word \u2603 that no vocabulary has: \U0001f9ff\u0301."


class Tokenizer:
    """A checkpoint's tokenizer, with the special tokens of its post-processor.

    BERT's post-processor makes [CLS] A [SEP] of a text, and [CLS] A [SEP] B [SEP] of a pair. `long_texts` (one of
    `bert_jax.long_texts.LONG_TEXTS`) is the default for texts that are too long: `tail` if the tokenizer's files set
    the truncation side to left, otherwise `head`.
    """

    def __init__(self, built: Built):
        self.backend, self._single, self._pair, self._said_class, side = built
        self.long_texts = "tail" if side == "left" else "head"
        self._beyond: dict[int, str] = {}
        self.backend.no_padding()
        self.backend.no_truncation()

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Load the tokenizer of a checkpoint directory from `tokenizer.json`, or build it from a bare `vocab.txt`.

        If there is a `tokenizer_config.json`, it decides on lower-casing, accents and CJK, as in transformers. Raises
        `UserError` for files that are missing or malformed, for a vocabulary without [UNK], [CLS] or [SEP], and for a
        tokenizer that does not fit a `config.json` in the same directory.
        """
        from bert_jax.checkpoint import read_config

        directory = Path(directory)
        files = {name: read_bytes(directory / name) for name in FILES if (directory / name).exists()}
        tokenizer = cls.of(files, directory)
        if (directory / "config.json").exists():
            tokenizer.check_fits(read_config(directory / "config.json")[0], directory)
        return tokenizer

    @classmethod
    def of(cls, files: Mapping[str, bytes], where: Path) -> "Tokenizer":
        """Return the tokenizer that `load` returns, from the contents of its files by name.

        `where` is the directory that errors name. There is no check against a `config.json` (see `check_fits`).
        """
        tokenizer = cls(build(files, where))
        tokenizer._check_frames(where)
        return tokenizer

    def _check_frames(self, where: object) -> None:
        """Raise `UserError` if the library itself would put other special tokens around texts than this class does."""
        with faults_of("tokenizer.json"):  # some faults of the file appear only when it is used
            for text, pair in ((_PROBE, None), ("", None), (_PROBE, "a"), ("", _PROBE)):
                frame, texts = (self._single, [text]) if pair is None else (self._pair, [text, pair])
                encoding = self.backend.encode(text, pair)
                ids = frame.around(*(self.backend.encode(text, add_special_tokens=False).ids for text in texts))[0]
                if encoding.ids != ids.tolist():
                    raise UserError(f"{where}: the tokenizer's post-processor is not understood")

    @property
    def size(self) -> int:
        """The largest token id plus one."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def check_fits(self, config: BertConfig, where: object) -> None:
        """Raise `UserError` if the tokenizer does not fit a model with this config.

        The model must have a word embedding for each token id, and a type embedding for each token type. Token type 1
        of pairs is excepted. If the tokenizer's own files give no `tokenizer_class`, the one in `config.json` must be
        supported.

        Special tokens that were added to the vocabulary may lack a word embedding if they are not put around texts, as
        transformers adds a missing [MASK]. A text with such a token is refused when it is tokenised.
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
        required = {
            *self._single.ids,
            *self._pair.ids,
            *(number for number, token in added.items() if not token.special),
        }
        for number in sorted(required):
            if number >= size:
                raise UserError(f"{where}: {_outside(self.backend.id_to_token(number), number, size)}")
        self._beyond = {i: _outside(token.content, i, size) for i, token in added.items() if i >= size}
        # A model with one token type takes no pairs, so token type 1 of a pair is no error.
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
        """Tokenise texts, or pairs of texts, into examples of at most `max_length` tokens.

        `max_length` counts special tokens and is at least 3. If a pair is too long, its longer text is cut first.
        `long_texts` is `self.long_texts` by default; with "windows", a text may have several examples. In BERT's pairs,
        sentence B and its [SEP] have token type 1.
        """
        return [tokens for _, tokens in self.examples(texts, pairs, Cutting(max_length, long_texts or self.long_texts))]

    def stream(self, texts: Iterable[str], *, max_length: int) -> Iterator[Tokens]:
        """Tokenise texts in their order; memory use does not grow with the number of texts."""
        return (tokens for _, tokens in self.examples(texts, None, Cutting(max_length, self.long_texts)))

    def examples(
        self, texts: Iterable[str], pairs: Iterable[str] | None, cutting: Cutting
    ) -> Iterator[tuple[int, Tokens]]:
        """Tokenise texts, or pairs of texts, in bounded memory; yield the index of each text and its tokens, in order.

        A text has one example, or with windows as many examples as it has windows. Raises `UserError` if `max_length`
        leaves no room for a text, and if a text contains a token that the model has no embedding for. Raises
        `ValueError` if `pairs` is shorter or longer than `texts`.
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
        """Return how many tokens of a text, or of a pair, fit into `max_length` beside the special tokens.

        A window needs room for one token of each text, as windows would never end otherwise. With the other settings, a
        pair may lose a text entirely, as in transformers. Raises `UserError` if there is too little room.
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
            encoded = [
                encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
            ]
        for text, ids in zip(texts, encoded, strict=True) if self._beyond else ():
            if reached := self._beyond.keys() & ids:
                shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
                raise UserError(f"text {shown!r}: {self._beyond[min(reached)]}")
        return encoded

    def _singles(
        self, numbers: Iterable[int], texts: list[list[int]], cutting: Cutting
    ) -> Iterator[tuple[int, Tokens]]:
        # All texts share one array, and each text gets a slice of it. So numpy is called a few times for all texts. A
        # few calls for each text would take longer than tokenising a short text.
        frame = self._single
        room = self.room(cutting, pairs=False)
        all_pieces, lost, owners = [], [], []
        for number, ids in zip(numbers, texts, strict=True):
            pieces = [ids] if len(ids) <= room else cutting.pieces(ids, room)
            all_pieces += pieces
            owners += [number] * len(pieces)
            lost += [len(ids) > room and not cutting.reads_all] * len(pieces)
        lengths = np.fromiter(map(len, all_pieces), np.int64, len(all_pieces))
        before, after = frame.edges
        ends = np.cumsum(lengths + frame.size)
        starts = ends - lengths - frame.size
        flat = np.empty(ends[-1] if len(ends) else 0, np.int32)
        types = np.full_like(flat, frame.types[0])
        inner = np.ones(len(flat), bool)
        for edge, places in ((before, starts), (after, ends - len(after.ids))):
            for offset, (number, kind) in enumerate(zip(*edge, strict=True)):
                flat[places + offset], types[places + offset], inner[places + offset] = number, kind, False
        flat[inner] = np.fromiter(itertools.chain.from_iterable(all_pieces), np.int32, int(lengths.sum()))
        slices = map(slice, starts.tolist(), ends.tolist())
        for number, span, was_cut in zip(owners, slices, lost, strict=True):
            yield number, Tokens(flat[span], types[span], was_cut)

    def _pairs(
        self, numbers: Iterable[int], texts: list[list[int]], pairs: list[list[int]], cutting: Cutting
    ) -> Iterator[tuple[int, Tokens]]:
        # Pairs are cut by this function, as the library's record of the tokens cut off grows with the product of the
        # lengths. The library's rule is: the shorter text stays whole if it fits in half of the room. Otherwise each
        # text gets half, and the longer text (of two equal ones, the second) gets the odd token. Windows cover the
        # longer text.
        room = self.room(cutting, pairs=True)
        short_cutting = cutting._replace(long_texts="head") if cutting.reads_all else cutting
        for number, a, b in zip(numbers, texts, pairs, strict=True):
            short, long = sorted((len(a), len(b)))
            if short + long > room:
                short = min(short, room // 2)
                long = room - short
            sides = [(a, long, True), (b, short, False)] if len(a) > len(b) else [(a, short, False), (b, long, True)]
            side_pieces = [
                [ids] if len(ids) <= size else (cutting if is_long else short_cutting).pieces(ids, size)
                for ids, size, is_long in sides
            ]
            lost = any(len(ids) > size and not (is_long and cutting.reads_all) for ids, size, is_long in sides)
            for piece_a, piece_b in itertools.product(*side_pieces):
                yield number, Tokens(*self._pair.around(piece_a, piece_b), lost)


def _outside(token: str | None, number: int, vocab_size: int) -> str:
    """Return the error for an added token that the model has no embedding for, with what to do about it."""
    return (
        f"token {token!r} has id {number} but vocab_size is {vocab_size}; resize the model's embeddings in "
        "transformers (resize_token_embeddings), or remove the token from the text and from the tokenizer's files"
    )


def check_max_length(max_length: int, config: BertConfig, *, pairs: bool = False) -> None:
    """Raise `UserError` for more tokens than the model has positions, or too few for any text (or pair of texts)."""
    limit, of = config.max_position_embeddings, " of a pair" if pairs else ""
    least = 5 if pairs else 3  # one token of each text, and BERT's special tokens
    if not least <= max_length <= limit:
        raise UserError(
            f"--max-length is {max_length}; this model takes {least} to {limit} tokens{of} (max_position_embeddings)"
        )
