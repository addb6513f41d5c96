"""A tokenizer's files to the `tokenizers` library's tokenizer, with what transformers makes of its settings."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from bert_jax.errors import UserError
from bert_jax.files import decode, parse_json

FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files of a checkpoint that belong to its tokenizer; one of the first two is needed."""

_MOST_CHARACTERS = 1_000
"""In a word that WordPiece looks at; BERT's is 100. Its time grows with their cube."""

_SPECIAL_TOKENS = ("pad", "unk", "cls", "sep", "mask")

BERT_CLASSES = (None, "BertTokenizer", "BertTokenizerFast")
"""Values of `tokenizer_class` that mean BERT's own tokenizer; others take `tokenizer.json` as it is."""


def build(files: Mapping[str, bytes], where: Path) -> tuple[tokenizers.Tokenizer, str, str]:
    """The library's tokenizer of files' contents by name, and what it calls [CLS] and [SEP].

    Raises `UserError`, naming a file in the directory `where`, for what is missing, malformed or
    without bounds, and for a vocabulary without [PAD], [UNK], [CLS] or [SEP].
    """
    settings = _json(files, "tokenizer_config.json", where)
    names = special_names(settings)
    path = where / ("tokenizer.json" if "tokenizer.json" in files else "vocab.txt")
    if path.name not in files:
        raise UserError(f"{where}: no tokenizer.json and no vocab.txt; a checkpoint needs one of them")
    content = files[path.name]
    if path.name == "tokenizer.json":
        backend = _from_json(content, path, settings)
    else:
        backend = _from_vocabulary(decode(content, path), settings, names)
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
    if max(backend.get_vocab(with_added_tokens=True).values()) >= 2**31:
        raise UserError(f"{path}: a token id of 2^31 or more; this is not a BERT tokenizer")
    return backend, names["cls"], names["sep"]


@contextlib.contextmanager
def faults_of(where: object) -> Iterator[None]:
    """Have an error of the library's be one of the file `where`, and a panic in Rust, too."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, UserError):
        raise
    except BaseException as error:  # a panic derives from BaseException alone
        raise UserError(f"{where}: not a tokenizer: {error}") from None


def _json(files: Mapping[str, bytes], name: str, where: Path) -> dict[str, Any]:
    return parse_json(files[name], where / name) if name in files else {}


def special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """What `tokenizer_config.json` calls each special token, by kind: pad, unk, cls, sep, mask."""
    return {kind: _token_name(settings, kind) for kind in _SPECIAL_TOKENS}


def _token_name(settings: Mapping[str, Any], kind: str) -> str:
    value = settings.get(f"{kind}_token") or f"[{kind.upper()}]"
    value = value.get("content") if isinstance(value, dict) else value
    if not isinstance(value, str):
        raise UserError(f"tokenizer_config.json: {kind}_token is {value!r}; expected a string")
    return value


def _from_json(content: bytes, path: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    with faults_of(path):
        backend = tokenizers.Tokenizer.from_str(decode(content, path))
    _check_bounded(parse_json(content, path), path)
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        # transformers' BertTokenizer takes the settings' word, and its own defaults where they are
        # silent, over what tokenizer.json says; other classes take the file as it is.
        is_bert = settings.get("tokenizer_class") in BERT_CLASSES
        for setting, attribute, default in (
            ("do_lower_case", "lowercase", True),
            ("strip_accents", "strip_accents", None),
            ("tokenize_chinese_chars", "handle_chinese_chars", True),
        ):
            if setting in settings or is_bert:
                value = _flag(settings, setting)
                setattr(backend.normalizer, attribute, default if value is None else value)
    return backend


def _check_bounded(described: dict[str, Any], path: Path) -> None:
    """Raise `UserError` where a text could take the library any time."""
    model = described.get("model", {})
    characters = model.get("max_input_chars_per_word", 0)
    if characters > _MOST_CHARACTERS:
        raise UserError(f"{path}: max_input_chars_per_word is {characters}; expected at most {_MOST_CHARACTERS:,}")
    todo: list[Any] = [value for name, value in described.items() if name not in ("model", "added_tokens")]
    while todo:
        node = todo.pop()
        if isinstance(node, dict) and "Regex" in node:
            raise UserError(f"{path}: has a regular expression, which can take for ever; BERT's tokenizers have none")
        todo += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


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
