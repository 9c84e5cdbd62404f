"""Bodies that are no JSON, no JSON one should read, too large, or framed to deceive. Each is refused by name in
OpenAI's envelope, and the next request is served.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

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
)

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
KIB = 1024


@pytest.fixture(autouse=True)
def still_serving(live: LiveServer) -> Iterator[None]:
    yield
    assert ask(live.port, max_tokens=1).status == 200
    live.noise.check_idle()


@pytest.fixture(scope="module")
def small(noise: Noise) -> Iterator[LiveServer]:
    """A server that takes bodies of 64 KiB, and 128 KiB of them at once."""
    settings = ServerSettings(max_body_bytes=64 * KIB, max_held_body_bytes=128 * KIB)
    with LiveServer(noise, settings) as server:
        yield server


NO_JSON = {
    "empty": b"",
    "cut off": b'{"model": "noise", "messages": [',
    "two": b"{} {}",
    "a list": b"[1, 2]",
    "a text": b'"model"',
    "null": b"null",
    "single quotes": b"{'model': 'noise'}",
    "NaN": b'{"model": "noise", "temperature": NaN}',
    "Infinity": b'{"model": "noise", "temperature": -Infinity}',
    "deep lists": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "65 levels": b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}",
    "5,001 digits": b'{"seed": ' + b"9" * 5001 + b"}",
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"model": "noise"}'.encode("utf-16"),
    "a control character": b'{"model": "no\x00ise"}',
    "a million values": b'{"a": [' + b"[]," * 1_000_000 + b"1]}",
}


@pytest.mark.parametrize("kind", NO_JSON)
def test_what_is_no_json_object_is_a_400(kind: str, live: LiveServer) -> None:
    for path in (CHAT, COMPLETIONS):
        answer = exchange(live.port, post(live.port, path, NO_JSON[kind]))
        assert answer.status == 400
        assert answer.code is None
        assert answer.json["error"]["type"] == "invalid_request_error"
        assert "body" in answer.json["error"]["message"]


BAD_VALUES: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"temperature": 1e999}, "temperature"),
    (CHAT, {"max_tokens": 10**30}, "max_tokens"),
    (CHAT, {"max_tokens": 10**9}, "max_tokens"),
    (CHAT, {"max_tokens": -1}, "max_tokens"),
    (CHAT, {"max_tokens": True}, "max_tokens"),
    (CHAT, {"max_tokens": 1.5}, "max_tokens"),
    (CHAT, {"n": 10**9}, "n"),
    (CHAT, {"n": 0}, "n"),
    (CHAT, {"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    (CHAT, {"stop": ["x"] * 17}, "stop"),
    (CHAT, {"stop": [""]}, "stop"),
    (CHAT, {"stop": "x" * 257}, "stop"),
    (CHAT, {"logit_bias": {"999999": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": {"-1": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
    (CHAT, {"seed": 2**64}, "seed"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "Hi"}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": "x"}] * 4097}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    (
        CHAT,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}],
                }
            ]
        },
        "messages[0].content[0].type",
    ),
    (CHAT, {"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
    (CHAT, {"chat_template": "{{ 1 }}"}, "chat_template"),
    (CHAT, {"model": 3}, "model"),
    (CHAT, {"stream": "yes"}, "stream"),
    (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
    (COMPLETIONS, {"prompt": ""}, "prompt"),
    (COMPLETIONS, {"prompt": []}, "prompt"),
    (COMPLETIONS, {"prompt": [-1]}, "prompt[0]"),
    (COMPLETIONS, {"prompt": [384]}, "prompt"),
    (COMPLETIONS, {"prompt": [2**31]}, "prompt[0]"),
    (COMPLETIONS, {"prompt": [1, "x"]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": ["x"] * 129}, "prompt"),
    (COMPLETIONS, {"prompt": "x", "logprobs": 21}, "logprobs"),
    (COMPLETIONS, {"prompt": "x", "best_of": 3}, "best_of"),
]


@pytest.mark.parametrize(("path", "fields", "param"), BAD_VALUES, ids=lambda value: str(value)[:40])
def test_a_bad_value_is_refused_by_the_name_of_its_field(
    path: str, fields: dict[str, Any], param: str, live: LiveServer
) -> None:
    body = chat_body(**fields)
    if path == COMPLETIONS:
        del body["messages"]
    data = json.dumps(body).replace("Infinity", "1e999").encode()
    answer = exchange(live.port, post(live.port, path, data))
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert answer.code in (None, "unsupported_parameter", "context_length_exceeded")


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "word " * 3000}]},
        {"max_tokens": 2048},
    ],
)
def test_a_prompt_that_does_not_fit_says_so_in_openais_words(
    fields: dict[str, Any], live: LiveServer
) -> None:
    answer = ask(live.port, **fields)
    assert (answer.status, answer.code) == (400, "context_length_exceeded")
    assert "maximum context length is 2048 tokens" in answer.json["error"]["message"]


def test_a_body_is_measured_by_what_comes_whatever_is_announced(small: LiveServer) -> None:
    limit = 64 * KIB
    fits = json.dumps(chat_body()).encode()
    assert exchange(small.port, post(small.port, CHAT, fits + b" " * (limit - len(fits)))).status == 200

    announced = exchange(small.port, post(small.port, CHAT, b" " * (limit + 1)))
    assert (announced.status, announced.code, announced.closes) == (413, "request_too_large", True)

    # told before a byte of it was sent, and for a length that no integer type holds
    for length in (limit + 1, 10**30):
        start = head("POST", CHAT, small.port, "Content-Type: application/json", f"Content-Length: {length}")
        assert exchange(small.port, start).status in (400, 413)

    flood = head("POST", CHAT, small.port, "Content-Type: application/json", "Transfer-Encoding: chunked")
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    answer = exchange(small.port, flood + chunk * 200)
    assert (answer.status, answer.code, answer.closes) == (413, "request_too_large", True)


def test_many_bodies_at_once_are_bounded_together(small: LiveServer) -> None:
    start = head("POST", CHAT, small.port, "Content-Type: application/json", f"Content-Length: {60 * KIB}")
    held = [connect(small.port) for _ in range(3)]
    try:
        for client in held:
            client.sendall(start + b" " * (59 * KIB))
        refused = [client for client in held if _has_answer(client)]
        assert len(refused) == 1
        answer = read_answer(refused[0])
        assert (answer.status, answer.code) == (429, "queue_full")
        assert "retry-after" in answer.headers
    finally:
        for client in held:
            client.close()


def _has_answer(client: socket.socket) -> bool:
    client.settimeout(0.3)
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity"])
def test_a_compressed_body_is_not_unpacked(encoding: str, live: LiveServer) -> None:
    answer = exchange(live.port, post(live.port, CHAT, b"\x1f\x8b" * 100, f"Content-Encoding: {encoding}"))
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
def test_a_body_that_does_not_say_it_is_json_is_refused(kind: str, live: LiveServer) -> None:
    answer = exchange(live.port, post(live.port, CHAT, chat_body(), f"Content-Type: {kind}"))
    assert (answer.status, answer.code) == (415, "unsupported_media_type")
    assert "application/json" in answer.json["error"]["message"]


def test_json_may_name_its_charset(live: LiveServer) -> None:
    body = post(live.port, CHAT, chat_body(), "Content-Type: Application/JSON; charset=utf-8")
    assert exchange(live.port, body).status == 200


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
FRAMINGS = {
    "both lengths": ("Content-Length: 4", "Transfer-Encoding: chunked"),
    "two lengths": ("Content-Length: 4", "Content-Length: 44"),
    "a list of lengths": ("Content-Length: 4, 44",),
    "a signed length": ("Content-Length: +4",),
    "a negative length": ("Content-Length: -4",),
    "an unknown coding": ("Transfer-Encoding: xchunked",),
    "two codings": ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_ambiguous_framing_is_refused_and_the_connection_closed(framing: str, live: LiveServer) -> None:
    lines = ("Content-Type: application/json", *FRAMINGS[framing])
    with connect(live.port) as client:
        client.sendall(head("POST", CHAT, live.port, *lines) + b"0\r\n\r\n" + SMUGGLED)
        answer = read_answer(client)
        assert 400 <= answer.status < 500 or answer.status == 501
        assert answer.code is None or answer.code
        assert answer.closes
        assert is_closed(client)  # what followed was not taken for a request


def test_the_rest_of_a_refused_body_is_not_taken_for_a_request(live: LiveServer) -> None:
    with connect(live.port) as client:
        client.sendall(post(live.port, CHAT, SMUGGLED, "Content-Type: text/plain"))
        assert read_answer(client).status == 415
        assert is_closed(client)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\r\n",
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b\r\nX: \x01\r\n\r\n",
    ],
)
def test_what_is_no_http_is_told_so_in_the_envelope(data: bytes, live: LiveServer) -> None:
    answer = exchange(live.port, data, "GET")
    assert answer.status in (400, 403, 505)
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


def test_a_kept_connection_serves_one_request_after_another(live: LiveServer) -> None:
    with connect(live.port) as client:
        for number in range(5):
            client.sendall(post(live.port, CHAT, chat_body(max_tokens=1), f"x-request-id: kept-{number}"))
            answer = read_answer(client)
            assert answer.status == 200
            assert answer.headers["x-request-id"] == f"kept-{number}"
        client.sendall(head("GET", "/health", live.port) * 2)  # pipelined
        assert read_answer(client, "GET").status == 200
    assert get(live.port, "/health").status == 200
