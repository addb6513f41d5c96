"""Trust: rows 59 and 62; others are in test_hostile.py, test_hub.py, test_cache.py and test_processes.py."""

import hashlib
import json
import os

import numpy as np
import pytest

from bert_jax import files
from bert_jax.files import read_json
from bert_jax.tensors import read_tensors, write_tensors
from tests.faults.conftest import command

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\r"


@pytest.fixture
def swapped(monkeypatch):
    """Have a file replaced by another right after it was opened for the n-th time: `swapped(path, content, n)`."""

    def prepare(path, content, which=1):
        real, seen = os.open, [0]
        other = path.with_name("other")
        other.write_bytes(content)

        def opened(name, *arguments, **options):
            descriptor = real(name, *arguments, **options)
            if os.fspath(name) == str(path):
                seen[0] += 1
                if seen[0] == which:
                    other.replace(path)
            return descriptor

        monkeypatch.setattr(files.os, "open", opened)

    return prepare


@pytest.mark.fault(59)
@pytest.mark.parametrize(("name", "which"), [("model.safetensors", 1), ("model.safetensors", 2), ("config.json", 1)])
def test_59_a_file_swapped_after_it_was_opened_is_not_what_its_hash_says(name, which, encoder, swapped, tmp_path):
    """Whichever content is taken, the record holds the hash of that one."""
    from convert.__main__ import main

    path = encoder / name
    before = path.read_bytes()
    if name == "config.json":
        after = json.dumps({**json.loads(before), "layer_norm_eps": 1e-5}).encode()
    else:
        tensors, metadata, _ = read_tensors(path)
        changed = {n: array + np.float32(1) for n, array in tensors.items()}
        write_tensors(tmp_path / "changed", changed, metadata)
        after = (tmp_path / "changed").read_bytes()
    swapped(path, after, which)
    main([str(encoder), str(tmp_path / "out")])
    assert path.read_bytes() == after
    record = read_json(tmp_path / "out" / "conversion.json")["sha256"][name]
    if name == "config.json":
        changed = read_json(tmp_path / "out" / "config.json")["layer_norm_eps"] == 1e-5
    else:
        bias = "embeddings.layer_norm.bias"
        read = read_tensors(tmp_path / "out" / "model.safetensors").tensors[bias]
        changed = (read != tensors["embeddings.LayerNorm.bias"]).any()
    assert record == hashlib.sha256(after if changed else before).hexdigest()


@pytest.mark.fault(59)
def test_59_data_swapped_after_they_were_opened(swapped, tmp_path):
    from tests.conftest import read_splits

    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "old\t0\nold\t1\n" * 5)
    before = path.read_bytes()
    swapped(path, before.replace(b"old", b"new"))
    split = read_splits(tmp_path)["train"]
    assert {row.text for row in split.rows} == {"old"}
    assert split.sha256 == hashlib.sha256(before).hexdigest()
    assert b"new" in path.read_bytes()


def printable(done):
    assert (done.stdout + done.stderr).decode().replace("\n", "").isprintable(), (done.stdout, done.stderr)
    return done.stdout.decode(), done.stderr.decode()


@pytest.mark.fault(62)
def test_62_escape_codes_in_labels_columns_names_and_texts_are_escaped(classifier, encoder, tmp_path):
    labels = [f"good{ESCAPES}", "[red]bad[/red]"]
    rows = [{"text": f"a film {ESCAPES}", "label": labels[i % 2]} for i in range(12)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command(
        "train", "--model", encoder, "--data", data, "--out", tmp_path / "run", "--max-length", 32, "--epochs", 1
    )
    assert done.returncode == 0, done.stderr.decode()
    out, _ = printable(done)
    assert "good\\x1b]0;owned" in out
    assert "[red]bad[/red]" in out  # no markup either
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps({"text": 7, f"label{ESCAPES}": 0}) + "\n")
    assert "\\x1b]0;owned" in printable(command("train", "--model", encoder, "--data", broken, "--max-length", 32))[1]
    assert (
        "\\x1b]0;owned"
        in printable(command("train", "--model", encoder, "--data", f"/nowhere{ESCAPES}", "--max-length", 32))[1]
    )
    done = command("bert_jax", "--model", classifier, f"a film {ESCAPES}")
    assert json.loads(printable(done)[0])["text"] == f"a film {ESCAPES}"  # escaped, and not lost
