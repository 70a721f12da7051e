"""A Hugging Face Hub on this machine: folders as repositories, spoken to by the Hub's own client over HTTP."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PATH = re.compile(r"(?:/api/models|/api/datasets|/datasets)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)/?(.*)")


@dataclass(frozen=True)
class Asked:
    """One request, and how many bytes of a body it was answered with."""

    method: str
    path: str
    authorization: str | None
    range: str | None
    num_bytes: int


@dataclass
class Hub:
    """The repositories by ORG/NAME, each a folder with the one commit COMMIT, and what was asked so far.

    Without `token`, where one is set, no repository is there. Files of those in `gated` are for nobody. With `failing`,
    everything is answered with that status.
    """

    url: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    token: str | None = None
    gated: set[str] = field(default_factory=set)
    failing: int | None = None
    asked: list[Asked] = field(default_factory=list)

    def of_files(self, ending: str) -> list[Asked]:
        return [each for each in self.asked if "/resolve/" in each.path and each.path.endswith(ending)]

    def answer(self, path: str, authorization: str | None, recursive: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, as the Hub would have them."""
        if self.failing is not None:
            return self.failing, {}, b""
        asked = _PATH.fullmatch(path)
        if asked is None:
            return 404, {}, b""
        name, what, commit, rest = asked.groups()
        if name not in self.repositories or (self.token is not None and authorization != f"Bearer {self.token}"):
            status = 404 if authorization else 401  # Nobody without a token learns what is there.
            return status, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        if commit != COMMIT:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if what == "tree" and not (self.repositories[name] / rest).is_dir():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if what != "resolve":
            listed = self._revision(name) if what == "revision" else self._tree(name, rest, recursive)
            return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if not (self.repositories[name] / rest).is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        content = (self.repositories[name] / rest).read_bytes()
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content

    def _revision(self, name: str) -> object:
        folder = self.repositories[name]
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": str(file.relative_to(folder))} for file in files]}

    def _tree(self, name: str, below: str, recursive: bool) -> object:
        folder = self.repositories[name]
        found = sorted((folder / below).rglob("*") if recursive else (folder / below).iterdir())
        return [
            {"type": "file" if each.is_file() else "directory", "path": path, "size": each.stat().st_size, "oid": path}
            for each in found
            if (path := str(each.relative_to(folder)))
        ]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub without repositories, until the end of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            authorization, wanted = self.headers.get("Authorization"), self.headers.get("Range")
            path, query = urlsplit(self.path).path, urlsplit(self.path).query.lower()
            status, headers, body = hub.answer(path, authorization, "recursive=true" in query)
            if wanted is not None and status == 200:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                end = min(int(last or len(body)), len(body) - 1)
                headers["Content-Range"] = f"bytes {first}-{end}/{len(body)}"
                status, body = 206, body[int(first) : end + 1]
            sent = body if self.command == "GET" else b""
            hub.asked.append(Asked(self.command, path, authorization, wanted, len(sent)))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
