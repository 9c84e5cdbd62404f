"""Checks a finished document against its schema: what comes after generation where the grammar does not enforce it all.

The jsonschema library, Draft 2020-12, with formats asserted, and with three things as the grammar has them: patterns
are ECMAScript and matched in linear time, formats are the grammar's languages, multiples are exact decimals. A
pattern that the grammar does not support is left to Python's `re`, so this belongs in a process that can be killed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import idna
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from basemlx.engine.grammar.formats import FORMATS, format_language
from basemlx.engine.grammar.limits import Schema, escaped
from basemlx.engine.grammar.patterns import UnsupportedPattern, parse_pattern
from basemlx.engine.grammar.recogniser import contains

_MAX_MESSAGE = 200
_NAMED = re.compile(r"\(\?<(?=[A-Za-z_$])")
_REFERENCE = re.compile(r"\\k<(\w+)>")
_PYTHON_ONLY = re.compile(r"\(\?(?:[P#]|[aiLmsux]+\))|(?<!\\)(?:\\\\)*\\[aAzZ]")
"""What is no ECMAScript: its named groups, comments, inline flags for the whole, other names for bell and both ends."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Where in the instance, which keyword, and where in the schema."""

    instance_pointer: str
    keyword: str
    schema_pointer: str
    message: str


def violations(schema: Schema, instance: object, limit: int = 5) -> list[Violation]:
    """The first few; none if the instance is valid."""
    found: list[Violation] = []
    for error in _Validator(schema).iter_errors(instance):
        found.append(
            Violation(
                _pointer(error.absolute_path),
                str(error.validator),
                _pointer(error.absolute_schema_path),
                error.message[:_MAX_MESSAGE],
            )
        )
        if len(found) >= limit:
            break
    return found


def is_valid(schema: Schema, instance: object) -> bool:
    return not violations(schema, instance, 1)


def matches(pattern: str, text: str) -> bool:
    """Whether an ECMAScript pattern matches somewhere in `text`."""
    try:
        return contains(parse_pattern(pattern), text)
    except UnsupportedPattern:
        return re.search(pattern, text) is not None


def _pointer(path: Any) -> str:
    return "".join("/" + escaped(token) for token in path)


def _pattern(
    _v: Any, pattern: str, instance: object, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not matches(pattern, instance):
        yield ValidationError(f"the text does not match {pattern!r}")


def _format(_v: Any, name: str, instance: object, _schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if isinstance(instance, str) and name in FORMATS and not contains(format_language(name), instance):
        yield ValidationError(f"the text is no {name}")
    if isinstance(instance, str) and name == "regex" and not _is_regex(instance):
        yield ValidationError("the text is no regular expression")
    if isinstance(instance, str) and name == "idn-hostname":
        try:
            idna.encode(instance)
            if instance.endswith(tuple(".。．｡")):
                raise idna.IDNAError("it ends with a dot")
        except idna.IDNAError as error:
            yield ValidationError(f"the text is no host name: {error}")


def _is_regex(text: str) -> bool:
    """Of ECMAScript, as far as `parse_pattern` and Python's `re` know between them."""
    try:
        parse_pattern(text)
    except UnsupportedPattern:
        try:
            re.compile(_NAMED.sub(r"(?P<", _REFERENCE.sub(r"(?P=\1)", text)))
        except re.error:
            return False
        return not _PYTHON_ONLY.search(text)
    return True


def _multiple_of(_v: Any, step: Any, instance: Any, _schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    quotient = Fraction(Decimal(repr(instance))) / Fraction(Decimal(repr(step)))
    if quotient.denominator != 1:
        yield ValidationError(f"{instance!r} is not a multiple of {step!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: object, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, subschema in patterns.items():
            for name, value in instance.items():
                if matches(pattern, name):
                    yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, additional: Any, instance: object, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for name, value in instance.items():
        if name in schema.get("properties", {}):
            continue
        if any(matches(pattern, name) for pattern in schema.get("patternProperties", {})):
            continue
        if additional is False:
            yield ValidationError(f"the property {name!r} is not allowed")
        else:
            yield from validator.descend(value, additional, path=name)


def _items(
    validator: Any, items: Any, instance: object, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """With draft-07's list of schemas, too."""
    if not isinstance(instance, list):
        return
    if isinstance(items, list):
        for at, (item, subschema) in enumerate(zip(instance, items, strict=False)):
            yield from validator.descend(item, subschema, path=at, schema_path=at)
        rest, start = schema.get("additionalItems", True), len(items)
    else:
        rest, start = items, len(schema.get("prefixItems", []))
    for at in range(start, len(instance)):
        yield from validator.descend(instance[at], rest, path=at)


def _dependencies(
    validator: Any, dependencies: Mapping[str, Any], instance: object, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for name, needed in dependencies.items():
        if name not in instance:
            continue
        if isinstance(needed, list):
            for other in needed:
                if other not in instance:
                    yield ValidationError(f"{name!r} needs {other!r}")
        else:
            yield from validator.descend(instance, needed, schema_path=name)


_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "additionalProperties": _additional_properties,
        "dependencies": _dependencies,
        "format": _format,
        "items": _items,
        "multipleOf": _multiple_of,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
    },
)
