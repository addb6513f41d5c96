"""The network: shapes, masking, dropout, gradients, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import TypeCheckError

from bert_jax import attention
from bert_jax.attention import kernel_for
from bert_jax.checkpoint import parameter_shapes
from bert_jax.config import CLASSIFIER, BertConfig
from bert_jax.dropout import dropout, kept, seeds
from bert_jax.heads import cross_entropy
from bert_jax.packing import Rows, Tokens, assign, from_attention_mask, pack
from bert_jax.parameters import build, name_of, named_arrays
from tests.conftest import PRIMES


def examples(lengths, seed=0, low=5):
    generator = np.random.default_rng(seed)
    return [
        Tokens(generator.integers(low, 101, n).astype(np.int32), (np.arange(n) > n // 2).astype(np.int32))
        for n in lengths
    ]


def packed(tokens, row_length=31, spare_rows=0, spare_examples=0) -> Rows:
    rows = assign([len(t.input_ids) for t in tokens], row_length)
    return pack(tokens, rows, row_length, len(rows) + spare_rows, len(tokens) + spare_examples)


@pytest.fixture(scope="module")
def model(primes):
    return build(primes.config, primes.tensors)


def test_shapes_with_a_prime_for_every_axis(model):
    tokens = examples([11, 13, 7, 17, 5])
    rows = packed(tokens)
    states = model.bert.hidden_states(*rows[:4])
    assert len(states) == PRIMES.num_hidden_layers + 1
    assert all(state.shape == (*rows.input_ids.shape, 21) for state in states)
    assert model.bert.pool(states[-1], rows.first_tokens).shape == (5, 21)
    assert model(rows).shape == (5, 5)


def test_shape_types_are_live(model):
    rows = packed(examples([11, 13]))
    with pytest.raises(TypeCheckError):
        model.bert(rows.input_ids[0], *rows[1:4])
    with pytest.raises(TypeCheckError):
        model.bert(rows.input_ids, rows.token_type_ids[:, :-1], *rows[2:4])


def test_a_packed_example_gets_the_logits_it_gets_alone(model):
    tokens = examples([11, 13, 7, 17, 5, 2])
    together = model(packed(tokens, spare_rows=1, spare_examples=3))
    for i, example in enumerate(tokens):
        alone = model(packed([example], row_length=len(example.input_ids)))
        np.testing.assert_allclose(together[i], alone[0], atol=2e-6)


def test_an_example_does_not_depend_on_its_row_mates(model):
    tokens = examples([11, 13, 7])
    other = [tokens[0], *examples([13, 7], seed=9)]
    a, b = model(packed(tokens)), model(packed(other))
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.allclose(a[1], b[1])


def test_attention_mask_batches_are_the_degenerate_case(model):
    tokens = examples([11, 13, 7])
    ids, types, mask = np.zeros((3, 3, 17), np.int32)
    for i, t in enumerate(tokens):
        n = len(t.input_ids)
        ids[i, :n], types[i, :n], mask[i, :n] = t.input_ids, t.token_type_ids, 1
    np.testing.assert_allclose(model(from_attention_mask(ids, mask, types)), model(packed(tokens)), atol=2e-6)
    without = from_attention_mask(ids, mask)
    assert not without.token_type_ids.any()


def test_padding_is_finite_and_has_no_influence(model):
    tokens = examples([11, 13])
    rows = packed(tokens, spare_rows=2, spare_examples=1)
    junk = np.where(rows.segment_ids == 0, 99, rows.input_ids)
    states = model.bert.hidden_states(*rows[:4])
    assert all(np.isfinite(state).all() for state in states)
    np.testing.assert_array_equal(model(rows)[:2], model(rows._replace(input_ids=junk))[:2])


def test_ids_outside_their_tables_give_nan_not_a_neighbour(model):
    rows = packed(examples([11]))
    too_far = rows._replace(position_ids=rows.position_ids + 60)
    assert np.isnan(model(too_far)).any()


def test_parameters_are_float32_and_products_bfloat16(primes):
    half = build(primes.config, primes.tensors, "bfloat16")
    assert {x.dtype for x in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    rows = packed(examples([11, 13]))
    assert half.bert(*rows[:4]).dtype == jnp.bfloat16
    logits = half(rows)
    assert logits.dtype == jnp.float32
    exact = build(primes.config, primes.tensors)(rows)
    assert 0 < np.abs(logits - exact).max() < 0.05


def test_dropout_only_with_rngs_and_by_key(model):
    rows = packed(examples([11, 13]))
    a, b, c = (model(rows, nnx.Rngs(dropout=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)
    np.testing.assert_array_equal(model(rows), model(rows))


@pytest.mark.parametrize("field", ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"])
def test_each_dropout_rate_is_honoured(primes, field):
    none = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0)
    rows = packed(examples([11, 13]))
    quiet = build(primes.config.replace(**none), primes.tensors)
    np.testing.assert_array_equal(quiet(rows), quiet(rows, nnx.Rngs(dropout=0)))
    loud = build(primes.config.replace(**{**none, field: 0.5}), primes.tensors)
    assert not np.allclose(loud(rows), loud(rows, nnx.Rngs(dropout=0)))


def test_a_dropout_rate_may_be_a_whole_number(primes):
    """As JSON writes 0."""
    none = dict(hidden_dropout_prob=0, attention_probs_dropout_prob=0, classifier_dropout=0)
    rows = packed(examples([11, 13]))
    quiet = build(primes.config.replace(**none), primes.tensors)
    np.testing.assert_array_equal(quiet(rows), quiet(rows, nnx.Rngs(dropout=0)))


def test_classifier_dropout_falls_back_on_the_hidden_rate(primes):
    assert build(primes.config, primes.tensors).rate == primes.config.hidden_dropout_prob


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_rate_scale_and_independence(rate):
    x = jnp.ones((64, 64, 64))
    words = seeds(nnx.Rngs(dropout=0), 2)
    a, b = dropout(x, rate, words[0]), dropout(x, rate, words[1])
    n = x.size
    kept = float((a != 0).mean())
    assert abs(kept - (1 - rate)) < 5 * (rate * (1 - rate) / n) ** 0.5
    np.testing.assert_allclose(np.unique(a), [0, 1 / (1 - rate)], rtol=1e-4)
    both = float(((a != 0) & (b != 0)).mean())
    assert abs(both - (1 - rate) ** 2) < 5 / n**0.5
    for axis in range(3):  # not broadcast along any axis
        assert float((a != 0).mean(axis=axis).std()) > 0


def test_bits_of_dropout_are_independent():
    """Between steps, uses and devices (which differ in the words), and between neighbours of every distance."""
    places = np.arange(2**15, dtype=np.uint32)
    words = jax.random.bits(jax.random.key(0), (200, 2), jnp.uint32)
    draws = np.asarray(jax.vmap(lambda w: kept(jnp.asarray(places), 0.1, w))(words), np.float64) - 0.9
    scores = draws @ draws.T / (0.09 * len(places) ** 0.5)  # normal(0, 1) off the diagonal, if independent
    pairs = scores[np.triu_indices(len(words), 1)]
    assert abs(pairs.std() - 1) < 0.05
    assert np.abs(pairs).max() < 6
    for distance in (1, 2, 21, 32, 64, 384, 4096):
        lagged = (draws[:, :-distance] * draws[:, distance:]).sum(1) / (0.09 * (len(places) - distance) ** 0.5)
        assert abs(lagged.mean()) < 5 / len(words) ** 0.5
        assert abs(lagged.std() - 1) < 0.25
    by_place = draws.mean(0) * (len(words) / 0.09) ** 0.5
    assert abs(by_place.std() - 1) < 0.05  # no place is dropped more often than another


def test_the_fused_kernel_drops_and_computes_what_plain_attention_does():
    config = BertConfig(
        vocab_size=101, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64, architecture=CLASSIFIER, labels=("a", "b"),
    )  # fmt: skip
    generator = np.random.default_rng(0)
    tensors = {n: generator.standard_normal(s).astype(np.float32) * 0.1 for n, s in parameter_shapes(config).items()}
    rows = pack(examples([11, 13, 20]), [[0, 1], [2]], 32, 3, 3)
    results = [
        build(config, tensors, attention=how)(rows, nnx.Rngs(dropout=0) if drop else None)
        for drop in (False, True) for how in ("plain", "interpret")
    ]  # fmt: skip
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    np.testing.assert_allclose(results[2], results[3], atol=1e-5)
    assert np.abs(results[0] - results[2]).max() > 1e-3


def test_attention_is_chosen_by_name(monkeypatch):
    assert kernel_for("auto", 128, 64) == "plain"  # on the CPU
    monkeypatch.setattr(attention, "agrees", lambda kernel: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [kernel_for("auto", 128, 64), kernel_for("auto", 100, 64), kernel_for("auto", 128, 21)] == [
        "triton", "plain", "plain",
    ]  # fmt: skip
    assert kernel_for("plain", 128, 64) == "plain"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert [kernel_for("auto", 128, 64), kernel_for("auto", 1024, 64)] == ["mosaic", "plain"]


def test_pad_row_gets_no_gradient_even_where_pad_is_a_real_token(primes):
    graphdef, params = nnx.split(build(primes.config, primes.tensors))
    tokens = examples([11, 13], low=0)
    tokens[0].input_ids[3] = 0
    rows = packed(tokens)

    def loss(params):
        return cross_entropy(nnx.merge(graphdef, params)(rows), np.array([1, 2]), np.ones(2, np.float32))

    gradient = named_arrays(jax.grad(loss)(params))["embeddings.word_embeddings.embedding"]
    assert not gradient[0].any()
    assert np.abs(gradient[tokens[0].input_ids[1]]).max() > 0


def test_loss_weighs_examples():
    logits = jnp.array([[2.0, 0.0], [0.0, 0.0], [-1.0, 3.0]])
    labels = np.array([0, 1, 0])
    one = -np.log(np.exp(2) / (np.exp(2) + 1))
    assert float(cross_entropy(logits, labels, np.array([1.0, 0, 0], np.float32))) == pytest.approx(one)
    both = (one + np.log(2)) / 2
    assert float(cross_entropy(logits, labels, np.array([1.0, 1, 0], np.float32))) == pytest.approx(both)
    assert float(cross_entropy(logits, labels, np.zeros(3, np.float32))) == 0


def test_pooling_without_a_pooler_is_refused(primes):
    config = primes.config.replace(architecture="BertModel", labels=(), add_pooling_layer=False)
    encoder = build(config, primes.tensors)
    with pytest.raises(ValueError, match="no pooler"):
        encoder.pool(jnp.zeros((1, 3, 21)), np.zeros(1, np.int32))


def test_initialisation_is_berts():
    from bert_jax.config import BertConfig
    from bert_jax.model import Model

    config = BertConfig(
        vocab_size=997, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.05
    )
    for path, variable in nnx.to_flat_state(nnx.state(Model(config, rngs=nnx.Rngs(0)), nnx.Param)):
        value, name = np.asarray(variable[...]), name_of(path)
        if name.endswith("bias"):
            assert not value.any()
        elif name.endswith("scale"):
            assert (value == 1).all()
        else:
            assert value.std() == pytest.approx(0.05, rel=0.1)
            assert abs(value.mean()) < 0.01


def test_a_model_that_a_checkpoint_fills_draws_nothing(primes):
    from bert_jax.heads import SequenceClassifier
    from bert_jax.parameters import _NoKeys

    def state(rngs):
        return nnx.state(SequenceClassifier(primes.config, rngs=rngs), nnx.Param)

    drawn, filled = (nnx.eval_shape(lambda rngs=rngs: state(rngs())) for rngs in (lambda: nnx.Rngs(0), _NoKeys))
    assert jax.tree.leaves(drawn) == jax.tree.leaves(filled)
    assert jax.tree.structure(drawn) == jax.tree.structure(filled)
    assert "random" not in str(jax.make_jaxpr(lambda: nnx.to_pure_dict(state(_NoKeys())))())
