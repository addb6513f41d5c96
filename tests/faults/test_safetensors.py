"""Damaged safetensors files: rows 1 to 4 and 6."""

import json
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest

from bert_jax.tensors import read_tensors, write_tensors
from tests.conftest import ROOT

NORM = "embeddings.LayerNorm.weight"


@pytest.fixture
def parts(encoder):
    """The file's path, its header and its data."""
    path = encoder / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return path, json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.fault(1)
@pytest.mark.parametrize("size", [0, 7, 8, 1000, -1], ids=["empty", "7", "8", "in the header", "one byte short"])
@pytest.mark.parametrize("command", ["convert", "train", "bert_jax"])
def test_01_a_file_that_is_cut(size, command, parts, encoder, refused, tmp_path):
    path, _, _ = parts
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    data = tmp_path / "data.csv"
    data.write_text("text,label\na,0\nb,1\n")
    arguments = {
        "convert": [encoder, tmp_path / "out"],
        "train": ["--model", encoder, "--data", data, "--out", tmp_path / "run"],
        "bert_jax": ["--model", encoder, "a film"],
    }
    refused(command, *arguments[command], fragments=[path, f"({len(whole[:size]):,} bytes)"])


@pytest.mark.fault(1)
def test_01_the_bytes_there_should_be_are_said(parts, encoder, refused, tmp_path):
    path, header, data = parts
    put_together(path, header, data[:-1])
    fragments = [f"tensors end at byte {len(data):,} of the data, which are {len(data) - 1:,} bytes"]
    refused("convert", encoder, tmp_path / "out", fragments=fragments)


@pytest.mark.fault(2)
@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40])
def test_02_a_header_of_2_to_the_63_is_refused_before_memory_is_taken(length, parts, encoder, tmp_path):
    path, _, _ = parts
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    words = [sys.executable, "-m", "convert", str(encoder), str(tmp_path / "out")]
    limit = 2 * 2**30

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # going through so many bytes would take hours

    done = subprocess.run(words, cwd=ROOT, capture_output=True, preexec_fn=limited)
    assert done.returncode == 2, done.stderr.decode()
    assert f"the header claims {length:,} bytes" in done.stderr.decode()


def _overlapping(header):
    names = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    first, second = header[names[0]]["data_offsets"], header[names[1]]["data_offsets"]
    second[:] = [n - 4 for n in second]
    return names[1], first[1] - 4


def _holed(header):
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] > 0:
            entry["data_offsets"] = [n + 8 for n in entry["data_offsets"]]
    return "begins at byte", "ends at"


def _overflowing(header):
    header[NORM]["data_offsets"] = [2**63, 2**63 + 128]
    return NORM, "whole numbers"


def _reversed(header):
    header[NORM]["data_offsets"].reverse()
    return NORM, "-128 bytes"


def _beyond(header):
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    header[last]["data_offsets"][1] += 2**40
    return last, "its shape takes"


def _large(header):
    header[NORM]["shape"] = [2**32, 2**32]
    return NORM, "too large"


@pytest.mark.fault(3)
@pytest.mark.parametrize("damage", [_overlapping, _holed, _overflowing, _reversed, _beyond, _large])
def test_03_offsets_that_are_wrong(damage, parts, encoder, refused, tmp_path):
    path, header, data = parts
    fragments = damage(header)
    put_together(path, header, data + bytes(8) if damage is _holed else data)
    refused("convert", encoder, tmp_path / "out", fragments=[path, *fragments])


@pytest.mark.fault(4)
def test_04_a_name_twice(parts, encoder, refused, tmp_path):
    path, header, data = parts
    entry = json.dumps({NORM: header[NORM]})[1:-1].encode()
    put_together(path, json.dumps(header).encode()[:-1] + b", " + entry + b"}", data)
    refused("convert", encoder, tmp_path / "out", fragments=[path, f"{NORM} is there twice"])


@pytest.mark.fault(6)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_06_a_weight_that_is_no_number(value, dtype, encoder, refused, tmp_path):
    path = encoder / "model.safetensors"
    tensors, metadata, _ = read_tensors(path)
    changed = {name: array.astype(dtype) for name, array in tensors.items()}
    changed[NORM].flat[3] = value
    write_tensors(path, changed, metadata)
    refused(
        "convert", encoder, tmp_path / "out", fragments=[encoder, "1 misfits", f"{NORM} has NaN or infinite values"]
    )
