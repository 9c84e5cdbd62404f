"""gpt-oss: everything stands in messages with a channel. Analysis is reasoning, a message to a function is a call."""

import re
from collections.abc import Collection, Sequence
from typing import ClassVar

from basemlx.engine.chat.formats.base import (
    CallGrammar,
    CallParser,
    Format,
    arguments_json,
    json_text,
    new_call_id,
)
from basemlx.engine.chat.formats.literals import as_json
from basemlx.engine.chat.formats.reader import Steps
from basemlx.engine.chat.parser import NewId, TextPart
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Node, Text, Until, either, optional, seq

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
NEXT = f"<|end|>{START}assistant"
_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")


class HarmonyParser(CallParser):
    """Message by message. Text that begins without a header is content."""

    triggers = (CHANNEL,)

    def __init__(self, tools: Sequence[Tool], new_id: NewId, enforced: bool) -> None:
        self._reasons = True
        super().__init__(tools, new_id, enforced)

    @property
    def in_reasoning(self) -> bool:  # type: ignore[override]
        return self._reasons

    def _run(self) -> Steps[None]:
        reader = self.reader
        header: list[str] = []
        reader.record = []
        yield from reader.spaces()
        is_message = (yield from reader.literal(CHANNEL, "to=")) is not None
        first = "".join(reader.record)
        reader.record = None
        if not is_message:
            self._reasons = False
            self.content(first)
            yield from reader.until(("\0",), self.content)
            self._end_of_content()
            return
        header.append(first)
        while True:
            if (yield from reader.until((MESSAGE,), header.append)) is None:
                break
            yield from self._message("".join(header))
            header = []
            if (yield from reader.peek()) == "":
                break
        self.end_call()
        self._end_of_content()

    def _message(self, header: str) -> Steps[None]:
        recipient = _RECIPIENT.search(header)
        channel = header.partition(CHANNEL)[2].split()
        if recipient:
            self._reasons = False
            self.start_call(recipient[1])
            pieces: list[str] = []
            end = yield from self.reader.until(
                ENDS, lambda text: self._argument(text, pieces), keep_rest=False
            )
            # The marker that ends a call may be the token that ends the answer, and then there is no text of it.
            self.end_call(complete=end is not None or as_json("".join(pieces)) is not None)
            self.reader.record = None
        elif channel[:1] == ["analysis"]:
            self._reasons = True
            yield from self.reader.until(ENDS, self._reasoning)
        else:
            self._reasons = False
            self._after_call = False
            yield from self.reader.until(ENDS, self.content)

    def _argument(self, text: str, pieces: list[str]) -> None:
        pieces.append(text)
        self.arguments(text)

    def _reasoning(self, text: str) -> None:
        self._events.append(TextPart("reasoning", text))

    def _calls(self, trigger: str) -> Steps[None]:
        yield from ()


class Harmony(Format):
    name: ClassVar[str] = "harmony"
    markers: ClassVar[tuple[str, ...]] = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)
    reads_reasoning = True
    framed = True

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return f"{CHANNEL}analysis{MESSAGE}" in template

    def render(self, calls: Sequence[Call]) -> str:
        return f"{START}assistant".join(
            f" to=functions.{call.name}{CHANNEL}commentary json{MESSAGE}{json_text(call.arguments)}<|call|>"
            for call in calls
        )

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        """One call: the message ends the turn. Its function is named in front of the channel, or behind it."""
        kinds = (f" {CONSTRAIN}json", " json", "")
        before = (
            seq(
                f" to=functions.{tool.name}{CHANNEL}commentary",
                either(*(seq(f"{kind}{MESSAGE}") for kind in kinds)),
                arguments_json(tool),
            )
            for tool in tools
        )
        behind = (
            seq(
                f"{CHANNEL}commentary to=functions.{tool.name}",
                either(*(seq(f"{kind}{MESSAGE}") for kind in kinds)),
                arguments_json(tool),
            )
            for tool in tools
        )
        preamble = seq(f"{CHANNEL}commentary{MESSAGE}", Until(NEXT, ("<|end|>",)))
        return CallGrammar("", seq(optional(preamble), either(*before, *behind)))

    def answer(self, document: Node | None, excluding: tuple[str, ...]) -> Node:
        if document is None:
            return seq(f"{CHANNEL}final{MESSAGE}", Text())
        return seq(f"{CHANNEL}final", either(f" {CONSTRAIN}json{MESSAGE}", MESSAGE), document)

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> HarmonyParser:
        return HarmonyParser(tools, new_id, enforced)
