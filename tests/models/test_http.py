"""Models and a real server: what is refused without loading anything, and what a request brings into memory."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.models import residence as residence_module
from basemlx.engine.models.discovery import Discovery, ModelPlaces
from basemlx.engine.openai.service import OpenAIService
from tests.embeddings.zoo import write_encoder
from tests.model_zoo import write_model
from tests.serving import LiveServer, Noise, chat_body, exchange, get, head, post, wait_until

MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server") / "org"
    write_model(folder / "a", "qwen3", seed=1)
    write_encoder(folder / "encoder")
    discovery = Discovery(ModelPlaces(None, folder / "no-cache", folders=(folder.parent,)))
    config = EngineConfig(max_num_sequences=4, kv_budget_bytes=4 * MIB, prefix_cache_bytes=MIB)
    with Engine(config, discovery=discovery) as engine:
        service = OpenAIService(engine)
        with LiveServer(Noise(engine), service=service) as live:
            yield live


@pytest.fixture
def live(server: LiveServer) -> Iterator[LiveServer]:
    """Nothing is loaded; org/a generates, org/encoder embeds."""
    yield server
    for name in in_memory(server):
        server.noise.engine.unload(name)


def ask(live: LiveServer, path: str, **fields: Any) -> Any:
    body = (
        chat_body(model="org/a") if path.endswith("chat/completions") else {"model": "org/a", "max_tokens": 4}
    )
    if path in ("/v1/completions", "/tokenize"):
        body["prompt"] = "Hi"
    if path == "/v1/embeddings":
        body = {"model": "org/encoder", "input": "Hi"}
    return exchange(live.port, post(live.port, path, body | fields))


def waiting_for(live: LiveServer, name: str) -> int:
    waiting = live.noise.engine._keeper._waiting.get(name)
    return 0 if waiting is None else len(waiting.futures)


def in_memory(live: LiveServer) -> list[str]:
    return [info.name for info in live.noise.engine.models() if info.state]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"temperature": 9}, "temperature"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"timeout": 10**6}, "timeout"),
        ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools[0].name"),
        ("/v1/chat/completions", {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            "/v1/chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}},
            "response_format.json_schema.schema",
        ),
        ("/v1/chat/completions", {"guided_json": {"enum": list(range(6000))}}, "guided_json"),
        ("/v1/chat/completions", {"guided_json": '{"items": {"minimum": "1"}}'}, "guided_json"),
        (
            "/v1/chat/completions",
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters",
        ),
        (
            "/v1/chat/completions",
            {"functions": [{"name": "f", "parameters": {"properties": {"a": {"type": 5}}}}]},
            "functions[0].parameters",
        ),
        ("/v1/completions", {"guided_json": {"required": "a"}}, "guided_json"),
        ("/v1/chat/completions", {"model": "org/encoder"}, "model"),
        ("/v1/chat/completions", {"n": 5}, "n"),
        ("/v1/completions", {"top_p": -1}, "top_p"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/embeddings", {"encoding_format": "hex"}, "encoding_format"),
        ("/v1/embeddings", {"input": ["x", ""]}, "input[1]"),
        ("/v1/embeddings", {"model": "org/a"}, "model"),
        ("/tokenize", {"prompt": ["a", "b"]}, "prompt"),
    ],
)
def test_a_request_that_is_wrong_whatever_the_model_loads_nothing(
    live: LiveServer, path: str, fields: dict[str, Any], param: str
) -> None:
    answer = ask(live, path, **fields)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert in_memory(live) == []


def test_the_same_requests_put_right_load_the_model_they_name(live: LiveServer) -> None:
    for path, name in (
        ("/tokenize", "org/a"),
        ("/v1/completions", "org/a"),
        ("/v1/embeddings", "org/encoder"),
        ("/v1/chat/completions", "org/a"),
    ):
        answer = ask(live, path)
        assert answer.status == 200, answer.body
        assert name in in_memory(live)
        live.noise.engine.unload(name)
        assert in_memory(live) == []


def test_many_clients_wait_for_one_load_and_none_of_them_holds_up_the_rest(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than the server has threads for requests."""
    loads: list[str] = []
    may_load = threading.Event()
    original = residence_module.prepare_load

    def slow(folder: Path, name: str, **options: Any) -> Any:
        loads.append(name)
        assert may_load.wait(60)
        return original(folder, name, **options)

    monkeypatch.setattr(residence_module, "prepare_load", slow)
    paths = ["/v1/chat/completions", "/v1/completions", "/tokenize"] * 6
    with ThreadPoolExecutor(len(paths)) as clients:
        answers = [clients.submit(ask, live, path) for path in paths]
        wait_until(lambda: loads and waiting_for(live, "org/a") == len(paths), "all to wait")
        assert get(live.port, "/v1/models").status == 200
        assert not any(answer.done() for answer in answers)
        may_load.set()
        assert [answer.result().status for answer in answers] == [200] * len(paths)
    assert loads == ["org/a"]


def test_a_model_that_is_not_here_is_a_404_and_nothing_is_fetched(
    live: LiveServer, zoo: Callable[..., Path]
) -> None:
    for name in ("org/c", "qwen3-4b", "orga", str(zoo("qwen3")), "../org/a"):
        answer = ask(live, "/v1/chat/completions", model=name)
        assert (answer.status, answer.code) == (404, "model_not_found")
    assert in_memory(live) == []


@pytest.mark.parametrize(
    "lines",
    [(), ("Content-Length: 0",), ("Content-Length: 0", "Content-Type: application/x-www-form-urlencoded")],
)
def test_load_and_unload_need_no_body_and_no_content_type(live: LiveServer, lines: tuple[str, ...]) -> None:
    for action, loaded in (("load", True), ("unload", False)):
        answer = exchange(live.port, head("POST", f"/v1/models/org/a/{action}", live.port, *lines))
        assert (answer.status, answer.json["loaded"]) == (200, loaded), answer.body
    assert exchange(live.port, post(live.port, "/v1/models/org/a/load", b" \n")).status == 200


def test_a_page_of_another_origin_loads_nothing_without_a_body_either(live: LiveServer) -> None:
    for line in ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site"):
        answer = exchange(live.port, head("POST", "/v1/models/org/a/load", live.port, line))
        assert (answer.status, answer.code) == (403, "origin_not_allowed")
    assert in_memory(live) == []


@pytest.mark.parametrize(
    ("action", "body", "param", "words"),
    [
        ("load", {"pin": 1}, "pin", "true or false"),
        ("load", {"pin": None}, "pin", "true or false"),
        ("load", {"idle_ttl_s": "60"}, "idle_ttl_s", "number of seconds"),
        ("load", {"idle_ttl_s": True}, "idle_ttl_s", "number of seconds"),
        ("load", {"idle_ttl_s": 0}, "idle_ttl_s", "number of seconds"),
        ("load", {"pinned": True, "pin": True, "ttl": 5}, "pinned", "'pinned', 'ttl'. What may be said: pin"),
        ("load", {f"field{number}": 0 for number in range(20)}, "field0", "and 12 more"),
        ("unload", {"pin": True}, "pin", "What may be said: nothing"),
        ("load", [], None, "JSON object"),
        ("load", b"{", None, "not valid JSON"),
    ],
)
def test_what_load_and_unload_cannot_take_is_named_and_nothing_is_done(
    live: LiveServer, action: str, body: Any, param: str | None, words: str
) -> None:
    answer = exchange(live.port, post(live.port, f"/v1/models/org/a/{action}", body))
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert words in answer.json["error"]["message"]
    assert in_memory(live) == []
