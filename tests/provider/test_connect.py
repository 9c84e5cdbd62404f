"""Which backend a caller gets, whose it is, and which key goes with it."""

import socket
import sys
from http import HTTPStatus

import pytest

from basemlx.engine.environment import Environment
from basemlx.engine.errors import AuthenticationFailed, BaseMLXError, ModelNotFound
from basemlx.provider.connect import connect, use_engine
from basemlx.provider.errors import ServerError
from basemlx.provider.http import HttpBackend
from basemlx.provider.local import LocalBackend
from basemlx.server.settings import ServerSettings
from tests.serving import API_KEY, LiveServer, Noise, chat_body, wait_until
from tests.transports import answering

OWN_KEY = "sk-canary-of-the-environment"
REFUSAL = b"HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno"


def test_the_backend_of_an_address_is_shared_and_that_of_none_is_here(api_base: str) -> None:
    assert connect(api_base) is connect(f" {api_base}/")
    assert connect(api_base) is not connect(api_base, api_key="sk-0123456789")
    assert isinstance(connect(), LocalBackend)


def test_one_too_many_is_lost_outside_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losing it closes its connections, which waits: whoever connects meanwhile must not."""
    module = sys.modules["basemlx.provider.connect"]
    held: list[bool] = []

    class Lost(HttpBackend):
        def __del__(self) -> None:
            held.append(module._lock.locked())  # type: ignore[attr-defined]

    monkeypatch.setattr(module, "HttpBackend", Lost)
    monkeypatch.setattr(module, "_http", {})
    monkeypatch.setattr(module, "MAX_HTTP_BACKENDS", 1)
    for port in (1, 2):
        connect(f"http://127.0.0.1:{port}/v1")
    assert held == [False]


def test_one_that_somebody_closed_is_not_handed_out_again(live: LiveServer, api_base: str) -> None:
    connections = live.server.server_state.connections
    before = set(connections)
    with connect(api_base, api_key="sk-not-asked-for", headers={"x-closed": "1"}) as closed:
        assert closed.models()["data"]
    wait_until(lambda: connections <= before, "its connection to be closed")
    assert isinstance(closed, HttpBackend)
    assert closed.closed
    another = connect(api_base, api_key="sk-not-asked-for")
    assert another.models()["data"]
    assert connect(api_base, api_key="sk-not-asked-for") is another
    another.close()


def test_an_address_without_its_version_is_guessed_at(api_base: str) -> None:
    with HttpBackend(api_base.removesuffix("/v1")) as backend:
        with pytest.raises(ServerError, match="lack its /v1") as info:
            backend.chat(chat_body())
        assert info.value.status == HTTPStatus.NOT_FOUND
    with pytest.raises(ModelNotFound) as named:
        connect(api_base).chat(chat_body(model="nobody/nothing"))
    assert "/v1?" not in str(named.value)


async def test_one_of_this_process_that_somebody_closed_goes_on_for_the_next(noise: Noise) -> None:
    backend = LocalBackend(engine=noise.engine)
    before = use_engine(backend)
    try:
        for _ in range(2):
            with connect() as closed:
                assert (await closed.achat(chat_body()))["choices"]
                assert closed.chat(chat_body())["choices"]
    finally:
        assert use_engine(before) is backend
        backend.close()


def test_headers_of_calls_go_over_the_connections_that_there_are(live: LiveServer, api_base: str) -> None:
    connect(api_base).models()
    before = set(live.server.server_state.connections)
    for number in range(4):
        backend = connect(api_base, headers={"x-call": str(number)})
        assert backend.models()["data"]
        assert live.server.server_state.connections <= before


def test_headers_win_over_the_key_and_are_those_of_their_call_only(noise: Noise) -> None:
    with LiveServer(noise, ServerSettings(api_keys=(API_KEY,))) as server:
        base = f"http://127.0.0.1:{server.port}/v1"
        wrong = connect(base, api_key="sk-wrong-key")
        assert connect(base, api_key="sk-wrong-key", headers={"Authorization": f"Bearer {API_KEY}"}).models()
        with pytest.raises(AuthenticationFailed):
            wrong.models()
        wrong.close()


# the environment's key


def heard_at(host: str, api_key: str | None = None) -> bytes:
    """The Authorization header that a server gets which the call names."""
    server = answering(REFUSAL)
    with server as base, pytest.raises(AuthenticationFailed):
        connect(base.replace("127.0.0.1", host), api_key=api_key).models()
    lines = [line for line in server.heard.split(b"\r\n") if line.lower().startswith(b"authorization:")]
    assert len(lines) <= 1
    return lines[0].partition(b":")[2].strip() if lines else b""


@pytest.fixture
def own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASEMLX_API_KEY", OWN_KEY)
    monkeypatch.delenv("BASEMLX_API_BASE", raising=False)


NO_LOOPBACK = "0.0.0.0"
"""It leads to this machine, but is no loopback address."""


@pytest.mark.usefixtures("own_key")
def test_this_machines_own_server_gets_the_environments_key() -> None:
    for host in ("127.0.0.1", "localhost"):
        assert heard_at(host) == f"Bearer {OWN_KEY}".encode()


@pytest.mark.usefixtures("own_key")
def test_a_key_of_the_call_wins_and_an_empty_one_is_none() -> None:
    assert heard_at("127.0.0.1", "sk-of-the-call") == b"Bearer sk-of-the-call"
    assert heard_at("127.0.0.1", "") == b""


@pytest.mark.usefixtures("own_key")
def test_another_host_that_a_call_names_does_not_get_it() -> None:
    assert heard_at(NO_LOOPBACK) == b""
    assert heard_at(NO_LOOPBACK, "sk-of-the-call") == b"Bearer sk-of-the-call"


@pytest.mark.usefixtures("own_key")
def test_the_host_of_the_environment_gets_it_named_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for ending in (None, "", "/"):
        server = answering(REFUSAL)
        with server as base:
            own = base.replace("127.0.0.1", NO_LOOPBACK)
            monkeypatch.setenv("BASEMLX_API_BASE", own)
            with pytest.raises(AuthenticationFailed):
                connect(None if ending is None else own + ending).models()
        assert f"Bearer {OWN_KEY}".encode() in server.heard
    assert heard_at(NO_LOOPBACK) == b"", "the same host at another port is another server"


@pytest.mark.usefixtures("own_key")
@pytest.mark.parametrize(
    "address", ["http://localhost@{}", "http://127.0.0.1:80@{}", "http://127.0.0.1\\@{}", "http://[::1]@{}"]
)
def test_a_loopback_name_that_is_not_the_host_does_not_count(address: str) -> None:
    server = answering(REFUSAL)
    with server as base:
        place = base.removeprefix("http://").replace("127.0.0.1", NO_LOOPBACK)
        with pytest.raises(BaseMLXError):
            connect(address.format(place)).models()
        with socket.create_connection(("127.0.0.1", int(place.partition(":")[2].partition("/")[0]))):
            pass  # for those that were refused without being sent: the server waits for one
    assert OWN_KEY.encode() not in server.heard


def test_the_environments_key_is_in_no_repr() -> None:
    read = Environment.read({"BASEMLX_API_KEY": OWN_KEY})
    assert read.api_key == OWN_KEY
    assert OWN_KEY not in repr(read)
    assert read.unknown_names == ()


def test_a_key_that_cannot_be_sent_is_named_by_its_variable(
    own_key: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASEMLX_API_KEY", OWN_KEY + "\n")
    with pytest.raises(BaseMLXError, match="BASEMLX_API_KEY") as info:
        connect("http://127.0.0.1:9/v1")
    assert info.value.status == HTTPStatus.BAD_REQUEST
    assert "canary" not in str(info.value)
