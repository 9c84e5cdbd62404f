"""LangChain's messages to OpenAI's and back. Knows no backend."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    InvalidToolCall,
    ToolCall,
    ToolCallChunk,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
from langchain_core.utils.json import parse_partial_json

PROVIDER = "basemlx"

CUT_OFF = "The call was cut off before its arguments were whole."

CALLS_OF_BLOCKS = 1000
"""Where LangChain makes blocks of a stream (`output_version="v1"`) it numbers those of text and reasoning from 0, and
merges what has one number: calls have numbers beyond."""


def to_openai(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """With the reasoning that an assistant's message carries, which templates decide about. A message with results of
    tools in its content (Anthropic's form) becomes several, the results first: they belong to the calls before."""
    return [wire for message in messages for wire in _wires_of(message)]


def _wires_of(message: BaseMessage) -> list[dict[str, Any]]:
    converted: list[dict[str, Any]] = convert_to_openai_messages([message])
    wires = sorted(converted, key=lambda wire: wire["role"] != "tool")
    reasoning = message.additional_kwargs.get("reasoning_content")
    for wire in wires:
        if isinstance(message, AIMessage) and reasoning:
            wire["reasoning_content"] = reasoning
        if isinstance(message, AIMessage) and message.invalid_tool_calls:
            wire["tool_calls"] = [*wire.get("tool_calls", ()), *map(_invalid, message.invalid_tool_calls)]
        if isinstance(wire.get("content"), list):
            wire["content"] = [part for part in wire["content"] if _is_sent(part)] or ""
    return wires


def _invalid(call: InvalidToolCall) -> dict[str, Any]:
    """With its broken arguments: what follows speaks of them, and of its id."""
    function = {"name": call.get("name") or "unknown", "arguments": call.get("args") or ""}
    return {"type": "function", "id": call.get("id") or "", "function": function}


def _is_sent(part: Any) -> bool:
    """Calls and reasoning have fields of their own; the engine refuses of the rest what it cannot."""
    return not (
        isinstance(part, Mapping)
        and part.get("type") in ("tool_use", "tool_call", "function_call", "reasoning", "thinking")
    )


def to_message(choice: Mapping[str, Any], response: Mapping[str, Any]) -> AIMessage:
    wire = choice["message"]
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for raw in wire.get("tool_calls") or ():
        if is_whole(raw["function"].get("arguments"), choice.get("finish_reason")):
            calls.append(parse_tool_call(raw, return_id=True))
        else:  # cut off by a limit: LangChain keeps such calls apart
            invalid.append(make_invalid_tool_call(raw, CUT_OFF))
    return AIMessage(
        content=wire.get("content") or "",
        id=response["id"],
        tool_calls=calls,
        invalid_tool_calls=invalid,
        additional_kwargs=_reasoning(wire),
        usage_metadata=to_usage(response.get("usage")),
        response_metadata=_metadata(choice, response),
    )


def is_whole(arguments: str | None, finish_reason: str | None) -> bool:
    """Whether the arguments of a call are all there. LangChain takes no text at all for an empty object, which a call
    that was cut off before its first argument would be."""
    if not arguments:
        return finish_reason == "tool_calls"
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return False


class CallsOfStream:
    """The calls of one stream, to tell LangChain of those that were cut off. It completes what it has of their
    arguments, so that half a call would look like a whole one."""

    def __init__(self) -> None:
        self._chunks: dict[Any, ToolCallChunk] = {}

    def see(self, message: AIMessageChunk) -> AIMessageChunk:
        """The same; a last one, with what makes LangChain count broken calls among the invalid ones."""
        for chunk in message.tool_call_chunks:
            seen = self._chunks.setdefault(chunk["index"], {**chunk, "args": ""})
            seen["args"] = (seen["args"] or "") + (chunk["args"] or "")
        finish_reason = message.response_metadata.get("finish_reason")
        if finish_reason is None:
            return message
        broken = [chunk for chunk in self._chunks.values() if not is_whole(chunk["args"], finish_reason)]
        if not broken:
            return message
        ends = [
            tool_call_chunk(args=_spoiling(chunk["args"] or ""), index=chunk["index"]) for chunk in broken
        ]
        return message.model_copy(update={"tool_call_chunks": [*message.tool_call_chunks, *ends]})


def _spoiling(arguments: str) -> str:
    """What comes after arguments that no parser shall complete: a bracket that closes nothing."""
    for end in ("]", "}", '"]', '"}'):
        try:
            if not isinstance(parse_partial_json(arguments + end), dict):
                return end
        except ValueError:
            return end
    return ""


def to_chunk(chunk: Mapping[str, Any], first_call: int = 0) -> AIMessageChunk | None:
    """None for a chunk that says nothing. `first_call` is the number of the first tool call."""
    if not chunk["choices"]:
        if chunk.get("usage") is None:
            return None
        return AIMessageChunk(content="", id=chunk["id"], usage_metadata=to_usage(chunk["usage"]))
    choice = chunk["choices"][0]
    delta = choice["delta"]
    is_last = choice.get("finish_reason") is not None
    metadata = _metadata(choice, chunk) if is_last else _remarks(choice, chunk)
    return AIMessageChunk(
        content=delta.get("content") or "",
        id=chunk["id"],
        tool_call_chunks=[
            tool_call_chunk(
                name=call["function"].get("name"),
                args=call["function"].get("arguments"),
                id=call.get("id"),
                index=first_call + call["index"],
            )
            for call in delta.get("tool_calls") or ()
        ],
        additional_kwargs=_reasoning(delta),
        response_metadata=metadata,
    )


def to_usage(usage: Mapping[str, Any] | None) -> UsageMetadata | None:
    if usage is None:
        return None
    prompt, completion = (usage.get(f"{side}_tokens_details") or {} for side in ("prompt", "completion"))
    return UsageMetadata(
        input_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
        total_tokens=usage["total_tokens"],
        input_token_details=InputTokenDetails(cache_read=prompt.get("cached_tokens") or 0),
        output_token_details=OutputTokenDetails(reasoning=completion.get("reasoning_tokens") or 0),
    )


def sum_of_usage(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's usage of two answers."""
    return {
        name: sum_of_usage(value, other.get(name) or {})
        if isinstance(value, Mapping)
        else value + (other.get(name) or 0)
        for name, value in one.items()
    }


def _reasoning(wire: Mapping[str, Any]) -> dict[str, Any]:
    text = wire.get("reasoning_content")
    return {"reasoning_content": text} if text else {}


def _metadata(choice: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {
        "model_name": response["model"],
        "model_provider": PROVIDER,
        "system_fingerprint": response.get("system_fingerprint"),
        "finish_reason": choice["finish_reason"],
    }
    return metadata | _remarks(choice, response)


def _remarks(choice: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Any]:
    """What is there only where it was asked for: log-probabilities, and what of a schema was checked afterwards."""
    remarks: dict[str, Any] = {}
    if choice.get("logprobs") is not None:
        remarks["logprobs"] = choice["logprobs"]
    if response.get("basemlx") is not None:
        checked = response["basemlx"].get("validation") or ()
        own = [outcome for outcome in checked if outcome.get("index") == choice.get("index")]
        remarks["basemlx"] = response["basemlx"] | {"validation": own}
    return remarks
