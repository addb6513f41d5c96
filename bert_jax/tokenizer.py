"""Text to token ids, by the `tokenizers` library, as transformers' fast BERT tokenizer does it."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.files import decode, parse_json, read_bytes
from bert_jax.packing import Tokens

FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files of a checkpoint that belong to its tokenizer; one of the first two is needed."""

_WINDOW = 4096
"""Texts given to the library at once: its record of a short text takes 2,000 bytes, our ids of it 100."""

_SPECIAL_TOKENS = ("pad", "unk", "cls", "sep", "mask")


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
        settings = _json(files, "tokenizer_config.json", where)
        names = {kind: _token_name(settings, kind) for kind in _SPECIAL_TOKENS}
        path = where / ("tokenizer.json" if "tokenizer.json" in files else "vocab.txt")
        if path.name not in files:
            raise UserError(f"{where}: no tokenizer.json and no vocab.txt; a checkpoint needs one of them")
        text = decode(files[path.name], path)
        if path.name == "tokenizer.json":
            backend = _from_json(text, path, settings)
        else:
            backend = _from_vocabulary(text, settings, names)
        missing = [names[kind] for kind in ("pad", "unk", "cls", "sep") if backend.token_to_id(names[kind]) is None]
        if missing:
            raise UserError(f"{path}: no {' '.join(missing)} in the vocabulary; this is not a BERT tokenizer")
        _add_tokens(backend, _json(files, "added_tokens.json", where), where, settings)
        named = [
            *names.values(),
            *_listed(settings, "additional_special_tokens"),
            *_listed(settings, "extra_special_tokens"),
        ]
        backend.add_special_tokens([AddedToken(name, special=True) for name in named])
        return cls(backend, names["cls"], names["sep"])

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


def _json(files: Mapping[str, bytes], name: str, where: Path) -> dict[str, Any]:
    return parse_json(files[name], where / name) if name in files else {}


def _token_name(settings: Mapping[str, Any], kind: str) -> str:
    value = settings.get(f"{kind}_token") or f"[{kind.upper()}]"
    value = value.get("content") if isinstance(value, dict) else value
    if not isinstance(value, str):
        raise UserError(f"tokenizer_config.json: {kind}_token is {value!r}; expected a string")
    return value


def _from_json(text: str, path: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except BaseException as error:  # a panic in Rust derives from BaseException alone
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise UserError(f"{path}: not a tokenizer: {error}") from None
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        # transformers' BertTokenizer takes the settings' word, and its own defaults where they are
        # silent, over what tokenizer.json says; other classes take the file as it is.
        is_bert = settings.get("tokenizer_class") in (None, "BertTokenizer", "BertTokenizerFast")
        for setting, attribute, default in (
            ("do_lower_case", "lowercase", True),
            ("strip_accents", "strip_accents", None),
            ("tokenize_chinese_chars", "handle_chinese_chars", True),
        ):
            if setting in settings or is_bert:
                value = _flag(settings, setting)
                setattr(backend.normalizer, attribute, default if value is None else value)
    return backend


def _from_vocabulary(text: str, settings: Mapping[str, Any], names: Mapping[str, str]) -> tokenizers.Tokenizer:
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    vocabulary = {token: index for index, token in enumerate(lines)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk"]))
    lowercase = _flag(settings, "do_lower_case")
    chinese = _flag(settings, "tokenize_chinese_chars")
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese is not False,
        strip_accents=_flag(settings, "strip_accents"),
        lowercase=lowercase is not False,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    special = [AddedToken(name, special=True) for name in names.values() if name in vocabulary]
    backend.add_special_tokens(special)
    return backend


def _add_tokens(
    backend: tokenizers.Tokenizer, added: Mapping[str, Any], where: Path, settings: Mapping[str, Any]
) -> None:
    """Tokens beside the vocabulary, those of `added_tokens.json` and `tokenizer_config.json`, at their ids."""
    wanted = {name: (number, AddedToken(name)) for name, number in added.items()}
    fields = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    try:
        for number, token in (settings.get("added_tokens_decoder") or {}).items():
            made = AddedToken(**{name: token[name] for name in fields if name in token})
            wanted[token["content"]] = int(number), made
        for name, (number, token) in sorted(wanted.items(), key=lambda item: item[1][0]):
            backend.add_tokens([token])  # one that is in the vocabulary keeps its id
            if backend.token_to_id(name) != number:
                raise UserError(f"{where}: token {name!r} cannot have id {number}: ids do not follow the vocabulary")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: added tokens are malformed: {error}") from None


def _listed(settings: Mapping[str, Any], name: str) -> list[str]:
    """Names in a list of special tokens, each a string or an object with its content."""
    entries = settings.get(name) or []
    entries = list(entries.values()) if isinstance(entries, dict) else entries
    names = [entry.get("content") if isinstance(entry, dict) else entry for entry in entries]
    tokens = [entry for entry in names if isinstance(entry, str)]
    if len(tokens) < len(names):
        raise UserError(f"tokenizer_config.json: {name} holds something that is not a token")
    return tokens


def _flag(settings: Mapping[str, Any], name: str) -> bool | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"tokenizer_config.json: {name} is {json.dumps(value)}; expected true, false or null")
    return value
