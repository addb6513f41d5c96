"""The fused attention kernel, interpreted, against the plain formula: results, gradients, bits, shards."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from bert_jax.dropout import kept
from bert_jax.fused_attention import fused_attention
from tests.conftest import ROOT

WORDS = np.array([0x12345678, 0x9ABCDEF0], np.uint32)
RATE = 0.1


def plain(query, key, value, segments, words, rate=RATE):
    scores = jnp.einsum("bthk,bshk->bhts", query, key, preferred_element_type=jnp.float32)
    scores *= query.shape[-1] ** -0.5
    same = segments[:, None, :, None] == segments[:, None, None, :]
    weights = jax.nn.softmax(jnp.where(same, scores, jnp.finfo(jnp.float32).min), axis=-1)
    if words is not None:
        keep = kept(jnp.arange(weights.size, dtype=jnp.uint32).reshape(weights.shape), rate, jnp.asarray(words))
        weights = jnp.where(keep, weights / (1 - rate), 0)
    mixed = jnp.einsum("bhts,bshk->bthk", weights.astype(query.dtype), value, preferred_element_type=jnp.float32)
    return mixed.astype(query.dtype)


def places(segments, heads):
    rows, length = segments.shape
    return (jnp.arange(rows * heads, dtype=jnp.uint32) * jnp.uint32(length**2)).reshape(rows, heads)


def fused(query, key, value, segments, words, rate=RATE):
    words = None if words is None else jnp.asarray(words)
    where = places(segments, query.shape[2])
    return attention(query, key, value, segments, where, words, rate)


def attention(query, key, value, segments, where, words, rate):
    """The kernel, given what the plain formula is given; a half of each number is its bias."""
    qkv = jnp.stack([query, key, value], axis=2).reshape(*query.shape[:2], 3, -1)
    biases = jnp.broadcast_to(qkv.dtype.type(0.5), qkv.shape[2:])
    mixed = fused_attention(qkv - biases, biases, segments, where, words, rate=rate, backend="interpret")
    return mixed.reshape(query.shape)


def inputs(length, heads, size, dtype=jnp.float32, rows=3, seed=0):
    """Query, key, value and the gradient of the result; a full row, padded ones, one of padding only."""
    generator = np.random.default_rng(seed)
    arrays = [jnp.asarray(generator.standard_normal((rows, length, heads, size)), dtype) for _ in range(4)]
    segments = np.zeros((rows, length), np.int32)
    for row in range(rows - 1):
        segments[row] = np.repeat(np.arange(1, length + 1), generator.integers(2, 40, length))[:length]
        segments[row, length - 7 * row :] = 0
    return arrays, jnp.asarray(segments)


def results(function, arrays, segments, words):
    *qkv, d_out = arrays
    out, pull = jax.vjp(jax.jit(lambda *qkv: function(*qkv, segments, words)), *qkv)
    return {"out": out, **dict(zip(["query", "key", "value"], pull(d_out), strict=True))}


def compare(arrays, segments, words, bound):
    """Each result within `bound` of the largest number of the plain one."""
    expected = results(plain, arrays, segments, words)
    for name, actual in results(fused, arrays, segments, words).items():
        ours, theirs = np.asarray(actual, np.float64), np.asarray(expected[name], np.float64)
        assert np.isfinite(ours).all(), name
        assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max(), name


# One tile, small tiles (T=96), many tiles; one head, groups of heads, heads that make no full group.
@pytest.mark.parametrize(("length", "heads", "size"), [(64, 4, 32), (96, 3, 32), (128, 1, 64), (256, 2, 64)])
@pytest.mark.parametrize("words", [None, WORDS], ids=["whole", "dropout"])
def test_results_and_gradients_are_those_of_the_plain_formula(length, heads, size, words):
    compare(*inputs(length, heads, size), words, bound=2e-6)


# bfloat16 carries 8 bits: half a unit in the last place of each of the factors and the result.
@pytest.mark.parametrize("length", [128, 256])
def test_bfloat16_differs_by_its_rounding_only(length):
    compare(*inputs(length, 2, 64, jnp.bfloat16), WORDS, bound=1.2e-2)


def test_segments_in_any_order_are_seen():
    arrays, segments = inputs(256, 1, 32)
    scattered = jax.random.permutation(jax.random.key(0), segments % 5, axis=1)
    compare(arrays, scattered, WORDS, bound=2e-6)


def test_what_is_dropped_is_what_the_hash_says():
    rows, length, heads = 2, 64, 64
    ones = jnp.zeros((rows, length, heads, 64))
    # Equal scores and one-hot values: entry (t, h, s) of the result is the weight of key s.
    value = jnp.broadcast_to(jnp.eye(64)[:, None], ones.shape)
    segments = jnp.ones((rows, length), jnp.int32)
    weights = fused(ones, ones, value, segments, WORDS, rate=0.3).transpose(0, 2, 1, 3)
    keep = kept(jnp.arange(weights.size, dtype=jnp.uint32).reshape(weights.shape), 0.3, jnp.asarray(WORDS))
    np.testing.assert_array_equal(weights > 0, keep)
    np.testing.assert_allclose(weights[keep], 1 / 64 / 0.7, rtol=1e-6)


def test_examples_do_not_see_each_other():
    (query, key, value, _), segments = inputs(256, 1, 32)
    other = (segments != 2)[:, :, None, None]
    changed = fused(*(x + 7.0 * other for x in (query, key, value)), segments, None)
    np.testing.assert_array_equal(
        np.where(other, 0, changed), np.where(other, 0, fused(query, key, value, segments, None))
    )


def test_a_rate_of_nothing_and_no_words_are_the_same():
    arrays, segments = inputs(64, 2, 32)
    np.testing.assert_array_equal(
        fused(*arrays[:3], segments, WORDS, rate=0.0), fused(*arrays[:3], segments, None, rate=0.1)
    )


def test_what_the_kernels_cannot_do_is_said():
    for shape, backend, message in [
        (
            (1, 72, 1, 64),
            "triton",
            "takes T of 16, 32 .. 65536 and K of 16, 32, 64 or 128, not T=72 and K=64",
        ),
        ((1, 1024, 1, 64), "mosaic", "16, 32 .. 512 and .* not T=1024"),
        ((1, 64, 1, 48), "triton", "not T=64 and K=48"),
    ]:
        x, bias = jnp.zeros((*shape[:2], 3, shape[3])), jnp.zeros((3, shape[3]))
        places = jnp.zeros((1, 1), jnp.uint32)
        with pytest.raises(ValueError, match=message):
            fused_attention(x, bias, jnp.ones(shape[:2], jnp.int32), places, rate=0.0, backend=backend)


def shards():
    """Run by the test below where two devices are simulated."""
    arrays, segments = inputs(64, 4, 32, rows=4)
    words = jnp.asarray(WORDS)

    def one(query, key, value, segments, where):
        return attention(query, key, value, segments, where, words, RATE)

    where = places(segments, 4)
    whole = results(lambda q, k, v, s, _: one(q, k, v, s, where), arrays, segments, None)
    for name, array, head in [("rows", P("x"), P("x")), ("heads", P(None, None, "x"), P(None, "x"))]:
        mesh = Mesh(jax.devices(), ("x",))
        row = P("x") if name == "rows" else P()
        specs = (array, array, array, row, head)
        split = jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=array, check_vma=False)
        for key, value in results(lambda q, k, v, s, _, f=split: f(q, k, v, s, where), arrays, segments, None).items():
            np.testing.assert_array_equal(value, whole[key], err_msg=f"{name} {key}")
    print("equal on", jax.device_count())


@pytest.mark.slow
def test_shards_of_rows_and_of_heads_drop_what_the_whole_drops():
    code = "from tests.test_fused_attention import shards; shards()"
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert "equal on 2" in done.stdout, done.stderr[-2000:]


def kernels(function, *arrays):
    """The calls of kernels in a program, in order."""
    found = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "pallas_call":
                found.append(equation)
                continue
            for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")):
                if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
                    visit(getattr(value, "jaxpr", value))

    visit(jax.make_jaxpr(function)(*arrays).jaxpr)
    return found


def test_what_the_backward_pass_reads_is_written_for_it_alone():
    for length, written in ((64, [1, 1]), (256, [2, 1])):  # one tile computes it again
        (*qkv, d_out), segments = inputs(length, 2, 64)

        def alone(*qkv, segments=segments):
            return fused(*qkv, segments, None)

        def both(*qkv, d_out=d_out, alone=alone):
            return jax.vjp(alone, *qkv)[1](d_out)

        assert [len(call.outvars) for call in kernels(alone, *qkv)] == [1]
        assert [len(call.outvars) for call in kernels(both, *qkv)] == written


def test_programs_on_a_tpu_may_run_on_both_cores_of_a_chip():
    x, bias = jnp.zeros((2, 64, 3, 128)), jnp.zeros((3, 128))
    segments, where = jnp.ones((2, 64), jnp.int32), jnp.zeros((2, 2), jnp.uint32)

    def both(x):  # with the value, or what the gradient does not need may be left out
        return jax.value_and_grad(
            lambda x: fused_attention(x, bias, segments, where, rate=0.0, backend="mosaic").sum()
        )(x)

    found = [call.params["compiler_params"].dimension_semantics for call in kernels(both, x)]
    assert found == [("parallel", "parallel", "parallel")] * 2
    # No TPU is needed to write the kernels down for one.
    assert jax.jit(both).trace(x).lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") == 2
