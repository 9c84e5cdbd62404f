"""Keywords of arrays."""

from basemlx.engine.grammar.cases import TOP, ArrayCase, Case, Count, Goal
from basemlx.engine.grammar.document import Place
from basemlx.engine.grammar.expand import Expander, Handler
from basemlx.engine.grammar.keywords.values import count_of, value_handlers


def _min_items(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    count = count_of(expander, place, "minItems", value)
    if holds:
        return [ArrayCase(low=count)]
    return [ArrayCase(high=count - 1)] if count else []


def _max_items(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    count = count_of(expander, place, "maxItems", value)
    return [ArrayCase(high=count) if holds else ArrayCase(low=count + 1)]


def _unique_items(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    if not isinstance(value, bool):
        raise expander.malformed("uniqueItems", place, "is a boolean")
    if not value:
        return [TOP["array"]] if holds else []
    if holds:
        return [ArrayCase(unique=f"{place.pointer}/uniqueItems")]
    expander.gap("uniqueItems", place, "its negation")
    return [TOP["array"]]


def _prefix_length(place: Place) -> int:
    assert isinstance(place.schema, dict)
    for keyword in ("prefixItems", "items"):
        if isinstance(place.schema.get(keyword), list):
            return len(place.schema[keyword])
    return 0


def _tuple(expander: Expander, place: Place, keyword: str, count: int, holds: bool) -> list[Case]:
    goals: list[Goal] = [((expander.document.child(place, keyword, at), holds),) for at in range(count)]
    if holds:
        return [ArrayCase(prefix=tuple(goals), evaluated=count)]
    return [ArrayCase(prefix=((),) * at + (goal,), low=at + 1) for at, goal in enumerate(goals)]


def _prefix_items(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    if not isinstance(value, list):
        raise expander.malformed("prefixItems", place, "is a list of schemas")
    return _tuple(expander, place, "prefixItems", len(value), holds)


def _rest(expander: Expander, place: Place, keyword: str, holds: bool) -> list[Case]:
    start = _prefix_length(place)
    assert isinstance(place.schema, dict)
    if not isinstance(place.schema[keyword], dict | bool):
        raise expander.malformed(keyword, place, "is a schema")
    goal: Goal = ((expander.document.child(place, keyword), holds),)
    if holds:
        return [ArrayCase(prefix=((),) * start, rest=goal, evaluated=None)]
    return [ArrayCase(counts=(Count(goal, 1, None, start, f"{place.pointer}/{keyword}"),))]


def _items(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    if isinstance(value, list):
        return _tuple(expander, place, "items", len(value), holds)
    return _rest(expander, place, "items", holds)


def _additional_items(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    assert isinstance(place.schema, dict)
    if not isinstance(place.schema.get("items"), list) or "prefixItems" in place.schema:
        return [TOP["array"]] if holds else []
    return _rest(expander, place, "additionalItems", holds)


def _contains(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    assert isinstance(place.schema, dict)
    if not isinstance(value, dict | bool):
        raise expander.malformed("contains", place, "is a schema")
    low = count_of(expander, place, "minContains", place.schema.get("minContains", 1))
    high = (
        count_of(expander, place, "maxContains", place.schema["maxContains"])
        if "maxContains" in place.schema
        else None
    )
    child = expander.document.child(place, "contains")
    goal: Goal = ((child, True),)
    pointer = f"{place.pointer}/contains"
    if holds:
        if high is not None and low > high:
            return []
        if high == 0:
            return [ArrayCase(rest=((child, False),), matched=(goal,))]
        counts = (Count(goal, low, high, 0, pointer),) if low or high is not None else ()
        return [ArrayCase(counts=counts, matched=(goal,))]
    found: list[Case] = []
    if low == 1:
        found.append(ArrayCase(rest=((child, False),)))
    elif low > 1:
        found.append(ArrayCase(counts=(Count(goal, 0, low - 1, 0, pointer),)))
    if high is not None:
        found.append(ArrayCase(counts=(Count(goal, high + 1, None, 0, pointer),)))
    return found


ARRAY: dict[str, Handler] = value_handlers("array") | {
    "minItems": _min_items,
    "maxItems": _max_items,
    "uniqueItems": _unique_items,
    "prefixItems": _prefix_items,
    "items": _items,
    "additionalItems": _additional_items,
    "contains": _contains,
}
