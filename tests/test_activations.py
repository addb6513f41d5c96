"""The functions between products, against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.activations import ACTIVATIONS, tanh
from bert_jax.compilation import compiler_options


def units_off(found, exact):
    """How far float32 numbers are from float64 ones, in units in the last place."""
    return np.abs(np.asarray(found, np.float64) - exact) / np.spacing(np.abs(exact).astype(np.float32))


@pytest.mark.parametrize("scale", [1e-4, 0.3, 1, 3, 30])
def test_tanh_is_right_to_the_last_bits(scale):
    x = (scale * np.random.default_rng(0).standard_normal(200_000)).astype(np.float32)
    off = units_off(jax.jit(tanh, compiler_options=compiler_options())(x), np.tanh(x.astype(np.float64)))
    assert off.max() < 1.5
    assert np.sqrt(np.mean(off**2)) < 0.4


def test_tanh_at_its_ends_and_its_gradient():
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1e30, -1e30, 2e-38, np.nan], np.float32)
    found = tanh(jnp.asarray(special))
    np.testing.assert_array_equal(found, np.tanh(special))
    assert np.signbit(found[1])
    x = jnp.linspace(-12, 12, 4001, dtype=jnp.float32)
    slope = jax.vmap(jax.grad(tanh))(x)
    np.testing.assert_allclose(slope, 1 / np.cosh(np.asarray(x, np.float64)) ** 2, rtol=0, atol=1.2e-7)
    assert tanh(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_gelu_by_tanh_is_its_formula():
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    wide = x.astype(np.float64)
    exact = 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    for name in ("gelu_new", "gelu_pytorch_tanh"):
        off = np.asarray(jax.jit(ACTIVATIONS[name])(x), np.float64) - exact
        assert np.sqrt(np.mean(off**2)) < 0.5 * np.sqrt(np.mean(exact**2)) / 2**23
