"""Whether a schema is one: every keyword's value has the shape that JSON Schema gives it, wherever the keyword stands.

The grammar's own compiler looks only at keywords that matter where they stand; what reads schemas in other ways (the
wire formats of tool calls) can rely on shapes after this. Draft 2020-12, and what draft-07 wrote differently. Keywords
that nobody knows are annotations, whatever they hold. Linear; knows shapes, not meanings; follows no references.
"""

from collections.abc import Callable, Iterator
from typing import Any

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.limits import escaped

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == value // 1


def _is_schema(value: object) -> bool:
    return isinstance(value, dict | bool)


def _is_schemas(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _is_named_schemas(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_type(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_items(value: object) -> bool:
    return _is_schema(value) or (isinstance(value, list) and all(map(_is_schema, value)))


def _is_named_names(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_names, value.values()))


def _is_dependencies(value: object) -> bool:
    return isinstance(value, dict) and all(_is_schema(part) or _is_names(part) for part in value.values())


Check = Callable[[Any], bool]

_SHAPES: dict[str, tuple[Check, str]] = {
    **dict.fromkeys(
        (
            "maxContains", "maxItems", "maxLength", "maxProperties", "minContains", "minItems", "minLength",
            "minProperties",
        ),
        (_is_count, "is a non-negative integer"),
    ),
    **dict.fromkeys(("maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"), (_is_number, "is a number")),
    **dict.fromkeys(
        (
            "additionalItems", "additionalProperties", "contains", "else", "if", "not", "propertyNames", "then",
            "unevaluatedItems", "unevaluatedProperties",
        ),
        (_is_schema, "is a schema"),
    ),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), (_is_schemas, "is a list of schemas, not empty")),
    **dict.fromkeys(
        ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"),
        (_is_named_schemas, "is an object of schemas"),
    ),
    **dict.fromkeys(
        ("$ref", "$dynamicRef", "pattern", "format"), (lambda value: isinstance(value, str), "is a string")
    ),
    "type": (_is_type, f"is one or a list of {', '.join(TYPES)}"),
    "enum": (lambda value: isinstance(value, list), "is a list"),
    "required": (_is_names, "is a list of property names"),
    "items": (_is_items, "is a schema"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "is a number above 0"),
    "uniqueItems": (lambda value: isinstance(value, bool), "is true or false"),
    "dependentRequired": (_is_named_names, "is an object of lists of property names"),
    "dependencies": (_is_dependencies, "is an object of schemas or of lists of property names"),
}  # fmt: skip

ASSERTIONS = frozenset(_SHAPES) - {"$defs", "definitions"}
"""Keywords that may make a value invalid, by themselves or together with others; all others only describe."""


def check_well_formed(schema: object) -> None:
    """Raises UnsupportedSchema, with keyword and pointer, for the first value of another shape. `schema` is within
    limits (`limits.read_schema`)."""
    waiting: list[tuple[Any, str]] = [(schema, "")]
    while waiting:
        part, pointer = waiting.pop()
        if not isinstance(part, dict):
            continue
        for keyword, value in part.items():
            if keyword not in _SHAPES:
                continue
            is_right, shape = _SHAPES[keyword]
            place = f"{pointer}/{escaped(keyword)}"
            if not is_right(value):
                raise UnsupportedSchema(
                    f"The schema is malformed at {place}: {keyword!r} {shape}.",
                    keyword=keyword,
                    pointer=place,
                )
            waiting.extend(_subschemas(keyword, value, place))


def _subschemas(keyword: str, value: Any, place: str) -> Iterator[tuple[Any, str]]:
    check = _SHAPES[keyword][0]
    if check in (_is_named_schemas, _is_dependencies):
        yield from ((part, f"{place}/{escaped(name)}") for name, part in value.items())
    elif check in (_is_schemas, _is_items) and isinstance(value, list):
        yield from ((part, f"{place}/{at}") for at, part in enumerate(value))
    elif check in (_is_schema, _is_items):
        yield value, place
