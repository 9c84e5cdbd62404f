"""The grammar of arguments that are not one JSON value: parameter by parameter, strings without quotes.

A parameter that may only be a string is text up to its end marker; any other is JSON. What a schema says about the
arguments as a whole, or about a string's form, cannot be said this way: refused where the tool is strict.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from basemlx.engine.chat.formats.base import json_text, raw_text
from basemlx.engine.chat.formats.literals import resolved, typed, types_of
from basemlx.engine.chat.tools import Tool
from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.structure import Json, Node, Regex, Until, either, optional, seq

NAME = Regex("[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""Of a parameter that no schema declares."""

PLAIN_NAME = re.compile(r"[^\s<>\"]([^<>\"\n]*[^\s<>\"])?")
"""What stands in a tag, white space around it not counted."""

_WHOLE = (
    "allOf", "anyOf", "const", "dependencies", "dependentRequired", "dependentSchemas", "else", "enum", "if",
    "maxProperties", "minProperties", "not", "oneOf", "patternProperties", "propertyNames", "then",
    "unevaluatedProperties",
)  # fmt: skip
_STRING_FORM = ("const", "enum", "format", "maxLength", "minLength", "pattern", "allOf", "not", "if", "$ref")
_SIMPLE = frozenset(
    {"type", "title", "description", "default", "examples", "anyOf", "deprecated", "$comment"}
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
    root: Any = tool.schema
    top = resolved(root["$ref"], root) if isinstance(root.get("$ref"), str) else root
    if not isinstance(top, Mapping):
        raise _unsupported(tool, "$ref", "")
    if tool.strict:
        for keyword in _WHOLE:
            if keyword in top:
                raise _unsupported(tool, keyword, f"/{keyword}")
    declared = top.get("properties")
    properties: dict[str, Any] = dict(declared) if isinstance(declared, Mapping) else {}
    listed = top.get("required")
    required = [name for name in listed if isinstance(name, str)] if isinstance(listed, list | tuple) else []
    properties |= {name: {} for name in required if name not in properties}
    if not properties and top.get("additionalProperties") is not False:
        if tool.strict and top.get("additionalProperties") not in (None, True, {}):
            raise _unsupported(tool, "additionalProperties", "/additionalProperties")
        return None
    for name in properties:
        if not names.fullmatch(name) and (tool.strict or name in required):
            raise _unsupported(tool, "properties", f"/properties/{_escaped(name)}")
    return [
        Parameter(
            name=name,
            schema=_alone(tool, name, schema, root),
            required=name in required,
            strict=tool.strict,
            pointer=f"{tool.pointer}/properties/{_escaped(name)}",
            types=types_of(schema, root),
        )
        for name, schema in properties.items()
        if schema is not False and names.fullmatch(name)
    ]


def raw_value(parameter: Parameter, end: str, excluding: str = "") -> Node:
    """A value without quotes, and its end marker. `excluding`: the part of `end` that a string must not hold."""
    free = Until(end, (excluding,) if excluding else ())
    schema = parameter.schema
    if "string" not in parameter.types:
        return seq(Json(schema, parameter.strict, parameter.pointer), end)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list | tuple):
        fitting = [text for value in values if (text := _as_text(value, parameter.types)) is not None]
        fitting = [text for text in fitting if (excluding or end) not in text]
        if fitting:
            return either(*(seq(text, end) for text in fitting))
    if parameter.strict:
        for keyword in _STRING_FORM:
            if keyword in schema:
                raise refusal(keyword, f"{parameter.pointer}/{keyword}")
        if parameter.types != {"string"} and not _is_simple(schema):
            raise refusal("type", parameter.pointer)
    return free


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


def separated(nodes: list[tuple[Node, bool]], separator: str) -> Node:
    """Nodes, each with whether it is required, in their order, with `separator` between those that are there."""
    after: Node = seq()  # what may follow, once something came before
    first: Node = seq()  # what may come where nothing did
    for node, required in reversed(nodes):
        here = seq(node, after)
        first = here if required else either(here, first)
        this = seq(separator, node)
        after = seq(this if required else optional(this), after)
    return first


def _alone(tool: Tool, name: str, schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A parameter's schema with the definitions that it refers to."""
    if not isinstance(schema, Mapping):
        return {}
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    references = list(_references(schema)) + (list(_references(definitions)) if definitions else [])
    if not references:
        return schema
    if any(not reference.startswith(("#/$defs/", "#/definitions/")) for reference in references):
        if tool.strict:
            raise _unsupported(tool, "$ref", f"/properties/{_escaped(name)}")
        return {}
    return {**schema, **definitions}


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


def _is_simple(schema: Mapping[str, Any]) -> bool:
    """Whether a value of the right type always fits, objects and arrays aside."""
    if not set(schema) <= _SIMPLE:
        return False
    kinds = schema.get("type", ())
    if {"object", "array"} & set([kinds] if isinstance(kinds, str) else kinds):
        return False
    options = schema.get("anyOf", ())
    return all(isinstance(option, Mapping) and "type" in option and _is_simple(option) for option in options)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unsupported(tool: Tool, keyword: str, where: str) -> UnsupportedSchema:
    return refusal(keyword, tool.pointer + where)


def refusal(keyword: str, pointer: str) -> UnsupportedSchema:
    return UnsupportedSchema(
        f"{keyword} at {pointer or '/'} cannot be enforced in the way this model writes tool calls. Leave it out, or "
        "set strict to false.",
        keyword=keyword,
        pointer=pointer,
    )
