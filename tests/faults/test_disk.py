"""Disks that are full and directories that cannot be written: rows 29 and 30."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.faults.interrupted import ends, make
from tests.processes import PATIENCE, one_core

ONE_CORE = f"""
import os, runpy
os.sched_setaffinity(0, {{{one_core()}}})
runpy.run_module("train", run_name="__main__")
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return make(tmp_path_factory.mktemp("disk"), layers=2)  # of the size that fills the disk


@pytest.fixture
def on_a_disk(tmp_path):
    """Run a shell script in a mount namespace of its own where `$disk` has 2 MB; skips where there is none."""
    disk = tmp_path / "disk"
    disk.mkdir()
    flags = [flag for flag in ("-rm", "-m") if _mounts(flag, disk)]
    if not flags:
        pytest.skip("this user may not mount anything")

    def run(script):
        whole = f"disk={shlex.quote(str(disk))}; mount -t tmpfs -o size=2m none $disk && {{\n{script}\n}}"
        found = subprocess.run(
            ["unshare", flags[0], "sh", "-c", whole], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    return run


def _mounts(flag, place):
    try:
        return not subprocess.run(
            ["unshare", flag, "mount", "-t", "tmpfs", "none", place], capture_output=True
        ).returncode
    except FileNotFoundError:
        return False


def train(arguments, name, keep, *more):
    """A line of shell that runs the command in `$disk/run` and keeps what it says and its exit code."""
    words = shlex.join([sys.executable, "-c", ONE_CORE, *arguments, *more])
    return f"{words} --out $disk/run >{keep}/{name}.out 2>{keep}/{name}.err; echo $? >{keep}/{name}.code"


def said(keep, name):
    return [(keep / f"{name}.{kind}").read_text() for kind in ("code", "out", "err")]


@pytest.mark.fault(29)
@pytest.mark.slow
def test_29_a_full_disk_leaves_the_older_checkpoints(arguments, on_a_disk, tmp_path):
    from train.run.checkpoints import Checkpoints

    on_a_disk(
        f"""
        head -c 1380000 /dev/zero >$disk/filler
        {train(arguments, "full", tmp_path)}
        cp -r $disk/run {tmp_path}/failed
        rm $disk/filler
        {train(arguments, "freed", tmp_path)}
        cp -r $disk/run {tmp_path}/freed
        rm -r $disk/run
        {train(arguments, "whole", tmp_path)}
        cp -r $disk/run {tmp_path}/whole"""
    )
    code, _, errors = said(tmp_path, "full")
    assert (code, errors.count("\n")) == ("2\n", 1), errors
    assert "checkpoints: cannot write a checkpoint: No space left on device; those before it stand" in errors
    with Checkpoints(tmp_path / "failed" / "checkpoints", print) as checkpoints:
        newest = checkpoints.steps()[-1]
        found = checkpoints.newest()
    assert found is not None
    assert found[0]["step"] == newest > 0
    code, output, errors = said(tmp_path, "freed")
    assert code == "0\n", errors
    assert f"resumed  at step {newest} of 35" in output
    assert ends(tmp_path / "freed") == ends(tmp_path / "whole")


@pytest.mark.fault(29)
@pytest.mark.slow
def test_29_whatever_else_is_written(arguments, on_a_disk, tmp_path):
    log = """
import pathlib, sys
from bert_jax.command import run
from train.run.run_directory import MetricsLog
def main():
    with MetricsLog(pathlib.Path(sys.argv[1])) as log:
        while True:
            log.write(step=1, loss=0.5)
run(main)
"""
    on_a_disk(
        f"""
        head -c 2M /dev/zero >$disk/filler
        {train(arguments, "run.json", tmp_path)}
        rm -r $disk/*
        head -c 2056192 /dev/zero >$disk/filler
        {train(arguments, "best", tmp_path, "--checkpoint-every", "1000")}
        rm -r $disk/*
        {shlex.join([sys.executable, "-c", log])} $disk/log 2>{tmp_path}/log.err >{tmp_path}/log.out
        echo $? >{tmp_path}/log.code"""
    )
    for name, where in (("run.json", "/run: "), ("best", "/run/best: "), ("log", "/log: ")):
        code, _, errors = said(tmp_path, name)
        assert (code, errors.count("\n")) == ("2\n", 1), errors
        assert errors.startswith("error: ")
        assert f"{where}cannot write: " in errors
        assert "No space left on device" in errors


@pytest.mark.fault(29)
def test_29_a_file_that_may_not_grow(arguments, tmp_path):
    program = f"""
import resource, signal
from bert_jax.command import run
from train.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write that goes too far is an error then
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
run(lambda: main({[*arguments, "--checkpoint-every", "1000", "--out", str(tmp_path / "run")]!r}))
"""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1), found.stderr
    assert f"error: {tmp_path / 'run' / 'best'}: cannot write: " in found.stderr
    assert "File too large" in found.stderr


@pytest.mark.fault(30)
def test_30_a_read_only_disk(arguments, on_a_disk, tmp_path, without_jax):
    # Whoever may mount it may write to any directory whatever its mode, but not to this one.
    words = train(arguments, "read-only", tmp_path).replace("$disk/run", "$disk/a/run")
    output = on_a_disk(
        f"""
        mkdir $disk/a; mount -o remount,ro $disk
        export PYTHONPATH={without_jax["PYTHONPATH"]}
        {words}
        find $disk"""
    )
    assert output.split() == [str(tmp_path / "disk"), str(tmp_path / "disk" / "a")]
    code, output, errors = said(tmp_path, "read-only")
    place = tmp_path / "disk" / "a"
    assert errors == f"error: {place}/run: cannot write there: {place} is read-only; choose another --out\n"
    assert (code, output) == ("2\n", "")


@pytest.mark.fault(30)
def test_30_a_place_that_is_a_file_or_not_ours(arguments, tmp_path, refused):
    (tmp_path / "file").write_text("")
    refused("train", *arguments, "--out", tmp_path / "file" / "run", fragments=["/file is not a directory"])
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):  # root may
        return
    fragments = [f"{locked}/runs/1: cannot write there: {locked} is read-only"]
    refused("train", *arguments, "--out", locked / "runs" / "1", fragments=fragments)
    locked.chmod(0)
    refused("train", *arguments, "--out", locked / "runs" / "1", fragments=fragments)
