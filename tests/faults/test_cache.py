"""The persistent compilation cache: private, found again, never in the way."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import json, os, sys
from bert_jax.command import run
from bert_jax.compilation import use_cache
def main():
    found = use_cache()
    import jax, jax.numpy as jnp
    from train.report.console import CompileClock
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    clock = CompileClock()
    jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((5, 5))).block_until_ready()
    print(json.dumps({"directory": found and str(found), **clock.figures(), "says": clock.describe()}))
run(main)
"""


def use(home, **environment):
    """Code, what the program found, standard error."""
    base = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "HOME")}
    base.pop("JAX_COMPILATION_CACHE_DIR", None)
    if home is not None:
        base["HOME"] = str(home)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**base, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_a_second_run_finds_what_the_first_compiled(tmp_path):
    _, first, _ = use(tmp_path)
    code, second, err = use(tmp_path)
    assert (code, err) == (0, "")
    assert first["cached_programs"] == 0 < first["compiled_programs"]
    assert second["compiled_programs"] == 0
    assert second["cached_programs"] == first["compiled_programs"]
    assert f"({second['cached_programs']} of them found in the cache)" in second["says"]
    directory = tmp_path / ".cache" / "bert_jax" / "compiled"
    assert second["directory"].startswith(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700


def test_the_place_can_be_named_or_the_cache_left_out(tmp_path):
    _, found, _ = use(tmp_path, XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert found["directory"].startswith(str(tmp_path / "xdg" / "bert_jax"))
    _, found, _ = use(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "given"))
    assert found["directory"].startswith(str(tmp_path / "given"))
    assert any((tmp_path / "given").rglob("*-cache"))
    _, found, _ = use(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert found["directory"] is None
    assert not (tmp_path / ".cache").exists()


@pytest.mark.fault(60)
def test_60_a_cache_that_others_can_write_to_is_refused(tmp_path):
    directory = tmp_path / "cache"
    directory.mkdir()
    directory.chmod(0o777)
    code, _, err = use(tmp_path, JAX_COMPILATION_CACHE_DIR=str(directory))
    assert code == 2
    assert err.startswith(f"error: {directory}: others can write to this compilation cache")
    assert len(err.splitlines()) == 1


@pytest.mark.fault(39)
def test_39_without_a_place_to_write_a_run_goes_on_with_one_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for environment in ({"XDG_CACHE_HOME": str(tmp_path / "file")}, {"JAX_COMPILATION_CACHE_DIR": "/proc/nowhere"}):
        code, found, err = use(tmp_path, **environment)
        assert code == 0
        assert found["directory"] is None
        assert found["compiled_programs"] > 0
        assert err.startswith("warning: no compilation cache (")
        assert len(err.splitlines()) == 1, err


@pytest.mark.fault(39)
def test_39_a_damaged_entry_is_compiled_again(tmp_path):
    use(tmp_path)
    for file in (tmp_path / ".cache").rglob("*-cache"):
        file.write_bytes(file.read_bytes()[:20])
    code, found, _ = use(tmp_path)
    assert code == 0
    assert found["compiled_programs"] > 0
