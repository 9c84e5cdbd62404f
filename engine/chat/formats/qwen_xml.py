"""Qwen3-Coder, Qwen3.5, Nemotron 3 and Step 3.5: a function tag with a tag for each parameter, strings without quotes.

Seed-OSS writes the same with markers and line breaks of its own.
"""

import re
from collections.abc import Collection, Sequence
from typing import ClassVar

from basemlx.engine.chat.formats.arguments import NAME, Parameter, in_order, raw_value
from basemlx.engine.chat.formats.base import CallGrammar, CallParser, Format, new_call_id, raw_text
from basemlx.engine.chat.formats.reader import Malformed, Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Node, Repeat, Until, either, seq

_NAME = re.compile(r"[^>\n<]*")
PARAMETER_END = "</parameter>"


class XmlCallParser(CallParser):
    def __init__(self, start: str, end: str, tools: Sequence[Tool], new_id: NewId, enforced: bool) -> None:
        self.triggers = (start,)  # type: ignore[misc]
        self._end = end
        self.closers = (end,)  # type: ignore[misc]
        super().__init__(tools, new_id, enforced)

    def _calls(self, trigger: str) -> Steps[None]:
        reader = self.reader
        yield from reader.spaces()
        yield from reader.expect("<function=")
        while True:
            name = yield from reader.run_of(_NAME)
            yield from reader.expect(">")
            if not name:
                raise Malformed
            self.start_call(name)
            yield from self._parameters(name)
            yield from reader.spaces()
            if (yield from reader.literal("<function=")) is None:
                break
        yield from reader.until((self._end,), self.content)

    def _parameters(self, name: str) -> Steps[None]:
        reader, writer = self.reader, self.parameters(name)
        while True:
            yield from reader.spaces()
            if (yield from reader.expect("<parameter=", "</function>", self._end)) != "<parameter=":
                break
            key = yield from reader.run_of(_NAME)
            yield from reader.expect(">")
            yield from reader.literal("\n")
            if (yield from writer.value(key, (f"\n{PARAMETER_END}", PARAMETER_END))) is None:
                raise Malformed
        writer.end()
        self.end_call(complete=True)


class QwenXml(Format):
    name: ClassVar[str] = "qwen-xml"
    markers: ClassVar[tuple[str, ...]] = ("<tool_call>", "</tool_call>")
    start, end, gap = "<tool_call>", "</tool_call>", "\n"

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return self.start in template and "<function=" in template and "<parameter=" in template

    def render(self, calls: Sequence[Call]) -> str:
        return "\n".join(self._rendered(call) for call in calls)

    def _rendered(self, call: Call) -> str:
        parameters = (
            f"<parameter={key}>{self.gap}{raw_text(value)}{self.gap}{PARAMETER_END}\n"
            for key, value in call.arguments.items()
        )
        return f"{self.start}\n<function={call.name}>\n{''.join(parameters)}</function>\n{self.end}"

    def _parameter(self, parameter: Parameter) -> Node:
        value = raw_value(parameter, f"{self.gap}{PARAMETER_END}\n", PARAMETER_END)
        return seq(f"<parameter={parameter.name}>{self.gap}", value)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        text = Until(f"{self.gap}{PARAMETER_END}\n", (PARAMETER_END,))
        any_parameters = Repeat(seq("<parameter=", NAME, f">{self.gap}", text), 0, None)
        functions = either(
            *(
                seq(f"<function={tool.name}>\n", in_order(tool, self._parameter, any_parameters))
                for tool in tools
            )
        )
        calls = Repeat(
            seq(functions, f"</function>\n{self.end}"),
            1,
            None if parallel else 1,
            separator=seq(f"\n{self.start}\n"),
        )
        return CallGrammar(self.start, seq("\n", calls))

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> XmlCallParser:
        return XmlCallParser(self.start, self.end, tools, new_id, enforced)


class SeedXml(QwenXml):
    name = "seed-xml"
    markers = ("<seed:tool_call>", "</seed:tool_call>")
    start, end, gap = "<seed:tool_call>", "</seed:tool_call>", ""
