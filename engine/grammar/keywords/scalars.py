"""Keywords of null, booleans, numbers and strings."""

from decimal import Decimal

from basemlx.engine.grammar.cases import TOP, Case, NumberCase, StringCase
from basemlx.engine.grammar.document import Place
from basemlx.engine.grammar.expand import TOO_LARGE, Expander, Handler
from basemlx.engine.grammar.formats import FORMATS, UNENFORCEABLE, format_language
from basemlx.engine.grammar.keywords.values import count_of, value_handlers
from basemlx.engine.grammar.languages import Language, negation, of_length
from basemlx.engine.grammar.numbers import NumberSet, TooManyDigits, exact
from basemlx.engine.grammar.patterns import UnsupportedPattern, parse_pattern

NULL: dict[str, Handler] = value_handlers("null")
BOOLEAN: dict[str, Handler] = value_handlers("boolean")


def _number(expander: Expander, place: Place, keyword: str, value: object) -> Decimal | None:
    """The keyword's number; None, and a gap, if it has too many digits to be written out."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise expander.malformed(keyword, place, "is a number")
    try:
        return exact(value)
    except TooManyDigits as error:
        expander.gap(keyword, place, str(error))
        return None


def _bound(keyword: str, upper: bool, included: bool) -> Handler:
    def handler(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
        assert isinstance(place.schema, dict)
        if keyword.startswith("exclusive") and isinstance(value, bool):
            return [TOP["number"]] if holds else []  # draft-04: said together with the bound
        number = _number(expander, place, keyword, value)
        if number is None:
            return [TOP["number"]]
        exclusive = place.schema.get("exclusiveMaximum" if upper else "exclusiveMinimum")
        inside = included and exclusive is not True
        below = upper == holds
        edge = (number, inside == holds)
        return [NumberCase(NumberSet(high=edge) if below else NumberSet(low=edge))]

    return handler


def _multiple_of(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    step = _number(expander, place, "multipleOf", value)
    if step is None:
        return [TOP["number"]]
    if step <= 0:
        raise expander.malformed("multipleOf", place, "is greater than zero")
    one = frozenset({step})
    numbers = NumberSet(multiples=one) if holds else NumberSet(no_multiples=one)
    if not holds and numbers.terminal() is None:
        expander.gap("multipleOf", place, "its negation, of a step other than 1, 2 or 5 times a power of ten")
        return [TOP["number"]]
    return [NumberCase(numbers)]


NUMBER: dict[str, Handler] = value_handlers("number") | {
    "minimum": _bound("minimum", upper=False, included=True),
    "exclusiveMinimum": _bound("exclusiveMinimum", upper=False, included=False),
    "maximum": _bound("maximum", upper=True, included=True),
    "exclusiveMaximum": _bound("exclusiveMaximum", upper=True, included=False),
    "multipleOf": _multiple_of,
}


def _texts(language: Language, holds: bool) -> list[Case]:
    case = StringCase() & StringCase(language if holds else negation(language))
    return [] if case is None else [case]


def _min_length(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    return _texts(of_length(count_of(expander, place, "minLength", value), None), holds)


def _max_length(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    return _texts(of_length(0, count_of(expander, place, "maxLength", value)), holds)


def pattern_language(expander: Expander, place: Place, keyword: str, pattern: object) -> Language | None:
    """None, and a gap, for a pattern that is not supported."""
    if not isinstance(pattern, str):
        raise expander.malformed(keyword, place, "is a regular expression")
    if expander.loosely:
        expander.gap(keyword, place, TOO_LARGE)
        return None
    try:
        return parse_pattern(pattern)
    except UnsupportedPattern as error:
        expander.gap(keyword, place, str(error))
        return None


def _pattern(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    language = pattern_language(expander, place, "pattern", value)
    return [TOP["string"]] if language is None else _texts(language, holds)


def _format(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    if not isinstance(value, str):
        raise expander.malformed("format", place, "is a string")
    if value in FORMATS:
        if not holds:
            # Some formats are enforced more narrowly than their RFC, so what they leave out is not surely invalid.
            expander.gap("format", place, "its negation")
            return [TOP["string"]]
        if expander.loosely:
            expander.gap("format", place, TOO_LARGE)
            return [TOP["string"]]
        return _texts(format_language(value), holds)
    if value in UNENFORCEABLE:
        expander.gap("format", place, f"the format {value!r}")
        return [TOP["string"]]
    return [TOP["string"]] if holds else []


STRING: dict[str, Handler] = value_handlers("string") | {
    "minLength": _min_length,
    "maxLength": _max_length,
    "pattern": _pattern,
    "format": _format,
}
