"""Arrays whose items must differ, where items come from a small set of values: each value is used at most once.

A rule with a parameter remembers in one bit a value which have been used; as many bits are set as there are items.
"""

from decimal import Decimal

from basemlx.engine.grammar.cases import ArrayCase, BooleanCase, Goal, NumberCase, StringCase
from basemlx.engine.grammar.json import tokens
from basemlx.engine.grammar.json.builder import Builder, string_symbol
from basemlx.engine.grammar.languages import Words, words
from basemlx.engine.grammar.numbers import NumberSet
from basemlx.engine.grammar.rules import Production, Rule, Terminal, When

_MAX_VALUES = 60
_MAX_PREFIX = 12

_Value = tuple[str, str | bool | Decimal | None]


def unique_productions(builder: Builder, case: ArrayCase) -> list[Production] | None:
    """None, and a gap, where the values cannot be listed."""
    assert case.unique is not None
    goals = list(case.prefix)
    high = case.high
    if high is not None and high <= len(goals):
        goals = goals[:high]
    elif not builder.expander.is_possible(case.rest):
        high = len(goals)
    else:
        goals.append(case.rest)
    bits: dict[_Value, int] = {}
    listed: list[dict[_Value, Terminal]] = []
    for goal in goals:
        found = _values(builder, goal)
        if found is None or len(bits | dict.fromkeys(found, 0)) > _MAX_VALUES:
            builder.expander.gap_at(case.unique, "items that are not of a small set of values")
            return None
        for value in found:
            bits.setdefault(value, len(bits))
        listed.append(found)
    if case.counts or len(case.prefix) > _MAX_PREFIX:
        builder.expander.gap_at(case.unique, "beside contains, or many first items")
        return None
    rules = [Rule(builder.fresh("u")) for _ in listed]
    last = len(rules) - 1
    ends_after_prefix = high is not None and high <= len(case.prefix)
    for at, found in enumerate(listed):
        rest = at == last and not ends_after_prefix
        sides: list[Production] = []
        if rest or at >= case.low:
            sides.append((When(f"bit_count_ge(_, {case.low})"),))
        for value, terminal in found.items():
            conditions = f"bit_clear({bits[value]})"
            if rest and high is not None:
                conditions = f"and({conditions}, bit_count_lt(_, {high}))"
            following: Production = ()
            if rest or at < last:
                following = (Rule(rules[at if rest else at + 1].name, f"set_bit({bits[value]})"),)
            # The first item has no comma before it: with no bit set yet, it is the first.
            if at == 0 and rest:
                first = f"and({conditions}, is_zeros([0:64]))"
                sides.append((terminal, *following, When(first)))
                conditions = f"and({conditions}, not(is_zeros([0:64])))"
                sides.append((tokens.COMMA, terminal, *following, When(conditions)))
            else:
                comma: Production = (tokens.COMMA,) if at else ()
                sides.append((*comma, terminal, *following, When(conditions)))
        builder.add_parametric(rules[at].name, sides)
    if not rules:
        return [(tokens.OPEN_ARRAY, tokens.CLOSE_ARRAY)] if case.low == 0 else []
    return [(tokens.OPEN_ARRAY, Rule(rules[0].name, "0x0"), tokens.CLOSE_ARRAY)]


def _values(builder: Builder, goal: Goal) -> dict[_Value, Terminal] | None:
    """The values that satisfy `goal`, if they are few scalars."""
    found: dict[_Value, Terminal] = {}
    expander = builder.expander
    if expander.goal_cases(goal, "null"):
        found["null", None] = Terminal('"null"')
    for case in expander.goal_cases(goal, "boolean"):
        assert isinstance(case, BooleanCase)
        for value in case.values:
            found["boolean", value] = Terminal('"true"' if value else '"false"')
    for case in expander.goal_cases(goal, "number"):
        assert isinstance(case, NumberCase)
        allowed = case.numbers.listed().allowed
        if allowed is None:
            return None
        for number in sorted(allowed):
            terminal = NumberSet(allowed=frozenset({number})).terminal()
            assert terminal is not None
            found["number", number] = Terminal(terminal)
    for case in expander.goal_cases(goal, "string"):
        assert isinstance(case, StringCase)
        if not isinstance(case.language, Words):
            return None
        for text in sorted(case.language.texts):
            found["string", text] = string_symbol(words(text))
    for kind in ("array", "object"):
        if any(expander.is_possible_case(part) for part in expander.goal_cases(goal, kind)):
            return None
    return found
