"""A client that trusts nothing: posts a chat, and joins a stream by OpenAI's rules, checking that it keeps to them."""

import json
from typing import Any

import httpx

PATH = "/v1/chat/completions"


class BrokenStream(AssertionError):
    """The stream is not what OpenAI's API says it is."""


class Refused(Exception):
    """`error` is what the envelope holds."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"{status}: {error['message']}")
        self.status = status
        self.error = error


def ask(client: httpx.Client, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """The chat.completion, whole as it came or joined. Raises Refused, BrokenStream."""
    if not stream:
        response = client.post(PATH, json=body)
        if response.status_code != 200:
            raise Refused(response.status_code, response.json()["error"])
        answer: dict[str, Any] = response.json()
        return answer
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", PATH, json=streamed) as response:
        if response.status_code != 200:
            response.read()
            raise Refused(response.status_code, response.json()["error"])
        joined = Joined()
        for line in response.iter_lines():
            if line and not line.startswith(":"):
                joined.add(line)
        return joined.response()


class Joined:
    """The chunks of one stream, line by line."""

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}
        self._validation: list[Any] = []
        self._usage: Any = None
        self._ids: set[str] = set()
        self._is_done = False

    def add(self, line: str) -> None:
        _must(not self._is_done and line.startswith("data: "), line)
        if line == "data: [DONE]":
            self._is_done = True
            return
        chunk = json.loads(line.removeprefix("data: "))
        _must("error" not in chunk, line)
        _must(chunk["object"] == "chat.completion.chunk" and self._usage is None, line)
        self._ids.add(chunk["id"])
        self._usage = chunk["usage"]
        self._validation += chunk.get("basemlx", {}).get("validation", [])
        for part in chunk["choices"]:
            self._add_part(part)

    def _add_part(self, part: dict[str, Any]) -> None:
        index, delta = part["index"], part["delta"]
        choice = self._choices.get(index)
        if choice is None:
            _must(delta == {"role": "assistant", "content": ""}, part)
            message = {"role": "assistant", "content": "", "refusal": None}
            choice = self._choices[index] = {"index": index, "message": message, "finish_reason": None}
            return
        _must(choice["finish_reason"] is None and "role" not in delta, part)
        choice["finish_reason"] = part["finish_reason"]
        _must(bool(delta) is (part["finish_reason"] is None), part)
        for name, value in delta.items():
            if name == "tool_calls":
                for piece in value:
                    self._add_call(choice["message"].setdefault("tool_calls", []), piece)
            else:
                _must(isinstance(value, str) and value != "", part)
                choice["message"][name] = choice["message"].get(name, "") + value

    @staticmethod
    def _add_call(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
        function = piece["function"]
        if "id" in piece:
            _must(piece["index"] == len(calls) and bool(function["name"]), piece)
            calls.append({"id": piece["id"], "type": piece["type"], "function": dict(function)})
        else:
            _must(piece["index"] == len(calls) - 1 and "name" not in function, piece)
            calls[-1]["function"]["arguments"] += function["arguments"]

    def response(self) -> dict[str, Any]:
        _must(self._is_done and self._usage is not None and len(self._ids) == 1, "the stream's end")
        choices = [self._choices[index] for index in sorted(self._choices)]
        _must(all(choice["finish_reason"] for choice in choices), "a choice without an end")
        response: dict[str, Any] = {"choices": choices, "usage": self._usage}
        if self._validation:
            response["basemlx"] = {"validation": sorted(self._validation, key=lambda entry: entry["index"])}
        return response


def _must(condition: bool, shown: Any) -> None:
    if not condition:
        raise BrokenStream(str(shown))


def comparable(response: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same, streamed or not: all but ids, times, and how much of the prompt was known already."""
    usage = {name: value for name, value in response["usage"].items() if name != "prompt_tokens_details"}
    return {
        "choices": [
            {
                "index": choice["index"],
                "finish_reason": choice["finish_reason"],
                "message": _without_ids(choice["message"]),
            }
            for choice in response["choices"]
        ],
        "usage": usage,
        "basemlx": response.get("basemlx"),
    }


def _without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [{**call, "id": ""} for call in message.get("tool_calls") or ()]
    return message | {"content": message["content"] or "", "tool_calls": calls}
