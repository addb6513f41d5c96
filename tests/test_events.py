"""TensorBoard's files say what metrics.jsonl says."""

import json

import pytest

from bert_jax import extras
from bert_jax.errors import UserError
from bert_jax.run_files import EVENTS
from train.config import TrainConfig
from train.run import opening
from train.run.run_directory import MetricsLog

pytest.importorskip("tensorboardX")


def scalars(run):
    """(name, step, value) of every event, read back from the files' records."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (run / EVENTS).iterdir()
    content, place, found = path.read_bytes(), 0, []
    while place < len(content):
        size = int.from_bytes(content[place : place + 8], "little")
        event = Event.FromString(content[place + 12 : place + 12 + size])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        place += 12 + size + 4
    return found


def test_events_have_the_names_of_the_log_and_go_on_with_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, events=True) as log:
        log.write(step=1, loss=0.5, grad_norm=2.0, learning_rate=0.25)
        log.write(step=1, epoch=1, split="dev", examples=3, accuracy=0.75, confusion=[[1]])
        size = log.sync()
        log.write(step=2, loss=9.0)
    assert scalars(tmp_path) == [
        ("loss", 1, 0.5), ("grad_norm", 1, 2.0), ("learning_rate", 1, 0.25), ("dev/accuracy", 1, 0.75), ("loss", 2, 9.0)
    ]  # fmt: skip
    with MetricsLog(path, size, events=True) as log:  # resumed: step 2 is taken again
        log.write(step=2, loss=0.125)
    assert scalars(tmp_path)[-2:] == [("dev/accuracy", 1, 0.75), ("loss", 2, 0.125)]
    assert len(scalars(tmp_path)) == len(json.loads(f"[{','.join(path.read_text().splitlines())}]")) + 2


def test_without_the_option_there_are_none(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write(step=1, loss=0.5)
    assert not (tmp_path / EVENTS).exists()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(extras, "EXTRAS", {"tensorboard": ("no-such-package",)})
    with pytest.raises(UserError, match=r"^--tensorboard needs no-such-package; run: pip install -e"):
        opening.open_run(TrainConfig(tensorboard=True))
