"""Hermes, and Qwen from 2.5 to 3: each call one JSON object with name and arguments, between its own markers."""

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
from basemlx.engine.chat.formats.reader import Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Repeat, either, seq

START, END = "<tool_call>", "</tool_call>"


class HermesParser(CallParser):
    triggers = (START,)
    closers = (END,)

    def _calls(self, trigger: str) -> Steps[None]:
        yield from self.reader.spaces()
        yield from self.json_call(("name",), ("arguments", "parameters"))
        yield from self.reader.until((END,), self.content)


class Hermes(Format):
    name: ClassVar[str] = "hermes"
    markers: ClassVar[tuple[str, ...]] = (START, END)

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return START in template

    def render(self, calls: Sequence[Call]) -> str:
        return "\n".join(
            f'{START}\n{{"name": {json_text(call.name)}, "arguments": {json_text(call.arguments)}}}\n{END}'
            for call in calls
        )

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        body = seq(either(*(json_call(tool) for tool in tools)), f"\n{END}")
        if not parallel:
            return CallGrammar(START, seq("\n", body))
        return CallGrammar(START, seq("\n", Repeat(body, 1, None, separator=seq(f"\n{START}\n"))))

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> HermesParser:
        return HermesParser(tools, new_id, enforced)
