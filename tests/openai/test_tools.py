"""Tools and tool_choice of a body: every form that clients send, and refusals under the name of the field they sent."""

from typing import Any

import pytest

from basemlx.engine.chat.turn import ToolChoice
from basemlx.engine.errors import InvalidRequest, UnsupportedParameter
from basemlx.engine.openai.fields import Fields
from basemlx.engine.openai.service import OpenAIService
from basemlx.engine.openai.tools import ToolUse, read_tools
from tests.openai.playback import chat_body

F = {"type": "function", "function": {"name": "f"}}
G = {"type": "function", "function": {"name": "g"}}


def use(**fields: Any) -> ToolUse:
    return read_tools(Fields(fields))


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        use(**fields)
    assert refusal.value.param is not None
    assert refusal.value.param in refusal.value.message
    return refusal.value


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("required")),
        (F, ToolChoice("required", ("f",))),
        ({"type": "function", "name": "g"}, ToolChoice("required", ("g",))),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [F]}},
            ToolChoice("auto", ("f",)),
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}, F]},
            ToolChoice("required", ("g", "f")),
        ),
    ],
)
def test_every_form_of_tool_choice_that_clients_send_is_understood(value: Any, choice: ToolChoice) -> None:
    assert use(tools=[F, G], tool_choice=value).choice == choice


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("always", "tool_choice"),
        (5, "tool_choice"),
        ([], "tool_choice"),
        ({"type": "function", "function": {"name": "h"}}, "tool_choice"),
        ({"type": "function"}, "tool_choice"),
        ({"type": "custom", "name": "f"}, "tool_choice.type"),
        ({"type": "allowed_tools", "tools": "f"}, "tool_choice.tools"),
        ({"type": "allowed_tools", "mode": "maybe", "tools": [F]}, "tool_choice.mode"),
        ({"type": "allowed_tools", "mode": "required", "tools": []}, "tool_choice"),
        ({"type": "allowed_tools", "tools": []}, "tool_choice"),
        ({"type": "allowed_tools", "tools": [{"name": 5}]}, "tool_choice.tools[0].name"),
    ],
)
def test_any_other_tool_choice_is_refused_by_name(value: Any, param: str) -> None:
    assert refused(tools=[F, G], tool_choice=value).param == param


def test_a_call_cannot_be_required_of_no_tools() -> None:
    assert refused(tool_choice="required").param == "tool_choice"
    assert refused(function_call={"name": "f"}).param == "function_call"


def test_a_named_function_is_called_once_and_none_shows_no_tools() -> None:
    assert use(tools=[F, G]).parallel
    assert not use(tools=[F, G], tool_choice=F).parallel
    assert use(tools=[F, G], tool_choice="none").offered == ()


def test_functions_mean_what_tools_mean() -> None:
    old = use(functions=[{"name": "f"}, {"name": "g"}], function_call={"name": "g"})
    new = use(tools=[F, G], tool_choice=G)
    assert (old.offered, old.choice, old.parallel) == (new.offered, new.choice, new.parallel)
    assert [tool.name for tool in old.tools] == [tool.name for tool in new.tools]
    assert refused(functions=[{"name": "f"}], tools=[F]).param == "functions"


BAD_FUNCTIONS: list[tuple[Any, str]] = [
    ({}, ".name"),
    ({"name": "a b"}, ".name"),
    ({"name": 5}, ".name"),
    ({"name": "f", "description": 5}, ".description"),
    ({"name": "f", "parameters": []}, ".parameters"),
    ({"name": "f", "strict": "yes"}, ".strict"),
]


@pytest.mark.parametrize(("function", "param"), BAD_FUNCTIONS)
def test_a_bad_function_is_refused_in_the_field_it_was_sent_in(function: Any, param: str) -> None:
    assert refused(functions=[{"name": "ok"}, function]).param == f"functions[1]{param}"
    tool = {"type": "function", "function": function}
    assert refused(tools=[F | {"function": {"name": "ok"}}, tool]).param == f"tools[1].function{param}"
    if "name" in function:  # beside its type, as the Responses API has it
        assert refused(tools=[G, {"type": "function", **function}]).param == f"tools[1]{param}"


def test_what_is_no_function_at_all_is_refused_in_the_field_it_was_sent_in() -> None:
    assert refused(functions=["f"]).param == "functions[0]"
    assert refused(functions={}).param == "functions"
    assert refused(functions=[{"name": "f"}] * 2).param == "functions[1].name"
    assert refused(functions=[{"name": "f"}] * 200).param == "functions"
    assert refused(functions=[{"name": "f"}], function_call={"name": "g"}).param == "function_call"
    assert refused(functions=[{"name": "f"}], function_call="always").param == "function_call"
    assert refused(tools=["f"]).param == "tools[0]"
    assert refused(tools=[F, F]).param == "tools[1].function.name"


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_a_model_that_cannot_call_says_so_of_the_field_it_was_sent(play: Any, field: str) -> None:
    service: OpenAIService
    _, service = play("Hi")
    functions: list[Any] = [{"name": "f"}] if field == "functions" else [F]
    with pytest.raises(UnsupportedParameter) as refusal:
        service.chat(chat_body(**{field: functions}))
    assert refusal.value.param == field
