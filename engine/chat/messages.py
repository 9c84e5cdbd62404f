"""Messages as a given template wants them. Templates agree on little beyond `role` and `content`.

In: validated OpenAI messages; `content` a text, a list of parts, or None, the arguments of tool calls JSON texts. Out:
fresh dicts with what the template is known to need (`Traits`). Knows no template by name: what one needs is found by
trying.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Traits:
    """What a template takes.

    `content_parts`: it reads content as a list of parts only. `empty_tools`: it needs a list of tools, if an empty one.
    `developer`: it has that role; else such messages are the system's. `argument_objects`: it wants the arguments of a
    tool call as an object, else as a JSON text. `null_content`: it shows tool calls only beside content that is null.
    `short_ids`: it takes ids of nine letters and digits only. `calls_as_text`: it has no place for tool calls, so they
    stand in the content as the model would write them. `results_as_user`: it has no place for their results either.
    """

    content_parts: bool = False
    empty_tools: bool = False
    developer: bool = False
    argument_objects: bool = True
    null_content: bool = False
    short_ids: bool = False
    calls_as_text: bool = False
    results_as_user: bool = False


CallsAsText = Callable[[Sequence[Mapping[str, Any]]], str]
_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


def adapted(
    messages: Iterable[Message], traits: Traits, calls_as_text: CallsAsText | None = None
) -> list[dict[str, Any]]:
    """`calls_as_text` writes a message's calls out, for templates that have no place for them."""
    names: dict[str, str] = {}  # of functions, by the ids of their calls: results come without
    results: list[dict[str, Any]] = []
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[call.get("id") or ""] = call["function"]["name"]
        result = _adapted(message, traits, calls_as_text)
        if message["role"] == "tool" and "name" not in message and message.get("tool_call_id") in names:
            result["name"] = names[message["tool_call_id"]]
        if traits.results_as_user and results and results[-1]["role"] == result["role"] == "user":
            before = results.pop()
            result["content"] = _joined(before["content"], result["content"])
        results.append(result)
    return results


def _adapted(message: Message, traits: Traits, calls_as_text: CallsAsText | None) -> dict[str, Any]:
    result = dict(message)
    result["content"] = text_of(message.get("content"))
    if result["role"] == "tool" and traits.results_as_user:
        result = {"role": "user", "content": f"<tool_response>\n{result['content'] or ''}\n</tool_response>"}
    if traits.calls_as_text and message.get("tool_calls") and calls_as_text is not None:
        written = calls_as_text(result.pop("tool_calls"))
        result["content"] = f"{result['content']}\n{written}" if result["content"] else written
    if traits.short_ids and "tool_call_id" in result:
        result["tool_call_id"] = short_id(result["tool_call_id"])
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


def _joined(first: Any, second: Any) -> Any:
    return f"{first}\n{second}" if isinstance(first, str) else [*first, *second]


def text_of(content: Any) -> str | None:
    """A message's content as one text: parts that are text, joined."""
    if content is None or isinstance(content, str):
        return content
    return "".join(
        part if isinstance(part, str) else part.get("text") or ""
        for part in content
        if isinstance(part, str | Mapping)
    )


def short_id(call_id: str) -> str:
    """The id itself if it is short, else nine characters that stand for it."""
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def _adapted_call(call: Mapping[str, Any], traits: Traits) -> dict[str, Any]:
    function = dict(call["function"])
    if traits.argument_objects:
        function["arguments"] = as_object(function.get("arguments"))
    result = {**call, "function": function}
    if traits.short_ids:
        result["id"] = short_id(call.get("id") or "")
    return result


def as_object(arguments: Any) -> Any:
    """The object that a JSON text holds; anything else as it is, for the model to see what it once wrote."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
