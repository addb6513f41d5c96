"""Tokenizers made of the library's parts, read here and by transformers: equal ids, or a refusal by name.

A few dozen in the tests; thousands by

    python -m tests.parity.test_any_tokenizer 5000
"""

import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import FILES
from convert import export
from convert.texts import added_texts
from convert.torch_answers import _encode

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")

CASES = 60
LETTERS = "abcdeéÉABCß<>/1!中"
WORDS = ["the", "The", "good", "##ing", "##ed", "<e1>", "</e1>", "[E2]", "été", "Straße", "new"]
ADDED = ("<e1>", "</e1>", "[E2]", "new", "<new>", "the new", "É!", "中1", "ed")
DEFAULTS = {kind: f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
RENAMED = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
NORMALIZERS = (
    None,
    normalizers.BertNormalizer(),
    normalizers.BertNormalizer(lowercase=False),
    normalizers.Lowercase(),
    normalizers.NFKC(),
    normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    normalizers.Replace("the", "good"),
)
PRE_TOKENIZERS = (
    pre_tokenizers.BertPreTokenizer(),
    pre_tokenizers.Whitespace(),
    pre_tokenizers.WhitespaceSplit(),
    pre_tokenizers.Metaspace(),
)
CLASSES = ("BertTokenizer", "BertTokenizerFast", None, "PreTrainedTokenizerFast", "TokenizersBackend")
OTHERS = ("BertJapaneseTokenizer", "XLMRobertaTokenizer", "MPNetTokenizer", "Mine")


def make(directory: Path, seed: int) -> list[str]:
    """Write the tokenizer of a seed; returns the tokens to be met in the texts."""
    draw = random.Random(seed)
    some = lambda *choices: draw.choice(choices)  # noqa: E731
    names = dict(some(DEFAULTS, DEFAULTS, RENAMED, {**DEFAULTS, "cls": "<s>", "sep": "</s>"}))
    in_map = some(False, True)
    vocabulary = list(names.values())
    draw.shuffle(vocabulary)
    vocabulary += [*LETTERS, *("##" + letter for letter in LETTERS), *draw.sample(WORDS, draw.randint(3, len(WORDS)))]
    settings: dict = {}
    kind = some(*CLASSES, *CLASSES, *CLASSES, draw.choice(OTHERS))
    if kind is not None:
        settings["tokenizer_class"] = kind
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if draw.random() < 0.3:
            settings[name] = some(True, False)
    added = draw.sample(ADDED, draw.randint(0, 4))

    def entry(content: str) -> dict:
        flags = {name: draw.random() < 0.3 for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}
        return {"content": content, **flags}

    entries = [entry(content) for content in added]
    named: dict = {f"{kind}_token": name for kind, name in names.items()}
    if draw.random() < 0.4:
        named["additional_special_tokens"] = draw.sample(ADDED, draw.randint(1, 2))
    if draw.random() < 0.2:
        named["extra_special_tokens"] = some(draw.sample(ADDED, 2), {"own_token": draw.choice(ADDED)})
    if draw.random() < 0.2:
        named[some("bos_token", "eos_token", "entity_token")] = draw.choice(ADDED)
    if draw.random() < 0.2:
        named["cls_token"] = {**entry(names["cls"]), "special": True}
        if not in_map:
            named["cls_token"]["__type"] = "AddedToken"
    numbers = {token: number for number, token in enumerate(vocabulary)}
    for one in entries:
        numbers.setdefault(one["content"], len(numbers))
    where = some("nowhere", "decoder", "file", "json")
    if where == "decoder":
        settings["added_tokens_decoder"] = {str(numbers[one["content"]]): one for one in entries}
    if where == "file":
        beside = {one["content"]: numbers[one["content"]] for one in entries if one["content"] not in vocabulary}
        (directory / "added_tokens.json").write_text(json.dumps(beside))
    if in_map:
        (directory / "special_tokens_map.json").write_text(json.dumps(named))
    else:
        settings |= named
    if draw.random() < 0.2:
        settings["model_input_names"] = some(["input_ids", "attention_mask"], ["input_ids", "token_type_ids"])
    if draw.random() < 0.9 or kind is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if draw.random() < 0.35:
        (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    else:
        table = {token: number for number, token in enumerate(vocabulary)}
        model = some(*[models.WordPiece(table, unk_token=names["unk"])] * 5, models.WordLevel(table, names["unk"]))
        backend = tokenizers.Tokenizer(model)
        if normalizer := draw.choice(NORMALIZERS):
            backend.normalizer = normalizer
        backend.pre_tokenizer = draw.choice(PRE_TOKENIZERS)
        if where == "json":
            backend.add_tokens([AddedToken(**one) for one in entries])
        if draw.random() < 0.7:
            backend.add_special_tokens(list(names.values()))
        cls, sep = ((names[kind], table[names[kind]]) for kind in ("cls", "sep"))
        template = processors.TemplateProcessing(
            single=f"{cls[0]} $A {sep[0]}",
            pair=f"{cls[0]} $A {sep[0]} " + some(f"$B:1 {sep[0]}:1", f"{sep[0]} $B {sep[0]}", "$B:1"),
            special_tokens=[cls, sep],
        )
        ends = (processors.BertProcessing(sep, cls), processors.RobertaProcessing(sep, cls), template, template, None)
        if end := draw.choice(ends):
            backend.post_processor = end
        backend.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return [*added, *names.values(), *ADDED]


def texts_of(tokens: list[str], seed: int) -> list[str]:
    """Texts in which every token stands by itself, in a word and beside others."""
    draw = random.Random(-seed)
    pieces = [*tokens, "the", "The", "good", "goodED", "É", "été", "中", "Straße", "x", " ", "  ", "!", "\t"]
    single = ["", *(f"the {token} good{token}ing" for token in tokens)]
    return [
        *single,
        *(some("", " ").join(draw.choices(pieces, k=draw.randint(1, 12))) for some in [draw_of(draw)] * 12),
    ]


def draw_of(draw: random.Random):
    return lambda *choices: draw.choice(choices)


def outcome(directory: Path, seed: int) -> str:
    """`equal`, or `refused`, with the reason; fails where the two differ."""
    texts = texts_of(make(directory, seed), seed)
    try:
        ours = Tokenizer.load(directory)
    except UserError as refusal:
        return f"refused: {str(refusal).split(': ', 1)[1][:48]}"
    compare(ours, directory, texts, seed)
    with tempfile.TemporaryDirectory() as exported:
        files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name in FILES}
        for name, content in {**files, **export.tokenizer_files(files, ours, BertConfig(), trained=False)}.items():
            (Path(exported) / name).write_bytes(content)
        (Path(exported) / "config.json").write_text(json.dumps({"model_type": "bert"}))
        compare(ours, Path(exported), texts, seed)
        compare(Tokenizer.load(Path(exported)), directory, texts, seed)
    return "equal"


def compare(ours: Tokenizer, directory: Path, texts: list[str], seed: int) -> None:
    """Fail where transformers makes other ids or types of the tokenizer in a directory."""
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    for others in (None, texts[::-1]):
        made = theirs(texts, others)
        types = made.get("token_type_ids") or [[0] * len(ids) for ids in made["input_ids"]]
        rows = zip(texts, ours(texts, others, max_length=10_000), made["input_ids"], types, strict=True)
        for text, tokens, ids, kinds in rows:
            same = tokens.input_ids.tolist() == ids and tokens.token_type_ids.tolist() == kinds
            assert same, (seed, str(directory), text, others is not None, tokens, ids, kinds)


@pytest.mark.parametrize("seed", range(CASES))
def test_ids_are_those_of_transformers_or_the_checkpoint_is_refused(seed, tmp_path):
    outcome(tmp_path, seed)


def test_most_are_read(tmp_path):
    """A test of refusals alone would hold nothing."""
    seen = []
    for seed in range(CASES):
        (tmp_path / str(seed)).mkdir()
        seen.append(outcome(tmp_path / str(seed), seed))
    assert seen.count("equal") > CASES // 3


def test_parity_asks_about_every_added_token_and_takes_no_types_for_zeros(tmp_path):
    seed = next(i for i in range(1000) if untyped(tmp_path / str(i), i))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / str(seed))
    texts = added_texts(sorted(theirs.get_added_vocab()))
    batch, tokens = _encode(theirs, texts, 64)
    assert "token_type_ids" not in batch
    assert not any(kind for _, types in tokens for kind in types)
    met = {number for ids, _ in tokens for number in ids}
    assert set(theirs.get_added_vocab().values()) <= met
    assert [text for text in texts if isinstance(text, tuple)]


def untyped(directory: Path, seed: int) -> bool:
    """Whether a seed's tokenizer is read and gives no types."""
    directory.mkdir()
    make(directory, seed)
    config = directory / "tokenizer_config.json"
    names = json.loads(config.read_text()).get("model_input_names", "token_type_ids") if config.exists() else ""
    return "attention_mask" in names and not outcome_is_refusal(directory)


def outcome_is_refusal(directory: Path) -> bool:
    """Whether we refuse the tokenizer."""
    try:
        Tokenizer.load(directory)
    except UserError:
        return True
    return False


def main(count: int) -> int:
    """Try that many seeds; 1 if any differs."""
    seen, wrong = Counter(), 0
    for seed in range(count):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                seen[outcome(Path(scratch), seed)] += 1
            except Exception as error:
                wrong += 1
                print(type(error).__name__, str(error)[:600], "seed", seed)
    print(json.dumps(dict(seen.most_common()), indent=1, ensure_ascii=False))
    print(f"{count} tokenizers: {seen['equal']} equal, {count - seen['equal'] - wrong} refused, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
