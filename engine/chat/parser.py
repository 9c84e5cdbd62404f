"""Generated text to parts, piece by piece: what is reasoning and what is the answer.

Parsers are incremental and linear; however the text is cut, the parts join to the same. They read text, not tokens.
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
    """Takes text as it is generated and returns what is certain; `finish` brings the rest."""

    def push(self, text: str) -> list[TextPart]: ...
    def finish(self) -> list[TextPart]: ...


class PlainParser:
    """Everything is content."""

    def push(self, text: str) -> list[TextPart]:
        return [TextPart("content", text)] if text else []

    def finish(self) -> list[TextPart]:
        return []


class ReasoningParser:
    """Splits one leading block of reasoning from the answer.

    `is_open`: the prompt ended inside a block. Else a block counts only at the very start of the text, so that a
    marker quoted later stays content. Markers and the line breaks around them are not part of either text.
    """

    def __init__(self, *, is_open: bool, start: str = "<think>", end: str = "</think>") -> None:
        self._start, self._end = start, end
        self._state: Literal["before", "reasoning", "after", "content"] = "reasoning" if is_open else "before"
        self._held = ""
        self._at_start = True  # of the reasoning: its leading line breaks are dropped

    def push(self, text: str) -> list[TextPart]:
        self._held += text
        parts: list[TextPart] = []
        while self._step(parts):
            pass
        return parts

    def finish(self) -> list[TextPart]:
        held, self._held = self._held, ""
        if self._state == "reasoning":
            return _part("reasoning", held.rstrip("\n") if not self._at_start else held.strip("\n"))
        return _part("content", "" if self._state == "after" else held)

    def _step(self, parts: list[TextPart]) -> bool:
        """One transition; False when more text is needed."""
        held = self._held
        if self._state == "content":
            parts += _part("content", held)
            self._held = ""
            return False
        if self._state == "before":
            lead = held.lstrip()
            if lead.startswith(self._start):
                self._held, self._state = lead[len(self._start) :], "reasoning"
                return True
            if self._start.startswith(lead):  # nothing yet, or the beginning of a marker
                return False
            self._state = "content"
            return True
        if self._state == "after":
            self._held = held.lstrip("\n")
            if self._held:
                self._state = "content"
                return True
            return False
        if self._at_start:
            held = self._held = held.lstrip("\n")
            self._at_start = not held
        at = held.find(self._end)
        if at >= 0:
            parts += _part("reasoning", held[:at].rstrip("\n"))
            self._held, self._state = held[at + len(self._end) :], "after"
            return True
        cut = self._safe_length(held)
        parts += _part("reasoning", held[:cut])
        self._held = held[cut:]
        return False

    def _safe_length(self, text: str) -> int:
        """How much of `text` is certainly reasoning: not the start of the end marker, nor line breaks before it."""
        cut = len(text)
        for length in range(min(len(self._end) - 1, len(text)), 0, -1):
            if self._end.startswith(text[-length:]):
                cut -= length
                break
        return len(text[:cut].rstrip("\n"))


def reasoning_is_open(prompt: str, start: str = "<think>") -> bool:
    """Whether a rendered prompt leaves a reasoning block open: read from its tail, whatever the template is."""
    return prompt.rstrip().endswith(start)


def _part(kind: Kind, text: str) -> list[TextPart]:
    return [TextPart(kind, text)] if text else []
