"""Every command of the docs is run, as written, where what it names is small; and every block of Python."""

import dataclasses
import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from bert_jax import checkpoint, files
from convert import huggingface
from tests.conftest import PRIMES, ROOT, VOCABULARY, random_checkpoint
from tests.processes import PATIENCE
from tests.sentence_models import NORMALIZE, Spec
from tests.test_hub_data import COMMITS, lines
from tests.test_hub_data import Hub as DataHub
from tests.test_push import TOKEN
from tests.test_push import Hub as Upload

DOCS = sorted((ROOT / "docs").glob("*.md"))
ELSEWHERE = {  # run by other tests, with processes and devices of their own
    "many-devices.md": "tests/test_hosts.py, tests/test_parallel.py, tests/faults/test_devices.py",
}
CONFIG = PRIMES.replace(architecture="BertModel", labels=(), max_position_embeddings=160)


def commands(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    found = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in found if line.strip()]


def python(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with everything that the docs name, in small."""
    folder = tmp_path_factory.mktemp("docs")
    made = random_checkpoint(CONFIG, folder / "source")
    (folder / "runs").mkdir()
    with files.new_directory(folder / "runs" / "minilm") as scratch:
        checkpoint.write(scratch, made)
    with files.new_directory(folder / "bert-base-uncased") as scratch:
        huggingface.write(scratch, made)
    words = VOCABULARY[5:]
    texts = [" ".join(words[(i * k) % 7] for k in range(1, 2 + i % 90)) for i in range(24)]
    with files.new_directory(folder / "sentence-transformers" / "all-MiniLM-L6-v2") as scratch:
        modules = Spec(others=[NORMALIZE], model={"prompts": {"query": "the "}}).files()
        huggingface.write(scratch, dataclasses.replace(made, files={**made.files, **modules}))
    (folder / "reviews.csv").write_text("text,label\n" + "".join(f"{t},{i % 2}\n" for i, t in enumerate(texts)))
    (folder / "new.csv").write_text("text,label\n" + "".join(f"{t},{i % 2}\n" for i, t in enumerate(texts[:7])))
    (folder / "reviews").mkdir()
    for split in ("train", "dev", "test"):
        shutil.copy(folder / "reviews.csv", folder / "reviews" / f"{split}.csv")
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    (folder / "texts.labels").write_text("".join(f"{('bad', 'good')[i % 2]}\n" for i in range(24)))
    pairs = "".join(f"{t},{texts[-i]},{i % 2}\n" for i, t in enumerate(texts))
    (folder / "pairs.csv").write_text(f"sentence1,sentence2,label\n{pairs}")
    flags = "".join(f"{t},{i % 2},{i % 3 == 0:d},0\n" for i, t in enumerate(texts))
    (folder / "comments.csv").write_text(f"text,toxic,obscene,insult\n{flags}")
    (folder / "stars.csv").write_text("text,stars\n" + "".join(f"{t},{i / 8}\n" for i, t in enumerate(texts)))
    for split in ("train", "test"):
        for kind in ("pos", "neg", "unsup"):
            (folder / "aclImdb" / split / kind).mkdir(parents=True)
            for i in range(6):
                (folder / "aclImdb" / split / kind / f"{i}_7.txt").write_text(texts[i])
    hub = folder / "hub" / COMMITS["main"] / "short"
    hub.mkdir(parents=True)
    (hub / "train.jsonl").write_text(lines([(text, i % 2) for i, text in enumerate(texts)]))
    card = "---\nconfigs:\n- config_name: short\n  data_files: short/train.jsonl\n---\n"
    (hub.parent / "README.md").write_text(card)
    return folder


@pytest.fixture
def served(place):
    """The two hubs that the docs speak to."""
    with DataHub(place / "hub") as data, Upload() as upload:
        threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in (data, upload)]
        for thread in threads:
            thread.start()
        yield data, upload
        for server, thread in zip((data, upload), threads, strict=True):
            server.shutdown()
            thread.join()


def run(command, place, served):
    """Run a command line: here, or where it speaks to a hub in a process whose hub is one of ours."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"], command
    data, upload = served
    hub = upload if "--push-to" in words else data if "--data-revision" in words else None
    if hub is not None:
        environment = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
        environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(place / "cache")}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, *words[1:], *(["--model", "runs/minilm"] if words[2] == "train" else [])]
        done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, (command, done.stderr)
        return
    if words[2] == "train" and "--model" not in words:
        words += ["--model", "runs/minilm"]  # its default is too large to train so often
    module = words[2] if words[2].count(".") else f"{words[2]}.__main__"
    assert not importlib.import_module(module).main(words[3:]), command


@pytest.mark.parametrize(
    "name",
    [pytest.param(path.name, marks=[pytest.mark.slow] * (path.name == "your-data.md")) for path in DOCS],
)
def test_commands_and_python_of_the_docs(name, place, served, monkeypatch, capfd):
    if name in ELSEWHERE:
        assert all((ROOT / path).exists() for path in ELSEWHERE[name].split(", "))
        return
    monkeypatch.chdir(place)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    for command in commands(name):
        if not command.startswith("python -m tests."):  # harnesses, with tests of their own
            run(command, place, served)
    for block in python(name):
        exec(compile(block, f"{name}, python", "exec"), {"__name__": "docs"})
    if name == "imdb.md":
        record = json.loads((place / "runs" / "imdb" / "run.json").read_text())
        assert record["examples"] == {"train": 10, "dev": 2, "test": 12}  # a fifth held out, unsup left out
        assert record["labels"] == ["neg", "pos"]
    if name == "embeddings.md":
        vectors = np.load(place / "vectors.npy")
        assert (vectors.dtype, vectors.shape) == (np.float32, (24, CONFIG.hidden_size))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    if name == "transformers.md":
        assert set(served[1].files) >= {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


@pytest.mark.parametrize("name", ["README.md", "docs/from-flax.md", "docs/tour.ipynb"])
def test_attention_masks_of_the_docs_where_0_is_a_word(name, tmp_path, monkeypatch):
    """The vocabulary begins with [UNK], which all words of the examples are, and ends with [PAD]."""
    words = ["[UNK]", *VOCABULARY[2:], "[PAD]"]
    config = CONFIG.replace(pad_token_id=len(words) - 1)
    made = random_checkpoint(config, tmp_path / "source")
    vocabulary = {"vocab.txt": "".join(f"{word}\n" for word in words).encode()}
    (tmp_path / "runs" / "tour").mkdir(parents=True)
    for model in ("minilm", "base", "tour/minilm"):
        with files.new_directory(tmp_path / "runs" / model) as scratch:
            checkpoint.write(scratch, dataclasses.replace(made, files=vocabulary))
    classifier = config.replace(architecture=PRIMES.architecture, labels=("no", "yes"))
    with files.new_directory(tmp_path / "runs" / "demo") as scratch:
        checkpoint.write(scratch, dataclasses.replace(random_checkpoint(classifier, tmp_path / "2"), files=vocabulary))
    (tmp_path / "reviews.txt").write_text("a film\n")
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if name.endswith(".ipynb"):
        blocks = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    [block] = [block for block in blocks if "from_attention_mask" in block]
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(compile(block, name, "exec"), found)
    rows = found["rows"]
    texts = found["texts"] if "texts" in found else [found["tokens"]]
    assert len(texts) == len(rows.input_ids)
    for tokens, ids, segments in zip(texts, rows.input_ids, rows.segment_ids, strict=True):
        assert 0 in tokens.input_ids
        assert ids[segments == 1].tolist() == tokens.input_ids.tolist()
        assert (segments <= 1).all()
    assert found.get("hidden", rows.input_ids).shape[:2] == rows.input_ids.shape


def test_links_of_the_docs_lead_somewhere():
    for path in (ROOT / "README.md", *DOCS):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            assert link.startswith("http") or (path.parent / link).exists(), (path.name, link)


def test_the_picture_of_packing_is_drawn(tmp_path, minilm):
    draw = runpy.run_path(str(ROOT / "docs" / "draw_packing.py"))["draw"]
    padded, packed = draw(tmp_path / "packing.svg")
    assert packed < padded
    svg = (tmp_path / "packing.svg").read_text()
    # Two rectangles for each row that is padded and one for each example packed, and for the rows' ends.
    assert svg.count("<path") >= 3 * 32
    assert (ROOT / "docs" / "packing.svg").read_text().count("useful") == svg.count("useful")


def test_every_command_of_the_docs_is_python_or_elsewhere():
    for path in DOCS:
        if path.name not in ELSEWHERE:
            assert all(command.startswith("python -m ") for command in commands(path.name)), path.name


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(minilm, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for name in ("bert_jax", "convert", "train"):
        (tmp_path / name).symlink_to(ROOT / name)
    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # One epoch is enough to see that all of it runs.
    for cell in code:
        cell["source"] = cell["source"].replace("restart=True", "restart=True, epochs=1")
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    settings = {"timeout": int(PATIENCE), "resources": {"metadata": {"path": str(tmp_path)}}}
    nbclient.NotebookClient(notebook, **settings).execute(env={**os.environ, "PATH": path})
    said = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert "wrote runs/tour/exported (hf)" in said
    assert "'README.md'" in said
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    private = json.dumps(nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4))
    assert not re.search(r"/(home|work|root|tmp)/", private)
