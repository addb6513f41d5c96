"""Build a tokenizer of the `tokenizers` library from a checkpoint's files, with settings read as in transformers."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bert_jax.added_tokens import NEEDED, add_tokens, is_own, special_names, wanted_tokens
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
"""Files of a checkpoint that belong to its tokenizer; one of the first two is required."""

_MOST_CHARACTERS = 1_000
"""Maximum of `max_input_chars_per_word`, the characters of a word that WordPiece looks at; BERT's is 100.

WordPiece's time grows with the cube of the number of characters.
"""

BERT_CLASSES = (None, "BertTokenizer", "BertTokenizerFast")
"""Values of `tokenizer_class` that mean BERT's own tokenizer.

For these, transformers does not use the normalizer, the pre-tokenizer and the post-processor in `tokenizer.json`.
"""

WHOLE_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Values of `tokenizer_class` for which `tokenizer.json` is used as it is."""

_NOT_UNDERSTOOD = {
    "split_special_tokens": False,
    "auto_map": None,
    "init_inputs": None,
    "fast_tokenizer_files": None,
    "fix_mistral_regex": False,
    "vocab": None,
}
"""Unsupported settings that would change the token ids, each with the value that does not."""

_SAFE_EXPRESSION = " {2,}"
"""Regular expression in the normalizer of tokenizers converted from sentencepiece; it takes linear time."""


class Built(NamedTuple):
    """The library's tokenizer, the frames of a text and of a pair, the `tokenizer_class`, and the side to truncate."""

    backend: tokenizers.Tokenizer
    single: Frame
    pair: Frame
    said_class: str | None
    truncation_side: str


def build(files: Mapping[str, bytes], where: Path) -> Built:
    """Build the library's tokenizer from the contents of files by name, as transformers 5 builds it.

    Raises `UserError` that names a file in the directory `where`: for files that are missing or malformed, for a
    tokenizer whose time has no bound, for an unsupported `tokenizer_class`, and for a vocabulary without [UNK], [CLS]
    or [SEP].
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
    described: dict[str, Any] = {}
    if path.name == "tokenizer.json":
        with faults_of(path):
            backend = tokenizers.Tokenizer.from_str(content)
        described = parse_json(content.encode(), path)
        _check_bounded(described, path)
        vocabulary = backend.get_vocab(with_added_tokens=False)
    elif said_class in WHOLE_CLASSES:
        raise UserError(f"{where}: tokenizer_class is {said_class}, which needs a tokenizer.json; save it with one")
    else:
        lines = content.replace("\r\n", "\n").removesuffix("\n").split("\n")
        vocabulary = {token: index for index, token in enumerate(lines)}
        backend = tokenizers.Tokenizer(models.WordPiece(vocabulary))
    is_bert = said_class in BERT_CLASSES
    listed: list[dict[str, Any]] = described.get("added_tokens") or []
    if is_bert:
        if not isinstance(backend.model, models.WordPiece):
            kind = type(backend.model).__name__
            raise UserError(f"{path}: the model is {kind}, but tokenizer_class says BERT's, which is WordPiece")
        backend = _bert(vocabulary, settings)
    wanted = wanted_tokens(_json(files, "added_tokens.json", where), listed, where, settings)
    names = special_names(settings) if is_bert else {}
    if is_bert:
        present = {*vocabulary, *(token.content for token in wanted.values())}
        if missing := [names[kind] for kind in NEEDED if names[kind] not in present]:
            raise UserError(f"{path}: no {' '.join(missing)} in the vocabulary; this is not a BERT tokenizer")
    elif described.get("padding"):
        settings.setdefault("pad_token", described["padding"]["pad_token"])
    # An error about added tokens names tokenizer.json if that lists them, and otherwise the directory.
    source = path if listed and "added_tokens_decoder" not in settings else where
    add_tokens(backend, wanted, settings, source, is_bert=is_bert)
    if is_bert:
        _add_post_processor(backend, names["cls"], names["sep"])
    if max(backend.get_vocab(with_added_tokens=True).values(), default=0) >= 2**31:
        raise UserError(f"{path}: a token id of 2^31 or more; this is not a BERT tokenizer")
    typed = "token_type_ids" in (settings.get("model_input_names") or (("token_type_ids",) if is_bert else ()))
    side = settings.get("truncation_side", (described.get("truncation") or {}).get("direction", "right").lower())
    if side not in ("left", "right"):
        raise UserError(f"{where / 'tokenizer_config.json'}: truncation_side is {side!r}; expected 'left' or 'right'")
    return Built(backend, *frames(backend, path, typed=typed), said_class, side)


def checked_class(name: Any, where: object) -> str | None:
    """Return a supported `tokenizer_class`; raise `UserError` with its name if it is not supported."""
    if name not in (*BERT_CLASSES, *WHOLE_CLASSES):
        raise UserError(
            f"{where}: tokenizer_class is {name!r}; expected one of "
            f"{', '.join(filter(None, (*BERT_CLASSES, *WHOLE_CLASSES)))}: others make other ids"
        )
    return name


def merged_settings(files: Mapping[str, bytes], where: Path) -> dict[str, Any]:
    """Return the settings of `tokenizer_config.json`, overridden by those of `special_tokens_map.json`.

    `special_tokens_map.json` is ignored if `tokenizer_config.json` lists its added tokens (`added_tokens_decoder`). The
    special tokens of kinds that only this checkpoint has are collected under `model_specific_special_tokens`.
    """
    settings = dict(_json(files, "tokenizer_config.json", where))
    if settings.get("additional_special_tokens") and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    own_tokens = settings.setdefault("model_specific_special_tokens", {}) or {}
    own_tokens |= {name: settings.pop(name) for name in list(settings) if is_own(name, settings[name])}
    if isinstance(settings.get("extra_special_tokens"), dict):
        own_tokens |= settings.pop("extra_special_tokens")
    if "added_tokens_decoder" not in settings:
        for name, value in _json(files, "special_tokens_map.json", where).items():
            if name == "extra_special_tokens" and isinstance(value, list):
                before = list(settings.get(name) or [])
                value = [*before, *(entry for entry in value if entry not in before)]
            settings[name] = value
        if isinstance(settings.get("extra_special_tokens"), dict):
            own_tokens |= settings.pop("extra_special_tokens")
    settings["model_specific_special_tokens"] = own_tokens
    return settings


@contextlib.contextmanager
def faults_of(where: object) -> Iterator[None]:
    """Turn an error of the library, or a panic in its Rust code, into a `UserError` about the file `where`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, UserError):
        raise
    except BaseException as error:  # a panic derives from BaseException alone
        raise UserError(f"{where}: not a tokenizer: {error}") from None


def _json(files: Mapping[str, bytes], name: str, where: Path) -> dict[str, Any]:
    return parse_json(files[name], where / name) if name in files else {}


def _check_bounded(described: dict[str, Any], path: Path) -> None:
    """Raise `UserError` if a text could take the library unbounded time, or get different ids each time."""
    model = described.get("model", {})
    if model.get("dropout"):
        raise UserError(f"{path}: dropout is {model['dropout']}: ids would be drawn at random; set it to null")
    characters = model.get("max_input_chars_per_word", 0)
    if characters > _MOST_CHARACTERS:
        raise UserError(f"{path}: max_input_chars_per_word is {characters}; expected at most {_MOST_CHARACTERS:,}")
    todo: list[Any] = [value for name, value in described.items() if name not in ("model", "added_tokens")]
    while todo:
        node = todo.pop()
        if isinstance(node, dict) and node.get("Regex", _SAFE_EXPRESSION) != _SAFE_EXPRESSION:
            raise UserError(f"{path}: has a regular expression, which can take for ever; BERT's tokenizers have none")
        todo += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _bert(vocabulary: dict[str, int], settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Return BERT's tokenizer for a vocabulary.

    Everything beside the vocabulary that `tokenizer.json` says about it is ignored, as in transformers.
    """
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


def _flag(settings: Mapping[str, Any], name: str) -> bool | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"tokenizer_config.json: {name} is {json.dumps(value)}; expected true, false or null")
    return value
