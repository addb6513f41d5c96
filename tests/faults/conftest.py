"""The fault catalogue is tested through the real commands, in processes of their own."""

import json
import os
import subprocess
import sys

import pytest

from bert_jax import checkpoint, files
from bert_jax.checkpoint import with_classifier
from bert_jax.config import BertConfig
from convert import huggingface
from tests.conftest import ROOT, VOCABULARY, random_checkpoint
from tests.processes import PATIENCE

TINY = BertConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=40,
    max_position_embeddings=48,
)


@pytest.fixture(scope="session")
def without_jax(tmp_path_factory):
    """An environment where importing JAX fails, so that a fault found in it was found before."""
    folder = tmp_path_factory.mktemp("shadow")
    for package in ("jax", "flax"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(f"raise ImportError('{package} imported too early')\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def command(module, *arguments, env=None, **options):
    """Run `python -m MODULE ARGUMENTS` and return what came of it."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    settings = {"cwd": ROOT, "env": env, "capture_output": True, "timeout": PATIENCE, **options}
    if "stdin" not in settings and "input" not in settings:
        settings["stdin"] = subprocess.DEVNULL
    return subprocess.run(words, **settings)


@pytest.fixture
def refused(without_jax, tmp_path):
    """Run a command that must be refused: exit 2, one line naming all `fragments`, nothing written."""

    def check(module, *arguments, fragments, **options):
        before = sorted(tmp_path.rglob("*"))
        done = command(module, *arguments, **{"env": without_jax, **options})
        errors = done.stderr.decode()
        assert done.returncode == 2, errors
        assert errors.count("\n") == 1, errors
        assert errors.startswith("error: "), errors
        missing = [fragment for fragment in fragments if str(fragment) not in errors]
        assert not missing, (missing, errors)
        assert done.stdout == b""
        assert sorted(tmp_path.rglob("*")) == before
        return errors

    return check


@pytest.fixture
def encoder(tmp_path):
    """A Hugging Face encoder that a test may damage."""
    directory = tmp_path / "source"
    directory.mkdir()
    huggingface.write(directory, random_checkpoint(TINY, tmp_path / "files"))
    return directory


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """A native classifier."""
    folder = tmp_path_factory.mktemp("classifier")
    made, _ = with_classifier(random_checkpoint(TINY, folder / "files"), ("negative", "positive"), seed=0)
    with files.new_directory(folder / "model") as scratch:
        checkpoint.write(scratch, made)
    return folder / "model"


@pytest.fixture
def edit(encoder):
    """Change the encoder's config.json: `edit(hidden_size=33)`."""

    def change(**changes):
        path = encoder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return path

    return change
