"""Pickles of torch's: arrays come back bit for bit, and nothing else comes at all."""

import zipfile

import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.files import read_json, sha256, write_json
from bert_jax.tensors import read_tensors
from convert import torch_file
from convert.__main__ import main
from tests import torch_files
from tests.conftest import ROOT
from tests.test_files import identical

ODD = ROOT / "tests" / "golden" / "odd"


@pytest.mark.parametrize("old", [False, True])
def test_arrays_come_back_bit_for_bit_in_every_dtype_and_order(old, tmp_path):
    values = np.arange(-12, 12).reshape(2, 3, 4)
    arrays = {name: values.astype(dtype) for name, dtype in torch_files.DTYPES.items()}
    arrays |= {
        "transposed": values[0].astype(np.float32).T,
        "scalar": np.float32(3).reshape(()),
        "none": values[:0] * 1.0,
    }
    torch_files.write(tmp_path / "a.bin", arrays, old=old)
    found = torch_file.read(tmp_path / "a.bin")
    assert sorted(found.tensors) == sorted(arrays)
    for name, array in arrays.items():
        assert identical(found.tensors[name], array), name
    assert found.sha256 == sha256(tmp_path / "a.bin")


@pytest.mark.parametrize("name", ["many_heads", "old_names"])
def test_a_checkpoint_with_nothing_but_a_pickle_converts_as_its_safetensors(name, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for file in ("config.json", "vocab.txt"):
        (source / file).write_bytes((ODD / name / file).read_bytes())
    torch_files.write(source / "pytorch_model.bin", read_tensors(ODD / name / "model.safetensors").tensors)
    main([str(source), str(tmp_path / "out")])
    main([str(ODD / name), str(tmp_path / "expected")])
    found, expected = (read_tensors(tmp_path / out / "model.safetensors") for out in ("out", "expected"))
    assert sorted(found.tensors) == sorted(expected.tensors)
    assert all(identical(found.tensors[name], expected.tensors[name]) for name in expected.tensors)
    assert found.metadata["source_sha256"] == sha256(source / "pytorch_model.bin")


def test_shards_of_pickles_convert_as_the_safetensors(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for file in ("config.json", "vocab.txt"):
        (source / file).write_bytes((ODD / "many_heads" / file).read_bytes())
    tensors = read_tensors(ODD / "many_heads" / "model.safetensors").tensors
    places = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(tensors)}
    for place in set(places.values()):
        torch_files.write(source / place, {name: tensors[name] for name in tensors if places[name] == place}, old=True)
    write_json(source / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": places})
    main([str(source), str(tmp_path / "out")])
    main([str(ODD / "many_heads"), str(tmp_path / "expected")])
    found, expected = (read_tensors(tmp_path / out / "model.safetensors").tensors for out in ("out", "expected"))
    assert all(identical(found[name], expected[name]) for name in expected)
    sha256s = read_json(tmp_path / "out" / "conversion.json")["sha256"]
    assert {*places.values()} <= sha256s.keys()
    write_json(source / "pytorch_model.bin.index.json", {"weight_map": {**places, "more": "model.safetensors"}})
    with pytest.raises(UserError, match=r"names 'model.safetensors'; expected a \.bin file beside the index"):
        main([str(source), str(tmp_path / "again")])


def test_damage_to_an_old_file_is_said_in_one_line(tmp_path):
    path = tmp_path / "a.bin"
    torch_files.write(path, {"x": np.arange(10, dtype=np.float32), "y": np.arange(3, dtype=np.int64)}, old=True)
    whole = path.read_bytes()
    count = whole.rindex((10).to_bytes(8, "little"))
    damaged = (
        whole[:-1],
        whole + b"1",
        whole[: len(whole) // 2],
        whole[1:],
        b"",
        whole[:count] + (11).to_bytes(8, "little") + whole[count + 8 :],
        whole.replace(b"K\x0aN", b"J\xff\xff\xff\x7fN"),  # more elements than the file has bytes
        whole.replace(b"K\x0aNtQK\x00", b"K\x0aNtQK\x01"),
        whole.replace(b"\x88", b"\x89"),  # little_endian
    )
    for content in damaged:
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.bin: not a sound file of torch's \([\d,]+ bytes\): ") as caught:
            torch_file.read(path)
        assert "\n" not in str(caught.value)


def test_an_old_file_builds_nothing_but_arrays(tmp_path):
    path = tmp_path / "a.bin"
    torch_files.write(path, {"x": np.arange(10, dtype=np.float32)}, old=True)
    path.write_bytes(path.read_bytes().replace(b"ctorch\nFloatStorage\n", b"cos\nsystem\n"))
    with pytest.raises(UserError, match=r"a\.bin: the pickle asks for os\.system, and nothing but arrays"):
        torch_file.read(path)


def test_damage_is_said_in_one_line(tmp_path):
    path = tmp_path / "a.bin"
    torch_files.write(path, {"x": np.arange(10, dtype=np.float32)})
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"PK", whole.replace(b"archive/data/0", b"archive/data/1")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.bin: not a sound file of torch's \([\d,]+ bytes\): ") as caught:
            torch_file.read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [(b"K\x0a", b"K\x0b"), (b"tQK\x00", b"tQK\x01"), (b"K\x0a\x85", b"K\x0c\x85")])
def test_what_the_pickle_says_of_a_storage_must_be_true(old, new, tmp_path):
    """Its number of elements; an offset or a shape that leads out of it."""
    path = tmp_path / "a.bin"
    torch_files.write(path, {"x": np.arange(10, dtype=np.float32)})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    program = entries["archive/data.pkl"]
    assert old in program
    entries["archive/data.pkl"] = program.replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="storage"):
        torch_file.read(path)
