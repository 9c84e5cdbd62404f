"""Whether an answer is right: its thoughts, calls, JSON and words against those of the case.

Calls count as what they say, not as they are written: names equal, arguments equal as JSON (the order of keys is free,
1 is not 1.0 and not true). A JSON answer likewise; any other text counts to the letter. Knows no model.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from basemlx.engine.tiny.training.data.dialogue import Sample

LONGEST_THOUGHT = 400
"""Characters. The training's own thoughts have at most about 150."""

_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """`calls` holds each call's JSON as written; `thought` is None where there is no block."""

    thought: str | None
    text: str
    calls: tuple[str, ...]


def parsed(written: str) -> Answer:
    """What the model wrote after its turn's opening, control tokens included, taken apart."""
    thought = None
    if written.startswith("<think>"):
        inside, closed, rest = written.removeprefix("<think>").partition("</think>")
        if closed:
            thought, written = inside.strip(), rest
    calls = tuple(_CALL.findall(written))
    return Answer(thought, _CALL.sub("", written).strip(), calls)


def thinks_rightly(answer: Answer, thinking: bool) -> bool:
    """A short block with something in it when thinking is on; not a trace of one when it is off."""
    if "<think>" in answer.text or "</think>" in answer.text:
        return False
    if not thinking:
        return answer.thought is None
    return answer.thought is not None and 0 < len(answer.thought) <= LONGEST_THOUGHT


def is_right(answer: Answer, sample: Sample) -> bool:
    """Whether the answer does what the case asks, whatever was thought before it."""
    wanted = sample.turns[-1]
    if wanted.calls:
        return not answer.text and _same_calls(
            answer.calls, [(call.name, call.arguments) for call in wanted.calls]
        )
    if answer.calls:
        return False
    if sample.task == "json":
        return _is_json(answer.text, json.loads(wanted.content))
    return answer.text == wanted.content.strip()


def same_json(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _is_json(text: str, wanted: Any) -> bool:
    try:
        return same_json(json.loads(text), wanted)
    except ValueError:
        return False


def _same_calls(written: Sequence[str], wanted: Sequence[tuple[str, Any]]) -> bool:
    if len(written) != len(wanted):
        return False
    return all(
        _is_json(text, {"name": name, "arguments": arguments})
        for text, (name, arguments) in zip(written, wanted, strict=True)
    )


def repeats(text: str, size: int = 8, times: int = 3) -> bool:
    """Whether some `size` words in a row come `times` times or more."""
    words = text.split()
    seen: dict[tuple[str, ...], int] = {}
    for at in range(len(words) - size + 1):
        gram = tuple(words[at : at + size])
        seen[gram] = seen.get(gram, 0) + 1
        if seen[gram] >= times:
            return True
    return False
