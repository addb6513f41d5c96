"""The fused kernel is used only where it has agreed with the plain formula; the interpreted one stands for a device."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bert_jax import attention, compilation, fused_attention, kernel_check
from bert_jax.attention import kernel_for
from tests.conftest import ROOT, write_random

RIGHT = fused_attention.fused_attention
CASES = kernel_check._CASES


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A private directory in the place of the compilation cache."""
    monkeypatch.setattr(compilation, "directory", lambda: tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _device(monkeypatch):
    """A device whose fused kernel is the interpreted one, in a process that has tried nothing."""
    monkeypatch.setattr(attention, "fused_here", lambda: "interpret")
    # Small rows, in one tile and in several: to interpret a kernel takes long.
    monkeypatch.setattr(kernel_check, "_WIDTH", 32)
    monkeypatch.setattr(
        kernel_check, "_CASES", (CASES[0]._replace(length=64, head_size=32), CASES[1]._replace(length=48))
    )
    kernel_check.agrees.cache_clear()
    yield
    kernel_check.agrees.cache_clear()


def another_process():
    kernel_check.agrees.cache_clear()


def forbidden(*args, **settings):
    raise AssertionError("compared again")


def chosen():
    return kernel_for("auto", 64, 32)


def test_what_a_device_computes_is_the_plain_formula_in_tiles_of_all_kinds(monkeypatch):
    from bert_jax.fused_attention import _plan

    qkv = [jnp.zeros((1, case.length, 3, 256), case.dtype) for case in CASES]
    how = [None, jax.lax.Precision.HIGHEST]
    plans = [_plan(x, 256 // c.head_size, 0.1, "triton", p) for x, c, p in zip(qkv, CASES, how, strict=True)]
    assert [plan.blocks for plan in plans] == [1, 6]
    monkeypatch.setattr(kernel_check, "_CASES", CASES)
    monkeypatch.setattr(kernel_check, "_WIDTH", 64)
    assert kernel_check._difference("interpret") == ""


def test_a_kernel_that_agrees_is_taken_and_the_next_process_remembers(cache, monkeypatch, capsys):
    assert chosen() == "interpret"
    (file,) = cache.iterdir()
    known = json.loads(file.read_text())
    assert known["difference"] == ""
    assert known["device"] == jax.devices()[0].device_kind
    assert known["jax"] == jax.__version__
    monkeypatch.setattr(kernel_check, "_difference", forbidden)
    another_process()
    assert chosen() == "interpret"
    assert capsys.readouterr() == ("", "")
    # Another version, driver or source is another question.
    monkeypatch.setattr(kernel_check, "__version__", "next")
    another_process()
    assert chosen() == "plain"
    assert "AssertionError: compared again" in capsys.readouterr().err


def scaled(qkv, *args, **settings):
    return RIGHT(qkv, *args, **settings) * jnp.asarray(1.05, qkv.dtype)


@jax.custom_vjp
def _twice_back(x):
    return x


_twice_back.defvjp(lambda x: (x, None), lambda _, gradient: (gradient * 1.1,))


def wrong_gradient(qkv, *args, **settings):
    return RIGHT(_twice_back(qkv), *args, **settings)


def wrong_bias_gradient(qkv, biases, *args, **settings):
    return RIGHT(qkv, _twice_back(biases), *args, **settings)


def never_drops(qkv, biases, segments, places, words, **settings):
    return RIGHT(qkv, biases, segments, places, None, **settings)


def drops_elsewhere(qkv, biases, segments, places, words, **settings):
    return RIGHT(qkv, biases, segments, places + jnp.uint32(1), words, **settings)


def sees_padding(qkv, biases, segments, *args, **settings):
    return RIGHT(qkv, biases, jnp.where(segments == 0, 1, segments), *args, **settings)


def not_finite_in_padding(qkv, biases, segments, *args, **settings):
    return jnp.where((segments == 0)[..., None], jnp.nan, RIGHT(qkv, biases, segments, *args, **settings))


def coarse(qkv, *args, **settings):
    """Numbers of 11 bits, as TF32 has them."""
    rounded = jax.lax.reduce_precision(qkv, 8, 10)
    return RIGHT(rounded, *args, **settings)


WRONG = {
    scaled: "the result without dropout by",
    wrong_gradient: "the gradient of the queries with dropout by",
    wrong_bias_gradient: "the gradient of the biases with dropout by",
    never_drops: "the result with dropout by",
    drops_elsewhere: "the result with dropout by",
    sees_padding: "the result without dropout by",
    not_finite_in_padding: "the result without dropout by nan",
    coarse: "(float32, rows of 48, heads of 32; at most 3e-05 is allowed)",
}


@pytest.mark.parametrize("kernel", WRONG, ids=lambda kernel: kernel.__name__)
def test_a_kernel_that_is_wrong_is_refused_in_one_line(kernel, cache, monkeypatch, capsys):
    monkeypatch.setattr(fused_attention, "fused_attention", kernel)
    assert chosen() == "plain"
    assert chosen() == "plain"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"attention: plain, because the fused kernel differs on {jax.devices()[0].device_kind}: ")
    assert WRONG[kernel] in line
    # The next process says it again, without comparing.
    monkeypatch.setattr(kernel_check, "_difference", forbidden)
    another_process()
    assert chosen() == "plain"
    assert capsys.readouterr().err.splitlines() == [line]


def test_a_kernel_that_fails_is_refused_in_one_line_and_tried_again_by_the_next_process(cache, monkeypatch, capsys):
    def fails(*args, **settings):
        raise RuntimeError("no compiler\nand a page of explanations")

    monkeypatch.setattr(fused_attention, "fused_attention", fails)
    assert chosen() == "plain"
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "attention: plain, because the fused kernel fails here: RuntimeError: no compiler"
    assert not list(cache.iterdir())  # it may have been the moment: memory that was not enough
    monkeypatch.setattr(fused_attention, "fused_attention", RIGHT)
    another_process()
    assert chosen() == "interpret"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"difference": ""}', None], ids=repr)
def test_a_file_that_is_not_what_was_written_is_not_believed(content, cache, monkeypatch):
    assert chosen() == "interpret"
    (file,) = cache.iterdir()
    whole = file.read_text()
    file.write_text(json.dumps(json.loads(whole) | {"difference": 0}) if content is None else content)
    calls = []
    monkeypatch.setattr(kernel_check, "_difference", lambda kernel: calls.append(kernel) or "")
    another_process()
    assert chosen() == "interpret"
    assert calls == ["interpret"]
    assert file.read_text() == whole


@pytest.fixture
def named(tmp_path):
    """A directory that JAX is told to keep programs in."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_without_a_private_cache_each_process_compares(named, monkeypatch):
    calls = []
    monkeypatch.setattr(kernel_check, "_difference", lambda kernel: calls.append(kernel) or "")
    named.chmod(0o777)
    assert compilation.directory() is None
    for _ in range(2):
        another_process()
        assert chosen() == "interpret"
    assert calls == ["interpret"] * 2
    assert not list(named.glob("attention-*"))
    named.chmod(0o700)
    assert compilation.directory() == named
    another_process()
    assert chosen() == "interpret"
    assert len(list(named.glob("attention-*"))) == 1


def test_it_is_tried_inside_a_trace_on_a_mesh_and_under_a_transfer_guard(cache):
    mesh = jax.make_mesh((1, 1), ("data", "model"))
    seen = []

    def step(x):
        seen.append(chosen())
        return x * 2

    with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
        step = jax.jit(jax.shard_map(step, in_specs=P(), out_specs=P()))
        step.trace(jax.ShapeDtypeStruct((3,), np.float32))
    assert set(seen) == {"interpret"}
    assert len(list(cache.iterdir())) == 1


def test_a_kernel_asked_for_by_name_is_not_tried(monkeypatch):
    monkeypatch.setattr(kernel_check, "_difference", forbidden)
    assert kernel_for("triton", 64, 32) == "triton"
    assert kernel_for("plain", 64, 32) == "plain"


def test_processes_take_the_same_attention(monkeypatch, capsys):
    from rich.console import Console

    from train.step import hosts, network

    monkeypatch.setattr(network, "fused_here", lambda: "interpret")
    console = Console()
    for here, everywhere, expected, said in [
        (True, True, "auto", ""),
        (True, False, "plain", "attention plain, because the fused kernel was refused on another process\n"),
        (False, False, "plain", ""),  # this process has said why
    ]:
        monkeypatch.setattr(network, "agrees", lambda kernel, here=here: here)
        monkeypatch.setattr(hosts, "everyone", lambda flag, everywhere=everywhere: everywhere)
        assert network.agreed_attention("auto", console) == expected
        assert capsys.readouterr().out == said
    assert network.agreed_attention("triton", console) == "triton"


BLOCKED = """
import sys
class Moved:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("jax.experimental.pallas"):
            raise ImportError(f"{name} has moved")
sys.meta_path.insert(0, Moved())
import train.__main__, bert_jax.__main__
from tests.conftest import write_reviews
from pathlib import Path
data = Path(sys.argv[2])
data.mkdir()
write_reviews(data, train=12, dev=4)
run = str(data / "run")
assert train.__main__.main(["--model", sys.argv[1], "--data", str(data), "--epochs", "1", "--out", run]) == 0
bert_jax.__main__.main(["--model", run + "/best", "a good film"])
assert not any(name.startswith("jax.experimental.pallas") for name in sys.modules)
from bert_jax.kernel_check import agrees
assert not agrees("triton")
"""


def test_a_cpu_needs_no_pallas(tmp_path):
    from bert_jax.config import BertConfig
    from tests.conftest import VOCABULARY

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=128, **sizes)
    model = write_random(config, tmp_path / "model")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BLOCKED, str(model), str(tmp_path / "data")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"text": "a good film"' in done.stdout
    # Where a kernel is wanted, it is refused like any other that fails.
    last = done.stderr.splitlines()[-1]
    assert last == (
        "attention: plain, because the fused kernel fails here: ImportError: jax.experimental.pallas has moved"
    )
