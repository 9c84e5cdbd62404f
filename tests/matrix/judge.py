"""Says what is wrong with an answer, from the request's own JSON, OpenAI's documentation and the JSON Schema standard.

Shares no code with the engine: JSON is read by the standard library, schemas are checked by jsonschema, what a
tool_choice allows is read here once more. It sees what a client sees.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any, NoReturn

from jsonschema import Draft202012Validator, FormatChecker

MARKUP = re.compile(r"</?tool_call>|</?think>|</?tools>|<\|[a-z_]+\|>")
MAX_SPACES = 41
"""In a row, outside strings: a line break and its indentation."""
_OUTSIDE_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"?')
_SPACES = re.compile(r"\s+")


def problems(
    body: Mapping[str, Any], response: Mapping[str, Any], loose: Collection[str] = frozenset()
) -> list[str]:
    """`response`: a chat.completion. `loose`: functions, and the document, whose schemas are checked by the server
    after generation; its verdicts have to be true."""
    found = [f"{place}: {text}" for place, text in _problems(body, response, loose)]
    ids = [call["id"] for choice in response["choices"] for call in _calls(choice)]
    if len(set(ids)) < len(ids) or not all(re.fullmatch(r"call_[0-9a-zA-Z]{8,}", each) for each in ids):
        found.append(f"ids {ids}")
    if [choice["index"] for choice in response["choices"]] != list(range(body["n"])):
        found.append("choices are not n, in order")
    return found + [f"usage: {text}" for text in _usage_problems(body, response)]


def _problems(
    body: Mapping[str, Any], response: Mapping[str, Any], loose: Collection[str]
) -> Iterator[tuple[str, str]]:
    asked = _Asked(body, loose)
    verdicts = {entry["index"]: entry for entry in response.get("basemlx", {}).get("validation", ())}
    if set(verdicts) != ({choice["index"] for choice in response["choices"]} if asked.is_checked else set()):
        yield "validation", f"is there for choices {sorted(verdicts)}"
    for choice in response["choices"]:
        for text in asked.wrong_with(choice):
            yield f"choice {choice['index']}", text
        verdict = verdicts.get(choice["index"])
        if verdict is not None:
            is_valid = asked.loose_is_valid(choice)
            if verdict["valid"] is not is_valid or bool(verdict["violations"]) is is_valid:
                yield (
                    f"choice {choice['index']}",
                    f"is said to be valid: {verdict['valid']}; it is: {is_valid}",
                )


class _Asked:
    """What one request asks for."""

    def __init__(self, body: Mapping[str, Any], loose: Collection[str]) -> None:
        functions = [tool["function"] for tool in body.get("tools", ())]
        self.schemas: dict[str, Any] = {
            function["name"]: function.get("parameters", {"properties": {}, "additionalProperties": False})
            for function in functions
        }
        self.least, self.allowed = _choice(body.get("tool_choice", "auto"), list(self.schemas))
        self.most = None if body["parallel_tool_calls"] and not _is_named(body) else 1
        self.thinks = (
            body.get("chat_template_kwargs", {}).get("enable_thinking", False)
            or body.get("reasoning_effort", "none") != "none"
        )
        form = body.get("response_format", {"type": "text"})
        self.document: Any = {"type": "object"} if form["type"] == "json_object" else None
        self.loose_calls = set(self.allowed) & set(loose)
        self.loose_document = False
        if form["type"] == "json_schema":
            self.document = form["json_schema"]["schema"]
            # Where a call is a must there is no document.
            self.loose_document = form["json_schema"]["name"] in loose and not self.least
        self.is_checked = bool(self.loose_calls) or self.loose_document

    def wrong_with(self, choice: Mapping[str, Any]) -> Iterator[str]:
        message, calls = choice["message"], _calls(choice)
        is_cut = choice["finish_reason"] == "length"
        content = message["content"] or ""
        if message["role"] != "assistant" or message.get("refusal") is not None:
            yield f"message {message}"
        if not is_cut and choice["finish_reason"] != ("tool_calls" if calls else "stop"):
            yield f"finish_reason {choice['finish_reason']} with {len(calls)} calls"
        yield from self._wrong_with_reasoning(message, is_cut=is_cut and not content and not calls)
        if self.most is not None and len(calls) > self.most:
            yield f"{len(calls)} calls"
        if len(calls) < self.least and not is_cut:
            yield "no call"
        for number, call in enumerate(calls):
            for text in self._wrong_with_call(call, is_cut=is_cut and number == len(calls) - 1):
                yield f"call {number}: {text}"
        yield from self._wrong_with_content(content, has_calls=bool(calls), is_cut=is_cut)

    def _wrong_with_reasoning(self, message: Mapping[str, Any], *, is_cut: bool) -> Iterator[str]:
        reasoning = message.get("reasoning_content")
        if message.get("reasoning") != reasoning:
            yield "reasoning and reasoning_content differ"
        if reasoning and not self.thinks:
            yield "reasons though thinking is off"
        if reasoning and MARKUP.search(reasoning):
            yield f"markup in reasoning: {reasoning!r}"

    def _wrong_with_call(self, call: Mapping[str, Any], *, is_cut: bool) -> Iterator[str]:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        if call["type"] != "function":
            yield f"type {call['type']}"
        if name not in self.allowed:
            yield f"{name} may not be called, of {self.allowed}"
        elif not (is_cut and could_become_json(arguments)):
            yield from wrong_with_document(arguments, self.schemas[name], check=name not in self.loose_calls)
        yield from _too_many_spaces(arguments)

    def _wrong_with_content(self, content: str, *, has_calls: bool, is_cut: bool) -> Iterator[str]:
        if self.document is None:
            # Where nothing was asked for nothing is held back: what a conversation wants quoted is quoted.
            if self.schemas and MARKUP.search(content):
                yield f"markup in content: {content!r}"
            if self.least and content:
                yield f"content where a call is a must: {content!r}"
            return
        if has_calls or self.least:
            if content:
                yield f"content beside calls: {content!r}"
        elif not (is_cut and could_become_json(content)):
            yield from wrong_with_document(content, self.document, check=not self.loose_document)
        yield from _too_many_spaces(content)

    def loose_is_valid(self, choice: Mapping[str, Any]) -> bool:
        """Whether what the server had to check is valid."""
        calls = _calls(choice)
        if calls:
            return not any(
                list(
                    wrong_with_document(call["function"]["arguments"], self.schemas[call["function"]["name"]])
                )
                for call in calls
                if call["function"]["name"] in self.loose_calls
            )
        if not self.loose_document:
            return True
        return not list(wrong_with_document(choice["message"]["content"] or "", self.document))


def _choice(value: Any, names: list[str]) -> tuple[int, list[str]]:
    """How many calls there are at least, and of which functions."""
    if isinstance(value, str):
        return (1 if value == "required" else 0), ([] if value == "none" else names)
    if value["type"] == "function":
        return 1, [value.get("function", value)["name"]]
    inner = value.get("allowed_tools", value)
    return (1 if inner["mode"] == "required" else 0), [
        tool.get("function", tool)["name"] for tool in inner["tools"]
    ]


def _is_named(body: Mapping[str, Any]) -> bool:
    """A named function is called once."""
    value = body.get("tool_choice")
    return isinstance(value, Mapping) and value["type"] == "function"


def _calls(choice: Mapping[str, Any]) -> list[Any]:
    return choice["message"].get("tool_calls") or []


def _usage_problems(body: Mapping[str, Any], response: Mapping[str, Any]) -> Iterator[str]:
    usage = response["usage"]
    num_reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    reasons = any(choice["message"].get("reasoning_content") for choice in response["choices"])
    if reasons and not num_reasoning:
        yield "no reasoning tokens where there is reasoning"
    if not 0 < usage["completion_tokens"] <= body["n"] * body["max_tokens"]:
        yield f"{usage['completion_tokens']} completion tokens"
    if usage["total_tokens"] != usage["prompt_tokens"] + usage["completion_tokens"]:
        yield "the total is no sum"


def wrong_with_document(text: str, schema: Any, *, check: bool = True) -> Iterator[str]:
    """`check` False: it only has to be JSON. A name that the schema leaves open may be there twice, as RFC 8259 has it:
    no grammar remembers which were there, and readers take the last."""
    try:
        value = read_json(text, once=not _leaves_names_open(schema))
    except ValueError as error:
        yield f"no JSON ({error}): {text!r}"
        return
    if check:
        validator = Draft202012Validator(schema, format_checker=FormatChecker(("date", "uuid")))
        for error in validator.iter_errors(value):
            yield f"{error.message[:200]} in {text!r}"


def _leaves_names_open(schema: Any) -> bool:
    """Whether some object may have properties that it does not name."""
    if isinstance(schema, list):
        return any(map(_leaves_names_open, schema))
    if not isinstance(schema, Mapping):
        return False
    is_object = schema.get("type") == "object" or "properties" in schema
    is_open = is_object and schema.get("additionalProperties") is not False
    return is_open or any(map(_leaves_names_open, schema.values()))


def read_json(text: str, *, once: bool = False) -> Any:
    """As RFC 8259 has it; `once`: no name twice in an object. Raises ValueError."""
    hook = _once if once else None
    return json.loads(text, object_pairs_hook=hook, parse_constant=_no_constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_STRING_ENDINGS = ('"', 'n"', '0"', '00"', '000"', '0000"')
_VALUE_ENDINGS = ("", "0", '"\N{SNOWMAN}":0', "rue", "ue", "e", "alse", "lse", "se", "ull", "ll", "l")


def could_become_json(text: str) -> bool:
    """Whether some continuation makes `text` a JSON text: a few are tried, one of which fits if any does."""
    closers: list[str] = []
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "{[":
            closers.append("}" if char == "{" else "]")
        elif char in "}]" and (not closers or closers.pop() != char):
            return False
    endings = _STRING_ENDINGS if in_string else _VALUE_ENDINGS
    tail = "".join(reversed(closers))
    return any(_is_json(text + end + more + tail) for end, more in product(endings, ("", ":0")))


def _is_json(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def _too_many_spaces(text: str) -> Iterator[str]:
    """White space between the parts of a document is bounded."""
    between = _OUTSIDE_STRINGS.sub('""', text)
    longest = max(map(len, _SPACES.findall(between)), default=0)
    if longest > MAX_SPACES:
        yield f"{longest} characters of white space in a row: {text!r}"
