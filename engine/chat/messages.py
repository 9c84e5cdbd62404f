"""Messages as a given template wants them. Templates agree on little beyond `role` and `content`.

In: validated OpenAI messages; `content` a text or None, the arguments of tool calls JSON texts. Out: fresh dicts with
what the template is known to need (`Traits`). Knows no template by name: what one needs is found by trying.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Traits:
    """What a template takes.

    `content_parts`: it reads content as a list of parts only. `empty_tools`: it needs a list of tools, if an empty one.
    `developer`: it has that role; else such messages are the system's. `argument_objects`: it wants the arguments of a
    tool call as an object, else as a JSON text. `null_content`: it shows tool calls only beside content that is null.
    """

    content_parts: bool = False
    empty_tools: bool = False
    developer: bool = False
    argument_objects: bool = True
    null_content: bool = False


def adapted(messages: Iterable[Message], traits: Traits) -> list[dict[str, Any]]:
    return [_adapted(message, traits) for message in messages]


def _adapted(message: Message, traits: Traits) -> dict[str, Any]:
    result = dict(message)
    if result["role"] == "developer" and not traits.developer:
        result["role"] = "system"
    tool_calls = result.get("tool_calls")
    if tool_calls:
        result["tool_calls"] = [_adapted_call(call, traits) for call in tool_calls]
    else:
        result.pop("tool_calls", None)
    text = result.get("content")
    if not text and tool_calls:
        result["content"] = None if traits.null_content else ""
    elif traits.content_parts:
        result["content"] = [{"type": "text", "text": text or ""}]
    else:
        result["content"] = text or ""
    reasoning = result.get("reasoning_content")
    if reasoning is not None:
        result.setdefault("thinking", reasoning)  # gpt-oss's name for it
    return result


def _adapted_call(call: Mapping[str, Any], traits: Traits) -> dict[str, Any]:
    function = dict(call["function"])
    if traits.argument_objects:
        function["arguments"] = _as_object(function.get("arguments"))
    return {**call, "function": function}


def _as_object(arguments: Any) -> Any:
    """The object that a JSON text holds; anything else as it is, for the model to see what it once wrote."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
