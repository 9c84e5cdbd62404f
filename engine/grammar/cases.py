"""What instances of one JSON type may look like: the cases a schema comes down to once its keywords are multiplied out.

A case is a conjunction of simple statements, `a & b` the conjunction of two (None where they contradict each other
at sight). Values inside an array or object are described by goals: subschemas that must hold, or must not. Knows
nothing of keywords and nothing of grammars.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from basemlx.engine.grammar.document import Place
from basemlx.engine.grammar.languages import EVERYTHING, NOTHING, Language, alt, both, negation, words
from basemlx.engine.grammar.numbers import NumberSet
from basemlx.engine.grammar.recogniser import contains

JsonType = Literal["null", "boolean", "number", "string", "array", "object"]
TYPES: tuple[JsonType, ...] = ("null", "boolean", "number", "string", "array", "object")

Goal = tuple[tuple[Place, bool], ...]
"""Subschemas in order, each with whether it must hold (True) or must not (False). () is anything."""

EVERY_NUMBER = NumberSet()
ANYTHING: Goal = ()


def join(*goals: Goal) -> Goal:
    """All of them, without repetitions."""
    return tuple(dict.fromkeys(literal for goal in goals for literal in goal))


@dataclass(frozen=True)
class NullCase:
    def __and__(self, other: "NullCase") -> "NullCase | None":
        return self


@dataclass(frozen=True)
class BooleanCase:
    values: frozenset[bool] = frozenset({True, False})

    def __and__(self, other: "BooleanCase") -> "BooleanCase | None":
        values = self.values & other.values
        return BooleanCase(values) if values else None


@dataclass(frozen=True)
class StringCase:
    language: Language = EVERYTHING

    def __and__(self, other: "StringCase") -> "StringCase | None":
        language = both(self.language, other.language)
        return None if language == NOTHING else StringCase(language)


@dataclass(frozen=True)
class NumberCase:
    numbers: NumberSet = EVERY_NUMBER

    def __and__(self, other: "NumberCase") -> "NumberCase | None":
        numbers = self.numbers & other.numbers
        return None if numbers is None else NumberCase(numbers)


@dataclass(frozen=True)
class Count:
    """Of the items from index `start` on, `low` to `high` (None: any number) satisfy `goal`."""

    goal: Goal
    low: int
    high: int | None
    start: int = 0
    pointer: str = ""


@dataclass(frozen=True)
class ArrayCase:
    """`prefix` describes the first items if they are there, `rest` those after them. `evaluated`: how many items from
    the start count as evaluated (None: all), `matched`: goals by which others are."""

    prefix: tuple[Goal, ...] = ()
    rest: Goal = ANYTHING
    low: int = 0
    high: int | None = None
    counts: tuple[Count, ...] = ()
    unique: str | None = None  # the pointer of the keyword that demands it
    evaluated: int | None = 0
    matched: tuple[Goal, ...] = ()

    def __and__(self, other: "ArrayCase") -> "ArrayCase | None":
        length = max(len(self.prefix), len(other.prefix))
        low, high = max(self.low, other.low), least(self.high, other.high)
        if high is not None and low > high:
            return None
        return ArrayCase(
            prefix=tuple(join(self.at(index), other.at(index)) for index in range(length)),
            rest=join(self.rest, other.rest),
            low=low,
            high=high,
            counts=tuple(dict.fromkeys(self.counts + other.counts)),
            unique=self.unique if self.unique is not None else other.unique,
            evaluated=None
            if self.evaluated is None or other.evaluated is None
            else max(self.evaluated, other.evaluated),
            matched=tuple(dict.fromkeys(self.matched + other.matched)),
        )

    def at(self, index: int) -> Goal:
        return self.prefix[index] if index < len(self.prefix) else self.rest

    def unevaluated(self) -> "ArrayCase":
        return replace(self, evaluated=0, matched=())


@dataclass(frozen=True)
class KeySet:
    """Property names: those in `names` or of a language in `patterns`, or, if `others`, all but these."""

    names: frozenset[str] = frozenset()
    patterns: tuple[Language, ...] = ()
    others: bool = False

    def __contains__(self, name: str) -> bool:
        inside = name in self.names or any(contains(pattern, name) for pattern in self.patterns)
        return inside != self.others

    def language(self) -> Language:
        inside = alt(words(*self.names), *self.patterns)
        return negation(inside) if self.others else inside


@dataclass(frozen=True)
class ObjectCase:
    """`properties` in the order of the schema, where one keyword (in `sources`) says it. `rules`: names of a set have
    values of a goal. `some`: at least one property has a name of the set and a value of the goal. `evaluated`: names
    that count as evaluated, None for all."""

    properties: tuple[tuple[str, Goal], ...] = ()
    sources: frozenset[str] = frozenset()
    required: tuple[str, ...] = ()
    forbidden: frozenset[str] = frozenset()
    rules: tuple[tuple[KeySet, Goal], ...] = ()
    names: Language = EVERYTHING
    some: tuple[tuple[KeySet, Goal], ...] = ()
    low: int = 0
    high: int | None = None
    low_pointer: str = ""
    some_pointer: str = ""
    evaluated: tuple[frozenset[str], tuple[Language, ...]] | None = field(default=(frozenset(), ()))

    def __and__(self, other: "ObjectCase") -> "ObjectCase | None":
        required = tuple(dict.fromkeys(self.required + other.required))
        forbidden = self.forbidden | other.forbidden
        low, high = max(self.low, other.low), least(self.high, other.high)
        if any(name in forbidden for name in required) or (
            high is not None and max(low, len(required)) > high
        ):
            return None
        properties = dict(self.properties)
        for name, goal in other.properties:
            properties[name] = join(properties.get(name, ANYTHING), goal)
        evaluated = None
        if self.evaluated is not None and other.evaluated is not None:
            evaluated = (
                self.evaluated[0] | other.evaluated[0],
                tuple(dict.fromkeys(self.evaluated[1] + other.evaluated[1])),
            )
        return ObjectCase(
            properties=tuple(properties.items()),
            sources=self.sources | other.sources,
            required=required,
            forbidden=forbidden,
            rules=tuple(dict.fromkeys(self.rules + other.rules)),
            names=both(self.names, other.names),
            some=tuple(dict.fromkeys(self.some + other.some)),
            low=low,
            high=high,
            low_pointer=self.low_pointer or other.low_pointer,
            some_pointer=self.some_pointer or other.some_pointer,
            evaluated=evaluated,
        )

    def goal_of(self, name: str) -> Goal:
        """What the value of a property called `name` must satisfy."""
        own = dict(self.properties).get(name, ANYTHING)
        return join(own, *(goal for keys, goal in self.rules if name in keys))

    def unevaluated(self) -> "ObjectCase":
        return replace(self, evaluated=(frozenset(), ()))


Case = NullCase | BooleanCase | StringCase | NumberCase | ArrayCase | ObjectCase

TOP: dict[JsonType, Case] = {
    "null": NullCase(),
    "boolean": BooleanCase(),
    "number": NumberCase(),
    "string": StringCase(),
    "array": ArrayCase(),
    "object": ObjectCase(),
}


def meet(a: Case, b: Case) -> Case | None:
    """Both, which must be of one type; None where they contradict each other at sight."""
    return a & b  # type: ignore[operator]


def least(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return a if b is None else b
    return min(a, b)
