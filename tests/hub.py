"""What the small hubs of the tests have in common."""

import hashlib
import http.server
import json
from pathlib import Path


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Answers as the hub's: bytes or JSON, a HEAD without its body, and files as the hub lists them."""

    def do_HEAD(self):
        self.do_GET()  # pyright: ignore[reportAttributeAccessIssue]

    def entry(self, folder: Path, file: Path) -> dict:
        name = str(file.relative_to(folder))
        if file.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40}
        oid = hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "size": file.stat().st_size, "oid": oid}

    def answer_json(self, data) -> None:
        self.answer(json.dumps(data).encode(), {"Content-Type": "application/json"})

    def answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass
