"""What each path answers, asked of the process that users start."""

import re
from typing import Any

import httpx
import pytest

from basemlx import __version__
from basemlx.server.routes.status import ENDPOINTS
from tests.serving import API_KEY, NOISE, LiveServer, ServerProcess, chat_body, check_envelope, events_of

KEY = {"x-api-key": API_KEY}


@pytest.fixture
def client(served: ServerProcess) -> Any:
    with httpx.Client(base_url=served.url, headers=KEY, timeout=60) as client:
        yield client


def idle(client: httpx.Client) -> bool:
    health = client.get("/health").json()
    return bool(health["running"] == 0 and health["waiting"] == 0)


def test_the_ready_line_names_url_and_models(served: ServerProcess) -> None:
    assert re.fullmatch(
        rf"basemlx ready on {served.url} \(models tiny, {NOISE}, \d+\.\d s\)", served.ready_line
    )


def test_models_say_what_they_are_and_that_they_are_loaded(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    models = {model["id"]: model for model in listed["data"]}
    for name in ("tiny", NOISE):
        model = models[name]
        assert model["object"] == "model"
        assert model["loaded"] is True
        assert model["context_length"] >= 2048
        assert model["created"] > 1_600_000_000
        assert client.get(f"/v1/models/{name}").json()["id"] == name
    assert "/" not in "".join(str(value) for value in models[NOISE].values())  # no path of this machine


@pytest.mark.parametrize("name", ["none", "org/none", "..%2f..%2fetc%2fpasswd", "/etc", "", "%00", "tiny/"])
def test_an_unknown_model_is_not_found_and_nothing_is_looked_up_for_it(
    name: str, client: httpx.Client
) -> None:
    answer = client.get(f"/v1/models/{name}")
    assert answer.status_code == 404
    check_envelope(404, answer.json())
    assert answer.json()["error"]["code"] == "model_not_found"


def test_the_front_page_lists_paths_that_exist(client: httpx.Client) -> None:
    about = client.get("/").json()
    assert (about["name"], about["version"]) == ("basemlx", __version__)
    for line in about["endpoints"]:
        method, path = line.split()
        if path.endswith("/unload"):
            continue  # others want the model
        answer = client.request(method, path.replace("{id}", "tiny"), json={} if method == "POST" else None)
        assert answer.status_code in (200, 400), line


def test_the_front_page_lists_every_path_that_exists(live: LiveServer) -> None:
    paths = {path for route in live.app.routes if (path := getattr(route, "path", "/")) != "/"}
    assert {line.split()[1] for line in ENDPOINTS} == {path.replace("{name:path}", "{id}") for path in paths}


def test_health_is_open_and_says_how_busy_the_engine_is(served: ServerProcess) -> None:
    answer = httpx.get(f"{served.url}/health")
    assert answer.status_code == 200
    health = answer.json()
    assert health["status"] == "ok"
    assert health["reason"] is None
    assert {"running", "waiting", "heartbeat_age_s"} <= set(health)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1", "/v1/chat", "/health/", "/v1/chat/completions/", "/v1/modelsx"]
)
def test_an_unknown_path_is_not_found(path: str, client: httpx.Client) -> None:
    answer = client.post(path, json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_wrong_method_is_told_the_right_one(client: httpx.Client) -> None:
    for method, path, right in (
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/completions", "POST"),
        ("DELETE", "/v1/models", "GET"),
    ):
        answer = client.request(method, path)
        assert answer.status_code == 405
        assert right in answer.headers["allow"]
        assert answer.json()["error"]["code"] == "method_not_allowed"


def test_a_request_id_is_taken_over_if_it_is_harmless_and_made_up_if_not(client: httpx.Client) -> None:
    assert client.get("/health", headers={"x-request-id": "abc_DEF-1"}).headers["x-request-id"] == "abc_DEF-1"
    for bad in ("a" * 65, "a b", "\x1b[31m", "a;b", ""):
        answer = client.get("/health", headers=[(b"x-request-id", bad.encode("latin-1"))])
        assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])
    made = {client.get(path).headers["x-request-id"] for path in ("/health", "/health", "/nowhere")}
    assert len(made) == 3


def test_the_same_request_id_may_come_again_while_the_first_runs(client: httpx.Client) -> None:
    headers = {"x-request-id": "twice"}
    with client.stream(
        "POST", "/v1/chat/completions", json=chat_body(stream=True, max_tokens=64), headers=headers
    ) as first:
        second = client.post("/v1/chat/completions", json=chat_body(), headers=headers)
        assert second.status_code == 200
        assert second.headers["x-request-id"] == "twice"
        assert events_of(first.read())[-1] == "[DONE]"


def test_unknown_fields_are_tolerated_and_named(client: httpx.Client) -> None:
    message = {"role": "user", "content": "Hi", "colour": "red"}
    for stream in (False, True):
        answer = client.post(
            "/v1/chat/completions",
            json=chat_body(
                messages=[message], stream=stream, foo=1, user="me", bar=None, **{"we ird\r\n": 1}
            ),
        )
        assert answer.status_code == 200
        assert answer.headers["x-basemlx-ignored"] == "foo, messages.colour"
        first = events_of(answer.content)[0] if stream else answer.json()
        assert first["basemlx"] == {"ignored": ["foo", "messages.colour"]}, (
            "callers in this process see no headers"
        )
    assert "x-basemlx-ignored" not in client.post("/v1/chat/completions", json=chat_body(user="me")).headers
    assert (
        client.post(
            "/v1/completions", json={"model": NOISE, "prompt": "Hi", "max_tokens": 1, "x": 1}
        ).headers["x-basemlx-ignored"]
        == "x"
    )


def test_a_hundred_unknown_fields_make_a_short_header(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=chat_body(**{f"field{i}": i for i in range(100)}))
    assert answer.status_code == 200
    assert len(answer.headers["x-basemlx-ignored"]) < 1000


def test_a_repeated_prompt_is_taken_from_the_cache_and_usage_says_so(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Tell me about caches, please. " * 6}]
    body = chat_body(messages=messages, cache_salt="usage", temperature=0)
    first, second = (client.post("/v1/chat/completions", json=body).json() for _ in range(2))
    assert first["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    prompt_tokens = first["usage"]["prompt_tokens"]
    assert 0.8 * prompt_tokens < second["usage"]["prompt_tokens_details"]["cached_tokens"] < prompt_tokens
    assert second["usage"]["total_tokens"] == prompt_tokens + 4
    assert first["choices"] == second["choices"]
    other = client.post("/v1/chat/completions", json=body | {"cache_salt": "another"}).json()
    assert other["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_developer_is_a_role_and_text_parts_are_text(client: httpx.Client) -> None:
    def prompt_tokens(*messages: dict[str, Any]) -> int:
        answer = client.post(
            "/v1/chat/completions", json={"model": "tiny", "messages": list(messages), "max_tokens": 1}
        )
        assert answer.status_code == 200
        tokens: int = answer.json()["usage"]["prompt_tokens"]
        return tokens

    parts = [{"type": "text", "text": "Good "}, {"type": "text", "text": "morning"}]
    assert prompt_tokens(
        {"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}
    ) == prompt_tokens({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Good morning"})


def test_an_assistant_prefill_is_continued_in_its_own_message(client: httpx.Client) -> None:
    messages = [
        {"role": "user", "content": "Count to three."},
        {"role": "assistant", "content": "One, two,"},
    ]
    body = {"model": "tiny", "messages": messages, "max_tokens": 1, "logprobs": True}
    new_turn = client.post("/v1/chat/completions", json=body).json()
    continued = client.post("/v1/chat/completions", json=body | {"continue_final_message": True}).json()
    assert continued["choices"][0]["message"]["role"] == "assistant"
    assert continued["usage"]["prompt_tokens"] < new_turn["usage"]["prompt_tokens"]  # no new turn was begun
    refused = client.post(
        "/v1/chat/completions", json=body | {"messages": messages[:1], "continue_final_message": True}
    )
    assert refused.status_code == 400


def test_finish_reasons_say_why(client: httpx.Client) -> None:
    def reason(**fields: Any) -> Any:
        answer = client.post("/v1/chat/completions", json=chat_body(seed=3, **fields)).json()
        choice = answer["choices"][0]
        return choice["finish_reason"], choice["message"]["content"], answer["usage"]["completion_tokens"]

    kind, text, tokens = reason(max_tokens=12)
    assert (kind, tokens) == ("length", 12)
    stop = next(character for character in text[2:] if character.isascii() and character.isprintable())
    kind, short, tokens = reason(max_tokens=12, stop=[stop])
    assert (kind, short) == ("stop", text[: text.index(stop)])
    assert tokens <= 12
    # the model's own end, forced by a bias on its end token
    end = client.post(
        "/v1/completions", json={"model": NOISE, "prompt": "x", "logit_bias": {"2": 100}, "max_tokens": 5}
    )
    assert end.json()["choices"][0]["finish_reason"] == "stop"


def test_everything_has_been_given_back(client: httpx.Client) -> None:
    assert idle(client)
