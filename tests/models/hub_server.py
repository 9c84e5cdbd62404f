"""A hub on a local socket: as much of the Hugging Face protocol as pulling takes, misbehaving on demand."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 20_000


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """`files` by repository. Faults: `truncate` and `stall` break one answer of a file off after so many bytes (each
    entry once), `ignore_range`, `tamper` (wrong bytes), `redirect` (a Location for every file), `gated`, `statuses`
    (answers of a file before the real one, with `retry_after` as their header), `overstated` (bytes by which a file is
    listed as larger than it is), `spelt` (what a repository is called really). `slow_chunk_s`: files come in pieces
    of 4 KB, with such a pause between."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = "c0ffee" + "0" * 34
    truncate: dict[str, list[int]] = field(default_factory=dict)
    stall: dict[str, list[int]] = field(default_factory=dict)
    stall_s: float = 30.0
    statuses: dict[str, list[int]] = field(default_factory=dict)
    retry_after: str | None = None
    tamper: set[str] = field(default_factory=set)
    ignore_range: bool = False
    redirect: str | None = None
    gated: bool = False
    overstated: dict[str, int] = field(default_factory=dict)
    spelt: str | None = None
    slow_chunk_s: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, folder: Path) -> None:
        self.repositories[name] = {file.name: file.read_bytes() for file in folder.iterdir()}

    def fetched(self, file: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.endswith("/" + file)]

    def describe(self, name: str) -> dict[str, Any]:
        siblings = []
        for file, data in self.repositories[name].items():
            size = len(data) + self.overstated.get(file, 0)
            entry: dict[str, Any] = {"rfilename": file, "size": size}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if len(data) > LARGE_BYTES:
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 130}
            siblings.append(entry)
        return {
            "id": self.spelt or name,
            "sha": self.commit,
            "siblings": siblings,
            "private": False,
            "tags": [],
        }


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    ThreadingHTTPServer.request_queue_size = 64
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub.url
    finally:
        hub.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            hub.seen.append(Seen("GET", path, headers))
            if path.startswith("/api/models/"):
                self._api(path.removeprefix("/api/models/"))
            else:
                self._file(path)

        def _api(self, rest: str) -> None:
            name, _, revision = rest.partition("/revision/")
            if name not in hub.repositories:
                self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            elif hub.gated and "authorization" not in self.headers:
                self._json(403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
            elif revision not in ("", "main", "v1", hub.commit):
                self._json(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            else:
                self._json(200, hub.describe(name))

        def _file(self, path: str) -> None:
            name, _, rest = path.lstrip("/").partition("/resolve/")
            commit, _, file = rest.partition("/")
            data = hub.repositories.get(name, {}).get(file)
            if data is None or commit != hub.commit:
                self._json(404, {"error": "Entry not found"})
                return
            if hub.redirect is not None:
                self.send_response(302)
                self.send_header("Location", hub.redirect + path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if hub.statuses.get(file):
                busy = {} if hub.retry_after is None else {"Retry-After": hub.retry_after}
                self._json(hub.statuses[file].pop(0), {"error": "trouble"}, busy)
                return
            if file in hub.tamper:
                data = bytes([data[0] ^ 1]) + data[1:]
            start = 0
            wanted = self.headers.get("range", "")
            if wanted.startswith("bytes=") and not hub.ignore_range:
                start = int(wanted[6:].rstrip("-"))
                if start >= len(data):
                    self._json(416, {"error": "nothing there"})
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            body = data[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if hub.truncate.get(file):
                self.wfile.write(body[: hub.truncate[file].pop(0)])
                self.close_connection = True
            elif hub.stall.get(file):
                self.wfile.write(body[: hub.stall[file].pop(0)])
                self.wfile.flush()
                hub.stopping.wait(hub.stall_s)
                self.close_connection = True
            else:
                self._write(body)

        def _write(self, body: bytes) -> None:
            if not hub.slow_chunk_s:
                self.wfile.write(body)
                return
            for at in range(0, len(body), 4096):
                self.wfile.write(body[at : at + 4096])
                self.wfile.flush()
                time.sleep(hub.slow_chunk_s)

        def _json(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def handle(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has gone
                super().handle()

    return Handler
