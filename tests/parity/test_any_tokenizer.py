"""Tokenizers made of the library's parts, read here and by transformers: equal ids, or a refusal by name.

A few dozen in the tests; thousands by

    python -m tests.parity.test_any_tokenizer 5000
"""

import functools
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import FILES
from convert import export
from convert.texts import added_texts
from convert.torch_answers import _encode
from tests.parity.made_tokenizers import make

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")

CASES = 60


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
        reason = str(refusal).split(": ", 1)[1]
        return "refused: " + re.sub(r"token '.*?'", "token ...", re.sub(r"\d+", "N", reason))[:48]
    compare(ours, directory, texts, seed)
    with tempfile.TemporaryDirectory() as exported:
        files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name in FILES}
        for name, content in {**files, **export.tokenizer_files(files, ours, BertConfig(), trained=False)}.items():
            (Path(exported) / name).write_bytes(content)
        (Path(exported) / "config.json").write_bytes((directory / "config.json").read_bytes())
        compare(ours, Path(exported), texts, seed)
        compare(Tokenizer.load(Path(exported)), directory, texts, seed)
    return "equal"


def compare(ours: Tokenizer, directory: Path, texts: list[str], seed: int) -> None:
    """Fail where transformers makes other ids or types of the tokenizer in a directory, of whole texts or cut ones.

    A text with an id that the model has no embedding of is to be refused.
    """
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    size = BertConfig.from_dict(json.loads((directory / "config.json").read_bytes())).vocab_size
    for others in (None, texts[::-1]):
        whole = theirs(texts, others)["input_ids"]
        refused = [i for i, ids in enumerate(whole) if max(ids) >= size]
        for i in refused:
            asked = functools.partial(ours, [texts[i]], others and [others[i]], max_length=10_000)
            assert is_refused(asked), (seed, texts[i])
        kept = [i for i in range(len(texts)) if i not in refused]
        one, two = [texts[i] for i in kept], others and [others[i] for i in kept]
        for most in (10_000, 5 + seed % 7):
            made = theirs(one, two, truncation=True, max_length=most)
            types = made.get("token_type_ids") or [[0] * len(ids) for ids in made["input_ids"]]
            rows = zip(one, ours(one, two, max_length=most), made["input_ids"], types, strict=True)
            for text, tokens, ids, kinds in rows:
                same = tokens.input_ids.tolist() == ids and tokens.token_type_ids.tolist() == kinds
                assert same, (seed, str(directory), text, others is not None, most, tokens, ids, kinds)


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
    return "attention_mask" in names and not is_refused(lambda: Tokenizer.load(directory))


def is_refused(asked: Callable[[], object]) -> bool:
    """Whether what is asked for is refused."""
    try:
        asked()
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
