"""The judge, on answers made by hand: it has to see what is wrong, or the matrix would show nothing."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.matrix.asks import FUNCTIONS, STRICT_DOCUMENTS
from tests.matrix.client import BrokenStream, Joined
from tests.matrix.judge import could_become_json, problems

WEATHER = '{"city": "Oslo", "unit": null, "days": 1}'


def asked(**fields: Any) -> dict[str, Any]:
    tools = [FUNCTIONS["get_weather"], FUNCTIONS["ping"], FUNCTIONS["set_labels"]]
    body = {"tools": tools, "parallel_tool_calls": True, "n": 1, "max_tokens": 100}
    return {name: value for name, value in (body | fields).items() if value is not None}


def call(
    name: str = "get_weather", arguments: str = WEATHER, call_id: str = "call_12345678"
) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answered(
    content: str | None = None, calls: Any = None, end: str | None = None, **message: Any
) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, "refusal": None, **message}
    if calls:
        said["tool_calls"] = calls
    choice = {"index": 0, "message": said, "finish_reason": end or ("tool_calls" if calls else "stop")}
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 9,
        "total_tokens": 14,
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    return {"choices": [choice], "usage": usage}


def document(name: str) -> dict[str, Any]:
    described = {"name": name, "schema": STRICT_DOCUMENTS[name], "strict": True}
    return {"type": "json_schema", "json_schema": described}


OBJECT = {"type": "json_object"}
NAMED = {"type": "function", "function": {"name": "ping"}}
ONLY_PING = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "ping"}]}
THINKS = {"chat_template_kwargs": {"enable_thinking": True}}

RIGHT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (asked(), answered("Hi")),
    (asked(tools=None), answered("Hi </tool_call>")),
    (asked(), answered(None, [call()])),
    (asked(), answered("Let me see.", [call(), call("ping", "{}", "call_87654321")])),
    (asked(), answered("It is 4 < 5 and", end="length")),
    (asked(), answered(None, [call(arguments='{"city": "Os')], end="length")),
    (asked(tool_choice="required"), answered(None, [call()])),
    (asked(tool_choice="required"), answered("", end="length")),
    (asked(tool_choice=NAMED), answered(None, [call("ping", "{}")])),
    (asked(tool_choice="none"), answered("No.")),
    (asked(response_format=OBJECT), answered('{"a": [1, {}]}')),
    (asked(response_format=OBJECT), answered('{"a": 1, "a": 2}')),
    (asked(response_format=OBJECT), answered(None, [call()])),
    (asked(response_format=document("list"), tools=None), answered("[true, null]")),
    (asked(response_format=document("list"), tools=None), answered("[true, nu", end="length")),
    (asked(**THINKS), answered("Hi", reasoning="Hm", reasoning_content="Hm")),
]

WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (asked(), answered("Hi <tool_call>"), "markup"),
    (asked(), answered("Hi <|im_end|>"), "markup"),
    (asked(), answered("</think> Hi"), "markup"),
    (asked(), answered("Hi", end="tool_calls"), "finish_reason"),
    (asked(), answered(None, [call()], end="stop"), "finish_reason"),
    (asked(), answered(None, [call("pong", "{}")]), "may not be called"),
    (asked(), answered(None, [call(arguments='{"city": "Oslo", "unit": null, "days": 9}')]), "maximum"),
    (asked(), answered(None, [call(arguments=WEATHER[:-1])]), "no JSON"),
    (asked(), answered(None, [call(arguments=WEATHER[:-1] + ', "days": 2}')]), "twice"),
    (asked(), answered(None, [call(arguments=WEATHER.replace(" ", " " * 42))]), "white space"),
    (asked(), answered(None, [call("ping", '{"x": 1}')]), "unexpected"),
    (asked(), answered(None, [call(arguments='{"city": Os')], end="length"), "no JSON"),
    (asked(), answered(None, [call(arguments='{"ci'), call()], end="length"), "no JSON"),
    (asked(), answered(None, [call(), call()]), "ids"),
    (asked(), answered(None, [call(call_id="")]), "ids"),
    (asked(parallel_tool_calls=False), answered(None, [call(), call(call_id="call_abcdefgh")]), "2 calls"),
    (asked(tool_choice="required"), answered("Hi"), "no call"),
    (asked(tool_choice="required"), answered("Hi", [call()]), "content where a call"),
    (asked(tool_choice=NAMED), answered(None, [call()]), "may not be called"),
    (
        asked(tool_choice=NAMED),
        answered(None, [call("ping", "{}", f"call_1234567{i}") for i in "12"]),
        "2 calls",
    ),
    (asked(tool_choice=ONLY_PING), answered(None, [call()]), "may not be called"),
    (asked(tool_choice="none"), answered(None, [call()]), "may not be called"),
    (asked(response_format=OBJECT), answered("[]"), "not of type 'object'"),
    (asked(response_format=document("person")), answered('{"name": "a", "age": 1, "age": 2}'), "twice"),
    (asked(response_format=OBJECT), answered('{"a": NaN}'), "no JSON"),
    (asked(response_format=OBJECT), answered("{}", [call()]), "beside calls"),
    (asked(response_format=OBJECT), answered('{"a"', end="stop"), "no JSON"),
    (asked(response_format=OBJECT), answered("Sure: {", end="length"), "no JSON"),
    (asked(response_format=document("list"), tools=None), answered("[true]"), "too short"),
    (
        asked(response_format=document("event")),
        answered('{"day": "2026-02-30", "id": "x"}'),
        "is not a 'date'",
    ),
    (asked(), answered("Hi", reasoning="Hm", reasoning_content="Hm"), "thinking is off"),
    (asked(**THINKS), answered("Hi", reasoning="Hm"), "differ"),
    (asked(n=2), answered("Hi"), "not n"),
    (asked(max_tokens=8), answered("Hi"), "completion tokens"),
]


@pytest.mark.parametrize(("body", "response"), RIGHT)
def test_what_is_right_has_no_problem(body: Any, response: Any) -> None:
    assert problems(body, response) == []


@pytest.mark.parametrize(("body", "response", "problem"), WRONG)
def test_what_is_wrong_has_one(body: Any, response: Any, problem: str) -> None:
    assert problem in "\n".join(problems(body, response))


def test_a_verdict_of_the_server_has_to_be_true() -> None:
    def judged(arguments: str, valid: bool | None) -> list[str]:
        response = answered(None, [call("set_labels", arguments)])
        if valid is not None:
            violations = [] if valid else [{"where": "tool_calls[0]"}]
            entry = {"index": 0, "valid": valid, "violations": violations, "not_enforced": []}
            response["basemlx"] = {"validation": [entry]}
        return problems(asked(), response, {"set_labels"})

    good, bad = '{"labels": ["a", "b"]}', '{"labels": ["a", "a"]}'
    assert judged(good, True) == judged(bad, False) == []
    assert judged(good, False)
    assert judged(bad, True)
    assert judged(good, None)
    assert judged('{"labels": ["a"', False)  # loose or not, it has to be JSON
    verdict = {"index": 0, "valid": True, "violations": [], "not_enforced": []}
    assert problems(asked(), answered("Hi") | {"basemlx": {"validation": [verdict]}})  # of what was enforced


def test_every_beginning_of_json_could_become_some_and_nothing_else() -> None:
    text = json.dumps({'a\\"é': [1.5e-7, -0.25, True, None, {"b": "\\"}, [], {}], "c": "\n"}, indent=1)
    assert all(could_become_json(text[:end]) for end in range(len(text) + 1))
    for wrong in ("}", "[}", "{1", "[1,]", "tx", "[01", '{"a" 1', '{"a": "\\x', '"a\n', "1 2", "{} {", "[--"):
        assert not could_become_json(wrong), wrong


LINES = [
    {"delta": {"role": "assistant", "content": ""}, "finish_reason": None},
    {"delta": {"content": "Hi"}, "finish_reason": None},
    {"delta": {"tool_calls": [{"index": 0, **call()}]}, "finish_reason": None},
    {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": " "}}]}, "finish_reason": None},
    {"delta": {}, "finish_reason": "tool_calls"},
]


def joined(choices: list[dict[str, Any]]) -> dict[str, Any]:
    stream = Joined()
    for choice in [*choices, None]:
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "choices": [choice | {"index": 0}] if choice else [],
            "usage": None if choice else {"total_tokens": 5},
        }
        stream.add(f"data: {json.dumps(chunk)}")
    stream.add("data: [DONE]")
    return stream.response()


def test_a_stream_is_joined_as_openai_has_it() -> None:
    (choice,) = joined(LINES)["choices"]
    assert choice["message"]["content"] == "Hi"
    assert [made["function"]["arguments"] for made in choice["message"]["tool_calls"]] == [WEATHER + " "]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines.pop(0),
        lambda lines: lines.pop(),
        lambda lines: lines.append(lines[1]),
        lambda lines: lines.append(lines[-1]),
        lambda lines: lines.insert(1, lines[0]),
        lambda lines: lines.pop(2),
        lambda lines: lines.insert(3, lines[2]),
        lambda lines: lines.insert(1, {"delta": {"content": ""}, "finish_reason": None}),
    ],
)
def test_a_stream_that_breaks_openais_rules_is_noticed(spoil: Callable[[list[Any]], object]) -> None:
    lines = deepcopy(LINES)
    spoil(lines)
    with pytest.raises(BrokenStream):
        joined(lines)
