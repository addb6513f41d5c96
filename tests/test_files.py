"""Files: read with one clear line when wrong, written whole or not at all, tensors bit for bit."""

import errno
import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors

from bert_jax import files
from bert_jax.errors import UserError
from bert_jax.files import decode, new_directory, read_bytes, read_json, sha256, write_json
from bert_jax.tensors import read_tensors, write_tensors


def tree(directory) -> dict[str, str]:
    """Every file below a directory, hidden ones too, with what it says."""
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in found}


@pytest.fixture
def out(tmp_path):
    """A directory with something in it, in a directory of its own."""
    directory = tmp_path / "place" / "out"
    (directory / "sub").mkdir(parents=True)
    (directory / "old").write_text("old")
    (directory / "sub" / "older").write_text("older")
    return directory


OLD = {"out/old": "old", "out/sub/older": "older"}


def test_a_new_directory_appears_whole_and_only_at_the_end(tmp_path):
    out = tmp_path / "deep" / "er" / "out"
    with new_directory(out) as scratch:
        assert scratch.is_dir()
        assert scratch.parent == out.parent
        (scratch / "a").write_text("1")
        (scratch / "sub").mkdir()
        (scratch / "sub" / "b").write_text("2")
        assert not out.exists()
    assert tree(tmp_path) == {"deep/er/out/a": "1", "deep/er/out/sub/b": "2"}
    assert os.listdir(out.parent) == ["out"]
    assert out.stat().st_mode & 0o777 == 0o755


def attempt(path, error=None, **options):
    """Make a new directory with a file `new` in it, or fail half-way."""
    with new_directory(path, **options) as scratch:
        (scratch / "new").write_text("new")
        if error:
            raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("stop"), KeyboardInterrupt("stop"), SystemExit("stop"), UserError("stop")]
)
def test_an_exception_inside_leaves_nothing(error, tmp_path):
    with pytest.raises(type(error), match="stop"):
        attempt(tmp_path / "out", error)
    assert os.listdir(tmp_path) == []


def test_an_exception_inside_leaves_the_old_directory(out):
    with pytest.raises(RuntimeError, match="stop"):
        attempt(out, RuntimeError("stop"), overwrite=True)
    assert tree(out.parent) == OLD
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("step", ["sync", "_exchange"])
def test_a_failure_at_the_last_steps_leaves_the_old_directory(step, out, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, step, fail)
    with pytest.raises(OSError, match="Input/output error"):
        attempt(out, overwrite=True)
    assert tree(out.parent) == OLD
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_overwriting_exchanges_the_directories(in_one_step, out, monkeypatch):
    if not in_one_step:  # a system without renameat2
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    with new_directory(out, overwrite=True) as scratch:
        (scratch / "new").write_text("new")
        assert tree(out) == {"old": "old", "sub/older": "older"}
    assert tree(out.parent) == {"out/new": "new"}
    assert os.listdir(out.parent) == ["out"]


def test_the_old_directory_is_put_back_where_two_renames_fail_at_the_second(out, monkeypatch):
    def rename(path, target, original=files.Path.rename):
        if path.name.startswith(".out."):
            raise OSError(errno.EIO, "Input/output error")
        return original(path, target)

    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(files.Path, "rename", rename)
    with pytest.raises(OSError, match="Input/output error"):
        attempt(out, overwrite=True)
    assert tree(out.parent) == OLD
    assert os.listdir(out.parent) == ["out"]


def test_the_exchange_is_one_step_where_the_system_can(out, monkeypatch):
    """Not two renames, between which there would be no directory at all."""
    monkeypatch.setattr(files.Path, "rename", None)
    attempt(out, overwrite=True)
    assert tree(out.parent) == {"out/new": "new"}


def test_what_is_written_is_synced_before_it_takes_its_place(out, monkeypatch):
    events = []
    sync, exchange = files.sync, files._exchange
    monkeypatch.setattr(files, "sync", lambda path: (events.append(path.name), sync(path)))
    monkeypatch.setattr(files, "_exchange", lambda *paths: (events.append("exchange"), exchange(*paths)))
    with new_directory(out, overwrite=True) as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "a").write_text("1")
    place = events.index("exchange")
    assert sorted(events[:place]) == sorted(["a", "sub", scratch.name])
    assert events[place + 1 :] == [out.parent.name]


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    attempt(tmp_path / "out")
    assert tree(tmp_path) == {"out/new": "new"}
    assert os.listdir(tmp_path) == ["out"]


def refuse(path, message, **options):
    before = tree(path.parent)
    names = os.listdir(path.parent)
    with pytest.raises(UserError, match=message):
        attempt(path, AssertionError("the block must not run"), **options)
    assert tree(path.parent) == before
    assert os.listdir(path.parent) == names


def test_an_existing_directory_is_refused(out):
    refuse(out, "out: exists; choose another directory or pass --overwrite")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_or_a_link_is_refused_always(overwrite, out, tmp_path):
    (tmp_path / "file").write_text("precious")
    refuse(tmp_path / "file", "file: exists and is not a directory; choose another name", overwrite=overwrite)
    (tmp_path / "link").symlink_to(out)
    refuse(tmp_path / "link", "link: exists and is not a directory", overwrite=overwrite)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refuse(tmp_path / "dangling", "dangling: exists and is not a directory", overwrite=overwrite)
    assert tree(out) == {"old": "old", "sub/older": "older"}


def test_a_parent_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="out: cannot write there: "):
        attempt(tmp_path / "file" / "out")


@pytest.mark.parametrize("name", [".", "..", "sub/.."])
def test_a_directory_that_has_no_name_is_refused(name, tmp_path, monkeypatch):
    """The scratch directory would lie inside it, and the shell's own directory be exchanged."""
    (tmp_path / "a" / "b" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(UserError):
        attempt(files.Path(name), overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "sub"]


def read_text(path):
    return decode(read_bytes(path), path)


def test_text_is_utf8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("é\r\n".encode())
    assert read_text(path) == "é\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + "é".encode())
    assert read_text(path) == "é"


@pytest.mark.parametrize("read", [read_text, read_json])
def test_what_cannot_be_read_is_said(read, tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json: no such file$"):
        read(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="Is a directory$"):
        read(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="Not a directory$"):
        read(tmp_path / "file" / "a.json")
    (tmp_path / "bad.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(UserError, match=r"bad\.json: not UTF-8 at byte 7; save it as UTF-8$"):
        read(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "bad JSON at line 1 column 1: Expecting value"),
        ('{\n "a": 1,\n "b" 2\n}', "bad JSON at line 3 column 6: Expecting ':' delimiter"),
        ('{"a": 1} x', "bad JSON at line 1 column 10: Extra data"),
        ("[1]", "expected a JSON object, found list"),
        ("null", "expected a JSON object, found NoneType"),
        ('"text"', "expected a JSON object, found str"),
        ("[" * 100_000, "bad JSON: nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "bad JSON"),
    ],
    ids=lambda text: text[:20],
)
def test_bad_json_is_said_with_its_place(content, message, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_json_comes_back_in_its_order_and_readable(tmp_path):
    data = {"z": 1, "a": [1.5, None, True], "é": {"中": "😀"}}
    write_json(tmp_path / "a.json", data)
    assert list(read_json(tmp_path / "a.json").items()) == list(data.items())
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def test_half_a_character_in_json_goes_through_or_is_refused(tmp_path):
    """A lone surrogate is legal as an escape in JSON but cannot be written as UTF-8."""
    (tmp_path / "a.json").write_text(r'{"label": "\ud800"}')
    try:
        data = read_json(tmp_path / "a.json")
    except UserError:
        return
    write_json(tmp_path / "b.json", data)
    assert read_json(tmp_path / "b.json") == data


BITS = np.arange(2**16, dtype=np.uint16)
ARRAYS = {
    # Every bit pattern, NaNs with payloads and subnormals included.
    "bfloat16": BITS.view(ml_dtypes.bfloat16).reshape(256, 256),
    "float16": BITS.view(np.float16).reshape(16, 4096),
    "float32": np.random.default_rng(0).integers(0, 2**32, (7, 11, 13), np.uint32).view(np.float32),
    "float64": np.array([[np.nan, -0.0, 5e-324, np.inf]]),
    "int64": np.array([[-(2**63), 2**63 - 1, 0]]),
    "int32": np.arange(5, dtype=np.int32),
    "int8": np.arange(-128, 128, dtype=np.int8),
    "uint8": np.arange(256, dtype=np.uint8),
    "bool": np.array([True, False]),
    "a scalar": np.array(2.5, np.float32),
    "a bfloat16 scalar": np.array(1.5, ml_dtypes.bfloat16),
    "nothing": np.zeros((0, 3), np.float32),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "transposed bfloat16": BITS.view(ml_dtypes.bfloat16).reshape(256, 256).T,
    "permuted": np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    "every second": np.arange(10, dtype=np.float32)[::2],
    "backwards": np.arange(10, dtype=np.float32)[::-1],
    "in columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "broadcast": np.broadcast_to(np.float32(3), (2, 5)),
    "é\n\"'": np.ones(1, np.float32),
}


def identical(a: np.ndarray, b: np.ndarray) -> bool:
    """Same dtype, shape and bits, whatever the order in memory."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_tensors_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    metadata = {"format": "test", "note": "é\n\"'", "empty": ""}
    write_tensors(path, ARRAYS, metadata)
    tensors, read, _ = read_tensors(path)
    assert read == metadata
    assert sorted(tensors) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert identical(tensors[name], array), name
    assert path.stat().st_mode & 0o777 == 0o644


def test_tensors_are_written_where_others_read_them(tmp_path):
    """By the plain library, without our reader."""
    from safetensors.numpy import load_file

    path = tmp_path / "a.safetensors"
    write_tensors(path, {"t": ARRAYS["transposed"], "b": ARRAYS["bfloat16"]}, {"format": "pt"})
    theirs = load_file(path)
    assert theirs["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert theirs["b"].view(np.uint16).ravel().tolist() == BITS.tolist()
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_same_tensors_and_metadata_give_the_same_file(tmp_path):
    metadata = {name: name for name in "format source note a b c d e f".split()}
    contents = set()
    for number in range(8):  # the library would draw an order each time
        write_tensors(tmp_path / str(number), ARRAYS, dict(reversed(metadata.items())) if number % 2 else metadata)
        contents.add((tmp_path / str(number)).read_bytes())
    assert len(contents) == 1


def test_no_tensors_or_no_metadata_are_fine(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {}, {"x": "1"})
    assert read_tensors(tmp_path / "a.safetensors")[:2] == ({}, {"x": "1"})
    write_tensors(tmp_path / "b.safetensors", {"x": np.zeros(1)}, {})
    assert read_tensors(tmp_path / "b.safetensors")[1] == {}


def test_damaged_tensors_are_said_with_their_size(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": np.arange(10, dtype=np.float32)}, {})
    whole = path.read_bytes()
    for content in (b"", whole[:7], whole[:20], whole[:-1], whole + b"x", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=rf"a\.safetensors: not a sound safetensors file \({len(content)} bytes\): "
        ):
            read_tensors(path)
    with pytest.raises(UserError, match=r"b\.safetensors: no such file$"):
        read_tensors(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="Is a directory$"):
        read_tensors(tmp_path)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
