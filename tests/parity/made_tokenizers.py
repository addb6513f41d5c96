"""Directories with a random tokenizer each, made of the `tokenizers` library's parts and of transformers' settings."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

LETTERS = "abcdeéÉABCß<>/1!中thgo▁Ġ"
WORDS = ["the", "The", "good", "##ing", "##ed", "<e1>", "</e1>", "[E2]", "été", "Straße", "new", "▁the", "Ġgood", "▁<"]
ADDED = ("<e1>", "</e1>", "[E2]", "new", "<new>", "the new", "É!", "中1", "ed", "▁the")
DEFAULTS = {kind: f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
RENAMED = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
NORMALIZERS = (
    normalizers.BertNormalizer(),
    normalizers.BertNormalizer(lowercase=False),
    normalizers.Lowercase(),
    normalizers.NFKC(),
    normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    normalizers.Replace("the", "good"),
    normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]),
    normalizers.Replace(tokenizers.Regex("g+"), "t"),
    normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    normalizers.Strip(),
    normalizers.ByteLevel(),
)
PRE_TOKENIZERS = (
    pre_tokenizers.BertPreTokenizer(),
    pre_tokenizers.BertPreTokenizer(),
    pre_tokenizers.Whitespace(),
    pre_tokenizers.WhitespaceSplit(),
    pre_tokenizers.Metaspace(),
    pre_tokenizers.Metaspace(prepend_scheme="first"),
    pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
    pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
    pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]),
    pre_tokenizers.ByteLevel(add_prefix_space=False),
    pre_tokenizers.ByteLevel(add_prefix_space=True),
    pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(use_regex=False)]),
    pre_tokenizers.Split("the", "merged_with_next"),
    pre_tokenizers.UnicodeScripts(),
    None,
)
BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast", None)
WHOLE_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
OTHERS = ("BertJapaneseTokenizer", "XLMRobertaTokenizer", "MPNetTokenizer", "Mine")


def make(directory: Path, seed: int) -> list[str]:
    """Write the tokenizer of a seed; returns the tokens to be met in the texts."""
    draw = random.Random(seed)
    some: Callable = lambda *choices: draw.choice(choices)  # noqa: E731
    names = dict(some(DEFAULTS, DEFAULTS, RENAMED, {**DEFAULTS, "cls": "<s>", "sep": "</s>"}))
    in_map = some(False, True)
    vocabulary = [name for kind, name in names.items() if kind not in ("pad", "mask") or draw.random() < 0.9]
    draw.shuffle(vocabulary)
    vocabulary += [*LETTERS, *("##" + letter for letter in LETTERS), *draw.sample(WORDS, draw.randint(3, len(WORDS)))]
    settings: dict[str, Any] = {}
    form = some("WordPiece", "WordPiece", "WordPiece", "WordLevel", "Unigram", "BPE")
    classes = BERT_CLASSES if form == "WordPiece" and draw.random() < 0.75 else WHOLE_CLASSES
    kind = some(*classes) if draw.random() < 0.93 else draw.choice(BERT_CLASSES + WHOLE_CLASSES + OTHERS)
    if kind is not None:
        settings["tokenizer_class"] = kind
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if draw.random() < 0.3:
            settings[name] = some(True, False)
    for name in ("truncation_side", "padding_side"):
        if draw.random() < 0.2:
            settings[name] = some("left", "left", "right")
    added = draw.sample(ADDED, draw.randint(0, 4))

    def entry(content: str) -> dict:
        flags = {name: draw.random() < 0.3 for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}
        return {"content": content, **flags}

    entries = [entry(content) for content in added]
    named: dict[str, Any] = {f"{kind}_token": name for kind, name in names.items() if draw.random() < 0.95}
    if draw.random() < 0.4:
        named["additional_special_tokens"] = draw.sample(ADDED, draw.randint(1, 2))
    if draw.random() < 0.2:
        named["extra_special_tokens"] = some(draw.sample(ADDED, 2), {"own_token": draw.choice(ADDED)})
    if draw.random() < 0.2:
        named[some("bos_token", "eos_token", "entity_token")] = some(None, *draw.sample(ADDED, 3))
    if draw.random() < 0.2:
        named["cls_token"] = {**entry(names["cls"]), "special": True}
        if not in_map:
            named["cls_token"]["__type"] = "AddedToken"
    for name in ("pad", "mask", "mask", some(*names)):
        if draw.random() < 0.06:
            (named if some(True, False) else settings)[f"{name}_token"] = some(None, None, "")
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
    count = len(vocabulary)
    if form == "WordPiece" and draw.random() < 0.35:
        (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    else:
        backend = _backend(form, vocabulary, names, draw)
        count = backend.get_vocab_size(with_added_tokens=False)
        if where == "json":
            backend.add_tokens([AddedToken(**one) for one in entries])
        if draw.random() < 0.7:
            backend.add_special_tokens(list(names.values()))
        backend.save(str(directory / "tokenizer.json"))
    config = {"model_type": "bert"} | ({"vocab_size": count} if draw.random() < 0.3 else {})
    (directory / "config.json").write_text(json.dumps(config))
    return [*added, *names.values(), *ADDED]


def _backend(form: str, vocabulary: list[str], names: dict[str, str], draw: random.Random) -> tokenizers.Tokenizer:
    """The tokenizer of a `tokenizer.json`, without added tokens."""
    normalizer = draw.choice(NORMALIZERS) if draw.random() < 0.8 else None
    pre_tokenizer = draw.choice(PRE_TOKENIZERS)
    if draw.random() < 0.5 and form in ("BPE", "Unigram"):
        vocabulary = [*vocabulary, *pre_tokenizers.ByteLevel.alphabet(), *(f"<0x{byte:02X}>" for byte in range(256))]
    table = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    backend = tokenizers.Tokenizer(_model(form, table, names["unk"], draw))
    if normalizer:
        backend.normalizer = normalizer
    if pre_tokenizer:
        backend.pre_tokenizer = pre_tokenizer
    cls, sep = ((names[kind], table[names[kind]]) for kind in ("cls", "sep"))
    pair = draw.choice([f"$B:1 {sep[0]}:1", f"{sep[0]} $B {sep[0]}", "$B:1"])
    template = processors.TemplateProcessing(f"{cls[0]} $A {sep[0]}", f"{cls[0]} $A {sep[0]} {pair}", [cls, sep])
    both = processors.Sequence([processors.ByteLevel(), template])
    ends = [processors.BertProcessing(sep, cls), processors.RobertaProcessing(sep, cls), *[template] * 4, both, None]
    if end := draw.choice(ends):
        backend.post_processor = end
    if draw.random() < 0.2:
        backend.enable_truncation(draw.randint(3, 40), direction=draw.choice(["left", "right"]))
    if draw.random() < 0.2:
        pad = draw.choice(["[PAD]", "<pad>", *ADDED])
        backend.enable_padding(direction=draw.choice(["left", "right"]), pad_token=pad, length=draw.choice([None, 9]))
    return backend


def _model(form: str, table: dict[str, int], unk: str, draw: random.Random) -> Any:
    fallback = draw.random() < 0.3
    if form == "WordPiece":
        return models.WordPiece(table, unk_token=unk)
    if form == "WordLevel":
        return models.WordLevel(table, unk)
    if form == "Unigram":
        return models.Unigram([(token, -draw.random() * 9) for token in table], table[unk], fallback)
    affix = draw.choice([{}, {}, {"end_of_word_suffix": "</w>"}, {"continuing_subword_prefix": "##"}])
    merges = []
    for _ in range(draw.randint(0, 8)):
        one, other = draw.choice("thgoedabc"), draw.choice("thgoedabc")
        if one + other not in table:
            table[one + other] = len(table)
        if (pair := (one, affix.get("continuing_subword_prefix", "") + other)) not in merges:
            merges.append(pair)
    options: dict[str, Any] = {
        "fuse_unk": draw.random() < 0.3,
        "ignore_merges": draw.random() < 0.3,
        "byte_fallback": fallback,
    }
    if draw.random() < 0.05:
        options["dropout"] = 0.5
    if draw.random() < 0.8:
        options["unk_token"] = unk
    return models.BPE(table, merges, **affix, **options)
