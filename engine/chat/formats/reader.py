"""Text that arrives in pieces, read by a program that stops wherever it needs more.

The programs are generators: each `yield` asks for more text, and what they return is what was read. No method keeps
more text back than it takes to know what comes, so the cost is linear and every cut reads the same. Knows no format.
"""

import json
import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
Sink = Callable[[str], Any]

_OUTSIDE = re.compile(r'["{}\[\]<]')
_INSIDE = re.compile(r'["\\]')
_SCALAR_END = re.compile(r"[,\]}<\s]")
_SPACE = re.compile(r"\s*")


class Malformed(Exception):
    """The text is not what the format says. What has been taken since `record` began can be shown instead."""


class Reader:
    """`record`, where it is a list, gets everything that is taken."""

    def __init__(self) -> None:
        self.ended = False
        self.record: list[str] | None = None
        self._text = ""
        self._at = 0

    def feed(self, text: str) -> None:
        self._text, self._at = self._text[self._at :] + text, 0

    @property
    def _num_left(self) -> int:
        return len(self._text) - self._at

    def take(self, num_characters: int) -> str:
        return self._take_to(self._at + num_characters)

    def _take_to(self, end: int) -> str:
        taken, self._at = self._text[self._at : end], end
        if self.record is not None and taken:
            self.record.append(taken)
        return taken

    def _pass_to(self, end: int, sink: Sink) -> None:
        if end > self._at:
            sink(self._take_to(end))

    def peek(self) -> Steps[str]:
        """The next character, left where it is; nothing at the end of the text."""
        while not self._num_left and not self.ended:
            yield
        return self._text[self._at : self._at + 1]

    def literal(self, *texts: str) -> Steps[str | None]:
        """Takes the first of `texts` that comes next; None, and nothing taken, if none does."""
        while True:
            wait = False
            for text in texts:
                if self._text.startswith(text, self._at):
                    if wait:
                        break
                    self.take(len(text))
                    return text
                wait = wait or (
                    not self.ended and text.startswith(self._text[self._at : self._at + len(text)])
                )
            if not wait:
                return None
            yield

    def expect(self, *texts: str) -> Steps[str]:
        found = yield from self.literal(*texts)
        if found is None:
            raise Malformed
        return found

    def run_of(self, pattern: re.Pattern[str], sink: Sink | None = None) -> Steps[str]:
        """Takes characters while they match `pattern`, which says of any text how much of its start belongs. Returns
        them, or passes them on as they come."""
        pieces: list[str] = []
        while True:
            match = pattern.match(self._text, self._at)
            if match:
                self._pass_to(match.end(), sink or pieces.append)
            if self._num_left or self.ended:
                return "".join(pieces)
            yield

    def spaces(self) -> Steps[None]:
        yield from self.run_of(_SPACE)

    def until(self, ends: tuple[str, ...], sink: Sink, *, keep_rest: bool = True) -> Steps[str | None]:
        """Passes text on until one of `ends`, which is taken and returned; None if the text ends without one. Then what
        may be the beginning of one is passed on too, or dropped without `keep_rest`."""
        pattern = _any_of(ends)
        while True:
            match = pattern.search(self._text, self._at)
            if match:
                self._pass_to(match.start(), sink)
                self._take_to(match.end())
                return match[0]
            held = 0 if self.ended and keep_rest else _num_held(self._text, self._at, ends)
            self._pass_to(len(self._text) - held, sink)
            if self.ended:
                self.take(held)
                return None
            yield

    def json_string(self) -> Steps[str]:
        """A JSON string's value."""
        yield from self.expect('"')
        pieces = ['"']
        yield from self._json_string_rest(pieces.append)
        try:
            value = json.loads("".join(pieces), strict=False)
        except ValueError:
            raise Malformed from None
        return str(value)

    def _json_string_rest(self, sink: Sink) -> Steps[None]:
        """From behind the opening quote to behind the closing one."""
        while True:
            match = _INSIDE.search(self._text, self._at)
            if match is None:
                self._pass_to(len(self._text), sink)
            elif match[0] == '"':
                self._pass_to(match.end(), sink)
                return
            elif match.end() < len(self._text):
                self._pass_to(match.end() + 1, sink)
                continue
            else:
                self._pass_to(match.start(), sink)
            if self.ended:
                self._pass_to(len(self._text), sink)
                raise Malformed
            yield

    def json_value(self, sink: Sink) -> Steps[None]:
        """Passes one JSON value on, as it is written. Looks only for its end; a "<" outside of strings ends it too."""
        first = yield from self.peek()
        if first == '"':
            self._pass_to(self._at + 1, sink)
            yield from self._json_string_rest(sink)
            return
        if first not in ("{", "["):
            yield from self._scalar(sink)
            return
        depth = 0
        while True:
            match = _OUTSIDE.search(self._text, self._at)
            if match is None:
                self._pass_to(len(self._text), sink)
                if self.ended:
                    raise Malformed
                yield
                continue
            if match[0] == "<":
                self._pass_to(match.start(), sink)
                raise Malformed
            self._pass_to(match.end(), sink)
            if match[0] == '"':
                yield from self._json_string_rest(sink)
            else:
                depth += 1 if match[0] in "{[" else -1
                if depth == 0:
                    return

    def _scalar(self, sink: Sink) -> Steps[None]:
        found = False
        while True:
            match = _SCALAR_END.search(self._text, self._at)
            end = match.start() if match else len(self._text)
            found = found or end > self._at
            self._pass_to(end, sink)
            if match or self.ended:
                if not found:
                    raise Malformed
                return
            yield


@lru_cache(maxsize=256)
def _any_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))


def _num_held(text: str, start: int, ends: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of one of `ends`."""
    longest = min(max(map(len, ends)) - 1, len(text) - start)
    for length in range(longest, 0, -1):
        tail = text[-length:]
        if any(end.startswith(tail) for end in ends):
            return length
    return 0
