"""Messages as templates can take them: plain text content, known roles, tool arguments in the form a template wants.

Pure functions over OpenAI's message dicts, which are never changed. It knows no template and no token.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from basemlx.engine.errors import InvalidRequest, UnsupportedParameter

Message = dict[str, Any]
ArgumentForm = Literal["object", "string"]

ROLES = ("system", "developer", "user", "assistant", "tool")


def normalise(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Copies with content as a string: parts joined, null as "". Raises InvalidRequest with the JSON path at fault."""
    return [_normalised(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _normalised(message: Mapping[str, Any], path: str) -> Message:
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{path}.role must be one of {', '.join(ROLES)}.", param=f"{path}.role")
    result = {key: value for key, value in message.items() if value is not None}
    result["content"] = _text(message.get("content"), f"{path}.content", optional=role == "assistant")
    reasoning = message.get("reasoning_content", message.get("reasoning"))
    if isinstance(reasoning, str):
        result["reasoning_content"] = reasoning
    if message.get("tool_calls") is not None:
        result["tool_calls"] = _tool_calls(message["tool_calls"], f"{path}.tool_calls")
    return result


def _text(content: Any, path: str, *, optional: bool) -> str:
    if isinstance(content, str):
        return content
    if content is None and optional:
        return ""
    if not isinstance(content, list):
        raise InvalidRequest(f"{path} must be a string or a list of text parts.", param=path)
    texts = []
    for index, part in enumerate(content):
        at = f"{path}[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "refusal"):
            raise UnsupportedParameter(
                f"{at}.type is {str(kind)[:40]!r}; only text parts are supported by this model.",
                param=f"{at}.type",
            )
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise InvalidRequest(f"{at}.text must be a string.", param=f"{at}.text")
        texts.append(text)
    return "".join(texts)


def _tool_calls(calls: Any, path: str) -> list[Message]:
    if not isinstance(calls, list):
        raise InvalidRequest(f"{path} must be a list.", param=path)
    result = []
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"{path}[{index}].function needs a name.", param=f"{path}[{index}].function")
        result.append({**call, "function": dict(function)})
    return result


def with_arguments(messages: Sequence[Message], form: ArgumentForm) -> list[Message]:
    """The same messages with every call's arguments as an object, or as a JSON string. What does not parse stays."""
    result = []
    for message in messages:
        if calls := message.get("tool_calls"):
            message = {**message, "tool_calls": [_with_form(call, form) for call in calls]}
        result.append(message)
    return result


def _with_form(call: Message, form: ArgumentForm) -> Message:
    arguments = call["function"].get("arguments", {})
    if form == "string" and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif form == "object" and isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments) if arguments.strip() else {}
    return {**call, "function": {**call["function"], "arguments": arguments}}


def with_system_role(messages: Sequence[Message]) -> list[Message]:
    """Developer messages as system messages, for templates that know no developer."""
    return [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
