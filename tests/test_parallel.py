"""Many devices, simulated: every layout gives the curve and the evaluation of one device."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bert_jax.errors import UserError
from tests.conftest import PRIMES, ROOT
from tests.curves import LAYOUTS, STEPS
from train.config import parse
from train.parallel import make_layout


@pytest.fixture(scope="session")
def found():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.curves"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_the_curve_and_evaluation_of_one_device(found, name):
    expected, this = found["one device"], found[name]
    assert len(this["curve"]) == STEPS
    np.testing.assert_allclose(this["curve"], expected["curve"], atol=1e-5)
    assert this["evaluation"]["examples"] == 103
    assert this["evaluation"]["confusion"] == expected["evaluation"]["confusion"]
    assert this["evaluation"]["loss"] == pytest.approx(expected["evaluation"]["loss"], abs=1e-5)


def test_with_pmap_gradients_are_summed_once_and_nothing_else_travels(found):
    parameters = found["one device"]["parameter_bytes"]
    # Besides the gradients: the loss, and how many examples the step has.
    assert list(found["pmap 8"]["collectives"]) == ["all-reduce"]
    assert found["pmap 8"]["collectives"]["all-reduce"][1] == parameters + 8
    assert found["one device"]["collectives"] == {}


def test_with_jit_gradients_and_parameters_travel_once(found):
    parameters = found["one device"]["parameter_bytes"]
    travelled = sum(size for _, size in found["jit 8x1"]["collectives"].values())
    assert parameters < travelled < 2.1 * parameters


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
