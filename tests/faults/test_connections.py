"""Clients that are slow, silent or too many: each ends within its limit, and others are served meanwhile."""

import time
from contextlib import suppress

import pytest

from basemlx.server.settings import ServerSettings
from tests.serving import (
    LiveServer,
    Noise,
    ask,
    chat_body,
    connect,
    exchange,
    get,
    head,
    is_closed,
    post,
    read_answer,
    wait_until,
)

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "start", [b"", b"GET", b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0", b"GET / HTTP/1.1\r\n"]
)
def test_half_a_head_is_waited_for_only_so_long(start: bytes, whole: Noise) -> None:
    with LiveServer(whole, ServerSettings(header_timeout_s=0.2)) as live, connect(live.port) as client:
        client.sendall(start)
        answer = read_answer(client)
        assert (answer.status, answer.code, answer.closes) == (408, "request_timeout", True)
        assert is_closed(client)
        assert whole.engine.health().running == 0


def test_a_head_that_comes_byte_by_byte_gets_no_more_time(whole: Noise) -> None:
    with LiveServer(whole, ServerSettings(header_timeout_s=0.3)) as live, connect(live.port) as client:
        started_s = time.monotonic()
        client.settimeout(0.02)
        for byte in head("GET", "/health", live.port, "X-Slow: " + "x" * 5000):
            try:
                client.sendall(bytes([byte]))
                if client.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.2 < time.monotonic() - started_s < 30


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_half_a_body_is_waited_for_only_so_long(framing: str, whole: Noise) -> None:
    with LiveServer(whole, ServerSettings(body_timeout_s=0.2)) as live, connect(live.port) as client:
        piece = b'5\r\n{"mod' if framing.startswith("T") else b'{"mod'
        client.sendall(head("POST", CHAT, live.port, "Content-Type: application/json", framing) + piece)
        answer = read_answer(client)
        assert (answer.status, answer.code, answer.closes) == (408, "request_timeout", True)


def test_an_idle_connection_is_kept_only_so_long(whole: Noise) -> None:
    with LiveServer(whole, ServerSettings(keep_alive_s=0.1)) as live, connect(live.port) as client:
        client.sendall(head("GET", "/health", live.port))
        assert read_answer(client, "GET").status == 200
        assert is_closed(client)


def test_a_flood_of_headers_is_cut_off(whole: Noise) -> None:
    with LiveServer(whole) as live:
        many = [f"X-Header-{number}: {'x' * 1000}" for number in range(80)]
        answer = exchange(live.port, head("GET", "/health", live.port, *many), "GET")
        assert (answer.status, answer.code) == (431, "headers_too_large")
        # closing while it is still sending is as good an answer
        with suppress(OSError), connect(live.port) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nX-Flood: " + b"x" * 5_000_000)
            assert read_answer(client).status == 431
        assert get(live.port, "/health").status == 200


def test_silent_connections_make_room_for_whoever_asks(whole: Noise) -> None:
    with LiveServer(whole, ServerSettings(max_connections=20)) as live:
        silent = [connect(live.port) for _ in range(60)]
        try:
            for number, client in enumerate(silent):
                with suppress(OSError):  # it may have made room already
                    client.sendall(b"GET / HTTP/1.1\r\nHost: x" if number % 2 else b"")
            wait_until(lambda: live.num_connections <= 20, "the cap to hold")
            assert ask(live.port).status == 200
            assert is_closed(silent[0])
        finally:
            for client in silent:
                client.close()


def test_when_all_connections_are_busy_one_more_is_told_so(whole: Noise) -> None:
    with LiveServer(whole, ServerSettings(max_connections=2)) as live:
        busy = [connect(live.port) for _ in range(2)]
        try:
            for client in busy:
                client.sendall(post(live.port, CHAT, chat_body(max_tokens=1500)))
            wait_until(lambda: whole.engine.health().running == 2, "both to run")
            answer = get(live.port, "/health")
            assert (answer.status, answer.code, answer.closes) == (503, "too_many_connections", True)
            assert "retry-after" in answer.headers
        finally:
            for client in busy:
                client.close()


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_not_read_is_given_up(stream: bool, whole: Noise) -> None:
    """With log-probabilities an answer is larger than what the kernel keeps for a reader."""
    with (
        LiveServer(whole, ServerSettings(write_timeout_s=0.3)) as live,
        connect(live.port, receive_buffer_bytes=4096) as client,
    ):
        body = chat_body(stream=stream, n=4, max_tokens=300, logprobs=True, top_logprobs=20)
        if stream:
            body["max_tokens"] = 1900
        client.sendall(post(live.port, CHAT, body))
        wait_until(lambda: whole.engine.health().running == 4, "it to run")
        wait_until(lambda: live.num_connections == 0, "the connection to be given up")
        whole.check_idle()
        last = whole.finished[-1]
        assert set(last.finish_reasons) == ({"abort"} if stream else {"length"})
        client.settimeout(5)
        received = 0
        with suppress(TimeoutError, ConnectionResetError):
            while piece := client.recv(65536):
                received += len(piece)
        assert received < 4 * body["max_tokens"] * 500
