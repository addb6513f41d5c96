"""A tokenizer's files to the `tokenizers` library's tokenizer, with what transformers makes of its settings."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from bert_jax.errors import UserError
from bert_jax.files import decode, parse_json
from bert_jax.special_tokens import Frame, frames

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

_SPECIAL_TOKENS = ("unk", "sep", "pad", "cls", "mask")

BERT_CLASSES = (None, "BertTokenizer", "BertTokenizerFast")
"""Values of `tokenizer_class` that mean BERT's own tokenizer: transformers takes but the vocabulary from the files."""

WHOLE_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Values of `tokenizer_class` that mean `tokenizer.json` as it is."""

_NOT_UNDERSTOOD = {"split_special_tokens": False, "auto_map": None, "init_inputs": None}
"""Settings that would change the ids, with the value that does not."""


class Built(NamedTuple):
    """The library's tokenizer, the frames of a text and of a pair, and what `tokenizer_class` says."""

    backend: tokenizers.Tokenizer
    single: Frame
    pair: Frame
    said_class: str | None


def build(files: Mapping[str, bytes], where: Path) -> Built:
    """The library's tokenizer of files' contents by name, made as transformers 5 makes it.

    Raises `UserError`, naming a file in the directory `where`, for what is missing, malformed or
    without bounds, for a tokenizer of another class, and for a vocabulary without [PAD], [UNK], [CLS] or [SEP].
    """
    settings = merged_settings(files, where)
    said_class = checked_class(settings.get("tokenizer_class"), where / "tokenizer_config.json")
    for name, harmless in _NOT_UNDERSTOOD.items():
        if settings.get(name) not in (harmless, None, [], ()):
            raise UserError(f"{where / 'tokenizer_config.json'}: {name} is set, which is not supported; remove it")
    path = where / ("tokenizer.json" if "tokenizer.json" in files else "vocab.txt")
    if path.name not in files:
        raise UserError(f"{where}: no tokenizer.json and no vocab.txt; a checkpoint needs one of them")
    content = decode(files[path.name], path)
    listed: list[dict[str, Any]] = []
    if path.name == "tokenizer.json":
        with faults_of(path):
            backend = tokenizers.Tokenizer.from_str(content)
        described = parse_json(content.encode(), path)
        _check_bounded(described, path)
        listed = described.get("added_tokens") or []
        vocabulary = backend.get_vocab(with_added_tokens=False)
    elif said_class in WHOLE_CLASSES:
        raise UserError(f"{where}: tokenizer_class is {said_class}, which needs a tokenizer.json; save it with one")
    else:
        lines = content.replace("\r\n", "\n").removesuffix("\n").split("\n")
        vocabulary = {token: index for index, token in enumerate(lines)}
        backend = tokenizers.Tokenizer(models.WordPiece(vocabulary))
    is_bert = said_class in BERT_CLASSES
    if is_bert:
        if not isinstance(backend.model, models.WordPiece):
            kind = type(backend.model).__name__
            raise UserError(f"{path}: the model is {kind}, but tokenizer_class says BERT's, which is WordPiece")
        backend = _bert(vocabulary, settings)
    wanted = _wanted(files, listed, where, settings)
    if is_bert:
        there = {*vocabulary, *(token.content for token in wanted.values())}
        needed = [special_names(settings)[kind] for kind in ("pad", "unk", "cls", "sep")]
        if missing := [name for name in needed if name not in there]:
            raise UserError(f"{path}: no {' '.join(missing)} in the vocabulary; this is not a BERT tokenizer")
    # Their own file is named where all the tokens are from it.
    _add_tokens(backend, wanted, settings, path if listed and "added_tokens_decoder" not in settings else where)
    if is_bert:
        names = special_names(settings)
        _add_post_processor(backend, names["cls"], names["sep"])
    if max(backend.get_vocab(with_added_tokens=True).values(), default=0) >= 2**31:
        raise UserError(f"{path}: a token id of 2^31 or more; this is not a BERT tokenizer")
    typed = "token_type_ids" in (settings.get("model_input_names") or (("token_type_ids",) if is_bert else ()))
    return Built(backend, *frames(backend, path, typed=typed), said_class)


def checked_class(name: Any, where: object) -> str | None:
    """A `tokenizer_class` that is understood; else `UserError` with its name."""
    if name not in (*BERT_CLASSES, *WHOLE_CLASSES):
        raise UserError(
            f"{where}: tokenizer_class is {name!r}; expected one of "
            f"{', '.join(filter(None, (*BERT_CLASSES, *WHOLE_CLASSES)))}: others make other ids"
        )
    return name


def merged_settings(files: Mapping[str, bytes], where: Path) -> dict[str, Any]:
    """`tokenizer_config.json`, with `special_tokens_map.json` over it unless the former lists its added tokens."""
    settings = dict(_json(files, "tokenizer_config.json", where))
    if settings.get("additional_special_tokens") and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    own = settings.setdefault("model_specific_special_tokens", {}) or {}
    own |= {name: settings.pop(name) for name in list(settings) if _is_own(name, settings[name])}
    if isinstance(settings.get("extra_special_tokens"), dict):
        own |= settings.pop("extra_special_tokens")
    if "added_tokens_decoder" not in settings:
        for name, value in _json(files, "special_tokens_map.json", where).items():
            if name == "extra_special_tokens" and isinstance(value, list):
                before = list(settings.get(name) or [])
                value = [*before, *(entry for entry in value if entry not in before)]
            settings[name] = value
        if isinstance(settings.get("extra_special_tokens"), dict):
            own |= settings.pop("extra_special_tokens")
    settings["model_specific_special_tokens"] = own
    return settings


def _is_own(name: str, value: Any) -> bool:
    """Whether a setting names a special token of a kind that only this checkpoint has."""
    return name.endswith("_token") and not _is_named(name) and isinstance(value, str | dict)


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
    """What the settings call each of BERT's special tokens, by kind: unk, sep, pad, cls, mask."""
    return {kind: _content(settings.get(f"{kind}_token") or f"[{kind.upper()}]", kind) for kind in _SPECIAL_TOKENS}


def _content(value: Any, kind: str) -> str:
    value = value.get("content") if isinstance(value, dict) else value
    if not isinstance(value, str):
        raise UserError(f"tokenizer_config.json: {kind}_token is {value!r}; expected a string")
    return value


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


def _bert(vocabulary: dict[str, int], settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT's tokenizer of a vocabulary: whatever tokenizer.json says beside it, transformers does not read."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=special_names(settings)["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(settings, "tokenize_chinese_chars") is not False,
        strip_accents=_flag(settings, "strip_accents"),
        lowercase=_flag(settings, "do_lower_case") is not False,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _add_post_processor(backend: tokenizers.Tokenizer, cls: str, sep: str) -> None:
    with faults_of("tokenizer_config.json"):
        backend.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(name, backend.token_to_id(name)) for name in dict.fromkeys((cls, sep))],
        )


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens that the settings name, by the names, in transformers' order; BERT's own by default."""
    kinds = ("bos", "eos", *_SPECIAL_TOKENS)
    is_bert = settings.get("tokenizer_class") in BERT_CLASSES
    found = {}
    for kind in kinds:
        value = settings.get(f"{kind}_token") or (f"[{kind.upper()}]" if is_bert and kind in _SPECIAL_TOKENS else None)
        if value is not None:
            found[_content(value, kind)] = value
    own = {name: value for name, value in settings.items() if _is_own(name, value)}
    own |= settings["model_specific_special_tokens"]
    return found | {_content(value, "extra"): value for value in own.values()}


def _extra(settings: Mapping[str, Any], older: bool = True) -> dict[str, Any]:
    """The special tokens in a list, by their contents; where there is none, those under its `older` name."""
    name = "extra_special_tokens"
    if older and name not in settings:
        name = "additional_special_tokens"
    entries = settings.get(name) or []
    if not isinstance(entries, list):
        raise UserError(f"tokenizer_config.json: {name} is {entries!r}; expected a list of tokens")
    contents = [entry.get("content") if isinstance(entry, dict) else entry for entry in entries]
    if not all(isinstance(content, str) for content in contents):
        raise UserError(f"tokenizer_config.json: {name} holds something that is not a token")
    return {str(content): entry for content, entry in zip(contents, entries, strict=True)}


_TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def _token(entry: Any, **more: Any) -> AddedToken:
    if isinstance(entry, str):
        return AddedToken(entry, special=True)
    return AddedToken(**{name: entry[name] for name in _TOKEN_FIELDS if name in entry} | more)


def _wanted(
    files: Mapping[str, bytes], listed: list[dict[str, Any]], where: Path, settings: Mapping[str, Any]
) -> dict[int, AddedToken]:
    """Tokens beside the vocabulary by id: those of `tokenizer_config.json`, else of the other files."""
    wanted: dict[int, AddedToken] = {}
    with _malformed(where):
        if "added_tokens_decoder" in settings:
            for number, entry in (settings["added_tokens_decoder"] or {}).items():
                if not isinstance(entry["content"], str):
                    raise TypeError("a token is no string")
                wanted[int(number)] = _token(entry)
            return wanted
        # A list under its older name comes too late for transformers to make these tokens special.
        special = {*_extra(settings, older=False), *(_content(v, k) for k, v in settings.items() if _is_named(k) and v)}
        for content, number in _json(files, "added_tokens.json", where).items():
            wanted[number] = AddedToken(content, normalized=content not in special, special=content in special)
        for entry in listed:
            wanted[entry["id"]] = _token(entry)
    return wanted


def _is_named(key: str) -> bool:
    return key.removesuffix("_token") in ("bos", "eos", *_SPECIAL_TOKENS) and key.endswith("_token")


def _add_tokens(
    backend: tokenizers.Tokenizer, wanted: Mapping[int, AddedToken], settings: Mapping[str, Any], where: Path
) -> None:
    """Add tokens in transformers' order; raise `UserError` where one cannot have its id."""
    with _malformed(where):
        there = {repr(token) for token in backend.get_added_tokens_decoder().values()}
        known = {token.content for token in backend.get_added_tokens_decoder().values()}
        named = _named(settings)
        adding = [token for _, token in sorted(wanted.items()) if repr(token) not in there]
        known |= {token.content for token in adding}
        for content, entry in {**named, **{k: v for k, v in _extra(settings).items() if k not in named}}.items():
            if content not in known:
                adding.append(_token(entry, special=True))
        for token in adding:
            token.special = token.special or token.content in named
        if adding:
            backend.add_tokens(adding)
        for number, token in sorted(wanted.items()):
            if backend.token_to_id(token.content) != number:
                raise UserError(
                    f"{where}: token {token.content!r} cannot have id {number}: ids do not follow the vocabulary"
                )


@contextlib.contextmanager
def _malformed(where: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: added tokens are malformed: {error}") from None


def _flag(settings: Mapping[str, Any], name: str) -> bool | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"tokenizer_config.json: {name} is {json.dumps(value)}; expected true, false or null")
    return value
