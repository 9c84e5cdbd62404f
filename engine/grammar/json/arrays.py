"""How an array is laid out: fixed first items, then the others; with counts, an automaton over them."""

from itertools import product

from basemlx.engine.grammar.cases import ArrayCase, Count, Goal, join
from basemlx.engine.grammar.json import tokens
from basemlx.engine.grammar.json.builder import Builder, bracketed
from basemlx.engine.grammar.json.unique import unique_productions
from basemlx.engine.grammar.rules import Production, Rule, Times

_MAX_COUNTED_STATES = 400


def array_productions(builder: Builder, case: ArrayCase) -> list[Production]:
    if case.unique is not None and case.high not in (0, 1):
        found = unique_productions(builder, case)
        if found is not None:
            return found
    counts = [count for count in case.counts if count.low > 0 or count.high is not None]
    if counts:
        found = _counted(builder, case, counts)
        if found is not None:
            return found
    return _plain(builder, case)


def _plain(builder: Builder, case: ArrayCase) -> list[Production]:
    """First items one by one, then a repetition."""
    low, high = case.low, case.high
    prefix = case.prefix if high is None else case.prefix[:high]
    if not prefix:
        return [bracketed(tokens.OPEN_ARRAY, (builder.value(case.rest),), tokens.CLOSE_ARRAY, low, high)]
    length = len(prefix)
    # From the back: the tail after each first item, optional where the array may end before it.
    tail: Production = ()
    if high is None or high > length:
        more = None if high is None else high - length
        tail = (Times((tokens.COMMA, builder.value(case.rest)), max(low - length, 0), more),)
    for at in range(length - 1, 0, -1):
        item = builder.add(builder.fresh("a"), [(tokens.COMMA, builder.value(prefix[at]), *tail)])
        tail = (item,) if at < low else (Times((item,), 0, 1),)
    items: Production = (builder.value(prefix[0]), *tail)
    if low > 0:
        return [(tokens.OPEN_ARRAY, *items, tokens.CLOSE_ARRAY)]
    return [(tokens.OPEN_ARRAY, Times(items, 0, 1), tokens.CLOSE_ARRAY)]


def _counted(builder: Builder, case: ArrayCase, counts: list[Count]) -> list[Production] | None:
    """Items are counted towards goals as they come. An item that counts satisfies the goal; one that does not need not
    fail it unless there is an upper limit. None, and a gap, if there would be too many states."""
    start_of_rest = max([len(case.prefix), *(count.start for count in counts)])
    longest = max(start_of_rest, case.low, case.high or 0)
    if case.low <= start_of_rest and case.high is None:
        longest = start_of_rest
    longest = max(longest, 1)  # only the first item has no comma before it
    caps = [(count.high if count.high is not None else count.low) for count in counts]
    states = longest + 1
    for cap in caps:
        states *= cap + 1
    if states * 2 ** len(counts) > _MAX_COUNTED_STATES or len(counts) > 4:
        builder.expander.gap_at(counts[0].pointer, "counts that need too many states")
        return None
    names: dict[tuple[int, tuple[int, ...]], Rule] = {}

    def after(length: int, state: tuple[int, ...]) -> Rule:
        """What may be written from here on, `length` items (at most `longest`) having come."""
        key = min(length, longest), state
        if key in names:
            return names[key]
        sides: list[Production] = []
        rule = names[key] = builder.add(builder.fresh("c"), sides)
        complete = length >= case.low and all(
            done >= count.low for done, count in zip(state, counts, strict=True)
        )
        if complete:
            sides.append(())
        if case.high is not None and length >= case.high:
            return rule
        for chosen in product((True, False), repeat=len(counts)):
            following = _next(counts, caps, state, chosen, length)
            if following is None:
                continue
            goals: list[Goal] = [case.at(length)]
            for count, counted in zip(counts, chosen, strict=True):
                if counted:
                    goals.append(count.goal)
                elif count.high is not None and length >= count.start:
                    if len(count.goal) != 1:
                        builder.expander.gap_at(count.pointer, "an upper limit on a combination")
                        continue
                    goals.append(((count.goal[0][0], not count.goal[0][1]),))
            goal = join(*goals)
            if not builder.expander.is_possible(goal):
                continue
            separator: Production = (tokens.COMMA,) if length else ()
            sides.append((*separator, builder.value(goal), after(length + 1, following)))
        return rule

    return [(tokens.OPEN_ARRAY, after(0, (0,) * len(counts)), tokens.CLOSE_ARRAY)]


def _next(
    counts: list[Count], caps: list[int], state: tuple[int, ...], chosen: tuple[bool, ...], at: int
) -> tuple[int, ...] | None:
    following = []
    for count, cap, done, counted in zip(counts, caps, state, chosen, strict=True):
        if not counted:
            following.append(done)
            continue
        if at < count.start or (count.high is not None and done >= count.high):
            return None
        if count.high is None and done >= cap:
            return None  # enough: further items need not be looked at
        following.append(done + 1)
    return tuple(following)
