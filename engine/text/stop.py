"""Stop strings in a text that arrives in pieces: never leaked, never held back longer than needed.

An Aho-Corasick automaton (Aho and Corasick, 1975) walks over the text once, whatever the stop strings are. Its state is
the longest suffix of the text that begins some stop string, and exactly that is held back. The result does not
depend on how the text is split. Knows only text.
"""

from functools import lru_cache


class StopMatcher:
    """Watches one text. The stop string that is complete first wins; of two that end together, the longer.

    With no stop strings all text passes. After a hit, nothing more may be pushed.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._automaton = _automaton(stop)
        self._state = 0
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Text that is safe to show, and the stop string that ended it, if one did: neither it nor what follows is
        part of the text."""
        automaton = self._automaton
        state = self._state
        if not state and automaton.first_characters.isdisjoint(text):
            return text, None
        step = automaton.step
        for position, character in enumerate(text):
            state = step(state, character)
            hit = automaton.hits[state]
            if hit is not None:
                end = len(self._held) + position + 1
                safe = (self._held + text)[: end - len(hit)]
                self._state, self._held = 0, ""
                return safe, hit
        self._state = state
        seen = self._held + text
        safe_length = len(seen) - automaton.depths[state]
        self._held = seen[safe_length:]
        return seen[:safe_length], None

    def finish(self) -> str:
        """What was held back: the text ended, so it was no stop string."""
        held, self._held, self._state = self._held, "", 0
        return held


class _Automaton:
    """States are prefixes of stop strings, 0 the empty one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.depths = [0]
        self.hits: list[str | None] = [None]
        self._edges: list[dict[str, int]] = [{}]
        self._fallbacks = [0]
        for pattern in stop:
            self._add(pattern)
        self._link()
        self.first_characters = frozenset(self._edges[0])

    def step(self, state: int, character: str) -> int:
        """The state after one more character: amortised constant time, as each fall-back undoes a step."""
        edges = self._edges
        while character not in edges[state]:
            if not state:
                return 0
            state = self._fallbacks[state]
        return edges[state][character]

    def _add(self, pattern: str) -> None:
        state = 0
        for character in pattern:
            following = self._edges[state].get(character)
            if following is None:
                following = len(self.depths)
                self._edges[state][character] = following
                self._edges.append({})
                self.depths.append(self.depths[state] + 1)
                self.hits.append(None)
                self._fallbacks.append(0)
            state = following
        if state:
            self.hits[state] = pattern

    def _link(self) -> None:
        """Fall-backs breadth first: the longest proper suffix that is a prefix too. A state's hit is the longest stop
        string that ends there."""
        level = list(self._edges[0].values())
        while level:
            following = []
            for state in level:
                for character, child in self._edges[state].items():
                    fallback = self.step(self._fallbacks[state], character)
                    self._fallbacks[child] = fallback
                    if self.hits[child] is None:
                        self.hits[child] = self.hits[fallback]
                    following.append(child)
            level = following


@lru_cache(maxsize=8)  # the largest that a request may ask for takes a megabyte
def _automaton(stop: tuple[str, ...]) -> _Automaton:
    """Shared between the choices of a request and between requests: an automaton never changes once made."""
    return _Automaton(stop)
