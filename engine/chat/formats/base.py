"""What a wire format is: how a model family writes tool calls, read, written and described for a grammar.

A format knows text only. Its parser is a program over a `Reader`; where text turns out not to be a call after all, it
becomes content again, as long as no call was announced.
"""

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar

from basemlx.engine.chat.formats.literals import WORDS_OF, escaped, schema_of, typed, types_of
from basemlx.engine.chat.formats.reader import Malformed, Reader, Sink, Steps
from basemlx.engine.chat.parser import (
    Event,
    NewId,
    OutputParser,
    TextPart,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Json, Node, Text, seq


def new_call_id() -> str:
    """As OpenAI's look."""
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """A turn's calls: `trigger`, then `rest`. Free text before them must not hold `trigger`; where `at_start` names
    characters, calls come without free text before them, and free text must not begin with one of these."""

    trigger: str
    rest: Node
    at_start: str = ""


class Format(ABC):
    """One wire format. `name` is what overrides call it; `markers` are texts that its parser has to see, also where
    they are special tokens, which decoded text leaves out otherwise."""

    name: ClassVar[str]
    markers: ClassVar[tuple[str, ...]]
    reads_reasoning: ClassVar[bool] = False
    """Its parser tells reasoning from content itself."""
    framed: ClassVar[bool] = False
    """Answers have markers of their own, so that calls come instead of free text, never behind it."""

    @abstractmethod
    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        """Whether a model with this chat template, and these tokens, writes calls this way."""

    @abstractmethod
    def render(self, calls: Sequence[Call]) -> str:
        """Calls as the model writes them."""

    @abstractmethod
    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        """One call of one of `tools`, or several where `parallel`. Raises UnsupportedSchema."""

    def answer(self, document: Node | None, excluding: tuple[str, ...]) -> Node:
        """What is said instead of calls: a document, or free text."""
        return Text(excluding) if document is None else document

    @abstractmethod
    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> OutputParser:
        """For one choice. `enforced`: a grammar holds, so what is cut off within a call is never content."""


class CallParser(ABC):
    """An OutputParser whose program is `_calls`: what follows one of `triggers`. Text before is content, without the
    white space between it and a call."""

    triggers: ClassVar[tuple[str, ...]]
    closers: ClassVar[tuple[str, ...]] = ()
    """Markers that end calls: no content either where a call breaks off before them."""
    in_reasoning = False

    def __init__(self, tools: Sequence[Tool], new_id: NewId, enforced: bool = False) -> None:
        self.reader = Reader()
        self.tools = {tool.name: tool for tool in tools}
        self._new_id = new_id
        self._enforced = enforced
        self._events: list[Event] = []
        self._num_calls = 0
        self._ids: set[str] = set()
        self._is_open = False
        self._has_arguments = False
        self._space: list[str] = []
        self._after_call = False
        self._steps: Steps[None] | None = self._run()

    def push(self, text: str) -> list[Event]:
        self.reader.feed(text)
        return self._advance()

    def finish(self) -> list[Event]:
        self.reader.ended = True
        return self._advance()

    def _advance(self) -> list[Event]:
        if self._steps is not None:
            try:
                next(self._steps)
            except StopIteration:
                self._steps = None
        events, self._events = self._events, []
        return list(_merged(events))

    def _run(self) -> Steps[None]:
        yield from self._start()
        while (trigger := (yield from self.reader.until(self.triggers, self.content))) is not None:
            yield from self.attempt(trigger)
        self._end_of_content()

    def _start(self) -> Steps[None]:
        """Before any content, for formats without a trigger."""
        yield from ()

    def attempt(self, trigger: str) -> Steps[None]:
        """Reads calls; what is none becomes content."""
        self.reader.record = [trigger]
        try:
            yield from self._calls(trigger)
        except Malformed:
            if self._is_open:
                self.end_call()
                yield from self.reader.literal(*self.closers)
                self.reader.record = None
            record = "".join(self.reader.record or ())
            if record.strip(" \t\r\n,[]{}") and not (self._enforced and self.reader.ended):
                self.content(record)
        self.reader.record = None

    @abstractmethod
    def _calls(self, trigger: str) -> Steps[None]: ...

    # what programs report

    def content(self, text: str) -> None:
        """Passes text on, its trailing white space only once more text follows. Behind a call a grammar allows none, so
        there it is the rest of what was cut off."""
        if self._enforced and self._num_calls:
            return
        if self._after_call:
            text = text.lstrip()
            if not text:
                return
            self._after_call = False
        body = text.rstrip()
        if body:
            self._events.append(TextPart("content", "".join([*self._space, body])))
            self._space.clear()
        if len(body) < len(text):
            self._space.append(text[len(body) :])

    def _end_of_content(self) -> None:
        if self._space:
            self._events.append(TextPart("content", "".join(self._space)))

    def start_call(self, name: str, call_id: str | None = None) -> None:
        """`call_id`: the model's own, taken where no other call of the turn has it."""
        self.reader.record = None
        self._space.clear()
        self._is_open, self._has_arguments = True, False
        if not call_id or call_id in self._ids:
            call_id = self._new_id()
        self._ids.add(call_id)
        self._events.append(ToolCallStart(self._num_calls, call_id, name))

    def arguments(self, text: str) -> None:
        if text:
            self._has_arguments = True
            self._events.append(ToolCallArguments(self._num_calls, text))

    @property
    def call_is_open(self) -> bool:
        return self._is_open

    def end_call(self, *, complete: bool = False) -> None:
        """`complete`: it was written to its end, so one without arguments has none on purpose."""
        if not self._is_open:
            return
        if complete and not self._has_arguments:
            self.arguments("{}")
        self._events.append(ToolCallEnd(self._num_calls, complete))
        self._num_calls += 1
        self._is_open = False
        self._after_call = True
        self.reader.record = []

    # parts that several formats share

    def json_call(
        self, names: tuple[str, ...], arguments: tuple[str, ...], first: tuple[str, ...] = ()
    ) -> Steps[None]:
        """An object with a name and arguments, in any order, among other entries. `first`: what it may begin with."""
        reader = self.reader
        yield from reader.expect("{")
        early: list[str] = []
        while True:
            yield from reader.spaces()
            key = yield from reader.json_string()
            if first and key not in first:
                raise Malformed
            first = ()
            yield from reader.spaces()
            yield from reader.expect(":")
            yield from reader.spaces()
            if key in names and not self.call_is_open:
                self.start_call((yield from reader.json_string()))
                self._pass_arguments(early)
            elif key in arguments and not self._has_arguments and not early:
                yield from self._json_arguments(early)
            else:
                yield from reader.json_value(_ignore)
            yield from reader.spaces()
            if (yield from reader.expect(",", "}")) == "}":
                break
        if not self.call_is_open:
            raise Malformed
        self.end_call(complete=True)

    def _json_arguments(self, early: list[str]) -> Steps[None]:
        """Passed on as they come if the call is announced, and kept in `early` if not."""
        first = yield from self.reader.peek()
        if first == "{" and self.call_is_open:
            yield from self.reader.json_value(self.arguments)
            return
        pieces: list[str] = []
        yield from self.reader.json_value(pieces.append)
        early.append(_as_object("".join(pieces)))
        if self.call_is_open:
            self._pass_arguments(early)

    def _pass_arguments(self, early: list[str]) -> None:
        self.arguments("".join(early))

    def parameters(self, name: str) -> "ParameterWriter":
        return ParameterWriter(self, self.tools.get(name))


def _merged(events: Iterable[Event]) -> Iterator[Event]:
    """Pieces of one text that came together are one piece."""
    for key, group in groupby(events, _text_of_event):
        if key is None:
            yield from group
        else:
            first, *rest = group
            assert isinstance(first, TextPart | ToolCallArguments)
            pieces = [first.text, *(event.text for event in rest if isinstance(event, type(first)))]
            yield replace(first, text="".join(pieces))


def _text_of_event(event: Event) -> str | int | None:
    """Which text the event is a piece of; None for none."""
    if isinstance(event, TextPart):
        return event.kind
    return event.index if isinstance(event, ToolCallArguments) else None


class ParameterWriter:
    """A call's parameters, one by one, as one JSON object."""

    def __init__(self, parser: CallParser, tool: Tool | None) -> None:
        self._parser = parser
        self._root: Any = tool.schema if tool else {}
        self._num = 0

    def begin(self, key: str) -> None:
        """The next value's name; nothing of the value is known yet."""
        self._parser.arguments(f'{", " if self._num else "{"}"{escaped(key)}": ')
        self._num += 1

    def types(self, key: str) -> frozenset[str]:
        return types_of(schema_of(key, self._root), self._root)

    def value(self, key: str, ends: tuple[str, ...], *, is_string: bool | None = None) -> Steps[str | None]:
        """Reads a value that is written without quotes, up to one of `ends`. A string is passed on as it comes, once it
        is sure to be one."""
        types = self.types(key)
        if is_string is None:
            is_string = types == {"string"}
        self.begin(key)
        if is_string:
            self._parser.arguments('"')
            end = yield from self._parser.reader.until(
                ends, lambda text: self._parser.arguments(escaped(text)), keep_rest=False
            )
            if end is not None:
                self._parser.arguments('"')
            return end
        value = _Unquoted(types, self._parser.arguments)
        end = yield from self._parser.reader.until(ends, value.add, keep_rest=False)
        if end is not None:
            value.end()
        return end

    def end(self) -> None:
        self._parser.arguments("}" if self._num else "{}")


class _Unquoted:
    """A value that may be a string or something else, as it comes. Where the other types have a few words only, it is a
    string as soon as it is none of these; else that is known at its end."""

    def __init__(self, types: frozenset[str], sink: Sink) -> None:
        self._types = types
        self._sink = sink
        self._words = WORDS_OF.get(types)
        self._held: list[str] = []
        self._begun = ""  # of the value without the white space around it
        self._is_string = self._space_follows = False

    def add(self, text: str) -> None:
        if self._is_string:
            self._sink(escaped(text))
            return
        self._held.append(text)
        if self._words is not None and self._is_no_word(text):
            self._is_string = True
            self._sink(f'"{escaped("".join(self._held))}')

    def _is_no_word(self, text: str) -> bool:
        part = text if self._begun else text.lstrip()
        if not part:
            return False
        if self._space_follows and part.strip():
            return True
        self._begun += part.rstrip()
        self._space_follows = part[-1:].isspace()
        return not any(word.startswith(self._begun) for word in self._words or ())

    def end(self) -> None:
        self._sink('"' if self._is_string else typed("".join(self._held), self._types))


def _ignore(text: str) -> None:
    pass


def _as_object(text: str) -> str:
    """Arguments that were not written as an object: a JSON text within a string, or nothing."""
    if text == "null":
        return "{}"
    if text.startswith('"'):
        try:
            inside = json.loads(text, strict=False)
            if isinstance(json.loads(inside), dict):
                return str(inside)
        except (ValueError, RecursionError):
            pass
    return text


def json_text(value: Any) -> str:
    """As chat templates write values."""
    return json.dumps(value, ensure_ascii=False)


def raw_text(value: Any) -> str:
    """A value where strings stand without quotes."""
    return value if isinstance(value, str) else json_text(value)


def arguments_json(tool: Tool) -> Json:
    """A function's arguments as one JSON object."""
    return Json(tool.schema, tool.strict, tool.pointer)


def json_call(tool: Tool, name: str = "name", arguments: str = "arguments", lead: str = "") -> Node:
    """A call as a JSON object whose last two entries these are; `lead` stands before them."""
    return seq(f'{{{lead}"{name}": {json_text(tool.name)}, "{arguments}": ', arguments_json(tool), "}")
