"""How tool calls are written is chosen from the chat template or told by the user; over HTTP all look the same."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.errors import InvalidRequest
from basemlx.engine.openai.service import OpenAIService
from basemlx.engine.types import ModelInfo
from basemlx.server import cli
from basemlx.server.commands import serve as command
from basemlx.server.settings import SettingsError
from tests.serving import LiveServer, Noise, ServerProcess, events_of, exchange, post

TRIP = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Tokyo", "Oslo", "Rio de Janeiro"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 30},
        "stops": {"type": "array", "items": {"enum": ["sea", "hills"]}, "minItems": 1, "maxItems": 2},
        "late": {"type": ["boolean", "null"]},
    },
    "required": ["city", "days", "stops"],
    "additionalProperties": False,
}
PLAN = {"type": "function", "function": {"name": "plan_trip", "parameters": TRIP, "strict": True}}
BODY = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Plan a trip to Tokyo, please."}],
    "tools": [PLAN],
    "tool_choice": "required",
    "parallel_tool_calls": False,  # a format that it has not learnt makes tiny call without end
    "temperature": 1.0,
    "max_tokens": 300,
    "seed": 1,
}


@pytest.fixture(scope="module")
def tiny() -> Iterator[Noise]:
    with Engine(EngineConfig(max_num_sequences=4, max_waiting=4)) as engine:
        engine.load("tiny")
        yield Noise(engine)


@pytest.mark.parametrize(
    "name",
    [
        "qwen-xml",
        "gemma4",
        "pythonic",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("glm-4.7", "mistral", "kimi-k2", "deepseek-v3.2", "command-r")
        ),
    ],
)
def test_required_strict_calls_are_valid_and_streamed_as_whole_in_a_format_that_was_chosen(
    tiny: Noise, name: str
) -> None:
    service = OpenAIService(tiny.engine, tool_formats={"tiny": name})
    with LiveServer(tiny, service=service) as server:
        whole = exchange(server.port, post(server.port, "/v1/chat/completions", BODY)).json
        choice = whole["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        calls = [call["function"] for call in choice["message"]["tool_calls"]]
        assert calls
        for call in calls:
            assert call["name"] == "plan_trip"
            Draft202012Validator(TRIP).validate(json.loads(call["arguments"]))
        streamed = exchange(server.port, post(server.port, "/v1/chat/completions", BODY | {"stream": True}))
        assert joined(events_of(streamed.body)) == [(call["name"], call["arguments"]) for call in calls]


def joined(events: list[Any]) -> list[tuple[str, str]]:
    assert events.pop() == "[DONE]"
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for event in events:
        for call in event["choices"][0]["delta"].get("tool_calls", ()):
            names.setdefault(call["index"], call["function"].get("name", ""))
            arguments[call["index"]] = arguments.get(call["index"], "") + call["function"]["arguments"]
    return [(names[index], arguments[index]) for index in sorted(names)]


def test_a_malformed_schema_is_a_400_that_names_field_and_pointer_in_a_format_of_its_own(tiny: Noise) -> None:
    service = OpenAIService(tiny.engine, tool_formats={"tiny": "gemma4"})
    with LiveServer(tiny, service=service) as server:
        for part, keyword in (
            ({"type": "array", "minItems": "x"}, "minItems"),
            ({"properties": []}, "properties"),
        ):
            function = {"name": "f", "parameters": {"type": "object", "properties": {"a": part}}}
            body = BODY | {"tools": [{"type": "function", "function": function}]}
            answer = exchange(server.port, post(server.port, "/v1/chat/completions", body))
            assert answer.status == 400
            assert answer.json["error"]["param"] == "tools[0].function.parameters"
            assert repr(keyword) in answer.json["error"]["message"]
            assert f"/properties/a/{keyword}" in answer.json["error"]["message"]


def test_serve_takes_a_format_for_a_model() -> None:
    """The one chosen cannot hold a string to a pattern; the one of tiny's own template can."""
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x"}}}
    function = {"name": "f", "parameters": parameters, "strict": True}
    body = BODY | {"tools": [{"type": "function", "function": function}], "max_tokens": 1}
    with ServerProcess("--tool-format", "tiny=glm-4.7") as process:
        answer = exchange(process.port, post(process.port, "/v1/chat/completions", body))
        assert (answer.status, answer.code) == (400, "unsupported_schema")
        assert (
            "pattern at tools[0].function.parameters/properties/a/pattern" in answer.json["error"]["message"]
        )
        assert process.stop() == 0


def test_a_format_that_does_not_exist_lists_those_that_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Noise
) -> None:
    monkeypatch.setattr("sys.argv", ["basemlx", "serve", "--tool-format", "tiny=klingon"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert "--tool-format tiny=klingon" in message
    assert "hermes" in message
    assert "qwen-xml" in message
    with pytest.raises(InvalidRequest, match=r"klingon.*hermes"):
        OpenAIService(tiny.engine, tool_formats={"tiny": "klingon"})


def test_which_model_a_format_is_for_must_be_clear_and_known() -> None:
    assert command._tool_formats(["a"], ["mistral"]) == {"a": "mistral"}
    assert command._tool_formats(["a", "b"], ["b=mistral", "c=phi4"]) == {"b": "mistral", "c": "phi4"}
    with pytest.raises(SettingsError, match="which model"):
        command._tool_formats(["a", "b"], ["mistral"])
    model = ModelInfo("org/model-4bit", True, "qwen3", 1, 1, None, 0, aliases=("model",))
    names = {"./folder": "folder"}
    assert command._by_name({"./folder": "phi4", "model": "mistral"}, names, [model]) == {
        "folder": "phi4",
        "org/model-4bit": "mistral",
    }
    with pytest.raises(SettingsError, match="no such model"):
        command._by_name({"nothing": "phi4"}, names, [model])
