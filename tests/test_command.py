"""Command lines: help that says everything in 80 columns, examples that parse, typos that are understood."""

import argparse
import re
import shlex

import pytest

import bert_jax.__main__
import convert.__main__
import convert.parity
import train.config
import train.evaluate
from bert_jax.command import Parser, nearest, run
from bert_jax.errors import UserError

COMMANDS = {
    "python -m bert_jax": bert_jax.__main__.main,
    "python -m convert": convert.__main__.main,
    "python -m convert.parity": convert.parity.main,
    "python -m train": train.config.parse,
    "python -m train.evaluate": train.evaluate.main,
}


class Found(Exception):
    """Carries the parser that a command would have used."""


@pytest.fixture(params=COMMANDS)
def parser(request, monkeypatch) -> Parser:
    """Each command's parser, on a terminal of 200 columns."""
    monkeypatch.setenv("COLUMNS", "200")

    def stop(self, *_):
        raise Found(self)

    with monkeypatch.context() as patched:
        patched.setattr(Parser, "parse_args", stop)
        with pytest.raises(Found) as found:
            COMMANDS[request.param]([])
    [parser] = found.value.args
    assert parser.prog == request.param
    return parser


def entries(text: str) -> dict[str, str]:
    """What the help says of each option and argument, by its first word, without white space."""
    blocks = re.split(r"^  (?=\S)", text.partition("\nexamples:")[0], flags=re.MULTILINE)[1:]
    return {block.split()[0].rstrip(","): "".join(block.partition("\n\n")[0].split()) for block in blocks}


def test_help_says_every_option_with_its_default(parser):
    said = entries(parser.format_help())
    for action in parser._actions:
        name = action.option_strings[0] if action.option_strings else action.metavar
        assert len(action.help) > 10, name
        entry = said.pop(name)
        assert "".join(action.help.split()) in entry
        assert all(str(choice) in entry for choice in action.choices or ())
        if any(action.default is nothing for nothing in (None, False, (), argparse.SUPPRESS)):
            assert not re.search(r"\(default:(None|False|\(\)|==SUPPRESS==)\)", entry)
        else:
            assert f"(default:{str(action.default).replace(' ', '')})" in entry
    assert not said


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_help_fits_80_columns(columns, parser, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    text = parser.format_help()
    assert max(map(len, text.splitlines())) <= 80
    description = text.split("\n\n")[1].splitlines()
    assert (max(map(len, description)) <= 40) == (columns == "40")


def test_examples_are_kept_line_by_line_and_parse(parser):
    _, _, last = parser.format_help().partition("\nexamples:\n")
    examples, _, codes = last.partition("\n\nexit codes:\n")
    commands = examples.replace("\\\n", " ").splitlines()
    assert len(commands) >= 2
    for command in commands:
        words = shlex.split(command.partition(" > ")[0])
        assert " ".join(words[:3]) == parser.prog
        parser.parse_args(words[3:])
    assert [line.split()[0] for line in codes.splitlines()] == (
        ["0", "1", "2"] if "parity" in parser.prog else ["0", "2"]
    )


def test_help_begins_with_one_line_of_usage_and_a_paragraph(parser):
    usage, description, *_ = parser.format_help().split("\n\n")
    assert usage.startswith(f"usage: {parser.prog} [OPTION ...]")
    assert "\n" not in usage
    assert "".join(description.split()) == "".join(parser.description.split())
    required = [a.metavar for a in parser._actions if a.required]
    assert all(name in usage for name in required)


def test_every_option_misspelt_is_understood(parser):
    for option in parser._option_string_actions:
        if len(option) > 5:
            for typo in (f"{option[:-3]}{option[-2:]}", option[:-1], option.replace("-", "_").replace("__", "--")):
                if typo not in parser._option_string_actions:
                    with pytest.raises(UserError, match=f"^unknown option {typo}; did you mean {option}\\?$"):
                        parser.parse_args([typo, "value"])


def test_an_unknown_option_is_named_even_where_others_are_missing(capsys):
    for main, given, said in (
        (bert_jax.__main__.main, ["--modle", "x"], "unknown option --modle; did you mean --model?"),
        (bert_jax.__main__.main, ["--modle=x"], "unknown option --modle; did you mean --model?"),
        (train.config.parse, ["--learning-rte", "1"], "unknown option --learning-rte; did you mean --learning-rate?"),
        (train.config.parse, ["--LEARNING_RATE=1"], "unknown option --LEARNING_RATE; did you mean --learning-rate?"),
        (convert.__main__.main, ["--quiet"], "unknown option --quiet; see `python -m convert --help`"),
        (convert.__main__.main, ["-q"], "unknown option -q; see `python -m convert --help`"),
        (convert.__main__.main, ["a", "b", "c"], "unrecognized arguments: c; see `python -m convert --help`"),
    ):
        with pytest.raises(SystemExit) as exited:
            run(lambda main=main, given=given: main(given))
        assert exited.value.code == 2
        assert capsys.readouterr().err == f"error: {said}\n"


def test_a_wrong_choice_is_answered_with_the_nearest():
    for given, said in (
        (["--dtype", "bfloat61"], "--dtype is 'bfloat61'; expected one of float32, bfloat16; did you mean bfloat16?"),
        (["--dtype", "int8"], "--dtype is 'int8'; expected one of float32, bfloat16"),
        (["--to", "HF"], "--to is 'HF'; expected one of native, hf; did you mean hf?"),
    ):
        with pytest.raises(UserError) as caught:
            convert.__main__.main(["a", "b", *given])
        assert str(caught.value) == said


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--batch", "--batch-size"),
        ("--batch_size", "--batch-size"),
        ("--bath-size", "--batch-size"),
        ("--data", "--data"),
        ("--dat", "--data"),
        ("--size", None),
        ("--lr", None),
        ("--d", None),
        ("--", None),
        ("--verbose", None),
    ],
)
def test_the_nearest_name(word, meant):
    assert nearest(word, ["--batch-size", "--data-name", "--data", "--learning-rate"]) == meant


def test_what_only_looks_like_an_option():
    parser = Parser(prog="p")
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--number", type=float)
    assert parser.parse_args(["--number", "-5"]).number == -5
    assert parser.parse_args(["-x and more", "-", "a--b"]).texts == ["-x and more", "-", "a--b"]
    assert parser.parse_args(["--", "--bogus", "-q"]).texts == ["--bogus", "-q"]
