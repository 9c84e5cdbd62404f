"""ECMAScript regular expressions (the syntax of JSON Schema's `pattern`, Unicode mode) to languages.

A pattern matches a text when it matches anywhere in it, so `^`, `$` and look-ahead are turned into statements about the
whole text: a look-ahead intersects what follows, an end anchor demands that nothing does. Back-references, look-behind,
word boundaries and inline flags are refused by name; so is whatever is not ECMAScript, since another reading of it
would change its meaning. Knows nothing of JSON.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from basemlx.engine.grammar.languages import (
    ANY_CHAR,
    EMPTY_TEXT,
    EVERYTHING,
    MAX_CODE_POINT,
    NOTHING,
    Chars,
    Language,
    Ranges,
    alt,
    both,
    inverted,
    negation,
    ranges_of,
    repeat,
    seq,
)

MAX_PATTERN_CHARS = 4096
MAX_GROUP_DEPTH = 50
MAX_REPEAT = 100_000
_MAX_UNROLLED = 16
_MAX_WEIGHT = 200_000


class UnsupportedPattern(ValueError):
    """The pattern is not valid ECMAScript, or uses what no regular language can express; the text says what."""


# Syntax trees: languages, and these for what depends on where in the text one is.
@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True)
class _End:
    pass


@dataclass(frozen=True)
class _Ahead:
    inside: "_Tree"
    negative: bool


@dataclass(frozen=True)
class _Sequence:
    parts: tuple["_Tree", ...]


@dataclass(frozen=True)
class _Choice:
    parts: tuple["_Tree", ...]


@dataclass(frozen=True)
class _Times:
    inside: "_Tree"
    low: int
    high: int | None


_Tree = Language | _Start | _End | _Ahead | _Sequence | _Choice | _Times


@lru_cache(maxsize=1024)
def parse_pattern(pattern: str, *, max_chars: int | None = MAX_PATTERN_CHARS) -> Language:
    """The texts that `pattern` matches somewhere. `max_chars` None is for patterns of our own. Raises
    UnsupportedPattern."""
    if max_chars is not None and len(pattern) > max_chars:
        raise UnsupportedPattern(f"the pattern has more than {max_chars} characters")
    tree = _Parser(pattern).parse()
    at_start = _suffixes(tree, True, lambda _: EVERYTHING)
    later = _suffixes(tree, False, lambda _: EVERYTHING)
    # A match that begins at position 0, or at a later one, where `^` is false.
    found = seq(EVERYTHING, later) if at_start == later else alt(at_start, seq(ANY_CHAR, EVERYTHING, later))
    if found.weight > _MAX_WEIGHT:
        raise UnsupportedPattern("the pattern is too large once written out")
    return found


def _suffixes(tree: _Tree, at_start: bool, then: Callable[[bool], Language]) -> Language:
    """The texts from here to the end of the whole text where `tree` matches here and `then` holds after it."""
    match tree:
        case Language():
            if not at_start or tree == EMPTY_TEXT:
                return seq(tree, then(at_start))
            inside, outside = then(True), then(False)
            if inside == outside or not tree.nullable:
                return seq(tree, outside)
            consumed = both(tree, seq(ANY_CHAR, EVERYTHING))
            return alt(inside, seq(consumed, outside))
        case _Start():
            return then(True) if at_start else NOTHING
        case _End():
            return EMPTY_TEXT if then(at_start).nullable else NOTHING
        case _Ahead(inside=ahead, negative=negative):
            seen = _suffixes(ahead, at_start, lambda _: EVERYTHING)
            return both(negation(seen) if negative else seen, then(at_start))
        case _Sequence(parts=parts):
            if not parts:
                return then(at_start)
            return _suffixes(parts[0], at_start, lambda start: _suffixes(_Sequence(parts[1:]), start, then))
        case _Choice(parts=parts):
            return alt(*(_suffixes(part, at_start, then) for part in parts))
        case _Times(inside=part, low=low, high=high):
            if high is None or high > _MAX_UNROLLED:
                raise UnsupportedPattern("an anchor or look-ahead inside an unbounded repetition")

            def times(count: int, start: bool) -> Language:
                more = (
                    _suffixes(part, start, lambda after: times(count + 1, after)) if count < high else NOTHING
                )
                return alt(more, then(start)) if count >= low else more

            return times(0, at_start)


def _sequence(parts: list[_Tree]) -> _Tree:
    """Neighbouring languages are joined, so that only what needs it is looked at piece by piece."""
    joined: list[_Tree] = []
    for part in parts:
        if joined and isinstance(part, Language) and isinstance(joined[-1], Language):
            joined[-1] = seq(joined[-1], part)
        else:
            joined.append(part)
    if len(joined) == 1:
        return joined[0]
    return _Sequence(tuple(joined)) if joined else EMPTY_TEXT


_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE = ranges_of(
    [
        (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
        (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
    ]
)  # fmt: skip
_DOT = inverted(ranges_of([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]))
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_CATEGORIES = {
    "letter": "L", "lowercase_letter": "Ll", "uppercase_letter": "Lu", "titlecase_letter": "Lt",
    "modifier_letter": "Lm", "other_letter": "Lo", "mark": "M", "combining_mark": "M", "nonspacing_mark": "Mn",
    "spacing_mark": "Mc", "enclosing_mark": "Me", "number": "N", "decimal_number": "Nd", "digit": "Nd",
    "letter_number": "Nl", "other_number": "No", "punctuation": "P", "punct": "P", "symbol": "S", "separator": "Z",
    "space_separator": "Zs", "math_symbol": "Sm", "currency_symbol": "Sc", "other": "C", "control": "Cc",
    "cntrl": "Cc", "format": "Cf", "dash_punctuation": "Pd", "connector_punctuation": "Pc",
}  # fmt: skip


@lru_cache(maxsize=64)
def _category(name: str) -> Ranges:
    wanted = _CATEGORIES.get(name.lower(), name)
    if wanted in ("Any", "ANY"):
        return ANY_CHAR.ranges
    if wanted == "ASCII":
        return ((0, 0x7F),)
    found = [run for category, runs in _runs().items() if category.startswith(wanted) for run in runs]
    if not found or len(wanted) > 2:
        raise UnsupportedPattern(f"the Unicode property {name[:40]!r}")
    return ranges_of(found)


@lru_cache(maxsize=1)
def _runs() -> dict[str, list[tuple[int, int]]]:
    """Where the characters of each category are, in one walk through Unicode."""
    found: dict[str, list[tuple[int, int]]] = {}
    start, before = 0, "Cc"
    # Planes 4 to 13 are unassigned.
    for span in (range(0x40000), range(0xE0000, MAX_CODE_POINT + 1)):
        for code, category in zip(span, map(unicodedata.category, map(chr, span)), strict=True):
            if category != before:
                found.setdefault(before, []).append((start, code - 1))
                start, before = code, category
    found.setdefault(before, []).append((start, MAX_CODE_POINT))
    return found


class _Parser:
    def __init__(self, pattern: str) -> None:
        # Surrogate pairs written as two \u escapes are one character; lone ones in the text are none.
        self._text = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> _Tree:
        tree = self._choice()
        if self._at < len(self._text):
            raise UnsupportedPattern("an unmatched )")
        return tree

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        if self._peek(text):
            self._at += len(text)
            return True
        return False

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise UnsupportedPattern("the pattern ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _choice(self) -> _Tree:
        self._depth += 1
        if self._depth > MAX_GROUP_DEPTH:
            raise UnsupportedPattern(f"groups nested more than {MAX_GROUP_DEPTH} deep")
        branches = [self._concatenation()]
        while self._take("|"):
            branches.append(self._concatenation())
        self._depth -= 1
        if len(branches) == 1:
            return branches[0]
        plain = [branch for branch in branches if isinstance(branch, Language)]
        if len(plain) == len(branches):
            return alt(*plain)
        return _Choice(tuple(branches))

    def _concatenation(self) -> _Tree:
        parts: list[_Tree] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._quantified(self._atom()))
        return _sequence(parts)

    def _quantified(self, atom: _Tree) -> _Tree:
        bounds: tuple[int, int | None] | None = None
        if self._take("*"):
            bounds = 0, None
        elif self._take("+"):
            bounds = 1, None
        elif self._take("?"):
            bounds = 0, 1
        else:
            bounds = self._braces()
        if bounds is None:
            return atom
        self._take("?")  # lazy or greedy: the same texts
        if self._at < len(self._text) and (self._text[self._at] in "*+?" or self._is_braces()):
            raise UnsupportedPattern("a quantifier after a quantifier")
        if isinstance(atom, _Start | _End | _Ahead):
            raise UnsupportedPattern("a quantifier after an assertion")
        low, high = bounds
        if isinstance(atom, Language):
            return repeat(atom, low, high)
        return _Times(atom, low, high)

    def _is_braces(self) -> bool:
        at = self._at
        bounds = self._braces()
        self._at = at
        return bounds is not None

    def _braces(self) -> tuple[int, int | None] | None:
        """{n}, {n,} or {n,m}; anything else is literal text, as browsers have it."""
        end = self._text.find("}", self._at)
        if not self._peek("{") or end < 0:
            return None
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if not (low.isascii() and low.isdigit()) or (high and not (high.isascii() and high.isdigit())):
            return None
        if max(len(low), len(high)) > 6 or max(int(low), int(high or 0)) > MAX_REPEAT:
            raise UnsupportedPattern(f"a repetition of more than {MAX_REPEAT}")
        bounds = int(low), int(high) if high else (None if comma else int(low))
        if bounds[1] is not None and bounds[1] < bounds[0]:
            raise UnsupportedPattern("a repetition whose bounds are in the wrong order")
        self._at = end + 1
        return bounds

    def _atom(self) -> _Tree:
        char = self._next()
        match char:
            case "^":
                return _Start()
            case "$":
                return _End()
            case ".":
                return Chars(_DOT)
            case "[":
                return self._char_class()
            case "(":
                return self._group()
            case "\\":
                return self._escape_atom()
            case "*" | "+" | "?":
                raise UnsupportedPattern("a quantifier with nothing before it")
        return _char(ord(char))

    def _group(self) -> _Tree:
        ahead: bool | None = None
        if self._take("?"):
            if self._take("="):
                ahead = False
            elif self._take("!"):
                ahead = True
            elif self._take("<"):
                if self._peek("=") or self._peek("!"):
                    raise UnsupportedPattern("look-behind")
                end = self._text.find(">", self._at)
                if end < 0:
                    raise UnsupportedPattern("an unnamed group")
                self._at = end + 1
            elif not self._take(":"):
                raise UnsupportedPattern("an inline flag or a group that ECMAScript does not know")
        inside = self._choice()
        if not self._take(")"):
            raise UnsupportedPattern("an unclosed group")
        return inside if ahead is None else _Ahead(inside, ahead)

    def _escape_atom(self) -> _Tree:
        char = self._text[self._at] if self._at < len(self._text) else ""
        if char in ("b", "B"):
            raise UnsupportedPattern("a word boundary")
        if char in tuple("123456789") or (char == "k" and self._text.startswith("k<", self._at)):
            raise UnsupportedPattern("a back-reference")
        return Chars(self._escape())

    def _escape(self) -> Ranges:
        """After a backslash: the characters it stands for."""
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char.lower() in _CLASSES:
            return inverted(_CLASSES[char.lower()])
        if char in ("p", "P"):
            end = self._text.find("}", self._at)
            if not self._take("{") or end < 0:
                raise UnsupportedPattern(f"\\{char} without a property name")
            name = self._text[self._at : end]
            self._at = end + 1
            for prefix in ("General_Category=", "gc="):
                name = name.removeprefix(prefix)
            return _category(name) if char == "p" else inverted(_category(name))
        code = self._code_point(char)
        return ranges_of([(code, code)])

    def _code_point(self, char: str) -> int:
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "c":
            letter = self._next()
            if not (letter.isascii() and letter.isalpha()):
                raise UnsupportedPattern("\\c without a letter")
            return ord(letter) % 32
        if char == "0":
            if self._at < len(self._text) and self._text[self._at] in "0123456789":
                raise UnsupportedPattern("an octal escape")
            return 0
        if char == "x":
            return self._hex(2)
        if char == "u":
            if self._take("{"):
                end = self._text.find("}", self._at)
                digits = self._text[self._at : end] if end > 0 else ""
                self._at = end + 1
                return _hex_value(digits, 1, 6)
            high = self._hex(4)
            if 0xD800 <= high < 0xDC00 and self._take("\\u"):
                low = self._hex(4)
                if 0xDC00 <= low < 0xE000:
                    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
                raise UnsupportedPattern("half of a surrogate pair")
            if 0xD800 <= high < 0xE000:
                raise UnsupportedPattern("half of a surrogate pair")
            return high
        if char.isascii() and char.isalnum():
            raise UnsupportedPattern(f"the escape \\{char}")
        return ord(char)

    def _hex(self, count: int) -> int:
        digits = self._text[self._at : self._at + count]
        self._at += count
        return _hex_value(digits, count, count)

    def _char_class(self) -> Language:
        negative = self._take("^")
        found: list[tuple[int, int]] = []
        while not self._take("]"):
            low = self._class_atom()
            if self._peek("-") and not self._peek("-]"):
                self._at += 1
                high = self._class_atom()
                if not (_is_one(low) and _is_one(high)):
                    # \w-x and the like: browsers read the hyphen as itself.
                    found += [*low, (0x2D, 0x2D), *high]
                    continue
                if high[0][0] < low[0][0]:
                    raise UnsupportedPattern("a range whose ends are in the wrong order")
                found.append((low[0][0], high[0][0]))
            else:
                found += low
        ranges = ranges_of(found)
        ranges = inverted(ranges) if negative else ranges
        return Chars(ranges) if ranges else NOTHING

    def _class_atom(self) -> Ranges:
        char = self._next()
        if char != "\\":
            return ((ord(char), ord(char)),)
        if self._take("b"):
            return ((8, 8),)
        if self._take("-"):
            return ((0x2D, 0x2D),)
        if self._at < len(self._text) and self._text[self._at] in "123456789":
            raise UnsupportedPattern("an octal escape")
        return self._escape()


def _char(code: int) -> Language:
    ranges = ranges_of([(code, code)])
    return Chars(ranges) if ranges else NOTHING


def _is_one(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _hex_value(digits: str, low: int, high: int) -> int:
    if not low <= len(digits) <= high or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise UnsupportedPattern("a malformed hexadecimal escape")
    value = int(digits, 16)
    if value > MAX_CODE_POINT:
        raise UnsupportedPattern("an escape beyond Unicode")
    return value


__all__ = ["UnsupportedPattern", "parse_pattern"]
