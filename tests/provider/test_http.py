"""What the HTTP backend does not take, and what it never tells: keys and passwords stay out of messages."""

import socket
from typing import Any

import pytest

from basemlx.engine.errors import BaseMLXError, InvalidRequest
from basemlx.provider.connect import connect
from basemlx.provider.errors import ServerUnreachable
from basemlx.provider.http import HttpBackend
from tests.serving import chat_body

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
