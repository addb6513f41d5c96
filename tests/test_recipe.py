"""Options of the recipe: each is honoured, and changes what it says and nothing else."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from bert_jax import checkpoint
from bert_jax.config import BertConfig
from bert_jax.parameters import build, depth_of, named_arrays
from tests.conftest import VOCABULARY, write_random, write_reviews
from train.config import parse
from train.data.prepare import prepare
from train.run import loop
from train.step.optimizer import fine_tuning

CONFIG = BertConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_random(CONFIG, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reviews")
    write_reviews(directory, train=64, dev=16)
    return directory


@pytest.fixture
def run(encoder, reviews, tmp_path):
    """Train, and return what was kept and the lines of the log."""
    numbers = iter(range(100))

    def train(*more):
        out = tmp_path / str(next(numbers))
        start = [
            "--model",
            encoder,
            "--data",
            reviews,
            "--out",
            out,
            "--epochs",
            2,
            "--batch-size",
            16,
            "--max-length",
            32,
        ]
        config = parse([str(part) for part in (*start, "--learning-rate", "1e-3", *more)])
        loop.run(config, prepare(config), Console(quiet=True))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return checkpoint.read(out / "best"), lines

    return train


def moved(encoder, kept):
    """Names of the parameters that training changed."""
    before = checkpoint.read(encoder).tensors
    return {name for name in before if not np.array_equal(before[name], kept.tensors[name])}


@pytest.mark.parametrize(
    ("options", "still"),
    [
        ([], 0),
        (["--freeze-embeddings"], 1),
        pytest.param(["--freeze-layers", "2"], 3, marks=pytest.mark.slow),
        pytest.param(["--freeze-layers", "3"], 4, marks=pytest.mark.slow),
        (["--freeze-layers", "2", "--remat"], 3),
    ],
)
def test_frozen_parts_stay_and_the_others_move(options, still, run, encoder):
    kept, _ = run(*options)
    names = {name for name in checkpoint.read(encoder).tensors if depth_of(name) >= still}
    # [UNK]'s and sentence B's rows are never met, but their table moves as a whole.
    assert moved(encoder, kept) == names


def test_frozen_layers_cost_no_backward_pass(encoder):
    tensors = random_classifier(encoder)

    def flops(frozen):
        graphdef, params = nnx.split(build(CONFIG_C, tensors, frozen=frozen))
        rows = rows_of(64)

        def loss(params):
            return jnp.sum(nnx.merge(graphdef, params)(rows))

        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        return compiled.cost_analysis()["flops"]

    whole, half = flops(None), flops(3)
    assert half < 0.45 * whole  # a third is left where all layers go forward alone


CONFIG_C = CONFIG.replace(architecture="BertForSequenceClassification", labels=("a", "b"))


def random_classifier(encoder):
    return checkpoint.with_classifier(checkpoint.read(encoder), ("a", "b"), seed=0)[0].tensors


def rows_of(length):
    from bert_jax.packing import from_attention_mask

    ids = np.random.default_rng(0).integers(1, len(VOCABULARY), (4, length)).astype(np.int32)
    return from_attention_mask(ids, np.ones_like(ids))


def test_layer_decay_scales_the_updates_by_depth(encoder):
    tensors = random_classifier(encoder)
    _, params = nnx.split(build(CONFIG_C, tensors))
    grads = jax.tree.map(lambda x: jnp.ones_like(x), params)
    recipe = {"steps": 10, "warmup_steps": 0, "weight_decay": 0.1, "clip_norm": 1.0}

    def updates(**more):
        optimizer = fine_tuning(1e-2, **recipe, **more)
        return named_arrays(optimizer.update(grads, optimizer.init(params), params)[0])

    plain, decayed = updates(), updates(layer_decay=0.5)
    for name, update in plain.items():
        down = 4 - min(depth_of(name), 4)
        np.testing.assert_allclose(decayed[name], update * 0.5**down, rtol=1e-6, err_msg=name)


def test_layer_decay_reaches_the_run(run, encoder):
    (plain, _), (decayed, _) = run(), run("--layer-decay", "0.1")
    before = checkpoint.read(encoder).tensors
    name = "embeddings.word_embeddings.embedding"
    step, small = (np.abs(kept.tensors[name] - before[name]).max() for kept in (plain, decayed))
    assert 0 < small < 0.01 * step


def test_patience_stops_and_says_so(run, encoder, reviews, tmp_path, capsys):
    # At a learning rate that does nothing, the first evaluation is never bettered.
    _, lines = run("--epochs", "9", "--learning-rate", "1e-12", "--patience", "2")
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3]
    _, lines = run("--epochs", "4", "--learning-rate", "1e-12")
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3, 4]


def test_the_metric_decides_what_is_best(run):
    kept, lines = run("--epochs", "4", "--metric", "loss", "--learning-rate", "3e-2")
    losses = [line["loss"] for line in lines if "epoch" in line]
    assert len(set(losses)) > 1
    assert min(losses) == pytest.approx(dev_loss(run, kept), rel=1e-4)


def dev_loss(run, kept):
    from bert_jax.predict import TextClassifier
    from bert_jax.tokenizer import Tokenizer
    from train.metrics import measure

    classifier = TextClassifier(kept, Tokenizer.of(kept.files, Path("files")))
    texts = [f"the {'very ' * (i % 7)}{('bad', 'good')[i % 2]} film" for i in range(16)]
    logits = np.array([prediction.logits for prediction in classifier(texts)], np.float32)
    return measure("single_label_classification", logits, np.arange(16, dtype=np.int32) % 2)["loss"]


def first_loss(lines):
    return next(line["loss"] for line in lines if "grad_norm" in line)


def test_class_weights_and_smoothing_reach_the_loss(run):
    _, plain = run("--epochs", "1")
    _, doubled = run("--epochs", "1", "--class-weights", "2,2")
    _, none = run("--epochs", "1", "--class-weights", "0,1")
    _, smooth = run("--epochs", "1", "--label-smoothing", "0.5")
    assert first_loss(doubled) == pytest.approx(2 * first_loss(plain), rel=1e-5)
    assert first_loss(none) < first_loss(plain)
    assert first_loss(smooth) != pytest.approx(first_loss(plain), rel=1e-3)
    dev = [next(line["loss"] for line in lines if "epoch" in line) for lines in (plain, doubled)]
    assert dev[1] == pytest.approx(dev[0], rel=0.2)  # what is evaluated is not weighted


def test_the_learning_rate_is_in_the_log(run):
    _, lines = run("--warmup", "0.5")
    rates = [line["learning_rate"] for line in lines if "grad_norm" in line]
    assert rates == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


@pytest.mark.slow
def test_a_weighted_loss_is_the_same_however_a_batch_is_dealt(run):
    _, whole = run("--epochs", "1", "--class-weights", "1,5")
    _, parts = run("--epochs", "1", "--class-weights", "1,5", "--accumulate", 4)
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=1e-4)
