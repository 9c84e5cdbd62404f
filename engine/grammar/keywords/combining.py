"""Keywords that apply subschemas to the same instance: references, Boolean combinations, conditions."""

from collections.abc import Callable
from itertools import combinations

from basemlx.engine.grammar.cases import TOP, ArrayCase, Case, JsonType, ObjectCase, meet
from basemlx.engine.grammar.document import Place
from basemlx.engine.grammar.expand import Expander, TooManyCases

Combinator = Callable[[Expander, Place, object, bool, JsonType], list[Case]]

_MAX_TOGETHER = 4
"""Of alternatives whose evaluated properties are told apart in every combination."""


def _children(expander: Expander, place: Place, keyword: str, value: object) -> list[Place]:
    if not isinstance(value, list) or not value or any(not isinstance(child, dict | bool) for child in value):
        raise expander.malformed(keyword, place, "is a list of schemas, not empty")
    return [expander.document.child(place, keyword, at) for at in range(len(value))]


def _every(expander: Expander, parts: list[list[Case]], kind: JsonType) -> list[Case]:
    found: list[Case] = [TOP[kind]]
    for part in parts:
        found = expander.product(found, part)
        if not found:
            break
    return found


def _all_of(expander: Expander, place: Place, value: object, holds: bool, kind: JsonType) -> list[Case]:
    parts = [expander.cases(child, holds, kind) for child in _children(expander, place, "allOf", value)]
    return _every(expander, parts, kind) if holds else expander.union(*parts)


def _any_of(expander: Expander, place: Place, value: object, holds: bool, kind: JsonType) -> list[Case]:
    parts = [expander.cases(child, holds, kind) for child in _children(expander, place, "anyOf", value)]
    if not holds:
        return _every(expander, parts, kind)
    if expander.document.has_unevaluated and kind in ("array", "object"):
        # An instance of several alternatives has the properties of all of them evaluated.
        parts = [part for part in parts if part]
        if len(parts) <= _MAX_TOGETHER:
            for count in range(2, len(parts) + 1):
                for chosen in combinations(range(len(parts)), count):
                    parts.append(_every(expander, [parts[at] for at in chosen], kind))
    return expander.union(*parts)


def _one_of(expander: Expander, place: Place, value: object, holds: bool, kind: JsonType) -> list[Case]:
    children = _children(expander, place, "oneOf", value)
    parts = [expander.cases(child, True, kind) for child in children]
    overlaps = {
        (a, b)
        for a, b in combinations(range(len(children)), 2)
        if parts[a] and parts[b] and _overlap(expander, parts[a], parts[b])
    }
    if not holds:
        none = _every(expander, [expander.cases(child, False, kind) for child in children], kind)
        return expander.union(none, *(expander.product(parts[a], parts[b]) for a, b in sorted(overlaps)))
    found = []
    for at, part in enumerate(parts):
        for other in range(len(children)):
            if (min(at, other), max(at, other)) in overlaps and part:
                part = expander.product(part, expander.cases(children[other], False, kind))
        found.append(part)
    return expander.union(*found)


def _overlap(expander: Expander, left: list[Case], right: list[Case]) -> bool:
    """Whether, as far as can be seen, an instance may be of both."""
    if len(left) * len(right) > 400:
        raise TooManyCases
    for a in left:
        for b in right:
            both = meet(a, b)
            if both is not None and expander.is_possible_case(both):
                return True
    return False


def _without_annotations(cases: list[Case]) -> list[Case]:
    """What is evaluated inside a `not` does not count outside."""
    return [case.unevaluated() if isinstance(case, ArrayCase | ObjectCase) else case for case in cases]


def _not(expander: Expander, place: Place, value: object, holds: bool, kind: JsonType) -> list[Case]:
    if not isinstance(value, dict | bool):
        raise expander.malformed("not", place, "is a schema")
    return _without_annotations(expander.cases(expander.document.child(place, "not"), not holds, kind))


def _if(expander: Expander, place: Place, value: object, holds: bool, kind: JsonType) -> list[Case]:
    assert isinstance(place.schema, dict)
    for keyword in ("if", "then", "else"):
        if not isinstance(place.schema.get(keyword, True), dict | bool):
            raise expander.malformed(keyword, place, "is a schema")
    condition = expander.document.child(place, "if")

    def branch(keyword: str, condition_holds: bool) -> list[Case]:
        met = expander.cases(condition, condition_holds, kind)
        if not condition_holds:
            met = _without_annotations(met)
        assert isinstance(place.schema, dict)
        if keyword not in place.schema:
            return met if holds else []
        child = expander.document.child(place, keyword)
        return expander.product(met, expander.cases(child, holds, kind))

    if not expander.document.has_unevaluated and "then" not in place.schema and "else" not in place.schema:
        return [TOP[kind]] if holds else []
    return expander.union(branch("then", True), branch("else", False))


def _reference(keyword: str) -> Combinator:
    def combinator(
        expander: Expander, place: Place, value: object, holds: bool, kind: JsonType
    ) -> list[Case]:
        return expander.cases(expander.document.resolve(place, keyword), holds, kind)

    return combinator


COMBINATORS: dict[str, Combinator] = {
    "$ref": _reference("$ref"),
    "$dynamicRef": _reference("$dynamicRef"),
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
}
