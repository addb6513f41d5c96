"""Many devices, simulated: every layout gives the curve and the evaluation of one device."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from bert_jax.errors import UserError
from tests.conftest import PRIMES, ROOT
from tests.curves import CONFIG, LAYOUTS, STEPS
from train.config import parse
from train.step.layouts import make_layout

QUICK = ("one device", "jit 8x1", "jit 4x2", "pmap 8")
"""Layouts that are more than their curve here; the others are for `make test-all`."""


def curves(*names):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.curves", *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    return curves(*QUICK)


@pytest.fixture(scope="module")
def others():
    return curves(*(name for name in LAYOUTS if name not in QUICK))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in LAYOUTS]
)
def test_every_layout_has_the_curve_and_evaluation_of_one_device(found, name, request):
    expected, this = found["one device"], (found if name in QUICK else request.getfixturevalue("others"))[name]
    assert len(this["curve"]) == STEPS
    np.testing.assert_allclose(this["curve"], expected["curve"], atol=1e-5)
    assert this["evaluation"]["examples"] == 103
    assert this["evaluation"]["confusion"] == expected["evaluation"]["confusion"]
    assert this["evaluation"]["loss"] == pytest.approx(expected["evaluation"]["loss"], abs=1e-5)


def elements(shapes):
    return sum(map(math.prod, shapes))


def exchanged(found, name):
    """Shapes of more than one number that travel, by kind."""
    kinds: dict[str, list[tuple[int, ...]]] = {}
    for kind, dtype, dims in found[name]["exchanged"]:
        assert dtype in ("f32", "s32")
        if dims:
            kinds.setdefault(kind, []).append(tuple(dims))
    return kinds


def test_with_pmap_gradients_are_summed_once_and_nothing_else_travels(found):
    assert found["one device"]["collectives"] == {}
    assert list(found["pmap 8"]["collectives"]) == ["all-reduce"]
    # Besides the gradients: the loss, and how many examples the step has.
    parameters = elements(found["pmap 8"]["parameters"])
    assert found["pmap 8"]["collectives"]["all-reduce"][1] == 4 * (parameters + 2)


def test_with_jit_exactly_the_gradients_and_the_updated_matrices_travel(found):
    rows, length = found["jit 8x1"]["rows"]
    parameters = [tuple(shape) for shape in found["jit 8x1"]["parameters"]]
    words, matrices = (101, 64), [shape for shape in parameters if len(shape) > 1]
    kinds = exchanged(found, "jit 8x1")
    assert set(kinds) == {"all-reduce", "all-gather", "all-to-all"}
    # Each gradient is summed once, but for that of the word embeddings: it is scattered by columns,
    # so each device sends the others its tokens' gradients, and has all token ids.
    assert elements(kinds["all-reduce"]) == elements(parameters) - elements([words])
    assert elements(kinds["all-to-all"]) == rows * length * 64
    ids = 8 * rows * length
    assert sorted(map(math.prod, kinds["all-gather"])) == sorted([*map(math.prod, matrices), ids])
    # Single numbers: the loss, how many examples there are, and parts of the gradients' norm.
    alone = sum(not dims for _, _, dims in found["jit 8x1"]["exchanged"])
    assert alone <= 3 + len(parameters)


def test_over_the_model_axis_a_layer_sums_its_activations_four_times(found):
    rows, length = found["jit 4x2"]["rows"]
    kinds = exchanged(found, "jit 4x2")
    # Megatron-LM, section 3: after attention and after the feed-forward layer, forwards and backwards.
    assert kinds["all-reduce"].count((rows, length, 64)) == 4 * CONFIG.num_hidden_layers
    # Heads' kernels and biases are halved; so is what is sent of them.
    assert elements(kinds["all-gather"]) < 0.65 * elements(exchanged(found, "jit 8x1")["all-gather"])


def test_moments_are_divided_over_the_devices(found):
    # The word embeddings have 101 x 64 elements: whole on one device, 8 columns of them on each of 8.
    assert [101, 64] in found["one device"]["moment_shards"]
    assert [101, 64] not in found["jit 8x1"]["moment_shards"]
    assert [101, 8] in found["jit 8x1"]["moment_shards"]


def test_a_network_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="--model-parallel is 2; expected a divisor of 1, the number of devices"):
        make_layout(PRIMES, model=2)
    with pytest.raises(UserError, match="--parallel pmap divides batches alone"):
        parse(["--parallel", "pmap", "--model-parallel", "2"])
    with pytest.raises(UserError, match="--accumulate is 64; expected at most --batch-size"):
        parse(["--accumulate", "64"])
