"""Who may come in: by Host, by Origin, by key. Asked over raw sockets, as an attacker would."""

import ast
import inspect
from collections.abc import Iterator

import pytest

from basemlx.server import security
from basemlx.server.hosts import HostRules
from basemlx.server.settings import ServerSettings
from tests.serving import LiveServer, Noise, ask, chat_body, exchange, get, head, post

KEYS = ("sk-first-key-1", "sk-second-key-2")
PAGE = "https://ui.example"


@pytest.fixture(scope="module")
def keyed(noise: Noise) -> Iterator[LiveServer]:
    settings = ServerSettings(
        api_keys=KEYS, allowed_hosts=("box.example", "any.example:*"), allowed_origins=(PAGE,)
    )
    with LiveServer(noise, settings) as server:
        yield server


FOREIGN_HOSTS = (
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.1.evil.example:{port}",
    "localhost.:{port}",
    "localhost.evil.example:{port}",
    "user@127.0.0.1:{port}",
    "127.0.0.1:{port}/x?",
    "127.0.0.1:{port}, evil.example",
    "[::1:{port}",
    "::1:{port}",
    "192.168.0.10:{port}",
    "169.254.169.254:{port}",
    "0.0.0.0:{port}",
    "2130706433:{port}",
    "",
)


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_is_refused_before_anything_is_done(host: str, live: LiveServer) -> None:
    steps = live.noise.engine.stats().steps
    line = "Host: " + host.format(port=live.port)
    assert get(live.port, "/health", line).code == "host_not_allowed"
    answer = ask(live.port, "/v1/chat/completions", line)
    assert (answer.status, answer.code, answer.closes) == (403, "host_not_allowed", True)
    assert live.noise.engine.stats().steps == steps


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "LOCALHOST:{port}", "[::1]:{port}", "127.9.9.9:{port}"])
def test_loopback_names_with_the_port_are_let_in(host: str, live: LiveServer) -> None:
    assert get(live.port, "/health", "Host: " + host.format(port=live.port)).status == 200


def test_no_host_two_hosts_and_a_whole_url_are_refused(live: LiveServer) -> None:
    own = f"Host: 127.0.0.1:{live.port}"
    assert exchange(live.port, b"GET /health HTTP/1.1\r\n\r\n", "GET").status == 400
    assert exchange(live.port, b"GET /health HTTP/1.0\r\n\r\n", "GET").code == "host_not_allowed"
    assert get(live.port, "/health", own, own).status in (400, 403)
    assert get(live.port, f"http://127.0.0.1:{live.port}/health").code == "host_not_allowed"


def test_a_server_for_others_goes_by_the_address_it_was_reached_by_and_by_allowed_names() -> None:
    rules = HostRules(8000, ("box.example", "gate.example:443", "any.example:*"))
    for host in (b"192.168.1.5:8000", b"box.example:8000", b"box.example", b"any.example:1"):
        assert rules.allows(host, reached="192.168.1.5"), host
    assert rules.allows(b"192.168.1.5:8000", reached="::ffff:192.168.1.5")
    assert rules.allows(b"[fe80::1]:8000", reached="fe80::1")
    assert rules.allows(b"gate.example", "https")
    for host in (
        b"192.168.1.6:8000",
        b"192.168.1.5",
        b"box.example:1",
        b"gate.example",
        b"evil.example:8000",
    ):
        assert not rules.allows(host, reached="192.168.1.5"), host


FOREIGN_PAGES = (
    "Origin: http://evil.example",
    "Origin: null",
    "Origin: http://localhost",
    "Origin: http://127.0.0.1:1",
    "Sec-Fetch-Site: cross-site",
)


@pytest.mark.parametrize("line", FOREIGN_PAGES)
def test_a_foreign_page_is_refused_though_browsers_would_send_it_unasked(line: str, live: LiveServer) -> None:
    steps = live.noise.engine.stats().steps
    simple = exchange(
        live.port, post(live.port, "/v1/chat/completions", chat_body(), line, "Content-Type: text/plain")
    )
    assert (simple.status, simple.code) == (403, "origin_not_allowed")
    assert get(live.port, "/v1/models", line).code == "origin_not_allowed"
    preflight = exchange(
        live.port,
        head("OPTIONS", "/v1/models", live.port, line, "Access-Control-Request-Method: POST"),
        "OPTIONS",
    )
    assert preflight.status == 403
    for answer in (simple, preflight):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert live.noise.engine.stats().steps == steps


def test_a_page_of_the_server_itself_and_no_page_are_let_in(live: LiveServer) -> None:
    assert get(live.port, "/health", f"Origin: http://127.0.0.1:{live.port}").status == 200
    assert get(live.port, "/health", "Sec-Fetch-Site: none").status == 200


def test_an_allowed_page_may_ask_and_may_read_answers_and_errors(keyed: LiveServer) -> None:
    origin, key = f"Origin: {PAGE}", f"Authorization: Bearer {KEYS[0]}"
    preflight = exchange(
        keyed.port,
        head(
            "OPTIONS",
            "/v1/chat/completions",
            keyed.port,
            origin,
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization, x-stainless-os",
        ),
        "OPTIONS",
    )
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
    answers = [
        preflight,
        ask(keyed.port, "/v1/chat/completions", origin, key),
        ask(keyed.port, "/v1/chat/completions", origin),
        ask(keyed.port, "/v1/chat/completions", origin, key, model="none"),
    ]
    assert [answer.status for answer in answers] == [204, 200, 401, 404]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in answer.headers
    assert "x-basemlx-ignored" in answers[1].headers["access-control-expose-headers"]


WRONG_KEYS = (
    (),
    ("Authorization: Bearer",),
    ("Authorization: Bearer wrong-key-0000",),
    (f"Authorization: Bearer {KEYS[0]}x",),
    (f"Authorization: Bearer {KEYS[0][:-1]}",),
    (f"Authorization: Basic {KEYS[0]}",),
    ("Authorization: Bearer \xe9\xe8",),
    ("X-Api-Key: ",),
    (f"X-Api-Key: {KEYS[0]}, {KEYS[1]}",),
)


@pytest.mark.parametrize("lines", WRONG_KEYS)
def test_every_route_but_health_wants_a_key(lines: tuple[str, ...], keyed: LiveServer) -> None:
    paths = [getattr(route, "path", "").replace("{name:path}", "tiny") for route in keyed.app.routes]
    assert {"/", "/v1/chat/completions", "/v1/models", "/metrics", "/health"} <= set(paths)
    for path in [*paths, "/nowhere", "/health/", "//health", "/v1/../health"]:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            answer = exchange(keyed.port, head(method, path, keyed.port, *lines), method)
            if path == "/health":
                assert answer.status in (200, 405, 415)
                continue
            assert (path, method, answer.status) == (path, method, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert method == "HEAD" or answer.code == "invalid_api_key"


@pytest.mark.parametrize(
    "line", [f"Authorization: Bearer {KEYS[0]}", f"authorization: bearer {KEYS[1]}", f"x-api-key: {KEYS[1]}"]
)
def test_any_of_the_keys_in_either_header_opens(line: str, keyed: LiveServer) -> None:
    assert get(keyed.port, "/v1/models", line).status == 200
    assert ask(keyed.port, "/v1/chat/completions", line).status == 200


@pytest.mark.parametrize("host", ["x/health?", "127.0.0.1/health", "box.example/health#"])
def test_a_host_cannot_make_a_path_look_public(host: str, keyed: LiveServer) -> None:
    for path in ("/v1/models", "/metrics", "/"):
        assert get(keyed.port, path, f"Host: {host}").status == 403


def test_decisions_look_at_no_url_and_keys_are_compared_in_constant_time() -> None:
    tree = ast.parse(inspect.getsource(security))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "url" not in names
    assert "compare_digest" in names


def test_a_key_is_in_no_representation_of_the_settings() -> None:
    assert KEYS[0] not in repr(ServerSettings(api_keys=KEYS))
