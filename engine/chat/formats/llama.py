"""Llama 3: the whole answer is one JSON object with name and parameters, perhaps behind a marker."""

from collections.abc import Collection, Sequence

from basemlx.engine.chat.formats.base import (
    CallGrammar,
    CallParser,
    Format,
    arguments_json,
    json_text,
    new_call_id,
)
from basemlx.engine.chat.formats.reader import Malformed, Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import either, seq

TAG = "<|python_tag|>"


class LlamaParser(CallParser):
    """Without the marker only an object that begins with the name of a known function is a call."""

    triggers = (TAG,)

    def _start(self) -> Steps[None]:
        self.reader.record = []
        yield from self.reader.spaces()
        lead = "".join(self.reader.record)
        self.reader.record = None
        if (yield from self.reader.peek()) == "{":
            yield from self.attempt(lead)
        else:
            self.content(lead)

    def _calls(self, trigger: str) -> Steps[None]:
        reader = self.reader
        while True:
            yield from reader.spaces()
            yield from self.json_call(("name",), ("parameters", "arguments"), first=("name", "type"))
            yield from reader.spaces()
            if (yield from reader.literal(";", ",")) is None:
                return

    def start_call(self, name: str, call_id: str | None = None) -> None:
        if self.tools and name not in self.tools:
            raise Malformed
        super().start_call(name, call_id)


class Llama3(Format):
    """One call a turn: the templates know no more. An answer that begins with a brace is a call."""

    name = "llama3"
    markers = (TAG,)

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return '"parameters"' in template and ('{"name": function name' in template or TAG in template)

    def render(self, calls: Sequence[Call]) -> str:
        return "; ".join(
            f'{{"name": {json_text(call.name)}, "parameters": {json_text(call.arguments)}}}' for call in calls
        )

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        calls = (
            seq(f'"name": {json_text(tool.name)}, "parameters": ', arguments_json(tool), "}")
            for tool in tools
        )
        return CallGrammar("{", either(*calls), at_start="{")

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> LlamaParser:
        return LlamaParser(tools, new_id, enforced)
