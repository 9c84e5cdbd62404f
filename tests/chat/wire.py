"""What tests of wire formats share: calls with the functions that they call, and a parser's events put together."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from basemlx.engine.chat.parser import (
    Event,
    OutputParser,
    TextPart,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from basemlx.engine.chat.tools import Call, Tool

DATA = Path(__file__).parents[3] / "shared" / "data"
BFCL = DATA / "bfcl"
TEMPLATES = sorted((DATA / "templates").glob("*.jinja"))


@dataclass
class Parsed:
    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)  # name and arguments
    ids: list[str] = field(default_factory=list)
    open: int | None = None


def together(events: Iterable[Event]) -> Parsed:
    """Also checks that calls begin, go on and end in order."""
    parsed = Parsed()
    for event in events:
        match event:
            case TextPart(kind=kind, text=text):
                assert text
                assert parsed.open is None
                if kind == "content":
                    parsed.content += text
                else:
                    parsed.reasoning += text
            case ToolCallStart(index=index, id=call_id, name=name):
                assert parsed.open is None
                assert index == len(parsed.calls)
                parsed.open = index
                parsed.calls.append([name, ""])
                parsed.ids.append(call_id)
            case ToolCallArguments(index=index, text=text):
                assert text
                assert index == parsed.open
                parsed.calls[-1][1] += text
            case ToolCallEnd(index=index):
                assert index == parsed.open
                parsed.open = None
    return parsed


def read(parser: OutputParser, pieces: Iterable[str]) -> Parsed:
    events = [event for piece in pieces for event in parser.push(piece)]
    return together([*events, *parser.finish()])


def counter() -> Any:
    """An id factory whose ids are the same in every run."""
    numbers = iter(range(10**6))
    return lambda: f"call_{next(numbers)}"


def values(parsed: Parsed) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in parsed.calls]


@dataclass(frozen=True)
class Case:
    name: str
    tools: tuple[Tool, ...]
    calls: tuple[Call, ...]

    @property
    def values(self) -> list[tuple[str, Any]]:
        return [(call.name, dict(call.arguments)) for call in self.calls]

    @property
    def is_valid(self) -> bool:
        """Whether the arguments are declared and follow the function's own schema: not all of BFCL's are and do."""
        schemas = {tool.name: tool.schema for tool in self.tools}
        return all(
            set(call.arguments) <= set(schemas[call.name].get("properties", {}))
            and jsonschema.Draft202012Validator(schemas[call.name]).is_valid(dict(call.arguments))
            for call in self.calls
        )

    @property
    def in_declared_order(self) -> "Case":
        orders = {tool.name: list(tool.schema.get("properties", {})) for tool in self.tools}
        calls = tuple(
            Call(
                call.name,
                {key: call.arguments[key] for key in sorted(call.arguments, key=orders[call.name].index)},
            )
            for call in self.calls
        )
        return Case(self.name, self.tools, calls)


_SPOTIFY = Tool(
    "spotify.play",
    {
        "type": "object",
        "properties": {
            "artist": {"type": "string"},
            "duration": {"type": "integer"},
            "loud": {"type": "boolean"},
            "speed": {"type": "number"},
        },
        "required": ["artist", "duration"],
    },
)
_SEARCH = Tool(
    "find_homes",
    {
        "type": "object",
        "properties": {
            "where": {"type": "string"},
            "kind": {"type": "string", "enum": ["flat", "house"]},
            "rooms": {"type": "array", "items": {"type": "integer"}},
            "price": {
                "type": "object",
                "properties": {"low": {"type": "number"}, "note": {"type": "string"}},
                "required": ["low"],
            },
            "until": {"type": ["string", "null"]},
        },
        "required": ["where"],
    },
)
_TIME = Tool("now")

BUILT_IN = (
    Case("simple", (_SPOTIFY,), (Call("spotify.play", {"artist": "Taylor Swift", "duration": 20}),)),
    Case(
        "several",
        (_SPOTIFY, _SEARCH, _TIME),
        (
            Call(
                "spotify.play",
                {"artist": "Björk — “Jóga”, 東京 🎉", "duration": -3, "loud": True, "speed": 1.5},
            ),
            Call("now"),
            Call("spotify.play", {"artist": "", "duration": 0, "loud": False, "speed": 1e-07}),
        ),
    ),
    Case(
        "nested",
        (_SEARCH, _TIME),
        (
            Call(
                "find_homes",
                {
                    "where": 'He said: "a\\b" {x} [y], it\'s\n\ttwo lines',
                    "kind": "house",
                    "rooms": [2, 3],
                    "price": {"low": 10.25, "note": "with, commas: and <b>tags</b> 'q' \"p\""},
                    "until": None,
                },
            ),
            Call("find_homes", {"where": "true", "rooms": [], "until": "5"}),
        ),
    ),
)


def bfcl() -> Iterator[Case]:
    for kind in ("simple_python", "multiple", "parallel", "parallel_multiple"):
        questions = [json.loads(line) for line in (BFCL / f"{kind}.jsonl").read_text().splitlines()]
        lines = (BFCL / f"{kind}.answers.jsonl").read_text().splitlines()
        answers = {answer["id"]: answer["ground_truth"] for answer in map(json.loads, lines)}
        for question in questions:
            tools = tuple(
                Tool(function["name"], _schema(function["parameters"])) for function in question["function"]
            )
            calls = tuple(
                Call(
                    name, {key: _value(options[0]) for key, options in arguments.items() if options[0] != ""}
                )
                for answer in answers[question["id"]]
                for name, arguments in answer.items()
            )
            yield Case(question["id"], tools, calls)


@cache
def bfcl_sample(every: int) -> tuple[Case, ...]:
    """Nothing where the data are not there."""
    return tuple(bfcl())[::every] if BFCL.is_dir() else ()


_TYPES = {"dict": "object", "float": "number", "tuple": "array"}


def _schema(schema: Any) -> Any:
    """BFCL's schemas as JSON Schema."""
    if isinstance(schema, Mapping):
        written = {key: _schema(value) for key, value in schema.items()}
        kind = written.get("type")
        if kind == "any":
            del written["type"]
        elif isinstance(kind, str):
            written["type"] = _TYPES.get(kind, kind)
        return written
    return [_schema(value) for value in schema] if isinstance(schema, list) else schema


def _value(value: Any) -> Any:
    """An answer's value: within objects, each value stands in a list of those that are right."""
    if isinstance(value, Mapping):
        return {
            key: _value(options[0] if isinstance(options, list) and options else options)
            for key, options in value.items()
            if options != [""] and not (isinstance(options, list) and options and options[0] == "")
        }
    return value


def cuts(text: str) -> Sequence[list[str]]:
    """The text cut in two at every place."""
    return [[text[:at], text[at:]] for at in range(1, len(text))]
