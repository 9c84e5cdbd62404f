"""Real servers for tests: `basemlx serve` as a process, or its Server on a real socket in a thread of this process,
where the engine can be looked at; and a client that sends bytes no HTTP library would.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.report import FinishedRequest
from basemlx.engine.engine import Engine
from basemlx.engine.openai.service import OpenAIService
from basemlx.server.app import create_app
from basemlx.server.lifecycle import Lifecycle
from basemlx.server.metrics import Metrics
from basemlx.server.serve import Server, bind
from basemlx.server.settings import ServerSettings

BASEMLX = [sys.executable, "-P", "-m", "basemlx.server.cli"]
LOOPBACK = "127.0.0.1"
NOISE = "noise"
"""The public name of a small random model: what it says means nothing."""

API_KEY = "sk-canary-key-82f1"
"""What the shared server process wants."""

PATIENCE_S = 60.0
"""How long to wait for what must happen soon; the machine may be busy."""


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {patience_s:g} s for {what}"
        time.sleep(0.005)


# bytes on a socket


@dataclass(frozen=True)
class Answer:
    """One HTTP answer as it came. `headers` have names in lower case; of repeated ones the last."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """OpenAI's error code; fails unless this is OpenAI's envelope."""
        check_envelope(self.status, self.json)
        code: str | None = self.json["error"]["code"]
        return code

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def check_envelope(status: int, content: Any) -> None:
    assert list(content) == ["error"]
    error = content["error"]
    of_schemas = {"keyword", "pointer"} if error["code"] == "unsupported_schema" else set()
    assert {"message", "type", "param", "code"} == set(error) - of_schemas
    assert error["message"]
    assert isinstance(error["type"], str)
    assert status >= 400


def connect(port: int, *, receive_buffer_bytes: int | None = None) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(PATIENCE_S)
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.connect((LOOPBACK, port))
    return connection


def read_answer(connection: socket.socket, method: str = "POST") -> Answer:
    """The next answer on the connection, read to its end."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    finally:
        response.close()


def exchange(port: int, data: bytes, method: str = "POST") -> Answer:
    """Sends bytes on a connection of their own."""
    with connect(port) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it has read all
            connection.sendall(data)
        return read_answer(connection, method)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed; waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def head(method: str, path: str, port: int, *lines: str) -> bytes:
    """A request's head; Host is right unless `lines` bring one."""
    host = () if any(line.lower().startswith("host:") for line in lines) else (f"Host: {LOOPBACK}:{port}",)
    return "\r\n".join([f"{method} {path} HTTP/1.1", *host, *lines, "", ""]).encode("latin-1")


def post(port: int, path: str, body: Any, *lines: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = (
        () if any("content-type" in line.lower() for line in lines) else ("Content-Type: application/json",)
    )
    return head("POST", path, port, *kind, f"Content-Length: {len(content)}", *lines) + content


def chat_body(**fields: Any) -> dict[str, Any]:
    """Four tokens, unless `fields` say more."""
    message = {"role": "user", "content": "What is the weather in Tokyo today?"}
    return {"model": NOISE, "messages": [message], "max_tokens": 4, "ignore_eos": True} | fields


def ask(port: int, path: str = "/v1/chat/completions", *lines: str, **fields: Any) -> Answer:
    return exchange(port, post(port, path, chat_body(**fields), *lines))


def get(port: int, path: str, *lines: str) -> Answer:
    return exchange(port, head("GET", path, port, *lines), "GET")


def events_of(body: bytes) -> list[Any]:
    """The data of each event: parsed JSON, or the text [DONE]. Comments are left out."""
    events = []
    for block in body.decode().split("\n\n"):
        if block and not block.startswith(":"):
            assert block.startswith("data: "), block
            data = block.removeprefix("data: ")
            events.append(data if data == "[DONE]" else json.loads(data))
    return events


# a process


class ServerProcess:
    """`basemlx serve` on a free port. `log` is what it has written to stderr so far."""

    def __init__(self, *options: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BASEMLX_")}
        self._process = subprocess.Popen(
            [*BASEMLX, "serve", "--port", "0", *options],
            env=clean | {"BASEMLX_OPENBLAS": "off"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        assert self._process.stdout is not None
        self.ready_line = self._process.stdout.readline().strip()
        match = re.search(r"http://127\.0\.0\.1:(\d+)", self.ready_line)
        assert match, f"not ready: {self.ready_line!r}\n{self.log}"
        self.port = int(match[1])
        wait_until(lambda: "listening" in self.log, "the log to come as far")

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return "".join(self._lines)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended by itself; the log is complete then."""
        status = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def stop(self) -> int:
        if self.is_running:
            self.signal(signal.SIGTERM)
        return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_running:
            self._process.kill()
        self.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


# in this process


@dataclass
class Noise:
    """An engine with a small random model, and what it has finished."""

    engine: Engine
    finished: list[FinishedRequest] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    def observe(self, finished: FinishedRequest) -> None:
        self.metrics.observe_finished(finished)
        self.finished.append(finished)

    @property
    def is_idle(self) -> bool:
        health = self.engine.health()
        return health.running == 0 and health.waiting == 0

    def check_idle(self) -> None:
        """Everything that was taken has been given back."""
        wait_until(lambda: self.is_idle, "the engine to be idle")
        self.engine.check_integrity()
        assert self.engine.stats().kv_bytes == 0


@contextmanager
def noise_engine(folder: Path, **config: Any) -> Iterator[Noise]:
    options: dict[str, Any] = {"max_num_sequences": 4, "max_waiting": 4, "prefill_chunk_tokens": 32}
    noise = Noise.__new__(Noise)
    with Engine(EngineConfig(**(options | config)), observer=lambda done: noise.observe(done)) as engine:
        Noise.__init__(noise, engine)
        engine.load(NOISE, folder=folder)
        yield noise


class LiveServer:
    """The server over an engine of this process, on a real socket, its event loop in a thread."""

    def __init__(self, noise: Noise, settings: ServerSettings | None = None, *, service: Any = None) -> None:
        settings = replace(settings or ServerSettings(), port=0)
        self.noise = noise
        self.lifecycle = Lifecycle()
        self.metrics = noise.metrics = Metrics()
        self._ready = threading.Event()
        self._listener = bind(settings)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)  # connections take it over
        self.port: int = self._listener.getsockname()[1]
        self.app = create_app(
            service or OpenAIService(noise.engine),
            settings,
            engine=noise.engine,
            admin=noise.engine,
            metrics=self.metrics,
            lifecycle=self.lifecycle,
            port=self.port,
        )
        self.server = Server(self.app, settings, self.lifecycle, on_ready=self._ready.set)
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._listener]})

    @property
    def num_connections(self) -> int:
        return len(self.server.server_state.connections)

    def stop(self) -> None:
        """What the first SIGTERM does; returns when the server has ended."""
        self.server.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def begin_stop(self) -> None:
        self.server.stop()
        wait_until(lambda: self.lifecycle.draining, "the server to drain")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._listener.close()
        if error is None and self.noise.engine.health().ok:
            self.noise.check_idle()


@contextmanager
def occupied(noise: Noise, rows: int) -> Iterator[Callable[[], None]]:
    """`rows` choices are being generated, for as long as the model's context lasts or until the function is called."""
    body = chat_body(n=rows, max_tokens=1900)
    with OpenAIService(noise.engine).chat(body) as turn:
        wait_until(lambda: noise.engine.health().running >= rows, "rows to be busy")
        yield turn.abort
