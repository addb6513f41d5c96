"""Data sets of the hub, against a small hub on this machine: splits, names of labels, revisions, no code."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.conftest import ROOT
from tests.hub import HubHandler
from tests.processes import PATIENCE

NAME = "someone/reviews"
COMMITS = {"main": "a" * 40, "old": "b" * 40, "scripted": "c" * 40}
CARD = """---
configs:
- config_name: short
  data_files:
  - {split: train, path: short/train.jsonl}
  - {split: validation, path: short/dev.jsonl}
  - {split: test, path: short/test.jsonl}
  - {split: extra, path: short/dev.jsonl}
dataset_info:
- config_name: short
  features:
  - {name: text, dtype: string}
  - name: label
    dtype:
      class_label:
        names: {'0': poor, '1': fair}
---
"""


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub's interface as `datasets` uses, and a log of what was asked."""

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.log = root, []


class Handler(HubHandler):
    server: Hub

    def do_GET(self):
        url = urlsplit(self.path)
        path, api = unquote(url.path), f"/api/datasets/{NAME}"
        self.server.log.append(path)
        if path == api or path.startswith(f"{api}/revision/"):
            commit = self.commit(path.removeprefix(f"{api}/revision/") if path != api else "main")
            if commit is None:
                self.answer(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
                return
            names = [{"rfilename": str(file.relative_to(self.server.root / commit))} for file in self.files(commit)]
            self.answer_json(
                {"id": NAME, "sha": commit, "siblings": names, "private": False, "tags": [], "downloads": 0}
            )
        elif path.startswith(f"{api}/tree/"):
            revision, _, folder = path.removeprefix(f"{api}/tree/").partition("/")
            commit = self.commit(revision)
            place = self.server.root / commit / folder
            recursive = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
            found = sorted(place.rglob("*") if recursive else place.iterdir()) if place.is_dir() else []
            self.answer_json([self.entry(self.server.root / commit, file) for file in found])
        elif path.startswith(f"/datasets/{NAME}/resolve/"):
            revision, name = path.removeprefix(f"/datasets/{NAME}/resolve/").split("/", 1)
            commit = self.commit(revision)
            file = self.server.root / commit / name
            if file.is_file():
                etag = hashlib.sha1(file.read_bytes()).hexdigest()
                self.answer(file.read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})
            else:
                self.answer(b"", {"X-Error-Code": "EntryNotFound"}, 404)
        else:
            self.answer(b"", {"X-Error-Code": "RepoNotFound"}, 404)

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.log.append(path)
        if not path.startswith(f"/api/datasets/{NAME}/paths-info/"):
            self.answer(b"", {"X-Error-Code": "RepoNotFound"}, 404)
            return
        commit = self.commit(path.rsplit("/", 1)[1])
        names = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        files = [self.server.root / commit / name for name in names]
        self.answer_json([self.entry(self.server.root / commit, file) for file in files if file.exists()])

    def commit(self, revision):
        found = COMMITS.get(revision, revision)
        return found if found in COMMITS.values() else None

    def files(self, commit):
        return sorted(path for path in (self.server.root / commit).rglob("*") if path.is_file())


def lines(rows):
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    for commit, count in ((COMMITS["main"], 8), (COMMITS["old"], 6), (COMMITS["scripted"], 6)):
        folder = root / commit / "short"
        folder.mkdir(parents=True)
        rows = [(f"the film is {'good' if i % 2 else 'bad'} {i}", i % 2) for i in range(count)]
        (folder / "train.jsonl").write_text(lines(rows))
        (folder / "dev.jsonl").write_text(lines(rows[:2]))
        (folder / "test.jsonl").write_text(lines([(text, -1) for text, _ in rows]))
        (root / commit / "README.md").write_text(CARD)
    (root / COMMITS["scripted"] / "reviews.py").write_text(f"open({str(root / 'ran')!r}, 'w')")
    with Hub(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def inspect(hub, tmp_path):
    """Run `python -m train --inspect` with the hub there, and a cache of its own."""

    def call(*arguments, endpoint=None, **settings):
        environment = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
        environment = {key: value for key, value in environment.items() if not key.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": endpoint or f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            **settings,
        }
        command = [sys.executable, "-m", "train", "--inspect", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)

    return call


def test_a_data_set_by_name_and_revision(inspect, tmp_path):
    words = ("--data", NAME, "--data-name", "short", "--max-length", 32, "--model", encoder(tmp_path))
    done = inspect(*words)
    assert done.returncode == 0, done.stderr
    where = f"{NAME} (short) at {COMMITS['main']}"
    assert f"8 examples from {where}, train: text in text, label in label" in done.stdout
    assert f"2 examples from {where}, validation" in done.stdout
    assert "labels: poor 4 (50.0%), fair 4 (50.0%)" in done.stdout
    assert "left out test" in done.stdout
    assert "left out extra: no split has such a name; expected train, dev, test" in done.stdout
    again = inspect(*words, endpoint="http://127.0.0.1:9")  # the hub is gone: what was kept will do
    assert again.returncode == 0, again.stderr
    assert "labels: poor 4 (50.0%), fair 4 (50.0%)" in again.stdout
    done = inspect(*words, "--data-revision", "old")
    assert f"6 examples from {NAME} (short) at {COMMITS['old']}" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--data", NAME, "--data-revision", "none"],
            f"{NAME}: no such file or directory, and the hub did not give it",
        ),
        (["--data", NAME, "--data-name", "long"], "check the name, --data-name and the network"),
        (["--data", "someone/else"], "someone/else: no such file or directory, and the hub did not give it"),
    ],
)
def test_what_the_hub_has_not_is_one_line(arguments, said, hub, inspect, tmp_path):
    done = inspect("--model", encoder(tmp_path), "--max-length", 32, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert not (hub.root / "ran").exists()


def test_a_script_of_the_data_set_is_never_run(hub, inspect, tmp_path):
    words = ("--data", NAME, "--data-revision", "scripted", "--model", encoder(tmp_path), "--max-length", 32)
    done = inspect(*words, HF_DATASETS_TRUST_REMOTE_CODE="1")  # what made datasets before 4.0 run it
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "Dataset scripts are no longer supported, but found reviews.py" in done.stderr
    assert not (hub.root / "ran").exists()


def encoder(folder):
    from bert_jax import checkpoint, files
    from tests.conftest import PRIMES, random_checkpoint

    config = PRIMES.replace(architecture="BertModel", labels=())
    with files.new_directory(folder / "model", overwrite=True) as scratch:
        checkpoint.write(scratch, random_checkpoint(config, folder / "files"))
    return folder / "model"
