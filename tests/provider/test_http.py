"""What the HTTP backend does not take, and what it never tells: keys and passwords stay out of messages.
Connections that are kept, answers of other servers, processes that fork.
"""

import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from basemlx.engine.errors import BaseMLXError, InvalidRequest
from basemlx.provider.connect import connect
from basemlx.provider.errors import ServerError, ServerUnreachable
from basemlx.provider.http import HttpBackend
from tests.serving import chat_body
from tests.transports import answering

BASE = "http://127.0.0.1:9/v1"
KEY = "sk-canary-5d1f"


@pytest.mark.parametrize("spoilt", [KEY + "\n", "\r\n" + KEY, KEY + "\x00", KEY + "\u20ac", "\t" + KEY])
def test_a_key_that_no_header_can_carry_is_refused_without_being_quoted(spoilt: str) -> None:
    for make in (HttpBackend, connect):
        with pytest.raises(InvalidRequest) as info:
            make(BASE, api_key=spoilt)
        assert info.value.param == "api_key"
        assert "canary" not in str(info.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-key": KEY + "\n"},
        {"x-key": "\u20ac" + KEY},
        {"x key": "1"},
        {"x-key:": "1"},
        {"": "1"},
        {"x-key": 1},
    ],
)
def test_headers_that_http_does_not_have_are_refused_without_being_quoted(headers: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as info:
        HttpBackend(BASE, headers=headers)
    assert info.value.param == "headers"
    assert "canary" not in str(info.value)


@pytest.mark.parametrize(
    "base",
    [
        *(
            "nowhere",
            "127.0.0.1:9/v1",
            "ftp://h/v1",
            "http://",
            "http://[::1",
            "http://h:port",
            "http://h:0/v1",
        ),
        *("http://a b/v1", "http://h/v1?x=1", "http://h/v1#x", "http://h\n/v1", "http://\u20ac/v1"),
        "http://xn--zz/v1",  # no name in IDNA
    ],
)
def test_what_is_no_address_is_refused(base: str) -> None:
    with pytest.raises(InvalidRequest, match="must be a URL") as info:
        HttpBackend(base)
    assert info.value.param == "api_base"


def test_a_password_in_an_address_is_not_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        HttpBackend(f"http://ada:{KEY}@127.0.0.1:{port}/v1") as backend,
        pytest.raises(ServerUnreachable) as at,
    ):
        backend.models()
    assert f"http://127.0.0.1:{port}/v1" in str(at.value)
    with pytest.raises(InvalidRequest) as info:
        HttpBackend(f"ftp://ada:{KEY}@h/v1")
    assert "canary" not in str(at.value) + str(info.value)


def test_what_httpx_cannot_send_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """h11's own words on a header that slips through would have the key in them."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        HttpBackend(f"http://127.0.0.1:{server.getsockname()[1]}/v1", api_key=KEY) as backend,
    ):
        monkeypatch.setitem(backend._headers, "authorization", f"Bearer {KEY}\n")
        for ask in (backend.chat, backend.chat_stream):
            with pytest.raises(BaseMLXError, match="could not be sent") as info:
                ask(chat_body())
            assert "canary" not in repr(info.value)


# streams and their connections


EVENTS = b'data: {"choices": []}\n\ndata: [DONE]\n\n'


class Handler(BaseHTTPRequestHandler):
    """Answers every request with EVENTS, and keeps the connection. The body's end comes `pause_s` later, or never."""

    protocol_version = "HTTP/1.1"
    pause_s: float | None = 0.02
    encoding = "identity"
    heard: list[tuple[int, str]]  # the client's port and Accept-Encoding

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.heard.append((self.client_address[1], self.headers.get("accept-encoding", "")))
        self.send_response(200)
        self.send_header("content-encoding", self.encoding)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        data = gzip.compress(EVENTS) if self.encoding == "gzip" else EVENTS
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if self.pause_s is None:
            self.rfile.read(1)  # until the client closes
            self.close_connection = True
            return
        time.sleep(self.pause_s)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(**settings: Any) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    heard: list[tuple[int, str]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("_", (Handler,), settings | {"heard": heard})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", heard
        finally:
            server.shutdown()
            thread.join()


async def test_streams_that_were_read_to_their_end_share_a_connection() -> None:
    with serving() as (base, heard), HttpBackend(base) as backend:
        for _ in range(3):
            assert len(list(backend.chat_stream(chat_body()))) == 1
            assert len([chunk async for chunk in await backend.achat_stream(chat_body())]) == 1
    assert len(heard) == 6
    assert len({port for port, _ in heard}) == 1


def test_a_body_that_does_not_end_holds_nobody() -> None:
    with serving(pause_s=None) as (base, heard), HttpBackend(base) as backend:
        started_s = time.monotonic()
        for _ in range(2):
            assert len(list(backend.chat_stream(chat_body()))) == 1
        assert time.monotonic() - started_s < 10
    assert len({port for port, _ in heard}) == 2


def test_a_compressed_stream_is_read_and_none_is_asked_for() -> None:
    with serving(encoding="gzip") as (base, heard), HttpBackend(base) as backend:
        assert list(backend.chat_stream(chat_body())) == [{"choices": []}]
        own = backend.with_headers({"Accept-Encoding": "gzip"})
        assert list(own.chat_stream(chat_body())) == [{"choices": []}]
    assert [encoding for _, encoding in heard] == ["identity", "gzip"]


# answers that are none


def answer_of(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


def test_json_that_is_too_deep_to_be_read_is_the_servers_fault() -> None:
    deep = b"[" * 100_000
    with (
        answering(answer_of(deep)) as base,
        HttpBackend(base) as backend,
        pytest.raises(ServerError, match="answer is not JSON"),
    ):
        backend.chat(chat_body())
    with (
        answering(answer_of(b"data: " + deep + b"\n\n")) as base,
        HttpBackend(base) as backend,
        pytest.raises(ServerError, match="event that is not JSON"),
    ):
        list(backend.chat_stream(chat_body()))


# processes that fork


FORK = """
import os, sys, threading
from basemlx.provider.http import HttpBackend
body = {"model": "noise", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "ignore_eos": True}
backend = HttpBackend(sys.argv[1])

def ask(who):
    *_, last = backend.chat_stream(body)
    print(who, backend.chat(body)["usage"]["completion_tokens"], last["choices"][0]["finish_reason"], flush=True)

ask("parent")
backend._connections._lock.acquire()  # as by another thread
pid = os.fork()
if pid == 0:
    ask("child")
    ask("child")
    backend.close()
    assert backend.closed
    sys.exit(0)
backend._connections._lock.release()
assert os.waitpid(pid, 0)[1] == 0
ask("parent")
backend.close()
"""


def test_a_forked_child_goes_on_with_connections_of_its_own(api_base: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", FORK, api_base], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{who} 2 length" for who in ("parent", "child", "child", "parent")]


def test_callers_who_share_connections_do_not_share_cookies() -> None:
    seen: list[str | None] = []

    class Gateway(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.append(self.headers.get("cookie"))
            body = b'{"object": "list", "data": []}'
            self.send_response(200)
            self.send_header("Set-Cookie", "session=alice; Path=/")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with HttpBackend(f"http://127.0.0.1:{server.server_address[1]}/v1") as alice:
            alice.models()
            alice.models()
            alice.with_headers({"authorization": "Bearer bob"}).models()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert seen == [None, None, None]
