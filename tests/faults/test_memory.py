"""A device without enough memory: row 32."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from bert_jax.checkpoint import write
from bert_jax.config import CLASSIFIER
from bert_jax.errors import UserError
from bert_jax.files import new_directory
from bert_jax.packing import Tokens
from tests.conftest import ROOT, random_checkpoint
from tests.faults.conftest import TINY
from tests.processes import PATIENCE, one_core

LIMITED = """
import os, resource, sys
from pathlib import Path
from bert_jax.allocator import keep_freed_memory
resource.setrlimit(resource.RLIMIT_AS, (2**46, 2**46))
keep_freed_memory()  # as the command does where the address space is limited
import jax
from bert_jax.command import run
from train.__main__ import main
jax.devices()
most = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
run(lambda: main(sys.argv[2:]))
"""
MORE = 1_100_000_000
"""Bytes beside what JAX takes once it has started; the compiler and its threads take some of them."""


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Run the command with less memory than its batch needs: exit code, output, errors."""
    directory = tmp_path_factory.mktemp("memory")
    config = TINY.replace(architecture=CLASSIFIER, labels=("0", "1"), num_hidden_layers=1, max_position_embeddings=512)
    with new_directory(directory / "model") as scratch:
        write(scratch, random_checkpoint(config, directory / "source"))
    for name, count in (("train", 256), ("dev", 2)):
        rows = [f"the {'very ' * 505}{('bad', 'good')[i % 2]} film\t{i % 2}\n" for i in range(count)]
        (directory / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    words = f"--model {directory}/model --data {directory} --epochs 1 --max-length 512 --batch-size 256"

    def run(out, *more):
        # One thread of computation, so that the address space taken does not depend on the machine.
        found = subprocess.run(
            [
                "taskset",
                "-c",
                str(one_core()),
                sys.executable,
                "-c",
                LIMITED,
                str(MORE),
                *words.split(),
                "--out",
                str(out),
                *more,
            ],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return found.returncode, found.stdout, found.stderr

    run.directory = directory
    return run


@pytest.mark.fault(32)
@pytest.mark.slow
def test_32_the_error_says_what_would_fit_and_it_does(train, tmp_path):
    code, _, errors = train(tmp_path / "run")
    assert (code, errors.count("\n")) == (2, 1), errors
    found = re.fullmatch(
        r"error: not enough memory: a step on \d+ rows of 512 tokens needs [\d.]+ GB and [\d.]+ [GM]B are there; "
        r"what fits: (--accumulate \d+) \(the same steps, computed in parts\), "
        r"or (--batch-size \d+), or (--max-length \d+)(, or --remat \(layers computed twice\))?"
        r"(, or --dtype bfloat16)?\n",
        errors,
    )
    assert found, errors
    for number, option in enumerate(found.groups()[:3]):
        code, output, errors = train(tmp_path / f"run{number}", *option.split())
        assert code == 0, (option, errors)
        assert "epoch 1/1" in output


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("fixed", "temporary", "said"),
    [
        (950, 1, "the model and its optimizer alone take 950 MB; take a smaller model, or more devices"),
        (100, 600, "close what else uses it"),
        (
            100,
            9_000,
            "fits: --accumulate 14 (the same steps, computed in parts), or --batch-size 16, or --max-length 4",
        ),
    ],
)
def test_32_what_is_said(monkeypatch, fixed, temporary, said):
    """With needs that are made up: the temporary ones grow with tokens, but for 100 MB."""
    from train.config import TrainConfig
    from train.data.token_set import TokenSet
    from train.step import memory
    from train.step.batches import Batches

    tokens = [Tokens(np.zeros(64, np.int32), np.zeros(64, np.int32))] * 256
    data, config = TokenSet.of(tokens, [0] * 256), TrainConfig(batch_size=256, max_length=64)

    def make(config, data):
        return Batches(data, batch_size=config.batch_size, seed=0, micro=config.accumulate)

    def needs(_, batches, graphdef=None):
        computed = batches.shapes.row_counts[-1] * batches.shapes.row_length
        grows = temporary * computed // (256 * 64) if temporary > 1000 else temporary
        return memory.Needs(fixed * 10**6, (grows + 100 * (temporary > 1000)) * 10**6)

    monkeypatch.setattr(memory, "needs", needs)
    error = memory.explain(config, make, lambda config: config.dtype, object(), make(config, data), there=10**9)
    assert said in str(error)
    assert "GB are there" in str(error)


@pytest.mark.fault(32)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 1.5])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 1), (24, 20), (32, 32), (256, 1)])
def test_32_what_is_suggested_is_taken(batch_size, accumulate, share, monkeypatch):
    import dataclasses

    from train.config import TrainConfig
    from train.data.token_set import TokenSet
    from train.step import memory
    from train.step.batches import Batches

    config = TrainConfig(batch_size=batch_size, accumulate=accumulate, max_length=64)
    data = TokenSet.of([Tokens(np.zeros(64, np.int32), np.zeros(64, np.int32))] * 256, [0] * 256)
    monkeypatch.setattr(memory, "needs", lambda _, batches, graphdef=None: memory.Needs(0, int(0.9e9 / share)))
    batches = Batches(data, batch_size=batch_size, seed=0, micro=accumulate)
    said = str(memory.explain(config, lambda *_: batches, lambda _: None, object(), batches, there=10**9))
    for name, value in re.findall(r"--(accumulate|batch-size|max-length) (\d+)", said):
        changed = dataclasses.replace(config, **{name.replace("-", "_"): int(value)})  # or UserError
        assert changed != config
    assert "are there" in said
    for name in ("accumulate", "batch_size", "max_length"):
        for value in memory._candidates(config, name, min(share, 0.95)):
            dataclasses.replace(config, **{name: value})


@pytest.mark.fault(32)
def test_32_it_is_said_before_the_first_step(train, tmp_path, monkeypatch):
    """Where a step cannot fit, nothing is run."""
    from rich.console import Console

    from train.config import parse
    from train.data.prepare import prepare
    from train.run import loop
    from train.step import memory

    directory = train.directory
    words = (
        f"--model {directory}/model --data {directory} --epochs 1 --max-length 512 --batch-size 64 --out {tmp_path}/run"
    )
    config = parse(words.split())
    prepared = prepare(config)
    monkeypatch.setattr(loop.Training, "train", lambda *_, **__: pytest.fail("it was run"))
    monkeypatch.setattr(memory, "limit", lambda: 60_000_000)
    with pytest.raises(UserError, match=r"not enough memory: a step on \d+ rows of 512 tokens .* 60 MB are there"):
        loop.run(config, prepared, Console(quiet=True))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("layers", [2, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("length", [64, 256])
def test_the_rough_estimate_is_near_what_the_compiler_says(layers, length):
    import jax
    from flax import nnx

    from bert_jax.config import BertConfig
    from bert_jax.heads import SequenceClassifier
    from train.data.token_set import TokenSet
    from train.step import memory
    from train.step.batches import Batches
    from train.step.layouts import make_layout
    from train.step.optimizer import fine_tuning
    from train.step.trainer import Trainer

    sizes = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 1000}
    network = BertConfig(**sizes, num_hidden_layers=layers, architecture=CLASSIFIER, labels=("a", "b"))
    graphdef, params = nnx.split(nnx.eval_shape(lambda: SequenceClassifier(network, rngs=nnx.Rngs(0))))
    tokens = [Tokens(np.ones(length, np.int32), np.zeros(length, np.int32))] * 32
    batches = Batches(TokenSet.of(tokens, [0] * 32), batch_size=16, seed=0)
    optimizer = fine_tuning(1e-3, steps=2, warmup_steps=1, weight_decay=0.1, clip_norm=1.0)
    trainer = Trainer(make_layout(network, devices=jax.devices()[:1]), graphdef, optimizer, params, length)
    assert memory.rough(trainer, batches) == pytest.approx(sum(memory.needs(trainer, batches)), rel=0.2)
