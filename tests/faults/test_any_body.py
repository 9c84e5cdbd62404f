"""Whatever the fields of a request hold, the answer is a result or a refusal in OpenAI's envelope, never a 5xx."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving import LOOPBACK, NOISE, LiveServer, check_envelope, events_of

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [
            "",
            "x",
            "none",
            "auto",
            "required",
            "text",
            "\u2028",
            "日本語",
            "🙂",
            "\x00",
            "<|im_end|>",
            "x" * 300,
        ]
    )
    | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=6), children, max_size=3)
    ),
    max_leaves=5,
)


def likely(*good: Any) -> st.SearchStrategy[Any]:
    """Mostly what is right, so that many requests get as far as the engine."""
    return mostly(st.sampled_from(good), JUNK)


def mostly(good: st.SearchStrategy[Any], junk: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 8).flatmap(lambda number: good if number else junk)


PART = st.fixed_dictionaries(
    {}, optional={"type": likely("text", "image_url", "refusal"), "text": likely("Hi", "")}
)
CALL = st.fixed_dictionaries(
    {},
    optional={
        "id": likely("call_1"),
        "type": likely("function"),
        "function": st.fixed_dictionaries(
            {}, optional={"name": likely("f"), "arguments": likely("{}", "{", {})}
        ),
    },
)
MESSAGE = st.fixed_dictionaries(
    {"role": likely("user", "system", "assistant", "tool", "developer"), "content": likely("Hi", "", None)},
    optional={
        "name": likely("me"),
        "tool_calls": st.lists(CALL, max_size=2),
        "tool_call_id": likely("call_1"),
    },
) | st.fixed_dictionaries({"role": likely("user", "assistant"), "content": st.lists(PART, max_size=3)})

SCHEMA = st.fixed_dictionaries(
    {},
    optional={
        "type": likely("object", "array", "string", "integer", ["string", "null"]),
        "properties": likely({}, {"a": {"type": "integer"}}, {"a": {"$ref": "#"}}),
        "required": likely(["a"], []),
        "additionalProperties": likely(False, True, {}),
        "items": likely({}, {"type": "number"}, False),
        "enum": likely([1, "a", None]),
        "minimum": likely(0, 0.5),
        "maxLength": likely(0, 5),
        "pattern": likely("^a+$", "(a+)+$", "["),
        "anyOf": likely([{"type": "string"}, {}]),
        "$ref": likely("#", "#/$defs/a", "http://127.0.0.1/x"),
    },
)
TOOL = st.fixed_dictionaries(
    {
        "type": likely("function"),
        "function": st.fixed_dictionaries({"name": likely("f", "g")}, optional={"parameters": SCHEMA}),
    }
)
FORMAT = st.one_of(
    st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
    st.fixed_dictionaries(
        {
            "type": likely("json_schema"),
            "json_schema": st.fixed_dictionaries(
                {"name": likely("s"), "schema": SCHEMA}, optional={"strict": likely(True, False)}
            ),
        }
    ),
)

COMMON = {
    "temperature": likely(0, 0.5, 2),
    "top_p": likely(0, 0.5, 1),
    "top_k": likely(-1, 0, 5),
    "min_p": likely(0, 0.5),
    "repetition_penalty": likely(1.1),
    "presence_penalty": likely(-2, 1),
    "frequency_penalty": likely(-2, 1),
    "logit_bias": likely({}, {"5": 3}, {"383": -100}),
    "seed": likely(0, -1, 2**63),
    "n": likely(1, 2),
    "stop": likely("e", ["e", "\n"], []),
    "stop_token_ids": likely([1], []),
    "stream_options": likely({"include_usage": True}, {}),
    "user": JUNK,
    "metadata": JUNK,
    "priority": likely(0, 3),
    "cache_salt": likely("", "s"),
    "skip_special_tokens": likely(True, False),
    "add_special_tokens": likely(True, False),
    "ignore_eos": likely(True, False),
    "made_up": JUNK,
}
CHAT = COMMON | {
    "logprobs": likely(True, False),
    "top_logprobs": likely(0, 3),
    "continue_final_message": likely(True, False),
    "add_generation_prompt": likely(True, False),
    "chat_template_kwargs": likely({"enable_thinking": True}, {}),
    "reasoning_effort": likely("low", "none"),
    "tools": likely([]),
    "tool_choice": likely("none"),
    "response_format": likely({"type": "text"}, {"type": "json_object"}),
    "modalities": likely(["text"]),
    "functions": likely([]),
    "parallel_tool_calls": JUNK,
}
COMPLETION = COMMON | {
    "logprobs": likely(0, 3),
    "echo": likely(True, False),
    "best_of": likely(1),
    "suffix": likely(""),
}
# Short answers, also where a field is junk: absent and null would mean all of the context.
LENGTH = mostly(st.integers(1, 4), JUNK.filter(lambda value: value is not None))


def body(required: dict[str, st.SearchStrategy[Any]], optional: dict[str, st.SearchStrategy[Any]]) -> Any:
    """A body with a few of the optional fields: with all of them junk, nothing would get past the first."""
    base = required | {
        "max_tokens": LENGTH,
        "model": likely(NOISE),
        "stream": likely(True, False),
    }

    def with_fields(names: list[str]) -> Any:
        return st.fixed_dictionaries(base | {name: optional[name] for name in names})

    return st.lists(st.sampled_from(sorted(optional)), max_size=4, unique=True).flatmap(with_fields)


@pytest.fixture(scope="module")
def client(live: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{LOOPBACK}:{live.port}", timeout=60) as client:
        yield client


SETTINGS = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def check(client: httpx.Client, path: str, content: dict[str, Any]) -> None:
    answer = client.post(path, json=content)
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        check_envelope(answer.status_code, answer.json())
    elif content["stream"]:
        *chunks, last = events_of(answer.content)
        assert last == "[DONE]"
        assert chunks
    else:
        assert answer.json()["usage"]["completion_tokens"] <= 4 * len(answer.json()["choices"])
    assert answer.headers["x-request-id"]


@SETTINGS
@given(content=body({"messages": st.lists(MESSAGE, min_size=1, max_size=3) | JUNK}, CHAT))
def test_any_chat_body(client: httpx.Client, content: dict[str, Any]) -> None:
    check(client, "/v1/chat/completions", content)


CONSTRAINED = {
    "tools": mostly(st.lists(TOOL, min_size=1, max_size=2), JUNK),
    "tool_choice": likely("none", "auto", "required", {"type": "function", "function": {"name": "f"}}),
    "response_format": mostly(FORMAT, JUNK),
    "parallel_tool_calls": likely(True, False),
    "n": likely(1, 2),
}


@SETTINGS
@given(
    content=body({"messages": st.just([{"role": "user", "content": "Hi"}])}, CONSTRAINED),
    model=st.sampled_from(["tiny", NOISE]),
)
def test_any_tools_and_formats(client: httpx.Client, content: dict[str, Any], model: str) -> None:
    """Of a model that can call tools, and of one that cannot."""
    check(client, "/v1/chat/completions", content | {"model": model})


@SETTINGS
@given(content=body({"prompt": likely("Hi", ["a", "b"], [5, 6], [[5], [6]])}, COMPLETION))
def test_any_completion_body(client: httpx.Client, content: dict[str, Any]) -> None:
    check(client, "/v1/completions", content)


@SETTINGS
@given(content=st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes(client: httpx.Client, content: bytes) -> None:
    answer = client.post(
        "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    check_envelope(400, answer.json())


def test_the_server_is_as_before(client: httpx.Client, live: LiveServer) -> None:
    answer = client.post("/v1/completions", json={"model": NOISE, "prompt": "Hi", "max_tokens": 2})
    assert answer.status_code == 200
    live.noise.check_idle()
