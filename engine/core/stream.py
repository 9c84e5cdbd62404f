"""The way of deltas from the engine thread to whoever waits for them: a thread or an event loop.

`Mailbox` is the engine's end, `GenerationStream` the caller's. The engine never holds the caller's end, so a stream
that is dropped is noticed: giving it up (abort, leaving its `with`, losing the last reference) frees its rows. A
mailbox holds at most one request's output, which `max_tokens` bounds.
"""

from collections.abc import Callable

from basemlx.engine.core.channel import Channel, ChannelStream
from basemlx.engine.errors import BaseMLXError
from basemlx.engine.types import OutputDelta, Timings, Usage


class Mailbox(Channel[OutputDelta]):
    """Deltas of one request and its end. One producer (the engine thread), one consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.usage = Usage()
        self.timings: Timings | None = None
        self.prompt_progress = (0, 0)

    def finish(self, usage: Usage, timings: Timings, error: BaseMLXError | None = None) -> None:
        """`end`, with what the request came to. Later calls change nothing."""
        with self._condition:
            if not self.ended:
                self.usage, self.timings = usage, timings
                self.end(error)


class GenerationStream(ChannelStream[OutputDelta]):
    """Deltas of all choices of one request, in the order they were made; ends when every choice has finished.

    Iteration raises what ended the request early (a BaseMLXError). `usage` and `timings` are set at the end.
    """

    def __init__(self, request_id: str, mailbox: Mailbox, abort: Callable[[str], None]) -> None:
        super().__init__(mailbox)
        self.request_id = request_id
        self._mailbox = mailbox
        self._abort = abort

    @property
    def usage(self) -> Usage:
        return self._mailbox.usage

    @property
    def timings(self) -> Timings | None:
        return self._mailbox.timings

    @property
    def prompt_progress(self) -> tuple[int, int]:
        """Prompt tokens that are computed, those found in the prefix cache counted, and all there are; (0, 0) while the
        request waits for its turn."""
        return self._mailbox.prompt_progress

    @property
    def ended(self) -> bool:
        return self._mailbox.ended

    def abort(self) -> None:
        if not self._mailbox.ended:
            self._abort(self.request_id)

    close = abort
