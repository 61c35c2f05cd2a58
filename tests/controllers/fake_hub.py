"""As much of the Hugging Face hub as a push and a download need, in memory, on the loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Keeps what was committed.

    Attributes:
        files: Contents by "USER/NAME" and file.
        refuses: Answer every request with 403.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.refuses = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        self._file(body=True)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.refuses:
            return self._answer({"error": "no"}, 403)
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.files.setdefault(name, {})
            return self._answer({"url": f"{self.server.url}/{name}", "id": name})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        name = "/".join(path.split("/")[3:5])
        if path.endswith("/preupload/main"):
            names = [each["path"] for each in json.loads(data)["files"]]
            return self._answer(
                {"files": [{"path": each, "uploadMode": "regular", "shouldIgnore": False} for each in names]}
            )
        if path.endswith("/commit/main"):
            for line in map(json.loads, data.decode().splitlines()):
                if line["key"] == "file":
                    self.server.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/{name}/commit/{COMMIT}"
            return self._answer({"success": True, "commitUrl": url, "commitOid": COMMIT})
        return self._answer({"error": f"unknown {path}"}, 404)

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, body: bool) -> None:
        user, name, *rest = self.path.strip("/").split("/")
        content = self.server.files.get(f"{user}/{name}", {}).get(rest[-1] if rest else "")
        status = 200 if content is not None else 404
        content = content or b""
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that listens while the block lasts."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
