"""A conversation as OpenAI's API describes it, checked and reduced to what chat templates can use.

Out come dicts with `role`, `content` (a text or None) and, where given, `name`, `tool_call_id`, `tool_calls` (arguments
as JSON texts) and `reasoning_content`. It knows no template; which form one needs is `engine.chat`'s business.
"""

import json
from collections.abc import Mapping
from typing import Any

from basemlx.engine.errors import InvalidRequest, UnsupportedParameter
from basemlx.engine.openai.fields import Fields, checked_text, wrong_type

MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_TOOL_CALLS = 128
MAX_NAME_CHARACTERS = 256
ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def read_messages(fields: Fields) -> tuple[dict[str, Any], ...]:
    """Raises InvalidRequest."""
    messages = tuple(map(_read_message, fields.each_object("messages", MAX_MESSAGES)))
    if not messages:
        raise InvalidRequest("messages is required and must not be empty.", param="messages")
    return messages


def _read_message(fields: Fields) -> dict[str, Any]:
    role = fields.string("role", max_characters=32, choices=ROLES)
    if role is None:
        raise InvalidRequest(f"{fields.path_of('role')} is required.", param=fields.path_of("role"))
    message: dict[str, Any] = {"role": role, "content": _read_content(fields, role)}
    name = fields.string("name", max_characters=MAX_NAME_CHARACTERS)
    if name is not None:
        message["name"] = name
    if role == "tool":
        call_id = fields.string("tool_call_id", max_characters=MAX_NAME_CHARACTERS)
        if call_id is not None:
            message["tool_call_id"] = call_id
    if role == "assistant":
        message |= _read_assistant(fields)
    return message


def _read_content(fields: Fields, role: str) -> str | None:
    content = fields.get("content")
    path = fields.path_of("content")
    if content is None and role in ("assistant", "tool"):
        return None
    if isinstance(content, str):
        return checked_text(content, path)
    if not isinstance(content, list | tuple):
        raise wrong_type(path, "a string or a list of parts", content)
    return "".join(map(_read_part, fields.each_object("content", MAX_PARTS)))


def _read_part(fields: Fields) -> str:
    kind = fields.string("type", max_characters=64)
    path = fields.path_of("type")
    if kind is None:
        raise InvalidRequest(f"{path} is required.", param=path)
    if kind not in _TEXT_PARTS:
        raise UnsupportedParameter(
            f"{path} is {kind!r}, and models here take only text: send parts of type 'text'.", param=path
        )
    key = _TEXT_PARTS[kind]
    return checked_text(fields.get(key), fields.path_of(key))


def _read_assistant(fields: Fields) -> dict[str, Any]:
    """What only the assistant's messages have: its past tool calls and its reasoning."""
    for name in ("audio", "function_call"):
        if fields.get(name) is not None:
            path = fields.path_of(name)
            raise UnsupportedParameter(f"{path} is not supported by basemlx.", param=path)
    fields.get("annotations")
    read: dict[str, Any] = {}
    refusal = fields.get("refusal")
    if refusal is not None and fields.get("content") is None:
        read["content"] = checked_text(refusal, fields.path_of("refusal"))
    for name in ("reasoning_content", "reasoning"):
        value = fields.get(name)
        if value is not None and "reasoning_content" not in read:
            read["reasoning_content"] = checked_text(value, fields.path_of(name))
    calls = list(map(_read_call, fields.each_object("tool_calls", MAX_TOOL_CALLS)))
    if calls:
        read["tool_calls"] = calls
    return read


def _read_call(fields: Fields) -> dict[str, Any]:
    fields.string("type", max_characters=32, choices=("function",))
    fields.get("index")  # of a delta that a client put together again
    function = fields.object("function")
    if function is None:
        path = fields.path_of("function")
        raise InvalidRequest(f"{path} is required.", param=path)
    name = function.string("name", max_characters=MAX_NAME_CHARACTERS)
    if not name:
        path = function.path_of("name")
        raise InvalidRequest(f"{path} is required.", param=path)
    call_id = fields.string("id", max_characters=MAX_NAME_CHARACTERS)
    text = _read_arguments(function)
    return {"id": call_id or "", "type": "function", "function": {"name": name, "arguments": text}}


def _read_arguments(function: Fields) -> str:
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        try:
            arguments = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise wrong_type(function.path_of("arguments"), "a JSON text", arguments) from None
    return "" if arguments is None else checked_text(arguments, function.path_of("arguments"))
