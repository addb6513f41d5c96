"""Numbers that are not finite, before they get into the parameters: row 31."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bert_jax import checkpoint, files
from tests.conftest import ROOT, VOCABULARY
from tests.faults.interrupted import make
from tests.processes import PATIENCE, one_core

BAD = 5
"""The step, of seven, that the row with the bad word comes in."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A run whose model has a word of 3e38, which one training row holds, and the same without that row.

    Arguments of both, and the line of the row.
    """
    directory = tmp_path_factory.mktemp("finite")
    arguments = [*make(directory), "--epochs", "1", "--checkpoint-every", "4"]

    def spoil(tensors):
        tensors["embeddings.word_embeddings.embedding"][VOCABULARY.index("not")] = 3e38

    changed(directory / "model", spoil)
    clean = directory / "clean"
    clean.mkdir()
    for name in ("train", "dev", "test"):
        shutil.copy(directory / f"{name}.tsv", clean)
    lines = (directory / "train.tsv").read_text().split("\n")
    order = np.random.default_rng((0, 0)).permutation(54)
    line = int(order[8 * (BAD - 1) + 3]) + 1  # below the names of the columns
    lines[line] = lines[line].replace("the ", "not ", 1)
    (directory / "train.tsv").write_text("\n".join(lines))
    return arguments, [str(clean) if word == str(directory) else word for word in arguments], line + 1


def changed(model, change):
    """Have `change` alter the tensors of a native model."""
    found = checkpoint.read(model)
    tensors = {name: np.array(array) for name, array in found.tensors.items()}
    change(tensors)
    with files.new_directory(model, overwrite=True) as scratch:
        checkpoint.write(scratch, dataclasses.replace(found, tensors=tensors))


def train(arguments, out, *more, devices=1):
    """The command, on one core so that floats are the same every time: exit code, output, errors."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    found = subprocess.run(
        ["taskset", "-c", str(one_core()), sys.executable, "-m", "train", *arguments, "--out", str(out), *more],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return found.returncode, found.stdout, found.stderr


def saved(out, step):
    """The arrays of the checkpoint of that step, which is the newest one or damaged."""
    from train.run.checkpoints import Checkpoints

    with Checkpoints(out / "checkpoints", print) as checkpoints:
        return checkpoints._read(step)[1]


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("more", "devices"),
    [
        pytest.param((), 1, id="steps"),
        pytest.param(("--steps-per-dispatch", "2", "--accumulate", "2"), 1, id="windows", marks=pytest.mark.slow),
        pytest.param(("--parallel", "pmap"), 2, id="pmap", marks=pytest.mark.slow),
    ],
)
def test_31_a_step_that_is_not_finite_is_not_taken_nor_any_after_it(inputs, tmp_path, more, devices):
    bad, clean, line = inputs
    code, _, errors = train(bad, tmp_path / "bad", *more, "--checkpoint-every", "1000", devices=devices)
    assert code == 2, errors
    assert errors.count("\n") == 1, errors
    assert errors.startswith(f"error: the loss is nan at step {BAD}, which was not taken (the run is saved at step 4)")
    assert f"train.tsv: line {line}; " in errors
    log = (tmp_path / "bad" / "metrics.jsonl").read_text().splitlines()
    assert len(log) == BAD - 1
    code, _, errors = train(clean, tmp_path / "clean", *more, devices=devices)
    assert code == 0, errors
    found, expected = (saved(tmp_path / name, BAD - 1) for name in ("bad", "clean"))
    assert all(np.isfinite(array).all() for array in found.values())
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    if not more:  # what is saved goes on, to the same end
        code, output, errors = train(bad, tmp_path / "bad", "--checkpoint-every", "1000")
        assert "resumed  at step 4 of 7" in output
        assert (code, errors.count(f"at step {BAD}, which was not taken")) == (2, 1)


@pytest.mark.fault(31)
def test_31_gradients_alone_are_looked_at_too(inputs, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(inputs[1][1], model)

    def spoil(tensors):
        tensors["classifier.kernel"] *= np.float32(1e25)

    changed(model, spoil)
    code, _, errors = train(["--model", str(model), *inputs[1][2:]], tmp_path / "run")
    assert code == 2, errors
    assert errors.startswith("error: the gradients' norm is inf at step 1, which was not taken; its examples are")
    assert "train.tsv: lines" in errors
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.fault(31)
@pytest.mark.slow
def test_31_a_rate_that_makes_a_run_diverge(inputs, tmp_path):
    code, _, errors = train(inputs[1], tmp_path / "run", "--learning-rate", "1e30", "--weight-decay", "0")
    assert (code, errors.count("\n")) == (2, 1), errors
    assert "lower --learning-rate" in errors
    step = int(errors.split("the run is saved at step ")[1].split(")")[0])
    assert all(np.isfinite(array).all() for array in saved(tmp_path / "run", step).values())
