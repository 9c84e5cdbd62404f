"""Calls as invoke tags with tags for parameters: MiniMax M2, and DeepSeek V3.2 and V4, which say what is a string."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from basemlx.engine.chat.formats.arguments import NAME, Parameter, in_order, raw_value
from basemlx.engine.chat.formats.base import CallGrammar, CallParser, Format, json_text, new_call_id, raw_text
from basemlx.engine.chat.formats.reader import Malformed, Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Json, Node, Repeat, Until, either, seq

_NAME = re.compile(r"[^\">\n<]*")


@dataclass(frozen=True, slots=True)
class Tags:
    """The names of the tags, with what stands before them, and whether parameters say that they are strings."""

    calls: str
    invoke: str
    parameter: str
    says_type: bool

    @property
    def start(self) -> str:
        return f"<{self.calls}>"

    @property
    def end(self) -> str:
        return f"</{self.calls}>"


class InvokeParser(CallParser):
    def __init__(self, tags: Tags, tools: Sequence[Tool], new_id: NewId, enforced: bool) -> None:
        self.triggers = (tags.start,)  # type: ignore[misc]
        self._tags = tags
        super().__init__(tools, new_id, enforced)

    def _calls(self, trigger: str) -> Steps[None]:
        reader, tags = self.reader, self._tags
        yield from reader.spaces()
        yield from reader.expect(f"<{tags.invoke} name=")
        while True:
            name = yield from self._quoted_name()
            yield from reader.expect(">")
            self.start_call(name)
            yield from self._parameters(name)
            yield from reader.spaces()
            if (yield from reader.literal(f"<{tags.invoke} name=")) is None:
                break
        yield from reader.until((tags.end,), self.content)

    def _quoted_name(self) -> Steps[str]:
        quote = yield from self.reader.literal('"')
        name = yield from self.reader.run_of(_NAME)
        if quote is not None:
            yield from self.reader.expect('"')
        if not name:
            raise Malformed
        return name

    def _parameters(self, name: str) -> Steps[None]:
        reader, tags, writer = self.reader, self._tags, self.parameters(name)
        opening, closing = f"<{tags.parameter} name=", f"</{tags.invoke}>"
        while True:
            yield from reader.spaces()
            if (yield from reader.expect(opening, closing)) == closing:
                break
            key = yield from self._quoted_name()
            is_string = None
            if tags.says_type:
                kind = yield from reader.literal(' string="true"', ' string="false"')
                is_string = None if kind is None else "true" in kind
            yield from reader.expect(">")
            if (yield from writer.value(key, (f"</{tags.parameter}>",), is_string=is_string)) is None:
                raise Malformed
        writer.end()
        self.end_call(complete=True)


class MiniMaxM2(Format):
    name: ClassVar[str] = "minimax-m2"
    markers: ClassVar[tuple[str, ...]] = ("<minimax:tool_call>", "</minimax:tool_call>")
    tags = Tags("minimax:tool_call", "invoke", "parameter", says_type=False)

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return self.tags.start in template

    def render(self, calls: Sequence[Call]) -> str:
        tags = self.tags
        invokes = (
            f'<{tags.invoke} name="{call.name}">\n'
            + "".join(
                f'<{tags.parameter} name="{key}"{self._type(isinstance(value, str))}>'
                f"{raw_text(value)}</{tags.parameter}>\n"
                for key, value in call.arguments.items()
            )
            + f"</{tags.invoke}>\n"
            for call in calls
        )
        return f"{tags.start}\n{''.join(invokes)}{tags.end}"

    def _type(self, is_string: bool) -> str:
        return f' string="{json_text(is_string)}"' if self.tags.says_type else ""

    def _parameter(self, parameter: Parameter) -> Node:
        tag = self.tags.parameter
        end, opening = f"</{tag}>\n", f'<{tag} name="{parameter.name}"'
        if not self.tags.says_type:
            return seq(f"{opening}>", raw_value(parameter, end, end.strip()))
        ways: list[Node] = []
        if "string" in parameter.types:
            only_string = _with_types(parameter, frozenset({"string"}))
            ways.append(seq(f"{opening}{self._type(True)}>", raw_value(only_string, end, end.strip())))
        if parameter.types - {"string"}:
            kinds = sorted(parameter.types - {"string"})
            schema = {**parameter.schema, "type": kinds} if "string" in parameter.types else parameter.schema
            value = Json(schema, parameter.strict, parameter.pointer)
            ways.append(seq(f"{opening}{self._type(False)}>", value, end))
        return either(*ways)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        tags = self.tags
        end = f"</{tags.parameter}>\n"
        any_parameter = seq(
            f"<{tags.parameter} name=", '"', NAME, f'"{self._type(True)}>', Until(end, (end.strip(),))
        )
        invokes = either(
            *(
                seq(
                    f'<{tags.invoke} name="{tool.name}">\n',
                    in_order(tool, self._parameter, Repeat(any_parameter, 0, None)),
                )
                for tool in tools
            )
        )
        calls = Repeat(seq(invokes, f"</{tags.invoke}>\n"), 1, None if parallel else 1)
        return CallGrammar(tags.start, seq("\n", calls, tags.end))

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> InvokeParser:
        return InvokeParser(self.tags, tools, new_id, enforced)


class DeepSeekV32(MiniMaxM2):
    name = "deepseek-v3.2"
    markers = ("｜DSML｜",)
    tags = Tags("｜DSML｜function_calls", "｜DSML｜invoke", "｜DSML｜parameter", says_type=True)

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return "DSML" in template and "function_calls" in template


class DeepSeekV4(DeepSeekV32):
    name = "deepseek-v4"
    tags = Tags("｜DSML｜tool_calls", "｜DSML｜invoke", "｜DSML｜parameter", says_type=True)

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return "DSML" in template


def _with_types(parameter: Parameter, types: frozenset[str]) -> Parameter:
    return Parameter(
        parameter.name, parameter.schema, parameter.required, parameter.strict, parameter.pointer, types
    )
