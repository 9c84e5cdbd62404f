"""The cells of the matrix, and requests for them: what is asked varies with the cell and the round, by the round's seed
alone. Knows the API that is asked, not what answers.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tests.matrix.asks import CONVERSATIONS, FREE_DOCUMENTS, FUNCTIONS, LOOSE, STRICT_DOCUMENTS, TOOLBOXES

TOOL_CHOICES = (
    "no tools",
    "auto",
    "none",
    "required",
    "named",
    "named, flat",
    "allowed auto",
    "allowed required",
)
ANSWERS = ("text", "json_object", "strict schema", "schema")
MAX_TOKENS = (8, 30, 128, 128, 128, 128)
"""Some requests are cut off early. Most of what is to end has the room for it."""


@dataclass(frozen=True, slots=True)
class Cell:
    tool_choice: str
    parallel: bool
    answer: str
    thinking: bool
    n: int
    stream: bool = False

    def __str__(self) -> str:
        words = (
            self.tool_choice,
            "parallel" if self.parallel else "one call",
            self.answer,
            "streamed" if self.stream else "whole",
            "thinking" if self.thinking else "no thinking",
            f"n={self.n}",
        )
        return " / ".join(words)


@dataclass(frozen=True, slots=True)
class Request:
    """`body` without `stream`. `loose`: what of it is not enforced but checked; see `asks.LOOSE`."""

    cell: Cell
    body: dict[str, Any]
    loose: frozenset[str] = frozenset()


def every_cell() -> list[Cell]:
    """Both ways of streaming are cells of their own; they stand beside each other."""
    return [
        Cell(*values)
        for values in product(TOOL_CHOICES, (True, False), ANSWERS, (False, True), (1, 2), (False, True))
    ]


def requests(
    round_seed: int,
    *,
    toolboxes: Sequence[tuple[str, ...]] = TOOLBOXES,
    max_tokens: Sequence[int] = MAX_TOKENS,
) -> Iterator[Request]:
    """One for every cell that is not streamed, in the order of `every_cell`; its streamed twin asks the same."""
    for number, cell in enumerate(cell for cell in every_cell() if not cell.stream):
        rng = random.Random(f"{round_seed}-{number}")
        yield _request(cell, rng, rng.choice(toolboxes), rng.choice(max_tokens))


def _request(cell: Cell, rng: random.Random, toolbox: tuple[str, ...], max_tokens: int) -> Request:
    document_name, answer = _answer(cell.answer, rng)
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": rng.choice(CONVERSATIONS),
        "temperature": 1.0,
        "seed": rng.randrange(2**31),
        "max_tokens": max_tokens,
        "n": cell.n,
        "parallel_tool_calls": cell.parallel,
        **answer,
        **_thinking(cell.thinking, rng),
    }
    names = {document_name}
    if cell.tool_choice != "no tools":
        body["tools"] = [FUNCTIONS[name] for name in toolbox]
        body |= _tool_choice(cell.tool_choice, toolbox, rng)
        names |= set(toolbox)
    return Request(cell, body, LOOSE & names)


def _answer(answer: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """The document's name, and the fields that ask for it."""
    if answer == "text":
        return "", rng.choice(({}, {"response_format": {"type": "text"}}))
    if answer == "json_object":
        return "", {"response_format": {"type": "json_object"}}
    strict = answer == "strict schema"
    documents = STRICT_DOCUMENTS if strict else STRICT_DOCUMENTS | FREE_DOCUMENTS
    name = rng.choice(list(documents if strict or rng.random() < 0.4 else FREE_DOCUMENTS))
    schema = {"name": name, "schema": documents[name]} | rng.choice(
        ({"strict": True},) if strict else ({"strict": False}, {})
    )
    return name, {"response_format": {"type": "json_schema", "json_schema": schema}}


def _thinking(wanted: bool, rng: random.Random) -> dict[str, Any]:
    if wanted:
        return rng.choice(({"chat_template_kwargs": {"enable_thinking": True}}, {"reasoning_effort": "low"}))
    return rng.choice(
        ({}, {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"})
    )


def _tool_choice(kind: str, toolbox: tuple[str, ...], rng: random.Random) -> dict[str, Any]:
    name = rng.choice(toolbox)
    some = rng.sample(toolbox, rng.randint(1, len(toolbox)))
    match kind:
        case "auto":
            return rng.choice(({}, {"tool_choice": "auto"}))
        case "none" | "required":
            return {"tool_choice": kind}
        case "named":
            return {"tool_choice": {"type": "function", "function": {"name": name}}}
        case "named, flat":
            return {"tool_choice": {"type": "function", "name": name}}
    mode = kind.removeprefix("allowed ")
    inner = {"mode": mode, "tools": [{"type": "function", "function": {"name": each}} for each in some]}
    beside = {"mode": mode, "tools": [{"type": "function", "name": each} for each in some]}
    return {
        "tool_choice": rng.choice(
            ({"type": "allowed_tools", "allowed_tools": inner}, {"type": "allowed_tools", **beside})
        )
    }
