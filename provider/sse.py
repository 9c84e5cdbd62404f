"""Server-sent events from bytes, in whatever pieces they come. Knows no transport and no JSON."""

from basemlx.provider.errors import ServerError

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Of one event that is not complete yet: what is longer is no answer of a model."""


class EventParser:
    """`push` bytes, get the data of the events that they complete. Lines end with LF, CRLF or CR, as in the standard;
    comments and fields other than `data` are skipped."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # pieces of the line that has not ended
        self._data: list[bytes] = []
        self._num_bytes = 0
        self._ends_with_cr = False

    def push(self, piece: bytes) -> list[bytes]:
        if self._ends_with_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._ends_with_cr = piece.endswith(b"\r") if piece else self._ends_with_cr
        if b"\n" not in piece and b"\r" not in piece:
            self._rest.append(piece)
            self._num_bytes += len(piece)
            self._check_size()
            return []
        text = b"".join((*self._rest, piece))
        lines = (text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text).split(b"\n")
        self._rest = [lines.pop()]
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._data.append(value)
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        self._num_bytes = len(self._rest[0]) + sum(map(len, self._data))
        self._check_size()
        return events

    def _check_size(self) -> None:
        if self._num_bytes > MAX_EVENT_BYTES:
            raise ServerError("The server sent an event that is too large.", status=502)
