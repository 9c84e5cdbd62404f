"""The grammar of arguments that are not one JSON value: parameter by parameter, strings without quotes.

A parameter that may only be a string is text up to its end marker; any other is JSON. What a schema says about the
arguments as a whole, or about a string's form, cannot be said this way: refused where the tool is strict.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from basemlx.engine.chat.formats.base import json_text, raw_text
from basemlx.engine.chat.formats.literals import MAX_REFERENCES, resolved, typed, types_of, types_of_value
from basemlx.engine.chat.tools import Tool
from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.limits import escaped
from basemlx.engine.grammar.structure import Json, Node, Regex, Until, either, optional, seq
from basemlx.engine.grammar.wellformed import ASSERTIONS

NAME = Regex("[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""Of a parameter that no schema declares."""

PLAIN_NAME = re.compile(r"[^\s<>\"]([^<>\"\n]*[^\s<>\"])?")
"""What stands in a tag, white space around it not counted."""

_WHOLE = (
    "$dynamicRef", "allOf", "anyOf", "const", "dependencies", "dependentRequired", "dependentSchemas", "enum", "if",
    "maxProperties", "minProperties", "not", "oneOf", "patternProperties", "propertyNames", "unevaluatedProperties",
)  # fmt: skip
_STRING_FORM = frozenset(
    (
        "$dynamicRef", "$ref", "allOf", "const", "enum", "format", "if", "maxLength", "minLength", "not", "oneOf",
        "pattern",
    )
)  # fmt: skip
_NUMBER_FORM = frozenset(("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"))
_ARRAY_FORM = frozenset(
    ("additionalItems", "contains", "items", "maxItems", "minItems", "prefixItems", "unevaluatedItems", "uniqueItems")
)  # fmt: skip
_FORMS = (
    (frozenset({"number", "integer"}), _NUMBER_FORM),
    (frozenset({"array"}), _ARRAY_FORM),
    (frozenset({"object"}), ASSERTIONS - _STRING_FORM - _NUMBER_FORM - _ARRAY_FORM - {"anyOf", "type"}),
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One declared parameter; `schema` can stand alone."""

    name: str
    schema: Mapping[str, Any]
    required: bool
    strict: bool
    pointer: str
    types: frozenset[str]


def parameters(tool: Tool, names: re.Pattern[str] = PLAIN_NAME) -> list[Parameter] | None:
    """The declared parameters in their order; None if there are none and any is allowed. `names` is how the format can
    write one; a parameter with another is left out if it may be. Raises UnsupportedSchema."""
    root = tool.schema
    top, place = followed(root, tool.pointer, tool)
    if not isinstance(top, Mapping):
        raise refusal("$ref", f"{tool.pointer}/$ref")
    if tool.strict:
        for keyword in _WHOLE:
            if keyword in top:
                raise refusal(keyword, f"{place}/{keyword}")
    properties: dict[str, Any] = dict(top.get("properties") or {})
    required, additional = top.get("required") or (), top.get("additionalProperties", True)
    for name in required:
        if name not in properties and additional is False and tool.strict:
            raise refusal("required", f"{place}/required")
        properties.setdefault(name, {} if additional is False else additional)
    if not properties and additional is not False:
        if tool.strict and additional not in (True, {}):
            raise refusal("additionalProperties", f"{place}/additionalProperties")
        return None
    for name in properties:
        if not names.fullmatch(name) and (tool.strict or name in required):
            raise refusal("properties", f"{place}/properties/{escaped(name)}")
    alone = _Definitions(tool)
    declared = []
    for name, given in properties.items():
        schema, pointer = followed(given, f"{place}/properties/{escaped(name)}", tool, keep=True)
        if schema is not False and names.fullmatch(name):
            types = types_of(given, root)
            is_required = name in required
            declared.append(
                Parameter(name, alone.given(schema, pointer), is_required, tool.strict, pointer, types)
            )
    return declared


def followed(schema: Any, pointer: str, tool: Tool, *, keep: bool = False) -> tuple[Any, str]:
    """Where a schema's references lead, and its pointer. What stands beside a reference is left out where the tool is
    not strict. Where it is and that asserts anything, the reference is refused, or left as it is (`keep`). Raises
    UnsupportedSchema, too, if it leads nowhere."""
    for _ in range(MAX_REFERENCES):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema, pointer
        target = resolved(schema["$ref"], tool.schema)
        if target is None:
            raise UnsupportedSchema(
                f"The schema refers to {schema['$ref'][:200]!r}, which this model's way of writing tool calls cannot "
                "follow: references are JSON Pointers within the schema.",
                keyword="$ref",
                pointer=f"{pointer}/$ref",
            )
        beside = _beside_reference(schema, target, tool) if tool.strict else None
        if beside is not None and keep:
            return schema, pointer
        if beside is not None:
            raise refusal(beside, f"{pointer}/{beside}")
        schema, pointer = target, tool.pointer + schema["$ref"].removeprefix("#")
    raise UnsupportedSchema(
        "The schema refers to itself without describing anything in between.",
        keyword="$ref",
        pointer=f"{pointer}/$ref",
    )


def _beside_reference(schema: Mapping[str, Any], target: Any, tool: Tool) -> str | None:
    """The first keyword beside a `$ref` that asserts anything; a `type` that the target has anyway does not."""
    for keyword in schema:
        if keyword == "type" and types_of(target, tool.schema) <= types_of({"type": schema["type"]}, {}):
            continue
        if keyword in ASSERTIONS and keyword != "$ref":
            return keyword
    return None


def raw_value(parameter: Parameter, end: str, excluding: str = "") -> Node:
    """A value without quotes, and its end marker. `excluding`: the part of `end` that a string must not hold."""
    free = Until(end, (excluding,) if excluding else ())
    schema = parameter.schema
    if "string" not in parameter.types:
        return seq(Json(schema, parameter.strict, parameter.pointer), end)
    if parameter.strict and "$ref" in schema:  # what stands beside it is not for a string without quotes
        beside = next(keyword for keyword in schema if keyword in ASSERTIONS and keyword != "$ref")
        raise refusal(beside, f"{parameter.pointer}/{beside}")
    values = prescribed(schema, schema, parameter.pointer, strict=parameter.strict)
    if values is not None:
        texts = [text for value in values if (text := _as_text(value, parameter.types)) is not None]
        texts = [text for text in texts if (excluding or end) not in text]
        if texts:
            return either(*(seq(text, end) for text in texts))
    if parameter.strict:
        _check_sayable(schema, parameter.types, parameter.pointer)
    return free


def _check_sayable(schema: Any, types: frozenset[str], pointer: str) -> None:
    """Raises UnsupportedSchema unless every text, typed as the parser types it, is a value of the schema."""
    if schema is True:
        return
    if not isinstance(schema, Mapping):
        raise refusal(pointer.rpartition("/")[2], pointer)
    for keyword, value in schema.items():
        if keyword in _STRING_FORM or any(types & kinds and keyword in form for kinds, form in _FORMS):
            raise refusal(keyword, f"{pointer}/{escaped(keyword)}")
        if keyword == "anyOf":
            for at, option in enumerate(value):
                _check_sayable(option, types, f"{pointer}/anyOf/{at}")


def prescribed(
    schema: Any, root: Mapping[str, Any], pointer: str, *, strict: bool, depth: int = 0
) -> list[Any] | None:
    """The values that `const` and `enum` leave, alone or as the options of `anyOf`; None where there are others.

    They are held to the other keywords; where `strict`, those that cannot be decided here are refused.
    """
    if not isinstance(schema, Mapping) or depth > MAX_REFERENCES:
        return None
    if set(schema) & ASSERTIONS == {"$ref"}:
        return prescribed(resolved(schema["$ref"], root), root, pointer, strict=strict, depth=depth + 1)
    if set(schema) & ASSERTIONS == {"anyOf"}:
        found: list[Any] = []
        for at, option in enumerate(schema["anyOf"]):
            values = prescribed(option, root, f"{pointer}/anyOf/{at}", strict=strict, depth=depth + 1)
            if values is None or len(found) > MAX_PRESCRIBED:
                return None
            found += values
        return found
    if depth and set(schema) & ASSERTIONS == {"type"} and schema["type"] in list(_FEW):
        return list(_FEW[schema["type"]])
    if "const" not in schema and "enum" not in schema:
        return None
    given = "const" if "const" in schema else "enum"
    values = [schema["const"]] if given == "const" else list(schema["enum"])
    for keyword, operand in schema.items():
        if keyword == given:
            continue
        if keyword in _DECIDED:
            values = [value for value in values if _DECIDED[keyword](value, operand)]
        elif strict and keyword in ASSERTIONS:
            raise refusal(keyword, f"{pointer}/{escaped(keyword)}")
    if strict and not values:
        raise UnsupportedSchema(
            f"No value satisfies the schema at {pointer}.", keyword="enum", pointer=pointer
        )
    return values


def _is_one_of(value: Any, values: Sequence[Any]) -> bool:
    written = _canonical(value)
    return any(_canonical(other) == written for other in values)


def _canonical(value: Any) -> Any:
    """Equal for values that JSON Schema calls equal: 1 and 1.0, not 1 and true."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json_text(value)
    if isinstance(value, Mapping):
        return {key: _canonical(part) for key, part in value.items()}
    return [_canonical(part) for part in value] if isinstance(value, list | tuple) else value


def _if_string(value: Any, is_right: Callable[[int], bool]) -> bool:
    return not isinstance(value, str) or is_right(len(value))


def _if_number(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | float) or is_right(value)


_DECIDED: dict[str, Callable[[Any, Any], bool]] = {
    "type": lambda value, kinds: bool(types_of_value(value) & types_of({"type": kinds}, {})),
    "const": lambda value, other: _canonical(value) == _canonical(other),
    "enum": _is_one_of,
    "minLength": lambda value, least: _if_string(value, lambda length: length >= least),
    "maxLength": lambda value, most: _if_string(value, lambda length: length <= most),
    "minimum": lambda value, least: _if_number(value, lambda number: number >= least),
    "maximum": lambda value, most: _if_number(value, lambda number: number <= most),
    "exclusiveMinimum": lambda value, least: _if_number(value, lambda number: number > least),
    "exclusiveMaximum": lambda value, most: _if_number(value, lambda number: number < most),
}
"""Keywords that a value is simply held to."""
_FEW: dict[Any, tuple[Any, ...]] = {"null": (None,), "boolean": (True, False)}
MAX_PRESCRIBED = 5_000


def _as_text(value: Any, types: frozenset[str]) -> str | None:
    """How a value is written without quotes; None if it would be read back as another."""
    text = raw_text(value)
    return text if typed(text, types) == json_text(value) else None


def in_order(tool: Tool, write: Callable[[Parameter], Node], any_parameter: Node) -> Node:
    """All parameters one after the other, those that are not required perhaps not there."""
    declared = parameters(tool)
    if declared is None:
        return any_parameter
    written = ((parameter, write(parameter)) for parameter in declared)
    return seq(*(node if parameter.required else optional(node) for parameter, node in written))


class _Definitions:
    """What a parameter's schema needs of the tool's, so that it can stand alone."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self._definitions = {key: tool.schema[key] for key in ("$defs", "definitions") if key in tool.schema}
        self._are_local = all(map(_is_in_definitions, _references(self._definitions)))

    def given(self, schema: Any, pointer: str) -> Mapping[str, Any]:
        if not isinstance(schema, Mapping):
            return {}
        references = list(_references(schema))
        if not references:
            return schema
        if self._are_local and all(map(_is_in_definitions, references)):
            return {**schema, **self._definitions}
        if self._tool.strict:
            raise refusal("$ref", pointer)
        return {}


def _is_in_definitions(reference: str) -> bool:
    return reference.startswith(("#/$defs/", "#/definitions/"))


def _references(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, Mapping):
            if isinstance(reference := current.get("$ref"), str):
                yield reference
            waiting.extend(current.values())
        elif isinstance(current, list | tuple):
            waiting.extend(current)


def refusal(keyword: str, pointer: str) -> UnsupportedSchema:
    return UnsupportedSchema(
        f"{keyword} at {pointer or '/'} cannot be enforced in the way this model writes tool calls. Leave it out, or "
        "set strict to false.",
        keyword=keyword,
        pointer=pointer,
    )
