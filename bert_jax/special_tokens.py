"""The special tokens around a text and around a pair, as a tokenizer's post-processor defines them."""

import json
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from bert_jax.errors import UserError


class Special(NamedTuple):
    """Consecutive special tokens: their ids and their token types, int32 [n] each."""

    ids: np.ndarray
    types: np.ndarray


class Frame(NamedTuple):
    """The special tokens around one or two texts, and the token type of each text's own tokens.

    `edges` are the special tokens before the first text, between two texts, and after the last text.
    """

    edges: tuple[Special, ...]
    types: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return sum(len(edge.ids) for edge in self.edges)

    @property
    def ids(self) -> set[int]:
        """Ids of the special tokens."""
        return {int(number) for edge in self.edges for number in edge.ids}

    @property
    def kinds(self) -> set[int]:
        """Token types of the texts' own tokens and of the special tokens."""
        return {*self.types, *(int(kind) for edge in self.edges for kind in edge.types)}

    def around(self, *texts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and token types, int32 [T] each, of one or two texts with the special tokens around them."""
        ids, types = [self.edges[0].ids], [self.edges[0].types]
        for text, kind, edge in zip(texts, self.types, self.edges[1:], strict=True):
            ids += [np.array(text, np.int32), edge.ids]
            types += [np.full(len(text), kind, np.int32), edge.types]
        return np.concatenate(ids), np.concatenate(types)


def frames(backend: tokenizers.Tokenizer, where: object, *, typed: bool) -> tuple[Frame, Frame]:
    """Return the frames of a single text and of a pair; token types are all 0 unless `typed`.

    Raises `UserError` for a post-processor that is not a template, BERT's or RoBERTa's. Raises `UserError` too for a
    post-processor that adds no special token before a text, as the classifier reads the first token.
    """
    processor: dict[str, Any] = json.loads(backend.to_str())["post_processor"] or {"type": "none"}
    if processor["type"] == "TemplateProcessing":
        special = {name: entry["ids"] for name, entry in processor["special_tokens"].items()}
        single, pair = (_of_template(processor[kind], special, where) for kind in ("single", "pair"))
    elif processor["type"] in ("BertProcessing", "RobertaProcessing"):
        cls, sep = processor["cls"][1], processor["sep"][1]
        second_type = int(processor["type"] == "BertProcessing")
        between = [(sep, 0)] if second_type else [(sep, 0), (sep, 0)]
        single = _frame([[(cls, 0)], [(sep, 0)]], [0])
        pair = _frame([[(cls, 0)], between, [(sep, second_type)]], [0, second_type])
    else:
        single = pair = _frame([[], []], [0])
        if processor["type"] != "none":
            raise UserError(f"{where}: post_processor is a {processor['type']}, which is not supported")
    for frame in (single, pair):
        if not len(frame.edges[0].ids):
            raise UserError(
                f"{where}: the post-processor adds no special token before a text, and a BERT's classifier reads "
                "the first one; save the tokenizer with the post-processor that the model was trained with"
            )
    return (single, pair) if typed else (_untyped(single), _untyped(pair))


def _of_template(parts: list[dict[str, Any]], special: dict[str, list[int]], where: object) -> Frame:
    edges: list[list[tuple[int, int]]] = [[]]
    types, order = [], ""
    for part in parts:
        kind, fields = next(iter(part.items()))
        if kind == "Sequence":
            order += fields["id"]
            types.append(fields["type_id"])
            edges.append([])
        else:
            edges[-1] += [(number, fields["type_id"]) for number in special[fields["id"]]]
    if order not in ("A", "AB"):
        raise UserError(f"{where}: the post-processor's template has the texts {order!r}; expected 'A' or 'AB'")
    return _frame(edges, types)


def _frame(edges: list[list[tuple[int, int]]], types: list[int]) -> Frame:
    arrays = (np.array(edge, np.int32).reshape(-1, 2) for edge in edges)
    return Frame(tuple(Special(edge[:, 0], edge[:, 1]) for edge in arrays), tuple(types))


def _untyped(frame: Frame) -> Frame:
    edges = tuple(Special(edge.ids, np.zeros_like(edge.types)) for edge in frame.edges)
    return Frame(edges, (0,) * len(frame.types))
