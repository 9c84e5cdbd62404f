"""Stop strings over text that comes in pieces: never shown, not even in part, and never held longer than needed.

What is held back is the longest end of the text that begins some stop string. It knows no tokens.
"""


class StopMatcher:
    """Finds the earliest occurrence of any of `stop` (the longer one where two begin at the same place)."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is safe to show, the stop string that was hit or None). After a hit nothing more is pushed."""
        self._held += text
        hits = [(at, -len(stop), stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if hits:
            at, _, stop = min(hits)
            shown, self._held = self._held[:at], ""
            return shown, stop
        keep = self._num_to_hold()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, None

    def finish(self) -> str:
        """What is still held: no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _num_to_hold(self) -> int:
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                return length
        return 0
