"""Our tokenizer against transformers' own, live and text by text."""

import functools
import json

import pytest

from bert_jax.errors import UserError
from bert_jax.tokenizer import Tokenizer
from tests.tokenizer_texts import CASED, MAX_LENGTHS, NAMES, blocks, cased, digest, directory_of, encode, ids_and_types

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")

from tests.golden.make_tokenizer import GOLDEN, Reference  # noqa: E402

corpus = functools.cache(blocks)


def compare(directory, block, max_length: int) -> None:
    """Fail at the first difference, saying where the two part."""
    theirs = Reference(directory)
    made = map(ids_and_types, encode(Tokenizer.load(directory), block, max_length))
    for text, ours, wanted in zip(block, made, encode(theirs, block, max_length), strict=True):
        if ours != wanted:
            pytest.fail(f"max_length {max_length}: {first_difference(text, ours, wanted, theirs.tokenizer)}")


def first_difference(text, ours, wanted, tokenizer) -> str:
    place = 0
    while [side[place : place + 1] for side in ours] == [side[place : place + 1] for side in wanted]:
        place += 1
    near = slice(max(0, place - 3), place + 4)
    shown = ascii(text)
    lines = [f"token {place} of {shown if len(shown) <= 600 else shown[:600] + '...'}"]
    for who, (ids, types) in (("ours", ours), ("theirs", wanted)):
        lines.append(f"  {who:<6} {tokenizer.convert_ids_to_tokens(ids[near])} types {types[near]}, {len(ids)} in all")
    return "\n".join(lines)


@pytest.mark.parametrize("name", NAMES)
def test_every_text(name, minilm, tmp_path):
    directory = directory_of(name, minilm, tmp_path)
    for max_length in MAX_LENGTHS:
        compare(directory, [text for block in corpus() for text in block], max_length)


def test_golden_hashes_are_of_what_transformers_says_today(minilm, tmp_path):
    """One block each; the rest of the file follows from `test_every_text` and tests/test_tokenizer.py."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["hashes"]
    for name in NAMES:
        theirs = Reference(directory_of(name, minilm, tmp_path))
        assert digest(encode(theirs, corpus()[0], 64)) == golden[name]["64"][0]


BLOCK = ["The É é 中国 e\u0301 İ THE\u2028São", ("ÅÉ 中the中", "[SEP] Good"), "a«»b « «the", "aTHE the «new» the"]


def configured(directory, form, settings):
    cased(directory, form)
    config = {"tokenizer_class": "BertTokenizer", **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


@pytest.mark.parametrize("form", ["vocab", "json"])
@pytest.mark.parametrize("lower", [{}, {"do_lower_case": True}, {"do_lower_case": False}])
@pytest.mark.parametrize("strip", [{}, {"strip_accents": None}, {"strip_accents": True}, {"strip_accents": False}])
@pytest.mark.parametrize("chinese", [{}, {"tokenize_chinese_chars": True}, {"tokenize_chinese_chars": False}])
def test_settings_mean_what_they_mean_there(lower, strip, chinese, form, tmp_path):
    compare(configured(tmp_path / "tokenizer", form, {**lower, **strip, **chinese}), BLOCK, 64)


NEW = {"content": "the中", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}


@pytest.mark.parametrize("form", ["vocab", "json"])
@pytest.mark.parametrize(
    ("settings", "added"),
    [
        ({"mask_token": "THE"}, {}),
        ({"added_tokens_decoder": {str(len(CASED)): NEW}}, {}),
        ({"added_tokens_decoder": {str(CASED.index("THE")): {**NEW, "content": "THE"}}}, {}),
        ({"additional_special_tokens": ["«»"]}, {}),
        ({"extra_special_tokens": ["«»"]}, {}),
        ({}, {"«new»": len(CASED)}),
    ],
)
def test_tokens_named_beside_the_vocabulary_mean_what_they_mean_there(settings, added, form, tmp_path):
    directory = configured(tmp_path / "tokenizer", form, {"do_lower_case": False, **settings})
    if added:
        (directory / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    try:
        Tokenizer.load(directory)
    except UserError:
        return  # refused, which is not silence
    compare(directory, BLOCK, 64)
