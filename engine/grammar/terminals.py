"""Languages written down as terminals of llguidance's Lark dialect, as plain text or as the inside of a JSON string.

In JSON a character may be written in several ways. Which ways are allowed is one fixed table per terminal: printable
ASCII as itself (the solidus also as \\/), quote and backslash with a backslash, control characters as \\n and the
like or \\u00XX, others as themselves or as \\uXXXX (a surrogate pair beyond the BMP). Each character has the same
spellings wherever it occurs, so a complement taken among written strings is the complement among texts. Where a
language divides the non-ASCII characters finely (\\p{L}), their \\u spellings are left out of the whole terminal:
they would be huge.
"""

from functools import lru_cache

from basemlx.engine.grammar.languages import (
    ANY_CHAR,
    EVERYTHING,
    Alt,
    And,
    Chars,
    Language,
    Not,
    Ranges,
    Repeat,
    Seq,
    Words,
    alt,
    inverted,
    repeat,
    seq,
)

_RARE = Chars(((1, 1),))  # see string_terminals; in JSON it has one spelling only
_NON_ASCII_PIECES = 12  # more ranges than this among non-ASCII characters: no \u spellings
_SHORT_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r"}
_HEX = "[0-9a-fA-F]"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ ,:;<>=!@%'`~&")


def plain_terminal(language: Language) -> str:
    """A Lark expression that matches the texts of `language` as they are."""
    return _Writer(json=False, unicode_escapes=False).expression(language)


def string_terminals(language: Language) -> tuple[str, ...]:
    """Lark expressions that together match every JSON string whose value is in `language`.

    Where one of the lexemes at hand goes on with a repetition of characters, llguidance sees at once that most tokens
    of a vocabulary fit; else it walks through all of them (1.4 ms a mask). A language that any beginning can be
    completed to (an unanchored pattern, one of two lengths, a complement) therefore gets a second lexeme, a part of it
    that says so plainly: any text without a certain rare character, that character, and then what completes it.
    """
    if _is_plain(language):
        return (string_terminal(language),)
    ending = _ending(language)
    if ending is None:
        return (string_terminal(language),)
    plainly = seq(repeat(Chars(inverted(_RARE.ranges)), 0, None), _RARE, ending)
    return string_terminal(language), _string_terminal(plainly, unicode_escapes=False)


def string_terminal(language: Language) -> str:
    """A Lark expression that matches every JSON string whose value is in `language`, quotes included.

    An intersection is written outermost, over whole strings, and with one complement at most: in that form llguidance
    sees at once that most tokens of a vocabulary fit (0.1 ms a mask instead of 1.5).
    """
    parts = language.parts if isinstance(language, And) else (language,)
    # Several automata side by side multiply: they do without the many states of \u spellings.
    is_product = sum(not isinstance(part, Not) for part in parts) > 1
    return _string_terminal(language, unicode_escapes=not is_product and not _divides_finely(language))


def _string_terminal(language: Language, unicode_escapes: bool) -> str:
    parts = language.parts if isinstance(language, And) else (language,)
    writer = _Writer(json=True, unicode_escapes=unicode_escapes)

    def whole(part: Language) -> str:
        if _is_regular(part):
            return f'/"{writer.regex(part)}"/'
        return f'("\\"" {writer.expression(part)} "\\"")'

    if not isinstance(language, And | Not):
        return whole(language)
    expressions = [whole(part) for part in parts if not isinstance(part, Not)] or [whole(EVERYTHING)]
    excluded = [part.part for part in parts if isinstance(part, Not)]
    if excluded:
        expressions.append(f"~({whole(alt(*excluded))})")
    return "(" + " & ".join(expressions) + ")"


def _is_plain(language: Language) -> bool:
    """Whether llguidance sees by itself what fits: any text that is long enough, or but for some words."""
    match language:
        case Repeat(part=part, high=None):
            return part == ANY_CHAR
        case Not(part=part):
            return isinstance(part, Words)
    return False


def _ending(language: Language) -> Language | None:
    """What makes any text with the rare character after it one of `language`; None if there is no such thing."""
    match language:
        case Seq(parts=parts):
            at = next((at for at, part in enumerate(parts) if part != ANY_CHAR), 0)
            if parts[at] == EVERYTHING:
                return seq(*parts[:at], *parts[at + 1 :])
            ending = _ending(parts[0]) if isinstance(parts[0], Alt) else None
            return None if ending is None else seq(ending, *parts[1:])
        case Repeat(part=part, high=None) if part == ANY_CHAR:
            return language
        case Not(part=part) if not _may_hold_rare(part):
            return EVERYTHING
        case Alt(parts=parts):
            return next((found for part in parts if (found := _ending(part)) is not None), None)
        case And(parts=parts):
            endings = [ending for part in parts if (ending := _ending(part)) is not None]
            # One after the other: all but the last must bear what follows.
            endings.sort(key=lambda ending: not _ends_anyhow(ending))
            return (
                seq(*endings) if len(endings) == len(parts) and all(map(_ends_anyhow, endings[:-1])) else None
            )
    return None


def _ends_anyhow(language: Language) -> bool:
    last = language.parts[-1] if isinstance(language, Seq) else language
    return isinstance(last, Repeat) and last.part == ANY_CHAR and last.high is None


def _may_hold_rare(language: Language) -> bool:
    match language:
        case Chars(ranges=ranges):
            return _holds(ranges, _RARE.ranges[0][0])
        case Words(texts=texts):
            return any(chr(_RARE.ranges[0][0]) in text for text in texts)
        case Seq(parts=parts) | Alt(parts=parts):
            return any(_may_hold_rare(part) for part in parts)
        case Repeat(part=part):
            return _may_hold_rare(part)
    return True


def literal(text: str) -> str:
    """A regular expression that matches exactly `text`."""
    return "".join(char if char in _PLAIN else f"\\x{{{ord(char):X}}}" for char in text)


class _Writer:
    def __init__(self, json: bool, unicode_escapes: bool) -> None:
        self._json = json
        self._unicode_escapes = unicode_escapes

    def expression(self, language: Language) -> str:
        """Lark: `/regex/` where one suffices, else its operators."""
        if _is_regular(language):
            return f"/{self.regex(language) or '()'}/"
        match language:
            case Seq(parts=parts):
                return "(" + " ".join(self.expression(part) for part in _joined(parts)) + ")"
            case Alt(parts=parts):
                return "(" + " | ".join(self.expression(part) for part in parts) + ")"
            case Repeat(part=part, low=low, high=high):
                return f"({self.expression(part)}){{{low},{'' if high is None else high}}}"
            case And(parts=parts):
                positive = [self.expression(part) for part in parts if not isinstance(part, Not)]
                negative = [f"~({self.expression(part.part)})" for part in parts if isinstance(part, Not)]
                if not positive:
                    positive = [self.expression(EVERYTHING)]
                return "(" + " & ".join(positive + negative) + ")"
            case Not(part=part):
                return f"({self.expression(EVERYTHING)} & ~({self.expression(part)}))"
        raise AssertionError(language)

    def regex(self, language: Language) -> str:
        match language:
            case Chars(ranges=ranges):
                return _json_class(ranges, self._unicode_escapes) if self._json else _class(ranges)
            case Words(texts=texts):
                if not texts:
                    return "[a&&b]"
                return "(?:" + "|".join(self._word(text) for text in sorted(texts)) + ")"
            case Seq(parts=parts):
                return "".join(self.regex(part) for part in parts)
            case Alt(parts=parts):
                return "(?:" + "|".join(self.regex(part) for part in parts) + ")"
            case Repeat(part=part, low=low, high=high):
                suffix = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, high))
                if suffix is None:
                    suffix = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
                return f"(?:{self.regex(part)}){suffix}"
        raise AssertionError(language)

    def _word(self, text: str) -> str:
        if not self._json:
            return literal(text)
        return "".join(
            char if char in _PLAIN else _json_class(((ord(char), ord(char)),), self._unicode_escapes)
            for char in text
        )


def _is_regular(language: Language) -> bool:
    match language:
        case And() | Not():
            return False
        case Seq(parts=parts) | Alt(parts=parts):
            return all(_is_regular(part) for part in parts)
        case Repeat(part=part):
            return _is_regular(part)
    return True


def _joined(parts: tuple[Language, ...]) -> list[Language]:
    """Neighbours that one regular expression can hold are put into one."""
    joined: list[Language] = []
    for part in parts:
        if joined and _is_regular(part) and _is_regular(joined[-1]):
            before = joined[-1].parts if isinstance(joined[-1], Seq) else (joined[-1],)
            joined[-1] = Seq((*before, part))
        else:
            joined.append(part)
    return joined


def _divides_finely(language: Language) -> bool:
    match language:
        case Chars(ranges=ranges):
            return sum(1 for _, end in ranges if end >= 0x80) > _NON_ASCII_PIECES
        case Seq(parts=parts) | Alt(parts=parts) | And(parts=parts):
            return any(_divides_finely(part) for part in parts)
        case Repeat(part=part) | Not(part=part):
            return _divides_finely(part)
    return False


def _code(code: int) -> str:
    return f"\\x{{{code:X}}}"


def _class(ranges: Ranges) -> str:
    if ranges == ANY_CHAR.ranges:
        return "(?s:.)"
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return literal(chr(ranges[0][0]))
    return "[" + "".join(_code(a) if a == b else f"{_code(a)}-{_code(b)}" for a, b in ranges) + "]"


@lru_cache(maxsize=4096)
def _json_class(ranges: Ranges, unicode_escapes: bool) -> str:
    """All spellings of the characters in `ranges`."""
    raw = _without(ranges, [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])
    options = [_class(raw)] if raw else []
    short = [letter for code, letter in _SHORT_ESCAPES.items() if _holds(ranges, code)]
    short += [literal(char) for char in '"\\/' if _holds(ranges, ord(char))]
    if short:
        options.append("\\x{5C}" + (f"(?:{'|'.join(short)})" if len(short) > 1 else short[0]))
    escaped = [(max(a, 0), min(b, 0x1F)) for a, b in ranges if a <= 0x1F]
    if unicode_escapes:
        escaped += [(max(a, 0x80), min(b, 0xFFFF)) for a, b in ranges if b >= 0x80 and a <= 0xFFFF]
    if escaped:
        options.append(f"\\x{{5C}}u(?:{'|'.join(_hex_range(a, b) for a, b in escaped)})")
    if unicode_escapes:
        options += [_surrogates(max(a, 0x10000) - 0x10000, b - 0x10000) for a, b in ranges if b >= 0x10000]
    return f"(?:{'|'.join(options)})" if len(options) > 1 else options[0]


def _without(ranges: Ranges, removed: list[tuple[int, int]]) -> Ranges:
    for low, high in removed:
        kept: list[tuple[int, int]] = []
        for a, b in ranges:
            if b < low or a > high:
                kept.append((a, b))
                continue
            if a < low:
                kept.append((a, low - 1))
            if b > high:
                kept.append((high + 1, b))
        ranges = tuple(kept)
    return ranges


def _holds(ranges: Ranges, code: int) -> bool:
    return any(a <= code <= b for a, b in ranges)


def _digit(low: int, high: int) -> str:
    if (low, high) == (0, 15):
        return _HEX
    chars = "".join(f"{value:x}" for value in range(low, high + 1))
    chars += "".join(f"{value:X}" for value in range(max(low, 10), high + 1))
    return chars if len(chars) == 1 else f"[{chars}]"


def _hex_range(low: int, high: int, digits: int = 4) -> str:
    """Numbers of exactly `digits` hexadecimal digits from `low` to `high`."""
    if digits == 1:
        return _digit(low, high)
    unit = 16 ** (digits - 1)
    first, last = low // unit, high // unit
    if first == last:
        return _digit(first, first) + _hex_range(low % unit, high % unit, digits - 1)
    options = []
    if low % unit:
        options.append(_digit(first, first) + _hex_range(low % unit, unit - 1, digits - 1))
        first += 1
    tail = None
    if high % unit != unit - 1:
        tail = _digit(last, last) + _hex_range(0, high % unit, digits - 1)
        last -= 1
    if first <= last:
        options.append(_digit(first, last) + f"{_HEX}{{{digits - 1}}}")
    if tail is not None:
        options.append(tail)
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def _surrogates(low: int, high: int) -> str:
    """Two \\u escapes for code points 0x10000 + low to 0x10000 + high."""

    def pairs(first: int, last: int, start: int, end: int) -> str:
        lead = _hex_range(0xD800 + first, 0xD800 + last)
        return f"\\x{{5C}}u{lead}\\x{{5C}}u{_hex_range(0xDC00 + start, 0xDC00 + end)}"

    first, last = low >> 10, high >> 10
    if first == last:
        return pairs(first, last, low & 0x3FF, high & 0x3FF)
    options = []
    if low & 0x3FF:
        options.append(pairs(first, first, low & 0x3FF, 0x3FF))
        first += 1
    tail = None
    if high & 0x3FF != 0x3FF:
        tail = pairs(last, last, 0, high & 0x3FF)
        last -= 1
    if first <= last:
        options.append(pairs(first, last, 0, 0x3FF))
    if tail is not None:
        options.append(tail)
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
