"""Schemas multiplied out: for a subschema and a JSON type, the cases its instances (or its counter-examples) can be.

Every keyword is expanded exactly, negated too, so `not`, `if`, `oneOf` and the rest compose. Where a keyword cannot be
expressed, or its cases would be too many, a gap is noted and it counts as satisfied: what comes out then allows more
than the schema does, never less. So the grammar is exact where there are no gaps, and a sound pre-filter where there
are.

Knows keywords and cases; nothing of grammars.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.cases import (
    TOP,
    TYPES,
    ArrayCase,
    Case,
    Goal,
    JsonType,
    ObjectCase,
    StringCase,
    meet,
)
from basemlx.engine.grammar.document import SYNTHETIC, Document, Place
from basemlx.engine.grammar.languages import Language, alt
from basemlx.engine.grammar.limits import DEFAULT_LIMITS, SchemaLimits
from basemlx.engine.grammar.recogniser import TooCostly, is_empty

MAX_CASES = 256
"""Of one subschema and type; more are a gap."""
_MAX_DEPTH = 80
TOO_LARGE = "its automaton is too large, by itself or together with others"
MAX_GAPS = 32
"""That are reported of one schema."""


@dataclass(frozen=True)
class Gap:
    """A keyword that the grammar does not enforce (in full), where it stands, and why."""

    keyword: str
    pointer: str
    reason: str


class TooManyCases(Exception):
    """More alternatives than allowed; caught where a gap can be noted."""


Handler = Callable[["Expander", Place, object, bool], list[Case]]
"""(expander, place, the keyword's value, whether it must hold) to cases of the handler's type."""


class Expander:
    """One schema document's expansion, remembered as far as it was asked for. `loosely`: patterns and formats, whose
    automata were found too large together, are gaps."""

    def __init__(
        self, document: Document, limits: SchemaLimits = DEFAULT_LIMITS, loosely: bool = False
    ) -> None:
        # The handlers' modules import this one.
        from basemlx.engine.grammar.keywords import combinators, handlers_of

        self.document = document
        self.loosely = loosely
        self.gaps: dict[Gap, None] = {}
        self._limits = limits
        self._left = limits.max_cases
        self._handlers = {kind: handlers_of(kind) for kind in TYPES}
        self._combinators = combinators()
        self._memo: dict[tuple[Place, bool, JsonType], list[Case]] = {}
        self._goal_memo: dict[tuple[frozenset[tuple[Place, bool]], JsonType], list[Case]] = {}
        self._possible: dict[frozenset[tuple[Place, bool]], bool] = {}
        self._running: set[tuple[Place, bool, JsonType]] = set()

    def gap(self, keyword: str, place: Place, reason: str) -> None:
        self.gap_at(f"{place.pointer.partition(SYNTHETIC)[0]}/{keyword}", reason)

    def gap_at(self, pointer: str, reason: str) -> None:
        """The same, where `pointer` leads to the keyword itself."""
        pointer = pointer.partition(SYNTHETIC)[0]
        if len(self.gaps) >= MAX_GAPS:
            return
        self.gaps[Gap(pointer.rpartition("/")[2], pointer, reason)] = None

    def malformed(self, keyword: str, place: Place, what: str) -> UnsupportedSchema:
        return UnsupportedSchema(
            f"The schema is malformed at {place.pointer}/{keyword}: {keyword!r} {what}.",
            keyword=keyword,
            pointer=f"{place.pointer}/{keyword}",
        )

    def cases(self, place: Place, holds: bool, kind: JsonType) -> list[Case]:
        """Instances of type `kind` that satisfy the subschema, or do not."""
        key = (place, holds, kind)
        known = self._memo.get(key)
        if known is not None:
            return known
        if key in self._running or len(self._running) > _MAX_DEPTH:
            raise UnsupportedSchema(
                "The schema refers to itself without describing anything in between."
                if key in self._running
                else "The schema is nested too deep.",
                keyword="$ref",
                pointer=place.pointer,
            )
        self._running.add(key)
        try:
            found = self._expand(place, holds, kind)
        finally:
            self._running.discard(key)
        self._memo[key] = found
        return found

    def goal_cases(self, goal: Goal, kind: JsonType) -> list[Case]:
        """Instances of type `kind` that satisfy all of the goal."""
        if len(goal) == 1:
            return self.cases(*goal[0], kind)
        key = frozenset(goal), kind
        known = self._goal_memo.get(key)
        if known is None:
            known = [TOP[kind]]
            for place, holds in goal:
                try:
                    known = self.product(known, self.cases(place, holds, kind))
                except TooManyCases:
                    self.gap("allOf", place, "too many alternatives in combination")
            self._goal_memo[key] = known
        return known

    def is_possible(self, goal: Goal) -> bool:
        """False where surely no value satisfies the goal; a goal that contains itself counts as possible."""
        if not goal:
            return True
        key = frozenset(goal)
        known = self._possible.get(key)
        if known is None:
            self._possible[key] = True
            known = any(self.is_possible_case(case) for kind in TYPES for case in self.goal_cases(goal, kind))
            self._possible[key] = known
        return known

    def is_possible_case(self, case: Case) -> bool:
        match case:
            case StringCase(language=language):
                try:
                    return not is_empty(language)
                except TooCostly:
                    return True
            case ArrayCase():
                return all(self.is_possible(case.at(index)) for index in range(min(case.low, 20)))
            case ObjectCase():
                return all(self.is_possible(case.goal_of(name)) for name in case.required)
        return True

    def product(self, left: list[Case], right: list[Case]) -> list[Case]:
        """Both hold. Raises TooManyCases."""
        if len(left) == 1 and _says_nothing(left[0]):
            return right
        if len(right) == 1 and _says_nothing(right[0]):
            return left
        found: dict[Case, None] = {}
        if len(left) * len(right) > 1:
            self._spend(len(left) * len(right))
        for a in left:
            for b in right:
                both = meet(a, b)
                if both is not None:
                    found[both] = None
        return self.bounded(found)

    def union(self, *parts: Iterable[Case]) -> list[Case]:
        """Either holds. Raises TooManyCases."""
        found = dict.fromkeys(case for part in parts for case in part)
        if len(found) > 1:
            self._spend(len(found))
        strings = [case for case in found if isinstance(case, StringCase)]
        if len(strings) > 1:
            return [StringCase(alt(*(case.language for case in strings)))]
        top = next((case for case in found if _says_nothing(case)), None)
        if top is not None and not self.document.has_unevaluated:
            return [top]
        return self.bounded(found)

    def bounded(self, cases: Iterable[Case]) -> list[Case]:
        cases = list(cases)
        if len(cases) > MAX_CASES:
            raise TooManyCases
        return cases

    def _spend(self, cases: int) -> None:
        self._left -= cases
        if self._left < 0:
            raise TooManyCases

    def _expand(self, place: Place, holds: bool, kind: JsonType) -> list[Case]:
        schema = place.schema
        if isinstance(schema, bool):
            return [TOP[kind]] if schema == holds else []
        found: list[Case] = [TOP[kind]] if holds else []
        for keyword, part in self._keyword_cases(place, holds, kind):
            try:
                found = self.product(found, part) if holds else self.union(found, part)
            except TooManyCases:
                self.gap(keyword, place, "too many alternatives in combination")
                if not holds:
                    return [TOP[kind]]
            if holds and not found:
                return []
        if kind in ("array", "object"):
            found = self._apply_unevaluated(place, holds, kind, found)
        return found

    def _keyword_cases(self, place: Place, holds: bool, kind: JsonType) -> Iterable[tuple[str, list[Case]]]:
        """What each keyword says, those that decide most first."""
        assert isinstance(place.schema, dict)
        handlers = self._handlers[kind]
        order = sorted(place.schema, key=lambda keyword: keyword not in ("type", "const", "enum"))
        for keyword in order:
            handler, combinator = handlers.get(keyword), self._combinators.get(keyword)
            value = place.schema[keyword]
            try:
                if combinator is not None:
                    part = combinator(self, place, value, holds, kind)
                elif handler is not None:
                    part = handler(self, place, value, holds)
                else:
                    continue
            except TooManyCases:
                self.gap(keyword, place, "too many alternatives")
                part = [TOP[kind]]
            except TooCostly as error:
                self.gap(keyword, place, str(error))
                part = [TOP[kind]]
            yield keyword, part

    def _apply_unevaluated(self, place: Place, holds: bool, kind: JsonType, found: list[Case]) -> list[Case]:
        from basemlx.engine.grammar.keywords import unevaluated

        keyword = "unevaluatedItems" if kind == "array" else "unevaluatedProperties"
        assert isinstance(place.schema, dict)
        if keyword not in place.schema:
            return found
        if not holds:
            if place.schema[keyword] is True:
                return found
            positive = self.cases(place, True, kind)
            if any(_says_nothing(case) for case in positive):
                return []
            self.gap(keyword, place, "its negation")
            return [TOP[kind]]
        return unevaluated(self, place, keyword, found)


def _says_nothing(case: Case) -> bool:
    return case == TOP[_kind_of(case)]


def _kind_of(case: Case) -> JsonType:
    return next(kind for kind in TYPES if type(TOP[kind]) is type(case))


def string_language(cases: list[Case]) -> Language:
    """The strings of the given cases."""
    return alt(*(case.language for case in cases if isinstance(case, StringCase)))


__all__ = ["TOO_LARGE", "Expander", "Gap", "Handler", "TooManyCases", "string_language"]
