"""Hub ids, against a small hub on this machine: what is asked of it, pinned and recorded."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from bert_jax.files import read_json, sha256
from bert_jax.tensors import read_tensors
from tests import torch_files
from tests.conftest import ROOT
from tests.hub import HubHandler
from tests.processes import PATIENCE

GOLDEN = ROOT / "tests" / "golden" / "odd"
REPOSITORY = "someone/tiny-bert"
COMMITS = {"main": "a" * 40, "old": "b" * 40, "pickled": "c" * 40}
# What each commit holds: the golden checkpoint of that name.
CHECKPOINTS = {
    COMMITS["main"]: "many_heads",
    COMMITS["old"]: "sharded_classifier",
    COMMITS["pickled"]: "many_heads",
}
# Offered by the repository, and never to be asked for.
UNWANTED = (
    "modeling_tiny.py",
    "pytorch_model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "training_args.bin",
    "README.md",
)


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub's interface as `snapshot_download` uses, and a log of what was asked."""

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.log = root, []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files_asked_for(self) -> set[str]:
        return {path.split("/resolve/")[1].split("/", 1)[1] for _, path in self.log if "/resolve/" in path}


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Handler(HubHandler):
    server: Hub

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.log.append((self.command, path))
        api = f"/api/models/{REPOSITORY}/"
        if path.startswith(f"{api}revision/"):
            revision = path.removeprefix(f"{api}revision/")
            commit = COMMITS.get(revision, revision)
            if commit in CHECKPOINTS:
                # Libraries before 2.0 take the names of the files from here, later ones from the tree.
                folder = self.server.root / commit
                files = [{"rfilename": str(file.relative_to(folder))} for file in files_of(folder)]
                self.answer_json({"id": REPOSITORY, "sha": commit, "siblings": files, "private": False})
            else:
                self.refuse("RevisionNotFound")
        elif path.startswith(f"{api}tree/"):
            folder = self.server.root / path.removeprefix(f"{api}tree/")
            self.answer_json([self.entry(folder, file) for file in files_of(folder)])
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            commit, name = path.removeprefix(f"/{REPOSITORY}/resolve/").split("/", 1)
            file = self.server.root / commit / name
            if file.is_file():
                self.answer(file.read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{sha256(file)}"'})
            else:
                self.refuse("EntryNotFound")
        else:
            self.refuse("RepoNotFound")

    def refuse(self, code: str) -> None:
        self.answer(b"", {"X-Error-Code": code}, status=404)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The repository's files, a folder a commit."""
    root = tmp_path_factory.mktemp("hub")
    for commit, name in CHECKPOINTS.items():
        shutil.copytree(GOLDEN / name, root / commit, ignore=shutil.ignore_patterns("reference.safetensors"))
        for unwanted in UNWANTED:
            (root / commit / unwanted).write_text("raise SystemExit('never to be run')")
    weights = root / COMMITS["pickled"] / "model.safetensors"
    torch_files.write(weights.with_name("pytorch_model.bin"), read_tensors(weights).tensors)
    weights.unlink()
    (root / COMMITS["old"] / "2_Dense").mkdir()
    (root / COMMITS["old"] / "2_Dense" / "pytorch_model.bin").write_bytes(b"weights of a module")
    return root


@pytest.fixture
def hub(root):
    with Hub(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def convert(tmp_path):
    """A function that runs the command in a process of its own, with a cache of its own."""

    def call(endpoint: str, *arguments: object) -> subprocess.CompletedProcess:
        environment = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
        environment = {key: value for key, value in environment.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "convert", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)

    return call


def assert_converted(out: Path, commit: str) -> None:
    record = read_json(out / "conversion.json")
    assert (record["source"], record["revision"]) == (REPOSITORY, commit)
    metadata = read_tensors(out / "model.safetensors")[1]
    assert (metadata["source"], metadata["source_revision"]) == (REPOSITORY, commit)
    source = GOLDEN / CHECKPOINTS[commit]
    hashes = {path.name: sha256(path) for path in [*source.glob("model*.safetensors"), source / "config.json"]}
    assert record["sha256"] == hashes
    assert (out / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()


@pytest.mark.fault(58)
def test_58_a_branch_is_pinned_to_its_commit_and_only_data_is_asked_for(hub, convert, tmp_path):
    done = convert(hub.address, REPOSITORY, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"source   {REPOSITORY} at {COMMITS['main']}\n" in done.stdout
    assert_converted(tmp_path / "out", COMMITS["main"])
    assert hub.files_asked_for() == {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}
    # Files are asked for by commit, so that a branch that moves meanwhile cannot mix two states.
    assert all(f"/resolve/{COMMITS['main']}/" in path for _, path in hub.log if "/resolve/" in path)


@pytest.mark.parametrize("revision", ["old", COMMITS["old"]])
def test_a_revision_is_passed_on(revision, hub, convert, tmp_path):
    done = convert(hub.address, REPOSITORY, tmp_path / "out", "--revision", revision)
    assert done.returncode == 0, done.stderr
    assert_converted(tmp_path / "out", COMMITS["old"])
    assert not hub.files_asked_for() & set(UNWANTED)
    # A module of sentence-transformers may have a pickle alone, which is carried along and not read.
    assert {"model.safetensors.index.json", "2_Dense/pytorch_model.bin"} <= hub.files_asked_for()


def test_a_pickle_is_asked_for_where_there_is_nothing_else(hub, convert, tmp_path):
    commit = COMMITS["pickled"]
    done = convert(hub.address, REPOSITORY, tmp_path / "out", "--revision", "pickled")
    assert done.returncode == 0, done.stderr
    assert hub.files_asked_for() == {"config.json", "pytorch_model.bin", "vocab.txt", "tokenizer_config.json"}
    assert read_json(tmp_path / "out" / "conversion.json")["revision"] == commit
    expected = read_tensors(GOLDEN / "many_heads" / "model.safetensors").tensors
    assert len(read_tensors(tmp_path / "out" / "model.safetensors").tensors) == len(expected)
    again = convert("http://127.0.0.1:1", REPOSITORY, tmp_path / "again", "--revision", "pickled")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["someone/nothing"], "someone/nothing: no such directory, and the hub did not give it (404"),
        ([REPOSITORY, "--revision", "nowhere"], f"{REPOSITORY}: no such directory, and the hub did not give it (404"),
    ],
)
def test_what_the_hub_has_not_is_one_line(arguments, said, hub, convert, tmp_path):
    name, *options = arguments
    done = convert(hub.address, name, tmp_path / "out", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.endswith("check the name and the network\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_hub_that_is_gone_gives_what_was_kept_or_one_line(hub, convert, tmp_path):
    assert convert(hub.address, REPOSITORY, tmp_path / "first").returncode == 0
    gone = "http://127.0.0.1:1"
    done = convert(gone, REPOSITORY, tmp_path / "second")
    assert done.returncode == 0, done.stderr
    assert_converted(tmp_path / "second", COMMITS["main"])
    done = convert(gone, "someone/else", tmp_path / "third")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: someone/else: no such directory, and the hub did not give it (")
