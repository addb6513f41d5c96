"""Checkpoints of any config, tensors and files, read here and by transformers: equal answers, or a refusal by name.

A hundred and fifty in the tests; thousands by

    python -m tests.parity.test_any_checkpoint 5000
"""

import contextlib
import io
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

from bert_jax.config import CLASSIFIER
from bert_jax.errors import UserError
from bert_jax.packing import Rows, from_attention_mask
from bert_jax.parameters import build
from convert import conversion, names
from convert.__main__ import main as convert
from convert.layouts import SAME
from convert.names import POSITION_IDS

pytestmark = [pytest.mark.parity, pytest.mark.xdist_group("any checkpoint")]  # `seen` is theirs together
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.parity import checkpoints  # noqa: E402

CASES = 150
NEAR, TIMES = 1e-5, 8
"""An array may be off by so much of the root of its mean square, and so many times as much as torch itself is."""

TEXTS = ("", "a very good film", "not bad, not good!", "The bookly film was a film of films", "bad " * 60, "b c d")
FULL = 4
"""The text longer than any model takes: alone, it is a batch without padding, for which transformers has other code."""
SECOND = (None, "a bad film", "", "good", "the very bad film " * 20, "!")

HERE_ALONE = {
    "a field without meaning here has another type": r"Validation error for field '(use_cache|tie_word_embeddings|"
    r"is_encoder_decoder|return_dict|output_hidden_states|transformers_version|chunk_size_feed_forward|label2id)'|"
    r"property 'use_return_dict'|validate_layer_type",
    "0 or null for false": r"Validation error for field '(is_decoder|add_cross_attention)'",
    "attention computed in a way that is not there": "FlashAttention2|Specified `attn_implementation",
    "a chunk's size that does not divide the length": r"dimension to be chunked|'>' not supported",
    "a dtype that is none; the file's is taken": "list index out of range|module 'torch' has no attribute",
    "num_labels is null beside id2label": "'NoneType' object cannot be interpreted as an integer",
    "an index without metadata": "KeyError: 'metadata'",
}
"""Why transformers refuses what is read here, and what it then says; none of it says anything about the answers."""

UNLIKE = ("architectures", "label2id", "dtype", "transformers_version", "_name_or_path", "add_pooling_layer")
"""Fields that an export may say otherwise than its source."""


class Difference(Exception):
    """What two programs do differently."""


class Answer(NamedTuple):
    """What a program makes of a checkpoint.

    Of transformers, arrays are float64 with float32's worst errors beside them, and names of tensors are given.
    """

    tokens: list[tuple[list[int], list[int]]]
    arrays: dict[str, np.ndarray]
    config: dict[str, Any]
    errors: Mapping[str, float] = MappingProxyType({})
    missing: Set[str] = frozenset()
    unused: Set[str] = frozenset()


def outcome(directory: Path, seed: int) -> str:
    """`equal`, or `refused`, or `read here alone`, with the reason; fails where the answers differ."""
    source = directory / "source"
    source.mkdir()
    odd = checkpoints.make(source, seed)
    try:
        read = conversion.read(str(source))
    except UserError as refusal:
        said = str(refusal)
        if "\n" in said or not said.startswith(str(source)) or not any(word in said for word in odd):
            raise Difference(f"refused for nothing that is odd: {odd}: {said}") from None
        return f"refused: {reason(said.removeprefix(str(source)))}"
    classifier = read.checkpoint.config.architecture == CLASSIFIER
    ours = answer(read)
    with contextlib.redirect_stdout(io.StringIO()):
        convert([str(source), str(directory / "native")])
        convert([str(directory / "native"), str(directory / "back"), "--to", "hf"])
    for where in ("native", "back"):
        again = conversion.read(str(directory / where))
        expect(f"{where}: config", again.checkpoint.config, read.checkpoint.config)
        expect(f"{where}: tensors", bits(again), bits(read))
        expect(f"{where}: ids and types", encoded(again), ours.tokens)
    try:
        theirs = asked(source, classifier)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if why := next((why for why, pattern in HERE_ALONE.items() if re.search(pattern, said)), None):
            return f"read here alone: {why}"
        raise Difference(f"transformers does not read it: {odd}: {said}") from error
    check(ours, theirs)
    left = {modern(name) for name in {*read.findings.ignored, *read.findings.tied} if POSITION_IDS not in name}
    expect("tensors unused", left, theirs.unused)
    new = "pooler" in conversion.to_train(read.checkpoint)
    expect("tensors missing", {f"pooler.dense.{kind}" for kind in ("weight", "bias") if new}, theirs.missing)
    for name, value in ours.config.items():
        expect(name, value, theirs.config[name] if theirs.config[name] is not None else value)
    exported = asked(directory / "back", classifier)
    check(exported, theirs)
    expect("tensors missing of the export", theirs.missing, exported.missing)
    expect("tensors unused of the export", set(), exported.unused)
    for name in {*theirs.config, *exported.config} - {*UNLIKE}:
        expect(f"{name} of the export", exported.config.get(name), theirs.config.get(name))
    return "equal"


def check(one: Answer, other: Answer) -> None:
    """Fail where ids differ, or arrays by more than rounding."""
    expect("ids and types", one.tokens, other.tokens)
    expect("arrays", sorted(one.arrays), sorted(other.arrays))
    for name, array in one.arrays.items():
        expected = other.arrays[name]
        expect(f"shape of {name}", array.shape, expected.shape)
        worst, most = np.abs(array - expected).max(), NEAR * np.sqrt(np.mean(np.square(expected)))
        most += TIMES * other.errors.get(name, 0.0)
        if not worst <= most:
            raise Difference(f"{name} is off by {worst:.2g}, more than {most:.2g}")


def expect(what: str, one: Any, other: Any) -> None:
    """Fail where two things differ."""
    if one != other:
        raise Difference(f"{what}: {str(one)[:300]} and {str(other)[:300]}")


def reason(said: str) -> str:
    """The kind of a refusal, without places and numbers."""
    said = re.sub(r"^/|^: |\(.*|[;:] .*layer.*", "", said.split(", expected")[0])
    return re.sub(r"\d+|\[.*|\{.*|'.*", "..", said)[:64]


def modern(name: str) -> str:
    """A tensor's name as transformers says it."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def asks(types: int) -> list[tuple[str, str | None]]:
    """The texts; pairs only where there is a type for the second one."""
    return list(zip(TEXTS, SECOND if types > 1 else [None] * len(TEXTS), strict=True))


def packed(tokens: list[tuple[list[int], list[int]]], length: int) -> tuple[Rows, np.ndarray]:
    """One text a row, and where there is one; all of one shape, so that compiled programs are shared."""
    ids, types, mask = np.zeros((3, len(tokens), length), np.int32)
    for i, (row, kinds) in enumerate(tokens):
        ids[i, : len(row)], types[i, : len(row)], mask[i, : len(row)] = row, kinds, 1
    return from_attention_mask(ids, mask, types), mask.astype(bool)


def encoded(read: conversion.Conversion) -> list[tuple[list[int], list[int]]]:
    """Ids and types of the texts, as we make them."""
    config, tokens = read.checkpoint.config, []
    for text, second in asks(config.type_vocab_size):
        one = read.tokenizer([text], None if second is None else [second], max_length=config.max_position_embeddings)[0]
        tokens.append((one.input_ids.tolist(), one.token_type_ids.tolist()))
    return tokens


def bits(read: conversion.Conversion) -> dict[str, tuple[str, bytes]]:
    """Every tensor to the last bit: with the same config, the same answers."""
    return {name: (array.dtype.name, array.tobytes()) for name, array in read.checkpoint.tensors.items()}


def answer(read: conversion.Conversion) -> Answer:
    """Ours, by the model that users have; not as one program, which would be compiled for each config."""
    config = read.checkpoint.config
    tokens = encoded(read)
    rows, real = packed(tokens, config.max_position_embeddings)
    model: Any = build(config, read.checkpoint.tensors)
    bert = model.bert if config.architecture == CLASSIFIER else model
    hidden = bert.hidden_states(*rows[:4])
    arrays = {f"layer {i}": np.asarray(states)[real] for i, states in enumerate(hidden)}
    arrays["alone"] = np.asarray(hidden[-1][FULL : FULL + 1])
    said = {}
    if config.architecture == CLASSIFIER:
        arrays["logits"] = np.asarray(model(rows))
        said = {"id2label": dict(enumerate(config.labels)), "problem_type": config.problem_type}
    elif config.add_pooling_layer:
        arrays["pooled"] = np.asarray(bert.pool(hidden[-1], rows.first_tokens))
    return Answer(tokens, arrays, said)


def asked(directory: Path, classifier: bool) -> Answer:
    """The same of transformers."""
    parts = ("SequenceClassification", "ForSequenceClassification") if classifier else ("", "Model")
    kind = getattr(transformers, f"AutoModel{'For' * classifier}{parts[0]}")
    if "model_type" not in json.loads((directory / "config.json").read_text()):
        kind = getattr(transformers, f"Bert{parts[1]}")  # Auto would take it from the name of the directory
    model, info = kind.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    length, tokens = model.config.max_position_embeddings, []
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    for text, second in asks(model.config.type_vocab_size):
        one = tokenizer([text], None if second is None else [second], truncation=True, max_length=length)
        tokens.append((one["input_ids"][0], one["token_type_ids"][0]))
    rows, real = packed(tokens, length)
    batch = [torch.from_numpy(array) for array in (rows.input_ids, rows.segment_ids, rows.token_type_ids)]
    single, exact = ({}, {})
    for arrays, dtype in ((single, torch.float32), (exact, torch.float64)):
        with torch.no_grad():
            out = model.eval().to(dtype)(*batch, output_hidden_states=True, return_dict=True)
            one = model(*(array[FULL : FULL + 1] for array in batch), output_hidden_states=True, return_dict=True)
        arrays |= {f"layer {i}": states.numpy()[real] for i, states in enumerate(out.hidden_states)}
        arrays["alone"] = one.hidden_states[-1].numpy()
        if classifier:
            arrays["logits"] = out.logits.numpy()
        elif not info["missing_keys"]:
            arrays["pooled"] = out.pooler_output.numpy()
    errors = {name: float(np.abs(single[name] - array).max()) for name, array in exact.items()}
    expect("mismatched shapes", set(info["mismatched_keys"]), set())
    missing, unused = (set(info[kind]) for kind in ("missing_keys", "unexpected_keys"))
    return Answer(tokens, exact, model.config.to_dict(), errors, missing, unused)


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def seen():
    """The outcomes so far."""
    return []


@pytest.mark.fault(91)
@pytest.mark.parametrize("seed", range(CASES))
def test_answers_are_those_of_transformers_or_the_checkpoint_is_refused(seed, tmp_path, seen):
    seen.append(outcome(tmp_path, seed))


def test_most_are_read(seen):
    """A test of refusals alone would hold nothing."""
    assert seen.count("equal") >= len(seen) / 3


@pytest.mark.parametrize("name", ["pooler.dense.weight", "encoder.layer.{}.attention.self.key.weight"])
def test_a_wrong_layout_is_seen(name, tmp_path, monkeypatch):
    """Of a square matrix, whose shape does not show it."""
    seed = next(seed for seed in range(CASES) if sound(tmp_path / str(seed), seed))
    table = [row._replace(layout=SAME) if row.foreign == name else row for row in names.TABLE]
    monkeypatch.setattr(names, "TABLE", tuple(table))
    (tmp_path / "wrong").mkdir()
    with pytest.raises(Difference, match=r"(layer 1|logits) is off by"):
        outcome(tmp_path / "wrong", seed)


def sound(directory: Path, seed: int) -> bool:
    """Whether nothing is odd of a seed, and it is a classifier."""
    directory.mkdir()
    odd = checkpoints.make(directory, seed)
    return not odd and json.loads((directory / "config.json").read_text()).get("architectures") == [CLASSIFIER]


def main(count: int, first: int = 0) -> int:
    """Try that many seeds; 1 if any differs."""
    seen, wrong = Counter(), 0
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                seen[outcome(Path(scratch), seed)] += 1
            except Exception as error:
                wrong += 1
                print(f"seed {seed}: {type(error).__name__}: {' '.join(str(error).split())[:700]}", flush=True)
    print(json.dumps(dict(seen.most_common()), indent=1, ensure_ascii=False))
    total = Counter(kind.split(":")[0] for kind in seen.elements())
    print(f"{count} checkpoints: {dict(total)}, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
