"""Calls as one JSON list of objects after a marker: Granite, Phi-4, Apriel, and old Mistral and Cohere."""

from collections.abc import Collection, Sequence
from typing import ClassVar

from basemlx.engine.chat.formats.base import (
    CallGrammar,
    CallParser,
    Format,
    json_call,
    json_text,
    new_call_id,
)
from basemlx.engine.chat.formats.reader import Malformed, Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Node, Repeat, either, optional, seq


class JsonListParser(CallParser):
    """A list, or a single object, or objects one after the other. `ends` are the closing markers, if there are any."""

    def __init__(
        self,
        tools: Sequence[Tool],
        new_id: NewId,
        enforced: bool,
        *,
        triggers: tuple[str, ...],
        ends: tuple[str, ...],
        names: tuple[str, ...] = ("name",),
        arguments: tuple[str, ...] = ("arguments", "parameters"),
    ) -> None:
        self.triggers = triggers  # type: ignore[misc]
        self.closers = self._ends = ends  # type: ignore[misc]
        self._keys = names, arguments
        super().__init__(tools, new_id, enforced)

    def _calls(self, trigger: str) -> Steps[None]:
        reader = self.reader
        yield from reader.spaces()
        is_list = (yield from reader.literal("[")) is not None
        if is_list:
            yield from reader.spaces()
            if (yield from reader.literal("]")) is not None:
                raise Malformed
        while True:
            yield from self.json_call(*self._keys)
            yield from reader.spaces()
            if (yield from reader.literal(",", ";")) is None:
                break
            yield from reader.spaces()
        if is_list:
            yield from reader.expect("]")
        if self._ends:
            yield from reader.spaces()
            yield from reader.literal(*self._ends)


class JsonList(Format):
    """`start` and `end` are the markers with the white space that belongs to them."""

    start: ClassVar[str]
    end: ClassVar[str] = ""
    keys: ClassVar[tuple[str, str]] = ("name", "arguments")

    @property
    def trigger(self) -> str:
        return self.start.strip()

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return self.trigger in template

    def lead(self, index: int) -> str:
        """What stands in a call before its name."""
        return ""

    def render(self, calls: Sequence[Call]) -> str:
        name, arguments = self.keys
        objects = (
            f'{{{self.lead(index)}"{name}": {json_text(call.name)}, "{arguments}": {json_text(call.arguments)}}}'
            for index, call in enumerate(calls)
        )
        return f"{self.start}[{', '.join(objects)}]{self.end}"

    def call_node(self, tool: Tool) -> Node:
        return json_call(tool, *self.keys)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        calls = Repeat(either(*map(self.call_node, tools)), 1, None if parallel else 1, separator=seq(", "))
        rest = self.start.removeprefix(self.trigger)
        return CallGrammar(self.trigger, seq(rest or optional(" "), "[", calls, f"]{self.end}"))

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> JsonListParser:
        ends = (self.end.strip(),) if self.end else ()
        return JsonListParser(tools, new_id, enforced, triggers=(self.trigger,), ends=ends)


class Phi4(JsonList):
    name = "phi4"
    markers = ("<|tool_call|>", "<|/tool_call|>")
    start, end = "<|tool_call|>", "<|/tool_call|>"

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return self.start in template and self.end in template


class Granite(JsonList):
    """Granite 3; from version 4 on it writes Hermes' format."""

    name = "granite"
    markers = ("<|tool_call|>",)
    start = "<|tool_call|>"


class Apriel(JsonList):
    name = "apriel"
    markers = ("<tool_calls>", "</tool_calls>")
    start, end = "<tool_calls>", "</tool_calls>"
