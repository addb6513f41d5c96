"""Matrix products are as exact as `precision` says: in training, prediction and parity, and inside the fused kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

from bert_jax import TextClassifier, attention, compilation, load
from bert_jax.config import CLASSIFIER, PRECISIONS, BertConfig
from bert_jax.errors import UserError
from bert_jax.heads import SequenceClassifier, cross_entropy
from bert_jax.packing import Rows
from bert_jax.parameters import build_classifier
from convert import comparison, conversion, parity, reference
from tests.conftest import ROOT

SMALL = BertConfig(
    vocab_size=11, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
    max_position_embeddings=64, architecture=CLASSIFIER, labels=("a", "b"),
)  # fmt: skip


def rows_of(length):
    zeros = np.zeros((1, length), np.int32)
    return Rows(zeros, zeros, zeros, zeros + 1, np.zeros(1, np.int32))


def products(jaxpr):
    """The precision of every matrix product of a program, those of its kernels and inner functions included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)):
            if isinstance(value, Jaxpr | ClosedJaxpr):
                yield from products(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


def training(model, length):
    graphdef, params = nnx.split(model)

    def loss(params, key):
        logits = nnx.merge(graphdef, params)(rows_of(length), nnx.Rngs(dropout=key))
        return cross_entropy(logits, np.zeros(1, np.int32), np.ones(1, np.float32))

    return jax.make_jaxpr(jax.grad(loss))(params, jax.random.key(0)).jaxpr


# One tile; several tiles, which the backward pass walks over twice.
@pytest.mark.parametrize(("how", "length"), [("plain", 64), ("interpret", 64), ("interpret", 192)])
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_product_of_a_step_is_as_exact_as_asked(how, length, remat, precision):
    config = SMALL.replace(max_position_embeddings=length)
    model = SequenceClassifier(config, precision=precision, attention=how, remat=remat, rngs=nnx.Rngs(0))
    found = list(products(training(model, length)))
    assert len(found) > 3 * 2 * (
        8 if how == "plain" else 6
    )  # forwards and twice backwards: eight products a layer where there is no kernel, and the heads'
    assert set(found) == {(jax.lax.Precision(precision),) * 2}


def test_this_jaxlib_knows_the_option_that_makes_products_exact():
    """Where it does not, LayerNorm's sums have to be in pairs again: see RECORDS.md, exactness by processor."""
    if jax.default_backend() == "cpu":
        assert list(compilation.compiler_options().values()) == [compilation._YNN_VALUES[0]]


def test_bfloat16_asks_for_nothing_and_highest_is_the_default():
    half = SequenceClassifier(SMALL, dtype=jnp.bfloat16, attention="interpret", rngs=nnx.Rngs(0))
    assert set(products(training(half, 64))) == {None}
    whole = SequenceClassifier(SMALL, attention="interpret", rngs=nnx.Rngs(0))
    assert set(products(training(whole, 64))) == {(jax.lax.Precision.HIGHEST,) * 2}


def test_each_compiler_is_given_products_that_it_has():
    from bert_jax.fused_attention import _plan

    qkv = jnp.zeros((1, 64, 3, 128))
    high, highest = jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST
    assert _plan(qkv, 2, 0.1, "mosaic", high).precision == highest
    assert _plan(qkv, 2, 0.1, "triton", high).precision == high
    assert _plan(qkv, 2, 0.1, "triton", highest).precision == jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3


def test_prediction_loading_and_parity_take_it(primes_directory, primes, monkeypatch):
    seen = []

    def noted(dtype, precision):
        seen.append(precision)
        return jax.lax.Precision.HIGHEST

    monkeypatch.setattr(attention, "products", noted)
    for use in (
        lambda precision: TextClassifier.load(primes_directory, precision=precision),
        lambda precision: load(primes_directory, precision=precision),
        lambda precision: build_classifier(primes.config, primes.tensors, precision=precision),
    ):
        for precision in PRECISIONS:
            seen.clear()
            use(precision)
            assert set(seen) == {precision}


def test_on_a_cpu_all_give_the_same_bits(primes):
    rows = rows_of(7)
    results = [np.asarray(build_classifier(primes.config, primes.tensors, precision=p)(rows)) for p in PRECISIONS]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def commands():
    from bert_jax.__main__ import main as predict
    from train import evaluate
    from train.__main__ import main as train

    return {
        "predict": lambda *more: predict(["--model", "m", "text", *more]),
        "train": lambda *more: train([*more]),
        "evaluate": lambda *more: evaluate.main(["--model", "m", "--data", "d", *more]),
        "parity": lambda *more: parity.main(["m", *more]),
    }


@pytest.mark.parametrize("name", commands())
def test_every_command_refuses_another(name):
    message = "--precision is 'hihg'; expected one of highest, high, default; did you mean high"
    with pytest.raises(UserError, match=message):
        commands()[name]("--precision", "hihg")


def test_python_refuses_another():
    from train.config import TrainConfig

    with pytest.raises(UserError, match="--precision is 'bfloat16'; expected one of highest, high, default"):
        TrainConfig(precision="bfloat16")
    with pytest.raises(UserError, match="precision is 'bfloat16'; expected one of highest, high, default"):
        SequenceClassifier(SMALL, precision="bfloat16", rngs=nnx.Rngs(0))


def compared(monkeypatch, backend, precision):
    """Names of parity's findings on a backend, and the precisions in which it answered."""
    directory = ROOT / "tests" / "golden" / "odd" / "one_layer"
    read, against = conversion.read(str(directory)), reference.load(directory / "reference.safetensors")
    answer, asked = comparison.answer, []

    def noted(checkpoint, tokens, dtype="float32", precision="highest", **how):
        asked.append((dtype, precision))
        return answer(checkpoint, tokens, dtype, precision, **how)

    monkeypatch.setattr(comparison, "answer", noted)
    monkeypatch.setattr(attention, "fused_here", lambda: None)
    options = compilation.compiler_options()  # it is a CPU that computes, whatever it is called
    monkeypatch.setattr(compilation, "compiler_options", lambda: options)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    found = list(comparison.compare(parity.with_probe(read.checkpoint), read.tokenizer, against, precision))
    assert all(finding.holds for finding in found)
    return [finding.name for finding in found], asked


def test_parity_shows_strict_float32_beside_less(monkeypatch):
    names, asked = compared(monkeypatch, "gpu", "default")
    assert asked == [("float32", "default"), ("bfloat16", "highest"), ("float32", "highest")]
    strict = [name for name in names if name.endswith(", strict float32")]
    assert "logits, strict float32" in strict
    assert any(name.startswith("gradients, all") for name in strict)


@pytest.mark.parametrize(("backend", "precision"), [("cpu", "default"), ("gpu", "highest")])
def test_parity_costs_nothing_more_where_nothing_differs(backend, precision, monkeypatch):
    names, asked = compared(monkeypatch, backend, precision)
    assert asked == [("float32", precision), ("bfloat16", "highest")]
    assert not any("strict" in name for name in names)
