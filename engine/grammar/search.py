"""Texts in which something does not occur, as a regular expression without complement.

`without(excluded)` is the automaton of Aho and Corasick ("Efficient string matching", 1975) written down by elimination
of its states. What comes out is a repetition of harmless pieces, with the beginning of an excluded text at its end at
most. In that form llguidance sees at once which tokens fit in the middle of a text; a complement it has to try on every
token of the vocabulary (1.4 ms a mask). Knows no grammar.
"""

from collections.abc import Iterable

_MAX_STATES = 200
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ ,:;<>=!@%'`~&")


def without(excluded: Iterable[str], *, to_its_end: bool = False) -> str | None:
    """Texts that hold none of `excluded`, none of which is empty. None where there are too many letters in these.

    `to_its_end`: the lexeme ends with the text. Where an excluded text has begun, no repetition of harmless pieces goes
    on at once; but without its last letter it is never completed, so texts without that may as well stand at the end.
    """
    texts = set(excluded)
    lasts = {text[-1] for text in texts}
    tail = "[^>\\x{5D}]*" if to_its_end and lasts and lasts <= set(">]") else ""
    states = {text[:length] for text in texts for length in range(len(text))} | {""}
    if len(states) > _MAX_STATES:
        return None
    letters = sorted({letter for text in texts for letter in text})
    found = {state: _Edges() for state in states if not any(text in state for text in texts)}
    for state, edges in found.items():
        named = []
        for letter in letters:
            following = _longest_suffix(state + letter, states | texts)
            if following == "":
                continue
            named.append(letter)
            if following in found:
                edges.add(following, _letter(letter))
        edges.add("", f"[^{''.join(map(_letter, named))}]" if named else "(?s:.)")
    for state in sorted(found, key=len, reverse=True):  # the empty one last
        edges = found.pop(state)
        loop = edges.loop(state)
        if not state:
            return loop + edges.end() + tail
        for others in found.values():
            into = others.take(state)
            if into is not None:
                others.through(f"{into}{loop}", edges)
    raise AssertionError("there is always the empty beginning")


class _Edges:
    """Of one state: expressions that lead to others, and to the end of the text, which may be anywhere."""

    def __init__(self) -> None:
        self._ways: dict[str, list[str]] = {}
        self._ends: list[str] = []

    def add(self, state: str, way: str) -> None:
        self._ways.setdefault(state, []).append(way)

    def take(self, state: str) -> str | None:
        """The way to `state`, no longer among the others."""
        ways = self._ways.pop(state, None)
        return None if ways is None else _either(ways)

    def loop(self, state: str) -> str:
        way = self.take(state)
        return "" if way is None else f"{_either([way])}*"

    def end(self) -> str:
        return f"(?:{'|'.join(self._ends)})?" if self._ends else ""

    def through(self, way: str, edges: "_Edges") -> None:
        """Whatever `edges` lead to can be reached by `way` and from there."""
        for state, ways in edges._ways.items():
            self.add(state, f"{way}{_either(ways)}")
        self._ends.append(f"{way}{edges.end()}")


def _either(ways: list[str]) -> str:
    return ways[0] if len(ways) == 1 and len(ways[0]) == 1 else f"(?:{'|'.join(ways)})"


def _longest_suffix(text: str, known: set[str]) -> str:
    return next((text[at:] for at in range(len(text)) if text[at:] in known), "")


def _letter(char: str) -> str:
    return char if char in _PLAIN else f"\\x{{{ord(char):X}}}"
