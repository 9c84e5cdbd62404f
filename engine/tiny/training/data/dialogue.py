"""Conversations as the generator builds them, and the sample that training and evaluation take from one.

A `Dialogue` is turns and tools; a `Sample` is one of its assistant turns to be written, with all that stood before.
What the model must write in full is `Sample.completion()`: thoughts when thinking is on, the answer, the calls, and the
end of the turn. Knows the markup of the chat template, not its text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from basemlx.engine.tiny.training.rendering import render_prompt

END_OF_TURN = "<|im_end|>"

Json = dict[str, Any]


@dataclass(slots=True)
class Call:
    name: str
    arguments: Json

    def markup(self) -> str:
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return f'<tool_call>\n{{"name": "{self.name}", "arguments": {arguments}}}\n</tool_call>'

    def message(self) -> Json:
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(slots=True)
class Turn:
    """One message. `thinking` is what an assistant turn thinks when thinking is on."""

    role: str
    content: str = ""
    calls: list[Call] = field(default_factory=list)
    thinking: str = ""

    def message(self, with_thinking: bool = False) -> Json:
        message: Json = {"role": self.role, "content": self.content}
        if self.calls:
            message["tool_calls"] = [call.message() for call in self.calls]
        if with_thinking and self.thinking:
            message["reasoning_content"] = self.thinking
        return message

    def text(self) -> str:
        parts = [self.content] if self.content else []
        return "\n".join([*parts, *[call.markup() for call in self.calls]])


def user(content: str) -> Turn:
    return Turn("user", content)


def assistant(content: str, thinking: str) -> Turn:
    return Turn("assistant", content, thinking=thinking)


def calling(calls: list[Call], thinking: str) -> Turn:
    return Turn("assistant", calls=calls, thinking=thinking)


def tool_result(content: Any) -> Turn:
    return Turn("tool", content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))


@dataclass(slots=True)
class Sample:
    """The last turn is the one to be written."""

    turns: Sequence[Turn]
    tools: Sequence[Json]
    thinking: bool
    task: str = ""
    returns_thoughts: bool = False  # whether the client sends earlier thoughts back

    def prompt(self) -> str:
        messages = [turn.message(self.returns_thoughts) for turn in self.turns[:-1]]
        return render_prompt(messages, self.tools, self.thinking)

    def answer(self) -> str:
        return self.turns[-1].text()

    def completion(self) -> str:
        last = self.turns[-1]
        thoughts = f"<think>\n{last.thinking}\n</think>\n\n" if self.thinking else ""
        return thoughts + last.text() + END_OF_TURN


@dataclass(slots=True)
class Dialogue:
    turns: list[Turn]
    tools: list[Json] = field(default_factory=list)
    task: str = ""

    def sample(self, rng: Random, thinking: bool, from_turn: int = 0) -> Sample:
        """One assistant turn at or after `from_turn`, the last one more often than the others."""
        places = [at for at, turn in enumerate(self.turns) if turn.role == "assistant" and at >= from_turn]
        at = places[-1] if rng.random() < 0.5 else rng.choice(places)
        return Sample(self.turns[: at + 1], self.tools, thinking, self.task, thinking and rng.random() < 0.5)
