"""What xgrammar's own JSON-schema compiler (0.2.8, as measured) does not enforce faithfully.

Its compiler ignores keywords silently: assertions without a `type`, siblings of $ref, const, enum and of combinators,
names in `required` that `properties` lacks, and more. So this is a list of what it is known to do right, not of what
it does wrong: everything else is a gap. Used where a schema stands inside one of xgrammar's structural tags.
"""

from typing import Any

from basemlx.engine.grammar.limits import escaped

_ANNOTATIONS = frozenset(
    {
        "$comment",
        "$schema",
        "default",
        "deprecated",
        "description",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
_ALONE = ("$ref", "const", "enum", "anyOf")
_OF_TYPE = {
    "object": frozenset({"type", "properties", "required", "additionalProperties"}),
    "array": frozenset({"type", "items", "minItems", "maxItems"}),
    "integer": frozenset({"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset({"type"}),
    "string": frozenset({"type"}),
    "boolean": frozenset({"type"}),
    "null": frozenset({"type"}),
}


def xgrammar_gaps(schema: object) -> list[tuple[str, str]]:
    """Keyword and JSON Pointer of what xgrammar would not enforce; empty if it enforces the whole schema."""
    gaps: list[tuple[str, str]] = []
    stack: list[tuple[Any, str]] = [(schema, "")]
    while stack:
        part, pointer = stack.pop()
        if part is True or part == {}:
            continue
        if not isinstance(part, dict):
            gaps.append(("false", pointer))
            continue
        own = {key for key in part if key not in _ANNOTATIONS and key not in ("$defs", "definitions")}
        stack += [
            (child, f"{pointer}/{group}/{escaped(name)}")
            for group in ("$defs", "definitions")
            for name, child in _objects(part.get(group)).items()
        ]
        alone = next((key for key in _ALONE if key in own), None)
        if alone is not None:
            gaps += [(key, f"{pointer}/{escaped(key)}") for key in sorted(own - {alone, "type"})]
            gaps += _alone_gaps(alone, part, own, pointer)
            if alone == "anyOf" and isinstance(part["anyOf"], list):
                stack += [(child, f"{pointer}/anyOf/{at}") for at, child in enumerate(part["anyOf"])]
            continue
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _OF_TYPE:
            gaps.append(("type", pointer))
            continue
        gaps += [(key, f"{pointer}/{escaped(key)}") for key in sorted(own - _OF_TYPE[kind])]
        if kind == "object":
            properties = _objects(part.get("properties"))
            required = part.get("required", [])
            if not isinstance(required, list) or any(name not in properties for name in required):
                gaps.append(("required", f"{pointer}/required"))
            stack += [(child, f"{pointer}/properties/{escaped(name)}") for name, child in properties.items()]
            if part.get("additionalProperties", True) is not False:
                stack.append((part.get("additionalProperties", True), f"{pointer}/additionalProperties"))
        elif kind == "array":
            stack.append((part.get("items", True), f"{pointer}/items"))
    return gaps


def _objects(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _alone_gaps(alone: str, part: dict[str, Any], own: set[str], pointer: str) -> list[tuple[str, str]]:
    if alone == "$ref":
        reference = part["$ref"]
        plain = isinstance(reference, str) and reference.startswith("#") and not set("~%") & set(reference)
        return (
            []
            if plain and "type" not in own and reference[1:2] in ("", "/")
            else [("$ref", f"{pointer}/$ref")]
        )
    if alone in ("const", "enum"):
        values = part["enum"] if alone == "enum" else [part["const"]]
        kind = part.get("type", "string")
        fits = isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)
        return [] if fits and kind == "string" else [(alone, f"{pointer}/{alone}")]
    return [("type", f"{pointer}/type")] if "type" in own else []
