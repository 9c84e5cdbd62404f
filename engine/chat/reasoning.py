"""Splits a leading block of reasoning, as in <think>…</think>, from the answer that follows it.

Whether the block is open already is read from the prompt, since templates differ in who writes the first marker. A
block counts only at the very start: a marker that is quoted later stays content. Markers, and the line breaks between
them and the text, are part of neither.
"""

from dataclasses import dataclass
from typing import Literal

from basemlx.engine.chat.parser import Kind, TextPart
from basemlx.engine.text.stop import StopMatcher

START, END = "<think>", "</think>"

State = Literal["open", "closed", "allowed"]
"""Of reasoning where generation begins: under way; over, or nothing the model knows; for the model to decide."""


@dataclass(frozen=True, slots=True)
class ReasoningStyle:
    """How a model marks its reasoning. `ends_like_prompts`: prompts end as reasoning does, so that says nothing."""

    start: str = START
    end: str = END
    ends_like_prompts: bool = False


_STYLES = (
    ReasoningStyle("<|channel|>analysis<|message|>", "<|end|><|start|>assistant", ends_like_prompts=True),
    ReasoningStyle("<seed:think>", "</seed:think>"),
    ReasoningStyle("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningStyle("<|channel>thought\n", "<channel|>"),
    ReasoningStyle("<|inner_prefix|>", "<|inner_suffix|>"),
    ReasoningStyle("[THINK]", "[/THINK]"),
    ReasoningStyle("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
    ReasoningStyle(),
)


def reasoning_style(template: str) -> ReasoningStyle | None:
    """The markers that a chat template's text shows; None if it shows none that are known."""
    for style in _STYLES:
        shown = style.start.replace("\n", "\\n")
        if (style.start in template or shown in template or style.start.rstrip() in template) and (
            style.end in template or style.end.partition("<|start|>")[0] in template
        ):
            return style
    return None


def reasoning_state(prompt: str, style: ReasoningStyle | None, *, continued: str = "") -> State:
    """Read from the tail of the rendered prompt; `continued` as for `reasoning_is_open`."""
    if style is None:
        return "closed"
    start, end = style.start.rstrip(), style.end
    if reasoning_is_open(prompt, continued=continued, start=start, end=end):
        return "open"
    tail = prompt[: len(prompt) - len(continued)].rstrip()
    if continued:
        return "closed"
    return "closed" if tail.endswith(end) and not style.ends_like_prompts else "allowed"


class ReasoningParser:
    """An OutputParser. `is_open`: the prompt ended inside a block."""

    def __init__(self, *, is_open: bool, start: str = START, end: str = END) -> None:
        self._start = start
        self._is_open: bool | None = True if is_open else None  # None: the text has not shown it yet
        self._lead: list[str] = []  # white space before whatever comes first
        self._first = ""
        self._matcher = StopMatcher((end,))
        self._num_held = 0
        self._edge = _Edge()
        self._after_block = False

    @property
    def in_reasoning(self) -> bool:
        return self._is_open is True

    def push(self, text: str) -> list[TextPart]:
        if self._is_open is None:
            return self._begin(text)
        return self._reason(text) if self._is_open else self._answer(text)

    def finish(self) -> list[TextPart]:
        if self._is_open is None:
            return _parts("content", "".join(self._lead) + self._first)
        return _parts("reasoning", self._edge.push(self._matcher.finish())) if self._is_open else []

    def _begin(self, text: str) -> list[TextPart]:
        if not self._first:
            rest = text.lstrip()
            self._lead.append(text[: len(text) - len(rest)])
            text = rest
        self._first += text
        if self._first.startswith(self._start):
            self._is_open = True
            return self._reason(self._first[len(self._start) :])
        if self._start.startswith(self._first):
            return []
        self._is_open = False
        return self._answer("".join(self._lead) + self._first)

    def _reason(self, text: str) -> list[TextPart]:
        safe, end = self._matcher.push(text)
        self._num_held += len(text) - len(safe)
        parts = _parts("reasoning", self._edge.push(safe))
        if end is None:
            return parts
        num_left = self._num_held - len(end)
        self._is_open, self._after_block = False, True
        return parts + self._answer(text[len(text) - num_left :])

    def _answer(self, text: str) -> list[TextPart]:
        if self._after_block:
            text = text.lstrip("\n")
            self._after_block = not text
        return _parts("content", text)


class _Edge:
    """Passes text on without the line breaks at its start and at its end."""

    def __init__(self) -> None:
        self._started = False
        self._num_breaks = 0

    def push(self, text: str) -> str:
        if not self._started:
            text = text.lstrip("\n")
            self._started = bool(text)
        body = text.rstrip("\n")
        breaks, self._num_breaks = self._num_breaks, len(text) - len(body)
        if not body:
            self._num_breaks += breaks
            return ""
        return "\n" * breaks + body


def reasoning_is_open(prompt: str, *, continued: str = "", start: str = START, end: str = END) -> bool:
    """Whether the model goes on inside a block: the prompt's tail says so, not what somebody quoted earlier.

    `continued` is the text of the assistant's own message that ends the prompt, where it is to be continued.
    """
    opened, closed = continued.rfind(start), continued.rfind(end)
    if opened >= 0 or closed >= 0:
        return opened > closed
    return prompt[: len(prompt) - len(continued)].rstrip().endswith(start)


def _parts(kind: Kind, text: str) -> list[TextPart]:
    return [TextPart(kind, text)] if text else []
