"""Validation of bodies: what is honoured, what means nothing, what is refused, and under which name."""

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basemlx.engine.errors import InvalidRequest, UnsupportedParameter
from basemlx.engine.openai.chat_request import ChatRequest, chat_request
from basemlx.engine.openai.completion_request import completion_request
from basemlx.engine.openai.parameters import MEANINGLESS, REFUSED
from tests.openai.playback import chat_body


def chat(**fields: Any) -> ChatRequest:
    return chat_request(chat_body(**fields))


def completion(**fields: Any) -> Any:
    return completion_request({"model": "played", "prompt": "Hi", **fields})


def refused_param(make: Any, **fields: Any) -> str | None:
    with pytest.raises(InvalidRequest) as refusal:
        make(**fields)
    return refusal.value.param


def test_every_honoured_parameter_arrives() -> None:
    request = chat(
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=-1,
        min_p=0.1,
        repetition_penalty=1.2,
        presence_penalty=-1,
        frequency_penalty=1,
        logit_bias={"5": -100},
        seed=-3,
        stop="END",
        stop_token_ids=[9],
        ignore_eos=True,
        logprobs=True,
        top_logprobs=3,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
        timeout=2.5,
        priority=4,
        cache_salt="s",
        skip_special_tokens=False,
        reasoning_effort="none",
        chat_template_kwargs={"style": "brief"},
    )
    sampling, options = request.options.sampling, request.options
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (7, 0.5, 0.9, 0)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1.0, 1.0)
    assert (dict(sampling.logit_bias), sampling.seed, sampling.stop) == ({5: -100.0}, -3, ("END",))
    assert (sampling.stop_token_ids, sampling.ignore_eos, sampling.n) == ((9,), True, 2)
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 3)
    assert (options.stream, options.include_usage, options.timeout_s, options.priority) == (
        True,
        True,
        2.5,
        4,
    )
    assert (options.cache_salt, options.skip_special_tokens, options.ignored) == ("s", False, ())
    assert request.template_kwargs == {"enable_thinking": False, "thinking": False, "style": "brief"}


def test_the_models_defaults_fill_in_only_what_the_request_leaves_open() -> None:
    defaults = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "unknown": 1}
    sampling = chat(temperature=0).options.sampling_for(defaults)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 0.8, 20)
    assert chat().options.sampling_for({}).temperature == 1.0


def test_null_equals_absent() -> None:
    names = [
        "temperature",
        "max_tokens",
        "stop",
        "logit_bias",
        "tools",
        "stream",
        "stream_options",
        "n",
        "seed",
    ]
    assert chat(**dict.fromkeys(names)) == chat()


def test_meaningless_parameters_pass_and_unknown_ones_are_named() -> None:
    assert chat(**dict.fromkeys(MEANINGLESS, "x")).options.ignored == ()
    request = chat(frobnicate=1, nothing=None, **{"bad name\r\n": 1})
    assert request.options.ignored == ("frobnicate",)
    message = {"role": "user", "content": "Hi", "mood": "good"}
    assert chat(messages=[message, message]).options.ignored == ("messages.mood",)


def test_unknown_fields_of_parts_tools_and_choices_are_named_once_and_without_their_numbers() -> None:
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    call = {
        "id": "1",
        "type": "function",
        "index": 0,
        "function": {"name": "f", "arguments": "{}", "note": 1},
    }
    function = {"name": "f", "parameters": {"mood": "theirs"}, "version": 2}
    request = chat(
        messages=[
            {"role": "user", "content": [part, part]},
            {"role": "assistant", "content": None, "tool_calls": [call, call]},
        ],
        tools=[{"type": "function", "function": function, "colour": 1}],
        tool_choice={"type": "function", "function": {"name": "f", "why": 1}, "how": 1},
    )
    assert sorted(request.options.ignored) == [
        "messages.content.cache_control",
        "messages.tool_calls.function.note",
        "tool_choice.function.why",
        "tool_choice.how",
        "tools.colour",
        "tools.function.version",
    ]
    advised = chat(
        structured_outputs={"regex": "a", "disable_fallback": True, "disable_any_whitespace": True}
    )
    assert advised.options.ignored == ("structured_outputs.disable_any_whitespace",)


def test_unknown_fields_inside_objects_are_named_and_names_that_are_the_callers_own_are_not() -> None:
    request = chat(
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False, "colour": 1},
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"x": 1}, "mood": 1}},
        reasoning={"effort": "low", "max_tokens": 5, "exclude": True},
        logit_bias={"5": 1},
        chat_template_kwargs={"flavour": 1},
    )
    assert request.options.ignored == (
        "stream_options.colour",
        "response_format.json_schema.mood",
        "reasoning.exclude",
    )


def test_a_number_of_any_size_is_told_which_way_it_is_wrong() -> None:
    for value, words in ((10**40, "not be so large"), (0, "at least 1"), (-(10**40), "at least 1")):
        with pytest.raises(InvalidRequest, match=words):
            chat(max_tokens=value)
    with pytest.raises(InvalidRequest, match="so large"):
        chat(n=-(10**40))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_had_is_refused_by_name(name: str) -> None:
    value: Any = [{"type": "json_object"}]
    for make in (chat, completion):
        with pytest.raises(UnsupportedParameter) as refusal:
            make(**{name: value})
        assert refusal.value.param == name


def test_what_asks_for_nothing_passes() -> None:
    chat(tools=[], tool_choice="none", functions=[], function_call="none", modalities=["text"], suffix="")
    chat(response_format={"type": "text"}, parallel_tool_calls=True, best_of=None, min_tokens=0)
    completion(best_of=2, n=2, suffix="", echo=False)


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 7}, "model"),
    ({"temperature": True}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.0}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ({"n": 0}, "n"),
    ({"n": 10**9}, "n"),
    ({"n": 10**4000}, "n"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": ["x", 3]}, "stop[1]"),
    ({"stop": "\ud800"}, "stop"),
    ({"seed": 2**64}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"timeout": 0}, "timeout"),
    ({"timeout": math.inf}, "timeout"),
    ({"priority": 2**40}, "priority"),
    ({"cache_salt": "x" * 257}, "cache_salt"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_a_bad_value_is_refused_under_its_own_name(fields: dict[str, Any], param: str) -> None:
    for make in (chat, completion):
        started_s = time.perf_counter()
        assert refused_param(make, **fields) == param
        assert time.perf_counter() - started_s < 0.05


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 4097}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}
                ]
            },
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]},
            "messages[0].tool_calls[0].function",
        ),
        ({"messages": [{"role": "assistant", "audio": {"id": "x"}}]}, "messages[0].audio"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        ({"reasoning_effort": "wild"}, "reasoning_effort"),
        ({"echo": True}, "echo"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"eos_token": "x"}}, "chat_template_kwargs.eos_token"),
        ({"chat_template_kwargs": {"__class__": "x"}}, "chat_template_kwargs.__class__"),
        ({"chat_template_kwargs": {"deep": {"x": 1}}}, "chat_template_kwargs.deep"),
        ({"chat_template_kwargs": {"self": math.nan}}, "chat_template_kwargs.self"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_bad_chat_field_is_refused_by_its_path(fields: dict[str, Any], param: str) -> None:
    assert refused_param(chat, **fields) == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": [1, -1]}, "prompt[1]"),
        ({"prompt": [1, True]}, "prompt[1]"),
        ({"prompt": [[1], [2**31]]}, "prompt[1][0]"),
        ({"prompt": {"x": 1}}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_bad_completion_field_is_refused_by_its_path(fields: dict[str, Any], param: str) -> None:
    assert refused_param(completion, **fields) == param


def test_prompts_come_in_four_forms() -> None:
    assert completion(prompt="a").prompts == ("a",)
    assert completion(prompt=["a", "b"]).prompts == ("a", "b")
    assert completion(prompt=[1, 2]).prompts == ((1, 2),)
    assert completion(prompt=[[1], [2, 3]]).prompts == ((1,), (2, 3))


def test_messages_of_every_role_are_reduced_to_what_templates_use() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    request = chat(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "Hi", "name": "Ada"},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
            {"role": "tool", "content": "12", "tool_call_id": "c1"},
            {"role": "assistant", "content": "ok", "reasoning": "why"},
        ]
    )
    assert request.messages == (
        {"role": "developer", "content": "ab"},
        {"role": "user", "content": "Hi", "name": "Ada"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
            ],
        },
        {"role": "tool", "content": "12", "tool_call_id": "c1"},
        {"role": "assistant", "content": "ok", "reasoning_content": "why"},
    )
    assert request.options.ignored == ()


FIELD_NAMES = sorted(
    {*REFUSED, *MEANINGLESS, *(name for fields, _ in BAD_FIELDS for name in fields)}
    | {"messages", "prompt", "logprobs", "top_logprobs", "echo", "best_of", "chat_template_kwargs"}
    | {
        "reasoning_effort",
        "continue_final_message",
        "add_generation_prompt",
        "skip_special_tokens",
        "ignore_eos",
    }
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "text", "content", 10**400, "\ud800"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "tool_calls", "function", "name", "arguments", "1"]
            )
            | st.text(max_size=3),
            children,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(FIELD_NAMES) | st.text(max_size=4), json_values, max_size=4))
def test_any_body_is_a_request_or_a_refusal_that_names_a_field(fields: dict[str, Any]) -> None:
    for make in (chat, completion):
        refusal = None
        try:
            make(**fields)
        except InvalidRequest as error:
            refusal = error
        assert refusal is None or (refusal.param and refusal.message)
