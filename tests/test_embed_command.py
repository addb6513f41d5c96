"""python -m bert_jax --embed: what it prints and writes, and what it refuses before JAX is imported."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest

from bert_jax.__main__ import main
from bert_jax.embed_options import writing_vectors
from bert_jax.embedder import Embedder
from bert_jax.errors import UserError
from tests.conftest import ROOT
from tests.faults.conftest import command, without_jax  # noqa: F401 - a fixture
from tests.processes import PATIENCE
from tests.sentence_models import NORMALIZE, PROMPTS, SIZE, TEXTS, Spec, write_native

LINES = [text.strip() for text in TEXTS]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_native(Spec(others=[NORMALIZE], model={"prompts": PROMPTS}), tmp_path_factory.mktemp("embed"))


@pytest.fixture(scope="module")
def embedder(directory):
    return Embedder.load(directory)


@pytest.fixture
def embed(directory):
    return lambda *options: main(["--model", str(directory), "--embed", *map(str, options)])


@pytest.fixture
def source(tmp_path):
    """A file with a text on each line."""
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return tmp_path / "in.txt"


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def test_texts_are_printed_as_json_lines(embed, embedder, capfd):
    embed(*TEXTS[:4])
    printed = rows(capfd.readouterr().out)
    assert [row["text"] for row in printed] == TEXTS[:4]
    assert [list(row) for row in printed] == [["text", "embedding"]] * 3 + [["text", "embedding", "truncated"]]
    np.testing.assert_array_equal([row["embedding"] for row in printed], embedder(TEXTS[:4]))


def test_a_file_becomes_an_array_or_json_lines(embed, embedder, source, tmp_path):
    embed("--input", source, "--output", tmp_path / "out.npy")
    embed("--input", source, "--output", tmp_path / "out.jsonl", "--dtype", "float32")
    found = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert (found.dtype, found.shape) == (np.float32, (len(LINES), SIZE))
    np.testing.assert_array_equal(found, embedder(LINES))
    written = rows((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert [row["text"] for row in written] == LINES
    np.testing.assert_array_equal([row["embedding"] for row in written], found)


def test_prompts_lengths_and_normalisation(embed, embedder, directory, source, tmp_path):
    cases = [
        (["--prompt-name", "query"], embedder(LINES, prompt_name="query")),
        (["--prompt", "the film "], embedder(LINES, prompt="the film ")),
        (["--max-length", "9"], embedder(LINES, max_length=9)),
        (["--no-normalize"], Embedder.load(directory, normalize=False)(LINES)),
    ]
    for options, expected in cases:
        embed("--input", source, "--output", tmp_path / "out.npy", "--overwrite", *options)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_a_column_of_a_table(embed, embedder, tmp_path):
    (tmp_path / "in.csv").write_text("id,sentence1,sentence2\n" + "".join(f"{i},good,bad {i}\n" for i in range(9)))
    with pytest.raises(UserError, match=r"in\.csv: has two columns of texts; name the one to embed with --text-column"):
        embed("--input", tmp_path / "in.csv", "--output", tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()
    embed("--input", tmp_path / "in.csv", "--output", tmp_path / "out.npy", "--text-column", "sentence2")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), embedder([f"bad {i}" for i in range(9)]))


def test_no_texts_make_an_array_without_rows(embed, tmp_path):
    (tmp_path / "in.txt").write_text("")
    embed("--input", tmp_path / "in.txt", "--output", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (0, SIZE)


def test_a_model_without_modules_is_pooled_with_a_warning_or_as_chosen(directory, tmp_path, capfd):
    plain = write_native(Spec(), tmp_path)
    (plain / "modules.json").unlink()
    with pytest.warns(UserWarning, match=r"no modules\.json, so an embedding is the mean .* choose with --pooling"):
        main(["--model", str(plain), "--embed", "good"])
    with warnings.catch_warnings(action="error"):
        main(["--model", str(plain), "--embed", "--pooling", "mean", "good"])
        main(["--model", str(plain), "--embed", "--pooling", "cls", "--normalize", "good"])
    mean, same, cls = (np.array(row["embedding"]) for row in rows(capfd.readouterr().out))
    np.testing.assert_array_equal(mean, same)
    np.testing.assert_allclose(np.linalg.norm(cls), 1, rtol=1e-6)
    assert not np.allclose(mean, cls)


# Options -> the error.
REFUSED = {
    ("--embed", "--pairs", "a", "b"): "--pairs is for labels; --embed does without",
    ("--embed", "--logits", "a"): "--logits is for labels; --embed does without",
    ("--embed", "--long-texts", "windows", "a"): "--long-texts is for labels; --embed does without",
    ("--embed", "--pair-column", "b", "--input", "x.csv"): "--pair-column is for labels; --embed does without",
    ("--prompt", "", "a"): "--prompt needs --embed",
    ("--prompt-name", "query", "a"): "--prompt-name needs --embed",
    ("--pooling", "mean", "a"): "--pooling needs --embed",
    ("--normalize", "a"): "--normalize needs --embed",
    ("--no-normalize", "a"): "--no-normalize needs --embed",
    ("--output", "x.npy", "a"): "x.npy: .npy is written with --embed; choose NAME.jsonl",
    ("--embed", "--output", "x.csv", "a"): "x.csv: .csv is not written with --embed; choose NAME.npy or NAME.jsonl",
    ("--embed", "--output", "x.NPZ", "a"): "x.NPZ: .npz is not written with --embed; choose NAME.npy or NAME.jsonl",
    ("--embed", "--prompt", "a ", "--prompt-name", "query", "b"): "give --prompt or --prompt-name, not both",
    ("--embed", "--prompt-name", "queri", "b"): "--prompt-name is 'queri'; expected one of query, document, passage",
    ("--embed", "--pooling", "mean", "a"): "modules.json: says how to pool; --pooling is for a checkpoint without",
    ("--embed", "--pooling", "median", "a"): "--pooling is 'median'; expected one of cls, max, mean, ",
    ("--embed", "--max-length", "68", "a"): "--max-length is 68; this model takes 3 to 67 tokens",
    ("--embed", "--input", "x.txt", "a"): "give texts or --input, not both",
    ("--embed", "--text-column", "b", "a"): "--text-column is for a table as --input",
}


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_options_that_do_not_go_together_are_refused(options, directory):
    with pytest.raises(UserError) as error:
        main(["--model", str(directory), *options])
    assert REFUSED[options] in str(error.value)


def test_modules_and_options_are_checked_before_jax_is_imported(directory, tmp_path, without_jax):  # noqa: F811
    damaged = write_native(Spec({"pooling_mode": "median"}), tmp_path)
    for model, options, said in (
        (damaged, [], "pooling_mode is 'median'"),
        (directory, ["--prompt-name", "x"], "--prompt-name is 'x'"),
        (directory, ["--output", __file__], "exists; choose another name or pass --overwrite"),
    ):
        done = command("bert_jax", "--model", model, "--embed", "good", *options, env=without_jax)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"error: ")
        assert said in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1


def test_an_array_is_written_whole_or_not_at_all(embed, tmp_path):
    out = tmp_path / "out" / "out.npy"
    (tmp_path / "in.txt").write_bytes(b"good\n" * 9000 + b"\xff\n")
    with pytest.raises(UserError, match=r"line 9001 is not UTF-8 at its byte 0"):
        embed("--input", tmp_path / "in.txt", "--output", out)
    assert list(out.parent.iterdir()) == []
    embed("good", "--output", out)
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"out\.npy: exists; choose another name or pass --overwrite"):
        embed("bad", "--output", out)
    with pytest.raises(UserError, match="line 9001 is not UTF-8"):
        embed("--input", tmp_path / "in.txt", "--output", out, "--overwrite")
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["out.npy"]


def test_interrupted_in_the_middle_it_leaves_no_array(directory, tmp_path):
    pipe, out = tmp_path / "in.txt", tmp_path / "out.npy"
    os.mkfifo(pipe)
    words = [sys.executable, "-m", "bert_jax", "--model", directory, "--embed", "--input", pipe, "--output", out]
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a shell's background jobs ignore it
    process = subprocess.Popen(list(map(str, words)), cwd=ROOT, preexec_fn=heed, stderr=subprocess.PIPE)
    with pipe.open("w") as feed:
        feed.write("a good film\n" * 20_000)  # more than is read ahead: the first windows have been computed
        feed.flush()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (130, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_an_array_of_any_number_of_rows_has_a_header_of_one_length(tmp_path):
    for count in (0, 1, 12_345):
        with writing_vectors(tmp_path / f"{count}.npy", 3, overwrite=False) as add:
            for i in range(count):
                add(np.full(3, i, np.float32))
        assert (tmp_path / f"{count}.npy").stat().st_size == 128 + 12 * count
        np.testing.assert_array_equal(np.load(tmp_path / f"{count}.npy"), np.arange(count)[:, None] * np.ones(3))


def test_memory_does_not_grow_with_the_input(embed, tmp_path, monkeypatch):
    monkeypatch.setattr("bert_jax.embedder.window_texts", lambda: 128)
    embed("good", "--output", tmp_path / "first.npy")  # what is loaded once is not counted
    peaks = []
    for count in (1_000, 20_000):
        (tmp_path / "in.txt").write_text("".join(f"good film {'very ' * (i % 9)}\n" for i in range(count)))
        tracemalloc.start()
        embed("--input", tmp_path / "in.txt", "--output", tmp_path / "out.npy", "--overwrite")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 19,000 embeddings held would be 7 MB more; what the garbage collector has not seen yet is about 1 MB.
    assert peaks[1] - peaks[0] < 3_000_000
