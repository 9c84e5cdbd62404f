"""Values as models write them, to JSON as they come: JSON's own, Python's, and Gemma's with its quotes made of tokens.

Nothing is evaluated; strings are passed on as they arrive. Also what a JSON schema says about a value's type.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from basemlx.engine.chat.formats.reader import Malformed, Reader, Sink, Steps

MAX_DEPTH = 64
MAX_REFERENCES = 16
"""From one to the next."""
MAX_SUBSCHEMAS = 1_000
"""That are looked at for the types of one value."""
_WORD = re.compile(r"[^,\]\[(){}:=\s\"'<]*")
_BARE_KEY = re.compile(r"[^:,{}\[\]\"'<>\s]*")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_SHORT_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "0": "\0",
    "a": "\a",
    "v": "\v",
    "\n": "",
}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9a-fA-F]+")
_PLAIN = {quote: re.compile(rf"[^\\{quote}]*") for quote in "\"'"}


def escaped(text: str) -> str:
    """The inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def literal(reader: Reader, sink: Sink, quotes: tuple[str, ...] = (), depth: int = 0) -> Steps[None]:
    """Reads one value and passes it on as JSON. `quotes`: markers that strings stand between, besides quotes."""
    if depth > MAX_DEPTH:
        raise Malformed
    yield from reader.spaces()
    first = yield from reader.peek()
    if first in ('"', "'"):
        sink('"')
        yield from _quoted(reader, sink)
        sink('"')
    elif first in ("[", "("):
        reader.take(1)
        sink("[")
        yield from _items(reader, sink, "]" if first == "[" else ")", quotes, depth, with_keys=False)
        sink("]")
    elif first == "{":
        reader.take(1)
        sink("{")
        yield from _items(reader, sink, "}", quotes, depth, with_keys=True)
        sink("}")
    elif quotes and (quote := (yield from reader.literal(*quotes))) is not None:
        sink('"')
        if (yield from reader.until((quote,), lambda text: sink(escaped(text)), keep_rest=False)) is None:
            raise Malformed
        sink('"')
    else:
        word = yield from reader.run_of(_WORD)
        if not word or not (yield from reader.peek()):  # at the end of the text it may be half a word
            raise Malformed
        sink(scalar(word))


def _items(
    reader: Reader, sink: Sink, end: str, quotes: tuple[str, ...], depth: int, *, with_keys: bool
) -> Steps[None]:
    """What stands between brackets."""
    is_first = True
    while True:
        yield from reader.spaces()
        if (yield from reader.literal(end)) is not None:
            return
        if not is_first:
            yield from reader.expect(",")
            yield from reader.spaces()
            if (yield from reader.literal(end)) is not None:  # Python allows a last comma
                return
            sink(", ")
        is_first = False
        if with_keys:
            yield from _key(reader, sink, quotes, depth)
        yield from literal(reader, sink, quotes, depth + 1)


def _key(reader: Reader, sink: Sink, quotes: tuple[str, ...], depth: int) -> Steps[None]:
    pieces: list[str] = []
    if (yield from reader.peek()) in ('"', "'", "<"):
        yield from literal(reader, pieces.append, quotes, depth + 1)
    else:
        key = yield from reader.run_of(_BARE_KEY)
        pieces.append(f'"{escaped(key)}"')
    yield from reader.spaces()
    yield from reader.expect(":")
    key_text = "".join(pieces)
    sink((key_text if key_text.startswith('"') else f'"{escaped(key_text)}"') + ": ")


def _quoted(reader: Reader, sink: Sink) -> Steps[None]:
    """A string between quotes, with the escapes of Python and of JSON."""
    quote = reader.take(1)
    while True:
        yield from reader.run_of(_PLAIN[quote], lambda piece: sink(escaped(piece)))
        sign = yield from reader.peek()
        if not sign:
            raise Malformed
        reader.take(1)
        if sign == quote:
            return
        kind = yield from reader.peek()
        if not kind:
            raise Malformed
        reader.take(1)
        if kind not in _HEX_ESCAPES:
            sink(escaped(_SHORT_ESCAPES.get(kind, kind if kind in "\\\"'/" else "\\" + kind)))
            continue
        digits = ""
        while len(digits) < _HEX_ESCAPES[kind]:
            char = yield from reader.peek()
            if not _HEX.fullmatch(char):
                raise Malformed
            digits += reader.take(1)
        code = int(digits, 16)
        if code > 0x10FFFF:
            raise Malformed
        sink(f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else escaped(chr(code)))


def scalar(word: str) -> str:
    """A number or one of the named values as JSON; any other word is a string."""
    if word in _WORDS:
        return _WORDS[word]
    if _NUMBER.fullmatch(word):
        return word
    plain = word.removeprefix("+").replace("_", "")
    plain = re.sub(r"^(-?)0*(?=[0-9])", r"\1", f"{plain}0" if plain.endswith(".") else plain)
    plain = re.sub(r"^(-?)\.", r"\g<1>0.", plain)
    return plain if _NUMBER.fullmatch(plain) else f'"{escaped(word)}"'


def as_json(text: str) -> str | None:
    """The JSON of a text that holds one value and nothing else; None if it does not."""
    try:
        json.loads(text, parse_constant=_no_constant)
        return text
    except (ValueError, RecursionError):
        pass
    if _WORD.fullmatch(text):
        found = scalar(text)
        return None if found.startswith('"') else found
    reader = Reader()
    reader.feed(text)
    reader.ended = True
    pieces: list[str] = []
    steps = literal(reader, pieces.append)
    try:
        next(steps)
    except StopIteration:
        found = "".join(pieces)
        return found if not reader.take(1) and not found.startswith('"') else None
    except Malformed:
        return None
    return None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


# What a schema says about types

ALL_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})

_NULLS, _TRUTHS = ("null", "None"), ("true", "false", "True", "False")
WORDS_OF = {
    frozenset({"string", "null"}): _NULLS,
    frozenset({"string", "boolean"}): _TRUTHS,
    frozenset({"string", "boolean", "null"}): (*_NULLS, *_TRUTHS),
}
"""Sets of types of which everything but these words is a string (`typed`)."""


def types_of(
    schema: Any, root: Mapping[str, Any], depth: int = 0, known: dict[int, frozenset[str]] | None = None
) -> frozenset[str]:
    """The JSON types that a schema may allow; all where it does not say. `root` is where references lead.

    Each subschema is looked at once (`known`): one that is met again within itself counts as all, which is safe.
    """
    if not isinstance(schema, Mapping) or depth > MAX_REFERENCES:
        return ALL_TYPES
    known = {} if known is None else known
    if id(schema) in known or len(known) >= MAX_SUBSCHEMAS:
        return known.get(id(schema), ALL_TYPES)
    known[id(schema)] = ALL_TYPES
    found = ALL_TYPES
    kinds = schema.get("type")
    if isinstance(kinds, str):
        found &= {kinds}
    elif isinstance(kinds, list | tuple):
        found &= frozenset(str(kind) for kind in kinds)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list | tuple):
        found &= frozenset().union(*(types_of_value(value) for value in values))
    reference = schema.get("$ref")
    if isinstance(reference, str):
        found &= types_of(resolved(reference, root), root, depth + 1, known)
    for name in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(name), list | tuple):
            found &= frozenset().union(*(types_of(option, root, depth + 1, known) for option in options))
    if isinstance(parts := schema.get("allOf"), list | tuple):
        for part in parts:
            found &= types_of(part, root, depth + 1, known)
    known[id(schema)] = found
    return found


def resolved(reference: str, root: Mapping[str, Any]) -> Any:
    """The subschema that a JSON Pointer of a local reference names; None if there is none."""
    fragment = unquote(reference.removeprefix("#"))
    if not reference.startswith("#") or (fragment and not fragment.startswith("/")):
        return None
    found: Any = root
    for step in fragment.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def schema_of(name: str, root: Mapping[str, Any]) -> Any:
    """The schema of a function's parameter; None where nothing is said of it."""
    top: Any = root
    for _ in range(MAX_REFERENCES):
        if not isinstance(top, Mapping) or not isinstance(reference := top.get("$ref"), str):
            break
        top = resolved(reference, root)
    if not isinstance(top, Mapping):
        return None
    properties = top.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        return properties[name]
    return top.get("additionalProperties")


def types_of_value(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"number", "integer"} if value.is_integer() else {"number"})
    if isinstance(value, str):
        return frozenset({"string"})
    return frozenset({"object"} if isinstance(value, Mapping) else {"array"})


def typed(text: str, types: frozenset[str]) -> str:
    """The JSON of a value that was written without quotes: a string only where no other allowed type fits."""
    if types != {"string"}:
        found = as_json(text.strip())
        if found is not None:
            is_string_only = not (types_of_value(json.loads(found)) & types)
            if not is_string_only and not found.startswith('"'):
                return found
            if found.startswith('"') and "string" not in types:
                return found
    return f'"{escaped(text)}"'
