"""unevaluatedProperties and unevaluatedItems: what no adjacent keyword, or subschema that holds, has looked at.

Each case knows what was evaluated in it, so the keyword is an ordinary rule about the rest.
"""

from dataclasses import replace

from basemlx.engine.grammar.cases import ArrayCase, Case, Goal, KeySet, ObjectCase, join
from basemlx.engine.grammar.document import Place
from basemlx.engine.grammar.expand import Expander
from basemlx.engine.grammar.limits import Schema


def unevaluated(expander: Expander, place: Place, keyword: str, found: list[Case]) -> list[Case]:
    """`found`, with the keyword at `place` (which must hold) applied."""
    assert isinstance(place.schema, dict)
    value = place.schema[keyword]
    if not isinstance(value, dict | bool):
        raise expander.malformed(keyword, place, "is a schema")
    goal: Goal = () if value is True or value == {} else ((expander.document.child(place, keyword), True),)
    result: list[Case] = []
    for case in found:
        if isinstance(case, ObjectCase):
            result.append(_properties(case, goal))
        elif isinstance(case, ArrayCase):
            result.append(_items(expander, place, case, goal))
    return result


def _properties(case: ObjectCase, goal: Goal) -> ObjectCase:
    if case.evaluated is None:
        return case
    rules = case.rules
    if goal:
        names, patterns = case.evaluated
        rules = (*rules, (KeySet(names, patterns, others=True), goal))
    return replace(case, rules=rules, evaluated=None)


def _items(expander: Expander, place: Place, case: ArrayCase, goal: Goal) -> ArrayCase:
    if case.evaluated is None:
        return case
    if goal and case.matched:
        goal = _either(expander, place, [*case.matched, goal])
    start = max(case.evaluated, len(case.prefix))
    prefix = tuple(
        join(case.at(index), goal) if index >= case.evaluated else case.at(index) for index in range(start)
    )
    return replace(case, prefix=prefix, rest=join(case.rest, goal), evaluated=None, matched=())


def _either(expander: Expander, place: Place, goals: list[Goal]) -> Goal:
    """A goal that any of the given ones satisfies. Items that `contains` matched count as evaluated."""
    schemas: list[Schema] = []
    for goal in goals:
        for part, _ in goal:
            if part.schema is False:
                continue
            if part.resource is not place.resource or part.scope != place.scope:
                expander.gap("unevaluatedItems", place, "beside a contains in another schema")
                return ()
            schemas.append(part.schema)
    suffix = "any" + ",".join(part.pointer for goal in goals for part, _ in goal)
    return ((expander.document.synthetic(place, suffix, {"anyOf": schemas}), True),)
