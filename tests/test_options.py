"""Every option of a run is honoured or refused, from Python as from the command line."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bert_jax.command import label_names
from bert_jax.errors import UserError
from tests.conftest import ROOT
from train import fine_tune
from train.__main__ import main
from train.config import HOSTS, TrainConfig
from train.options import flag, number_or_word
from train.run import opening
from train.step import hosts

FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}

HOST = {"coordinator": "here:80", "num_processes": 9, "process_id": 7}
GIVEN = {"checkpoint_every": "7m", "labels": ("no", "yes"), **HOST}
"""Values of options that do not take just any one of their kind."""

OTHER = {"coordinator": "there:80", "num_processes": 8, "process_id": 6}

ALSO = {"stride": {"long_texts": "windows"}, **dict.fromkeys(HOST, HOST)}
"""What an option is given with."""


class Reached(Exception):
    """Carries the options with which a run would read its model and data."""


@pytest.fixture(autouse=True)
def reached(monkeypatch):
    def stop(config, tables=None):
        raise Reached(config)

    monkeypatch.setattr(opening, "prepare", stop)


def value_of(field):
    """A value that is not the default."""
    if field.name in GIVEN:
        return GIVEN[field.name]
    if choices := field.metadata.get("choices"):
        return choices[-1]
    return {bool: True, int: 7, float: 0.5, number_or_word: 0.5, str: "some"}[field.metadata["type"]]


def words(options):
    for name, value in options.items():
        yield flag(name)
        if value is not True:
            yield ",".join(value) if isinstance(value, tuple) else str(value)


def called(how, *arguments, **options):
    with pytest.raises(Reached) as caught:
        how(*arguments, **options)
    [config] = caught.value.args
    return config


@pytest.mark.fault(75)
@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_honoured_alike_or_refused_by_name(name, tmp_path):
    options = {"data": "d", "out": str(tmp_path / "run"), **ALSO.get(name, {}), name: value_of(FIELDS[name])}
    config = called(main, [*words(options)])
    assert getattr(config, name) == value_of(FIELDS[name]) != FIELDS[name].default
    data = options.pop("data")
    if FIELDS[name].metadata["group"] == HOSTS:
        with pytest.raises(UserError, match="^(coordinator|distributed|num_processes|process_id|join_timeout) is for"):
            fine_tune(data, **options)
        with pytest.raises(UserError, match=f"^{name} is for several processes"):
            fine_tune(data, **{name: value_of(FIELDS[name])})
        assert called(fine_tune, data, **{name: FIELDS[name].default}) == TrainConfig(data=data)
    else:
        assert called(fine_tune, data, **options) == config


WRONG = {
    bool: ("yes", 1, 0.0, None),
    int: ("many", "3", 2.5, True, b"3", [3]),
    float: ("fast", "1e-3", True, 1j, [0.5]),
    number_or_word: (b"best", True, 1j, [0.5]),
    str: (b"x", 2.5, True, ["x"], ("x", "y"), {}),
    label_names: ("", "a,a", 5, ["a", "a"], ["a", ""], ["a", 1], None),
}


@pytest.mark.fault(75)
@pytest.mark.parametrize("name", FIELDS)
def test_values_of_another_kind_are_refused_by_name(name):
    field = FIELDS[name]
    kind = field.metadata["type"]
    for value in (*WRONG[kind], *(() if field.default is None else (None,))):
        with pytest.raises(UserError) as caught:
            TrainConfig(**{name: value})
        assert str(caught.value).startswith(f"{flag(name)} is {value!r}; expected ")
    text = "no such" if "choices" in field.metadata else {int: "many", float: "fast", number_or_word: "fast"}.get(kind)
    if text is not None:  # which the command is given, too, and refuses in the same words
        said = []
        for how in (lambda: main([flag(name), text]), lambda: TrainConfig(**{name: text})):
            with pytest.raises(UserError) as caught:
                how()
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_what_python_calls_otherwise_is_taken():
    found = TrainConfig(
        model=Path("a/b"), out=Path("run"), labels=["no", "yes"], checkpoint_every=100, text_column=3,
        epochs=np.int64(3), learning_rate=np.float32(0.5), warmup=0, remat=np.True_, label_separator=np.str_(";"),
    )  # fmt: skip
    plain = TrainConfig(
        model="a/b", out="run", labels=("no", "yes"), checkpoint_every="100", text_column="3",
        epochs=3, learning_rate=0.5, warmup=0.0, remat=True, label_separator=";",
    )  # fmt: skip
    assert found == plain
    assert json.dumps(vars(found)) == json.dumps(vars(plain))
    assert TrainConfig(labels="no,yes").labels == ("no", "yes")


def test_what_python_alone_can_say_wrong_is_refused_by_name():
    rows = [("a text", "a label")]
    for arguments, options, message in (
        (["d"], {"epoch": 3}, "unknown option epoch; did you mean epochs?"),
        (["d"], {"verbose": True}, "unknown option verbose; see python -m train --help"),
        ([rows], {}, "out is missing; expected a run directory to make"),
        ([rows], {"out": "run", "data_name": "x"}, "data_name is for hub ids, and the data are tables in memory"),
        ([rows], {"out": "run", "data_revision": "x"}, "data_revision is for hub ids, and the data are tables"),
        ([None], {"out": "run"}, "data is NoneType; expected a path, a hub id, or tables"),
        ([b"d"], {"out": "run"}, "data is bytes; expected a path, a hub id, or tables"),
        (["d"], {"inspect": True, "quiet": True}, "inspect prints what is understood of the data, and quiet prints"),
        (["d"], {"dtype": "float16"}, "--dtype is 'float16'; expected one of float32, bfloat16"),
        (["d"], {"long_texts": "middle"}, "--long-texts is 'middle'; expected one of head, tail, both, windows"),
    ):
        with pytest.raises(UserError) as caught:
            fine_tune(*arguments, **options)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", FIELDS)
def test_processes_have_the_same_options_but_for_what_is_their_own(name, monkeypatch):
    sent = []
    nothing = SimpleNamespace(checkpoint=SimpleNamespace(config=None, tensors={}), data=(), evaluated={})
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", lambda digests: sent.append(digests) or sent)
    first = TrainConfig(**ALSO.get(name, {}))
    second = dataclasses.replace(first, **{name: value_of(FIELDS[name]) if name not in HOST else OTHER[name]})
    hosts.agree(first, nothing)
    own = ("out", "coordinator", "process_id", "restart", "join_timeout", "model", "revision", "data")
    if name in own:
        hosts.agree(second, nothing)
    else:
        with pytest.raises(UserError, match="process 1 has other options than process 0"):
            hosts.agree(second, nothing)


def test_the_docs_list_what_may_change_when_a_run_goes_on():
    text = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    [section] = re.findall(r"\n## Going on\n(.*?)\n## ", text, re.DOTALL)
    rows = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(--[\w-]+)`", rows)) == {
        flag(name) for name, field in FIELDS.items() if field.metadata["may_change"]
    }
