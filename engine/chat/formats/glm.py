"""GLM 4.5 to 5: the function's name, then keys and values in tags, strings without quotes. From 4.7 on in one line."""

import re
from collections.abc import Collection, Sequence
from typing import ClassVar

from basemlx.engine.chat.formats.arguments import NAME, Parameter, in_order, raw_value
from basemlx.engine.chat.formats.base import CallGrammar, CallParser, Format, new_call_id, raw_text
from basemlx.engine.chat.formats.reader import Malformed, Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Node, Repeat, Until, either, seq

START, END = "<tool_call>", "</tool_call>"
KEY, KEY_END, VALUE, VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_NAME = re.compile(r"[^<\n{]*")


class GlmParser(CallParser):
    triggers = (START,)
    closers = (END,)

    def _calls(self, trigger: str) -> Steps[None]:
        reader = self.reader
        yield from reader.spaces()
        name = (yield from reader.run_of(_NAME)).strip()
        yield from reader.spaces()
        first = yield from reader.expect(KEY, END)
        if not name:
            raise Malformed
        self.start_call(name)
        writer = self.parameters(name)
        while first == KEY:
            keys: list[str] = []
            if (yield from reader.until((KEY_END,), keys.append)) is None:
                raise Malformed
            yield from reader.spaces()
            yield from reader.expect(VALUE)
            if (yield from writer.value("".join(keys).strip(), (VALUE_END,))) is None:
                raise Malformed
            yield from reader.spaces()
            first = yield from reader.expect(KEY, END)
        writer.end()
        self.end_call(complete=True)


class Glm47(Format):
    name: ClassVar[str] = "glm-4.7"
    markers: ClassVar[tuple[str, ...]] = (START, END, KEY, KEY_END, VALUE, VALUE_END)
    gap = ""
    between = ""

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return KEY in template and VALUE in template

    def render(self, calls: Sequence[Call]) -> str:
        gap = self.gap
        rendered = []
        for call in calls:
            pairs = (
                f"{KEY}{key}{KEY_END}{gap}{VALUE}{raw_text(value)}{VALUE_END}{gap}"
                for key, value in call.arguments.items()
            )
            rendered.append(f"{START}{call.name}{gap}{''.join(pairs)}{END}")
        return self.between.join(rendered)

    def _parameter(self, parameter: Parameter) -> Node:
        value = raw_value(parameter, VALUE_END)
        return seq(f"{KEY}{parameter.name}{KEY_END}{self.gap}{VALUE}", value, self.gap)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        gap = self.gap
        pair = seq(KEY, NAME, f"{KEY_END}{gap}{VALUE}", Until(VALUE_END), gap)
        functions = either(
            *(
                seq(f"{tool.name}{gap}", in_order(tool, self._parameter, Repeat(pair, 0, None)))
                for tool in tools
            )
        )
        separator = seq(f"{self.between}{START}")
        return CallGrammar(
            START, Repeat(seq(functions, END), 1, None if parallel else 1, separator=separator)
        )

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> GlmParser:
        return GlmParser(tools, new_id, enforced)


class Glm45(Glm47):
    """4.5 and 4.6: line breaks between tags."""

    name = "glm-4.5"
    gap = between = "\n"

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        has_lines = re.search(r"<arg_key>\{arg-key-1\}</arg_key>\\?n?\s*(\\n|\n)", template) is not None
        return has_lines and super().matches(template, vocabulary)
