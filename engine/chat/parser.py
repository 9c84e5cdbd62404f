"""Generated text to its parts, as it is generated. A parser's cost is linear, and however the text is cut, its parts
join to the same. Parsers read text, not tokens; what model or API it is for they do not know.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["reasoning", "content"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of one kind of text, never empty."""

    kind: Kind
    text: str


class OutputParser(Protocol):
    """Takes text as it is generated and returns what is certain; `finish` brings the rest.

    `in_reasoning`: what was pushed last belongs to reasoning, markers included.
    """

    @property
    def in_reasoning(self) -> bool: ...
    def push(self, text: str) -> list[TextPart]: ...
    def finish(self) -> list[TextPart]: ...


class PlainParser:
    """Everything is content."""

    in_reasoning = False

    def push(self, text: str) -> list[TextPart]:
        return [TextPart("content", text)] if text else []

    def finish(self) -> list[TextPart]:
        return []
