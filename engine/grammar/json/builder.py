"""Grammar rules for whole schemas: one rule for every goal that some value in the document must satisfy.

Goals that contain themselves become recursive rules. Knows cases and rules; how arrays and objects are laid out is in
the modules beside it.
"""

import json

from basemlx.engine.grammar.cases import (
    ArrayCase,
    BooleanCase,
    Goal,
    NullCase,
    NumberCase,
    ObjectCase,
    StringCase,
)
from basemlx.engine.grammar.document import SYNTHETIC, Place
from basemlx.engine.grammar.expand import Expander
from basemlx.engine.grammar.json import tokens
from basemlx.engine.grammar.languages import EVERYTHING, NOTHING, And, Language, Not, Words, alt
from basemlx.engine.grammar.limits import SchemaLimits, too_large
from basemlx.engine.grammar.numbers import ANY_NUMBER, NumberSet
from basemlx.engine.grammar.recogniser import TooCostly
from basemlx.engine.grammar.rules import Production, Raw, Rule, RuleSet, Symbol, Terminal, Times
from basemlx.engine.grammar.terminals import string_terminal, string_terminals

_ANY = "any"


class Builder:
    """Collects the rules of one schema. `build` may be called once."""

    def __init__(self, expander: Expander, limits: SchemaLimits) -> None:
        self.expander = expander
        self._limits = limits
        self._rules = RuleSet("value")
        self._strings: dict[Language, str] = {}
        self._names: dict[frozenset[tuple[Place, bool]], str] = {}
        self._waiting: list[tuple[str, Goal]] = []
        self._fresh = 0
        self._keyword, self._pointer = "$ref", ""  # where the rules being written come from

    def build(self, goal: Goal) -> RuleSet | None:
        """The grammar of the values that satisfy `goal`; None if there are none."""
        self.add("value", [(self.value(goal),)])
        while self._waiting:
            name, next_goal = self._waiting.pop()
            self._define(name, next_goal)
        return self._rules.pruned()

    def value(self, goal: Goal) -> Symbol:
        """The symbol for values that satisfy `goal`."""
        goal = tuple(literal for literal in goal if not _says_nothing(literal))
        if not goal:
            return self._any()
        key = frozenset(goal)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"v{len(self._names)}"
            self._waiting.append((name, goal))
        return Rule(name)

    def string(self, language: Language) -> Symbol:
        """The symbol for JSON strings whose value is in `language`."""
        symbols = string_symbols(language)
        if len(symbols) == 1:
            return symbols[0]
        name = self._strings.get(language)
        if name is None:
            name = self._strings[language] = self.fresh("s")
            self.add(name, [(symbol,) for symbol in symbols])
        return Rule(name)

    def fresh(self, hint: str) -> str:
        self._fresh += 1
        return f"{hint}{self._fresh}"

    def add(self, name: str, productions: list[Production]) -> Rule:
        self._rules.productions[name] = productions
        if len(self._rules.productions) > self._limits.max_rules:
            raise too_large(
                f"needs more than {self._limits.max_rules} grammar rules", self._keyword, self._pointer
            )
        return Rule(name)

    def add_parametric(self, name: str, productions: list[Production]) -> Rule:
        """A rule with a parameter (see llguidance's parametric grammars)."""
        self._rules.parametric.add(name)
        return self.add(name, productions)

    def _define(self, name: str, goal: Goal) -> None:
        from basemlx.engine.grammar.json.arrays import array_productions
        from basemlx.engine.grammar.json.objects import object_productions

        productions: list[Production] = []
        scalars: list[Terminal] = []
        place = goal[0][0]
        self._pointer, _, _ = place.pointer.partition(SYNTHETIC)
        self._keyword = self._pointer.rpartition("/")[2] or "$ref"
        for case in self.expander.goal_cases(goal, "null"):
            assert isinstance(case, NullCase)
            scalars.append(Terminal('"null"'))
        booleans = {
            value
            for case in self.expander.goal_cases(goal, "boolean")
            if isinstance(case, BooleanCase)
            for value in case.values
        }
        scalars += [Terminal('"true"' if value else '"false"') for value in sorted(booleans)]
        for case in self.expander.goal_cases(goal, "number"):
            assert isinstance(case, NumberCase)
            symbol = self._number(case.numbers, place)
            if isinstance(symbol, Terminal):
                scalars.append(symbol)
            elif symbol is not None:
                productions.append((symbol,))
        language = alt(
            *(
                case.language
                for case in self.expander.goal_cases(goal, "string")
                if isinstance(case, StringCase)
            )
        )
        strings = string_symbols(language)
        if isinstance(language, And | Not) or len(strings) > 1:  # or llguidance would not see what they are
            productions += [(symbol,) for symbol in strings]
        else:
            scalars += strings
        if scalars:
            productions.append((_either(scalars),))
        for case in self.expander.goal_cases(goal, "array"):
            assert isinstance(case, ArrayCase)
            productions += array_productions(self, case)
        for case in self.expander.goal_cases(goal, "object"):
            assert isinstance(case, ObjectCase)
            try:
                productions += object_productions(self, case)
            except TooCostly as error:
                self.expander.gap("patternProperties", place, str(error))
                productions.append((self._any(),))
        self.add(name, productions)

    def _number(self, numbers: NumberSet, place: Place) -> Symbol | None:
        numbers = numbers.listed()
        terminal = numbers.terminal()
        if terminal == "":
            return None
        if terminal is not None:
            return Terminal(terminal, sure=terminal.startswith("/"))
        schema = numbers.json_schema()
        if schema is None:
            self.expander.gap("multipleOf", place, "this combination of bounds and steps")
            return Terminal(ANY_NUMBER)
        return Raw("%json " + json.dumps(schema | {"x-guidance": {"whitespace_flexible": False}}))

    def _any(self) -> Rule:
        """Any JSON value."""
        if _ANY not in self._rules.productions:
            pair: Production = (Terminal(tokens.ANY_STRING), tokens.COLON, Rule(_ANY))
            self.add(
                _ANY,
                [
                    (Terminal(tokens.ANY_SCALAR),),
                    bracketed(tokens.OPEN_ARRAY, (Rule(_ANY),), tokens.CLOSE_ARRAY),
                    bracketed(tokens.OPEN_OBJECT, pair, tokens.CLOSE_OBJECT),
                ],
            )
        return Rule(_ANY)


def bracketed(
    opening: Terminal, item: Production, closing: Terminal, low: int = 0, high: int | None = None
) -> Production:
    """`low` to `high` items between brackets, separated by commas."""
    if high == 0:
        return opening, closing
    items = item
    if high != 1:
        items = *item, Times((tokens.COMMA, *item), max(low - 1, 0), None if high is None else high - 1)
    return (opening, Times(items, 0, 1), closing) if low == 0 else (opening, *items, closing)


def string_symbol(language: Language) -> Terminal:
    """JSON strings whose value is in `language`, which is simple."""
    if language == EVERYTHING:
        return Terminal(tokens.ANY_STRING)
    return Terminal(string_terminal(language), sure=isinstance(language, Words))


def string_symbols(language: Language) -> list[Terminal]:
    """The same of any language, as alternatives; none for the empty one."""
    if language == NOTHING:
        return []
    if isinstance(language, Words) or language == EVERYTHING:
        return [string_symbol(language)]
    return [Terminal(text, sure=False) for text in string_terminals(language)]


def _either(scalars: list[Terminal]) -> Terminal:
    distinct = list(dict.fromkeys(scalars))
    if len(distinct) == 1:
        return distinct[0]
    return Terminal(
        "(" + " | ".join(f"({scalar.text})" for scalar in distinct) + ")",
        sure=any(scalar.sure for scalar in distinct),
    )


def _says_nothing(literal: tuple[Place, bool]) -> bool:
    place, holds = literal
    return holds and (place.schema is True or place.schema == {})
