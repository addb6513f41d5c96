"""Our tokenizer against transformers' own, live and text by text."""

import functools
import json

import pytest

from bert_jax.tokenizer import Tokenizer
from tests.tokenizer_texts import MAX_LENGTHS, NAMES, blocks, cased, digest, directory_of, encode, ids_and_types

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")

from tests.golden import make_tokenizer  # noqa: E402

corpus = functools.cache(blocks)


def first_difference(ours: Tokenizer, theirs, block, max_length: int) -> str | None:
    """Where the two part for the first time, in words; None where they agree."""
    for text, tokens in zip(block, encode(ours, block, max_length), strict=True):
        made, wanted = ids_and_types(tokens), make_tokenizer.encode(theirs, text, max_length)
        if made == (list(wanted[0]), list(wanted[1])):
            continue
        places = zip(*made, *wanted, strict=False)
        place = next((i for i, (a, b, c, d) in enumerate(places) if (a, b) != (c, d)), min(map(len, (made[0], wanted[0]))))
        near = slice(max(0, place - 3), place + 4)
        shown = ascii(text) if len(ascii(text)) < 600 else ascii(text)[:600] + "..."
        return (
            f"max_length {max_length}, token {place} of {shown}\n"
            f"  ours   {theirs.convert_ids_to_tokens(made[0][near])} types {made[1][near]}, {len(made[0])} in all\n"
            f"  theirs {theirs.convert_ids_to_tokens(wanted[0][near])} types {wanted[1][near]}, {len(wanted[0])} in all"
        )
    return None


@pytest.mark.parametrize("max_length", MAX_LENGTHS)
@pytest.mark.parametrize("name", NAMES)
def test_every_text(name, max_length, minilm, tmp_path):
    directory = directory_of(name, minilm, tmp_path)
    ours, theirs = Tokenizer.load(directory), transformers.AutoTokenizer.from_pretrained(directory)
    for block in corpus():
        difference = first_difference(ours, theirs, block, max_length)
        assert difference is None, difference


def test_golden_hashes_are_of_what_transformers_says_today(minilm, tmp_path):
    """One block each; the rest of the file follows from `test_every_text` and tests/test_tokenizer.py."""
    golden = json.loads(make_tokenizer.GOLDEN.read_text(encoding="utf-8"))["hashes"]
    for name in NAMES:
        theirs = transformers.AutoTokenizer.from_pretrained(directory_of(name, minilm, tmp_path))
        made = digest(make_tokenizer.encode(theirs, text, 64) for text in corpus()[0])
        assert made == golden[name]["64"][0]


SETTINGS = [
    {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    for lower in (True, False)
    for strip in (None, True, False)
    for chinese in (True, False)
]


@pytest.mark.parametrize("form", ["vocab", "json"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_mean_what_they_mean_there(settings, form, tmp_path):
    directory = cased(tmp_path / "tokenizer", form, **settings)
    ours, theirs = Tokenizer.load(directory), transformers.AutoTokenizer.from_pretrained(directory)
    difference = first_difference(ours, theirs, ["The É é 中国 e\u0301 İ THE\u2028São", ("ÅÉ 中the", "[SEP] Good")], 64)
    assert difference is None, difference
