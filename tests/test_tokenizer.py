"""The tokenizer: 2,000 texts against transformers' golden hashes, truncation, pairs, settings, refusals."""

import functools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from bert_jax.errors import UserError
from bert_jax.tokenizer import Tokenizer, check_max_length
from tests.conftest import PRIMES, ROOT
from tests.tokenizer_texts import (
    BLOCK,
    CASED,
    COUNT,
    MAX_LENGTHS,
    NAMES,
    blocks,
    cased,
    digest,
    directory_of,
    encode,
    ids_and_types,
    texts,
)

GOLDEN = json.loads((ROOT / "tests" / "golden" / "tokenizer.json").read_text(encoding="utf-8"))["hashes"]

corpus = functools.cache(blocks)


@pytest.mark.parametrize("max_length", MAX_LENGTHS)
@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_transformers(name, max_length, request, tmp_path):
    minilm = request.getfixturevalue("minilm") if name.startswith("minilm") else None
    tokenizer = Tokenizer.load(directory_of(name, minilm, tmp_path))
    expected = GOLDEN[name][str(max_length)]
    made = [digest(map(ids_and_types, encode(tokenizer, block, max_length))) for block in corpus()]
    differing = [i * BLOCK for i, pair in enumerate(zip(made, expected, strict=True)) if pair[0] != pair[1]]
    assert not differing, f"blocks of {BLOCK} texts from these on: run tests/parity/test_tokenizer.py to see which"


def test_the_texts_are_what_they_should_be():
    listed = texts()
    assert listed == texts()
    assert len(listed) == COUNT
    flat = [side for text in listed for side in ([text] if isinstance(text, str) else text)]
    assert len(flat) == COUNT + 400
    whole = "".join(flat)
    for wanted in ("\0", "\u200d", "\u2028", "[SEP]", "e\u0301", "é", "中", "ש", "ا", "😀", "!!"):
        assert wanted in whole, ascii(wanted)
    assert "" in flat
    assert max(len(word) for text in flat for word in text.split()) >= 10_000


@pytest.fixture(params=["vocab", "json"])
def form(request):
    return request.param


@pytest.fixture
def tokenizer(form, tmp_path):
    return Tokenizer.load(cased(tmp_path / "tokenizer", form))


def named(ids) -> list[str]:
    return [CASED[i] for i in ids]


def test_a_text_and_a_pair_look_like_this(tokenizer):
    (single,) = tokenizer(["The\tgood!"], max_length=8)
    assert named(single.input_ids) == ["[CLS]", "The", "good", "!", "[SEP]"]
    assert single.input_ids.dtype == single.token_type_ids.dtype == np.int32
    assert not single.token_type_ids.any()
    (pair,) = tokenizer(["The"], ["Good ing"], max_length=20)
    assert named(pair.input_ids) == ["[CLS]", "The", "[SEP]", "Good", "i", "##n", "##g", "[SEP]"]
    assert pair.token_type_ids.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_no_texts_give_no_tokens(tokenizer):
    assert tokenizer([], max_length=8) == tokenizer([], [], max_length=8) == []


def test_texts_and_pairs_must_be_as_many(tokenizer):
    with pytest.raises(ValueError, match="shorter|longer"):
        tokenizer(["a", "b"], ["c"], max_length=8)


@pytest.mark.parametrize(("words", "cut"), [(5, False), (6, False), (7, True), (500, True)])
def test_truncated_says_whether_a_text_was_cut(tokenizer, words, cut):
    (tokens,) = tokenizer(["the " * words], max_length=8)
    assert tokens.truncated is cut
    assert len(tokens.input_ids) == len(tokens.token_type_ids) == min(8, words + 2)
    assert named(tokens.input_ids[[0, -1]]) == ["[CLS]", "[SEP]"]


def test_the_longer_side_of_a_pair_is_cut_first(tokenizer):
    (tokens,) = tokenizer(["the the"], ["good " * 9], max_length=9)
    assert tokens.truncated
    assert tokens.token_type_ids.tolist() == [0] * 4 + [1] * 5
    (fits,) = tokenizer(["the the"], ["good " * 4], max_length=9)
    assert not fits.truncated
    assert len(fits.input_ids) == 9


def test_pairs_of_all_lengths_are_cut_as_the_library_cuts_them(tmp_path):
    directory = cased(tmp_path / "tokenizer", "json")
    ours = Tokenizer.load(directory)
    theirs = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    pairs = [("the " * a, "good " * b) for a in range(13) for b in range(13)]
    for max_length in range(3, 26):
        theirs.enable_truncation(max_length, strategy="longest_first")
        expected = [(encoding.ids, encoding.type_ids) for encoding in theirs.encode_batch(pairs)]
        made = encode(ours, pairs, max_length)
        assert [ids_and_types(tokens) for tokens in made] == expected
        whole = [len(a.split()) + len(b.split()) + 3 for a, b in pairs]
        assert [tokens.truncated for tokens in made] == [length > max_length for length in whole]


def test_a_pair_of_long_texts_takes_bounded_memory(tmp_path):
    """Two texts of 4,000 tokens are some kilobytes; the process gets 2 GB."""
    directory = cased(tmp_path / "tokenizer", "vocab")
    code = (
        "import resource, sys; from pathlib import Path; from bert_jax.tokenizer import Tokenizer\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "(tokens,) = Tokenizer.load(Path(sys.argv[1]))(['the ' * 4000], ['good ' * 4000], max_length=16)\n"
        "assert tokens.truncated and len(tokens.input_ids) == 16"
    )
    done = subprocess.run([sys.executable, "-c", code, str(directory)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_cut_does_not_linger(tokenizer):
    tokenizer(["the the the the"], max_length=3)
    (tokens,) = tokenizer(["the the the the"], max_length=8)
    assert len(tokens.input_ids) == 6


@pytest.mark.parametrize("max_length", [2, 1, 0, -1])
def test_max_length_has_a_least(tokenizer, max_length):
    with pytest.raises(UserError, match=f"max length is {max_length}; expected at least 3"):
        tokenizer(["a"], max_length=max_length)
    assert len(tokenizer(["a b c"], max_length=3)[0].input_ids) == 3


@pytest.mark.parametrize("max_length", [2, PRIMES.max_position_embeddings + 1])
def test_max_length_fits_the_positions(max_length):
    check_max_length(3, PRIMES)
    check_max_length(PRIMES.max_position_embeddings, PRIMES)
    with pytest.raises(UserError, match=rf"--max-length is {max_length}.*3 to 67 tokens"):
        check_max_length(max_length, PRIMES)


def test_a_vocabulary_larger_than_the_embedding_is_refused(tokenizer):
    assert tokenizer.size == len(CASED)
    tokenizer.check_fits(PRIMES.replace(vocab_size=len(CASED)), "HERE")
    with pytest.raises(
        UserError, match=rf"HERE: the tokenizer has {len(CASED)} tokens but vocab_size is {len(CASED) - 1}"
    ):
        tokenizer.check_fits(PRIMES.replace(vocab_size=len(CASED) - 1), "HERE")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_lower_case": True}, ["e"]),
        ({"do_lower_case": True, "strip_accents": None}, ["e"]),
        ({"do_lower_case": True, "strip_accents": False}, ["é"]),
        ({"do_lower_case": False}, ["É"]),
        ({"do_lower_case": False, "strip_accents": None}, ["É"]),
        ({"do_lower_case": False, "strip_accents": True}, ["E"]),
    ],
)
def test_strip_accents_follows_lower_casing_unless_told(form, settings, expected, tmp_path):
    tokenizer = Tokenizer.load(cased(tmp_path / "tokenizer", form, **settings))
    (tokens,) = tokenizer(["É"], max_length=8)
    assert named(tokens.input_ids[1:-1]) == expected


@pytest.mark.parametrize(("setting", "expected"), [(True, ["中", "国"]), (None, ["中", "国"]), (False, ["[UNK]"])])
def test_chinese_characters_are_words_unless_told(form, setting, expected, tmp_path):
    settings = {} if setting is None else {"tokenize_chinese_chars": setting}
    tokenizer = Tokenizer.load(cased(tmp_path / "tokenizer", form, **settings))
    (tokens,) = tokenizer(["中国"], max_length=8)
    assert named(tokens.input_ids[1:-1]) == expected


def test_a_bare_vocabulary_lower_cases_by_default(tmp_path):
    directory = cased(tmp_path / "tokenizer", "vocab")
    (directory / "tokenizer_config.json").unlink()
    (tokens,) = Tokenizer.load(directory)(["É THE"], max_length=8)
    assert named(tokens.input_ids[1:-1]) == ["e", "the"]


def test_windows_line_ends_and_a_missing_last_one_change_nothing(tmp_path):
    directory = cased(tmp_path / "tokenizer", "vocab")
    before = Tokenizer.load(directory).backend.get_vocab()
    (directory / "vocab.txt").write_bytes("\r\n".join(CASED).encode())
    assert Tokenizer.load(directory).backend.get_vocab() == before


def test_special_tokens_may_have_other_names(tmp_path):
    settings = {"cls_token": "«", "sep_token": {"content": "»", "special": True}}
    tokenizer = Tokenizer.load(cased(tmp_path / "tokenizer", "vocab", **settings))
    (tokens,) = tokenizer(["the"], ["good"], max_length=8)
    assert named(tokens.input_ids) == ["«", "the", "»", "good", "»"]


@pytest.mark.parametrize("kind", ["UNK", "CLS", "SEP"])
def test_missing_special_tokens_are_named(kind, tmp_path):
    directory = cased(tmp_path / "tokenizer", "vocab")
    kept = [token for token in CASED if token != f"[{kind}]"]
    (directory / "vocab.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"vocab\.txt: no \[{kind}\] in the vocabulary"):
        Tokenizer.load(directory)


def test_several_missing_special_tokens_are_named_at_once(tmp_path):
    directory = cased(tmp_path / "tokenizer", "json", sep_token="</s>", cls_token="<s>")
    with pytest.raises(UserError, match=r"tokenizer\.json: no <s> </s> in the vocabulary"):
        Tokenizer.load(directory)


def test_no_vocabulary_at_all_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json and no vocab\.txt"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_settings_of_the_wrong_type_are_named(form, name, tmp_path):
    with pytest.raises(UserError, match=rf'tokenizer_config\.json: {name} is "yes"; expected true, false or null'):
        Tokenizer.load(cased(tmp_path / "tokenizer", form, **{name: "yes"}))


def test_a_special_token_of_the_wrong_type_is_named(form, tmp_path):
    with pytest.raises(UserError, match=r"tokenizer_config\.json: cls_token is 7; expected a string"):
        Tokenizer.load(cased(tmp_path / "tokenizer", form, cls_token=7))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0"}', '{"version": "1.0", "model": {"type": "X"}}'])
def test_a_damaged_tokenizer_json_is_said(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_that_is_not_utf8_is_said(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("[PAD]\né".encode("latin-1"))
    with pytest.raises(UserError, match=r"vocab\.txt: not UTF-8 at byte 6"):
        Tokenizer.load(tmp_path)


ADDED = {
    "content": "«new»",
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
    "special": True,
}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("added_tokens.json", {"«new»": len(CASED)}),
        ("tokenizer_config.json", {"do_lower_case": False, "added_tokens_decoder": {str(len(CASED)): ADDED}}),
    ],
)
def test_tokens_added_beside_the_vocabulary_are_not_dropped_in_silence(file, content, tmp_path):
    """transformers gives such a token its id; leaving it out would feed the model other tokens."""
    directory = cased(tmp_path / "tokenizer", "vocab")
    (directory / file).write_text(json.dumps(content), encoding="utf-8")
    try:
        tokenizer = Tokenizer.load(directory)
    except UserError:
        return  # refused, which is not silence
    (tokens,) = tokenizer(["the «new» the"], max_length=8)
    assert tokens.input_ids[2] == len(CASED)


def test_a_token_of_the_vocabulary_may_be_made_special(form, tmp_path):
    """It is then found inside of words too, as transformers finds it."""
    plain = Tokenizer.load(cased(tmp_path / "plain", form))
    special = {str(CASED.index("San")): {**ADDED, "content": "San"}}
    marked = Tokenizer.load(cased(tmp_path / "marked", form, added_tokens_decoder=special))
    assert named(plain(["theSan"], max_length=9)[0].input_ids[1:-1]) == ["the", "##S", "##a", "##n"]
    assert named(marked(["theSan"], max_length=9)[0].input_ids[1:-1]) == ["the", "San"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("added_tokens.json", {"«new»": 500}, "token '«new»' cannot have id 500"),
        ("added_tokens.json", {"the": 7}, "token 'the' cannot have id 7"),
        ("added_tokens.json", {"«new»": "500"}, "token '«new»' cannot have id 500"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"500": ADDED}}, "token '«new»' cannot have id 500"),
        ("tokenizer_config.json", {"added_tokens_decoder": [ADDED]}, "added tokens are malformed"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": ADDED}}, "added tokens are malformed"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"500": {}}}, "added tokens are malformed"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"500": {"content": 7}}}, "added tokens are malformed"),
    ],
)
def test_added_tokens_that_do_not_fit_are_said(file, content, message, tmp_path):
    directory = cased(tmp_path / "tokenizer", "vocab")
    (directory / file).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        Tokenizer.load(directory)
    assert str(caught.value).startswith(f"{directory}: {message}")


def write_json_tokenizer(directory, end, **settings):
    """A tokenizer.json of parts, with the post-processor `end`, that is taken as it is."""
    backend = tokenizers.Tokenizer(models.WordPiece({name: i for i, name in enumerate(CASED)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if end is not None:
        backend.post_processor = end
    backend.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


@pytest.mark.fault(80)
def test_special_tokens_map_names_special_tokens(tmp_path):
    directory = cased(tmp_path / "tokenizer", "vocab")
    said = {"additional_special_tokens": ["San"], "cls_token": "«", "sep_token": {"content": "»", "lstrip": True}}
    (directory / "special_tokens_map.json").write_text(json.dumps(said), encoding="utf-8")
    (tokens,) = Tokenizer.load(directory)(["theSan"], max_length=8)
    assert named(tokens.input_ids) == ["«", "the", "San", "»"]


def test_special_tokens_map_is_not_read_beside_a_list_of_added_tokens(tmp_path):
    """As transformers 5 does it."""
    directory = cased(tmp_path / "tokenizer", "vocab", added_tokens_decoder={})
    (directory / "special_tokens_map.json").write_text('{"cls_token": "«"}', encoding="utf-8")
    assert named(Tokenizer.load(directory)(["the"], max_length=8)[0].input_ids) == ["[CLS]", "the", "[SEP]"]


@pytest.mark.fault(80)
@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "XLMRobertaTokenizer", "Mine", ["BertTokenizer"]])
def test_another_class_is_refused_by_name(form, name, tmp_path):
    with pytest.raises(UserError, match=rf"tokenizer_class is {re.escape(repr(name))}; expected one of BertTokenizer"):
        Tokenizer.load(cased(tmp_path / "tokenizer", form, tokenizer_class=name))


def test_another_class_in_the_models_config_is_refused_where_the_tokenizer_is_silent(tmp_path):
    directory = cased(tmp_path / "tokenizer", "vocab", tokenizer_class=None)
    config = PRIMES.replace(vocab_size=len(CASED), source={"tokenizer_class": "BertJapaneseTokenizer"})
    with pytest.raises(UserError, match=r"config\.json: tokenizer_class is 'BertJapaneseTokenizer'"):
        Tokenizer.load(directory).check_fits(config, "HERE")


CLS, SEP = (("[CLS]", CASED.index("[CLS]")), ("[SEP]", CASED.index("[SEP]")))
ROBERTA, BERT = processors.RobertaProcessing(SEP, CLS), processors.BertProcessing(SEP, CLS)


@pytest.mark.parametrize(("end", "between"), [(ROBERTA, ["[SEP]", "[SEP]"]), (BERT, ["[SEP]"])])
@pytest.mark.parametrize("typed", [True, False])
def test_the_post_processor_builds_pairs(end, between, typed, tmp_path):
    names = ["input_ids", "token_type_ids"] if typed else ["input_ids"]
    tokenizer = Tokenizer.load(write_json_tokenizer(tmp_path, end, model_input_names=names))
    (tokens,) = tokenizer(["the"], ["Good"], max_length=9)
    assert named(tokens.input_ids) == ["[CLS]", "the", *between, "Good", "[SEP]"]
    assert tokens.token_type_ids.any() == (typed and end is BERT)
    with pytest.raises(UserError, match=r"max length is 3; expected at least \d: 4 special tokens"):
        Tokenizer.load(write_json_tokenizer(tmp_path, ROBERTA))(["a"], ["b"], max_length=3)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (None, "adds no special token before a text"),
        (processors.ByteLevel(), "post_processor is a ByteLevel"),
        (processors.TemplateProcessing("$A [SEP]", "$A $B [SEP]", [SEP]), "adds no special token before a text"),
        (processors.TemplateProcessing("[CLS] $A", "[CLS] $B $A", [CLS]), "template has the texts 'BA'"),
    ],
)
def test_a_post_processor_that_does_not_suit_is_refused(end, message, tmp_path):
    with pytest.raises(UserError, match=message):
        Tokenizer.load(write_json_tokenizer(tmp_path, end))
