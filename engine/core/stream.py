"""The way of deltas from the engine thread to whoever waits for them: a thread or an event loop.

`Mailbox` is the engine's end, `GenerationStream` the caller's. The engine never holds the caller's end, so a stream
that is dropped is noticed: giving it up (abort, leaving its `with`, losing the last reference) frees its rows. A
mailbox holds at most one request's output, which `max_tokens` bounds.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Self

from basemlx.engine.errors import BaseMLXError
from basemlx.engine.types import OutputDelta, Timings, Usage


class Mailbox:
    """Deltas of one request and its end. One producer (the engine thread), one consumer."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.timings: Timings | None = None
        self.ended = False
        self._error: BaseMLXError | None = None
        self._deltas: deque[OutputDelta] = deque()
        self._condition = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, delta: OutputDelta) -> None:
        with self._condition:
            self._deltas.append(delta)
            self._wake()

    def end(self, usage: Usage, timings: Timings, error: BaseMLXError | None = None) -> None:
        """No more deltas will come. Later calls change nothing."""
        with self._condition:
            if self.ended:
                return
            self.usage, self.timings, self._error, self.ended = usage, timings, error, True
            self._wake()

    def take(self) -> OutputDelta | None:
        """The next delta, waiting for it; None at the end. Raises what ended the request early."""
        with self._condition:
            while not self._deltas and not self.ended:
                self._condition.wait()
            return self._next()

    async def atake(self) -> OutputDelta | None:
        """`take` for an event loop."""
        while True:
            with self._condition:
                if self._deltas or self.ended:
                    return self._next()
                self._loop = asyncio.get_running_loop()
                self._waiter = waiter = self._loop.create_future()
            await waiter

    def _next(self) -> OutputDelta | None:
        if self._deltas:
            return self._deltas.popleft()
        if self._error is not None:
            raise self._error
        return None

    def _wake(self) -> None:
        self._condition.notify_all()
        if self._loop is not None and self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            try:
                self._loop.call_soon_threadsafe(_resolve, waiter)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                self._loop = None


class GenerationStream(Iterator[OutputDelta], AsyncIterator[OutputDelta]):
    """Deltas of all choices of one request, in the order they were made; ends when every choice has finished.

    Iterate from one thread or from one event loop. Iteration raises what ended the request early (a BaseMLXError).
    `usage` and `timings` are set at the end.
    """

    def __init__(self, request_id: str, mailbox: Mailbox, abort: Callable[[str], None]) -> None:
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
    def ended(self) -> bool:
        return self._mailbox.ended

    def abort(self) -> None:
        """Gives the request up. Safe at any time, from any thread, more than once."""
        if not self._mailbox.ended:
            self._abort(self.request_id)

    close = abort

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> OutputDelta:
        delta = self._mailbox.take()
        if delta is None:
            raise StopIteration
        return delta

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OutputDelta:
        delta = await self._mailbox.atake()
        if delta is None:
            raise StopAsyncIteration
        return delta

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.abort()

    def __del__(self) -> None:
        self.abort()


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
