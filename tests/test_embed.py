"""Embeddings: the numbers, against numpy text by text; prompts, lengths, and what a caller can get wrong."""

import functools
import json
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

import bert_jax
from bert_jax import pooling, sentence_layers
from bert_jax.embedder import Embedder
from bert_jax.errors import UserError
from bert_jax.sentence_files import POOLING_FLAGS, POOLINGS
from bert_jax.sentence_modules import read_embedder
from tests.conftest import ROOT
from tests.sentence_models import (
    AN_ORDER,
    EACH_LAYER,
    NORMALIZE,
    PROMPTS,
    SIZE,
    TEXTS,
    TRUNCATED,
    Spec,
    dense,
    golden,
    write_native,
)

assert_close = functools.partial(np.testing.assert_allclose, atol=3e-6, rtol=1e-5)

EACH = Spec({"pooling_mode": list(POOLINGS)})
"""All ways to pool, side by side."""

SPECS = {
    "each way to pool": EACH,
    "an order, and one twice": AN_ORDER,
    "each activation": Spec(
        others=[dense(SIZE, SIZE, activation=name, seed=i) for i, name in enumerate(sentence_layers.ACTIVATIONS)]
    ),
    "each kind of layer": EACH_LAYER,
    "truncated": TRUNCATED,
}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """A mean over tokens with prompts, and its files."""
    spec = Spec(others=[NORMALIZE], model={"prompts": PROMPTS})
    directory = write_native(spec, tmp_path_factory.mktemp("embedder"))
    return Embedder.load(directory), directory, spec


@pytest.mark.parametrize("name", SPECS)
def test_embeddings_are_those_of_numpy(name, tmp_path):
    directory = write_native(SPECS[name], tmp_path)
    embedder = Embedder.load(directory)
    found = embedder(TEXTS * 5)  # several in a row of tokens
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS) * 5, embedder.modules.size)
    assert_close(found, np.tile(golden(directory, SPECS[name], TEXTS), (5, 1)))


def test_older_files_choose_by_flags_in_the_order_of_the_names(tmp_path):
    flags = dict.fromkeys(POOLING_FLAGS, False) | {"pooling_mode_lasttoken": True, "pooling_mode_max_tokens": True}
    chosen = {"pooling_mode": "cls"} | flags  # a name counts, whatever the flags say
    none = dict.fromkeys(POOLING_FLAGS, False)
    cases = [(flags, ("max", "lasttoken")), (chosen, ("cls",)), (none, ("mean",)), ({}, ("mean",))]
    for number, (settings, expected) in enumerate(cases):
        directory = write_native(Spec(settings), tmp_path / str(number))
        assert read_embedder(directory)[2].pooling == expected


def test_each_text_gets_what_it_gets_alone_and_in_order(embedder):
    texts = [f"{'very ' * (i % 23)}good film {'bad ' * (i % 5)}" for i in range(300)]
    together = embedder[0](texts)
    for i in (0, 1, 63, 64, 150, 299):
        np.testing.assert_allclose(together[i], embedder[0]([texts[i]])[0], atol=1e-6)
    found = list(embedder[0].stream(iter(texts)))
    assert [embedding.text for embedding in found] == texts
    np.testing.assert_array_equal(np.stack([embedding.vector for embedding in found]), together)


def test_nothing_in_nothing_out(embedder):
    found = embedder[0]([])
    assert (found.shape, found.dtype) == ((0, SIZE), np.float32)


def test_interactive_embeds_before_it_reads_on(embedder):
    log = []

    def asked():
        for text in ("good", "bad"):
            log.append(text)
            yield text

    for embedding in embedder[0].stream(asked(), interactive=True):
        log.append(embedding.vector)
    assert log[::2] == ["good", "bad"]


@pytest.mark.parametrize("include", [True, False])
def test_prompts(include, tmp_path):
    model = {"prompts": PROMPTS, "default_prompt_name": "passage"}
    spec = Spec({**EACH.pooling, "include_prompt": include}, model=model)
    directory = write_native(spec, tmp_path)
    embedder, plain = Embedder.load(directory), golden(directory, spec, TEXTS)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"prompt_name": "query"}, PROMPTS["query"]),
        ({"prompt": "film the "}, "film the "),
        ({}, PROMPTS["passage"]),
    ]
    for arguments, prompt in cases:
        expected = golden(directory, spec, TEXTS, prompt=prompt)
        assert_close(embedder(TEXTS, **arguments), expected)
        assert not np.allclose(expected, plain)
    empty: list[dict[str, Any]] = [{"prompt": ""}, {"prompt_name": "none"}, {"prompt_name": "document"}]
    for arguments in empty:
        assert_close(embedder(TEXTS, **arguments), plain)


def test_a_text_that_is_gone_without_its_prompt_is_refused(tmp_path):
    spec = Spec({"pooling_mode": "max", "include_prompt": False})
    embedder = Embedder.load(write_native(spec, tmp_path))
    assert np.isfinite(embedder(["", "good"], prompt="a bad ")).all()
    with pytest.raises(
        UserError, match=r"text 'x': none of its tokens is left beside the prompt; shorten the prompt, or"
    ):
        embedder([" good", "x"], prompt="veryly")  # very, ##ly; verylyx is one token, [UNK]


def test_lengths(tmp_path):
    long = ["good " + "bad " * 90 + "film"]

    def check(spec, expected, **arguments):
        directory = write_native(spec, tmp_path / str(len(list(tmp_path.iterdir()))))
        [found] = Embedder.load(directory).stream(long, **arguments)
        assert found.truncated
        assert_close(found.vector, golden(directory, spec, long, max_length=expected)[0])

    check(Spec(), 67)
    check(Spec(transformer={"max_seq_length": 20}), 20)
    check(Spec(transformer={"max_seq_length": None}, tokenizer={"model_max_length": 30}), 30)
    check(Spec(transformer={"max_seq_length": 20}, tokenizer={"model_max_length": 30}), 20)
    check(Spec(tokenizer={"model_max_length": 1e30}), 67)
    check(Spec(transformer={"max_seq_length": 512}), 67)
    check(Spec(transformer={"max_seq_length": 20}), 50, max_length=50)
    check(Spec(transformer={"max_seq_length": 20}, tokenizer={"truncation_side": "left"}), 20)


def test_a_text_of_the_length_is_not_truncated(embedder):
    exact, longer = embedder[0].stream(["bad " * 65, "bad " * 66])
    assert (exact.truncated, longer.truncated) == (False, True)
    np.testing.assert_allclose(exact.vector, longer.vector, atol=1e-6)
    assert "truncated" not in exact.to_dict()
    assert longer.to_dict()["truncated"] is True


def test_lower_case_before_a_tokenizer_that_keeps_case(tmp_path):
    upper, lower = ["GOOD Film", "The BAD"], ["good film", "the bad"]
    for number, (setting, same) in enumerate([(True, True), (False, False)]):
        spec = Spec(transformer={"do_lower_case": setting}, tokenizer={"do_lower_case": False})
        embedder = Embedder.load(write_native(spec, tmp_path / str(number)))
        assert np.allclose(embedder(upper), embedder(lower)) is same


def test_a_checkpoint_without_modules_is_a_mean_and_says_so(tmp_path, primes_directory):
    directory = write_native(Spec(), tmp_path)
    (directory / "modules.json").unlink()
    with pytest.warns(UserWarning, match="native: no modules.json, so an embedding is the mean of all token vectors"):
        found = Embedder.load(directory)(TEXTS)
    assert_close(found, golden(directory, Spec(), TEXTS))
    with warnings.catch_warnings(action="error"):
        chosen = Embedder.load(directory, pooling="cls", normalize=True)(TEXTS)
        from_classifier = Embedder.load(primes_directory, pooling="mean")
    expected = golden(directory, Spec({"pooling_mode": "cls"}), TEXTS, normalize=True)
    assert_close(chosen, expected)
    assert from_classifier(["good"]).shape == (1, SIZE)  # its encoder
    with pytest.raises(UserError, match=r"--pooling is 'median'; expected one of cls, max, mean,"):
        Embedder.load(directory, pooling="median")


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("others", [[], [NORMALIZE]], ids=["without", "normalized"])
def test_normalize_adds_or_removes_the_last_step(others, normalize, tmp_path):
    model = {"truncate_dim": 5}
    directory = write_native(Spec(others=others, model=model), tmp_path)
    kept = Spec(others=others if normalize else [], model=model)
    expected = golden(directory, kept, TEXTS, normalize=normalize)
    assert_close(Embedder.load(directory, normalize=normalize)(TEXTS), expected)


def test_normalize_at_the_end_is_done_once(embedder):
    for normalize, kinds in ((None, ["normalize"]), (True, ["normalize"]), (False, [])):
        modules = read_embedder(embedder[1], normalize=normalize)[2]
        assert [layer.kind for layer in modules.layers] == kinds


def test_bfloat16_is_close(embedder):
    half = Embedder.load(embedder[1], dtype="bfloat16")(TEXTS)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, embedder[0](TEXTS), atol=0.05)
    assert not np.array_equal(half, embedder[0](TEXTS))


def test_every_activation_has_its_function():
    assert tuple(pooling.ACTIVATIONS) == sentence_layers.ACTIVATIONS


CALLED = """
import json, sys
import pandas
import bert_jax
embedder = bert_jax.Embedder.load(sys.argv[1])
def said(call):
    try:
        return str(eval(call).shape)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
print(json.dumps([said(call) for call in json.loads(sys.argv[2])]))
"""
"""A process of its own, as the tests' own checks of types would come first."""

CALLS = {
    "embedder(['a', 'b'])": f"(2, {SIZE})",
    "embedder('a good film')": "TypeError: expected a list of texts, got one string: write [text]",
    "embedder(pandas.DataFrame({'text': ['a']}))": "TypeError: expected a list of texts, got a DataFrame: take",
    "embedder(['a', None])": "UserError: texts[1] is None; expected a string",
    "embedder([float('nan')])": "UserError: texts[0] is nan; expected a string",
    "embedder(['a', 'b', b'c'])": "UserError: texts[2] is b'c'; expected a string",
    r"embedder(['a', '\ud83d'])": "UserError: texts[1] has half a surrogate pair",
    "embedder(['a'], max_length=2)": "UserError: --max-length is 2; this model takes 3 to 67 tokens",
    "embedder(['a'], max_length=68)": "UserError: --max-length is 68; this model takes 3 to 67 tokens",
    "embedder(['a'], max_length='9')": "UserError: --max-length is '9'; expected a whole number",
    "embedder(['a'], prompt_name='querry')": "UserError: --prompt-name is 'querry'; expected one of query, document, "
    "passage, none; did you mean query?",
    "embedder(['a'], prompt_name='query', prompt='b')": "UserError: give --prompt or --prompt-name, not both",
    "embedder(['a'], prompt=7)": "UserError: --prompt is 7; expected a text",
    r"embedder(['a'], prompt='\udc00')": r"UserError: --prompt is '\udc00'; expected a text",
    "bert_jax.Embedder.load(sys.argv[1], dtype='float8')": "UserError: --dtype is 'float8'; expected one of float32",
    "bert_jax.Embedder.load(sys.argv[1], pooling='mean')": "UserError: {}/modules.json: says how to pool; --pooling",
}


def test_wrong_calls_are_answered_in_one_line(embedder):
    words = [sys.executable, "-c", CALLED, str(embedder[1]), json.dumps(list(CALLS))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for found, expected in zip(json.loads(done.stdout), CALLS.values(), strict=True):
        assert found.startswith(expected.replace("{}", str(embedder[1])))
        assert len(found.splitlines()) == 1


def test_the_names_are_those_of_the_library():
    assert bert_jax.Embedder is Embedder
    assert bert_jax.Embedding._fields == ("text", "vector", "truncated")
