"""Add the special tokens that a tokenizer's settings name, and tokens beside its vocabulary, as transformers 5 does."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from bert_jax.errors import UserError

_SPECIAL_TOKENS = ("unk", "sep", "pad", "cls", "mask")

NEEDED = ("unk", "cls", "sep")
"""Kinds of special tokens that BERT's tokenizer needs to convert a text to ids."""


def special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of BERT's special tokens in the settings, by kind: unk, sep, pad, cls, mask.

    Kinds whose setting is null are left out. Raises `UserError` for a null or empty setting of a kind in `NEEDED`.
    """
    values = {kind: settings.get(f"{kind}_token", f"[{kind.upper()}]") for kind in _SPECIAL_TOKENS}
    for kind in NEEDED:
        if values[kind] in (None, ""):
            shown = json.dumps(values[kind])
            raise UserError(f"tokenizer_config.json: {kind}_token is {shown}; expected the name of a token")
    return {kind: _content(value, kind) for kind, value in values.items() if value is not None}


def _content(value: Any, kind: str) -> str:
    value = value.get("content") if isinstance(value, dict) else value
    if not isinstance(value, str):
        raise UserError(f"tokenizer_config.json: {kind}_token is {value!r}; expected a string")
    return value


def is_own(name: str, value: Any) -> bool:
    """Return whether a setting names a special token of a kind that only this checkpoint has."""
    return name.endswith("_token") and not _is_named(name) and isinstance(value, str | dict)


def _named(settings: Mapping[str, Any], is_bert: bool) -> dict[str, Any]:
    """Return the special tokens that the settings name, by content, in transformers' order.

    With `is_bert`, BERT's own special tokens are the defaults.
    """
    tokens = {}
    for kind in ("bos", "eos", *_SPECIAL_TOKENS):
        default = f"[{kind.upper()}]" if is_bert and kind in _SPECIAL_TOKENS else None
        value = settings.get(f"{kind}_token", default)
        if value is not None:
            tokens[_content(value, kind)] = value
    own_tokens = {name: value for name, value in settings.items() if is_own(name, value)}
    own_tokens |= settings["model_specific_special_tokens"]
    return tokens | {_content(value, "extra"): value for value in own_tokens.values()}


def _extra(settings: Mapping[str, Any], older: bool = True) -> dict[str, Any]:
    """Return the special tokens in the list `extra_special_tokens` of the settings, by content.

    With `older`, the list is read under its older name, `additional_special_tokens`, if the new name is not set.
    """
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


def wanted_tokens(
    added: Mapping[str, int], listed: list[dict[str, Any]], where: Path, settings: Mapping[str, Any]
) -> dict[int, AddedToken]:
    """Return the tokens beside the vocabulary, by id.

    They are the `added_tokens_decoder` of the settings (`tokenizer_config.json`) if there is one. Otherwise they are
    the tokens in `added`, the contents of `added_tokens.json`, and in `listed`, the added tokens of `tokenizer.json`.
    Raises `UserError` for malformed tokens.
    """
    wanted: dict[int, AddedToken] = {}
    with _malformed(where):
        if "added_tokens_decoder" in settings:
            for number, entry in (settings["added_tokens_decoder"] or {}).items():
                if not isinstance(entry["content"], str):
                    raise TypeError("a token is no string")
                wanted[int(number)] = _token(entry)
            return wanted
        # transformers reads a list under its older name too late to mark its tokens as special.
        special = {*_extra(settings, older=False), *(_content(v, k) for k, v in settings.items() if _is_named(k) and v)}
        for content, number in added.items():
            wanted[number] = AddedToken(content, normalized=content not in special, special=content in special)
        for entry in listed:
            wanted[entry["id"]] = _token(entry)
    return wanted


def _is_named(key: str) -> bool:
    return key.removesuffix("_token") in ("bos", "eos", *_SPECIAL_TOKENS) and key.endswith("_token")


def add_tokens(
    backend: tokenizers.Tokenizer,
    wanted: Mapping[int, AddedToken],
    settings: Mapping[str, Any],
    where: Path,
    *,
    is_bert: bool,
) -> None:
    """Add tokens to `backend` in transformers' order; raise `UserError` if a token cannot have its id."""
    with _malformed(where):
        reprs = {repr(token) for token in backend.get_added_tokens_decoder().values()}
        contents = {token.content for token in backend.get_added_tokens_decoder().values()}
        named = _named(settings, is_bert)
        adding = [token for _, token in sorted(wanted.items()) if repr(token) not in reprs]
        contents |= {token.content for token in adding}
        for content, entry in {**named, **{k: v for k, v in _extra(settings).items() if k not in named}}.items():
            if content not in contents:
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
