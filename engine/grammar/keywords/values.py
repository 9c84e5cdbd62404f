"""`type`, `const` and `enum`, which speak of all types alike; and the checks of keyword values that others share."""

from collections.abc import Callable
from typing import Any

from basemlx.engine.grammar.cases import (
    TOP,
    BooleanCase,
    Case,
    JsonType,
    NumberCase,
    StringCase,
)
from basemlx.engine.grammar.document import Place
from basemlx.engine.grammar.expand import Expander, Handler
from basemlx.engine.grammar.languages import negation, words
from basemlx.engine.grammar.numbers import NumberSet, TooManyDigits, exact

_TYPE_NAMES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


def type_of(value: object) -> JsonType:
    """JSON's type of a parsed value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def count_of(expander: Expander, place: Place, keyword: str, value: object) -> int:
    """The value of a keyword that is a non-negative whole number (2.0 included)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0:
        raise expander.malformed(keyword, place, "is a non-negative integer")
    if value > 10**9:
        return 10**9
    if value != int(value):
        raise expander.malformed(keyword, place, "is a non-negative integer")
    return int(value)


def type_handler(kind: JsonType) -> Handler:
    def handler(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
        names = value if isinstance(value, list) else [value]
        if not names or any(not isinstance(name, str) or name not in _TYPE_NAMES for name in names):
            known = ", ".join(sorted(_TYPE_NAMES))
            raise expander.malformed("type", place, f"is one or a list of {known}")
        if kind == "number" and "integer" in names and "number" not in names:
            return [NumberCase(NumberSet(integer=holds))]
        return [TOP[kind]] if (kind in names) == holds else []

    return handler


def _enum_handler(kind: JsonType, given: Callable[[Expander, Place, list[Any], bool], list[Case]]) -> Handler:
    def handler(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
        if not isinstance(value, list):
            raise expander.malformed("enum", place, "is a list")
        return given(expander, place, [item for item in value if type_of(item) == kind], holds)

    return handler


def _const_handler(
    kind: JsonType, given: Callable[[Expander, Place, list[Any], bool], list[Case]]
) -> Handler:
    def handler(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
        return given(expander, place, [value] if type_of(value) == kind else [], holds)

    return handler


def value_handlers(kind: JsonType) -> dict[str, Handler]:
    """`type`, `enum` and `const` for one type."""
    given = {
        "null": _nulls,
        "boolean": _booleans,
        "number": _numbers,
        "string": _strings,
        "array": _arrays,
        "object": _objects,
    }[kind]
    return {
        "type": type_handler(kind),
        "enum": _enum_handler(kind, given),
        "const": _const_handler(kind, given),
    }


def _nulls(expander: Expander, place: Place, values: list[Any], holds: bool) -> list[Case]:
    return [TOP["null"]] if bool(values) == holds else []


def _booleans(expander: Expander, place: Place, values: list[Any], holds: bool) -> list[Case]:
    left = frozenset(value for value in (True, False) if (value in values) == holds)
    return [BooleanCase(left)] if left else []


def _numbers(expander: Expander, place: Place, values: list[Any], holds: bool) -> list[Case]:
    try:
        numbers = frozenset(exact(value) for value in values)
    except TooManyDigits:
        expander.gap("enum" if "enum" in _keys(place) else "const", place, "a number with very many digits")
        return [TOP["number"]]
    if not numbers:
        return [] if holds else [TOP["number"]]
    return [NumberCase(NumberSet(allowed=numbers) if holds else NumberSet(excluded=numbers))]


def _strings(expander: Expander, place: Place, values: list[Any], holds: bool) -> list[Case]:
    language = words(*values)
    if not values:
        return [] if holds else [TOP["string"]]
    return [StringCase(language if holds else negation(language))]


def _arrays(expander: Expander, place: Place, values: list[Any], holds: bool) -> list[Case]:
    return _containers(expander, place, values, holds, "array")


def _objects(expander: Expander, place: Place, values: list[Any], holds: bool) -> list[Case]:
    return _containers(expander, place, values, holds, "object")


def _containers(
    expander: Expander, place: Place, values: list[Any], holds: bool, kind: JsonType
) -> list[Case]:
    """An array or object is itself if its parts are: described by a schema, so that all else follows."""
    if not values:
        return [] if holds else [TOP[kind]]
    parts = []
    for value in values:
        number = next(at for at, item in enumerate(_given(place)) if item is value)
        schema = _described(value)
        parts.append(
            expander.cases(expander.document.synthetic(place, f"const{number}", schema), holds, kind)
        )
    if holds:
        return expander.union(*parts)
    found = parts[0]
    for part in parts[1:]:
        found = expander.product(found, part)
    return found


def _given(place: Place) -> list[Any]:
    keys = _keys(place)
    return [*keys.get("enum", []), *([keys["const"]] if "const" in keys else [])]


def _keys(place: Place) -> dict[str, Any]:
    return place.schema if isinstance(place.schema, dict) else {}


def _described(value: list[Any] | dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, list):
        return {
            "prefixItems": [{"const": item} for item in value],
            "minItems": len(value),
            "maxItems": len(value),
        }
    return {
        "properties": {name: {"const": item} for name, item in value.items()},
        "required": list(value),
        "additionalProperties": False,
    }
