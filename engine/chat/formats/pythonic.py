"""Calls as a Python list of calls with keywords: Llama 3.2 and 4 without markers, LFM2 between its own."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from basemlx.engine.chat.formats.arguments import Parameter, parameters
from basemlx.engine.chat.formats.base import CallGrammar, CallParser, Format, json_text, new_call_id
from basemlx.engine.chat.formats.literals import literal
from basemlx.engine.chat.formats.reader import Malformed, Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Json, Node, Regex, Repeat, Separated, either, optional, seq

_NAME = re.compile(r"[\w.-]*")
_WRITTEN = re.compile(r"[A-Za-z_]\w*")
_WORDS = {"boolean": ("True", "False"), "null": ("None",)}


class PythonicParser(CallParser):
    """Strings, numbers, lists and dicts are passed on as JSON while they come; nothing is evaluated."""

    def __init__(
        self, start: str, ends: tuple[str, ...], tools: Sequence[Tool], new_id: NewId, enforced: bool
    ) -> None:
        self.triggers = (start,) if start else ("\0",)  # type: ignore[misc]
        self._has_start = bool(start)
        self._ends = ends
        super().__init__(tools, new_id, enforced)

    def _start(self) -> Steps[None]:
        if self._has_start:
            return
        self.reader.record = []
        yield from self.reader.spaces()
        lead = "".join(self.reader.record)
        self.reader.record = None
        if (yield from self.reader.peek()) == "[":
            yield from self.attempt(lead)
        else:
            self.content(lead)

    def _calls(self, trigger: str) -> Steps[None]:
        reader = self.reader
        yield from reader.spaces()
        yield from reader.expect("[")
        while True:
            yield from reader.spaces()
            yield from self._call()
            yield from reader.spaces()
            if (yield from reader.expect(",", "]")) == "]":
                break
        if self._ends:
            yield from reader.spaces()
            yield from reader.literal(*self._ends)

    def _call(self) -> Steps[None]:
        reader = self.reader
        name = yield from reader.run_of(_NAME)
        if not name or (not self._has_start and self.tools and name not in self.tools):
            raise Malformed
        yield from reader.expect("(")
        self.start_call(name)
        writer = self.parameters(name)
        while True:
            yield from reader.spaces()
            if (yield from reader.literal(")")) is not None:
                break
            key = yield from reader.run_of(_NAME)
            yield from reader.spaces()
            yield from reader.expect("=")
            if not key:
                raise Malformed
            writer.begin(key)
            yield from literal(reader, self.arguments)
            yield from reader.spaces()
            if (yield from reader.expect(",", ")")) == ")":
                break
        writer.end()
        self.end_call(complete=True)


class Pythonic(Format):
    """Without markers a call begins the answer, and an answer that begins with a bracket is one."""

    name: ClassVar[str] = "pythonic"
    markers: ClassVar[tuple[str, ...]] = ()
    start: ClassVar[str] = ""
    end: ClassVar[str] = ""

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return "[func_name1(params_name1=" in template or "python list" in template.lower()

    def render(self, calls: Sequence[Call]) -> str:
        written = (
            f"{call.name}({', '.join(f'{key}={_python(value)}' for key, value in call.arguments.items())})"
            for call in calls
        )
        return f"{self.start}[{', '.join(written)}]{self.end}"

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        calls = either(*(seq(f"{tool.name}(", _keywords(tool), ")") for tool in tools))
        listed = seq(Repeat(calls, 1, None if parallel else 1, separator=seq(", ")), f"]{self.end}")
        if self.start:
            return CallGrammar(self.start, seq("[", listed))
        return CallGrammar("[", listed, at_start="[")

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> PythonicParser:
        return PythonicParser(self.start, (self.end,) if self.end else (), tools, new_id, enforced)


class Lfm2(Pythonic):
    name = "lfm2"
    markers = ("<|tool_call_start|>", "<|tool_call_end|>")
    start, end = "<|tool_call_start|>", "<|tool_call_end|>"

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        if "<|tool_list_start|>" in template or self.start in template:
            return True
        return self.start in vocabulary and "List of tools: [" in template


def _python(value: Any) -> str:
    """A literal in which strings are JSON's, as the models write them."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json_text(key)}: {_python(part)}' for key, part in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_python, value))}]"
    return json_text(value)


def _keywords(tool: Tool) -> Node:
    declared = parameters(tool, _WRITTEN)
    if declared is None:
        name = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}")
        return optional(Repeat(seq(name, "=", Json({})), 1, None, separator=seq(", ")))
    return Separated(tuple((seq(f"{each.name}=", _value(each)), each.required) for each in declared), ", ")


def _value(parameter: Parameter) -> Node:
    """JSON, but for truth values and null, which are Python's where no value is prescribed."""
    schema, types = parameter.schema, parameter.types
    plain = not any(
        key in schema for key in ("const", "enum", "anyOf", "oneOf", "allOf", "$ref", "not", "if")
    )
    words = [word for kind in sorted(types & _WORDS.keys()) for word in _WORDS[kind]]
    if not plain or not words or len(types) == 7:
        return Json(schema, parameter.strict, parameter.pointer)
    rest = sorted(types - _WORDS.keys())
    if not rest:
        return either(*words)
    return either(*words, Json({**schema, "type": rest}, parameter.strict, parameter.pointer))
