"""Generated text to its parts, as it is generated. A parser's cost is linear, and however the text is cut, its parts
join to the same. Parsers read text, not tokens; what model or API it is for they do not know.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["reasoning", "content"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of one kind of text, never empty."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins: its name is sure. Calls are numbered from 0; `id` is made once."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """A piece of the JSON text of a call's arguments, never empty."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The call's arguments are there. `is_complete` False: the text ended, or became something else, within the call,
    and they are what was written until then."""

    index: int
    is_complete: bool = True


Event = TextPart | ToolCallStart | ToolCallArguments | ToolCallEnd
NewId = Callable[[], str]


class OutputParser(Protocol):
    """Takes text as it is generated and returns what is certain; `finish` brings the rest.

    `in_reasoning`: what was pushed last belongs to reasoning, markers included.
    """

    @property
    def in_reasoning(self) -> bool: ...
    def push(self, text: str) -> Sequence[Event]: ...
    def finish(self) -> Sequence[Event]: ...


class PlainParser:
    """Everything is content."""

    in_reasoning = False

    def push(self, text: str) -> list[TextPart]:
        return [TextPart("content", text)] if text else []

    def finish(self) -> list[TextPart]:
        return []


class ChainedParser:
    """Reasoning first; what `first` calls content is what `second` reads."""

    def __init__(self, first: OutputParser, second: OutputParser) -> None:
        self._first = first
        self._second = second

    @property
    def in_reasoning(self) -> bool:
        return self._first.in_reasoning or self._second.in_reasoning

    def push(self, text: str) -> list[Event]:
        return self._pass_on(self._first.push(text))

    def finish(self) -> list[Event]:
        return [*self._pass_on(self._first.finish()), *self._second.finish()]

    def _pass_on(self, events: Sequence[Event]) -> list[Event]:
        passed: list[Event] = []
        for event in events:
            if isinstance(event, TextPart) and event.kind == "content":
                passed += self._second.push(event.text)
            else:
                passed.append(event)
        return passed
