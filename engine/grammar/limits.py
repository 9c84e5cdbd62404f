"""What a schema may cost before anything is done with it: bytes, depth, nodes, and sizes of its lists.

A schema arrives with a request, so it is untrusted. Breaking a limit is an UnsupportedSchema that names the limit, the
keyword and the place. Knows nothing of what keywords mean.
"""

import json
from dataclasses import dataclass
from typing import Any

from basemlx.engine.errors import UnsupportedSchema

Schema = dict[str, Any] | bool


@dataclass(frozen=True, slots=True)
class SchemaLimits:
    """Generous for schemas that people write (the largest tool schemas have some 100 KiB), small for a machine."""

    max_bytes: int = 256 * 1024
    max_depth: int = 64
    max_nodes: int = 20_000
    max_enum: int = 5_000
    max_properties: int = 1_000
    max_alternatives: int = 500
    max_cases: int = (
        20_000  # alternatives that remain once allOf, anyOf, not … are multiplied out, over the schema
    )
    max_rules: int = 20_000
    max_grammar_bytes: int = 4 * 1024 * 1024


DEFAULT_LIMITS = SchemaLimits()


MAX_SHOWN = 200
"""Characters of a pointer in a message."""


def escaped(token: object) -> str:
    """A key or index as part of a JSON Pointer."""
    return str(token).replace("~", "~0").replace("/", "~1")


def read_schema(schema: object, limits: SchemaLimits = DEFAULT_LIMITS) -> Schema:
    """Checks `schema` (an object, a boolean, or JSON text of one) against the limits, as JSON that has been parsed.

    Raises UnsupportedSchema.
    """
    if isinstance(schema, str | bytes):
        if len(schema) > limits.max_bytes:
            raise too_large(f"is larger than {limits.max_bytes} bytes")
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise UnsupportedSchema("The schema is not valid JSON.", pointer="") from None
    if not isinstance(schema, dict | bool):
        raise UnsupportedSchema("A schema is an object or a boolean.", pointer="")
    _check_nodes(schema, limits)
    return schema


def schema_text(schema: Schema, limits: SchemaLimits = DEFAULT_LIMITS) -> str:
    """Compact JSON of a checked schema, in its own order. Raises UnsupportedSchema if it is too large or no JSON."""
    try:
        text = json.dumps(schema, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError):
        raise UnsupportedSchema("The schema is not valid JSON.", pointer="") from None
    if size > limits.max_bytes:
        raise too_large(f"is larger than {limits.max_bytes} bytes")
    return text


def too_large(what: str, keyword: str | None = None, pointer: str = "") -> UnsupportedSchema:
    place = f" (at {pointer[:MAX_SHOWN]})" if pointer else ""
    return UnsupportedSchema(f"The schema {what}{place}.", keyword=keyword, pointer=pointer)


def _check_nodes(schema: object, limits: SchemaLimits) -> None:
    """Walks without recursion, so that depth cannot hurt before it is known."""
    stack: list[tuple[object, str, int]] = [(schema, "", 0)]
    nodes = 0
    while stack:
        value, pointer, depth = stack.pop()
        nodes += 1
        if nodes > limits.max_nodes:
            raise too_large(f"has more than {limits.max_nodes} values")
        if depth > limits.max_depth:
            raise too_large(f"is nested more than {limits.max_depth} deep", None, pointer[:200])
        if isinstance(value, dict):
            for key, child in value.items():
                if not isinstance(key, str):
                    raise UnsupportedSchema("The schema is not valid JSON.", pointer=pointer)
                place = f"{pointer}/{escaped(key)}"
                _check_size(key, child, place, limits)
                stack.append((child, place, depth + 1))
        elif isinstance(value, list):
            stack.extend((child, f"{pointer}/{at}", depth + 1) for at, child in enumerate(value))
        elif not isinstance(value, str | int | float | bool | None):
            raise UnsupportedSchema("The schema is not valid JSON.", pointer=pointer)


def _check_size(key: str, value: object, pointer: str, limits: SchemaLimits) -> None:
    if key == "enum" and isinstance(value, list):
        allowed = limits.max_enum
    elif key in ("anyOf", "oneOf", "allOf", "prefixItems", "items") and isinstance(value, list):
        allowed = limits.max_alternatives
    elif key in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, dict):
        allowed = limits.max_properties
    else:
        return
    if len(value) > allowed:
        raise too_large(f"has more than {allowed} entries under {key!r}", key, pointer)
