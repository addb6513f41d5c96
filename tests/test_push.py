"""--push-to, against a small hub on this machine: what it is sent is what was written."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pytest

from bert_jax.errors import UserError
from convert.__main__ import main
from tests.conftest import ROOT
from tests.processes import PATIENCE
from tests.test_export import write_run

TOKEN, COMMIT = "hf_of_a_test", "d" * 40


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub's interface as creating a repository and `upload_folder` use, and what it got."""

    def __init__(self, *, refuse: str = "", busy: str = "", public: bool = False, token: str | None = TOKEN):
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuse, self.busy, self.token = refuse, busy, token
        self.repositories: dict[str, dict] = {"org/old": {"private": not public}}
        self.files: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.log: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self):
        # Libraries before 0.36 ask for the branch that they will write to, later ones for the repository.
        name = self.path.partition("?")[0].removeprefix("/api/models/").removesuffix("/revision/main")
        known = self.server.repositories.get(name)
        self.answer({"id": name, "sha": COMMIT, "siblings": [], **known}) if known else self.answer({}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, path = self.server, self.path.partition("?")[0]
        hub.log.append(path)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif hub.refuse and hub.refuse in path:
            self.answer({"error": "You are over\nyour quota"}, 403)
        elif hub.busy and hub.busy in path:
            hub.busy = ""
            self.answer({}, 503)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in hub.repositories else 200
            private = asked.get("private") or asked.get("visibility") == "private"
            hub.repositories.setdefault(name, {"private": private})
            self.answer({"url": f"{hub.address}/{name}"}, status)
        elif path == "/api/validate-yaml":
            self.answer({})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = {file["path"]: "lfs" if file["path"].endswith(".safetensors") else "regular" for file in files}
            self.answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{hub.address}/large/{wanted['oid']}"}} for wanted in objects]
            self.answer({"objects": [{**o, "actions": a} for o, a in zip(objects, actions, strict=True)]})
        elif "/commit/" in path:
            self.commit([json.loads(line) for line in body.splitlines()])
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            address = f"{hub.address}/{name}/commit/{COMMIT}"
            self.answer({"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": ""})
        else:
            self.answer({}, 404)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.log.append(self.path)
        if self.server.refuse == "/large/":
            self.answer({"error": "You are over\nyour quota"}, 403)
        elif self.server.busy == "/large/":
            self.server.busy = ""
            self.answer({}, 503)
        else:
            self.server.large[self.path.removeprefix("/large/")] = body
            self.answer({})

    def commit(self, lines: list[dict]) -> None:
        for line in lines:
            if line["key"] == "file":
                assert line["value"]["encoding"] == "base64"
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.server.files[line["value"]["path"]] = self.server.large[line["value"]["oid"]]
            else:
                assert line["key"] == "header"

    def answer(self, data: dict, status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if message := data.get("error"):
            self.send_header("X-Error-Message", " ".join(message.split()))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """A function that starts a hub; all are stopped at the end."""
    started = []

    def start(**options) -> Hub:
        hub = Hub(**options)
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        started.append((hub, thread))
        return hub

    yield start
    for hub, thread in started:
        hub.shutdown()
        thread.join()
        hub.server_close()


@pytest.fixture
def convert(tmp_path):
    """A function that exports a run in a process of its own: the library reads its settings when imported."""

    def call(endpoint: str, *arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess:
        run = tmp_path / "run"
        if not run.exists():
            write_run(run)
        environment = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
        environment = {key: value for key, value in environment.items() if not key.startswith("HF_")}
        # Xet has a protocol and servers of its own; without it large files go as git-lfs has them.
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_TOKEN": token} if token else {}
        command = [sys.executable, "-m", "convert", str(run), str(tmp_path / "out"), "--to", "hf", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)

    return call


def written(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(done: subprocess.CompletedProcess, *said: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(part in done.stderr for part in said), done.stderr


def test_the_hub_has_what_was_written(serve, convert, tmp_path):
    hub = serve()
    done = convert(hub.address, "--push-to", "org/new")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"pushed {hub.address}/org/new at {COMMIT}"
    expected = written(tmp_path / "out")
    del expected["conversion.json"]  # names paths of this machine
    assert hub.files == expected
    assert {"model.safetensors", "README.md", "config.json", "tokenizer.json"} <= set(hub.files)
    assert len(hub.large) == 1
    assert hub.repositories["org/new"] == {"private": False}
    card = hub.files["README.md"].decode()
    assert "- name: org/new\n" in card
    assert 'model="org/new")' in card
    assert not [name for name, content in hub.files.items() if str(tmp_path).encode() in content]


def test_a_private_one_and_one_that_is_there(serve, convert):
    hub = serve()
    assert convert(hub.address, "--push-to", "org/new", "--private").returncode == 0
    assert hub.repositories["org/new"] == {"private": True}
    for name in ("org/new", "org/old"):
        hub.files.clear()
        done = convert(hub.address, "--push-to", name, "--private", "--overwrite")
        assert done.returncode == 0, done.stderr
        assert "model.safetensors" in hub.files


def test_private_never_goes_to_a_public_repository(serve, convert, tmp_path):
    hub = serve(public=True)
    refused(
        convert(hub.address, "--push-to", "org/old", "--private"),
        f"{tmp_path / 'out'} is written, but org/old did not take it: it is there, and public;",
    )
    assert not hub.files
    assert "model.safetensors" in written(tmp_path / "out")


@pytest.mark.parametrize("refuse", ["/api/repos/create", "/preupload/", "/objects/batch", "/large/", "/commit/"])
def test_what_the_hub_refuses_is_one_line_and_the_export_stays(refuse, serve, convert, tmp_path):
    hub = serve(refuse=refuse)
    done = convert(hub.address, "--push-to", "org/new")
    refused(done, f"{tmp_path / 'out'} is written, but org/new did not take it: ", "403", "You are over your quota")
    assert f"wrote {tmp_path / 'out'} (hf)\n" in done.stdout
    assert "pushed" not in done.stdout
    assert not hub.files
    assert "model.safetensors" in written(tmp_path / "out")


once = pytest.mark.skipif(
    tuple(map(int, version("huggingface_hub").split(".")[:2])) < (1, 3),
    reason="huggingface_hub before 1.3 asks for the addresses of large files once, busy or not",
)


@pytest.mark.parametrize("busy", ["/large/", pytest.param("/objects/batch", marks=once)])
def test_a_hub_that_is_busy_is_asked_again_in_silence(busy, serve, convert):
    hub = serve(busy=busy)
    done = convert(hub.address, "--push-to", "org/new")
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(busy in path for path in hub.log) == 2
    assert "model.safetensors" in hub.files


def test_a_hub_that_is_not_there_is_one_line(convert, tmp_path):
    refused(convert("http://127.0.0.1:1", "--push-to", "org/new"), "is written, but org/new did not take it: ")
    assert "model.safetensors" in written(tmp_path / "out")


def test_a_hub_of_ones_own_may_need_no_token(serve, convert):
    hub = serve(token=None)
    done = convert(hub.address, "--push-to", "org/new", token=None)
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in hub.files
    refused(convert(serve().address, "--push-to", "org/new", "--overwrite", token=None), "Invalid username or password")


def test_a_token_is_asked_for_before_anything_is_done(convert, tmp_path):
    refused(
        convert("https://huggingface.co", "--push-to", "org/new", token=None),
        "--push-to needs a token that may write; run `hf auth login`, or set HF_TOKEN",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "name", "a/b/c", "org/", "/name", "org/na me", "org/..", "-org/x", "org/x.git"])
def test_a_name_is_checked_before_anything_is_done(name, tmp_path):
    with pytest.raises(UserError, match="--push-to is '.*'; expected a hub id ORG/NAME"):
        main(["./nothing", str(tmp_path / "out"), "--to", "hf", f"--push-to={name}"])


def test_what_goes_with_what(tmp_path):
    with pytest.raises(UserError, match="--push-to takes the Hugging Face layout; add --to hf"):
        main(["./nothing", str(tmp_path / "out"), "--push-to", "org/new"])
    with pytest.raises(UserError, match="--private is for --push-to"):
        main(["./nothing", str(tmp_path / "out"), "--to", "hf", "--private"])


def test_offline_is_said_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="--push-to needs the hub, and HF_HUB_OFFLINE says to stay offline; unset it"):
        main(["./nothing", str(tmp_path / "out"), "--to", "hf", "--push-to", "org/new"])
