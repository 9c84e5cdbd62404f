"""Command-R: a list of actions. R7B and later have markers for it, R+ writes a JSON block behind the word Action."""

import json
from collections.abc import Collection, Sequence

from basemlx.engine.chat.formats.base import CallGrammar, arguments_json, json_text, new_call_id
from basemlx.engine.chat.formats.json_list import JsonList, JsonListParser
from basemlx.engine.chat.formats.reader import Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Node, Regex, Repeat, Until, either, seq

SEPARATOR = ",\n"
RESPONSE = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")
NAMES, ARGUMENTS = ("tool_name", "name"), ("parameters", "arguments")


class CommandRParser(JsonListParser):
    """Also takes the markers of an answer away."""

    def _calls(self, trigger: str) -> Steps[None]:
        if trigger in RESPONSE:
            self.reader.record = None
            return
        yield from super()._calls(trigger)


class CommandR(JsonList):
    name = "command-r"
    markers = ("<|START_ACTION|>", "<|END_ACTION|>", *RESPONSE)
    framed = True
    start, end = "<|START_ACTION|>", "<|END_ACTION|>"
    keys = ("tool_name", "parameters")

    def render(self, calls: Sequence[Call]) -> str:
        objects = (
            f'    {{"tool_call_id": "{index}", "tool_name": {json_text(call.name)}, '
            f'"parameters": {json_text(call.arguments)}}}'
            for index, call in enumerate(calls)
        )
        return f"{self.start}[\n{SEPARATOR.join(objects)}\n]{self.end}"

    def call_node(self, tool: Tool) -> Node:
        return seq(
            '    {"tool_call_id": "',
            Regex("[0-9]{1,3}"),
            f'", "tool_name": {json_text(tool.name)}, "parameters": ',
            arguments_json(tool),
            "}",
        )

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        calls = Repeat(
            either(*map(self.call_node, tools)), 1, None if parallel else 1, separator=seq(SEPARATOR)
        )
        return CallGrammar(self.start, seq("[\n", calls, f"\n]{self.end}"))

    def answer(self, document: Node | None, excluding: tuple[str, ...]) -> Node:
        start, end = RESPONSE
        return seq(start, Until(end) if document is None else seq(document, end))

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> JsonListParser:
        return CommandRParser(
            tools,
            new_id,
            enforced,
            triggers=(self.start, *RESPONSE),
            ends=(self.end,),
            names=NAMES,
            arguments=ARGUMENTS,
        )


class CommandRPlus(JsonList):
    name = "command-r-plus"
    markers = ()
    start, end = "Action:\n```json\n", "\n```"
    keys = ("tool_name", "parameters")

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return "Action:" in template and "directly-answer" in template

    def render(self, calls: Sequence[Call]) -> str:
        return f"Action:\n```json\n[\n{SEPARATOR.join(map(_indented, calls))}\n]```"

    def call_node(self, tool: Tool) -> Node:
        return seq(
            f'    {{\n        "tool_name": {json_text(tool.name)},\n        "parameters": ',
            arguments_json(tool),
            "\n    }",
        )

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        calls = Repeat(
            either(*map(self.call_node, tools)), 1, None if parallel else 1, separator=seq(SEPARATOR)
        )
        return CallGrammar("Action:\n```json\n", seq("[\n", calls, "\n]```"))

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> JsonListParser:
        return JsonListParser(
            tools,
            new_id,
            enforced,
            triggers=("Action:\n```json\n", "Action: ```json\n"),
            ends=("```",),
            names=NAMES,
            arguments=ARGUMENTS,
        )


def _indented(call: Call) -> str:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return f'    {{\n        "tool_name": {json_text(call.name)},\n        "parameters": {arguments}\n    }}'
