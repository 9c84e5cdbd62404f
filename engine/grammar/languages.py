"""Regular languages over text, as small trees: the common form of patterns, formats, lengths, names and enumerations.

A tree says which texts belong to a language. Intersection and complement are nodes like any other, because the lexer of
llguidance has them; whatever is built here stays exact under `not`, `oneOf` and the like. Knows nothing of JSON Schema,
of JSON's escapes or of a grammar's syntax (`terminals` writes trees down), and nothing of ECMAScript (`patterns`
parses).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

MAX_CODE_POINT = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)

Ranges = tuple[tuple[int, int], ...]


class Language:
    """A set of texts. Trees are immutable and compare by structure."""

    @cached_property
    def nullable(self) -> bool:
        """Whether the empty text belongs to it."""
        raise NotImplementedError

    @cached_property
    def weight(self) -> int:
        """A bound on how large the written-down form is, in characters or so."""
        raise NotImplementedError


@dataclass(frozen=True, eq=True)
class Chars(Language):
    """One character out of sorted, disjoint, inclusive ranges of code points; surrogates are no characters."""

    ranges: Ranges

    @cached_property
    def nullable(self) -> bool:
        return False

    @cached_property
    def weight(self) -> int:
        return 8 + 8 * len(self.ranges)


@dataclass(frozen=True, eq=True)
class Seq(Language):
    parts: tuple[Language, ...]

    @cached_property
    def nullable(self) -> bool:
        return all(part.nullable for part in self.parts)

    @cached_property
    def weight(self) -> int:
        return 2 + sum(part.weight for part in self.parts)


@dataclass(frozen=True, eq=True)
class Alt(Language):
    parts: tuple[Language, ...]

    @cached_property
    def nullable(self) -> bool:
        return any(part.nullable for part in self.parts)

    @cached_property
    def weight(self) -> int:
        return 2 + sum(part.weight for part in self.parts)


@dataclass(frozen=True, eq=True)
class Repeat(Language):
    """`low` to `high` times; high None is without bound."""

    part: Language
    low: int
    high: int | None

    @cached_property
    def nullable(self) -> bool:
        return self.low == 0 or self.part.nullable

    @cached_property
    def weight(self) -> int:
        return 4 + self.part.weight


@dataclass(frozen=True, eq=True)
class And(Language):
    parts: tuple[Language, ...]

    @cached_property
    def nullable(self) -> bool:
        return all(part.nullable for part in self.parts)

    @cached_property
    def weight(self) -> int:
        return 4 + sum(part.weight for part in self.parts)


@dataclass(frozen=True, eq=True)
class Not(Language):
    """Every text that is not in `part`."""

    part: Language

    @cached_property
    def nullable(self) -> bool:
        return not self.part.nullable

    @cached_property
    def weight(self) -> int:
        return 8 + self.part.weight


@dataclass(frozen=True, eq=True)
class Words(Language):
    """A finite set of texts; kept apart from `Alt` because thousands of them are common and can be compared."""

    texts: frozenset[str]

    @cached_property
    def nullable(self) -> bool:
        return "" in self.texts

    @cached_property
    def weight(self) -> int:
        return 2 + sum(len(text) + 1 for text in self.texts)


EMPTY_TEXT = Words(frozenset({""}))
NOTHING = Words(frozenset())


def ranges_of(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, merged, without surrogates."""
    low, high = _SURROGATES
    cut: list[tuple[int, int]] = []
    for start, end in pairs:
        if start < low:
            cut.append((start, min(end, low - 1)))
        if end > high:
            cut.append((max(start, high + 1), end))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(cut):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def inverted(ranges: Ranges) -> Ranges:
    """All other characters."""
    result, position = [], 0
    for start, end in ranges:
        if start > position:
            result.append((position, start - 1))
        position = end + 1
    if position <= MAX_CODE_POINT:
        result.append((position, MAX_CODE_POINT))
    return ranges_of(result)


ANY_CHAR = Chars(ranges_of([(0, MAX_CODE_POINT)]))
EVERYTHING = Repeat(ANY_CHAR, 0, None)


def seq(*parts: Language) -> Language:
    flat: list[Language] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        if part == EMPTY_TEXT:
            continue
        flat.extend(part.parts if isinstance(part, Seq) else (part,))
    if not flat:
        return EMPTY_TEXT
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(*parts: Language) -> Language:
    flat: dict[Language, None] = {}
    words: frozenset[str] = frozenset()
    for part in parts:
        if part == EVERYTHING:
            return EVERYTHING
        if isinstance(part, Words):
            words |= part.texts
            continue
        for leaf in part.parts if isinstance(part, Alt) else (part,):
            flat[leaf] = None
    if words:
        flat[Words(words)] = None
    if not flat:
        return NOTHING
    return next(iter(flat)) if len(flat) == 1 else Alt(tuple(flat))


def both(*parts: Language) -> Language:
    """Intersection."""
    flat: dict[Language, None] = {}
    words: frozenset[str] | None = None
    low: int = 0
    high: int | None = (
        None  # lengths are one part: two that overlap cost a walk over the vocabulary each step
    )
    for part in parts:
        for leaf in part.parts if isinstance(part, And) else (part,):
            if leaf == EVERYTHING:
                continue
            if isinstance(leaf, Words):
                words = leaf.texts if words is None else words & leaf.texts
            elif isinstance(leaf, Repeat) and leaf.part == ANY_CHAR:
                low = max(low, leaf.low)
                high = _least(high, leaf.high)
            else:
                flat[leaf] = None
    if high is not None and low > high:
        return NOTHING
    if high == 0:
        words = EMPTY_TEXT.texts if words is None else words
    if words is not None:
        words = frozenset(text for text in words if low <= len(text) and (high is None or len(text) <= high))
    elif (low, high) != (0, None):
        flat[of_length(low, high)] = None
    if words is not None:
        for leaf in list(flat):
            if isinstance(leaf, Not) and isinstance(leaf.part, Words):
                words -= leaf.part.texts
                del flat[leaf]
        if not words:
            return NOTHING
        flat = {Words(words): None, **flat}
    if not flat:
        return EVERYTHING
    if any(negation(leaf) in flat for leaf in flat if isinstance(leaf, Not)):
        return NOTHING
    return next(iter(flat)) if len(flat) == 1 else And(tuple(flat))


def _least(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return a if b is None else b
    return min(a, b)


def negation(part: Language) -> Language:
    if isinstance(part, Not):
        return part.part
    if isinstance(part, Repeat) and part.part == ANY_CHAR and part.high is None:
        return of_length(0, part.low - 1)
    if isinstance(part, Repeat) and part.part == ANY_CHAR and part.low == 0 and part.high is not None:
        return of_length(part.high + 1, None)
    if part == EMPTY_TEXT:
        return of_length(1, None)
    if part == EVERYTHING:
        return NOTHING
    if part == NOTHING:
        return EVERYTHING
    return Not(part)


def repeat(part: Language, low: int, high: int | None) -> Language:
    if high == 0 or part == EMPTY_TEXT:
        return EMPTY_TEXT
    if part == NOTHING:
        return EMPTY_TEXT if low == 0 else NOTHING
    return part if (low, high) == (1, 1) else Repeat(part, low, high)


def words(*texts: str) -> Language:
    return Words(frozenset(texts))


def of_length(low: int, high: int | None) -> Language:
    """Texts of `low` to `high` code points, as JSON Schema counts."""
    return EVERYTHING if (low, high) == (0, None) else repeat(ANY_CHAR, low, high)
