"""Calls as a name and, after a marker, the arguments as one JSON object: DeepSeek, Kimi, Mistral, Functionary."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
from basemlx.engine.grammar.structure import Repeat, either, seq

_NAME = re.compile(r"[^\s<>\[\]{}\"]*")


@dataclass(frozen=True, slots=True)
class Frame:
    """The text around a call: `open` name `middle` arguments `close`, calls parted by `between`, all of them within
    `start` and `end`. `alternatives`: other texts that may stand in the middle."""

    open: str
    middle: str
    close: str = ""
    between: str = ""
    start: str = ""
    end: str = ""
    alternatives: tuple[str, ...] = ()


class NamedJsonParser(CallParser):
    def __init__(self, frame: Frame, tools: Sequence[Tool], new_id: NewId, enforced: bool) -> None:
        self.triggers = (frame.start or frame.open,)  # type: ignore[misc]
        self.frame = frame
        self.closers = tuple(filter(None, (frame.close.strip(), frame.end)))  # type: ignore[misc]
        super().__init__(tools, new_id, enforced)

    def _calls(self, trigger: str) -> Steps[None]:
        reader, frame = self.reader, self.frame
        yield from reader.spaces()
        if trigger != frame.open:
            yield from reader.expect(frame.open)
        while True:
            yield from self.announce()
            yield from reader.spaces()
            yield from reader.json_value(self.arguments)
            self.end_call(complete=True)
            close = frame.close.strip()
            if close:
                yield from reader.spaces()
                if (yield from reader.literal(close)) is None:
                    yield from reader.until((close,), self.content)
            if not frame.start:
                return
            yield from reader.spaces()
            if (yield from reader.literal(frame.open)) is None:
                break
        yield from reader.literal(frame.end)

    def announce(self) -> Steps[None]:
        """The call's name and what parts it from its arguments."""
        yield from self.reader.spaces()
        name = yield from self.name()
        yield from self.reader.expect(self.frame.middle, *self.frame.alternatives)
        self.start_call(name)

    def name(self) -> Steps[str]:
        name = yield from self.reader.run_of(_NAME)
        if not name:
            raise Malformed
        return name


class NamedJson(Format):
    frame: ClassVar[Frame]

    def named(self, name: str, index: int) -> str:
        """How the call's name is written."""
        return name

    def render(self, calls: Sequence[Call]) -> str:
        frame = self.frame
        texts = (
            f"{frame.open}{self.named(call.name, index)}{frame.middle}{json_text(call.arguments)}{frame.close}"
            for index, call in enumerate(calls)
        )
        return f"{frame.start}{frame.between.join(texts)}{frame.end}"

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        frame = self.frame
        trigger = frame.start or frame.open
        call = seq(
            either(*(seq(f"{tool.name}{frame.middle}", arguments_json(tool)) for tool in tools)), frame.close
        )
        separator = seq(f"{frame.between}{frame.open}")
        calls = Repeat(call, 1, None if parallel else 1, separator=separator)
        return CallGrammar(trigger, seq(frame.open if frame.start else "", calls, frame.end))

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> NamedJsonParser:
        return NamedJsonParser(self.frame, tools, new_id, enforced)
