"""Texts for the parity check: short and long ones, many scripts, pairs, and cases that are hard for tokenizers."""

from collections.abc import Sequence

_LONG = (
    "The night train left late, as it always did in that season, and the carriage smelled of oranges and wet wool. "
    "Across the aisle a man was repairing a clock with a pair of tweezers, laying each wheel on a handkerchief, "
    "and whenever the train lurched he covered the whole arrangement with both hands, as one protects a candle. "
    "Nobody spoke until the border. Then the lights went on, the inspectors came through with their stamps, and it "
    "turned out that everyone in the compartment had been awake all along, listening to the same small ticking. "
)

TEXTS: tuple[str | tuple[str, str], ...] = (
    "",
    "a",
    "No.",
    "it could not be better",
    "It could not be worse!",
    "I have had worse evenings, though I should be hard pressed to say when.",
    "The soup was cold, the waiter was colder, and the bill was the only thing that arrived piping hot.",
    "not good, not bad, not anything",
    "An unhurried, quietly devastating film about two brothers and a boat.",
    "WHY IS EVERYTHING IN CAPITALS",
    "lower case, no full stop",
    "Numbers: 3.14159, 1,000,000, 50%, 1/2, 2024-02-29, +44 20 7946 0000.",
    "Punctuation?! (Some) [of] {it}; 'quoted' \"twice\" -- dashed - and... dotted.",
    "e-mail me at someone@example.org or see https://example.org/path?query=1#part",
    "naïve café déjà vu, Ångström, Škoda, El Niño, crème brûlée",
    "Die Straße zum Bahnhof ist gesperrt, wir kommen später.",
    "Le garçon a mangé une pomme près de la fenêtre.",
    "¿Dónde está la biblioteca? ¡Allí mismo!",
    "Это было лучше, чем я ожидал.",
    "Η ταινία ήταν υπέροχη.",
    "这部电影非常好看",
    "映画はとても良かったです。",
    "영화가 정말 재미있었어요",
    "الفيلم كان رائعا",
    "הסרט היה נהדר",
    "फिल्म बहुत अच्छी थी",
    "ภาพยนตร์ดีมาก",
    "loved it 😍😍 10/10 would cry again 😭👍🏽 👩‍👩‍👧",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "tabs\tand\nnew lines and \u00a0 odd \u2003 spaces",
    "[MASK] and [SEP] and [PAD] written out in a text",
    "the the the the the the the the the the the the the the the the the the the the",
    _LONG,
    _LONG * 3,
    ("A man is playing a guitar.", "Someone makes music."),
    (
        "The door was locked.",
        "Nobody could get in without a key, and the key had been at the bottom of the lake for years.",
    ),
    (_LONG, "A journey by rail."),
    ("Short.", _LONG),
)
"""Single texts and (A, B) pairs."""

_AT_ONCE = 16
"""Maximum number of added tokens in one text, so that a hundred of them do not need a hundred texts."""


def added_texts(tokens: Sequence[str]) -> list[str | tuple[str, str]]:
    """Return texts and pairs in which each of a checkpoint's added tokens occurs alone and inside a word."""
    groups = [tokens[i : i + _AT_ONCE] for i in range(0, len(tokens), _AT_ONCE)]
    alone = [" the ".join(group) for group in groups]
    inside = ["".join(f"go{token}od " for token in group) for group in groups]
    return [*alone, *inside, *zip(inside, alone, strict=True)]
