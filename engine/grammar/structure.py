"""What a model's turn may look like: a small tree of text, markers and JSON values. Knows no grammar engine.

`structure_xgrammar` and `structure_llguidance` write a tree down for their engines; both accept the same language.
Markers need not be told from text: where a marker is one control token of the vocabulary, `Const` means that token, and
nothing else can produce it. Free text never holds a control token, nor the letters of what it excludes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Const:
    """Exactly this text. Control tokens that it names are these tokens, not their letters."""

    text: str


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON value. `strict`: the schema is enforced in full or refused; `pointer` is its place in the request."""

    schema: Mapping[str, Any]
    strict: bool = False
    pointer: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """Free text up to the end of the turn: nothing may follow it. It does not begin with a character of `not_starting`;
    where that is given, every excluded text must begin with one of them."""

    excluding: tuple[str, ...] = ()
    not_starting: str = ""


@dataclass(frozen=True, slots=True)
class Until:
    """Text, then `end`, which ends it. The text has none of `excluding`, which stands for `end` itself where empty, and
    one of which must be part of `end` and never overlap with itself. `max_tokens` bounds the text, where `end` has a
    control token."""

    end: str
    excluding: tuple[str, ...] = ()
    max_tokens: int | None = None

    @property
    def excluded(self) -> tuple[str, ...]:
        return self.excluding or (self.end,)


@dataclass(frozen=True, slots=True)
class Regex:
    """Characters by a small regular expression: literals, classes and counts, which all dialects read alike."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Seq:
    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of them. No two may begin with the same text and then differ within one piece of text or JSON."""

    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`low` to `high` times (None: any number)."""

    part: "Node"
    low: int
    high: int | None
    separator: "Node | None" = None


@dataclass(frozen=True, slots=True)
class Separated:
    """Parts in their order, each with whether it is required; `separator` between those that are there."""

    parts: tuple[tuple["Node", bool], ...]
    separator: str


Node = Const | Json | Text | Until | Regex | Seq | Or | Repeat | Separated

EMPTY = Seq(())


def seq(*parts: Node | str) -> Node:
    """A sequence in its simplest form: flat, and constants that meet are one. A str is a constant."""
    flat: list[Node] = []
    for part in parts:
        node = Const(part) if isinstance(part, str) else part
        for piece in node.parts if isinstance(node, Seq) else (node,):
            last = flat[-1] if flat else None
            if isinstance(piece, Const) and isinstance(last, Const):
                flat[-1] = Const(last.text + piece.text)
            elif piece != Const(""):
                flat.append(piece)
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def either(*options: Node | str) -> Node:
    """One of them, each named once."""
    flat: list[Node] = []
    for option in options:
        node = Const(option) if isinstance(option, str) else option
        flat += [piece for piece in (node.options if isinstance(node, Or) else (node,)) if piece not in flat]
    return flat[0] if len(flat) == 1 else Or(tuple(flat))


def optional(part: Node | str) -> Node:
    return Repeat(Const(part) if isinstance(part, str) else part, 0, 1)


def json_nodes(node: Node) -> Iterator[Json]:
    """Every JSON value of the tree, in order."""
    match node:
        case Json():
            yield node
        case Seq(parts=nodes) | Or(options=nodes):
            for each in nodes:
                yield from json_nodes(each)
        case Repeat(part=part, separator=separator):
            yield from json_nodes(part)
            if separator is not None:
                yield from json_nodes(separator)
        case Separated(parts=parts):
            for each, _ in parts:
                yield from json_nodes(each)


def has_separated(node: Node) -> bool:
    """Whether parts that may be missing make the tree larger where it is written without names."""
    match node:
        case Separated():
            return True
        case Seq(parts=nodes) | Or(options=nodes):
            return any(map(has_separated, nodes))
        case Repeat(part=part, separator=separator):
            return has_separated(part) or (separator is not None and has_separated(separator))
    return False
