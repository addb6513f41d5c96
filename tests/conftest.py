"""Shape types are checked in every test, and fixtures that several files share."""

import importlib.metadata
import os
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

# Before any of these modules is imported: wrong ranks and sizes raise when a function is traced.
# Modules without arrays stay as users run them, so that their own validation is what is tested.
SHAPE_CHECKED = [
    *(
        f"bert_jax.{name}"
        for name in ("activations", "attention", "dropout", "embeddings", "encoder", "heads", "model", "packing")
    ),
    *(f"bert_jax.{name}" for name in ("fused_attention", "logits", "norm", "parameters", "predict", "scores", "tasks")),
    *(f"bert_jax.{name}" for name in ("embedder", "pooling", "streaming")),
    *(f"train.step.{name}" for name in ("batches", "evaluator", "gather", "train_step")),
    "train.data.token_set",
    "train.metrics",
    "train.tasks",
]
jaxtyping.install_import_hook(SHAPE_CHECKED, "beartype.beartype")

from bert_jax import files  # noqa: E402
from bert_jax.checkpoint import Checkpoint, parameter_shapes, write  # noqa: E402
from bert_jax.command import MINILM  # noqa: E402
from bert_jax.config import CLASSIFIER, BertConfig  # noqa: E402
from bert_jax.errors import UserError  # noqa: E402
from convert.location import locate  # noqa: E402

ROOT = Path(__file__).parent.parent


HURRIED = "--xla_backend_optimization_level=0"
"""In XLA_FLAGS: compiling is most of what tests do, and so takes less than half of the time."""
if importlib.metadata.version("jaxlib").startswith("0.10."):  # a flag that later ones do not know ends the process
    HURRIED += " --xla_cpu_use_fusion_emitters=false"


def pytest_addoption(parser):
    parser.addoption("--hurried", action="store_true", help="compile programs without most of XLA's optimizations")


def pytest_configure(config):
    if config.getoption("--hurried"):  # before JAX is imported here, and for the commands that tests run
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {HURRIED}".strip()


@pytest.fixture(scope="session", autouse=True)
def _compilation_cache(tmp_path_factory):
    """One cache of compiled programs for a session: its workers and the commands they run; the next begins anew."""
    from bert_jax.compilation import use_cache

    directory = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        directory = directory.parent  # the other workers' too
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory / "compiled")
    use_cache()


# A distinct prime for every axis, so that no two can be mistaken for each other.
PRIMES = BertConfig(
    vocab_size=101,
    hidden_size=21,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=37,
    max_position_embeddings=67,
    type_vocab_size=2,
    architecture=CLASSIFIER,
    labels=("a", "b", "c", "d", "e"),
)

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "not", "a", "the", "very", "##ly"]


def random_checkpoint(config: BertConfig, directory: Path, seed: int = 0) -> Checkpoint:
    """A checkpoint of random weights with its vocabulary file in `directory`."""
    generator = np.random.default_rng(seed)
    tensors = {
        name: (generator.standard_normal(shape) * 0.2 + name.endswith("scale")).astype(np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return Checkpoint(config, tensors, {"vocab.txt": (directory / "vocab.txt").read_bytes()}, {"source": "random"})


def write_random(config: BertConfig, folder: Path) -> Path:
    """The same as a native checkpoint, in `folder`/model."""
    with files.new_directory(folder / "model") as scratch:
        write(scratch, random_checkpoint(config, folder / "files"))
    return folder / "model"


def write_reviews(directory: Path, **counts: int) -> None:
    """Write so many made-up reviews, half of them bad, as NAME.tsv for each name."""
    for name, count in counts.items():
        lines = [f"the {'very ' * (i % 7)}{('bad', 'good')[i % 2]} film\t{i % 2}\n" for i in range(count)]
        (directory / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines))


def read_splits(path: Path, **options):
    """The splits of a data set."""
    from train.config import TrainConfig
    from train.data.reading import read

    return read(TrainConfig(data=str(path), **options)).splits


@pytest.fixture(scope="session")
def primes(tmp_path_factory) -> Checkpoint:
    """A classifier whose axes are distinct primes."""
    return random_checkpoint(PRIMES, tmp_path_factory.mktemp("primes"))


@pytest.fixture(scope="session")
def primes_directory(primes, tmp_path_factory) -> Path:
    """The same, as a native checkpoint on disk."""
    directory = tmp_path_factory.mktemp("native") / "model"
    with files.new_directory(directory) as scratch:
        write(scratch, primes)
    return directory


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The installed MiniLM in the Hugging Face layout; skips where there is none."""
    try:
        return locate(MINILM).directory
    except UserError as error:
        pytest.skip(str(error))
