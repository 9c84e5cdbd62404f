"""Mistral: behind [TOOL_CALLS] a JSON list in older models, name and arguments in newer ones, in some an id between."""

import re
from collections.abc import Collection, Sequence

from basemlx.engine.chat.formats.base import CallGrammar, arguments_json, json_text, new_call_id
from basemlx.engine.chat.formats.json_list import JsonList
from basemlx.engine.chat.formats.named_json import Frame, NamedJson, NamedJsonParser
from basemlx.engine.chat.formats.reader import Malformed, Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Node, Regex, Repeat, either, optional, seq

CALLS, ARGUMENTS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_ID = Regex("[a-zA-Z0-9]{9}")
_ID_TEXT = re.compile(r"[a-zA-Z0-9]*")


class MistralOld(JsonList):
    name = "mistral-old"
    markers = (CALLS,)
    start = CALLS

    def render(self, calls: Sequence[Call]) -> str:
        objects = (
            f'{{"name": {json_text(call.name)}, "arguments": {json_text(call.arguments)}'
            + (f', "id": {json_text(call.id)}}}' if call.id else "}")
            for call in calls
        )
        return f"{CALLS}[{', '.join(objects)}]"

    def call_node(self, tool: Tool) -> Node:
        without_end = seq(f'{{"name": {json_text(tool.name)}, "arguments": ', arguments_json(tool))
        return seq(without_end, either("}", seq(', "id": "', _ID, '"}')))


class MistralParser(NamedJsonParser):
    """Calls follow each other, each behind a [TOOL_CALLS]. Also reads the older list."""

    def announce(self) -> Steps[None]:
        yield from self.reader.spaces()
        name = yield from self.name()
        call_id = ""
        if (yield from self.reader.literal(CALL_ID)) is not None:
            call_id = yield from self.reader.run_of(_ID_TEXT)
        if (yield from self.reader.literal(ARGUMENTS)) is None and (yield from self.reader.peek()) != "{":
            raise Malformed
        self.start_call(name, call_id or None)

    def _calls(self, trigger: str) -> Steps[None]:
        yield from self.reader.spaces()
        if (yield from self.reader.literal("[")) is None:
            yield from super()._calls(trigger)
            return
        while True:
            yield from self.reader.spaces()
            yield from self.json_call(("name",), ("arguments",))
            yield from self.reader.spaces()
            if (yield from self.reader.expect(",", "]")) == "]":
                return


class Mistral(NamedJson):
    name = "mistral"
    markers = (CALLS, ARGUMENTS, CALL_ID)
    frame = Frame(open=CALLS, middle=ARGUMENTS)

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return CALLS in template and ARGUMENTS in template

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> MistralParser:
        return MistralParser(self.frame, tools, new_id, enforced)


class MistralWithId(Mistral):
    """Mistral Small 3.2."""

    name = "mistral-call-id"

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return CALL_ID in template and super().matches(template, vocabulary)

    def render(self, calls: Sequence[Call]) -> str:
        return "".join(
            f"{CALLS}{call.name}{CALL_ID}{call.id or 'a1b2c3d4e'}{ARGUMENTS}{json_text(call.arguments)}"
            for call in calls
        )

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        call = either(
            *(
                seq(f"{tool.name}", optional(seq(CALL_ID, _ID)), ARGUMENTS, arguments_json(tool))
                for tool in tools
            )
        )
        return CallGrammar(CALLS, Repeat(call, 1, None if parallel else 1, separator=seq(CALLS)))
