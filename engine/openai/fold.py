"""Chunks to the one response of a request that is not streamed: each chunk is added to what the ones before made.

There is no other way to a whole response, so a streamed and an unstreamed one cannot differ.
"""

from typing import Any, Protocol

from basemlx.engine.openai.chunks import Chunk


class Fold(Protocol):
    def add(self, chunk: Chunk) -> None: ...
    def response(self) -> dict[str, Any]: ...


class _Head:
    """What is common: the identity of the first chunk, choices by index, the usage that came last."""

    def __init__(self, object_name: str) -> None:
        self._head: Chunk = {"object": object_name}
        self._usage: Chunk | None = None
        self._validation: list[Chunk] = []
        self._remarks: Chunk = {}

    def add(self, chunk: Chunk) -> None:
        if "id" not in self._head:
            self._head = {
                name: chunk[name] for name in ("id", "object", "created", "model", "system_fingerprint")
            } | {"object": self._head["object"]}
        self._usage = chunk.get("usage") or self._usage
        for name, value in chunk.get("basemlx", {}).items():
            if name == "validation":
                self._validation += value
            else:
                self._remarks[name] = value

    def response(self, choices: dict[int, Chunk]) -> dict[str, Any]:
        ordered = [choices[index] for index in sorted(choices)]
        response = {**self._head, "choices": ordered, "usage": self._usage}
        if self._validation:
            self._remarks["validation"] = sorted(self._validation, key=lambda entry: entry["index"])
        return {**response, "basemlx": self._remarks} if self._remarks else response


class ChatFold:
    def __init__(self) -> None:
        self._head = _Head("chat.completion")
        self._texts: dict[int, dict[str, list[str]]] = {}
        self._calls: dict[int, dict[int, _Call]] = {}
        self._choices: dict[int, Chunk] = {}

    def add(self, chunk: Chunk) -> None:
        self._head.add(chunk)
        for part in chunk["choices"]:
            index = part["index"]
            choice = self._choices.setdefault(
                index, {"index": index, "message": {}, "logprobs": None, "finish_reason": None}
            )
            texts = self._texts.setdefault(index, {"content": []})
            for name, value in part["delta"].items():
                if name == "role":
                    choice["message"]["role"] = value
                elif name == "tool_calls":
                    for piece in value:
                        self._calls.setdefault(index, {}).setdefault(piece["index"], _Call()).add(piece)
                else:
                    texts.setdefault(name, []).append(value)
            if part["logprobs"] is not None:
                if choice["logprobs"] is None:
                    choice["logprobs"] = {"content": [], "refusal": None}
                choice["logprobs"]["content"] += part["logprobs"]["content"]
            choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]

    def response(self) -> dict[str, Any]:
        for index, choice in self._choices.items():
            message: Chunk = {"role": "assistant", **choice["message"]}
            message |= {name: "".join(pieces) for name, pieces in self._texts[index].items()}
            calls = self._calls.get(index)
            if calls:
                message["content"] = message["content"] or None
                message["tool_calls"] = [calls[number].whole() for number in sorted(calls)]
            choice["message"] = {**message, "refusal": None}
        return self._head.response(self._choices)


class _Call:
    """A tool call that comes in pieces: its identity once, its arguments bit by bit."""

    def __init__(self) -> None:
        self._head: Chunk = {}
        self._arguments: list[str] = []

    def add(self, piece: Chunk) -> None:
        function = piece["function"]
        if "name" in function:
            self._head = {"id": piece["id"], "type": piece["type"], "name": function["name"]}
        self._arguments.append(function["arguments"])

    def whole(self) -> Chunk:
        function = {"name": self._head["name"], "arguments": "".join(self._arguments)}
        return {"id": self._head["id"], "type": self._head["type"], "function": function}


class CompletionFold:
    def __init__(self) -> None:
        self._head = _Head("text_completion")
        self._texts: dict[int, list[str]] = {}
        self._choices: dict[int, Chunk] = {}

    def add(self, chunk: Chunk) -> None:
        self._head.add(chunk)
        for part in chunk["choices"]:
            index = part["index"]
            choice = self._choices.setdefault(
                index, {"index": index, "text": "", "logprobs": None, "finish_reason": None}
            )
            self._texts.setdefault(index, []).append(part["text"])
            if part["logprobs"] is not None:
                if choice["logprobs"] is None:
                    choice["logprobs"] = {name: [] for name in part["logprobs"]}
                for name, values in part["logprobs"].items():
                    choice["logprobs"][name] += values
            choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]

    def response(self) -> dict[str, Any]:
        for index, choice in self._choices.items():
            choice["text"] = "".join(self._texts[index])
        return self._head.response(self._choices)
