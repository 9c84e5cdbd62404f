"""Kimi K2: a section of calls, each named functions.NAME:INDEX, which is also its id."""

import re
from collections.abc import Collection, Sequence

from basemlx.engine.chat.formats.base import CallGrammar, arguments_json, new_call_id
from basemlx.engine.chat.formats.named_json import Frame, NamedJson, NamedJsonParser
from basemlx.engine.chat.formats.reader import Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Tool
from basemlx.engine.grammar.structure import Regex, Repeat, either, seq

_FRAME = Frame(
    start="<|tool_calls_section_begin|>",
    open="<|tool_call_begin|>",
    middle="<|tool_call_argument_begin|>",
    close="<|tool_call_end|>",
    end="<|tool_calls_section_end|>",
)
_ID = re.compile(r"(?:functions\.)?(.+):[0-9]+")


class KimiParser(NamedJsonParser):
    def announce(self) -> Steps[None]:
        yield from self.reader.spaces()
        call_id = yield from self.name()
        yield from self.reader.spaces()
        yield from self.reader.expect(self.frame.middle)
        match = _ID.fullmatch(call_id)
        self.start_call(match[1] if match else call_id.removeprefix("functions."), match and call_id)


class KimiK2(NamedJson):
    name = "kimi-k2"
    markers = (_FRAME.start, _FRAME.open, _FRAME.middle, _FRAME.close, _FRAME.end)
    frame = _FRAME

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return _FRAME.start in template

    def named(self, name: str, index: int) -> str:
        return f"functions.{name}:{index}"

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        call = either(
            *(
                seq(f"functions.{tool.name}:", Regex("[0-9]{1,4}"), _FRAME.middle, arguments_json(tool))
                for tool in tools
            )
        )
        calls = Repeat(seq(_FRAME.open, call, _FRAME.close), 1, None if parallel else 1)
        return CallGrammar(_FRAME.start, seq(calls, _FRAME.end))

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> KimiParser:
        return KimiParser(self.frame, tools, new_id, enforced)
