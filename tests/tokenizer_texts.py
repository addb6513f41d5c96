"""Texts that tokenizers trip over, four tokenizers to try them on, and a short name for the result."""

import hashlib
import json
import random
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers.implementations import BertWordPieceTokenizer

from bert_jax.packing import Tokens

Text = str | tuple[str, str]

COUNT, BLOCK = 2000, 50
MAX_LENGTHS = (8, 64, 512)
NAMES = ("minilm_json", "minilm_vocab", "cased_vocab", "cased_json")

_WORDS = (
    "the of and to in a is that it was for on with as be film actor not good bad worst unbelievable reading running "
    "don't e-mail U.S.A. McDonald iPhone ANTIDISESTABLISHMENTARIANISM Zürich Ångström São déjà façade"
).split()
_EMOJI = (
    "😀 😭 🎬 ❤ ❤️ 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🧑🏿‍🚀 🇩🇪 🇯🇵 1️⃣ ©️ 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f "
    "🫠 ‼️ \u200d 👨‍"
).split(" ")
_CASES = (
    "\u0130 \u0131 ß \u1e9e \u017f \u212a \u212b \u2126 \u01c5 \u01c4 Σίσυφος ΌΣΟΣ \ufb01 \ufb00 "
    "Ⅷ ⓐ 𝒜 𝔅 ａＢ ½ ² ℡ ŉ ǰ ΐ"
).split()
_SPECIAL = "[SEP]|[CLS]|[PAD]|[MASK]|[UNK]|[sep]|[SEP|[[SEP]]|[ SEP ]|##ing|##|#|[CLS][SEP]|</s>|<s>|[unused0]".split(
    "|"
)
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»“”‘’‚„—–…‽¿¡§¶†•‰、。「」『』！？؟؛،·՞।॥$€£¥₿+=<>^`~|¬±×÷∞≠"
_WHITESPACE = " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_CONTROL = (
    "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
    + "\xad\u200b\u200c\u200e\u2060\ufeff\ufffc\ufffd\ufffe\uffff\ue000\U000e0001\U0010ffff"
)
_RTL = "שלום עולם בְּרֵאשִׁית مرحبا بالعالم السَّلَامُ עִבְרִית \u202eabc\u202c \u2067x\u2069 ۱۲۳ ١٢٣".split(" ")
_SCRIPTS = (
    "русский ёлка Йод українська ελληνικά ἄνθρωπος हिन्दी क्षत्रिय ไทยกำลัง ქართული አማርኛ ಕನ್ನಡ தமிழ் བོད Tiếng Việt".split()
)


def _characters(*ranges: tuple[int, int], most: int = 8) -> Callable[[random.Random], str]:
    def draw(source: random.Random) -> str:
        lows, highs = zip(*ranges, strict=True)
        places = [source.randrange(len(ranges)) for _ in range(source.randint(1, most))]
        return "".join(chr(source.randint(lows[i], highs[i])) for i in places)

    return draw


def _some(alphabet: str, most: int) -> Callable[[random.Random], str]:
    return lambda source: "".join(source.choice(alphabet) for _ in range(source.randint(1, most)))


def _one(words: list[str]) -> Callable[[random.Random], str]:
    return lambda source: source.choice(words)


_accented = _characters((0xC0, 0x17F), (0x1E00, 0x1EFF), (0x61, 0x7A))
_cjk = _characters((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF))
_kana_hangul = _characters((0x3041, 0x30FF), (0xAC00, 0xD7A3), (0x1100, 0x11FF), (0xFF66, 0xFF9D))

# (weight, maker of one piece)
_PIECES: tuple[tuple[int, Callable[[random.Random], str]], ...] = (
    (24, _one(_WORDS)),
    (10, _characters((0x41, 0x5A), (0x61, 0x7A), most=12)),
    (5, lambda source: f"{source.uniform(-1e6, 1e6):,.{source.randint(0, 4)}f}"),
    (5, _one(_EMOJI)),
    (4, _one(_CASES)),
    (6, _accented),
    (6, lambda source: unicodedata.normalize("NFD", _accented(source))),
    (2, lambda source: "e" + _characters((0x300, 0x36F), most=20)(source)),
    (6, _cjk),
    (4, _kana_hangul),
    (4, _one(_RTL)),
    (4, _one(_SCRIPTS)),
    (4, _one(_SPECIAL)),
    (6, _some(_PUNCTUATION, 6)),
    (1, lambda source: source.choice(_PUNCTUATION) * source.randint(2, 40)),
    (4, _some(_CONTROL, 3)),
    (4, _some(_WHITESPACE, 5)),
    (1, lambda source: source.choice("aAéж中") * source.randint(98, 103)),
)


def _text(source: random.Random) -> str:
    kind = source.random()
    if kind < 0.02:
        return ""
    if kind < 0.03:
        return _some(_WHITESPACE + _CONTROL, 9)(source)
    if kind < 0.04:
        return source.choice(("".join(source.choices("abcXYZé", k=10_000)), source.choice("xé ") * 10_000))
    count = source.randint(100, 250) if kind < 0.08 else source.randint(1, 30)
    weights, makers = zip(*_PIECES, strict=True)
    pieces = [make(source) for make in source.choices(makers, weights, k=count)]
    separator = source.choice((" ", " ", "", None))
    if separator is not None:
        return separator.join(pieces)
    return "".join(piece + source.choice(_WHITESPACE) for piece in pieces)


def texts() -> list[Text]:
    """2,000 texts, every fifth of them a pair; the same ones each time."""
    source = random.Random(0)
    return [(_text(source), _text(source)) if i % 5 == 4 else _text(source) for i in range(COUNT)]


def blocks() -> list[list[Text]]:
    """The texts in 40 blocks of 50."""
    whole = texts()
    return [whole[i : i + BLOCK] for i in range(0, COUNT, BLOCK)]


def digest(encodings: Iterable[tuple[list[int], list[int]]]) -> str:
    """12 hexadecimal digits for the (input ids, type ids) of a block."""
    listed = [[list(ids), list(types)] for ids, types in encodings]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:12]


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéèêüößÅÉçñøøįИиЯяжеσς0123456789".replace("øø", "ø")
CASED = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *_LETTERS,
    *("##" + letter for letter in _LETTERS),
    *"!?.,;:'\"-()[]#…、。«»",
    *"中国人大的一是不了在電影日本語\u3042\u30a2",
    *("##中", "the", "The", "THE", "##ing", "##ed", "good", "Good", "unbe", "##liev", "##able", "San", "São", "\u0301"),
]


def cased(directory: Path, form: str, **settings: object) -> Path:
    """A small cased tokenizer, as `vocab.txt` or as `tokenizer.json`, that does not lower-case."""
    directory.mkdir(parents=True)
    if form == "vocab":
        (directory / "vocab.txt").write_text("\n".join(CASED) + "\n", encoding="utf-8")
    else:
        vocabulary = {token: index for index, token in enumerate(CASED)}
        BertWordPieceTokenizer(vocabulary, lowercase=False).save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def directory_of(name: str, minilm: Path, scratch: Path) -> Path:
    """One of the four tokenizers of `NAMES`, laid into `scratch`, with no other tokenizer file beside it."""
    source, form = name.split("_")
    if source == "cased":
        return cased(scratch / name, form)
    (scratch / name).mkdir(parents=True)
    for file in ("tokenizer_config.json", "tokenizer.json" if form == "json" else "vocab.txt"):
        (scratch / name / file).write_bytes((minilm / file).read_bytes())
    return scratch / name


def encode(tokenize: Callable[..., list], block: list[Text], max_length: int) -> list:
    """What `tokenize(texts, pairs, max_length=...)` makes of singles and pairs mixed, in their order."""
    singles = [text for text in block if isinstance(text, str)]
    pairs = [text for text in block if isinstance(text, tuple)]
    made = {
        str: iter(tokenize(singles, max_length=max_length) if singles else []),
        tuple: iter(tokenize(*map(list, zip(*pairs, strict=True)), max_length=max_length) if pairs else []),
    }
    return [next(made[type(text)]) for text in block]


def ids_and_types(tokens: Tokens) -> tuple[list[int], list[int]]:
    """An encoding of ours as plain lists."""
    return tokens.input_ids.tolist(), tokens.token_type_ids.tolist()
