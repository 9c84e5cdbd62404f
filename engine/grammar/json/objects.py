"""How an object is laid out: declared properties in the order of the schema, then others in any order.

Where the schema says no order (names that `required` adds, properties put together from several schemas, a constant)
names come in any order, if they are few: a rule with a parameter remembers in one bit a name which have come. A name
can come once only, declared ones by construction; for others this cannot be told, so nothing here relies on it (a
JSON reader takes the last of two): several further properties count as one towards `minProperties`, and one that must
exist comes last.
"""

from dataclasses import dataclass
from itertools import product

from basemlx.engine.grammar.cases import ANYTHING, Goal, KeySet, ObjectCase, join
from basemlx.engine.grammar.document import SYNTHETIC
from basemlx.engine.grammar.json import tokens
from basemlx.engine.grammar.json.builder import Builder, string_symbol
from basemlx.engine.grammar.languages import EVERYTHING, Language, Words, both, negation, words
from basemlx.engine.grammar.recogniser import TooCostly, contains, is_empty
from basemlx.engine.grammar.rules import Production, Rule, Symbol, Times, When

_MAX_RULES = 6
_MAX_VARIANTS = 64
_MAX_COUNT = 64
_MAX_LOOSE = 40
_MAX_MIXED = 8


@dataclass(frozen=True)
class _Layout:
    """One way the object can be: names with their goals and whether they must come, in order and in any order, pairs
    that may follow any number of times, and pairs of which one must come last (None: no such demand)."""

    declared: tuple[tuple[str, Goal, bool], ...]
    loose: tuple[tuple[str, Goal, bool], ...]
    others: tuple[Production, ...]
    last: tuple[Production, ...] | None


def object_productions(builder: Builder, case: ObjectCase) -> list[Production]:
    productions: list[Production] = []
    for layout in _layouts(builder, case):
        inside = _Writer(builder, case, layout).inside()
        if inside is not None:
            productions.append((tokens.OPEN_OBJECT, *inside, tokens.CLOSE_OBJECT))
    return productions


def _layouts(builder: Builder, case: ObjectCase) -> list[_Layout]:
    names = list(dict.fromkeys([*(name for name, _ in case.properties), *case.required]))
    required = set(case.required)
    declared: dict[str, Goal] = {}
    for name in names:
        if name in case.forbidden or not _is_allowed(case, name):
            if name in required:
                return []
            continue
        declared[name] = case.goal_of(name)
    taken = frozenset(names) | case.forbidden
    others = _other_pairs(builder, case, taken, EVERYTHING, ANYTHING)
    if not case.some:
        return [_layout(case, declared, required, others, None)]
    # Each property that must exist is one of the declared ones, or a further one.
    options: list[list[str | None]] = []
    for keys, _ in case.some:
        options.append([*(name for name in declared if name in keys), None])
    variants = list(product(*options))
    if len(variants) > _MAX_VARIANTS:
        builder.expander.gap_at(case.some_pointer, "a property among many that must exist")
        return [_layout(case, declared, required, others, None)]
    layouts: list[_Layout] = []
    for chosen in variants:
        goals, needed = dict(declared), set(required)
        further: list[tuple[KeySet, Goal]] = []
        for one, (keys, goal) in zip(chosen, case.some, strict=True):
            if one is None:
                further.append((keys, goal))
            else:
                goals[one] = join(goals[one], goal)
                needed.add(one)
        last: tuple[Production, ...] | None = None
        if len(further) > 1:
            builder.expander.gap_at(case.some_pointer, "several properties that must exist")
        elif further:
            keys, goal = further[0]
            last = _other_pairs(builder, case, taken, keys.language(), goal)
            if not last:
                continue
        layouts.append(_layout(case, goals, needed, others, last))
    return layouts


def _layout(
    case: ObjectCase,
    goals: dict[str, Goal],
    needed: set[str],
    others: tuple[Production, ...],
    last: tuple[Production, ...] | None,
) -> _Layout:
    named = dict(case.properties)
    is_ordered = len(case.sources) <= 1 and not any(SYNTHETIC in source for source in case.sources)
    loose = [name for name in goals if name not in named or not is_ordered]
    if len(loose) > (_MAX_LOOSE if is_ordered else _MAX_MIXED) or _counts_matter(
        case, len(needed) + bool(last)
    ):
        loose = []
    loose.sort(key=lambda name: name not in needed)  # the bits of needed ones come first
    return _Layout(
        tuple((name, goal, name in needed) for name, goal in goals.items() if name not in loose),
        tuple((name, goals[name], name in needed) for name in loose),
        others,
        last,
    )


def _counts_matter(case: ObjectCase, must: int) -> bool:
    """Whether limits on the number of properties say more than what must come anyway."""
    return case.high is not None or case.low > must


def _is_allowed(case: ObjectCase, name: str) -> bool:
    return contains(case.names, name)


def _other_pairs(
    builder: Builder, case: ObjectCase, taken: frozenset[str], keys: Language, goal: Goal
) -> tuple[Production, ...]:
    """Name and value of properties that are not declared: names of `keys`, values of `goal` and of every rule that the
    name falls under. Names are divided by the rules they fall under."""
    base = both(case.names, keys, negation(words(*taken)) if taken else EVERYTHING)
    by_keys: dict[KeySet, Goal] = {}
    for key_set, rule_goal in case.rules:
        by_keys[key_set] = join(by_keys.get(key_set, ANYTHING), rule_goal)
    if len(by_keys) > _MAX_RULES:
        raise TooCostly("too many patterns of property names")
    pairs: list[Production] = []
    for falls in product((True, False), repeat=len(by_keys)):
        language, value = base, goal
        for inside, (key_set, rule_goal) in zip(falls, by_keys.items(), strict=True):
            if not inside and key_set.others and not key_set.patterns and key_set.names <= taken:
                language = Words(frozenset())  # all names but declared ones: none is outside
                break
            part = key_set.language()
            language = both(language, part if inside else negation(part))
            if inside:
                value = join(value, rule_goal)
        if language == Words(frozenset()) or not builder.expander.is_possible(value):
            continue
        if is_empty(language):
            continue
        pairs.append(_pair(builder.string(language), builder.value(value)))
    return tuple(pairs)


def _pair(name: Symbol, value: Symbol) -> Production:
    """A property. The colon is a lexeme of its own; see `string_terminal`."""
    return name, tokens.COLON, value


class _Writer:
    """Writes one layout as rules; states are how many declared properties were passed, whether one came, and how many
    (as far as limits on their number ask)."""

    def __init__(self, builder: Builder, case: ObjectCase, layout: _Layout) -> None:
        self._builder = builder
        self._declared = layout.declared
        self._last = layout.last
        self._low, self._high = case.low, case.high
        self._pointer = case.low_pointer
        self._counts = _counts_matter(
            case, sum(needed for _, _, needed in layout.declared + layout.loose) + bool(layout.last)
        )
        self._rules: dict[tuple[int, bool, int], Rule] = {}
        self._waiting: list[tuple[list[Production], int, bool, int]] = []
        self._loose = layout.loose
        self._other: Rule | None = None
        if layout.others:
            self._other = builder.add(builder.fresh("p"), list(layout.others))
        self._final: Rule | None = None
        if layout.last:
            self._final = builder.add(builder.fresh("q"), list(layout.last))

    def inside(self) -> Production | None:
        """What stands between the braces; None if nothing fits."""
        cap = max(self._low, self._high or 0)
        if self._counts and (cap > _MAX_COUNT or cap * len(self._declared) > 4000):
            self._builder.expander.gap_at(self._pointer or "/maxProperties", "a large count")
            self._counts = False
        first = self._after(0, False, 0)
        while self._waiting:
            self._write(*self._waiting.pop())
        return (first,)

    def _after(self, at: int, any_yet: bool, count: int) -> Symbol:
        """What may follow once the first `at` declared properties were written or left out."""
        count = min(count, max(self._low, self._high or 0) + 1) if self._counts else 0
        key = at, any_yet, count
        if key in self._rules:
            return self._rules[key]
        sides: list[Production] = []
        rule = self._rules[key] = self._builder.add(self._builder.fresh("o"), sides)
        self._waiting.append((sides, at, any_yet, count))
        return rule

    def _write(self, sides: list[Production], at: int, any_yet: bool, count: int) -> None:
        if at == len(self._declared):
            sides += self._end(any_yet, count)
            return
        name, goal, needed = self._declared[at]
        comma: Production = (tokens.COMMA,) if any_yet else ()
        if self._builder.expander.is_possible(goal) and not (
            self._counts and self._high is not None and count >= self._high
        ):
            sides.append(
                (
                    *comma,
                    *_pair(string_symbol(words(name)), self._builder.value(goal)),
                    self._after(at + 1, True, count + 1),
                )
            )
        if not needed:
            sides.append((self._after(at + 1, any_yet, count),))

    def _end(self, any_yet: bool, count: int) -> list[Production]:
        """Further properties, `count` having come."""
        if self._loose:
            return self._in_any_order(any_yet)
        low, high = 0, None
        if self._counts:
            low = max(0, self._low - count)
            high = None if self._high is None else self._high - count
            if high is not None and high < 0:
                return []
        final = self._final
        if low > 1 and (final or self._other):
            # Two further properties may have one name, and then count once.
            self._builder.expander.gap_at(
                self._pointer or "/minProperties", "several properties without fixed names"
            )
            low = 1
        if final is not None:
            before: Production = ()
            if self._other is not None:
                before = (Times((self._other, tokens.COMMA), 0, None if high is None else high - 1),)
            comma: Production = (tokens.COMMA,) if any_yet else ()
            return [(*comma, *before, final)] if high is None or high > 0 else []
        if self._other is None or high == 0:
            return [()] if low == 0 else []
        more = None if high is None else high - 1
        if any_yet:
            return [(Times((tokens.COMMA, self._other), low, high),)]
        some: Production = (self._other, Times((tokens.COMMA, self._other), 0, more))
        return [some] if low else [(), some]

    def _in_any_order(self, any_yet: bool) -> list[Production]:
        """Properties without an order among them, and further ones between and after them."""
        needed = sum(must for _, _, must in self._loose)
        complete = f"is_ones([0:{needed}])" if needed else "true"
        between: Production = () if self._other is None else (Times((tokens.COMMA, self._other), 0, None),)
        tail = Rule(self._builder.fresh("l"))
        pairs = [
            _pair(string_symbol(words(name)), self._builder.value(goal))
            if self._builder.expander.is_possible(goal)
            else None
            for name, goal, _ in self._loose
        ]
        end: Production = () if self._final is None else (tokens.COMMA, self._final)
        sides: list[Production] = [(*between, *end, When(complete))]
        for at, pair in enumerate(pairs):
            if pair is not None:
                following = Rule(tail.name, f"set_bit({at})")
                sides.append((*between, tokens.COMMA, *pair, following, When(f"bit_clear({at})")))
        self._builder.add_parametric(tail.name, sides)
        if any_yet:
            return [(Rule(tail.name, "0x0"),)]
        found: list[Production] = [
            (*pair, Rule(tail.name, hex(1 << at))) for at, pair in enumerate(pairs) if pair is not None
        ]
        if self._other is not None:
            found.append((self._other, Rule(tail.name, "0x0")))
        if not needed:
            found.append(() if self._final is None else (self._final,))
        return found
