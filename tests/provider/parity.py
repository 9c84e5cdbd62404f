"""What two transports have to agree on, and how their answers are compared: all fields, but for ids and times."""

import functools
from typing import Any

from basemlx.engine.errors import BaseMLXError, DeadlineExceeded
from tests.serving import chat_body

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "yes": {"type": "boolean"},
                "count": {"type": "integer", "minimum": 0, "maximum": 99},
            },
            "required": ["yes", "count"],
            "additionalProperties": False,
        },
    },
}

UNENFORCEABLE: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    },
}
"""No grammar remembers every text that came before, so `strict` refuses it."""

UNENFORCEABLE_TOOL = {
    "type": "function",
    "function": {
        "name": "sort",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"texts": UNENFORCEABLE["json_schema"]["schema"]},
            "required": ["texts"],
            "additionalProperties": False,
        },
    },
}

BUILT_IN = {"model": "tiny", "ignore_eos": False, "max_tokens": 200}
"""Whose template knows tools."""

# name -> what a request asks beyond chat_body()
CHATS: dict[str, dict[str, Any]] = {
    "plain": {"seed": 1},
    "seed and sampling": {"seed": 7, "temperature": 0.9, "top_p": 0.9, "top_k": 20, "min_p": 0.01},
    "logprobs": {"seed": 2, "logprobs": True, "top_logprobs": 3},
    "two choices": {"seed": 3, "n": 2},
    "stop": {"seed": 1, "max_tokens": 30, "stop": ["e", "a"]},
    "penalties and bias": {"seed": 4, "presence_penalty": 1.0, "logit_bias": {"70": 5}},
    "developer and parts": {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "Ada"},
        ],
        "seed": 5,
    },
    "reasoning fields": {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "reasoning_content": "A greeting."},
            {"role": "user", "content": "Again"},
        ],
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "low",
        "seed": 6,
    },
    "reasoning": BUILT_IN
    | {
        "messages": [{"role": "user", "content": "What is 2 + 3?"}],
        "chat_template_kwargs": {"enable_thinking": True},
        "temperature": 0,
        "max_tokens": 80,
    },
    "reasoning, then a tool": {
        **BUILT_IN,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "reasoning_effort": "low",
        "tools": [TOOL],
        "tool_choice": "required",
        "temperature": 0,
    },
    "tool messages": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain"}]},
        ],
        "seed": 8,
        **BUILT_IN,
    },
    "tools auto": BUILT_IN | {"tools": [TOOL], "tool_choice": "auto", "seed": 9, "max_tokens": 40},
    "tools none": BUILT_IN | {"tools": [TOOL], "tool_choice": "none", "seed": 9},
    "tools required": BUILT_IN | {"tools": [TOOL], "tool_choice": "required", "seed": 9},
    "tools named": {
        **BUILT_IN,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "seed": 9,
    },
    "schema": BUILT_IN | {"response_format": SCHEMA, "seed": 10},
    "json object": BUILT_IN | {"response_format": {"type": "json_object"}, "seed": 10, "max_tokens": 12},
}

# name -> a request that is refused
REFUSALS: dict[str, dict[str, Any]] = {
    "unknown model": {"model": "nobody/nothing"},
    "no model": {"model": None},
    "context": {"max_tokens": 10**6},
    "range": {"temperature": 9},
    "kind": {"temperature": "warm"},
    "not a number": {"temperature": float("nan")},
    "surrogate": {"messages": [{"role": "user", "content": "\ud800"}]},
    "depth": {"metadata": functools.reduce(lambda inner, _: {"a": inner}, range(70), {})},
    "role": {"messages": [{"role": "nobody", "content": "x"}]},
    "no messages": {"messages": []},
    "audio": {"audio": {"voice": "x"}},
    "unenforceable schema": {"response_format": UNENFORCEABLE},
    "unenforceable tool": {"model": "tiny", "tools": [UNENFORCEABLE_TOOL], "tool_choice": "required"},
    "deadline": {"max_tokens": 1500, "timeout": 0.05},
    "a deadline beyond the engine's": {"timeout": 900},
}

# name -> what is asked of the encoder
EMBEDDINGS: dict[str, dict[str, Any]] = {
    "a text": {"input": "a fox"},
    "texts": {"input": ["a fox", "the weather in tokyo", "a fox"]},
    "token ids": {"input": [[5, 6], [7]]},
    "dimensions": {"input": ["a fox"], "dimensions": 8},
    "base64": {"input": ["a fox"], "encoding_format": "base64"},
}
EMBEDDING_REFUSALS: dict[str, dict[str, Any]] = {
    "a model that chats": {"model": "noise", "input": "x"},
    "unknown model": {"model": "nobody/nothing", "input": "x"},
    "nothing": {"input": []},
    "empty": {"input": ["a fox", ""]},
    "no input": {},
    "too long": {"input": ["a fox", "fox " * 500]},
    "token ids": {"input": [[10**9]]},
    "dimensions": {"input": "x", "dimensions": 33},
    "format": {"input": "x", "encoding_format": "hex"},
    "deadline": {"input": ["fox " * 40] * 2000, "timeout": 0.001},
    "a deadline beyond the engine's": {"input": "x", "timeout": 900},
}


def body_of(name: str) -> dict[str, Any]:
    return chat_body(**(CHATS | REFUSALS)[name])


def without_identity(value: Any) -> Any:
    """A response, a chunk or a list of chunks without what differs by nature: ids and times."""
    if isinstance(value, list):
        return [without_identity(item) for item in value]
    if isinstance(value, dict):
        return {
            name: without_identity(item)
            for name, item in value.items()
            # The prefix is there the second time, so that who asks first reports fewer cached tokens: that they are
            # told at all, and alike, test_cached_tokens_are_told_in_both_transports shows.
            if name not in ("id", "created", "cached_tokens")
        }
    if isinstance(value, float):
        # With its prefix cached a prompt is computed in other chunks, and the last bits differ.
        return round(value, 4)
    return value


def error_facts(error: BaseMLXError) -> tuple[Any, ...]:
    """Of a deadline not the message, which says how far the request had come."""
    message = "" if isinstance(error, DeadlineExceeded) else error.message
    place = getattr(error, "keyword", None), getattr(error, "pointer", None)
    return (
        type(error),
        error.status,
        error.type,
        error.code,
        error.param,
        message,
        error.retry_after_s,
        *place,
    )
